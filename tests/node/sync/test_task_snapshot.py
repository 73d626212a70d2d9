"""A task read from the contracts' state is the task that its events tell."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from eth.db.atomic import AtomicDB

from chain.contracts import validator_set
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.events import Event
from chain.contracts.gradient_ledger import ResultKind, ResultVote
from chain.contracts.task_registry import CloseReason, TaskStatus, TaskSubmitted
from chain.errors import RejectedInputError
from chain.primitives import Address, BlockNumber
from chain.training.history import (
    BlockContext,
    SettledRound,
    TaskHistory,
    apply_event,
    build_history,
)
from chain.training.task_spec_codec import compute_terms, encode_task_spec
from node.config import Retention
from node.network.protocols.state import TaskRecord
from node.sync.task_snapshot import StateView, fold_attempt
from node.training.closed_disk import ClosedDisk
from node.training.retention import RetentionPolicy, compute_kept
from tests.worlds.contracts import (
    CHAIN_ID,
    CHANGE_BLOCKS,
    FEE_LIMIT,
    MINERS,
    MISSING,
    OK,
    OPERATORS,
    POT,
    UNCHECKED,
    VALIDATORS,
    Answer,
    Purchase,
    World,
    deploy_contracts,
    empty_result,
    payment,
    result,
)
from tests.worlds.training import SPEC as SMALL

REFUSAL = 9
PURCHASE = Purchase(lifetime_seconds=86_400, attempts=20)
SPEC = replace(
    SMALL,
    round_count=1,
    schedule=SMALL.schedule[:1],
    reward=replace(SMALL.reward, token=TRAINING_TOKEN, max_units=8, min_miners=2, min_units=2),
)
MEMBERS = MINERS[:2]


class FoldedWorld(World):
    """The contracts, with the task folded from each event as it comes."""

    def __init__(self) -> None:
        super().__init__(AtomicDB())
        self.folded: TaskHistory | None = None
        self.blocks: list[tuple[BlockContext, Sequence[Event]]] = []
        self.earned: dict[Address, int] = {}
        deploy_contracts(self)

    def send(self, sender: Address, call: ContractCall, *, is_static: bool = False) -> Answer:
        answer = super().send(sender, call, is_static=is_static)
        block = BlockContext(BlockNumber(self.number), self.timestamp)
        if answer.events:
            self.blocks.append((block, answer.events))
        for event in answer.events:
            if isinstance(event, TaskSubmitted):
                self.folded = build_history(event, block)
            elif self.folded is not None and getattr(event, "task_id", None) == self.task:
                members = self.read(validator_set.get_current())
                fold = apply_event(self.folded, event, block, spec=SPEC, validator_set=members)
                self.folded = fold.history
                self.earned |= {
                    account: self.earned.get(account, 0) + pay for account, pay in fold.payouts
                }
        return answer

    @property
    def history(self) -> TaskHistory:
        assert self.folded is not None
        return self.folded

    def start(self) -> None:
        """Submit the task."""
        spec = encode_task_spec(SPEC)
        self.submit(compute_terms(SPEC), spec, 100 * POT, PURCHASE, SPEC.resources, FEE_LIMIT)

    def open(self) -> None:
        """Submit the task, and open its first attempt."""
        self.start()
        self.ready()
        for miner in MEMBERS:
            self.register(miner)
        self.advance()
        self.mine(1, 1)

    def fail_ballot(self, *words: Sequence[int]) -> None:
        """Let the ballot fail by the words of each validator on the two gradients."""
        for operator, verdicts in zip(OPERATORS, words, strict=True):
            self.verdict(operator, verdicts)
        self.agree(empty_result(ResultKind.FAILED))
        self.advance()
        self.mine(1, 1)


class View(StateView):
    """The contracts of a world at its head."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.read = world.read
        self._chain_id = CHAIN_ID

    def read_slot(self, contract: Address, slot: int) -> int:
        return self.world.state.get_storage(contract, slot)


def build_by_snapshot(world: FoldedWorld) -> TaskHistory:
    view = View(world)
    record = TaskRecord(world.history.spec, tuple(sorted(world.earned.items())))
    members = world.read(validator_set.get_current())
    progress = view.build_progress(world.task, record, members)
    first = progress.open_block
    blocks = [each for each in world.blocks if first is not None and each[0].number >= first]
    return fold_attempt(progress, blocks, view.judges(progress))


def without_what_only_events_tell(world: FoldedWorld) -> TaskHistory:
    """The folded task without answers' order and marks of attempts that may still be fined."""
    ready = tuple(each for each in VALIDATORS if each in world.history.ready)
    refusals = tuple(sorted(world.history.refusals))
    return replace(world.history, ready=ready, refusals=refusals, ended=())


def pay_all(world: FoldedWorld, vote: ResultVote) -> ResultVote:
    """The vote with the pay of both miners and of all operators."""
    earned = dict.fromkeys(MEMBERS, 2 * SPEC.reward.unit_price)
    earned |= dict.fromkeys(OPERATORS, SPEC.reward.validator_fee // 4)
    root = world.rewards(earned).root
    return replace(vote, payout=sum(earned.values()), rewards_root=root)


def refuse(world: FoldedWorld) -> None:
    world.start()
    world.ready(OPERATORS[3:])
    world.answer(OPERATORS[:2][::-1], REFUSAL)


def expire(world: FoldedWorld) -> None:
    world.start()
    world.mine(10_000, 10_000)
    world.expire()


def expire_after_use(world: FoldedWorld) -> None:
    world.open()
    world.mine(100_000, 100_000)
    world.advance()
    world.expire()


def cancel(world: FoldedWorld) -> None:
    world.start()
    world.ready()
    world.cancel()


def cancel_in_an_attempt(world: FoldedWorld) -> None:
    world.open()
    world.cancel()
    world.pass_phase()
    world.advance()


def complete(world: FoldedWorld) -> None:
    world.open()
    world.commit_all(MEMBERS)
    world.judge((OK, OK))
    world.settle(world.agree(pay_all(world, result())))


CLOSES = [
    (refuse, CloseReason.REFUSED),
    (expire, CloseReason.EXPIRED),
    (expire_after_use, CloseReason.EXPIRED),
    (cancel, CloseReason.CANCELLED),
    (cancel_in_an_attempt, CloseReason.CANCELLED),
    (complete, CloseReason.COMPLETED),
]


@pytest.mark.parametrize(("close", "reason"), CLOSES, ids=[each.__name__ for each, _ in CLOSES])
def test_closed_task_is_what_its_events_tell(
    close: Callable[[FoldedWorld], None], reason: CloseReason
) -> None:
    world = FoldedWorld()
    close(world)
    closed = BlockContext(BlockNumber(world.number), world.timestamp)
    world.mine(5, 5)
    built = build_by_snapshot(world)
    assert (built.close_reason, built.closed) == (reason, closed)
    assert built == without_what_only_events_tell(world)


class SlotView(View):
    """One that reads slots, and calls no view."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.read = None
        self.slots = 0

    def read_slot(self, contract: Address, slot: int) -> int:
        self.slots += 1
        return super().read_slot(contract, slot)


def test_closed_task_costs_a_few_slots_and_no_call() -> None:
    """There may be tens of thousands of closed tasks, and a call takes half a millisecond."""
    world = FoldedWorld()
    complete(world)
    view, members = SlotView(world), world.read(validator_set.get_current())
    record = TaskRecord(world.history.spec, tuple(sorted(world.earned.items())))
    progress = view.build_progress(world.task, record, members)
    assert progress.history == without_what_only_events_tell(world)
    assert view.slots == 17
    for false in (replace(record, spec=b"{}"), replace(record, rewards=record.rewards[1:])):
        with pytest.raises(RejectedInputError):
            view.build_progress(world.task, false, members)


def test_validator_that_was_ready_keeps_and_counts_a_closed_task() -> None:
    world = FoldedWorld()
    complete(world)
    closed_at = world.timestamp
    built = build_by_snapshot(world)
    disk = ClosedDisk()
    disk.add(built, SPEC)
    assert disk.count(closed_at) > 0

    def keep(history: TaskHistory, get_settled: Callable[[int], SettledRound | None]):
        return compute_kept(
            history,
            SPEC,
            get_settled,
            lambda _: (),
            RetentionPolicy(Retention.LIVE, closed_seconds=1_000),
            head_number=BlockNumber(world.number),
            head_timestamp=closed_at + 999,
            own_validator=VALIDATORS[0],
        )

    kept = keep(built, lambda _: None)
    assert kept is not None
    assert built.model_root in kept.content
    assert kept == keep(without_what_only_events_tell(world), lambda _: None)


def test_open_task_is_not_closed() -> None:
    world = FoldedWorld()
    for step in (world.start, world.ready):
        step()
        built = build_by_snapshot(world)
        assert (built.close_reason, built.closed) == (None, None)
        assert built == without_what_only_events_tell(world)
    assert built.status is TaskStatus.ACTIVE


def test_each_ballot_of_an_attempt_is_folded_with_its_own_judges() -> None:
    world = FoldedWorld()
    world.open()
    world.commit_all(MEMBERS)
    world.mine(1, 1)
    world.send(OPERATORS[3], validator_set.leave_set())
    # One of four could not get the second gradient: at most f, so it is not late. Of the three that
    # judge the next ballot, one is more than f.
    lacking_time = [(OK, UNCHECKED)] * 3
    world.fail_ballot((OK, MISSING), *lacking_time)
    world.mine(CHANGE_BLOCKS, CHANGE_BLOCKS)
    world.judge((OK, UNCHECKED), OPERATORS[:3])
    attempt = world.history.attempt
    assert attempt is not None
    assert (attempt.ballot, attempt.late_deliveries) == (1, ())
    assert attempt.validator_set is not None
    assert len(attempt.validator_set.validators) == 3
    assert build_by_snapshot(world).attempt == attempt


def test_paid_attempt_without_a_model_counts_as_progress() -> None:
    world = FoldedWorld()
    world.open()
    world.commit_all(MEMBERS)
    for _ in range(2):
        world.mine(1, 1)
        world.fail_ballot(*[(OK, UNCHECKED)] * 4)
    world.judge((OK, OK))
    world.pass_phase()
    world.advance()
    world.settle(world.agree(pay_all(world, payment())))
    assert world.history.lease.progress_time == world.timestamp
    assert build_by_snapshot(world) == without_what_only_events_tell(world)
