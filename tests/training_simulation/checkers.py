"""What must hold after every block of a simulated network; a violation is an AssertionError.

Six named properties of training and money, and that the parts agree with each other. What the votes
decide and who is paid is counted by `formats`, not by the code under test.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Final

from eth_abi.abi import decode

from chain.contracts import gradient_ledger, miner_seats, reward_distributor, task_registry
from chain.contracts.addresses import (
    GRADIENT_LEDGER,
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
    VALIDATOR_SET,
)
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    AttemptPaid,
    AttemptVoided,
    BallotFailed,
    Deadline,
    GradientCommitted,
    LateVerdictPosted,
    Phase,
    ResultKind,
    ResultPosted,
    ResultVote,
    RoundSettled,
    RoundState,
    VerdictPosted,
)
from chain.contracts.miner_seats import (
    BondWithdrawn,
    CreditWithdrawn,
    FineKind,
    FinesApproved,
    FinesPosted,
    MinerAbsent,
    MinerFined,
    MinerLeft,
    MinerRegistered,
    SeatBondBurnt,
)
from chain.contracts.reward_distributor import Claimed
from chain.contracts.task_registry import (
    TaskActivated,
    TaskClosed,
    TaskFunded,
    TaskPaused,
    TaskRefunded,
    TaskResumed,
    TaskStatus,
    TaskSubmitted,
)
from chain.primitives import ZERO_HASH, Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.attempt_records import Attempt, CommitmentRecord, EndedAttempt
from chain.training.history import TaskHistory
from chain.training.result_vote import build_empty_vote
from chain.training.rewards import build_reward_tree
from chain.training.task_spec import TaskSpec
from chain.types.validator_set import ValidatorSet, compute_max_faulty
from node.training.votes import SLASH_GAS, VOTE_GAS
from tests.training_simulation import formats
from tests.training_simulation.chain import HOLDERS, JOINER, SUBMITTERS, Executed, Transaction
from tests.training_simulation.cluster import Cluster
from tests.training_simulation.fees import Fees, Moment
from tests.training_simulation.snapshots import find_difference
from tests.training_simulation.values import (
    OTHER_TOKEN,
    TOLERANCE,
    Payload,
    compute_initial_state,
    compute_junk_purchase,
    compute_model_root,
    compute_next_state,
)
from tests.worlds.contracts import CHAIN_ID, SEAT_BOND, STAKE, SUPPLY_EACH, Reverted

VOTE_BLOCKS: Final = 8
"""Blocks within which every operator that is up has voted on fines."""

MONEY: Final = "money"
"""No token is made or lost."""
FOLD: Final = "fold"
"""The history folded from events is what the contracts hold."""
SNAPSHOT: Final = "snapshot"
"""A node that joins by a snapshot knows of each task what a node that saw its events knows."""
CALLS: Final = "calls"
"""The contracts refuse an honest call only because another one came first, or a phase is over."""
BOND: Final = "bond"
"""A good gradient that enough honest validators hold in time never costs the whole bond."""
BOND_HELD: Final = "bond-held"
"""A gradient that enough honest validators hold in time is no miss."""
PAY: Final = "pay"
"""Who is paid what follows from the words of the settled ballot."""
HEARD: Final = "heard"
"""A verdict phase that ends early leaves no gradient open that all honest validators find right."""
FATE: Final = "fate"
"""A quorum fails a ballot, voids an attempt or settles a round only as the words say."""
JUDGES: Final = "judges"
"""The validators in force at the first verdict of a ballot judge it, and their quorum ends it."""
ROOT: Final = "root"
"""The settled training state is that of the accepted gradients."""
ESCROW: Final = "escrow"
"""Escrow is spent only on accepted units and on shares, and only good gradients are accepted."""
ESCROW_SHARES: Final = "escrow-shares"
"""A validator's share is paid only in an attempt with an accepted unit."""
WASTE: Final = "waste"
"""A submitter pays at least genesis' price for what its tasks reserve."""
END: Final = "end"
"""A task ends by its lifetime plus one attempt."""
CLAIM: Final = "claim"
"""What a settled root gives can be claimed by its account, and by no other."""
BOUNDS: Final = "bounds"
"""Every call of an operator fits its gas limit."""
ASSIGNMENT: Final = "assignment"
"""Miners train on different samples, and no more than a round has."""
GUILT: Final = "guilt"
"""A miner whose commitment is guilty by the words of its attempt is fined, once and no more."""
ABSENCE: Final = "absence"
"""A miner is charged for attempts in which it took part and did not commit, and for no others."""
SEATS: Final = "seats"
"""A seat ends at its second miss, and each burns an eighth of its bond in POT.

Two misses in eight attempts, a miss in the last attempt and a fraud burn what is left, and nothing
else does. All seats together have no more units than a round, and an attempt opens only with enough
of them. A newcomer displaces only seats whose term is over and whose units it needs, leaves enough
for an attempt, and is refused for no other reason. It owes the next attempt; as long as none opens
because seats or units are missing or the task is paused, those it displaced take their seats back.
"""
VOTES: Final = "votes"
"""Operators' votes change something, and few of a ballot do."""
PROGRESS: Final = "progress"
"""A healthy network settles a round within a bounded time."""

UNPAID: Final = (
    GradientCommitted,
    VerdictPosted,
    LateVerdictPosted,
    ResultPosted,
    BallotFailed,
    FinesPosted,
    FinesApproved,
)
"""Events after which a task's account is as before."""

RACES: Final = frozenset(
    {
        "LedgerWrongPhase",
        "LedgerWrongRound",
        "LedgerAlreadyVoted",
        "LedgerTooLate",
        "SeatsAlreadyApproved",
        "SeatsAlreadyCommitted",
        "SeatsAlreadyRegistered",
        "SeatsAlreadyVoted",
        "SeatsAttemptOpening",
        "SeatsAttemptOwed",
        "SeatsBondLocked",
        "SeatsNoneOver",
        "SeatsNotActive",
        "SeatsNotDisplaceable",
        "SeatsNothingToFine",
        "SeatsNotParticipating",
        "SeatsNotRegistered",
        "SeatsTaskFull",
        "SeatsWindowClosed",
        "ERC20InsufficientAllowance",  # the approval was lost
        "TaskAlreadyAnswered",
        "TaskAnswersOver",
        "TaskNotExpired",
        "TaskIsOver",
        "TaskWrongStatus",
        "TaskNothingToRefund",
        "DistributorInvalidProof",
        "DistributorNothingToClaim",
    }
)
"""Refusals that an honest sender may meet, because something else came first."""


IDLE_BLOCKS: Final = 256
"""A newcomer may leave a task that opens no attempt for so long."""

NEVER_MS: Final = 2**63
"""Later than any moment."""

PLACE_REFUSALS: Final = (
    "SeatsTaskFull",
    "SeatsNotDisplaceable",
    "SeatsAttemptOpening",
    "SeatsAlreadyRegistered",
    "SeatsInvalidUnits",
)
"""Refusals of a newcomer that must have a reason."""

REGISTER: Final = miner_seats.register(TaskId(0), 0).data[:4]
"""The selector of a call that takes a seat."""

ON_ENDED: Final = (
    miner_seats.post_fines(TaskId(0), 0, ZERO_HASH).data[:4],
    gradient_ledger.post_late_verdict(TaskId(0), 0, b"").data[:4],
)
"""The selectors of votes on an attempt that has ended."""

ON_BALLOT: Final = (
    gradient_ledger.post_verdict(TaskId(0), 0, 0, 0, b"").data[:4],
    gradient_ledger.post_result(
        TaskId(0), 0, 0, 0, build_empty_vote(ResultKind.VOID, 0), None, 0
    ).data[:4],
)
"""The selectors of votes in a ballot in progress."""


class ViolationError(AssertionError):
    """A property does not hold; `name` says which."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


@dataclass
class Seat:
    """What the events say of a miner's seat."""

    units: int
    bond: int
    seat_bond: int
    """What is left of the bond in POT."""
    first_attempt: int
    """The bonds answer for attempts from this one on."""
    since_attempt: int
    """The first attempt since the seat was taken last."""
    since_block: int
    has_displaced: bool = False
    """Whether seats past their term ended for it when it was taken last."""
    is_displaced: bool = False
    """Whether it ended to make room for another one."""
    last_attempt: int | None = None
    """None while the seat has not ended; 0 if it took part in none."""
    earlier: list[int] = field(default_factory=list)
    """The attempts that it took part in before it was taken again."""
    absent: set[int] = field(default_factory=set)
    """The attempts that were charged as absences."""
    fined: dict[int, FineKind] = field(default_factory=dict)
    """The fines by attempt."""
    eighths_burnt: int = 0
    """How often an eighth of the seat bond was burnt for a miss."""

    def compute_last(self, attempt_count: int) -> int:
        """Its last attempt, if it ends now or has ended; 0 if it took part in none."""
        if self.last_attempt is not None:
            return self.last_attempt
        is_begun = attempt_count >= self.since_attempt
        return attempt_count if is_begun else max(self.earlier, default=0)

    def list_attempts(self, attempt_count: int) -> set[int]:
        """The attempts that it takes part in, if the task opened so many."""
        last = self.compute_last(attempt_count)
        return {*self.earlier, *range(self.since_attempt, last + 1)}

    @property
    def missed(self) -> set[int]:
        """The attempts that were missed."""
        return self.absent | {each for each, kind in self.fined.items() if kind is FineKind.MISS}

    @property
    def is_fraud(self) -> bool:
        """Whether the seat was lost by a fraud."""
        return FineKind.FRAUD in self.fined.values()

    def has_close_misses(self) -> bool:
        """Whether two misses were within eight attempts."""
        ordered = sorted(self.missed)
        return any(later - earlier < formats.MISS_WINDOW for earlier, later in pairwise(ordered))


class Checkers:
    """Checks every property except those that `without` names."""

    def __init__(self, cluster: Cluster, without: frozenset[str] = frozenset()) -> None:
        self._cluster = cluster
        self._chain = cluster.chain
        self._without = without
        self._operators = (*cluster.chain.validator_set.operators, JOINER)
        contracts = (TASK_REGISTRY, GRADIENT_LEDGER, MINER_SEATS, VALIDATOR_SET)
        self._known = (*HOLDERS, *cluster.chain.validator_set.operators, *contracts)
        self._supplies = {TRAINING_TOKEN: SUPPLY_EACH * len(HOLDERS) + STAKE * cluster.world.n}
        """The supply of each token that pays for a task."""
        if not all(each.is_paid_in_pot for each in cluster.world.others):
            self._supplies[OTHER_TOKEN] = SUPPLY_EACH * len(HOLDERS)
        self._seats: dict[tuple[TaskId, Address], Seat] = {}
        self._displacing: set[tuple[TaskId, Address]] = set()
        """Accounts with a registration in progress that displaces seats."""
        self._old_seats: list[tuple[tuple[TaskId, Address], Seat]] = []
        """Seats whose bonds were withdrawn, or that were followed by another one."""
        self._burnt: Counter[Address] = Counter()
        """What fines and misses have taken from bonds, by token."""
        self._credits: Counter[tuple[Address, Address]] = Counter()
        """What operators have earned as accusers and not withdrawn, by token and operator."""
        self._credits_withdrawn: Counter[Address] = Counter()
        self._fines_votes: Counter[tuple[TaskId, int, bool, Hash32]] = Counter()
        """How many validators voted for a root of fines: task, attempt, kind of vote and root."""
        self._approved_fines: dict[tuple[TaskId, int, bool], Hash32] = {}
        self._results_of: defaultdict[
            tuple[AttemptId, int, Address], list[tuple[ResultVote, bool]]
        ] = defaultdict(list)
        """What a validator posted in a ballot, and whether it had evaluated."""
        self._attempt_count: dict[TaskId, int] = {}
        self._closed: set[TaskId] = set()
        self._open_block: dict[TaskId, int] = {}
        """The block in which the last attempt of each task opened."""
        self._open_second: dict[TaskId, int] = {}
        """The time of that block."""
        self._last_opened: dict[TaskId, AttemptId] = {}
        self._committed: dict[TaskId, set[Address]] = {}
        """The miners that have committed in the last attempt."""
        self._escrow: dict[TaskId, int] = {}
        """What the registry must hold for each task."""
        self._earned: dict[TaskId, dict[Address, int]] = {}
        self._roots: dict[tuple[TaskId, tuple[tuple[Address, int], ...]], int] = {}
        """The rewards roots of what accounts have earned, as numbers."""
        self._states: dict[TaskId, Hash32] = {}
        self._judges_of: dict[tuple[AttemptId, int], ValidatorSet] = {}
        """The validators that judge each ballot, by attempt and ballot."""
        self._late_ms: dict[tuple[TaskId, int], int] = {}
        """When the verdict phase of a ballot became late, by task and ballot number."""
        self._opened: list[AttemptId] = []
        self._open: set[TaskId] = set()
        """The tasks with an attempt in progress."""
        self._active: set[TaskId] = set()
        """By events, because a later call of the block that is checked may close a task."""
        self._fees = Fees(self._count_validators, cluster.world.empty_block_ms, self.require)
        self._healthy_since: Moment | None = None
        self._slot_price = 0
        """What the slots cost that the wasteful submitter had so far."""
        self._active_price = 0
        """What all costs that its active tasks had so far."""
        self._waste_since = cluster.now
        self._worker_ms: dict[Address, int] = {}

    def require(self, name: str, is_met: bool, text: str) -> None:
        """Raise a violation of `name` unless it is met, or not checked in this world."""
        if not is_met and name not in self._without:
            raise ViolationError(name, text)

    # What happens.

    def note_phase(self, history: TaskHistory, phase: Phase, deadline: Deadline) -> None:
        """Remember when the verdict phase of a ballot becomes late."""
        attempt, cluster = history.attempt, self._cluster
        if phase is not Phase.VERDICT or attempt is None:
            return
        key = (history.task_id, attempt.ballot_number)
        if key not in self._late_ms:
            n, number = len(self._judges(attempt).validators), self._chain.view.number
            spec = self._spec(history.task_id)
            if formats.is_late(deadline, spec, cluster.world.floor, n, number, cluster.now):
                self._late_ms[key] = cluster.now_ms

    def note_work(self, task_id: TaskId, took_ms: int) -> None:
        """Add to the time that a task has cost the validators."""
        submitter = self._fees.tenancies[task_id].submitter
        self._worker_ms[submitter] = self._worker_ms.get(submitter, 0) + took_ms

    def on_block(self, executed: Sequence[Executed]) -> None:
        """Check everything that the calls of a block may have changed."""
        touched: dict[TaskId, bool] = {}
        for each in executed:
            self._check_call(each)
            self._fees.apply(each, self._cluster.world.extension, self._now_moment())
            for event in each.events:
                task_id = getattr(event, "task_id", None)
                if task_id is not None:
                    is_money = not isinstance(event, UNPAID)
                    touched[task_id] = touched.get(task_id, False) or is_money
                self._apply(event)
            for event in each.events:
                if isinstance(event, MinerAbsent | MinerFined):
                    self._check_missed(event)
        if any(each.events for each in executed):
            self._check_money()
        for task_id, is_money in touched.items():
            history = self._chain.view.histories[task_id]
            if is_money:
                self._check_account(history)
            self._check_round(history)
            self._check_snapshot(task_id)
        self._check_assignments()
        self._check_ends()
        self._check_waste()

    def _check_call(self, executed: Executed) -> None:
        transaction, error, world = executed.transaction, executed.error, self._cluster.world
        if not transaction.is_honest:
            self.require(CLAIM, error is not None, f"{transaction.label} succeeds")
        elif error is not None:
            is_liar = any(
                each.operator == transaction.sender and each.lie is not None
                for each in self._cluster.validators
            )
            name = error if isinstance(error, str) else error.name
            # A liar that takes its vote back can undo a quorum.
            is_undone = name == "LedgerNoQuorum" and "changes its result" in world.liars
            # A validator may be removed while its vote is on the way.
            is_removed = name == "ValidatorSetNotOperator" and world.set_change == "leave"
            is_race = is_liar or is_undone or is_removed or name in RACES or transaction.is_guess
            self.require(CALLS, is_race, f"{transaction.label}: {error}")
            if not isinstance(error, str):
                self._check_refusal(transaction, error)
        if transaction.call.data[:4] == REGISTER and transaction.is_honest:
            self._check_place(executed)
        if transaction.sender in self._operators:
            is_fine = transaction.call.to == MINER_SEATS
            limit = SLASH_GAS if is_fine else VOTE_GAS
            self.require(BOUNDS, executed.gas <= limit, f"{executed.gas} gas")

    def _check_refusal(self, transaction: Transaction, error: ContractError) -> None:
        """Refusals that are right in one case and wrong in another."""
        sender = transaction.sender
        match error:
            case ContractError("SeatsNotParticipating", (int(number), _)):
                task_id = TaskId(number)
                attempt = self._chain.view.histories[task_id].attempt
                at = None if attempt is None else attempt.id
                participants = () if at is None else self._chain.view.participants.get(at, ())
                seat = self._seats.get((task_id, sender))
                takes_part = sender in dict(participants) and seat and not seat.is_fraud
                self.require(SEATS, not takes_part, f"{transaction.label} of a participant")
            case ContractError("SeatsBondLocked", (int(number), _)):
                task_id = TaskId(number)
                seat = self._seats[task_id, sender]
                is_closed = task_id in self._closed  # a later call of this block may close it
                last = seat.compute_last(self._attempt_count.get(task_id, 0))
                is_seated = seat.last_attempt is None and not is_closed
                is_locked = is_seated or self._is_locked(task_id, seat, last)
                self.require(SEATS, is_locked, f"{transaction.label}: the bond of {seat} is free")
            case ContractError("SeatsAttemptOwed", (int(number), _)):
                task_id = TaskId(number)
                seat = self._seats[task_id, sender]
                is_free = self._takes_commitments(task_id) and not seat.has_displaced
                self.require(SEATS, not is_free, f"{transaction.label}: {seat} owes nothing")
            case ContractError("ValidatorSetNotOperator", _):
                judges = self._find_judges(transaction.call.data)
                is_judge = judges is not None and judges.find_operator(sender) is not None
                self.require(JUDGES, not is_judge, f"{transaction.label} of a judge")
            case _:
                pass

    def _find_judges(self, data: bytes) -> ValidatorSet | None:
        """The validators that may send this vote; None if it is none, or of an unknown ballot."""
        if data[:4] in ON_ENDED:
            number, ordinal = decode(["uint256", "uint32"], data[4:])
            return self._chain.find_ended(TaskId(number), ordinal).judges
        if data[:4] in ON_BALLOT:
            types = ["uint256", "uint32", "uint32", "uint32"]
            number, round_number, attempt_number, ballot = decode(types, data[4:])
            at = AttemptId(TaskId(number), round_number, attempt_number)
            return self._judges_of.get((at, ballot))
        return None

    def _is_locked(self, task_id: TaskId, seat: Seat, last_attempt: int) -> bool:
        """Whether the last attempt of a seat can still be fined."""
        if last_attempt < seat.first_attempt:
            return False
        return self._chain.view.number < self.compute_free_block(task_id, last_attempt)

    def compute_free_block(self, task_id: TaskId, ordinal: int) -> int:
        """The first block in which an attempt cannot be fined any more."""
        is_open = task_id in self._open and self._attempt_count[task_id] == ordinal
        if is_open:
            return NEVER_MS
        ended = self._chain.find_ended(task_id, ordinal)
        late_blocks, window = formats.compute_windows(self._spec(task_id), ended.judges)
        return ended.block_number + late_blocks + 2 * window + 1

    def _check_place(self, executed: Executed) -> None:
        """Whether a newcomer got the place that it asked for if it had to, and only then."""
        transaction, error = executed.transaction, executed.error
        number, units, names = decode(["uint256", "uint32", "address[]"], transaction.call.data[4:])
        task_id, displaced = TaskId(number), [Address(bytes.fromhex(each[2:])) for each in names]
        objection = self._find_return_objection(task_id, units, transaction.sender)
        objection = objection or self._find_objection(task_id, units, displaced, transaction.sender)
        name = "" if error is None else error if isinstance(error, str) else error.name
        text = f"{transaction.label}: {objection or 'it has a right to its place'}, {error}"
        if error is None:
            self.require(SEATS, not objection, text)
        elif name in PLACE_REFUSALS:
            self.require(SEATS, bool(objection), text)
        if error is None and displaced:
            self._cluster.counts["seats displaced"] += len(displaced)
            back = self._list_taken_back(task_id, displaced, transaction.sender)
            self._cluster.counts["seats taken back"] += len(back)
            if len(back) < len(displaced):
                self._displacing.add((task_id, transaction.sender))
            for miner in displaced:
                self._seats[task_id, miner].is_displaced = True

    def _find_return_objection(self, task_id: TaskId, units: int, miner: Address) -> str:
        """Why an account may not take its ended seat again; empty if it may, or has none."""
        seat = self._seats.get((task_id, miner))
        if seat is None or seat.is_fraud:
            return ""
        count = self._attempt_count.get(task_id, 0)
        if seat.last_attempt is None:
            return "it has a seat"
        if task_id in self._open and seat.last_attempt == count:
            return "it takes part in the attempt in progress"
        missed = seat.missed | self._list_absences(task_id, miner, seat)
        if len(missed) >= formats.MISSES:
            return "it has missed too often"
        if not seat.seat_bond:
            return "its seat bond is gone"
        return "" if units == seat.units else "its bonds answer for other units"

    def _list_absences(self, task_id: TaskId, miner: Address, seat: Seat) -> set[int]:
        """The attempts that have ended without a commitment of a seat that took part in them."""
        attempts = seat.list_attempts(self._attempt_count.get(task_id, 0))
        return {
            ended.attempt.ordinal
            for attempt_id, ended in self._chain.view.ended.items()
            if attempt_id.task_id == task_id
            and ended.attempt.ordinal in attempts
            and not any(each.miner == miner for each in ended.attempt.commitments)
        }

    def _takes_commitments(self, task_id: TaskId) -> bool:
        """Whether the attempt in progress is in its commitment phase."""
        view, world = self._chain.view, self._cluster.world
        if task_id not in self._open or self._open_block[task_id] == view.number:
            return False
        expected = {
            miner
            for miner, _ in view.participants[self._last_opened[task_id]]
            if (task_id, miner) not in self._seats or not self._seats[task_id, miner].is_fraud
        }
        floor = max(world.floor, 2 * (self._chain.validator_set.max_faulty + 1))
        seconds = self._spec(task_id).phases.commit_seconds
        is_over = view.number >= self._open_block[task_id] + floor
        is_over = is_over and view.timestamp >= self._open_second[task_id] + seconds
        committed = self._committed[task_id]
        return not is_over and not (committed and expected <= committed)

    def _list_live(self, task_id: TaskId) -> dict[Address, Seat]:
        """The seats of a task that have not ended."""
        return {
            miner: seat
            for (of_task, miner), seat in self._seats.items()
            if of_task == task_id and seat.last_attempt is None
        }

    def _is_blocked(self, task_id: TaskId) -> bool:
        """Whether no attempt opens until its submitter or further miners do something."""
        if task_id in self._open:
            return False
        reward = self._spec(task_id).reward
        units = [seat.units for seat in self._list_live(task_id).values()]
        is_active = task_id in self._active
        return not is_active or len(units) < reward.min_miners or sum(units) < reward.min_units

    def _takes_back(self, task_id: TaskId, miner: Address) -> bool:
        """Whether a displaced miner may end seats that are not final, to have its own again."""
        seat, count = self._seats.get((task_id, miner)), self._attempt_count.get(task_id, 0)
        is_displaced = seat is not None and seat.is_displaced and seat.last_attempt == count
        return is_displaced and self._is_blocked(task_id)

    def _is_provisional(
        self, task_id: TaskId, live: Mapping[Address, Seat], miner: Address
    ) -> bool:
        """Whether one of the seats is not final, so that it ends if a displaced miner wants that.

        It was taken since the last attempt opened. It has displaced others, or none of the seats
        has, and its account took no part in that attempt.
        """
        count = self._attempt_count.get(task_id, 0)
        new = {each: seat for each, seat in live.items() if seat.since_attempt > count}
        if miner not in new:
            return False
        is_latecomer = count not in new[miner].earlier
        has_displacer = any(seat.has_displaced for seat in new.values())
        return new[miner].has_displaced or (is_latecomer and not has_displacer)

    def _list_taken_back(
        self, task_id: TaskId, displaced: Sequence[Address], miner: Address
    ) -> list[Address]:
        """The seats of a list that were not final when their room went to a displaced miner."""
        live, found = self._list_live(task_id), []
        for each in displaced:
            if self._takes_back(task_id, miner) and self._is_provisional(task_id, live, each):
                found.append(each)
            del live[each]
        return found

    def _find_objection(
        self, task_id: TaskId, units: int, displaced: Sequence[Address], newcomer: Address
    ) -> str:
        """Why a newcomer has no right to its place; empty if it has one."""
        is_open = task_id in self._open
        if displaced and is_open and self._open_block[task_id] == self._chain.view.number:
            return "an attempt has just opened"
        ordinal, term = self._attempt_count.get(task_id, 0), self._cluster.world.seat_attempts
        live, takes_back = self._list_live(task_id), self._takes_back(task_id, newcomer)
        final: list[Address] = []
        spec, most = self._spec(task_id), formats.DISPLACED_PER_UNIT * units

        def count_free() -> int:
            return formats.count_free_units(spec, [seat.units for seat in live.values()])

        for miner in displaced:
            if units <= count_free():
                return "it needs no further seat"
            if miner not in live:
                return "it names a miner without a seat"
            is_provisional = takes_back and self._is_provisional(task_id, live, miner)
            seat = live.pop(miner)
            if is_provisional:
                continue
            final.append(miner)
            if seat.since_attempt + term > ordinal + 1:
                return "it names a seat within its term"
            most -= seat.units
            if most < 0:
                return "it displaces too many units"
        if final and task_id not in self._active:
            return "no attempt opens that it would owe"
        if final and units + sum(seat.units for seat in live.values()) < spec.reward.min_units:
            return "it leaves fewer units than an attempt needs"
        if final and len(live) + 1 < spec.reward.min_miners:
            return "it leaves fewer seats than an attempt needs"
        return "the task is full" if units > count_free() else ""

    def _apply(self, event: object) -> None:
        match event:
            case TaskSubmitted():
                self._escrow[event.task_id] = event.budget
                self._submit(event)
                self._earned[event.task_id] = {}
            case TaskFunded():
                self._escrow[event.task_id] += event.amount
            case TaskRefunded() | Claimed():
                self._escrow[event.task_id] -= event.amount
            case MinerRegistered():
                self._apply_registration(event)
            case MinerLeft():
                seat = self._seats[event.task_id, event.miner]
                self._check_leaving(event, seat)
                seat.last_attempt = seat.compute_last(self._attempt_count.get(event.task_id, 0))
            case BondWithdrawn():
                self._apply_withdrawal(event)
            case MinerAbsent():
                self._apply_absence(event)
            case MinerFined():
                self._apply_fine(event)
            case ResultPosted():
                self._check_result_vote(event)
            case FinesPosted():
                approved = self._approved_fines
                is_approved = (event.task_id, event.ordinal, event.is_closing) in approved
                is_known = approved.get((event.task_id, event.ordinal, False)) == event.root
                self.require(VOTES, not is_approved and not is_known, f"{event} is of no use")
                self._fines_votes[event.task_id, event.ordinal, event.is_closing, event.root] += 1
            case FinesApproved():
                key = (event.task_id, event.ordinal, event.is_closing, event.root)
                self._approved_fines[key[:3]] = event.root
                quorum = self._chain.find_ended(event.task_id, event.ordinal).judges.quorum
                count = self._fines_votes[key]
                self.require(GUILT, count >= quorum, f"{event} after {count} votes")
            case SeatBondBurnt():
                seat = self._seats[event.task_id, event.miner]
                self._check_burning(event, seat)
                self._burnt[TRAINING_TOKEN] += event.amount
                seat.seat_bond -= event.amount
            case CreditWithdrawn():
                earned = self._credits.pop((event.token, event.account), 0)
                self.require(MONEY, event.amount == earned, f"{event} is not {earned}")
                self._credits_withdrawn[event.token] += event.amount
            case VerdictPosted():
                at = AttemptId(event.task_id, event.round, event.attempt)
                self._judges_of.setdefault((at, event.ballot), self._chain.validator_set)
            case BallotFailed():
                at = AttemptId(event.task_id, event.round, event.attempt)
                self._check_fate(self._chain.view.failed[at][event.ballot])
            case RoundSettled() | AttemptPaid():
                if isinstance(event, RoundSettled):
                    self._open.discard(event.task_id)
                self._apply_result(event)
            case TaskActivated() | TaskResumed():
                self._active.add(event.task_id)
            case TaskPaused():
                self._active.discard(event.task_id)
            case TaskClosed():
                self._active.discard(event.task_id)
                self._closed.add(event.task_id)
                self._check_close(event)
            case GradientCommitted():
                self._committed[event.task_id].add(event.miner)
            case AttemptVoided():
                self._open.discard(event.task_id)
                ordinal = self._attempt_count[event.task_id]
                attempt = self._chain.find_ended(event.task_id, ordinal).attempt
                self._check_fate(attempt)
                if not attempt.commitments:
                    self._fees.note_empty_attempt(event.task_id, self._now_moment())
            case AttemptOpened():
                self._check_seats(event)
                self._fees.note_attempt(event.task_id, self._now_moment())
                self._open.add(event.task_id)
                self._attempt_count[event.task_id] = event.ordinal
                self._open_block[event.task_id] = self._chain.view.number
                self._open_second[event.task_id] = self._chain.view.timestamp
                self._committed[event.task_id] = set()
                attempt_id = AttemptId(event.task_id, event.round, event.attempt)
                self._last_opened[event.task_id] = attempt_id
                self._opened.append(attempt_id)
            case _:
                pass

    def _check_result_vote(self, event: ResultPosted) -> None:
        """A validator posts few results in a ballot, and none that changes nothing."""
        at = AttemptId(event.task_id, event.round, event.attempt)
        said = (event.result, event.correct_count is not None)
        earlier = self._results_of[at, event.ballot, event.validator]
        is_repeated = bool(earlier) and said in (earlier[-1], (earlier[-1][0], False))
        self.require(VOTES, len(earlier) < 4 and not is_repeated, f"{event} after {earlier}")
        earlier.append(said)

    def _check_seats(self, event: AttemptOpened) -> None:
        """An attempt opens only with as many seats and units as the task needs."""
        reward, units = self._spec(event.task_id).reward, self.count_units(event.task_id)
        is_enough = event.expected_commitments >= reward.min_miners and units >= reward.min_units
        self.require(SEATS, is_enough, f"{event} with {units} units")

    def count_units(self, task_id: TaskId) -> int:
        """The units of the seats of a task that have not ended."""
        return sum(
            seat.units
            for (of_task, _), seat in self._seats.items()
            if of_task == task_id and seat.last_attempt is None
        )

    def _count_validators(self) -> int:
        return len(self._chain.validator_set.validators)

    def _submit(self, event: TaskSubmitted) -> None:
        world, spec = self._cluster.world, self._spec(event.task_id)
        n = self._count_validators()
        bought = compute_junk_purchase(n, world.floor, world.empty_block_ms)
        if event.submitter != SUBMITTERS[1]:
            submitters = self._cluster.submitters
            bought = next(each.purchase for each in submitters if each.spec.name == spec.name)
        seconds = formats.compute_attempt_seconds(spec, n, world.floor, world.empty_block_ms)
        self._fees.submit(event, spec, bought, seconds, self._now_moment())

    def _check_close(self, event: TaskClosed) -> None:
        history = self._chain.view.histories[event.task_id]
        codes = [code for _, code in history.refusals]
        self._fees.check_close(
            event,
            max(map(codes.count, codes), default=0),
            self._chain.validator_set.max_faulty,
            self._now_moment(),
            is_open=event.task_id in self._open,
        )

    # Properties 1 and 2: bonds, pay and escrow.

    def _check_burning(self, event: SeatBondBurnt, seat: Seat) -> None:
        """A miss burns an eighth of the seat bond, and all of it is burnt only for a reason."""
        text = f"{self._name(event.miner)}: {event} of {seat}"
        if event.amount == SEAT_BOND // formats.MISS_SHARE:
            seat.eighths_burnt += 1
            self.require(SEATS, seat.eighths_burnt <= len(seat.missed), text)
            return
        self.require(SEATS, event.amount == seat.seat_bond, text)
        is_over = seat.has_close_misses() or seat.is_fraud
        if not is_over and seat.last_attempt is not None:
            is_over = self._has_missed_last(event.task_id, event.miner, seat)
        self.require(SEATS, is_over, text)

    def _check_missed(self, event: MinerAbsent | MinerFined) -> None:
        """Once a call with a miss is over, the seat bond has paid for it."""
        seat = self._seats.get((event.task_id, event.miner))
        if seat is None:
            return  # its bonds were withdrawn, which was checked
        text = f"{self._name(event.miner)}: {event} leaves {seat}"
        is_over = seat.has_close_misses() or seat.is_fraud
        self.require(SEATS, not is_over or not seat.seat_bond, text)
        are_paid = not seat.seat_bond or seat.eighths_burnt == len(seat.missed)
        self.require(SEATS, are_paid, text)

    def _has_missed_last(self, task_id: TaskId, miner: Address, seat: Seat) -> bool:
        """Whether a seat that has ended missed the last attempt that it took part in."""
        last = seat.last_attempt
        assert last is not None
        is_open = task_id in self._open and last == self._attempt_count[task_id]
        if last < seat.first_attempt or is_open:
            return False
        commitments = self._chain.find_ended(task_id, last).attempt.commitments
        return last in seat.missed or not any(each.miner == miner for each in commitments)

    def _apply_registration(self, event: MinerRegistered) -> None:
        key = (event.task_id, event.miner)
        amounts, number = (event.bond, event.seat_bond), self._chain.view.number
        first = self._attempt_count.get(event.task_id, 0) + 1
        has_displaced = key in self._displacing
        self._displacing.discard(key)
        if key in self._seats:
            old = self._seats[key]
            if not old.is_fraud:
                self.require(MONEY, amounts == (old.bond, old.seat_bond), f"{event} of {old}")
                old.earlier = sorted(old.list_attempts(first - 1))
                old.since_attempt, old.since_block, old.last_attempt = first, number, None
                old.has_displaced, old.is_displaced = has_displaced, False
                self._cluster.counts["seats taken again"] += 1
                return
            self._old_seats.append((key, old))
        bond = formats.compute_bond(self._spec(event.task_id), event.units)
        self.require(MONEY, amounts == (bond, SEAT_BOND), f"{amounts} paid for {bond}")
        seat = Seat(event.units, bond, SEAT_BOND, first, first, number, has_displaced)
        self._seats[key] = seat

    def _check_leaving(self, event: MinerLeft, seat: Seat) -> None:
        """A newcomer owes an attempt, unless none opens or others have time to take its place."""
        view = self._chain.view
        # A seat that was taken again may end at once for an attempt before that.
        is_free = seat.is_fraud or len(seat.missed) >= formats.MISSES or seat.is_displaced
        is_free = is_free or event.task_id in self._closed
        is_quiet = view.number >= seat.since_block + IDLE_BLOCKS
        if seat.has_displaced:
            is_free = is_free or (is_quiet and self._is_blocked(event.task_id))
        else:
            is_free = is_free or is_quiet or event.task_id not in self._active
            is_free = is_free or self._takes_commitments(event.task_id)
        has_taken_part = self._attempt_count.get(event.task_id, 0) >= seat.since_attempt
        text = f"{self._name(event.miner)} leaves before its first attempt"
        self.require(SEATS, has_taken_part or is_free, text)
        # Else it would be expected in an attempt whose participants do not have it.
        is_opening = event.task_id in self._open and self._open_block[event.task_id] == view.number
        text = f"{self._name(event.miner)} leaves in the block that opens an attempt"
        self.require(SEATS, not is_opening, text)

    def _apply_withdrawal(self, event: BondWithdrawn) -> None:
        key = (event.task_id, event.miner)
        seat = self._seats.pop(key)
        self._old_seats.append((key, seat))
        last = seat.compute_last(self._attempt_count.get(event.task_id, 0))
        is_locked = self._is_locked(event.task_id, seat, last)
        self.require(SEATS, not is_locked, f"{event} comes before the end of all windows")
        amounts, held = (event.amount, event.seat_bond), (seat.bond, seat.seat_bond)
        self.require(MONEY, amounts == held, f"{amounts} of bonds of {held}")
        is_burnt = seat.has_close_misses() or self._has_missed_last(*key, seat)
        self.require(
            SEATS, not is_burnt or not seat.seat_bond, f"{self._name(event.miner)}: {seat}"
        )
        are_paid = not seat.seat_bond or seat.eighths_burnt == len(seat.missed)
        self.require(SEATS, are_paid, f"{self._name(event.miner)} paid for fewer misses: {seat}")
        if len(seat.missed) >= formats.MISSES:
            return
        ordinals = self._list_absences(event.task_id, event.miner, seat)
        text = f"{self._name(event.miner)} was absent in {ordinals}, and pays for {seat.absent}"
        self.require(ABSENCE, ordinals == seat.absent, text)

    def _apply_absence(self, event: MinerAbsent) -> None:
        seat = self._seats[event.task_id, event.miner]
        name = self._name(event.miner)
        miss = formats.compute_miss(self._spec(event.task_id), seat.units)
        self.require(ABSENCE, event.amount == min(miss, seat.bond), f"{event} of {seat}")
        ended = self._chain.find_ended(event.task_id, event.ordinal)
        participants = dict(self._chain.view.participants.get(ended.attempt.id, ()))
        is_absent = event.miner in participants and not any(
            record.miner == event.miner for record in ended.attempt.commitments
        )
        self.require(ABSENCE, is_absent, f"{name} was no absent participant: {event}")
        self.require(ABSENCE, event.ordinal not in seat.missed, f"{name} pays twice: {event}")
        self.require(SEATS, len(seat.missed) < formats.MISSES, f"{name}: {event} after {seat}")
        seat.absent.add(event.ordinal)
        self._take(event, seat)

    def _take(self, event: MinerAbsent | MinerFined, seat: Seat) -> None:
        seat.bond -= event.amount
        self._burnt[self._token(event.task_id)] += event.amount

    def _apply_fine(self, event: MinerFined) -> None:
        seat, spec = self._seats[event.task_id, event.miner], self._spec(event.task_id)
        name = self._name(event.miner)
        is_fraud = event.kind == FineKind.FRAUD
        miss = formats.compute_miss(spec, seat.units)
        amount = seat.bond if is_fraud else min(miss, seat.bond)
        rule = BOND if is_fraud else BOND_HELD
        self.require(rule, event.amount == amount, f"{event} takes something else than {amount}")
        known = seat.fined.get(event.ordinal)
        is_new = known is None or (known == FineKind.MISS and is_fraud)
        self.require(GUILT, is_new, f"{name} is fined twice: {event}")
        self.require(GUILT, event.ordinal >= seat.first_attempt, f"{event} is older than {seat}")
        seat.fined[event.ordinal] = FineKind(event.kind)
        self._take(event, seat)
        ended = self._chain.find_ended(event.task_id, event.ordinal)
        commitments = enumerate(ended.attempt.commitments)
        index = next((i for i, record in commitments if record.miner == event.miner), None)
        assert index is not None, f"{name} has not committed: {event}"
        late_blocks, window = formats.compute_windows(spec, ended.judges)
        until = ended.block_number + late_blocks + 2 * window
        self.require(GUILT, self._chain.view.number <= until, f"{event} comes after {until}")
        tally = formats.count_guilty_words(ended, index)
        if is_fraud:
            is_guilty = formats.is_fraud(tally, ended.judges)
            self.require(BOND, is_guilty, f"{name} is slashed without votes")
            is_innocent = self._is_innocent(ended, index, is_whole_bond=True)
            self.require(BOND, not is_innocent, f"{name} loses all, and its gradient is good")
            for operator, share in formats.share_bond(ended, index, event.amount).items():
                self._credits[spec.reward.token, operator] += share
            return
        early = formats.count_guilty_words(ended, index, ended.block_number)
        is_guilty = any(formats.is_miss(each, ended.judges) for each in (tally, early))
        self.require(BOND_HELD, is_guilty, f"{name} is fined without votes")
        is_innocent = self._is_innocent(ended, index, is_whole_bond=False)
        self.require(BOND_HELD, not is_innocent, f"{name} pays a miss, and its gradient is good")

    def _list_late(self, attempt: Attempt) -> set[int]:
        """The commitments of an attempt that lose a part of their pay; none of them was early."""
        late = set()
        for failed in self._chain.view.failed.get(attempt.id, ()):
            for index, record in enumerate(attempt.commitments):
                if not formats.is_delivered_late(failed, index, self._judges(failed)):
                    continue
                late.add(index)
                text = f"{self._name(record.miner)} loses pay, and was with all in time"
                self.require(PAY, not self._was_with_all(failed, index), text)
        return late

    def _was_with_all(self, attempt: Attempt, index: int) -> bool:
        """Whether all honest validators held a gradient in form before its ballot was late."""
        payload = self._find_payload(attempt.id, attempt.commitments[index])
        late_ms = self._late_ms.get((attempt.id.task_id, attempt.ballot_number), NEVER_MS)
        if payload is None or payload.is_malformed:
            return False
        return all(
            each.disk.payloads.get(payload.root, NEVER_MS) < late_ms
            for each in self._cluster.honest
            if each.address in self._judges(attempt).validators
        )

    def _is_innocent(self, ended: formats.Ended, index: int, *, is_whole_bond: bool) -> bool:
        """Whether a gradient was good, and held in time by enough honest validators."""
        attempt = ended.attempt
        payload = self._find_payload(attempt.id, attempt.commitments[index])
        if payload is None or payload.is_malformed:
            return False
        if is_whole_bond and payload.may_be_called_cheat:
            return False
        # A phase that ended before it was late leaves no excuse for a gradient that was missed.
        late_ms = self._late_ms.get((attempt.id.task_id, attempt.ballot_number), NEVER_MS)
        judges = self._judges(attempt)
        holders = sum(
            each.disk.payloads.get(payload.root, NEVER_MS) < late_ms
            for each in self._cluster.honest
            if each.address in judges.validators
        )
        needed = len(judges.validators) - judges.quorum + 1
        return holders >= needed

    def _judges(self, attempt: Attempt) -> ValidatorSet:
        """The validators that judge the ballot of an attempt."""
        return attempt.validator_set or self._chain.validator_set

    def _find_payload(self, attempt_id: AttemptId, record: CommitmentRecord) -> Payload | None:
        """The gradient of a commitment; None if nothing opens it."""
        return self._cluster.gradients.get((attempt_id, record.miner))

    def _apply_result(self, event: RoundSettled | AttemptPaid) -> None:
        task_id = event.task_id
        attempt_id = AttemptId(task_id, event.round, event.attempt)
        attempt, spec = self._chain.view.ended[attempt_id].attempt, self._spec(task_id)
        judges = self._judges(attempt)
        self._check_fate(attempt)
        accepted = formats.list_accepted(attempt, judges)
        units, gradients = 0, []
        for index in accepted:
            record = attempt.commitments[index]
            payload = self._find_payload(attempt.id, record)
            is_good = (
                payload is not None
                and not payload.is_malformed
                and payload.distance_ppb - payload.spread_ppb <= TOLERANCE
            )
            text = f"the gradient of {self._name(record.miner)} is accepted"
            self.require(ESCROW, is_good, text)
            units += record.units
            if payload is not None:
                gradients.append((record.units, payload.root))
        equal = sum(record.vote == event.result for record in attempt.results)
        self.require(ROOT, equal >= judges.quorum, f"settled with {equal} votes")
        late = self._list_late(attempt)
        pay = formats.compute_pay(attempt, spec, judges, late)
        payout = event.result.payout
        self.require(ESCROW, payout == sum(pay.values()), f"{payout} is not {pay}")
        miners = {record.miner for record in attempt.commitments}
        shares = sum(amount for account, amount in pay.items() if account not in miners)
        self.require(ESCROW_SHARES, bool(accepted) or not shares, f"{shares} for no unit")
        self.require(PAY, event.result.accepted_units == units, f"{event.result} is not {units}")

        if payout:
            self._fees.note_payment(task_id, self._now_moment())
        earned = self._earned[task_id]
        for account, amount in pay.items():
            earned[account] = earned.get(account, 0) + amount
        if isinstance(event, AttemptPaid):
            return
        state = compute_next_state(
            self._states.get(task_id, compute_initial_state(spec)), gradients
        )
        self._states[task_id] = state
        roots = (event.result.training_state_root, event.result.model_root)
        self.require(
            ROOT, roots == (state, compute_model_root(state)), f"round {event.round}: {accepted}"
        )

    def _check_fate(self, attempt: Attempt) -> ResultKind | None:
        """Check the kind of the result that a quorum posted in the last ballot, and return it."""
        judges = self._judges(attempt)
        votes = Counter(record.vote for record in attempt.results)
        kinds = [vote.kind for vote, count in votes.items() if count >= judges.quorum]
        wanted = formats.decide_ballot(attempt, judges)
        for kind in kinds:
            # What has no model at the end of the last ballot is paid all the same.
            is_paid = kind is ResultKind.PAID_ONLY and wanted is ResultKind.SETTLED
            text = f"{attempt.id}: {kind.name} for what is {wanted.name}: {attempt.verdicts}"
            self.require(FATE, kind is wanted or is_paid, text)
        return kinds[0] if kinds else None

    # Money, and the fold.

    def _check_money(self) -> None:
        burnt = self._chain.contracts.burnt
        self.require(MONEY, burnt == self._fees.burnt, f"{burnt} burnt, not {self._fees.burnt}")
        for token in self._supplies:
            self._check_token(token)

    def _check_token(self, token: Address) -> None:
        """Compare the balances of a token with the books."""
        contracts, is_pot = self._chain.contracts, token == TRAINING_TOKEN
        held = sum(contracts.tokens_of(token, holder) for holder in self._known)
        self.require(MONEY, held == self._supplies[token], f"{held} exist")
        escrow = contracts.tokens_of(token, TASK_REGISTRY)
        wanted = self._fees.held if is_pot else 0
        wanted += sum(
            amount for task_id, amount in self._escrow.items() if self._token(task_id) == token
        )
        self.require(MONEY, escrow == wanted, f"the registry holds {escrow}, not {wanted}")
        bonds = contracts.tokens_of(token, MINER_SEATS)
        wanted = self._burnt[token] - self._credits_withdrawn[token]
        for (task_id, _), seat in self._seats.items():
            wanted += seat.bond if self._token(task_id) == token else 0
            wanted += seat.seat_bond if is_pot else 0
        self.require(MONEY, bonds == wanted, f"the seats hold {bonds}, not {wanted}")

    def _check_account(self, history: TaskHistory) -> None:
        contracts, task_id = self._chain.contracts, history.task_id
        account = contracts.read(task_registry.get_account(task_id))
        spent = account.paid + account.reserved + account.refundable + account.refunded
        self.require(MONEY, account.escrowed == spent, f"{account}")
        shown = (history.status, len(history.ready), history.attempt is not None)
        held = (account.status, account.ready_count, account.reserved != 0)
        self.require(FOLD, shown == held, f"{shown} is not {held}")
        lease = contracts.read(task_registry.get_lease(task_id))
        self.require(FOLD, history.lease == lease, f"{history.lease} is not {lease}")
        earned = self._earned[task_id]
        rewards = self._chain.view.rewards[task_id]
        self.require(PAY, rewards == earned, f"{rewards} is not {earned}")
        self.require(PAY, account.paid == sum(earned.values()), f"{account.paid} paid: {earned}")
        if history.rounds_settled:
            key = (task_id, tuple(earned.items()))
            if key not in self._roots:
                tree = build_reward_tree(CHAIN_ID, REWARD_DISTRIBUTOR, task_id, earned)
                self._roots[key] = int.from_bytes(tree.root, "big")
            root = contracts.read_mapping("RewardDistributor", REWARD_DISTRIBUTOR, "_pots", task_id)
            is_same = root == self._roots[key]
            self.require(CLAIM, is_same, f"the rewards root is not that of {earned}")

    def _check_round(self, history: TaskHistory) -> None:
        state = self._chain.contracts.read(gradient_ledger.get_round(history.task_id))
        attempt = history.attempt
        shown: Mapping[str, object] = {
            "round": history.rounds_settled,
            "open": attempt is not None,
            "paid": sum(self._chain.view.rewards[history.task_id].values()),
            "state": history.training_state_root,
            "model": history.model_root,
        }
        held: Mapping[str, object] = {
            "round": state.round,
            "open": state.open,
            "paid": state.paid_total,
            "state": state.training_state_root,
            "model": state.model_root,
        }
        self.require(FOLD, shown == held, f"{shown} is not {held}")
        if attempt is None:
            return
        folded = (
            attempt.id.attempt_number,
            attempt.ballot,
            attempt.ballot_number,
            attempt.open_block,
            attempt.open_timestamp,
            len(attempt.commitments),
            sum(record.units for record in attempt.commitments),
            sum(record.is_timely for record in attempt.verdicts),
            len(attempt.results),
        )
        contract = (
            state.attempt,
            state.ballot,
            state.ballot_number,
            state.open_block,
            state.open_time,
            state.commitment_count,
            state.committed_units,
            state.verdict_count,
            state.result_count,
        )
        self.require(FOLD, folded == contract, f"{folded} is not {contract}")
        known = self._judges_of.get((attempt.id, attempt.ballot))
        are_judges = attempt.validator_set == known
        self.require(JUDGES, are_judges, f"{attempt.validator_set} judge, not {known}")
        self._check_quorum(attempt)
        self._check_early_end(attempt, state)

    def _check_quorum(self, attempt: Attempt) -> None:
        """A quorum of the judges ends the ballot in progress, and nobody else does."""
        kind = self._check_fate(attempt)
        if not attempt.results:
            return
        phase = self._chain.contracts.read(gradient_ledger.phase(attempt.id.task_id))
        wanted = kind is not None and kind is not ResultKind.FAILED
        text = f"{phase.name} with {len(attempt.results)} results, {kind}"
        self.require(JUDGES, (phase is Phase.SETTLEABLE) == wanted, text)

    def _check_early_end(self, attempt: Attempt, state: RoundState) -> None:
        """Whether enough honest validators were heard if the verdict phase ended early."""
        judges, world = self._judges(attempt), self._cluster.world
        seconds = self._spec(attempt.id.task_id).phases.verdict_seconds
        blocks = max(world.floor, 2 * (judges.max_faulty + 1))
        is_early = (
            state.result_time < state.verdict_time + seconds
            or state.result_block < state.verdict_block + blocks
        )
        are_all_heard = len(formats.list_votes(attempt)) == len(judges.validators)
        if state.result_block == 0 or not is_early or are_all_heard:
            return
        accepted = formats.list_accepted(attempt, judges)
        for index, record in enumerate(attempt.commitments):
            payload = self._find_payload(attempt.id, record)
            is_right = payload is not None and payload.is_honest
            text = f"{attempt.id}: {self._name(record.miner)} is not accepted: {attempt.verdicts}"
            self.require(HEARD, index in accepted or not is_right, text)

    def _check_snapshot(self, task_id: TaskId) -> None:
        difference = find_difference(self._chain, task_id)
        self.require(SNAPSHOT, not difference, f"task {task_id} by snapshot: {difference}")

    def _check_assignments(self) -> None:
        for attempt_id in self._opened:
            attempt = self._chain.view.histories[attempt_id.task_id].attempt
            if attempt is None or attempt.id != attempt_id:
                continue
            spec = self._spec(attempt_id.task_id)
            assignment = self._chain.assign(attempt, spec)
            units = sum(count for _, count in assignment.units)
            samples = [
                index for miner, _ in assignment.units for index in assignment.sample_indices(miner)
            ]
            is_sound = (
                units <= spec.reward.max_units
                and len(set(samples)) == len(samples) == units * spec.samples_per_unit
                and all(0 <= index < spec.sample_count for index in samples)
            )
            self.require(ASSIGNMENT, is_sound, f"{units} units, samples {sorted(samples)}")
        self._opened = []

    # Properties 3 and 4: prices and ends.

    def _check_ends(self) -> None:
        now = self._now_moment()
        if self._cluster.is_healed:
            if self._healthy_since is None:
                self._healthy_since = now
            self._fees.check_ends(now, self._healthy_since)

    def blocks_of(self, seconds: int) -> int:
        """The blocks of a healthy chain in so many seconds."""
        return self._fees.blocks_of(seconds)

    def _now_moment(self) -> Moment:
        return Moment(self._chain.view.timestamp, self._chain.view.number)

    def attempt_seconds(self, task_id: TaskId) -> int:
        """The longest course of an attempt: commitments, and three ballots of all phases."""
        phases, world = self._spec(task_id).phases, self._cluster.world
        # A stalled phase ends when an operator's turn comes, after two blocks for each before it.
        n = len(self._operators)
        turns = 2 * n * world.empty_block_ms // 1000 + 2
        blocks = max(world.floor, 2 * (compute_max_faulty(n) + 1))
        floor = blocks * world.empty_block_ms // 1000
        commit, verdict, result = (
            max(seconds, floor) + turns
            for seconds in (phases.commit_seconds, phases.verdict_seconds, phases.result_seconds)
        )
        wait = max(formats.GRACE_BLOCKS, compute_max_faulty(n) + 2) * world.empty_block_ms // 1000
        return commit + gradient_ledger.MAX_BALLOTS * (verdict + wait + result)

    def _check_waste(self) -> None:
        """Whether the wasteful submitter pays for its slots and for the validators' time."""
        now, waster = self._now_moment(), SUBMITTERS[1]
        self._slot_price += self._fees.compute_slot_price(waster, now, self._waste_since)
        self._active_price += self._fees.compute_active_price(waster, now, self._waste_since)
        self._waste_since = now.time
        owed = self._slot_price
        owed += self._worker_ms.get(waster, 0) * formats.PRICES.second_price // 1_000
        own = [
            task_id for task_id, each in self._fees.tenancies.items() if each.submitter == waster
        ]
        escrow = sum(self._escrow[task_id] for task_id in own)
        paid = SUPPLY_EACH - self._chain.contracts.pot_of(waster) - escrow
        self.require(WASTE, paid >= owed, f"{paid} paid for what costs {owed}")
        kept = paid - self._fees.answers_paid(waster)
        reserved = self._fees.pending_paid(waster) + self._active_price
        self.require(WASTE, kept >= reserved, f"{kept} paid for what reserves {reserved}")

    # The end of a run.

    def on_end(self) -> None:
        """Check what must be true once the network was healthy for a while and the task closed."""
        self._check_guilty()
        for task_id, rewards in sorted(self._chain.view.rewards.items()):
            if rewards:
                self._claim_all(task_id, rewards)
        contracts = self._chain.contracts
        for token, operator in product(self._supplies, self._operators):
            credit = contracts.read(miner_seats.credit_of(token, operator))
            earned = self._credits[token, operator]
            self.require(MONEY, credit == earned, f"{self._name(operator)}: {credit}, not {earned}")
            if credit:
                call = miner_seats.withdraw_credit(token)
                self.on_block([self._chain.execute_at_once(operator, call)])
        self._withdraw_all()

    def is_closing_due(self, ended: EndedAttempt) -> bool:
        """Whether late words have made a commitment guilty that has not paid for it."""
        view = self._chain.view.ended[ended.attempt.id]
        return any(self._owes(view, index) for index in range(len(ended.attempt.commitments)))

    def _check_guilty(self) -> None:
        for _, ended in sorted(self._chain.view.ended.items(), key=lambda each: each[0]):
            for index, record in enumerate(ended.attempt.commitments):
                text = f"{self._name(record.miner)} is guilty and was not fined"
                self.require(GUILT, not self._owes(ended, index), text)

    def _owes(self, ended: formats.Ended, index: int) -> bool:
        """Whether a commitment is guilty, and its miner has not paid although it has a bond."""
        attempt = ended.attempt
        key = (attempt.id.task_id, attempt.commitments[index].miner)
        seats = [seat for each, seat in self._old_seats if each == key]
        seats += [self._seats[key]] if key in self._seats else []
        seat = next(
            (each for each in reversed(seats) if each.first_attempt <= attempt.ordinal), None
        )
        assert seat is not None, "a miner that committed has a seat"
        paid = seat.fined.get(attempt.ordinal)
        if paid == FineKind.FRAUD or seat.bond == 0 or self._is_vote_impossible(ended):
            return False
        tally = formats.count_guilty_words(ended, index)
        early = formats.count_guilty_words(ended, index, ended.block_number)
        if any(formats.is_fraud(each, ended.judges) for each in (tally, early)):
            return True
        is_missed = any(formats.is_miss(each, ended.judges) for each in (tally, early))
        return is_missed and paid is None

    def _is_vote_impossible(self, ended: formats.Ended) -> bool:
        """Whether, for an outage, no quorum could vote on the fines before votes were over."""
        late, window = formats.compute_windows(self._spec(ended.attempt.id.task_id), ended.judges)
        first, last = ended.block_number + VOTE_BLOCKS, ended.block_number + late + window
        silent = [
            each
            for each in self._cluster.validators
            if any(start <= first and last - VOTE_BLOCKS <= end for start, end in each.silences)
        ]
        judges = [each for each in silent if each.operator in ended.judges.operators]
        return len(ended.judges.operators) - len(judges) < ended.judges.quorum

    def _withdraw_all(self) -> None:
        """Have every miner of a closed task take its bonds back, once all windows are over."""
        for (task_id, miner), seat in sorted(self._seats.items()):
            history = self._chain.view.histories[task_id]
            if seat.is_fraud or not history.is_closed:
                continue
            for ended in self._chain.view.ended.values():
                if ended.attempt.id.task_id == task_id:
                    late, window = formats.compute_windows(self._spec(task_id), ended.judges)
                    free = ended.block_number + late + 2 * window + 1
                    self._chain.view.number = max(self._chain.view.number, free)
            call = miner_seats.withdraw_bond(task_id)
            try:
                self.on_block([self._chain.execute_at_once(miner, call)])
            except Reverted as reverted:
                text = f"{self._name(miner)} cannot withdraw: {reverted}"
                raise ViolationError(MONEY, text) from reverted

    def _claim_all(self, task_id: TaskId, earned: Mapping[Address, int]) -> None:
        """Claim for every account what it has not claimed yet; nothing may be left over."""
        contracts = self._chain.contracts
        tree = build_reward_tree(CHAIN_ID, REWARD_DISTRIBUTOR, task_id, earned)
        for account, cumulative in earned.items():
            claimed = contracts.read(reward_distributor.claimed_of(task_id, account))
            self.require(CLAIM, claimed <= cumulative, f"{claimed} of {cumulative} claimed")
            if claimed == cumulative:
                continue
            before = contracts.tokens_of(self._token(task_id), account)
            proof = tree.proof(account)
            assert proof is not None
            call = reward_distributor.claim(task_id, cumulative, proof)
            try:
                self.on_block([self._chain.execute_at_once(account, call)])
            except Reverted as reverted:
                text = f"{self._name(account)} cannot claim: {reverted}"
                raise ViolationError(CLAIM, text) from reverted
            received = contracts.tokens_of(self._token(task_id), account) - before
            self.require(CLAIM, received == cumulative - claimed, f"{received} received")
        account = contracts.read(task_registry.get_account(task_id))
        left = self._escrow[task_id] - account.refundable - account.reserved
        self.require(MONEY, left == 0, f"{left} base units of task {task_id} belong to no account")
        if account.status is TaskStatus.CLOSED and account.refundable:
            call = task_registry.refund_task(task_id)
            self.on_block([self._chain.execute_at_once(account.submitter, call)])

    # Names.

    def _token(self, task_id: TaskId) -> Address:
        return self._spec(task_id).reward.token

    def _spec(self, task_id: TaskId) -> TaskSpec:
        spec = self._chain.spec(self._chain.view.histories[task_id])
        assert spec is not None
        return spec

    def _name(self, account: Address) -> str:
        names = {miner.address: miner.name for miner in self._cluster.miners}
        names |= {each.operator: each.name for each in self._cluster.validators}
        return names.get(account, account.hex()[:8])
