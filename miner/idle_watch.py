"""Watches a task that opens no attempt, or none for this miner (docs/spec/contracts.md, 6.1)."""

import time
from typing import Final

import structlog

from chain.contracts.miner_seats import IDLE_BLOCKS
from chain.primitives import Address, BlockNumber, TaskId
from chain.training.openings import describe_obstacles
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import compute_terms
from miner.light import LightClient, Standing

QUIET_SECONDS: Final = 10.0
"""While no attempt is in progress, the miner looks for the reason each time after so long. Attempts
follow one another within a block, and miners that start together register within seconds."""

OPENING_SECONDS: Final = 60.0
"""How long validators may take to open an attempt that can open before the log says so: each waits
for its turn, two blocks long."""

IN_VAIN_SECONDS: Final = 1_280.0
"""How long a miner waits for an attempt of its own while others' go on, before it takes another
task: as long as for a task that opens none, if its blocks are empty ones."""

_log = structlog.get_logger("miner")


class IdleWatch:
    """Watches one task in which the miner has a seat, while it has nothing to do there."""

    def __init__(
        self, light: LightClient, task: TaskId, spec: TaskSpec, miner: Address, *, stays: bool
    ) -> None:
        """Make the watch of a task.

        Args:
            light: The chain, as proofs show it.
            task: The task.
            spec: Its specification.
            miner: The account with the seat.
            stays: Whether the miner stays in the task however long it waits. Only the words of the
                log depend on this.
        """
        self._light = light
        self._task = task
        self._terms = compute_terms(spec)
        self._miner = miner
        self._stays = stays
        self._told: str | None = None
        """The reason that was logged last."""
        self._seated_block: BlockNumber | None = None
        """The first block in which the seat was proven; None before. Nodes may be behind it."""
        self._began = self._last_attempt = self._last_look = time.monotonic()

    def note_attempt(self) -> None:
        """Take note that an attempt is in progress."""
        self._last_attempt = time.monotonic()
        self._told = None

    def look(self) -> Standing | None:
        """The standing of a task without an attempt.

        None if an attempt is in progress, or if the task was looked at a moment ago. Logs what the
        task lacks for an attempt, once for each reason.

        Raises:
            ClientError: No node answers.
        """
        now = time.monotonic()
        if now - max(self._last_attempt, self._last_look) < QUIET_SECONDS:
            return None
        standing = self._light.standing(self._task, self._miner)
        self._last_look = now
        number = standing.header.number
        if self._seated_block is None and standing.seat.units > 0:
            self._seated_block = number
        is_behind = self._seated_block is None or number < self._seated_block
        if standing.opening.is_open or is_behind:
            return None
        if standing.seat.has_seat:
            self._tell(standing, now - self._last_attempt)
        return standing

    def has_waited_in_vain(self) -> bool:
        """Whether the seat has waited for long for an attempt in which it takes part.

        A submitter can make an attempt last for hours. The chain is asked now and then only.

        Raises:
            ClientError: No node answers.
        """
        now = time.monotonic()
        if self._stays or now - self._began < IN_VAIN_SECONDS:
            return False
        if now - self._last_look < QUIET_SECONDS:
            return False
        self._last_look = now
        progress = self._light.progress(self._task, self._miner)
        seat, number = progress.seat, progress.header.number
        takes_part = seat.first_attempt <= progress.attempt.ordinal
        is_long = number >= seat.registered_block + IDLE_BLOCKS
        return seat.has_seat and not takes_part and is_long

    def _tell(self, standing: Standing, quiet_seconds: float) -> None:
        obstacles = standing.list_obstacles(self._terms, self._light.network.parameters)
        if not obstacles and quiet_seconds < OPENING_SECONDS:
            return
        reason = describe_obstacles(obstacles) or "it could, and no validator has opened one"
        if reason == self._told:
            return
        self._told = reason
        plan = (
            f"the miner waits; to give the seat up: pot miner leave {self._task}"
            if self._stays
            else f"the miner leaves after {IDLE_BLOCKS} blocks without an attempt"
        )
        _log.warning(f"the task opens no attempt: {reason}; {plan}", task=self._task)
