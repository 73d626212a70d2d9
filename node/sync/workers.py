"""The peers that sync asks at the same time (docs/spec/consensus.md, section 10).

Peers that no stake and no block speak for have places of their own, and one that lets this node
wait keeps no place from others. So any number of them delays nobody for long.
"""

from dataclasses import dataclass, field
from typing import Final

import trio

from node.network.stream import PeerId

PREFERRED_LIMIT: Final = 8
"""Places for validators and for peers that have delivered, or for all while there are none of
these; more would only share the same bandwidth."""

OTHERS_LIMIT: Final = 4
"""Places for all other peers."""

LATE_SECONDS: Final = 3.0
"""A peer that has not answered for this long takes no place."""

LATE_LIMIT: Final = 4
"""Limit of late peers that are still waited for. With the places, and at most BLOCKS_LIMIT_BYTES
each, answers in progress take 128 MiB."""


@dataclass(slots=True)
class Worker:
    """The work with one peer."""

    is_preferred: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    asked_at: float | None = None
    """When the peer was asked what it has not answered yet; None while nothing is asked."""

    def is_late(self, now: float) -> bool:
        """Whether the peer lets this node wait."""
        return self.asked_at is not None and now - self.asked_at >= LATE_SECONDS


class Workers:
    """The peers that are being asked."""

    def __init__(self) -> None:
        self._workers: dict[PeerId, Worker] = {}

    def begin(self, peer_id: PeerId, *, is_preferred: bool, now: float) -> Worker | None:
        """A place for a peer; None if it has one already, or if there is none for its kind."""
        limit = PREFERRED_LIMIT if is_preferred else OTHERS_LIMIT
        same = (each for each in self._workers.values() if each.is_preferred == is_preferred)
        if peer_id in self._workers or sum(not each.is_late(now) for each in same) >= limit:
            return None
        worker = self._workers[peer_id] = Worker(is_preferred)
        return worker

    def end(self, peer_id: PeerId, worker: Worker) -> None:
        """Free the place of a peer, unless another worker has it already."""
        if self._workers.get(peer_id) is worker:
            del self._workers[peer_id]

    def stop(self, peer_id: PeerId) -> None:
        """End the work with a peer, which is not waited for any longer."""
        worker = self._workers.pop(peer_id, None)
        if worker is not None:
            worker.scope.cancel()

    def clear(self) -> None:
        """Forget all peers; their work has ended."""
        self._workers.clear()

    def list_surplus(self, now: float) -> list[PeerId]:
        """The late peers above LATE_LIMIT: those that are not preferred first, then the latest."""
        late = sorted(
            (each.is_preferred, each.asked_at or 0.0, peer_id)
            for peer_id, each in self._workers.items()
            if each.is_late(now)
        )
        return [peer_id for _, _, peer_id in late[: max(0, len(late) - LATE_LIMIT)]]
