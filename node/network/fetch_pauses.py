"""When a blob is fetched again of which nothing came (docs/spec/wire.md, section 7).

Peers can say that they hold a blob and then send nothing of it, and a miner can name a thousand
that no peer holds. Each try asks many peers, so tries without a byte become rarer.
"""

from typing import Final

import trio

from chain.primitives import Hash32, TaskId
from node.network.stream import PeerId

FIRST_PAUSE_SECONDS: Final = 0.5
"""The pause after the first try in which nothing came. Each further one doubles it."""

LONGEST_PAUSE_SECONDS: Final = 8.0
"""The longest pause while few blobs of a task are lacking: holders of some blobs tell no peer that
they have got them."""

EMPTY_TRIES_PER_SECOND: Final = 16
"""How many tries without a byte one task can cause in a second. A peer refuses more than 50 streams
a second."""

KEPT_SECONDS: Final = 60.0
"""How long after its end a pause is remembered, so that the next one is longer."""

REMEMBERED_LIMIT: Final = 4_096
"""The most pauses of one task that are remembered: four times the most gradients of an attempt."""

ANNOUNCERS_LIMIT: Final = 128
"""The most announcements that end pauses of one blob, one of each peer."""


class _Pause:
    """The pause of one blob."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.until = 0.0
        self.announcers: set[PeerId] = set()
        """The peers that have announced the blob since the first pause."""


class FetchPauses:
    """Which blobs are not asked for now, by the task that needs them."""

    def __init__(self) -> None:
        self._tasks: dict[TaskId | None, dict[Hash32, _Pause]] = {}

    def is_paused(self, content_id: Hash32, task_id: TaskId | None) -> bool:
        """Whether the blob is not asked for now."""
        pause = self._tasks.get(task_id, {}).get(content_id)
        return pause is not None and trio.current_time() < pause.until

    def note_empty(self, content_id: Hash32, task_id: TaskId | None) -> None:
        """Begin a pause, because nothing came."""
        now = trio.current_time()
        self._forget_old(now)
        pauses = self._tasks.setdefault(task_id, {})
        pause = pauses.pop(content_id, None) or _Pause()
        if len(pauses) == REMEMBERED_LIMIT:
            del pauses[next(iter(pauses))]
        paused_count = sum(now < each.until for each in pauses.values())
        doubled = min(2 * pause.seconds, LONGEST_PAUSE_SECONDS)
        pause.seconds = max(doubled, FIRST_PAUSE_SECONDS)
        pause.until = now + max(pause.seconds, paused_count / EMPTY_TRIES_PER_SECOND)
        pauses[content_id] = pause

    def end(self, content_id: Hash32, task_id: TaskId | None) -> None:
        """Forget the pauses of a blob, because some of it came."""
        pauses = self._tasks.get(task_id, {})
        pauses.pop(content_id, None)
        if not pauses:
            self._tasks.pop(task_id, None)

    def note_announced(self, content_id: Hash32, peer_id: PeerId) -> None:
        """End the pauses of a blob, because a peer says for the first time that it holds it."""
        for pauses in self._tasks.values():
            pause = pauses.get(content_id)
            if (
                pause is not None
                and peer_id not in pause.announcers
                and len(pause.announcers) < ANNOUNCERS_LIMIT
            ):
                pause.announcers.add(peer_id)
                pause.until = trio.current_time()

    def _forget_old(self, now: float) -> None:
        """Forget pauses that ended long ago; those that began first come first."""
        for task_id, pauses in tuple(self._tasks.items()):
            while pauses and now > next(iter(pauses.values())).until + KEPT_SECONDS:
                del pauses[next(iter(pauses))]
            if not pauses:
                del self._tasks[task_id]
