"""The miner's loop: which task it mines, and which node it asks (docs/spec/rpc.md, section 9)."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog

from chain.contracts import miner_seats
from chain.contracts.miner_seats import compute_free_units
from chain.contracts.task_registry import TaskStatus
from chain.crypto import get_address
from chain.primitives import PrivateKey, TaskId
from chain.training.architectures import count_parameters
from chain.training.task_spec import TaskSpec
from miner.bonds import BondReturns
from miner.builder import OpenTask
from miner.client import FailoverClient
from miner.idle_watch import IdleWatch
from miner.light import LightClient
from miner.limits import MinerLimits, require_enough_time, require_room
from miner.nodes import DishonestNodeError
from miner.outcomes import OutOfTaskError
from miner.places import list_seats_to_take_back
from miner.stopping import describe_stop, describe_wait
from miner.task_choice import TaskChoice, fetch_spec
from miner.task_files import TaskFiles
from miner.transactor import MinerIdentity
from miner.worker import TaskWorker
from pot_common.rpc_client import ContentUnavailableError, NodeUnreachableError, RpcCallError
from pot_common.rpc_replies import ClientError

RETRY_SECONDS: Final = 2.0
"""The pause before another node is asked after an error."""

REFUSAL_RETRY_SECONDS: Final = 0.3
"""The pause after a node refused a transaction: within it, a late node takes over a block."""

CONTENT_RETRY_SECONDS: Final = 0.3
"""The pause when no node has a blob yet: it is being computed or uploaded right now."""

OTHER_SECONDS: Final = 60.0
"""How often a miner that waits for its first attempt looks for another task. Each time it reads the
standing of all of them."""

OWED_SECONDS: Final = 600.0
"""How often a miner tries to leave a task for another if the contract does not let it go."""

IDLE_SECONDS: Final = 1.0
"""Between two looks for an open task."""

PATIENCE_SECONDS: Final = 5.0
"""After so long without anything to do, another node is asked: this one may withhold news. Longer
than the phases of a quick round, because a node that was not asked yet may take seconds to start.
"""

_log = structlog.get_logger("miner")

Answer = TypeVar("Answer")
"""The type of what nodes are asked for."""


@dataclass(slots=True)
class _MinedTask:
    task: TaskId
    spec: TaskSpec
    has_seat: bool = False
    """Whether the account had a seat before the worker began."""
    worker: TaskWorker | None = None
    """None while the task's data is fetched."""


class Miner:
    """Mines one task until it closes, or one task after another.

    Args:
        client: The nodes.
        light: The chain, as proofs show it.
        private_key: The account that mines.
        directory: Where gradients and data are kept.
        units: Units of work to declare, a round.
        open_task: Opens a task for computing.
        limits: What the operator allows a task to take.
        poll_seconds: Between two questions about the attempt in progress.
        claims: Whether to claim the rewards when the task closes.
        leaves_at_end: Whether to wait for the bonds when the task that was named is over.
    """

    def __init__(
        self,
        client: FailoverClient,
        light: LightClient,
        private_key: PrivateKey,
        directory: Path,
        units: int,
        open_task: OpenTask,
        limits: MinerLimits,
        *,
        poll_seconds: float,
        claims: bool,
        leaves_at_end: bool = False,
    ) -> None:
        self._client = client
        self._light = light
        self._identity = MinerIdentity(
            private_key, get_address(private_key), light.network.chain_id
        )
        self._files = TaskFiles(
            client, directory / light.network.genesis_hash.hex()[:16], limits.data_bytes
        )
        self._units = units
        self._open_task = open_task
        self._poll_seconds = poll_seconds
        self._claims = claims
        self._leaves_at_end = leaves_at_end
        self.is_ending = False
        """Whether the miner was told to leave its task and to end."""
        self._leave_due = 0.0
        """When to try again to leave, by the monotonic clock."""
        self._other_due = 0.0
        """When to look for another task again while this one keeps the miner waiting."""
        self._limits = limits
        self._choice = TaskChoice(
            *(client, light, self._identity.address, limits, units), self._files.list_tasks
        )
        self._bonds = BondReturns(client, light, self._identity)
        self._mined: _MinedTask | None = None
        """The task that was accepted last; None before the first, and once it is closed."""
        self._last_work = time.monotonic()
        """When there was last something to do, or another node was chosen."""

    def end(self) -> None:
        """Have the miner leave its task, finish what it owes, and take its bonds back."""
        self.is_ending = True

    def mine_one(self, task: TaskId) -> None:
        """Mine a task until it closes or the miner is told to end.

        Raises:
            OutOfTaskError: The account lost its bond in the task, or has left it.
            ClientError: There is no such task, or the account cannot take part in it.
        """
        try:
            while not self._mine_until_displaced(task):
                pass
        except OutOfTaskError as error:
            if not self._leaves_at_end:
                raise
            _log.log(logging.INFO if error.has_left else logging.ERROR, str(error))
            self._bonds.expect(task)
            self._await_bonds()
            if not error.has_left:
                raise
        else:
            if self._leaves_at_end:
                self._await_bonds()

    def _mine_until_displaced(self, task: TaskId) -> bool:
        """Mine a task until it closes or the miner is told to end, and return whether it is over.

        If newcomers displace the seat, wait until there is room for it again.

        Raises:
            OutOfTaskError: The account lost its bond in the task, or has left it.
            ClientError: There is no such task, or the account cannot take part in it.
        """
        try:
            self.mine(task)
        except OutOfTaskError as error:
            if not error.is_displaced or self.is_ending:
                raise
            _log.warning(f"{error}; the miner waits for room, and takes the seat again", task=task)
            if not self._await_room(task):
                raise
            return False
        return True

    def _await_room(self, task: TaskId) -> bool:
        """Wait for room for a displaced seat; False if it is not taken again.

        Newcomers may leave soon, so the chain is asked every second. Once the bonds can be
        withdrawn, an account of the miner may do so by hand; then it registers as a newcomer.
        """
        spec = self._ask_honest(lambda: fetch_spec(self._client, self._light, task))[0]
        account, reward = self._identity.address, spec.reward
        while not self.is_ending:
            try:
                standing = self._light.standing(task, account)
                seats = self._client.read(miner_seats.list_seats(task))
                taken = [each.units for each in seats]
                free = compute_free_units(reward.max_units, reward.min_miners, taken)
                if standing.opening.status is TaskStatus.CLOSED:
                    return False
                units = standing.seat.units
                if standing.opening.status is TaskStatus.ACTIVE and (
                    not standing.seat.can_return
                    or free >= units
                    or list_seats_to_take_back(
                        self._client, self._light, account, task, spec, units
                    )
                ):
                    return True
            except ClientError as error:
                self._try_another(error, RETRY_SECONDS)
            time.sleep(IDLE_SECONDS)
        return False

    def mine_all(self) -> None:
        """Take part in the task that pays best; when it ends, in the next.

        Returns only if the miner was told to end.
        """
        _log.info("looking for a task", account=self._identity.address)
        has_searched = False
        while True:
            try:
                if not has_searched:
                    self._bonds.search()
                    self._delete_closed()
                    has_searched = True
                if self._bonds.collect():
                    self._choice.look_again()
                if self.is_ending:
                    self._await_bonds()
                    return
                task = self._choice.choose()
                if task is None:
                    # The node's list of open tasks is not proven: another may know more.
                    self._client.rotate()
                else:
                    self._mine_chosen(task)
                    _log.info("looking for a task", account=self._identity.address)
            except ClientError as error:
                self._try_another(error, RETRY_SECONDS)
            time.sleep(IDLE_SECONDS)

    def _delete_closed(self) -> None:
        """Delete the gradients of tasks that closed while the miner did not run.

        Raises:
            ClientError: No node answers.
        """
        for task in self._files.list_tasks():
            if self._light.task(task)[1] is TaskStatus.CLOSED:
                self._files.delete(task)

    def _mine_chosen(self, task: TaskId) -> None:
        """Mine a task until it ends or stands still; if it cannot be mined, put it aside.

        Raises:
            NodeUnreachableError: No node answers.
        """
        try:
            if self.mine(task, stays=False):
                self._choice.finish(task)
                self._files.delete(task)
            else:
                self._choice.leave_idle(task)
        except OutOfTaskError as error:
            _log.log(logging.INFO if error.has_left else logging.ERROR, str(error))
            if error.is_displaced:
                self._choice.put_aside(task, error)
            else:
                self._choice.finish(task)
            self._bonds.expect(task)
            self._files.delete(task)  # no attempt that it took part in is open any more
        except (NodeUnreachableError, DishonestNodeError):
            raise
        except ClientError as error:
            self._choice.put_aside(task, error)

    def mine(self, task: TaskId, *, stays: bool = True) -> bool:
        """Take part in `task` until it is closed, and return whether it is.

        Args:
            task: The task.
            stays: Whether to wait while the task is pending, paused or without an attempt.
                Otherwise the miner leaves a task that opens no attempt, and this returns.

        Raises:
            OutOfTaskError: The account lost its bond in the task, or has left it.
            ClientError: There is no such task, or the account cannot take part in it.
        """
        spec, status = self._ask_honest(lambda: fetch_spec(self._client, self._light, task))
        if stays and status in (TaskStatus.PENDING, TaskStatus.PAUSED):
            self._await_active(task, status)
            if self.is_ending and not self._has_seat(task):
                return False
        mined = _MinedTask(task, spec)
        mined.has_seat = self._ask_honest(lambda: self._require_acceptable(task, spec))
        self._mined = mined
        builder = self._open_task(spec, self._files.fetch_shards(task, spec))
        store = self._files.open_gradients(task)
        worker = TaskWorker(
            *(self._client, self._light, self._identity, task, spec, builder, store), stays=stays
        )
        worker.has_seat = mined.has_seat
        mined.worker = worker
        if self.is_ending and not mined.has_seat:
            return False
        self._ask_honest(lambda: worker.register(self._units))
        _log.info(
            "mining the task", task=task, name=spec.name, parameters=count_parameters(spec.model)
        )
        watch = worker.build_watch()
        while self._get_status(task) is not TaskStatus.CLOSED:
            if worker.is_out or self._has_left(worker, watch, task, stays=stays):
                self._bonds.expect(task)
                if self._claims:
                    worker.claim()
                return False
            self._follow(worker, watch, task)
        self._mined = None
        worker.log_last_outcome()
        _log.info("task closed", task=task)
        if stays and not self._leaves_at_end:
            _log.info(f"the bonds come back later, with `pot miner withdraw {task}`", task=task)
        else:
            self._bonds.expect(task)
        if self._claims:
            worker.claim()
        return True

    def _require_acceptable(self, task: TaskId, spec: TaskSpec) -> bool:
        """Accept a task before its data is fetched.

        A task in which the account has a seat is always accepted, because the seat owes its units.

        Returns:
            Whether the account has a seat.

        Raises:
            ClientError: The task could cost the bonds, or takes more than the operator allows.
        """
        has_seat = self._has_seat(task)
        if not has_seat:
            require_enough_time(task, spec, self._light.network.parameters)
            require_room(task, spec, self._limits)
        return has_seat

    def _has_seat(self, task: TaskId) -> bool:
        return self._light.progress(task, self._identity.address).seat.has_seat

    def describe_stop(self) -> str | None:
        """What the operator loses by a stop now; None if nothing, as the account has no seat."""
        mined = self._mined
        if mined is None:
            return None
        worker = mined.worker
        if self.is_ending and worker is not None and worker.has_left and worker.is_at_work:
            return (
                f"miner stopped, and the last attempt of its seat in task {mined.task} may be in "
                "progress: if it has no gradient of this miner, the seat's bond in POT is lost. "
                "Start the miner again at once"
            )
        if not (mined.has_seat if worker is None else worker.has_seat):
            return None
        return describe_stop(
            mined.task,
            mined.spec,
            self._light.network.parameters.seat_bond_pot,
            is_at_work=worker is None or worker.is_at_work,
        )

    def _has_left(self, worker: TaskWorker, watch: IdleWatch, task: TaskId, *, stays: bool) -> bool:
        """Whether the miner is out of the task, which it leaves if the task opens no attempt.

        Raises:
            OutOfTaskError: The account has lost its seat, or gave it up by hand.
        """
        try:
            if not stays:
                self._bonds.collect()
            standing = watch.look()
            if standing is None:
                return False
            if standing.seat.has_seat:
                self._leave_if_ending(worker)
                if standing.is_idle and not stays and not self.is_ending:
                    self._leave_idle(worker, task)
            elif worker.has_left and not worker.gave_up:
                return True
            else:
                worker.require_bond()
        except OutOfTaskError:
            raise
        except ClientError as error:
            self._try_another(error, RETRY_SECONDS)
        return False

    def _leave_if_ending(self, worker: TaskWorker) -> None:
        """Give the seat up if the miner was told to end.

        The contract may refuse: a newcomer owes an attempt first, or one opens in this very block.

        Raises:
            ClientError: No node answers.
        """
        now = time.monotonic()
        if not self.is_ending or worker.has_left or not worker.has_seat or now < self._leave_due:
            return
        try:
            worker.leave()
        except RpcCallError as error:
            if not self._leave_due:
                _log.warning(f"not left yet, and tried again: {error}")
            self._leave_due = now + RETRY_SECONDS
        else:
            _log.info("an attempt in progress is owed, and finished first")

    def _await_bonds(self) -> None:
        """Wait until the bonds are back that are expected."""
        self._mined = None
        for task in self._bonds.waits:
            _log.info(
                "waiting for the bonds, which the chain locks for minutes or longer; if you stop "
                f"the miner, take them later: pot miner withdraw {task}",
                task=task,
            )
        while not self._bonds.is_done:
            try:
                self._bonds.collect()
            except ClientError as error:
                self._try_another(error, RETRY_SECONDS)
            time.sleep(IDLE_SECONDS)

    def _await_active(self, task: TaskId, status: TaskStatus) -> None:
        """Wait while the task is pending or paused: it takes no miners. The log says why."""
        advice = describe_wait(task, status)
        if self._ask_honest(lambda: self._has_seat(task)):
            advice += f"; to give the seat up: pot miner leave {task}"
        _log.warning(advice, task=task)
        while not self.is_ending:
            try:
                if self._light.task(task)[1] not in (TaskStatus.PENDING, TaskStatus.PAUSED):
                    return
            except ClientError as error:
                self._try_another(error, RETRY_SECONDS)
            time.sleep(IDLE_SECONDS)

    def _ask_honest(self, ask: Callable[[], Answer]) -> Answer:
        """The first answer of a node that is not proven wrong."""
        while True:
            try:
                return ask()
            except DishonestNodeError as error:
                self._client.drop(error)

    def _get_status(self, task: TaskId) -> TaskStatus:
        """The proven status of a task; ACTIVE while no node can prove one."""
        try:
            return self._light.task(task)[1]
        except ClientError as error:
            self._try_another(error, RETRY_SECONDS)
            return TaskStatus.ACTIVE

    def _follow(self, worker: TaskWorker, watch: IdleWatch, task: TaskId) -> None:
        """Follow the attempts at the task's rounds until none is open, or the node fails."""
        try:
            while (hint := self._client.attempt(task)) is not None:
                watch.note_attempt()
                if worker.is_old(hint):
                    self._choose_next_node()
                    break
                try:
                    if worker.advance(hint):
                        self._last_work = time.monotonic()
                except RpcCallError as error:
                    # The phase ended meanwhile, or the account cannot pay: the next poll tells.
                    _log.warning(f"refused: {error}", round=hint.round)
                    self._client.rotate()  # a refusal is the word of one node
                    time.sleep(REFUSAL_RETRY_SECONDS)
                self._leave_if_ending(worker)  # after a commitment, which keeps the bond in POT
                if worker.is_unbound(hint) and not worker.has_left:
                    self._leave_if_in_vain(worker, watch, task)
                if worker.is_out or self._has_waited_long():
                    break
                time.sleep(self._poll_seconds)
        except OutOfTaskError:
            raise
        except ContentUnavailableError as error:
            self._try_another(error, CONTENT_RETRY_SECONDS)
        except ClientError as error:
            self._try_another(error, RETRY_SECONDS)
        if self._has_waited_long():
            self._choose_next_node()
        time.sleep(self._poll_seconds)

    def _leave_idle(self, worker: TaskWorker, task: TaskId) -> None:
        """Leave a task that opens no attempt.

        A seat that has displaced others owes an attempt, also if money is missing for it.

        Raises:
            ClientError: No node answers.
        """
        now = time.monotonic()
        if now < self._other_due:
            return
        try:
            worker.leave()
        except RpcCallError as error:
            self._other_due = now + OWED_SECONDS
            _log.info(f"not left: {error}", task=task)

    def _leave_if_in_vain(self, worker: TaskWorker, watch: IdleWatch, task: TaskId) -> None:
        """Leave a task that has kept the miner waiting for long, if there is another one.

        Raises:
            ClientError: No node answers.
        """
        now = time.monotonic()
        if self.is_ending or now < self._other_due or not watch.has_waited_in_vain():
            return
        self._other_due = now + OTHER_SECONDS
        if not self._choice.has_other(task):
            return
        try:
            worker.leave_unbound()
        except RpcCallError as error:
            # A seat that has displaced others owes an attempt, or the phase has just ended.
            self._other_due = now + OWED_SECONDS
            _log.info(f"not left: {error}", task=task)
        else:
            _log.warning("the task has no attempt for this miner; it looks for another", task=task)

    def _has_waited_long(self) -> bool:
        return time.monotonic() - self._last_work > PATIENCE_SECONDS

    def _try_another(self, error: ClientError, seconds: float) -> None:
        """Go on with another node: at once if this one's answer was wrong, else after a pause."""
        if isinstance(error, DishonestNodeError):
            self._client.drop(error)
            return
        _log.warning(str(error))
        time.sleep(seconds)
        self._choose_next_node()

    def _choose_next_node(self) -> None:
        self._last_work = time.monotonic()
        self._client.rotate()
