"""Which validators hold a revealed gradient, for the miner (docs/spec/rpc.md, section 2).

A miner loses its bond if validators do not get its gradient in time, so it asks, and pushes the
gradient again until enough of them hold it.
"""

from typing import Final

import trio
from cachetools import FIFOCache

from chain.primitives import Address, Hash32
from chain.training.attempt import AttemptId
from node.network.requests import PeerRequests
from node.network.stream import PeerId
from node.storage.blobs import BlobStore
from node.training.reveal_store import RevealStore

ASK_SECONDS: Final = 2.0
"""How long a validator may take to say whether it holds a gradient."""

FRESH_SECONDS: Final = 0.5
"""For so long an answer is given again without asking: many may ask for one gradient."""

FIND_SECONDS: Final = 4.0
"""The longest search, with the wait for a turn. An RPC process waits longer for an answer, so a
question ends before its caller gives up and asks again."""

REMEMBERED_LIMIT: Final = 2_048
"""The most answers that are remembered: the gradients of two rounds with the most miners."""

QUESTIONS_LIMIT: Final = 8
"""The most gradients that validators are asked about at a time. Further ones wait."""


class RevealHolders:
    """Asks the connected validators whether they hold a gradient."""

    def __init__(
        self,
        reveals: RevealStore,
        blobs: BlobStore,
        requests: PeerRequests,
        own_validator: Address | None,
    ) -> None:
        self._reveals = reveals
        self._blobs = blobs
        self._requests = requests
        self._own_validator = own_validator
        self._turns = trio.CapacityLimiter(QUESTIONS_LIMIT)
        self._answers: FIFOCache[Hash32, tuple[float, tuple[Address, ...]]] = FIFOCache(
            REMEMBERED_LIMIT
        )
        """By content id: when validators had answered, and which hold the gradient."""

    async def find(self, attempt_id: AttemptId, miner: Address) -> tuple[Address, ...]:
        """The validators that hold the complete gradient of a miner, by ascending address.

        Empty if this node does not know the reveal: only gradients that open a commitment are
        asked for. If there is no turn in time, the answer is the last one, or empty.
        """
        reveal = await trio.to_thread.run_sync(self._reveals.get, attempt_id, miner)
        if reveal is None:
            return ()
        root = reveal.gradient_root
        with trio.move_on_after(FIND_SECONDS):
            if not self._is_fresh(root):
                async with self._turns:
                    if not self._is_fresh(root):
                        holders = await self._ask(root)
                        self._answers[root] = trio.current_time(), holders
        known = self._answers.get(root)
        return () if known is None else known[1]

    def _is_fresh(self, root: Hash32) -> bool:
        known = self._answers.get(root)
        return known is not None and trio.current_time() <= known[0] + FRESH_SECONDS

    async def _ask(self, root: Hash32) -> tuple[Address, ...]:
        holders: set[Address] = set()
        if self._own_validator is not None and self._blobs.has(root):
            holders.add(self._own_validator)

        async def ask(peer_id: PeerId, validator: Address) -> None:
            if await self._requests.has_blob(peer_id, root):
                holders.add(validator)

        with trio.move_on_after(ASK_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in self._requests.peers():
                    if peer.validator is not None:
                        nursery.start_soon(ask, peer.peer_id, peer.validator)
        return tuple(sorted(holders))
