"""The system contracts in py-evm, with no blocks: any sender, any number, any time.

There are four validators, and accounts that hold POT. A call returns typed events; a revert raises
the contract's error.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from eth.db.atomic import AtomicDB
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.forks.prague.state import PragueState
from eth.vm.message import Message

from chain.contracts import (
    gradient_ledger,
    miner_seats,
    reward_distributor,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import ContractCall, ContractView
from chain.contracts.addresses import (
    GRADIENT_LEDGER,
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
    VALIDATOR_SET,
)
from chain.contracts.errors import ContractError, decode_error
from chain.contracts.events import Event, decode_event
from chain.contracts.gradient_ledger import Phase, ResultKind, ResultVote, RoundState
from chain.contracts.miner_seats import Participant, SeatState
from chain.contracts.task_registry import (
    Prices,
    Purchase,
    Quote,
    TaskAccount,
    TaskLease,
    TaskResources,
    TaskTerms,
)
from chain.crypto import get_address, keccak256, sign
from chain.primitives import EMPTY_TRIE_ROOT, ZERO_HASH, Address, Hash32, PrivateKey, TaskId
from chain.training.leases import READY_CODE
from chain.training.result_vote import build_empty_vote
from chain.training.rewards import RewardTree, build_reward_tree
from chain.types.receipt import Log

T = TypeVar("T")
CHAIN_ID = 424242
POT = 10**18
FLOOR = 4
GRACE = 3
FIRST_BLOCK = 100
FIRST_TIME = 1_800_000_000
GAS = 2**24


def account(name: str) -> Address:
    return Address(keccak256(name.encode())[12:])


def candidate_key(name: str) -> PrivateKey:
    """The consensus key of a validator that may join."""
    return PrivateKey(keccak256(name.encode()))


def prove_join(key: PrivateKey, operator: Address, contract: Address = VALIDATOR_SET) -> bytes:
    """A consensus key's signature that it wants this operator."""
    digest = validator_set.compute_join_digest(CHAIN_ID, get_address(key), operator, contract)
    return sign(digest, key)


VALIDATORS = tuple(sorted(account(f"validator {i}") for i in range(4)))
OPERATORS = tuple(account(f"operator {i}") for i in range(4))
SUBMITTER = account("submitter")
MINERS = tuple(account(f"miner {i}") for i in range(4))
STRANGER = account("stranger")
TREASURY = account("treasury")
FEE_LIMIT = 10**15
"""More than any fee of a test."""
SUPPLY_EACH = 10_000 * POT
STAKE = 500 * POT
SEAT_BOND = 3 * POT
SEAT_ATTEMPTS = 10
CHANGE_BLOCKS = 10
EVIDENCE_BLOCKS = 1_000

SPEC = b'{"task":"a"}'
TERMS = TaskTerms(
    spec_hash=Hash32(hashlib.sha256(SPEC).digest()),
    token=TRAINING_TOKEN,
    unit_price=POT,
    validator_fee=10 * POT + 3,
    rounds=3,
    min_miners=2,
    min_units=2,
    max_units=8,
    audit_ppm=1_000_000,
    commit_seconds=30,
    verdict_seconds=40,
    result_seconds=50,
)
RESOURCES = TaskResources(
    unit_milliseconds=100, evaluation_milliseconds=200, peak_bytes=2**30, disk_bytes=2**29
)
PRICES = Prices(
    task_slots=16,
    slot_price=1_000,
    second_price=7_000,
    byte_price=86_400 * 200,
    examination_fee=5_000,
    pending_seconds=3_600,
    max_lifetime_seconds=200 * 86_400,
    idle_seconds=7 * 86_400,
    empty_block_milliseconds=5_000,
    phase_floor_blocks=FLOOR,
)
"""A byte price of 200 for a GiB-second, and other small numbers, so that sums are plain."""
PURCHASE = Purchase(lifetime_seconds=100 * 86_400, attempts=1_000)
ROUND_COST = TERMS.max_units * TERMS.unit_price + TERMS.validator_fee
BUDGET = 3 * ROUND_COST
OK, BAD, CHEAT, MISSING, UNCHECKED = range(5)


def result(
    name: str = "result", accepted_units: int = 4, rewards: RewardTree | None = None
) -> ResultVote:
    """A result that settles a round, with a share of the fee for each of four operators.

    As all results here, it gets the voters of its ballot where it is posted (`World.complete`).
    """
    return ResultVote(
        training_state_root=keccak256(name.encode()),
        model_root=keccak256(b"model " + name.encode()),
        rewards_root=keccak256(b"rewards") if rewards is None else rewards.root,
        accepted_units=accepted_units,
        payout=accepted_units * POT + TERMS.validator_fee // 4 * 4,
        kind=ResultKind.SETTLED,
        timely_voters=0,
    )


def empty_result(kind: ResultKind) -> ResultVote:
    """A result without pay and without a model."""
    return build_empty_vote(kind, 0)


def payment(accepted_units: int = 4) -> ResultVote:
    """A result that pays, and leaves the model as it is."""
    no_model = {"training_state_root": ZERO_HASH, "model_root": ZERO_HASH}
    return replace(result("payment", accepted_units), kind=ResultKind.PAID_ONLY, **no_model)


def pack(verdicts: Sequence[int]) -> bytes:
    packed = bytearray((len(verdicts) + 1) // 2)
    for i, verdict in enumerate(verdicts):
        packed[i // 2] |= verdict << (4 * (i % 2))
    return bytes(packed)


@cache
def artifact(name: str) -> dict:
    for folder in ("contracts/build", "tests/contracts/build"):
        path = Path(__file__).parents[2] / folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
    raise AssertionError(name)


class Reverted(Exception):
    """A call failed; `error` is what the contract said."""

    def __init__(self, error: ContractError | str) -> None:
        super().__init__(str(error))
        self.error = error


def refusal(call, *arguments, **keywords) -> ContractError | str:
    """The error with which a call is refused; asserts that it is refused."""
    try:
        call(*arguments, **keywords)
    except Reverted as reverted:
        return reverted.error
    raise AssertionError("the call was not refused")


@dataclass(frozen=True)
class Answer:
    output: bytes
    events: tuple[Event, ...]
    gas: int
    """The gas of the execution, without the intrinsic gas of a transaction."""


class World:
    def __init__(self, database: AtomicDB, state_root: Hash32 = EMPTY_TRIE_ROOT) -> None:
        self.database = database
        self.state = PragueState(database, None, state_root)
        self.at(FIRST_BLOCK, FIRST_TIME)

    def save(self, database: AtomicDB) -> tuple[AtomicDB, Hash32]:
        """A state from which another world can start."""
        self.state.persist()
        return database, Hash32(self.state.state_root)

    def copy(self) -> "World":
        """Another world that goes on from here."""
        other = World(*self.save(self.database))
        other.at(self.number, self.timestamp)
        return other

    # ---- time

    def at(self, number: int, timestamp: int) -> None:
        self.number, self.timestamp = number, timestamp
        self.state.execution_context = ExecutionContext(
            coinbase=bytes(20),
            timestamp=timestamp,
            block_number=number,
            difficulty=0,
            mix_hash=bytes(32),
            gas_limit=GAS,
            prev_hashes=(),
            chain_id=CHAIN_ID,
            base_fee_per_gas=0,
            excess_blob_gas=0,
        )

    def mine(self, blocks: int = 1, seconds: int = 0) -> None:
        self.at(self.number + blocks, self.timestamp + seconds)

    def pass_phase(self) -> None:
        """Go to the first block past the deadline of the phase."""
        deadline = self.read(gradient_ledger.deadline(self.task))
        assert deadline.timestamp, "this phase has no end"
        self.at(max(self.number, deadline.block_number), max(self.timestamp, deadline.timestamp))

    # ---- calls

    def deploy(self, name: str, at: Address, arguments: bytes = b"") -> Address:
        code = bytes.fromhex(artifact(name)["bytecode"][2:]) + arguments
        message = Message(
            gas=2**30,
            to=b"",
            sender=bytes(20),
            value=0,
            data=b"",
            code=code,
            create_address=at,
        )
        context = CancunTransactionContext(gas_price=0, origin=bytes(20))
        computation = self.state.computation_class.apply_create_message(
            self.state, message, context
        )
        self._finish(computation)
        return at

    def send(self, sender: Address, call: ContractCall, *, is_static: bool = False) -> Answer:
        message = Message(
            gas=GAS,
            to=call.to,
            sender=sender,
            value=0,
            data=call.data,
            code=self.state.get_code(call.to),
            is_static=is_static,
        )
        context = CancunTransactionContext(gas_price=0, origin=sender)
        computation = self.state.computation_class.apply_message(self.state, message, context)
        return self._finish(computation)

    def _finish(self, computation) -> Answer:
        self.state.lock_changes()
        self.state.clear_transient_storage()
        if computation.is_error:
            data = bytes(computation.output)
            raise Reverted(decode_error(data) or f"{computation.error!r} {data.hex()}")
        logs = (
            Log(Address(address), tuple(Hash32(t.to_bytes(32, "big")) for t in topics), bytes(data))
            for address, topics, data in computation.get_log_entries()
        )
        events = tuple(event for log in logs if (event := decode_event(log)) is not None)
        return Answer(bytes(computation.output), events, computation.get_gas_used())

    def read(self, view: ContractView[T]) -> T:
        return view.decode(self.view(view.to, view.data))

    def view(self, to: Address, data: bytes) -> bytes:
        return self.send(STRANGER, ContractCall(to, data), is_static=True).output

    # ---- calls of the actors, for the task under test

    task = TaskId(1)

    def approve(self, owner: Address, spender: Address, amount: int, token=TRAINING_TOKEN) -> None:
        self.send(owner, training_token.approve(token, spender, amount))

    def submit(
        self,
        terms: TaskTerms = TERMS,
        spec: bytes = SPEC,
        budget: int = BUDGET,
        purchase: Purchase = PURCHASE,
        resources: TaskResources = RESOURCES,
        max_fee: int = FEE_LIMIT,
    ) -> Answer:
        is_pot = terms.token == TRAINING_TOKEN
        self.approve(SUBMITTER, TASK_REGISTRY, max_fee + (budget if is_pot else 0))
        if not is_pot:
            self.approve(SUBMITTER, TASK_REGISTRY, budget, terms.token)
        call = task_registry.submit_task(terms, resources, spec, budget, purchase, max_fee)
        return self.send(SUBMITTER, call)

    def answer(self, operators: Sequence[Address], code: int) -> Answer:
        for operator in operators:
            answer = self.send(operator, task_registry.answer_task(self.task, code))
        return answer

    def ready(self, operators: Sequence[Address] = OPERATORS[:3]) -> Answer:
        return self.answer(operators, READY_CODE)

    def extend(self, purchase: Purchase, sender: Address = SUBMITTER, limit: int = FEE_LIMIT):
        self.approve(sender, TASK_REGISTRY, FEE_LIMIT)
        return self.send(sender, task_registry.extend_task(self.task, purchase, limit))

    def expire(self, sender: Address = STRANGER) -> Answer:
        return self.send(sender, task_registry.expire_task(self.task))

    def refund_fee(self) -> Answer:
        return self.send(STRANGER, task_registry.refund_fee(self.task))

    def register(self, miner: Address, units: int = 2, displaced: Sequence[Address] = ()) -> Answer:
        bond = self.read(miner_seats.required_bond(self.task, units))
        self.approve(miner, MINER_SEATS, bond + SEAT_BOND)
        return self.send(miner, miner_seats.register(self.task, units, displaced))

    def leave(self, miner: Address) -> Answer:
        return self.send(miner, miner_seats.leave(self.task))

    def withdraw_bond(self, miner: Address) -> Answer:
        return self.send(miner, miner_seats.withdraw_bond(self.task))

    def end_seats(self, *miners: Address) -> Answer:
        return self.send(STRANGER, miner_seats.end_seats(self.task, miners))

    def commit(self, miner: Address, units: int = 2, **place: int) -> Answer:
        place = {**self.place(), **place}
        commitment = keccak256(b"commitment" + miner)
        call = gradient_ledger.commit_gradient(
            self.task, place["round"], place["attempt"], units, commitment
        )
        return self.send(miner, call)

    def verdict(self, operator: Address, verdicts: Sequence[int], **place: int) -> Answer:
        place = {**self.place(), **place}
        call = gradient_ledger.post_verdict(
            self.task, place["round"], place["attempt"], place["ballot"], pack(verdicts)
        )
        return self.send(operator, call)

    def complete(self, vote: ResultVote) -> ResultVote:
        """The vote with the timely voters of the ballot in progress, unless it names others."""
        if vote.timely_voters:
            return vote
        number = self.read(gradient_ledger.get_round(self.task)).ballot_number
        ring = number % gradient_ledger.RING
        record = self.find_mapping("GradientLedger", "_ballots", self.task, ring)
        word = self.state.get_storage(GRADIENT_LEDGER, record + 1)
        return replace(vote, timely_voters=word & (2**104 - 1))

    def result(
        self, operator: Address, vote: ResultVote, *, is_evaluated: bool = True, **place: int
    ) -> Answer:
        place = {**self.place(), **place}
        vote = self.complete(vote)
        correct_count = 350 if is_evaluated else None
        call = gradient_ledger.post_result(
            self.task, place["round"], place["attempt"], place["ballot"], vote, correct_count, 120
        )
        return self.send(operator, call)

    def settle(self, vote: ResultVote, sender: Address = STRANGER) -> Answer:
        return self.send(sender, gradient_ledger.settle_round(self.task, self.complete(vote)))

    def advance(self, sender: Address = STRANGER) -> Answer:
        return self.send(sender, gradient_ledger.advance_round(self.task))

    def cancel(self, sender: Address = SUBMITTER) -> Answer:
        return self.send(sender, task_registry.cancel_task(self.task))

    def resume(self, sender: Address = SUBMITTER) -> Answer:
        return self.send(sender, task_registry.resume_task(self.task))

    def refund(self) -> Answer:
        return self.send(STRANGER, task_registry.refund_task(self.task))

    def fund(self, amount: int, sender: Address = SUBMITTER) -> Answer:
        self.approve(sender, TASK_REGISTRY, amount)
        return self.send(sender, task_registry.fund_task(self.task, amount))

    def claim(self, account_: Address, tree: RewardTree, cumulative: int) -> Answer:
        proof = tree.proof(account_) or ()
        return self.send(account_, reward_distributor.claim(self.task, cumulative, proof))

    # ---- whole steps of a round

    def start_round(self, miners: Sequence[Address] = MINERS[:2]) -> None:
        """Start a task, open its first attempt, and go on by one block."""
        self.submit()
        self.ready()
        for miner in miners:
            self.register(miner)
        self.advance()
        self.mine(1, 1)

    def commit_all(self, miners: Sequence[Address] = MINERS[:2]) -> None:
        for miner in miners:
            self.commit(miner)

    def judge(self, verdicts: Sequence[int] = (OK, OK), operators=OPERATORS) -> None:
        for operator in operators:
            self.verdict(operator, verdicts)

    def agree(self, vote: ResultVote | None = None, operators=OPERATORS[:3]) -> ResultVote:
        vote = self.complete(vote or result())
        for operator in operators:
            self.result(operator, vote)
        return vote

    def play_round(self, verdicts: Sequence[int] = (OK, OK), units: int = 4) -> Answer:
        """Play an open attempt to its settlement, and go on by one block."""
        self.commit_all()
        self.judge(verdicts)
        settled = self.settle(self.agree(result(f"round {self.place()['round']}", units)))
        self.mine(1, 1)
        return settled

    def void_round(self) -> Answer:
        """Play an open attempt with commitments that pays no miner, and go on by one block."""
        self.commit_all()
        self.judge()
        voided = self.settle(self.agree(empty_result(ResultKind.VOID)))
        self.mine(1, 1)
        return voided

    # ---- reads

    @property
    def phase(self) -> Phase:
        return self.read(gradient_ledger.phase(self.task))

    @property
    def round(self) -> RoundState:
        return self.read(gradient_ledger.get_round(self.task))

    @property
    def lease(self) -> TaskLease:
        return self.read(task_registry.get_lease(self.task))

    @property
    def burnt(self) -> int:
        return self.read(task_registry.get_burnt())

    def quote(
        self,
        terms: TaskTerms = TERMS,
        resources: TaskResources = RESOURCES,
        purchase: Purchase = PURCHASE,
    ) -> Quote:
        return self.read(task_registry.get_quote(terms, resources, purchase))

    @property
    def money(self) -> TaskAccount:
        return self.read(task_registry.get_account(self.task))

    def place(self) -> dict[str, int]:
        """The round, attempt and ballot, read from storage, which is faster than `round`."""
        word = self.read_mapping("GradientLedger", GRADIENT_LEDGER, "_trainings", self.task)
        mask = 2**32 - 1
        return {"round": word & mask, "attempt": word >> 32 & mask, "ballot": word >> 128 & 0xFF}

    def pot_of(self, holder: Address) -> int:
        """The balance of POT, read from storage, which is faster than `balance`."""
        key = int.from_bytes(holder, "big")
        return self.read_mapping("TrainingToken", TRAINING_TOKEN, "_balances", key)

    def read_mapping(self, name: str, contract: Address, label: str, key: int) -> int:
        return self.state.get_storage(contract, self.find_mapping(name, label, key))

    def find_mapping(self, name: str, label: str, *keys: int) -> int:
        """The storage slot of an entry of a mapping, or of a mapping of mappings."""
        (slot,) = (
            int(variable["slot"])
            for variable in artifact(name)["storageLayout"]
            if variable["label"] == label
        )
        for key in keys:
            slot = int.from_bytes(keccak256(key.to_bytes(32, "big") + slot.to_bytes(32, "big")))
        return slot

    def seat(self, miner: Address) -> SeatState:
        return self.read(miner_seats.get_seat(self.task, miner))

    def participants(self) -> tuple[Participant, ...]:
        return self.read(miner_seats.participants(self.task))

    def balance(self, holder: Address, token: Address = TRAINING_TOKEN) -> int:
        return self.read(training_token.balance_of(token, holder))

    def credit(self, operator: Address) -> int:
        return self.read(miner_seats.credit_of(TRAINING_TOKEN, operator))

    def claimed_total(self) -> int:
        return self.read(reward_distributor.CONTRACT.view("claimedTotalOf", self.task, returns=int))

    def rewards(self, cumulative: dict[Address, int]) -> RewardTree:
        return build_reward_tree(CHAIN_ID, REWARD_DISTRIBUTOR, self.task, cumulative)


HOLDERS = (SUBMITTER, *MINERS, TREASURY)


def deploy_contracts(
    world: World,
    validators: Sequence[Address] = VALIDATORS,
    operators: Sequence[Address] = OPERATORS,
    holders: Sequence[Address] = HOLDERS,
    floor: int = FLOOR,
    prices: Prices | None = None,
    seat_bond: int = SEAT_BOND,
    seat_attempts: int = SEAT_ATTEMPTS,
    grace: int = GRACE,
) -> None:
    """Deploy all contracts as genesis does; each holder has SUPPLY_EACH base units of POT."""
    stakes = STAKE * len(validators)
    world.deploy(
        "TrainingToken",
        TRAINING_TOKEN,
        training_token.encode_constructor(
            (*holders, VALIDATOR_SET), (*[SUPPLY_EACH] * len(holders), stakes)
        ),
    )
    world.deploy(
        "ValidatorSet",
        VALIDATOR_SET,
        validator_set.encode_constructor(
            validators,
            operators,
            stake=STAKE,
            min_validators=3,
            change_blocks=CHANGE_BLOCKS,
            evidence_blocks=EVIDENCE_BLOCKS,
        ),
    )
    world.deploy(
        "TaskRegistry",
        TASK_REGISTRY,
        task_registry.encode_constructor(prices or replace(PRICES, phase_floor_blocks=floor)),
    )
    world.deploy(
        "GradientLedger", GRADIENT_LEDGER, gradient_ledger.encode_constructor(floor, grace)
    )
    world.deploy("RewardDistributor", REWARD_DISTRIBUTOR)
    world.deploy(
        "MinerSeats", MINER_SEATS, miner_seats.encode_constructor(seat_bond, seat_attempts)
    )


@cache
def _genesis() -> tuple[AtomicDB, Hash32]:
    world = World(database := AtomicDB())
    deploy_contracts(world)
    return world.save(database)


@cache
def _started() -> tuple[AtomicDB, Hash32]:
    world = new_world()
    world.start_round()
    return world.save(_genesis()[0])


def new_world() -> World:
    """The contracts as genesis leaves them."""
    return World(*_genesis())


def new_world_with_floor(floor: int) -> World:
    """The same with another least number of blocks for every phase."""
    world = World(AtomicDB())
    deploy_contracts(world, floor=floor)
    return world


def started_world() -> World:
    """An active task whose first attempt is open, with two miners, one block later."""
    world = World(*_started())
    world.mine(1, 1)
    return world


def with_terms(**changes: object) -> TaskTerms:
    """Other terms. An attempt needs one unit of each miner that it needs, if not told otherwise."""
    changes.setdefault("min_units", changes.get("min_miners", TERMS.min_miners))
    return replace(TERMS, **changes)
