"""Taking bonds back from tasks that were left or are closed (docs/spec/contracts.md, section 6.4).

Bonds stay locked until the last attempt of the seat can be fined no more. The chain remembers
whose bonds they are, so a miner that starts again finds them there.
"""

import time
from dataclasses import dataclass
from typing import Final

import structlog

from chain.contracts import miner_seats
from chain.contracts.task_registry import TaskStatus
from chain.primitives import TaskId
from miner.client import FailoverClient
from miner.light import LightClient
from miner.nodes import DishonestNodeError
from miner.outcomes import describe_ended_seat
from miner.transactor import MinerIdentity, Transactor, change_of_seat
from pot_common.rpc_client import NodeUnreachableError, RpcCallError
from pot_common.rpc_replies import ClientError

FIRST_RETRY_SECONDS: Final = 15.0
"""Between the first two tries to take bonds back; each further pause is twice as long."""

LONGEST_RETRY_SECONDS: Final = 900.0
"""The longest such pause."""

FIRST_SEARCH: Final = 64
"""A miner that starts searches so many tasks for bonds of earlier runs, the newest ones first."""

SEARCH_STEP: Final = 8
"""So many further tasks are searched at a time, between other work. Anyone can add tasks for
little, and they must delay neither the miner's start nor its commitments."""

_log = structlog.get_logger("miner")


@dataclass(slots=True)
class _Retry:
    due: float
    """When to try, by the monotonic clock."""
    seconds: float
    """The pause after that try."""


class BondReturns:
    """Takes the bonds of one account back, from each task as soon as they are free."""

    def __init__(self, client: FailoverClient, light: LightClient, identity: MinerIdentity) -> None:
        self._client = client
        self._light = light
        self._identity = identity
        self._transact = Transactor(client, light, identity).transact
        self._retries: dict[TaskId, _Retry] = {}
        self._unsearched: list[TaskId] = []
        """The tasks that are not searched yet for bonds of earlier runs, ascending."""

    def search(self) -> None:
        """Find the bonds of earlier runs in the newest tasks; `collect` goes on with the others.

        Raises:
            ClientError: No node answers.
        """
        self._unsearched = [TaskId(each) for each in range(1, self._light.count_tasks() + 1)]
        self._search_next(FIRST_SEARCH)

    def _search_next(self, count: int) -> None:
        for _ in range(count):
            if not self._unsearched:
                return
            task = self._unsearched[-1]
            standing = self._light.standing(task, self._identity.address)
            seat, status = standing.seat, standing.opening.status
            is_closed = status is TaskStatus.CLOSED and seat.units > 0 and not seat.is_slashed
            if seat.has_bonds_to_return or is_closed:
                self.expect(task)
            if seat.has_bonds_to_return:
                told = describe_ended_seat(
                    self._client, task, self._identity.address, seat.miss_count
                )
                _log.warning(told, task=task)
            self._unsearched.pop()

    @property
    def waits(self) -> tuple[TaskId, ...]:
        """The tasks whose bonds are expected, by id."""
        return tuple(sorted(self._retries))

    @property
    def is_done(self) -> bool:
        """Whether no bonds are expected, and all tasks are searched for those of earlier runs."""
        return not self._retries and not self._unsearched

    def expect(self, task: TaskId) -> None:
        """Take back the bonds of a seat that has ended, or whose task is closed."""
        self._retries.setdefault(task, _Retry(time.monotonic(), FIRST_RETRY_SECONDS))

    def collect(self) -> bool:
        """Take back the bonds that are free now, and return whether there were any.

        Raises:
            ClientError: No node answers.
        """
        self._search_next(SEARCH_STEP)
        is_any_back = False
        now = time.monotonic()
        for task, retry in sorted(self._retries.items()):
            if retry.due > now:
                continue
            longer = min(2 * retry.seconds, LONGEST_RETRY_SECONDS)
            self._retries[task] = _Retry(now + retry.seconds, longer)
            if self._withdraw(task):
                del self._retries[task]
                is_any_back = True
        return is_any_back

    def _withdraw(self, task: TaskId) -> bool:
        """Take back what is free in a task, and return whether nothing is left there."""
        standing = self._light.standing(task, self._identity.address)
        seat = standing.seat
        is_taken_again = seat.has_seat and standing.opening.status is not TaskStatus.CLOSED
        if seat.units == 0:
            _log.info("the bonds were taken back by another command", task=task)
            return True
        if seat.is_slashed or is_taken_again:
            return True  # they are lost, or answer for the seat again
        try:
            self._transact(
                miner_seats.withdraw_bond(task),
                change_of_seat(task, self._identity.address, lambda seat: seat.units == 0),
            )
        except (NodeUnreachableError, DishonestNodeError):
            raise
        except ClientError as error:
            # They are locked, or the task's token refuses the transfer, perhaps only in a block.
            reason = str(error)
        else:
            _log.info("bonds are back", task=task)
            return True
        try:
            self._transact(
                miner_seats.withdraw_seat_bond(task),
                change_of_seat(task, self._identity.address, lambda seat: not seat.has_seat_bond),
            )
        except RpcCallError:
            return False  # both are still locked
        _log.warning(
            "the seat's bond in POT is back, and the bond in the task's token is not; try "
            f"`pot miner withdraw {task}` later",
            task=task,
            reason=reason,
        )
        return True
