"""Finds the pivot of a snapshot: a final block far ahead (docs/spec/consensus.md, section 10).

A claimed head decides nothing. A peer proves that its block is final, across all changes of the
validator set; others are asked beside it, so that one that lies or is slow delays no other.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from chain.contracts.set_reader import read_next_set
from chain.errors import RejectionReason
from chain.primitives import Address, BlockNumber, Hash32
from chain.state import trie
from chain.types.header import Header
from node.chain.executor import Executor
from node.network.requests import SnapshotPeers
from node.network.slow_peers import SlowPeers, ask_until_answered
from node.network.stream import PeerId
from node.storage.block_store import BlockStore
from node.storage.database import Database
from node.storage.snapshot_progress import Pivot, SnapshotProgress
from node.sync.set_search import Certified, SetSearch
from node.sync.sources import Sources, UnfitError

SEARCH_SECONDS: Final = 120.0
"""Time limit of a search. In it, peers may prove several changes of the validator set; each takes
some twenty answers."""

_PROOF: Final = "the proof of a pivot"

_log = structlog.get_logger("node.sync")

_Answer = TypeVar("_Answer")


class PivotSearch:
    """Asks peers for a recent block that they prove to be final."""

    def __init__(
        self,
        *,
        store: BlockStore,
        database: Database,
        executor: Executor,
        network: SnapshotPeers,
        sources: Sources,
        chain_id: int,
        checkpoint: Hash32 | None,
    ) -> None:
        """Create it.

        Args:
            store: The stored chain.
            database: Receives the nodes of states that name validators.
            executor: Verifies certificates.
            network: The peers.
            sources: Those of them that did not fail lately.
            chain_id: The network's chain id.
            checkpoint: The hash of a block that the operator trusts; only this can be the pivot.
        """
        self._store = store
        self._database = database
        self._executor = executor
        self._network = network
        self._sources = sources
        self._chain_id = chain_id
        self._checkpoint = checkpoint
        self._progress = SnapshotProgress(database)
        self._slow_peers = SlowPeers()

    async def find(self, least: BlockNumber, lag_blocks: int) -> Pivot | None:
        """The pivot that a peer proves; None if no peer proves one.

        Args:
            least: Peers with a lower head are not asked. It is above `lag_blocks`.
            lag_blocks: How far the pivot is below the peer's head.

        Raises:
            StorageError: The disk refused.
        """
        # A peer's claim is read once: it may be another one when the peer is asked.
        pivots = {
            peer.peer_id: BlockNumber(peer.head.number - lag_blocks)
            for peer in self._sources.list_at(least)
        }
        with trio.move_on_after(SEARCH_SECONDS):
            return await ask_until_answered(
                list(pivots),
                lambda peer_id: self._prove(peer_id, pivots[peer_id]),
                self._slow_peers,
            )
        return None

    async def _prove(self, peer_id: PeerId, number: BlockNumber) -> Pivot | None:
        """The pivot of one peer; None if it does not prove that the block is final."""
        ask = partial(self._ask_pivot, number)
        pivot = await self._sources.ask(peer_id, ask, _PROOF)
        if pivot is None or not await self._is_proven(peer_id, pivot):
            return None
        self._sources.note_delivered(peer_id)
        return pivot

    async def _ask_pivot(self, number: BlockNumber, peer_id: PeerId) -> Pivot | None:
        checkpoint = self._checkpoint
        if checkpoint is not None and self._store.number_of(checkpoint) is None:
            block = await self._network.request_block_by_hash(peer_id, checkpoint)
            if block is None:
                return None
            number = block.number
        answer = await self._network.request_headers(peer_id, number, 1)
        for header, certificate in answer:
            return None if certificate is None else Pivot(header, certificate)
        raise UnfitError(RejectionReason.FALSE_HEAD, f"block {number}")

    async def _is_proven(self, peer_id: PeerId, pivot: Pivot) -> bool:
        """Whether the peer proves that the pivot is final; if not, the peer rests."""
        header = pivot.header
        if header.hash == self._checkpoint:
            return True  # the operator trusts it; its own state tells the validators

        async def fetch(number: BlockNumber) -> Certified | None:
            return await self._sources.ask(peer_id, self._bind_certified(number), _PROOF)

        async def fetch_node(node_hash: Hash32) -> None:
            # This peer alone is asked: others must not answer for its claims.
            nodes = await self._sources.ask(
                peer_id, lambda peer: self._network.request_state_nodes(peer, [node_hash]), _PROOF
            )
            if not nodes:
                raise _UnprovenError
            await trio.to_thread.run_sync(self._progress.save_nodes, nodes)

        async def read_next(
            last: Header, validators: tuple[Address, ...]
        ) -> tuple[Address, ...] | None:
            found = await read_with_nodes(
                lambda: read_next_set(self._database, last, self._chain_id, validators),
                fetch_node,
            )
            return None if found is None else found.validators

        verify = self._executor.verify_certificate_of
        search = SetSearch(verify=verify, fetch=fetch, read_next=read_next)
        target = (header, pivot.certificate)
        validators = self._store.next_validator_set().validators
        try:
            if await search.is_final(target, self._store.head_number(), validators):
                return True
        except _UnprovenError:
            pass
        # The peer lies, or lacks the headers or states since a change of the validator set.
        _log.info("peer did not prove the pivot block", peer=peer_id, number=header.number)
        self._sources.rest(peer_id)
        return False

    def _bind_certified(
        self, number: BlockNumber
    ) -> Callable[[PeerId], Awaitable[Certified | None]]:
        async def ask(peer_id: PeerId) -> Certified | None:
            for header, certificate in await self._network.request_headers(peer_id, number, 1):
                return None if certificate is None else (header, certificate)
            return None

        return ask


async def read_with_nodes(
    read: Callable[[], _Answer], fetch: Callable[[Hash32], Awaitable[None]]
) -> _Answer:
    """The result of `read`, after fetching and storing each trie node that it lacks."""
    while True:
        try:
            return await trio.to_thread.run_sync(read)
        except trie.MissingTrieNodeError as error:
            await fetch(Hash32(error.node_hash))


class _UnprovenError(Exception):
    """A peer lacks part of a state, so it does not prove which validators came next."""
