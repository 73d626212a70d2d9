"""Block sync: a late node fetches and executes blocks (docs/spec/consensus.md, section 10).

It requests ranges of blocks from several peers at the same time. While one range is executed, the
next ones are fetched and verified. A block is accepted because of its certificate, from any sender.
A peer that sends bad blocks, or does not serve what it announced, is not asked for a while.

Any peer may claim any head and then be silent. So a claim makes this node ask that peer, and no
more: blocks go on while a snapshot is looked for, and trusted peers wait for no other.
"""

from itertools import pairwise
from typing import Final

import structlog
import trio

from chain.errors import InvalidBlock, InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import Address, BlockNumber
from chain.types.block import Block
from chain.types.certificate import CERTIFICATE_LIMIT_BYTES, CommitCertificate
from node.chain.executor import Executor
from node.chain.finalizer import Finalizer
from node.network.peers import PeerInfo
from node.network.requests import BlockPeers
from node.network.stream import PeerId, UnreachablePeerError
from node.network.wire import BLOCK_FRAME_LIMIT_BYTES, BLOCKS_LIMIT_BYTES
from node.storage.block_store import BlockStore
from node.sync.known_heads import KnownHeads
from node.sync.ranges import RANGE_BLOCKS, Batch, BlockRange, RangePlan
from node.sync.snapshot_sync import SnapshotSync
from node.sync.sources import ANSWER_SECONDS, Sources
from node.sync.workers import Worker, Workers

POLL_SECONDS: Final = 0.2
"""Interval at which the heads of peers are compared with ours; peers report them with each ping."""

PATIENCE_SECONDS: Final = 2.0
"""A validator that is one block behind waits this long for consensus before it fetches the
block."""

TRUST_SECONDS: Final = 10.0
"""When no block became final for this long although a peer claims one, all peers are asked alike.
That is twice the default interval of empty blocks."""

CERTIFIED_OVERHEAD_BYTES: Final = CERTIFICATE_LIMIT_BYTES + 64
"""Bytes that the frame of a block adds to it at most."""

_log = structlog.get_logger("node.sync")


class BlockSync:
    """Follows the heads that peers report."""

    def __init__(
        self,
        *,
        store: BlockStore,
        executor: Executor,
        network: BlockPeers,
        finalizer: Finalizer,
        own_validator: Address | None,
        snapshot: SnapshotSync | None = None,
    ) -> None:
        """Create it; it does nothing before `run`.

        Args:
            store: The stored chain.
            executor: Verifies certificates.
            network: The peers.
            finalizer: Executes a block and makes it the head.
            own_validator: The validator of this node. While it is in the validator set, consensus
                brings most blocks.
            snapshot: Used beside blocks while the node is too far behind.
        """
        self._store = store
        self._executor = executor
        self._network = network
        self._sources = Sources(network, store)
        self._known = KnownHeads(store, executor, network, self._sources)
        self._finalizer = finalizer
        self._snapshot = snapshot
        self._own_validator = own_validator
        self._behind_since: tuple[BlockNumber, float] | None = None
        self._workers = Workers()
        self._finalized_at = 0.0
        """When a block became final last, as far as this was seen here."""
        self._finalized_head = BlockNumber(0)
        self._changed = trio.Event()

    def best_known(self) -> BlockNumber:
        """The highest head that this node may believe: its own, or a proven or agreed one."""
        return self._known.get_best()

    async def run(self) -> None:
        """Catch up whenever peers are ahead; runs until it is cancelled."""
        self._finalized_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._known.run)
            if self._snapshot is not None:
                nursery.start_soon(self._join_by_snapshot, self._snapshot)
            while True:
                if self._is_due():
                    await self._catch_up()
                await trio.sleep(POLL_SECONDS)

    async def _join_by_snapshot(self, snapshot: SnapshotSync) -> None:
        """Join by snapshot whenever that would be faster; nothing here waits for it."""
        while True:
            if snapshot.is_wanted(self._store.head_number(), self._get_highest_claim()):
                await snapshot.join()
            await trio.sleep(POLL_SECONDS)

    def _get_highest_claim(self) -> BlockNumber:
        """The highest head of this node and of the peers that are not resting."""
        heads = [peer.head.number for peer in self._list_sources()]
        return BlockNumber(max([self._store.head_number(), *heads]))

    def _is_due(self) -> bool:
        head, best = self._store.head_number(), self._get_highest_claim()
        if head != self._finalized_head:
            self._finalized_head, self._finalized_at = head, trio.current_time()
        if self._snapshot is not None and self._snapshot.is_waited_for(head, best):
            return False
        if best <= head:
            self._behind_since = None
            return False
        if best > head + 1:
            return True
        now = trio.current_time()
        if self._behind_since is None or self._behind_since[0] != head:
            self._behind_since = (head, now)
        is_deciding = self._own_validator in self._store.next_validator_set().validators
        return now - self._behind_since[1] >= (PATIENCE_SECONDS if is_deciding else 0)

    def _list_sources(self) -> list[PeerInfo]:
        return self._sources.list_at(BlockNumber(self._store.head_number() + 1))

    async def _catch_up(self) -> None:
        """Fetch and finalize until no source is ahead."""
        head = self._store.head_number()
        plan = RangePlan(BlockNumber(head + 1))
        async with trio.open_nursery() as nursery:
            while self._is_due():
                for slow in self._workers.list_surplus(trio.current_time()):
                    self._report_slow(slow, "blocks")
                trusted = self._sources.list_trusted()
                for peer in self._list_sources():
                    worker = self._workers.begin(
                        peer.peer_id,
                        is_preferred=not trusted or peer in trusted,
                        now=trio.current_time(),
                    )
                    if worker is not None:
                        nursery.start_soon(self._work, peer.peer_id, plan, worker)
                batch = plan.pop_next(self._store.head_number())
                if batch is None:
                    self._changed = trio.Event()
                    with trio.move_on_after(POLL_SECONDS):
                        await self._changed.wait()
                    continue
                await self._finalize_batch(batch, plan)
            nursery.cancel_scope.cancel()
        self._workers.clear()
        if self._store.head_number() > head:
            _log.info("blocks synced", first=head + 1, head=self._store.head_number())

    async def _finalize_batch(self, batch: Batch, plan: RangePlan) -> None:
        """Finalize the blocks of a batch, after verifying each block's certificate.

        Certificates are verified only here, because an earlier block may change the validator set.
        """
        for block, certificate in batch.certified:
            if block.number <= self._store.head_number():
                continue  # consensus has finalized it already
            try:
                await trio.to_thread.run_sync(
                    self._executor.verify_certificate, certificate, block.number, block.hash
                )
            except RejectedInputError as error:
                self._sources.report(batch.peer_id, error)
                plan.reopen(BlockRange(block.number, batch.range.last))
                return
            self._sources.note_delivered(batch.peer_id)
            await self._finalizer.finalize(block, certificate)

    async def _work(self, peer_id: PeerId, plan: RangePlan, worker: Worker) -> None:
        """Request ranges from one peer, one after another, as long as it is a source."""
        with worker.scope:
            while (peer := self._sources.find(peer_id)) is not None:
                head = self._store.head_number()
                if peer.head.number <= head:
                    break
                asked = self._take(peer, plan, head)
                if asked is None:
                    await trio.sleep(POLL_SECONDS)
                    continue
                worker.asked_at = trio.current_time()
                try:
                    batch = await self._fetch(peer_id, asked)
                    for slower in () if batch is None else plan.put(asked, batch) or ():
                        self._report_slow(slower, str(asked))
                except UnreachablePeerError:
                    self._sources.rest(peer_id)
                finally:
                    worker.asked_at = None
                    plan.give_back(asked, peer_id)
                    self._changed.set()
        self._workers.end(peer_id, worker)

    def _take(self, peer: PeerInfo, plan: RangePlan, head: BlockNumber) -> BlockRange | None:
        """The range to request from a peer, as far as its claim may be believed."""
        claim, now = peer.head.number, trio.current_time()
        trusted = self._sources.list_trusted()
        # Trusted peers may be false, too, and hide blocks.
        is_stuck = now - self._finalized_at >= TRUST_SECONDS
        if not trusted or peer in trusted or is_stuck:
            return plan.take(peer.peer_id, claim, head, now)
        limit = self._known.get_best()
        if self._known.get_agreed() is None:
            limit = max(limit, *(each.head.number for each in trusted))
        # If it is late, others have the time in which a range is executed.
        least = BlockNumber(head + 1 + RANGE_BLOCKS)
        return plan.take(peer.peer_id, BlockNumber(min(claim, limit)), head, now, least)

    def _report_slow(self, peer_id: PeerId, wanted: str) -> None:
        self._sources.report_slow(peer_id, wanted)
        self._workers.stop(peer_id)

    async def _fetch(self, peer_id: PeerId, asked: BlockRange) -> Batch | None:
        """The blocks of a range, or the first of them, verified but not executed.

        None if the peer sent bad blocks or was too slow; it is then not asked for a while.

        Raises:
            UnreachablePeerError: There is no connection, or it broke.
        """
        answer = None
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                answer = await self._network.request_blocks(peer_id, asked.first, asked.count)
        except RejectedInputError as error:
            self._sources.rest(peer_id, error)
            return None
        if answer is None:
            self._sources.report_slow(peer_id, str(asked))
            return None
        try:
            return await trio.to_thread.run_sync(self._verify, peer_id, asked, answer)
        except RejectedInputError as error:
            self._sources.report(peer_id, error)
            return None

    def _verify(
        self,
        peer_id: PeerId,
        asked: BlockRange,
        answer: tuple[tuple[Block, CommitCertificate], ...],
    ) -> Batch:
        if len(answer) < asked.count:
            # An honest server ends early only if the next block would not fit. A block takes at
            # most half an answer, so a smaller answer that ends early is a false claim.
            size_bytes = sum(len(block.encode()) + CERTIFIED_OVERHEAD_BYTES for block, _ in answer)
            if size_bytes <= BLOCKS_LIMIT_BYTES - BLOCK_FRAME_LIMIT_BYTES:
                detail = f"{len(answer)} of {asked}"
                raise InvalidMessage(RejectionReason.FALSE_HEAD, detail)
        if not answer or answer[0][0].number != asked.first or len(answer) > asked.count:
            raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "other blocks than asked for")
        certified: list[tuple[Block, CommitCertificate]] = []
        for (parent, _), (child, _) in pairwise(answer):
            if child.number != parent.number + 1 or child.header.parent_hash != parent.hash:
                raise InvalidBlock(RejectionReason.UNKNOWN_PARENT, f"block {child.number}")
            if child.parent_certificate is None:
                raise InvalidBlock(RejectionReason.BAD_CERTIFICATE, f"none in block {child.number}")
            certified.append((parent, child.parent_certificate))
        for block, _ in answer:
            self._executor.validate_body(block)
        return Batch(peer_id, (*certified, answer[-1]))
