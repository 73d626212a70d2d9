"""Which validators hold a revealed gradient, for the miner (docs/spec/rpc.md, section 2).

A miner loses its bond if validators do not get its gradient in time, so it asks, and pushes the
gradient again until enough of them hold it.
"""

from typing import Final

import trio

from chain.primitives import Address, Hash32
from chain.training.attempt import AttemptId
from node.network.requests import PeerRequests
from node.network.stream import PeerId
from node.storage.blobs import BlobStore
from node.training.reveal_store import RevealStore

ASK_SECONDS: Final = 2.0
"""How long a validator may take to say whether it holds a gradient."""

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

    async def find(self, attempt_id: AttemptId, miner: Address) -> tuple[Address, ...]:
        """The validators that hold the complete gradient of a miner, by ascending address.

        Empty if this node does not know the reveal: only gradients that open a commitment are
        asked for.
        """
        reveal = await trio.to_thread.run_sync(self._reveals.get, attempt_id, miner)
        if reveal is None:
            return ()
        holders: set[Address] = set()
        if self._own_validator is not None and self._blobs.has(reveal.gradient_root):
            holders.add(self._own_validator)

        async def ask(peer_id: PeerId, validator: Address, root: Hash32) -> None:
            if await self._requests.has_blob(peer_id, root):
                holders.add(validator)

        async with self._turns:
            with trio.move_on_after(ASK_SECONDS):
                async with trio.open_nursery() as nursery:
                    for peer in self._requests.peers():
                        if peer.validator is not None:
                            nursery.start_soon(
                                ask, peer.peer_id, peer.validator, reveal.gradient_root
                            )
        return tuple(sorted(holders))
