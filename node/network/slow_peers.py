"""Which peers let this node wait, and a question to many that waits for none of them alone."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio
from cachetools import FIFOCache

from node.network.stream import PeerId

PATIENCE_SECONDS: Final = 2.0
"""How long a peer may take for one answer before another peer is asked the same beside it: several
times a round trip around the world."""

SLOW_SECONDS: Final = 60.0
"""How long a peer that took longer than PATIENCE_SECONDS is asked last."""

SLOW_LIMIT: Final = 1_024
"""The most peers that are remembered as slow. The one noted first is forgotten first."""

ASKED_LIMIT: Final = 16
"""Peers that are asked one question at a time, besides those that were too slow."""

_Answer = TypeVar("_Answer")


class SlowPeers:
    """The peers that lately let this node wait; they are asked last."""

    def __init__(self) -> None:
        self._until: FIFOCache[PeerId, float] = FIFOCache(SLOW_LIMIT)

    def add(self, peer_id: PeerId) -> None:
        """Ask the peer last for SLOW_SECONDS."""
        self._until.pop(peer_id, None)
        self._until[peer_id] = trio.current_time() + SLOW_SECONDS

    def has(self, peer_id: PeerId) -> bool:
        """Whether the peer is to be asked last."""
        return trio.current_time() < self._until.get(peer_id, 0.0)

    def sort(self, peers: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """The same peers, the slow ones last."""
        return tuple(sorted(peers, key=self.has))


async def ask_until_answered(
    peers: Sequence[PeerId],
    ask: Callable[[PeerId], Awaitable[_Answer | None]],
    slow_peers: SlowPeers,
) -> _Answer | None:
    """The first answer of any of these peers; None if none gives one.

    ASKED_LIMIT of them are asked at a time. One that takes longer than PATIENCE_SECONDS does not
    count, so another is asked beside it.

    Args:
        peers: the peers, the first ones preferred.
        ask: asks one peer; None is no answer.
        slow_peers: is told of peers that let this node wait.
    """
    found: list[_Answer] = []
    places = trio.Semaphore(ASKED_LIMIT)
    async with trio.open_nursery() as nursery:

        async def free_place(peer_id: PeerId, done: trio.Event) -> None:
            with trio.move_on_after(PATIENCE_SECONDS):
                await done.wait()
            if not done.is_set():
                slow_peers.add(peer_id)
            places.release()

        async def run(peer_id: PeerId) -> None:
            done = trio.Event()
            nursery.start_soon(free_place, peer_id, done)
            answer = await ask(peer_id)
            done.set()
            if answer is not None:
                found.append(answer)
                nursery.cancel_scope.cancel()

        for peer_id in peers:
            await places.acquire()
            nursery.start_soon(run, peer_id)
    return found[0] if found else None
