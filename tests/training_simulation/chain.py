"""The chain of a simulated network: blocks of calls, executed by the real contracts in py-evm.

The events of each call are folded by chain/training/history.py, as a node does. There are no
signatures, no headers and no gas price: a block is a number, a time and a list of calls.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from types import MappingProxyType
from typing import Final

from chain.contracts import gradient_ledger, miner_seats, training_token, validator_set
from chain.contracts.abi import ContractCall
from chain.contracts.errors import ContractError, decode_error
from chain.contracts.events import Event, decode_event
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    AttemptVoided,
    BallotFailed,
    Deadline,
    LateVerdictPosted,
    Phase,
    RoundSettled,
)
from chain.contracts.miner_seats import BondWithdrawn, MinerLeft, MinerRegistered
from chain.contracts.task_registry import TaskSubmitted
from chain.contracts.validator_set import SetScheduled
from chain.crypto import keccak256
from chain.errors import InvalidSpec
from chain.execution.block_environment import BlockEnvironment
from chain.execution.engine import Computation, EngineState, collect_logs
from chain.execution.evm import never_stop
from chain.primitives import (
    EMPTY_TRIE_ROOT,
    ZERO_ADDRESS,
    ZERO_HASH,
    Address,
    BlockNumber,
    Hash32,
    TaskId,
)
from chain.state.world_state import WorldState
from chain.training.assignment import Assignment
from chain.training.attempt import AttemptId
from chain.training.attempt_description import AttemptDescription, describe_attempt
from chain.training.attempt_records import Attempt, EndedAttempt
from chain.training.history import (
    BlockContext,
    SettledRound,
    TaskHistory,
    add_rewards,
    apply_event,
    build_history,
)
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import decode_task_spec
from chain.types.validator_set import ValidatorSet
from tests.training_simulation.formats import PRICES, Ended, may_end_early
from tests.training_simulation.values import OTHER_TOKEN
from tests.worlds.contracts import (
    CHAIN_ID,
    FIRST_BLOCK,
    FIRST_TIME,
    GAS,
    SUPPLY_EACH,
    Answer,
    Reverted,
    World,
    account,
    candidate_key,
    deploy_contracts,
)

BLOCK_TRANSACTIONS: Final = 40
"""The most calls of one block; the others wait for the next."""

PROBE_EVERY: Final = 50
"""One in this many remembered phases is compared with the contract's answer."""

ENDLESS_PROBE_EVERY: Final = 1_000
"""The same for phases without a deadline: tasks that no miner trains are nearly always in one."""

ENDLESS: Final = (Phase.INACTIVE, Phase.WAITING, Phase.SETTLEABLE, Phase.STALLED)
"""The phases without a deadline."""

SUBMITTERS: Final = tuple(account(f"submitter {i}") for i in range(4))
MINERS: Final = tuple(account(f"miner {i}") for i in range(16))
STRANGER: Final = account("stranger")
JOINING_KEY: Final = candidate_key("validator that joins")
JOINER: Final = account("operator that joins")
HOLDERS: Final = (*SUBMITTERS, *MINERS, STRANGER, JOINER)
"""The accounts that hold POT from the start."""


@cache
def validators_of(n: int) -> ValidatorSet:
    """A set of n validators and their operators."""
    return ValidatorSet(
        tuple(sorted(account(f"validator {i}") for i in range(n))),
        tuple(account(f"operator {i}") for i in range(n)),
    )


class EngineWorld(World):
    """The contracts in the node's engine, which takes a third of the time of stock py-evm."""

    def __init__(
        self, database: Mapping[bytes, bytes] = MappingProxyType({}), root: Hash32 = EMPTY_TRIE_ROOT
    ) -> None:
        self._database = database
        self._accounts = WorldState(database, root)
        self.at(FIRST_BLOCK, FIRST_TIME)

    def at(self, number: int, timestamp: int) -> None:
        self.number, self.timestamp = number, timestamp
        environment = BlockEnvironment(
            chain_id=CHAIN_ID,
            number=BlockNumber(number),
            timestamp=timestamp,
            coinbase=ZERO_ADDRESS,
            gas_limit=GAS,
            base_fee_per_gas=0,
            mix_hash=ZERO_HASH,
        )
        self.state = EngineState(self._accounts, environment, never_stop)

    def _finish(self, computation: Computation) -> Answer:
        self._accounts.lock_changes()
        if computation.is_error:
            data = bytes(computation.output)
            raise Reverted(decode_error(data) or f"{computation.error!r} {data.hex()}")
        events = (decode_event(log) for log in collect_logs(computation))
        return Answer(
            bytes(computation.output),
            tuple(event for event in events if event is not None),
            computation.get_gas_used(),
        )

    def tokens_of(self, token: Address, holder: Address) -> int:
        """The balance of a token, read from storage, which is faster than a call."""
        key = int.from_bytes(holder, "big")
        return self.read_mapping("TrainingToken", token, "_balances", key)

    def snapshot(self) -> tuple[Mapping[bytes, bytes], Hash32]:
        """A state from which another world can start."""
        root, added = self._accounts.compute_delta()
        return ChainMap(dict(added), self._database), root


@cache
def _genesis(
    n: int, floor: int, empty_block_ms: int, seat_attempts: int
) -> tuple[Mapping[bytes, bytes], Hash32]:
    world, first = EngineWorld(), validators_of(n)
    prices = replace(PRICES, empty_block_milliseconds=empty_block_ms, phase_floor_blocks=floor)
    deploy_contracts(
        world,
        first.validators,
        first.operators,
        HOLDERS,
        floor,
        prices,
        seat_attempts=seat_attempts,
    )
    amounts = (SUPPLY_EACH,) * len(HOLDERS)
    world.deploy("TrainingToken", OTHER_TOKEN, training_token.encode_constructor(HOLDERS, amounts))
    return world.snapshot()


@cache
def _decode(spec: bytes) -> TaskSpec | None:
    try:
        return decode_task_spec(spec)
    except InvalidSpec:
        return None


@dataclass(frozen=True)
class Transaction:
    """A call in the pool. An honest sender expects that it succeeds, an attacker that it fails."""

    sender: Address
    call: ContractCall
    label: str
    is_honest: bool = True
    is_guess: bool = False
    """Whether the sender expects nothing."""
    is_safe: bool = False
    """Whether it is never lost."""


@dataclass(frozen=True)
class Executed:
    """A call in a block; `error` is None if it succeeded."""

    transaction: Transaction
    events: tuple[Event, ...]
    error: ContractError | str | None
    gas: int


@dataclass(frozen=True)
class KnownPhase:
    """The contract's answer for one moment, which is a block number and a time in seconds."""

    phase: Phase
    deadline: Deadline
    moment: tuple[int, int]

    def holds_at(self, moment: tuple[int, int], history: TaskHistory) -> bool:
        """Whether it is the answer at another moment, too, if the task has no event meanwhile."""
        if moment == self.moment:
            return True
        if self.phase in ENDLESS:
            # The calls with which verdicts, results and payments begin have no event.
            attempt = history.attempt
            return self.phase is not Phase.STALLED or attempt is None or not attempt.commitments
        if may_end_early(history):
            return False
        number, timestamp = moment
        return number < self.deadline.block_number or timestamp < self.deadline.timestamp


@dataclass
class ChainView:
    """The chain up to a head, as each node at that head knows it."""

    contracts: World
    number: int = FIRST_BLOCK
    timestamp: int = FIRST_TIME
    histories: dict[TaskId, TaskHistory] = field(default_factory=dict)
    settled: dict[tuple[TaskId, int], SettledRound] = field(default_factory=dict)
    ended: dict[AttemptId, Ended] = field(default_factory=dict)
    fined: dict[tuple[TaskId, int], EndedAttempt] = field(default_factory=dict)
    """The attempts that the histories name as ended, by task and ordinal."""
    rewards: dict[TaskId, dict[Address, int]] = field(default_factory=dict)
    failed: dict[AttemptId, tuple[Attempt, ...]] = field(default_factory=dict)
    """The failed ballots of each attempt."""
    participants: dict[AttemptId, tuple[tuple[Address, int], ...]] = field(default_factory=dict)
    phases: dict[TaskId, "KnownPhase"] = field(default_factory=dict)
    probes: int = 0
    validator_set: ValidatorSet = field(default_factory=lambda: ValidatorSet((), ()))
    """The validators of the block at the head."""

    def list_ended(self, task_id: TaskId) -> list[EndedAttempt]:
        """The attempts of a task for which miners may still be fined."""
        return [self.fined[task_id, mark.ordinal] for mark in self.histories[task_id].ended]

    def phase(self, task_id: TaskId, now: int) -> tuple[Phase, Deadline]:
        """The phase of a task in a block on top of the head, at the time `now` in seconds.

        An answer is remembered until an event of the task or its deadline changes it.
        """
        moment = self.number + 1, max(now, self.timestamp)
        known = self.phases.get(task_id)
        if known is not None and known.holds_at(moment, self.histories[task_id]):
            self.probes += 1
            every = ENDLESS_PROBE_EVERY if known.phase in ENDLESS else PROBE_EVERY
            is_probed = self.probes % every == 0
            answer = known.phase, known.deadline
            assert not is_probed or answer == self.ask_phase(task_id, *moment)
            return answer
        answer = self.ask_phase(task_id, *moment)
        self.phases[task_id] = KnownPhase(*answer, moment)
        return answer

    def ask_phase(self, task_id: TaskId, number: int, timestamp: int) -> tuple[Phase, Deadline]:
        """The phase of a task in a block with this number and time, if no call comes before."""
        self.contracts.at(number, timestamp)
        phase = self.contracts.read(gradient_ledger.phase(task_id))
        if phase in ENDLESS:
            return phase, Deadline(BlockNumber(0), 0)
        return phase, self.contracts.read(gradient_ledger.deadline(task_id))


class Chain:
    """The chain and its pool of calls."""

    def __init__(
        self,
        n: int,
        floor: int,
        empty_block_ms: int,
        seat_attempts: int,
        random: Random,
        trace: Callable[[str], None],
    ) -> None:
        self.contracts = EngineWorld(*_genesis(n, floor, empty_block_ms, seat_attempts))
        self.view = ChainView(self.contracts, validator_set=validators_of(n))
        self._change_block: int | None = None
        """The block from which another validator set is in force."""
        self.pool: list[Transaction] = []
        self.registrations: dict[tuple[TaskId, Address], bool] = {}
        """The miners with a bond, and whether each takes part in the next attempt."""
        self.events: dict[TaskId, list[tuple[BlockContext, Event]]] = {}
        """The events of each task with their blocks."""
        self.displaced: set[tuple[TaskId, Address]] = set()
        """The miners with a bond whose seat a newcomer took."""
        self.errors: dict[str, int] = {}
        self._ids_by_name: dict[str, TaskId] = {}
        self._random = random
        self._trace = trace
        self._descriptions: dict[AttemptId, AttemptDescription] = {}
        self._assignments: dict[AttemptId, Assignment] = {}
        self._mix_key = random.randbytes(16)

    @property
    def validator_set(self) -> ValidatorSet:
        """The validators of the block at the head."""
        return self.view.validator_set

    def freeze(self) -> ChainView:
        """The chain as of now, for nodes that get no further block."""
        live = self.view
        return replace(
            live,
            contracts=EngineWorld(*self.contracts.snapshot()),
            histories=dict(live.histories),
            settled=dict(live.settled),
            ended=dict(live.ended),
            fined=dict(live.fined),
            rewards=dict(live.rewards),
            failed=dict(live.failed),
            participants=dict(live.participants),
            phases=dict(live.phases),
        )

    def make_block(
        self, now: int, transactions: Sequence[Transaction] | None = None
    ) -> list[Executed]:
        """Execute a block at the time `now` in seconds.

        Args:
            now: The time.
            transactions: What `take_from_pool` returned when the block was proposed; None if it is
                proposed now.
        """
        view = self.view
        view.number, view.timestamp = view.number + 1, max(now, view.timestamp)
        self.contracts.at(view.number, view.timestamp)
        if self._change_block is not None and view.number >= self._change_block:
            view.validator_set = self.contracts.read(validator_set.get_current())
            self._change_block = None
            self._trace(f"    {len(view.validator_set.validators)} validators from now on")
        opened: list[AttemptId] = []
        executed = []
        for transaction in self.take_from_pool() if transactions is None else transactions:
            done = self._execute(transaction)
            executed.append(done)
            self._note_displaced(done)
            for event in done.events:
                self._fold(event)
                if isinstance(event, AttemptOpened):
                    opened.append(AttemptId(event.task_id, event.round, event.attempt))
        for attempt_id in opened:
            found = self.contracts.read(miner_seats.participants(attempt_id.task_id))
            view.participants[attempt_id] = tuple((each.miner, each.units) for each in found)
        return executed

    def take_from_pool(self) -> list[Transaction]:
        """The calls of the next block; the primary orders senders, each sender its own calls."""
        senders = [each.sender for each in self.pool]
        self._random.shuffle(senders)
        queues: dict[Address, list[Transaction]] = {}
        for each in self.pool:
            queues.setdefault(each.sender, []).append(each)
        ordered = [queues[sender].pop(0) for sender in senders]
        self.pool = ordered[BLOCK_TRANSACTIONS:]
        return ordered[:BLOCK_TRANSACTIONS]

    def _execute(self, transaction: Transaction) -> Executed:
        try:
            answer = self.contracts.send(transaction.sender, transaction.call)
        except Reverted as reverted:
            error = reverted.error
            name = error if isinstance(error, str) else error.name
            self.errors[name] = self.errors.get(name, 0) + 1
            self._trace(f"    {transaction.label}: refused, {error}")
            return Executed(transaction, (), error, 0)
        self._trace(f"    {transaction.label}")
        return Executed(transaction, answer.events, None, answer.gas)

    def _fold(self, event: Event) -> None:
        view = self.view
        block = BlockContext(BlockNumber(view.number), view.timestamp)
        if isinstance(event, TaskSubmitted):
            view.histories[event.task_id] = build_history(event, block)
            view.rewards[event.task_id] = {}
            spec = _decode(event.spec)
            if spec is not None:
                self._ids_by_name[spec.name] = event.task_id
            return
        task_id = getattr(event, "task_id", None)
        if task_id is None:
            return
        view.phases.pop(task_id, None)
        self.events.setdefault(task_id, []).append((block, event))
        self._fold_registration(task_id, event)
        history = view.histories[task_id]
        attempt = history.attempt
        if attempt is not None and isinstance(event, AttemptVoided | RoundSettled):
            judges = attempt.validator_set or self.validator_set
            failed = view.failed.get(attempt.id, ())
            view.ended[attempt.id] = Ended(attempt, block.number, judges, failed)
        if attempt is not None and isinstance(event, BallotFailed):
            judges = attempt.validator_set or self.validator_set
            failed = replace(attempt, validator_set=judges)
            view.failed[attempt.id] = (*view.failed.get(attempt.id, ()), failed)
        if isinstance(event, LateVerdictPosted):
            ended = self.find_ended(task_id, event.ordinal)
            word = (event.validator, event.verdicts, block.number)
            view.ended[ended.attempt.id] = replace(ended, late=(*ended.late, word))
        fold = apply_event(
            history,
            event,
            block,
            spec=_decode(history.spec),
            validator_set=self.validator_set,
            find_ended=lambda ordinal: view.fined.get((task_id, ordinal)),
        )
        view.histories[task_id] = fold.history
        if fold.ended is not None:
            view.fined[task_id, fold.ended.attempt.ordinal] = fold.ended
        view.rewards[task_id] = add_rewards(view.rewards[task_id], fold.payouts)
        if fold.settled is not None:
            view.settled[task_id, fold.settled.attempt.id.round_number] = fold.settled

    def _note_displaced(self, executed: Executed) -> None:
        events = executed.events
        newcomers = [each for each in events if isinstance(each, MinerRegistered)]
        for event in events:
            if newcomers and isinstance(event, MinerLeft):
                self.displaced.add((event.task_id, event.miner))

    def _fold_registration(self, task_id: TaskId, event: Event) -> None:
        match event:
            case MinerRegistered(miner=miner):
                self.registrations[task_id, miner] = True
                self.displaced.discard((task_id, miner))
            case MinerLeft(miner=miner):
                self.registrations[task_id, miner] = False
            case BondWithdrawn(miner=miner):
                del self.registrations[task_id, miner]
                self.displaced.discard((task_id, miner))
            case _:
                pass

    def find_task(self, name: str) -> TaskId:
        """The task with this name; 0, which no task has, if it is not on the chain yet."""
        return self._ids_by_name.get(name, TaskId(0))

    def find_ended(self, task_id: TaskId, ordinal: int) -> Ended:
        """An attempt that has ended, by its ordinal."""
        return next(
            each
            for attempt_id, each in self.view.ended.items()
            if attempt_id.task_id == task_id and each.attempt.ordinal == ordinal
        )

    def execute_at_once(self, sender: Address, call: ContractCall) -> Executed:
        """Execute a call of an account that must succeed, in the block at the head."""
        self.contracts.at(self.view.number, self.view.timestamp)
        answer = self.contracts.send(sender, call)
        for event in answer.events:
            self._fold(event)
            if isinstance(event, SetScheduled):
                self._change_block = event.activation_block
        return Executed(Transaction(sender, call, "at once"), answer.events, None, answer.gas)

    # What follows from the chain.

    def spec(self, history: TaskHistory) -> TaskSpec | None:
        """The specification of a task; None if its bytes are invalid."""
        return _decode(history.spec)

    def describe(self, attempt: Attempt, spec: TaskSpec) -> AttemptDescription:
        """What an attempt asks of its miners."""
        if attempt.id not in self._descriptions:
            mix_hash = keccak256(self._mix_key + attempt.open_block.to_bytes(8, "big"))
            self._descriptions[attempt.id] = describe_attempt(
                attempt.id, spec, chain_id=CHAIN_ID, mix_hash=mix_hash
            )
        return self._descriptions[attempt.id]

    def assign(self, attempt: Attempt, spec: TaskSpec) -> Assignment:
        """The samples of each miner in an attempt."""
        if attempt.id not in self._assignments:
            participants = self.view.participants[attempt.id]
            self._assignments[attempt.id] = self.describe(attempt, spec).assign(participants)
        return self._assignments[attempt.id]
