"""Mining one task: bond, gradients, commitments, reveals (docs/spec/training.md, section 10).

When an attempt opens, the worker proves it (miner/light.py), computes the gradient on the samples
that it assigns, stores the gradient, and commits to it in a transaction. Once a final block ends
the commitment phase, it reveals the gradient (miner/reveals.py).
A gradient is on the disk before its commitment is sent, so a miner that is killed at any moment can
reveal it after its restart, and is never taken for a cheat.
"""

import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from chain.amounts import format_amount
from chain.contracts import (
    gradient_ledger,
    miner_seats,
    reward_distributor,
)
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.ledger_storage import StoredSeat
from chain.contracts.miner_seats import MAX_MISSES, MISS_WINDOW
from chain.contracts.task_registry import TaskStatus
from chain.primitives import TOKEN_UNIT, Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.assignment import Assignment
from chain.training.attempt import AttemptId
from chain.training.attempt_description import AttemptDescription
from chain.training.encoding import (
    GradientHeader,
    compute_commitment,
    compute_gradient_root,
)
from chain.training.fines import compute_miss
from chain.training.state import FLOAT32_BYTES
from chain.training.task_checks import compute_work_milliseconds
from chain.training.task_spec import TaskSpec
from miner.builder import PayloadBuilder
from miner.client import FailoverClient
from miner.deadline import compute_with_deadline
from miner.gradient_store import SALT_BYTES, GradientStore, PreparedGradient
from miner.idle_watch import IdleWatch
from miner.light import LightClient, ProvenAttempt
from miner.limits import DAY_SECONDS, compute_lock_seconds
from miner.nodes import SLOW_SECONDS
from miner.outcomes import (
    NoRoomError,
    OutcomeLog,
    OutOfTaskError,
    describe_ended_seat,
    describe_lost_bond,
    has_recent_miss,
)
from miner.places import Places
from miner.replies import AttemptReply
from miner.reveals import RevealPusher
from miner.transactor import MinerIdentity, Transactor, change_of_seat, claim_of
from miner.trial import UnitTrial
from pot_common.rpc_client import RpcCallError
from pot_common.rpc_replies import ClientError
from pot_common.samples import compute_samples

REGISTER_TRIES: Final = 5
"""How often a miner tries to take a seat: others may be faster, or an attempt may just open."""

REGISTER_RETRY_SECONDS: Final = 2.0
"""The pause between two tries."""

LEAVE_SECONDS: Final = 5.0
"""A miner without a computed gradient leaves the task when so much of the commitment phase is left.
That is enough for a block to take the call before the next attempt can open."""

LEAVE_SHARE: Final = 4
"""In a phase so short that this part of it is less, the miner leaves when this part is left: before
it paid its bonds, it computed its units in half of a phase or less."""

MODEL_SHARE: Final = 2
"""A node that would take longer to send the model than this part of the time that the phase leaves
for both the model and the gradient is too slow."""

MISSED: Final = (
    f"this seat has missed an attempt, and a second miss within {MISS_WINDOW} attempts costs its "
    "whole bond in POT"
)
"""Begins a warning after a first miss."""

_log = structlog.get_logger("miner")


class TaskWorker:
    """Mines one task."""

    def __init__(
        self,
        client: FailoverClient,
        light: LightClient,
        identity: MinerIdentity,
        task: TaskId,
        spec: TaskSpec,
        builder: PayloadBuilder,
        store: GradientStore,
        *,
        stays: bool,
    ) -> None:
        """Make the worker of a task.

        Args:
            client: The nodes.
            light: The chain, as proofs show it.
            identity: The account that mines.
            task: The task.
            spec: Its specification.
            builder: Computes gradients.
            store: Keeps them.
            stays: Whether the miner stays in the task whatever happens; otherwise it leaves a task
                that opens no attempt, or in which it misses attempts.
        """
        self._client = client
        self._light = light
        self._identity = identity
        self._task = task
        self._spec = spec
        self._builder = builder
        self._store = store
        self._affordable_units: int | None = None
        """The most units that the trial computed in time; None before the trial."""
        self._stays = stays
        self.has_seat = False
        """Whether the account has, or may have, a seat that has not ended."""
        self.has_left = False
        """Whether `leave` was called."""
        self.gave_up = False
        """Whether the miner left because of a missed attempt. It must not come back by itself."""
        self.is_out = False
        """Whether it left without owing an attempt."""
        self._without_work: AttemptId | None = None
        """The last attempt in which the account takes no part."""
        self._proven: ProvenAttempt | None = None
        """The last attempt that was proven."""
        self._committed: AttemptId | None = None
        """The last attempt with our commitment, or without work for us."""
        self._revealed: tuple[AttemptId, int] | None = None
        """The last attempt and ballot for which no reveal of ours is left to do."""
        self._transact = Transactor(client, light, identity).transact
        self._places = Places(client, light, identity.address, task, spec, self._transact)
        self._pusher = RevealPusher(client, light, identity.address)
        self._outcomes = OutcomeLog(client, identity.address)
        self._told_misses = 0
        """The misses of the seat of which the log has warned."""

    # Bond and rewards.

    def build_watch(self) -> IdleWatch:
        """A watch of the task while it opens no attempt."""
        return IdleWatch(
            self._light, self._task, self._spec, self._identity.address, stays=self._stays
        )

    def register(self, units: int) -> None:
        """Take a seat with `units` a round, unless the account has one already.

        An account that lost its bond earlier places a new one. An account whose seat has ended
        otherwise takes it again. In a full task the newcomer takes the place of seats whose term
        is over.

        Raises:
            OutOfTaskError: The seat was displaced, and there is no room for it now.
            ClientError: The seat ended after misses, the account cannot pay the bond, or no unit
                is free.
        """
        seat = self._light.progress(self._task, self._identity.address).seat
        if seat.is_slashed:
            _log.warning("an earlier bond was lost; a new one is placed", task=self._task)
        elif seat.units > 0 and seat.has_ended:
            if seat.miss_count >= MAX_MISSES:
                told = self._describe_ended(seat.miss_count)
                raise ClientError(f"{told}. Start the miner again when the bonds are back")
        elif seat.units > 0:
            self.has_seat = True
            _log.info("miner is registered already", task=self._task)
            return
        match self._light.task(self._task)[1]:
            case TaskStatus.CLOSED:
                raise ClientError(
                    f"task {self._task} is closed; `pot task list` shows those that are open"
                )
            case TaskStatus.PENDING | TaskStatus.PAUSED as status:
                raise ClientError(f"task {self._task} is {status.name.lower()} and takes no miners")
            case _:
                pass
        is_returning = seat.units > 0 and not seat.is_slashed
        units = seat.units if is_returning else self._count_units(units)
        for tries_left in reversed(range(REGISTER_TRIES)):
            try:
                self._take_seat(units, is_returning=is_returning)
            except NoRoomError as error:
                if not seat.can_return:
                    raise
                raise OutOfTaskError(str(error), has_left=True, is_displaced=True) from error
            except RpcCallError as error:
                # Another miner was faster, or an attempt has just opened.
                if not tries_left:
                    raise
                _log.warning(f"no seat yet: {error}", task=self._task)
                time.sleep(REGISTER_RETRY_SECONDS)
            else:
                return

    def _count_units(self, wanted: int) -> int:
        """The units to declare: no more than this machine computes in time.

        Raises:
            ClientError: It does not compute a single one in time.
        """
        if self._affordable_units is None:
            trial = UnitTrial(self._task, self._spec, self._builder)
            wanted = min(wanted, self._spec.reward.max_units)
            self._affordable_units = trial.count_units(wanted, self._fetch_newest_theta)
        units = self._affordable_units
        if units < wanted:
            _log.warning(
                f"this machine computes {units} of {wanted} units in the "
                f"time that commit_seconds {self._spec.phases.commit_seconds} leaves for them; it "
                "takes as many",
                task=self._task,
            )
        return units

    def _take_seat(self, units: int, *, is_returning: bool) -> None:
        """Take a seat: a new one, or the ended one, with the bonds that still answer for it."""
        place = self._places.choose(units, is_returning=is_returning)
        bonds = {} if is_returning else self._places.approve_bonds(place.units)
        self.has_seat = True  # also if the miner is stopped before it has the receipt
        try:
            self._change_seat(
                miner_seats.register(self._task, place.units, place.displaced),
                lambda seat: seat.has_seat,
            )
        except RpcCallError:
            self.has_seat = False
            raise
        lock_seconds = compute_lock_seconds(
            self._spec, self._light.network.parameters, len(self._light.validators)
        )
        told = {
            "task": self._task,
            "units": place.units,
            "displaced": len(place.displaced),
            "lock_days": round(lock_seconds / DAY_SECONDS, 2),
        }
        if is_returning:
            _log.info("seat taken again, with its bonds", **told)
        else:
            _log.info("miner registered", **told, **bonds)

    def leave(self) -> None:
        """Give the seat up; if an attempt has just opened, the miner still owes it.

        Raises:
            RpcCallError: An attempt opens in this very block.
        """
        self._change_seat(miner_seats.leave(self._task), lambda seat: seat.has_ended)
        self.has_left, self.has_seat = True, False
        _log.info("left the task", task=self._task)

    def leave_unbound(self) -> None:
        """Give up a seat that takes no part in the attempt in progress, and owes it nothing.

        Raises:
            ClientError: No node answers, or the commitment phase is over.
        """
        self.leave()
        self.is_out = True

    def claim(self) -> None:
        """Claim what the account has earned in the task and not claimed yet.

        An error ends nothing: the token is of the submitter's choice, and bonds may be due.
        """
        try:
            reward = self._client.reward_proof(self._task, self._identity.address)
            if reward is None or reward.claimable == 0:
                _log.info("no rewards to claim", task=self._task)
                return
            self._transact(
                reward_distributor.claim(self._task, reward.cumulative, reward.proof),
                claim_of(self._task, self._identity.address, reward.cumulative),
            )
        except ClientError as error:
            _log.warning(
                "rewards not claimed; try `pot wallet claim` later",
                task=self._task,
                reason=str(error),
            )
            return
        _log.info("rewards claimed", task=self._task, amount=format_amount(reward.claimable))

    def log_last_outcome(self) -> None:
        """Log what became of the last gradient: the task is closed, and no attempt follows."""
        self._outcomes.report(None)

    def _change_seat(self, call: ContractCall, is_seen: Callable[[StoredSeat], bool]) -> None:
        """Have a call change the miner's seat, and prove that it did."""
        self._transact(call, change_of_seat(self._task, self._identity.address, is_seen))

    # Work.

    @property
    def is_at_work(self) -> bool:
        """Whether the attempt in progress, or a newcomer's first one, may need its gradient."""
        proven, revealed = self._proven, self._revealed
        return proven is None or revealed is None or revealed[0] != proven.attempt_id

    def is_unbound(self, hint: AttemptReply) -> bool:
        """Whether the attempt takes commitments, and none of this account.

        A seat that has not taken part in an attempt yet may then be given up.
        """
        attempt_id = hint.get_attempt_id(self._task)
        return hint.phase == "commitment" and self._without_work == attempt_id

    def is_old(self, hint: AttemptReply) -> bool:
        """Whether a later attempt was proven before: the node that gave the hint is behind."""
        return (
            self._proven is not None and hint.get_attempt_id(self._task) < self._proven.attempt_id
        )

    def advance(self, hint: AttemptReply) -> bool:
        """Do what the attempt needs from us now, and return whether there was anything to do.

        Raises:
            DishonestNodeError: The chain has no such attempt.
            OutOfTaskError: The account lost its bond, or has left the task.
            ClientError: No node answers, or the node refused.
        """
        attempt_id = hint.get_attempt_id(self._task)
        self._outcomes.report(attempt_id)
        if hint.phase == "commitment" and attempt_id != self._committed:
            try:
                self._commit(self._prove(hint))
            except RpcCallError:
                self.require_bond()
                raise
            self._committed = attempt_id
            return True
        if hint.phase in ("verdict", "audit"):
            load = partial(self._store.load, attempt_id)
            if self._revealed == (attempt_id, hint.ballot):
                self._pusher.push_rest(attempt_id, hint.ballot, load)
                return False
            prepared = load()
            return prepared is not None and self._reveal(self._prove(hint), hint.ballot, prepared)
        return False

    def _prove(self, hint: AttemptReply) -> ProvenAttempt:
        known = self._proven
        if known is None or known.attempt_id != hint.get_attempt_id(self._task):
            known = self._light.prove_attempt(self._task, hint, self._client.current)
            self._proven = known
        return known

    def _commit(self, attempt: ProvenAttempt) -> None:
        attempt_id = attempt.attempt_id
        round_number, attempt_number = attempt_id.round_number, attempt_id.attempt_number
        assignment = self._describe(attempt).assign(attempt.participants)
        if assignment.units_of(self._identity.address) == 0:
            self.require_bond()
            self._without_work = attempt_id
            _log.info(
                "no work in this attempt, which opened before this miner registered",
                round=round_number,
                attempt=attempt_number,
            )
            return
        header = self._build_header(attempt)
        prepared = self._store.load(attempt_id)
        if prepared is not None and self._has_committed(attempt):
            self._outcomes.expect(attempt_id)
            return
        if prepared is None:
            prepared = self._prepare(attempt, header, assignment)
        commitment = compute_commitment(
            header, compute_gradient_root(prepared.payload), prepared.salt, prepared.units
        )
        self._change_seat(
            gradient_ledger.commit_gradient(
                self._task, round_number, attempt_number, prepared.units, commitment
            ),
            lambda seat: seat.committed_attempt == attempt.ordinal,
        )
        self._outcomes.expect(attempt_id)
        _log.info("gradient committed", round=round_number, attempt=attempt_number)
        self._leave_after_miss(attempt.ordinal)

    def _leave_after_miss(self, ordinal: int) -> None:
        """Leave the seat now that it has committed, if it missed an attempt before.

        A second miss would cost an eighth of a round's pay and the seat bond. After a commitment,
        leaving costs nothing.

        Args:
            ordinal: The attempt to which the miner has committed.
        """
        seat = self._light.progress(self._task, self._identity.address).seat
        if not seat.miss_count or not seat.has_seat:
            self._told_misses = 0
            return
        if self._stays:
            self._warn_of_miss(seat.miss_count, ordinal)
            return
        self._give_up(f"{MISSED}; the miner has committed once more and leaves the task")

    def _warn_of_miss(self, miss_count: int, ordinal: int) -> None:
        """Say once after a miss what another one would cost, while both are in one window."""
        if miss_count == self._told_misses:
            return
        self._told_misses = miss_count
        if has_recent_miss(self._client, self._task, self._identity.address, ordinal):
            _log.warning(
                f"{MISSED}; to give it up: pot miner leave {self._task}, and finish the attempt "
                "in progress",
                task=self._task,
            )

    def _leave_late(self) -> None:
        """Leave the seat while the attempt that it may miss is still open."""
        self._give_up(
            f"the gradient is not computed, and miners commit for "
            f"{self._spec.phases.commit_seconds} s: this machine took less time for it before the "
            "bonds were paid; the miner leaves the task, so that it misses one attempt at most"
        )

    def _give_up(self, reason: str) -> None:
        _log.warning(reason, task=self._task)
        try:
            self.leave()
        except ClientError as error:
            _log.warning(f"not left: {error}", task=self._task)
        else:
            self.gave_up = True

    def require_bond(self) -> None:
        """Accept an account that still takes part in the task.

        Raises:
            OutOfTaskError: It lost its bond, or has left. The message says why, and what to do.
        """
        seat = self._light.progress(self._task, self._identity.address).seat
        self.has_seat = seat.has_seat
        if seat.is_slashed:
            last = self._outcomes.last
            receipts = [] if last is None else self._outcomes.fetch(last)
            raise OutOfTaskError(describe_lost_bond(last, self._task, receipts))
        if seat.has_ended:
            misses = seat.miss_count
            raise OutOfTaskError(
                self._describe_ended(misses),
                has_left=misses < MAX_MISSES,
                is_displaced=seat.can_return,
            )

    def _describe_ended(self, miss_count: int) -> str:
        """What the ended seat lost, as nodes tell it, and what to do."""
        return describe_ended_seat(self._client, self._task, self._identity.address, miss_count)

    def _prepare(
        self, attempt: ProvenAttempt, header: GradientHeader, assignment: Assignment
    ) -> PreparedGradient:
        """Compute the gradient of an attempt and store it."""
        started = time.monotonic()
        theta = self._fetch_theta(header.theta_root)
        first, count = assignment.sample_range(self._identity.address)
        samples = compute_samples(assignment.seed, assignment.sample_count, first, count).tolist()
        units = assignment.units_of(self._identity.address)
        prepared = PreparedGradient(
            units=units,
            salt=Hash32(secrets.token_bytes(SALT_BYTES)),
            payload=self._compute_in_time(
                lambda: self._builder.build_payload(header, theta, samples), units
            ),
        )
        self._store.save(attempt.attempt_id, prepared)
        seconds = round(time.monotonic() - started, 3)
        _log.info(
            "gradient", round=attempt.attempt_id.round_number, samples=len(samples), seconds=seconds
        )
        return prepared

    def _compute_in_time(self, compute: Callable[[], bytes], units: int) -> bytes:
        """The payload that `compute` gives. If that takes too long, the miner may leave meanwhile.

        A seat that misses its last attempt loses its bond in POT. One that commits to a later
        attempt keeps most of it. So the miner stays for the next attempt, unless a further miss
        could cost at least as much as that bond.
        """
        if self._stays or self.has_left or not self._is_miss_dear(units):
            return compute()
        progress = self._light.progress(self._task, self._identity.address)
        seconds = self._spec.phases.commit_seconds
        left = progress.attempt.open_time + seconds - progress.header.timestamp
        margin = min(LEAVE_SECONDS, seconds / LEAVE_SHARE)
        return compute_with_deadline(compute, left - margin, self._leave_late)

    def _is_miss_dear(self, units: int) -> bool:
        """Whether a miss costs at least as much as the bond in POT."""
        reward = self._spec.reward
        seat_bond = self._light.network.parameters.seat_bond_pot * TOKEN_UNIT
        is_pot = reward.token == TRAINING_TOKEN
        return is_pot and compute_miss(units * reward.unit_price) >= seat_bond

    def _build_header(self, attempt: ProvenAttempt) -> GradientHeader:
        theta_root = self._find_theta_root(attempt.attempt_id.round_number, attempt.model_root)
        return self._describe(attempt).build_header(self._identity.address, theta_root)

    def _find_theta_root(self, round_number: int, model_root: Hash32) -> Hash32:
        return self._spec.initial_weights if round_number == 0 else model_root

    def _fetch_newest_theta(self) -> bytes:
        """The model from which the attempt in progress starts, or the next one."""
        attempt = self._light.progress(self._task, self._identity.address).attempt
        return self._fetch_theta(self._find_theta_root(attempt.round_number, attempt.model_root))

    def _describe(self, attempt: ProvenAttempt) -> AttemptDescription:
        chain_id = self._identity.chain_id
        return AttemptDescription(attempt.attempt_id, self._spec, chain_id, attempt.seed)

    def _fetch_theta(self, root: Hash32) -> bytes:
        byte_count = count_parameters(self._spec.model) * FLOAT32_BYTES
        allowed_seconds = compute_work_milliseconds(self._spec.phases.commit_seconds) / 1_000
        within_seconds = max(SLOW_SECONDS, allowed_seconds / MODEL_SHARE)
        return self._client.fetch_blob(root, byte_count, within_seconds)

    def _has_committed(self, attempt: ProvenAttempt) -> bool:
        """Whether the attempt has a commitment of ours."""
        progress = self._light.progress(self._task, self._identity.address)
        return progress.seat.committed_attempt == attempt.ordinal

    def _reveal(
        self, attempt: ProvenAttempt, ballot_number: int, prepared: PreparedGradient
    ) -> bool:
        """Upload the gradient, if commitments are over and ours is among them.

        Returns:
            Whether an upload was tried.
        """
        progress = self._light.progress(self._task, self._identity.address)
        if not progress.is_past_commitments(attempt.open_block, self._spec.phases.commit_seconds):
            return False
        if progress.seat.committed_attempt != attempt.ordinal:
            self._revealed = (attempt.attempt_id, ballot_number)  # no commitment, nothing to reveal
            return False
        if self._pusher.push(attempt.attempt_id, ballot_number, prepared):
            self._revealed = (attempt.attempt_id, ballot_number)
            self._store.prune(attempt.attempt_id.round_number)
        return True
