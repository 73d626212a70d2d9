"""Turns in which trees of rewards are built (docs/spec/training.md, section 9).

A task that has paid many accounts has a tree that takes seconds, and each of its ballots needs one.
So small trees do not wait for large ones. Of large ones, the next is that of the attempt that has
used the least time, and among those with the same the one that came first. Time of earlier attempts
does not count: a task of many rounds would wait behind every tree of younger tasks.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from chain.training.attempt import AttemptId
from node.chain.training_index import TrainingIndex
from node.training.turns import Turn, Turns

SMALL_ACCOUNTS: Final = 4_096
"""The most accounts of a small tree. A tree takes 20 us and 1 kB for each account that its task has
paid, so a small one takes 0.1 s."""

TREES_LIMIT: Final = 1
"""The most trees of one size that are built at once. They take memory and slow other threads."""

_Result = TypeVar("_Result")


class RewardTrees:
    """Lets trees be built in threads, each in its turn."""

    def __init__(self, index: TrainingIndex) -> None:
        self._index = index
        self._small, self._large = Turns(TREES_LIMIT), Turns(TREES_LIMIT)

    async def build(
        self, attempt_id: AttemptId, is_wanted: Callable[[], bool], build: Callable[[], _Result]
    ) -> _Result:
        """What a function returns that builds the tree of a task after an attempt.

        Raises:
            WorkOverError: The tree was not wanted any more before its turn came.
        """
        is_large = await trio.to_thread.run_sync(
            self._index.has_more_rewards, attempt_id.task_id, SMALL_ACCOUNTS
        )
        # Nothing is promised, so the attempt that has used the least time is next.
        turn = Turn(attempt_id, promised_seconds=0.0, is_wanted=is_wanted)
        async with (self._large if is_large else self._small).take(turn):
            return await trio.to_thread.run_sync(build)
