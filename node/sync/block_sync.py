"""Block sync: a late node fetches and executes blocks (docs/spec/consensus.md, section 10).

Several peers are asked for different ranges at a time; while one range is executed, the next are
fetched and verified. A block is believed for its certificate, never for its sender; a peer whose
blocks do not verify, or who does not give what it says it has, is left alone for a while.
"""

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Final, Protocol

import structlog
import trio

from chain.errors import InvalidBlock, InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import BlockNumber
from chain.types.block import Block
from chain.types.certificate import CERTIFICATE_LIMIT_BYTES, CommitCertificate
from node.executor import Executor, validate_body
from node.network.peers import PeerInfo
from node.network.stream import PeerId, UnreachablePeerError
from node.network.wire import BLOCK_FRAME_LIMIT_BYTES, BLOCKS_LIMIT_BYTES
from node.storage.block_store import BlockStore
from node.sync.ranges import Batch, BlockRange, RangePlan

POLL_SECONDS: Final = 0.2
"""How often peers' heads are looked at; they are told with every ping."""

PATIENCE_SECONDS: Final = 2.0
"""One block behind is normal while consensus is at it; after so long it is fetched."""

SOURCES_LIMIT: Final = 8
"""Peers asked at a time: more only share the same line."""

ANSWER_SECONDS: Final = 20.0
"""The longest that a range may take, even if nobody else is there to ask: 0.4 MB/s."""

REST_SECONDS: Final = 60.0
"""How long a peer that failed sync is not asked again."""

ABSENT_REST_SECONDS: Final = 2.0
"""The same for one that could not be reached: a connection is soon back."""

CERTIFIED_OVERHEAD_BYTES: Final = CERTIFICATE_LIMIT_BYTES + 64
"""What a frame of an answer holds at most besides its block."""

_log = structlog.get_logger("node.sync")


class SyncNetwork(Protocol):
    """What sync asks of the network."""

    def peers(self) -> tuple[PeerInfo, ...]:
        """The connected peers."""

    async def request_blocks(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        """Blocks of a peer from a number on."""

    def report_fault(self, peer_id: PeerId, error: RejectedInputError) -> None:
        """Take points off a peer."""


class BlockSync:
    """Follows the highest head that peers tell of."""

    def __init__(
        self,
        *,
        store: BlockStore,
        executor: Executor,
        network: SyncNetwork,
        finalize: Callable[[Block, CommitCertificate], Awaitable[None]],
        is_validator: bool,
    ) -> None:
        self._store = store
        self._executor = executor
        self._network = network
        self._finalize = finalize
        self._patience = PATIENCE_SECONDS if is_validator else 0.0
        self._behind_since: tuple[BlockNumber, float] | None = None
        self._resting: dict[PeerId, float] = {}
        """Peers that are not asked, and until when."""
        self._workers: dict[PeerId, trio.CancelScope] = {}
        self._changed = trio.Event()

    def best_known(self) -> BlockNumber:
        """The highest head among ourselves and the peers that sync has no complaint of."""
        heads = [peer.head.number for peer in self._list_sources()]
        return BlockNumber(max([self._store.head_number(), *heads]))

    async def run(self) -> None:
        """Catch up whenever peers are ahead, until cancelled."""
        while True:
            if self._is_due():
                await self._catch_up()
            await trio.sleep(POLL_SECONDS)

    def _is_due(self) -> bool:
        head, best = self._store.head_number(), self.best_known()
        if best <= head:
            self._behind_since = None
            return False
        if best > head + 1:
            return True
        now = trio.current_time()
        if self._behind_since is None or self._behind_since[0] != head:
            self._behind_since = (head, now)
        return now - self._behind_since[1] >= self._patience

    def _list_sources(self) -> list[PeerInfo]:
        """The peers to ask, the best first: ahead of us, and not resting."""
        now = trio.current_time()
        self._resting = {peer: until for peer, until in self._resting.items() if until > now}
        head = self._store.head_number()
        ahead = [
            peer
            for peer in self._network.peers()
            if peer.head.number > head and peer.peer_id not in self._resting
        ]
        # Validators first: strangers may come in any number, to take all places and be slow.
        return sorted(
            ahead,
            key=lambda peer: (
                peer.validator is None,
                peer.latency_seconds or 1.0,
                peer.peer_id,
            ),
        )

    async def _catch_up(self) -> None:
        """Fetch and finalize until no source is ahead."""
        head = self._store.head_number()
        plan = RangePlan(BlockNumber(head + 1))
        async with trio.open_nursery() as nursery:
            while self._is_due():
                for peer in self._list_sources():
                    if peer.peer_id not in self._workers and len(self._workers) < SOURCES_LIMIT:
                        scope = self._workers[peer.peer_id] = trio.CancelScope()
                        nursery.start_soon(self._work, peer.peer_id, plan, scope)
                batch = plan.pop_next(self._store.head_number())
                if batch is None:
                    self._changed = trio.Event()
                    with trio.move_on_after(POLL_SECONDS):
                        await self._changed.wait()
                    continue
                for block, certificate in batch.certified:
                    await self._finalize(block, certificate)
            nursery.cancel_scope.cancel()
        self._workers.clear()
        if self._store.head_number() > head:
            _log.info("synced", first=head + 1, head=self._store.head_number())

    async def _work(self, peer_id: PeerId, plan: RangePlan, scope: trio.CancelScope) -> None:
        """Ask one peer for range after range, as long as it is a source."""
        with scope:
            while (peer_head := self._get_head(peer_id)) is not None:
                head = self._store.head_number()
                asked = plan.take(peer_id, peer_head, head, trio.current_time())
                if asked is None:
                    await trio.sleep(POLL_SECONDS)
                    continue
                try:
                    batch = await self._fetch(peer_id, asked)
                except UnreachablePeerError:
                    self._rest(peer_id, ABSENT_REST_SECONDS)
                except RejectedInputError as error:
                    self._rest(peer_id, REST_SECONDS, error)
                else:
                    for slower in plan.put(asked, batch) or ():
                        self._rest(slower, REST_SECONDS, self._report_slow(slower, asked))
                finally:
                    plan.give_back(asked, peer_id)
                    self._changed.set()
        self._workers.pop(peer_id, None)

    def _get_head(self, peer_id: PeerId) -> BlockNumber | None:
        """The head of a source; None if it is one no more."""
        heads = (peer.head.number for peer in self._list_sources() if peer.peer_id == peer_id)
        return next(heads, None)

    def _rest(
        self, peer_id: PeerId, seconds: float, error: RejectedInputError | None = None
    ) -> None:
        self._resting[peer_id] = trio.current_time() + seconds
        scope = self._workers.get(peer_id)
        if scope is not None:
            scope.cancel()
        if error is not None:
            _log.warning("peer is not synced from", peer=peer_id, reason=str(error))

    def _report_slow(self, peer_id: PeerId, asked: BlockRange) -> InvalidMessage:
        error = InvalidMessage(RejectionReason.TOO_SLOW, f"blocks {asked.first} to {asked.last}")
        self._network.report_fault(peer_id, error)
        return error

    async def _fetch(self, peer_id: PeerId, asked: BlockRange) -> Batch:
        """The blocks of a range, or the first of them: verified, but not executed.

        Raises:
            UnreachablePeerError: no connection, or it broke.
            RejectedInputError: the peer lies or is slow; it has been reported.
        """
        certified = None
        with trio.move_on_after(ANSWER_SECONDS):
            certified = await self._network.request_blocks(peer_id, asked.first, asked.count)
        if certified is None:
            raise self._report_slow(peer_id, asked)
        try:
            return await trio.to_thread.run_sync(self._verify, peer_id, asked, certified)
        except RejectedInputError as error:
            self._network.report_fault(peer_id, error)
            raise

    def _verify(
        self,
        peer_id: PeerId,
        asked: BlockRange,
        answer: tuple[tuple[Block, CommitCertificate], ...],
    ) -> Batch:
        if len(answer) < asked.count:
            # Who serves stops only where the next block, of at most half an answer, has no room.
            size_bytes = sum(len(block.encode()) + CERTIFIED_OVERHEAD_BYTES for block, _ in answer)
            if size_bytes <= BLOCKS_LIMIT_BYTES - BLOCK_FRAME_LIMIT_BYTES:
                detail = f"{len(answer)} of blocks {asked.first} to {asked.last}"
                raise InvalidMessage(RejectionReason.FALSE_HEAD, detail)
        if not answer or answer[0][0].number != asked.first or len(answer) > asked.count:
            raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "other blocks than asked for")
        certified: list[tuple[Block, CommitCertificate]] = []
        for (parent, _), (child, _) in pairwise(answer):
            if child.number != parent.number + 1 or child.header.parent_hash != parent.hash:
                raise InvalidBlock(RejectionReason.UNKNOWN_PARENT, f"block {child.number}")
            if child.parent_certificate is None:
                raise InvalidBlock(RejectionReason.BAD_CERTIFICATE, f"none in block {child.number}")
            # It is verified with the child's other rules; the last one's vouches for its bytes.
            certified.append((parent, child.parent_certificate))
        for block, _ in answer:
            validate_body(block)
        last, certificate = answer[-1]
        self._executor.verify_certificate(certificate, last.number, last.hash)
        return Batch(peer_id, (*certified, (last, certificate)))
