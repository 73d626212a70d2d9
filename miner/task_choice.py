"""Which task a miner takes that chooses by itself (`pot miner run --task auto`).

Anyone may submit a task, also one that nobody can profit from. A miner has a seat in one task at a
time: in a second one it would miss attempts. So a task in which the account has a seat comes first.
A bond is placed only for a task that is active, whose phases leave time to commit to a gradient and
to reveal it, and that lacks nothing for an attempt but miners and their units. Of those, the miner
prefers tasks in which it did not wait in vain before, then pay in the network's own token, then the
highest pay for its time. A round counts as long as its phases may last: a submitter can make them
as long as that with one seat of its own, and the miners of a task with a commitment phase of 20
hours and a little more pay would wait for so long. The pay of a task that lacks miners besides this
one, for their number or their units, is divided by one more than they are: a task that pays next to
nothing must not keep miners from one that lacks some, nor a task that pays much and lacks many. A
task that takes more memory or disk than the operator allows, locks bonds for longer, or cannot be
mined is put aside for a while, so that it does not keep the miner from the others.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import structlog

from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.task_registry import TaskStatus
from chain.crypto import sha256
from chain.errors import RejectedInputError
from chain.primitives import Address, TaskId
from chain.training.openings import ObstacleKind, describe_obstacles
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import compute_terms, decode_task_spec
from miner.client import FailoverClient
from miner.light import LightClient, Standing
from miner.limits import (
    MinerLimits,
    compute_lock_seconds,
    require_enough_time,
    require_room,
    require_short_lock,
)
from miner.nodes import DishonestNodeError
from pot_common.rpc_client import NodeUnreachableError
from pot_common.rpc_replies import ClientError

FIRST_PAUSE_SECONDS: Final = 10.0
"""How long a task is put aside after its first failure; each further one doubles the time."""

LONGEST_PAUSE_SECONDS: Final = 1_800.0
"""The longest time for which a task is put aside."""

IDLE_REST_SECONDS: Final = 120.0
"""How long a task is put aside that the miner has left because it opened no attempt; each further
time doubles it. It is shorter than the stay in such a task, so that miners that need one another
meet."""

COMING_WITH_MINERS: Final = (ObstacleKind.MINERS, ObstacleKind.UNITS)
"""What a task may lack when a miner takes a seat in it: other miners bring it."""

EXAMINED_LIMIT: Final = 64
"""For one choice, the specifications of this many tasks are fetched: of those that this machine has
worked on first, then of the newest ones."""

_log = structlog.get_logger("miner")


@dataclass(slots=True)
class _Pause:
    """A task that is put aside."""

    until: float
    """By the monotonic clock."""
    seconds: float
    """How long it was put aside for its last failure; half of the first pause before any failure.
    """


class TaskChoice:
    """Chooses tasks for one account."""

    def __init__(
        self,
        client: FailoverClient,
        light: LightClient,
        miner: Address,
        limits: MinerLimits,
        units: int,
        list_worked_on: Callable[[], Sequence[TaskId]] = tuple,
    ) -> None:
        """Make the choice of an account.

        Args:
            client: The nodes.
            light: The chain, as proofs show it.
            miner: The account.
            limits: What the operator allows a task to take.
            units: The units of work that it offers, a round.
            list_worked_on: The tasks of which this machine has files, because it may have a seat.
        """
        self._client = client
        self._light = light
        self._miner = miner
        self._limits = limits
        self._units = units
        self._list_worked_on = list_worked_on
        self._pauses: dict[TaskId, _Pause] = {}
        self._rests: dict[TaskId, float] = {}
        """The tasks that opened no attempt while the miner had a seat, each with its last rest in
        seconds. They come after all others until the process ends; a stay in one takes minutes, so
        they stay few."""
        self._specs: dict[TaskId, TaskSpec] = {}
        """The specifications of active tasks that can be mined."""
        self._told: dict[TaskId, str] = {}
        """What tasks that are not taken lack, as it was logged last."""

    def choose(self) -> TaskId | None:
        """The task to take part in now; None if there is none.

        Raises:
            ClientError: No node answers.
        """
        standings = self._list_standings()
        seated = [
            (standing.opening.is_open, each)
            for each, standing in standings.items()
            if standing.seat.has_seat
        ]
        if seated:
            return max(seated)[1]
        ranked = [
            (rank, each)
            for each, standing in standings.items()
            if (rank := self._rank(each, standing)) is not None
        ]
        return max(ranked)[1] if ranked else None

    def has_other(self, task: TaskId) -> bool:
        """Whether the miner could take another task now, in which it did not wait in vain before.

        Raises:
            ClientError: No node answers.
        """
        others = (each for each in self._list_standings().items() if each[0] != task)
        return any(
            each not in self._rests and self._rank(each, standing) is not None
            for each, standing in others
        )

    def _list_standings(self) -> dict[TaskId, Standing]:
        """The first tasks that are open and not put aside, as proofs show them."""
        listed = self._client.list_tasks(self._light.count_tasks())
        found = {TaskId(each.id) for each in listed if each.status in ("active", "paused")}
        for known in (self._pauses, self._specs, self._told):
            for closed in known.keys() - found:
                del known[closed]
        now = time.monotonic()
        due = [
            each for each in found if each not in self._pauses or self._pauses[each].until <= now
        ]
        # A seat of an earlier run may be in a task that many newer ones follow.
        worked_on = frozenset(self._list_worked_on())
        first = sorted(due, key=lambda each: (each in worked_on, each), reverse=True)
        return {each: self._light.standing(each, self._miner) for each in first[:EXAMINED_LIMIT]}

    def put_aside(self, task: TaskId, error: ClientError) -> None:
        """Take other tasks for a while: this one cannot be mined now."""
        known = self._pauses.get(task)
        seconds = FIRST_PAUSE_SECONDS
        if known is not None:
            seconds = min(2 * known.seconds, LONGEST_PAUSE_SECONDS)
        self._pauses[task] = _Pause(time.monotonic() + seconds, seconds)
        _log.warning("task put aside", task=task, seconds=seconds, reason=str(error))

    def leave_idle(self, task: TaskId) -> None:
        """Prefer all other tasks: this one opened no attempt while the miner had a seat in it."""
        rest = min(2 * self._rests.get(task, IDLE_REST_SECONDS / 2), LONGEST_PAUSE_SECONDS)
        self._rests[task] = rest
        self._pause(task, rest)

    def look_again(self) -> None:
        """End the pauses of tasks that failed: the account has money again for a bond."""
        now = time.monotonic()
        for task, pause in self._pauses.items():
            if task not in self._rests and pause.until < math.inf:
                pause.until = min(pause.until, now)

    def finish(self, task: TaskId) -> None:
        """Never choose a task again: it is closed, or cost the account its bond."""
        self._pauses[task] = _Pause(math.inf, LONGEST_PAUSE_SECONDS)

    def _rank(self, task: TaskId, standing: Standing) -> tuple[bool, bool, Fraction] | None:
        """The rank of a task in which the account has no seat; None if it must not take one now."""
        seat, status = standing.seat, standing.opening.status
        if status is not TaskStatus.ACTIVE or (seat.has_bonds_to_return and not seat.can_return):
            self._pause(task)
            return None
        spec = self._examine(task)
        if spec is None:
            return None
        reward, opening = spec.reward, standing.opening
        units = min(self._units, reward.max_units)
        obstacles = standing.list_obstacles(
            compute_terms(spec), self._light.network.parameters, newcomer_units=units
        )
        if any(each.kind not in COMING_WITH_MINERS for each in obstacles):
            self._pause(task)
            reason = describe_obstacles(obstacles)
            if self._told.get(task) != reason:
                self._told[task] = reason
                _log.info("task not taken: it opens no attempt", task=task, reason=reason)
            return None
        missing_units = max(0, reward.min_units - opening.registered_units - units)
        # Others are taken to offer as many units as this miner.
        missing = max(0, reward.min_miners - opening.seat_count - 1, -(-missing_units // units))
        is_pot = reward.token == TRAINING_TOKEN
        pay = units * reward.unit_price
        phases = spec.phases
        seconds = phases.commit_seconds + phases.verdict_seconds + phases.result_seconds
        return task not in self._rests, is_pot, Fraction(pay, seconds * (1 + missing))

    def _pause(self, task: TaskId, seconds: float = FIRST_PAUSE_SECONDS) -> None:
        """Look at a task again after a pause, which does not count as a failure."""
        known = self._pauses.get(task)
        last_seconds = FIRST_PAUSE_SECONDS / 2 if known is None else known.seconds
        self._pauses[task] = _Pause(time.monotonic() + seconds, last_seconds)

    def _examine(self, task: TaskId) -> TaskSpec | None:
        """The specification of a task if it can be mined; otherwise the task is put aside."""
        if task in self._specs:
            return self._specs[task]
        try:
            spec, _ = fetch_spec(self._client, self._light, task)
            self._require_acceptable(task, spec)
        except (DishonestNodeError, NodeUnreachableError):
            raise
        except ClientError as error:
            self.put_aside(task, error)
            return None
        self._specs[task] = spec
        return spec

    def _require_acceptable(self, task: TaskId, spec: TaskSpec) -> None:
        parameters = self._light.network.parameters
        require_enough_time(task, spec, parameters)
        require_room(task, spec, self._limits)
        lock_seconds = compute_lock_seconds(spec, parameters, len(self._light.validators))
        require_short_lock(task, lock_seconds, self._limits)


def require_known(client: FailoverClient, light: LightClient, task: TaskId) -> None:
    """Refuse a task that the chain does not have.

    Raises:
        ClientError: There is no such task, or no node answers.
    """
    while True:
        try:
            _, status = light.task(task)
        except DishonestNodeError as error:
            client.drop(error)
            continue
        if status is TaskStatus.NONE:
            raise _build_unknown(task)
        return


def _build_unknown(task: TaskId) -> ClientError:
    return ClientError(f"there is no task {task}; `pot task list` lists all tasks")


def fetch_spec(
    client: FailoverClient, light: LightClient, task: TaskId
) -> tuple[TaskSpec, TaskStatus]:
    """The specification of a task and its status, both proven.

    Raises:
        DishonestNodeError: The node gives another specification than the chain has the hash of.
        ClientError: There is no such task, or this version cannot mine it.
    """
    spec_hash, status = light.task(task)
    if status is TaskStatus.NONE:
        raise _build_unknown(task)
    spec = client.task_spec(task)
    encoded = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # First the hash: what a false node sends must not look like a task of a newer version. JSON may
    # have half a surrogate pair, which no specification has.
    content = encoded.encode(errors="surrogatepass")
    if sha256(content) != spec_hash:
        raise DishonestNodeError(
            client.current,
            f"it gives another specification of task {task} than the chain has the hash of",
        )
    try:
        return decode_task_spec(content), status
    except RejectedInputError as error:
        raise ClientError(f"task {task} cannot be mined with this version: {error}") from error
