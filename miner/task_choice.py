"""Which task a miner takes that chooses by itself (`pot miner run --task auto`).

Anyone may submit a task. A bond is placed only for a task that is active, and whose phases leave
time to reveal a gradient. Among those, a task in which the account has a bond already comes first,
then the one that pays most for a unit in the network's own token. A task that cannot be mined is
put aside for a while, so that it does not keep the miner from the others.
"""

import json
import math
import time
from dataclasses import dataclass
from typing import Final

import structlog

from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.task_registry import TaskStatus
from chain.errors import RejectedInputError
from chain.params import ChainParameters
from chain.primitives import Address, TaskId
from chain.training.task_checks import find_phase_objection
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import compute_spec_hash, decode_task_spec
from miner.client import DishonestNodeError, FailoverClient
from miner.light import LightClient
from pot_common.rpc_client import NodeUnreachableError
from pot_common.rpc_replies import ClientError

FIRST_PAUSE_SECONDS: Final = 10.0
"""How long a task is put aside after its first failure; each further one doubles the time."""

LONGEST_PAUSE_SECONDS: Final = 1_800.0
"""The longest time for which a task is put aside."""

EXAMINED_LIMIT: Final = 64
"""For one choice, the specifications of this many tasks are fetched, of the newest ones first."""

_log = structlog.get_logger("miner")


@dataclass(slots=True)
class _Pause:
    """A task that is put aside."""

    until: float
    """By the monotonic clock."""
    seconds: float
    """How long it was put aside last."""


class TaskChoice:
    """Chooses tasks for one account."""

    def __init__(self, client: FailoverClient, light: LightClient, miner: Address) -> None:
        self._client = client
        self._light = light
        self._miner = miner
        self._pauses: dict[TaskId, _Pause] = {}
        self._specs: dict[TaskId, TaskSpec] = {}
        """The specifications of active tasks that can be mined."""

    def choose(self) -> TaskId | None:
        """The task to take part in now; None if there is none.

        Raises:
            ClientError: No node answers.
        """
        active = {TaskId(each.id) for each in self._client.list_tasks() if each.status == "active"}
        self._pauses = {each: pause for each, pause in self._pauses.items() if each in active}
        self._specs = {each: spec for each, spec in self._specs.items() if each in active}
        now = time.monotonic()
        due = sorted(
            (
                each
                for each in active
                if each not in self._pauses or self._pauses[each].until <= now
            ),
            reverse=True,
        )
        ranked = [
            (self._rank(each, spec), each)
            for each in due[:EXAMINED_LIMIT]
            if (spec := self._examine(each)) is not None
        ]
        return max(ranked)[1] if ranked else None

    def put_aside(self, task: TaskId, error: ClientError) -> None:
        """Take other tasks for a while: this one cannot be mined now."""
        known = self._pauses.get(task)
        seconds = FIRST_PAUSE_SECONDS
        if known is not None:
            seconds = min(2 * known.seconds, LONGEST_PAUSE_SECONDS)
        self._pauses[task] = _Pause(time.monotonic() + seconds, seconds)
        _log.warning("task put aside", task=task, seconds=seconds, reason=str(error))

    def finish(self, task: TaskId) -> None:
        """Never choose a task again: it is closed, or cost the account its bond."""
        self._pauses[task] = _Pause(math.inf, LONGEST_PAUSE_SECONDS)

    def _examine(self, task: TaskId) -> TaskSpec | None:
        """The specification of a task if it can be mined; otherwise the task is put aside."""
        if task in self._specs:
            return self._specs[task]
        try:
            spec, status = fetch_spec(self._client, self._light, task)
            if status is not TaskStatus.ACTIVE:
                return None
            require_time_to_reveal(task, spec, self._light.network.parameters)
        except (DishonestNodeError, NodeUnreachableError):
            raise
        except ClientError as error:
            self.put_aside(task, error)
            return None
        self._specs[task] = spec
        return spec

    def _rank(self, task: TaskId, spec: TaskSpec) -> tuple[bool, bool, int]:
        registration = self._light.progress(task, self._miner).registration
        has_bond = registration.units > 0 and not registration.has_ended
        return has_bond, spec.reward.token == TRAINING_TOKEN, spec.reward.unit_price


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
        raise ClientError(f"there is no task {task}; `pot task list` lists all tasks")
    spec = client.task_spec(task)
    encoded = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        decoded = decode_task_spec(encoded.encode())
    except RejectedInputError as error:
        raise ClientError(f"task {task} cannot be mined with this version: {error}") from error
    if compute_spec_hash(decoded) != spec_hash:
        raise DishonestNodeError(
            client.current,
            f"it gives another specification of task {task} than the chain has the hash of",
        )
    return decoded, status


def require_time_to_reveal(task: TaskId, spec: TaskSpec, parameters: ChainParameters) -> None:
    """Accept a task only if its phases leave honest miners time to reveal their gradients.

    Raises:
        ClientError: A bond in the task could be lost for lack of time.
    """
    objection = find_phase_objection(spec, parameters.blob_bytes_per_second)
    if objection is not None:
        raise ClientError(
            f"task {task} could cost you the bond: {objection.reason}; take another task"
        )
