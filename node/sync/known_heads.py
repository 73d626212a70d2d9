"""The highest head of the network that this node may believe (docs/spec/consensus.md, section 10).

Any peer can claim any head. What health checks and wallets are told must not depend on one of them.
"""

import math
from typing import Final

import trio

from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import BlockNumber
from chain.types.validator_set import compute_max_faulty
from node.chain.executor import Executor
from node.network.peers import PeerInfo
from node.network.requests import BlockPeers
from node.network.stream import PeerId, UnreachablePeerError
from node.storage.block_store import BlockStore
from node.sync.sources import Sources

POLL_SECONDS: Final = 1.0
"""Interval of looking for heads to be proven."""

PROOF_SECONDS: Final = 5.0
"""Time limit of the answer with one header."""

REPEAT_SECONDS: Final = 10.0
"""Time between two questions to the same peer."""

ASKED_LIMIT: Final = 8
"""Peers that are asked for the header of their head at the same time."""


class KnownHeads:
    """Believes f + 1 validators, or a certificate; where neither is there, only this node."""

    def __init__(
        self, store: BlockStore, executor: Executor, network: BlockPeers, sources: Sources
    ) -> None:
        self._store = store
        self._executor = executor
        self._network = network
        self._sources = sources
        self._proven = BlockNumber(0)
        self._asked_at: dict[PeerId, float] = {}

    def get_best(self) -> BlockNumber:
        """The highest block of this node, of f + 1 validators, or of a peer that has proven it."""
        return max(self._store.head_number(), self.get_agreed() or BlockNumber(0), self._proven)

    def get_agreed(self) -> BlockNumber | None:
        """The highest head that f + 1 validators claim; None if fewer are connected.

        At least one of them is honest.
        """
        validators = self._store.next_validator_set().validators
        heads = {
            peer.validator: peer.head.number
            for peer in self._network.peers()
            if peer.validator in validators
        }
        liars = compute_max_faulty(len(validators))
        return sorted(heads.values(), reverse=True)[liars] if len(heads) > liars else None

    async def run(self) -> None:
        """Ask peers that claim more than is believed to prove it; runs for ever."""
        while True:
            async with trio.open_nursery() as nursery:
                for peer in self._list_unproven():
                    nursery.start_soon(self._ask, peer)
            await trio.sleep(POLL_SECONDS)

    def _list_unproven(self) -> list[PeerInfo]:
        """The peers to ask now: those asked longest ago, so that none keeps the others from it."""
        now = trio.current_time()
        connected = {peer.peer_id for peer in self._network.peers()}
        self._asked_at = {peer: at for peer, at in self._asked_at.items() if peer in connected}
        # One block more is on its way to this node, too.
        higher = self._sources.list_at(BlockNumber(self.get_best() + 2))
        asked_at = {peer.peer_id: self._asked_at.get(peer.peer_id, -math.inf) for peer in higher}
        due = [peer for peer in higher if now - asked_at[peer.peer_id] >= REPEAT_SECONDS]
        return sorted(due, key=lambda peer: asked_at[peer.peer_id])[:ASKED_LIMIT]

    async def _ask(self, peer: PeerInfo) -> None:
        self._asked_at[peer.peer_id] = trio.current_time()
        number, answer = peer.head.number, None
        try:
            with trio.move_on_after(PROOF_SECONDS):
                answer = await self._network.request_headers(peer.peer_id, number, 1)
            if answer is None:
                return
            if not answer:
                raise InvalidMessage(RejectionReason.FALSE_HEAD, f"block {number}")
            [(header, certificate)] = answer
            if certificate is not None and header.number == number:
                validators = self._store.next_validator_set().validators
                await trio.to_thread.run_sync(
                    self._executor.verify_certificate_of,
                    certificate,
                    number,
                    header.hash,
                    validators,
                )
                self._proven = max(self._proven, number)
                self._sources.note_delivered(peer.peer_id)
        except UnreachablePeerError:
            pass
        except RejectedInputError as error:
            # A later validator set may have decided the block, and an old head may be forgotten:
            # neither is a lie.
            if error.reason == RejectionReason.FALSE_HEAD:
                self._sources.rest(peer.peer_id, error)
