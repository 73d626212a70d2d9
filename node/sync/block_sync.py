"""Block sync: a late node fetches and executes blocks (docs/spec/consensus.md, section 10).

A block is believed for its certificate, never for its sender; one that does not verify costs its
sender points and is asked of the next peer.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
import trio

from chain.errors import RejectedInputError
from chain.primitives import BlockNumber
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.executor import Executor, validate_body
from node.network.peers import PeerInfo
from node.network.stream import PeerId, UnreachablePeerError
from node.network.wire import BLOCK_REQUEST_LIMIT
from node.storage.block_store import BlockStore

POLL_SECONDS: Final = 0.2
"""How often peers' heads are looked at; they are told with every ping."""

PATIENCE_SECONDS: Final = 2.0
"""One block behind is normal while consensus is at it; after so long it is fetched."""

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

    def best_known(self) -> BlockNumber:
        """The highest head among peers and ourselves."""
        heads = [peer.head.number for peer in self._network.peers()]
        return BlockNumber(max([self._store.head_number(), *heads]))

    async def run(self) -> None:
        """Catch up whenever peers are ahead, until cancelled."""
        while True:
            if self._is_due():
                for peer in self._list_sources():
                    if await self._fetch_from(peer.peer_id):
                        break
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
        """Peers that are ahead, the fastest answering first."""
        head = self._store.head_number()
        ahead = [peer for peer in self._network.peers() if peer.head.number > head]
        return sorted(ahead, key=lambda peer: (peer.latency_seconds or 1.0, peer.peer_id))

    async def _fetch_from(self, peer_id: PeerId) -> bool:
        """Fetch and finalize what a peer has; whether it brought us on."""
        first = BlockNumber(self._store.head_number() + 1)
        try:
            certified = await self._network.request_blocks(peer_id, first, BLOCK_REQUEST_LIMIT)
        except (UnreachablePeerError, RejectedInputError):
            return False
        for block, certificate in certified:
            if block.number <= self._store.head_number():
                continue  # consensus was faster
            try:
                await trio.to_thread.run_sync(validate_body, block)
                self._executor.verify_certificate(certificate, block.number, block.hash)
            except RejectedInputError as error:
                self._network.report_fault(peer_id, error)
                return False
            await self._finalize(block, certificate)
        if certified:
            _log.info("synced", head=self._store.head_number(), peer=peer_id)
        return bool(certified)
