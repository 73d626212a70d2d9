"""No call sequence makes or loses money (docs/spec/contracts.md, section 10).

Each seed is a walk of random calls, most of which are refused. These walks settle a round in about
25 calls; hypothesis's state machine settled 7 in 400.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from chain.contracts import miner_seats, task_registry
from chain.contracts.addresses import GRADIENT_LEDGER, MINER_SEATS, TASK_REGISTRY
from chain.contracts.gradient_ledger import GradientCommitted, Phase, ResultKind, VerdictPosted
from chain.contracts.miner_seats import Fine, FineKind, MinerAbsent, MinerFined, SeatBondBurnt
from chain.contracts.task_registry import ExaminationPayWithdrawn, Purchase, TaskStatus
from chain.primitives import Address
from chain.training.rewards import RewardTree
from chain.training.slashing import FineTree, build_fine_tree
from tests.worlds.contracts import (
    BAD,
    CHAIN_ID,
    CHEAT,
    HOLDERS,
    MINERS,
    MISSING,
    OK,
    OPERATORS,
    POT,
    SEAT_BOND,
    STRANGER,
    SUPPLY_EACH,
    TERMS,
    Answer,
    Reverted,
    empty_result,
    result,
    started_world,
)

STEPS = 80
BOND = 5 * POT // 2


class Walk:
    """Random accounts make random calls."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = started_world()
        self.earned: dict[Address, int] = {}
        self.committed: list[Address] = []
        self.posted: list[Address] = []
        self.fines: tuple[int, FineTree] | None = None
        self.burnt = 0
        """What fines, misses and ended seats have taken from bonds."""
        self.examination_pay = 0
        self.seen: Counter[str] = Counter()
        self.actions = {
            self.goes_on: 30,
            self.commits: 4,
            self.judges: 2,
            self.posts: 2,
            self.registers: 8,
            self.leaves: 2,
            self.withdraws: 6,
            self.advances: 2,
            self.fines_an_attempt: 6,
            self.slashes: 6,
            self.ends_seats: 4,
            self.takes_credit: 4,
            self.claims: 10,
            self.funds: 3,
            self.cancels: 0.3,
            self.answers: 3,
            self.extends: 2,
            self.expires: 2,
            self.takes_examination_pay: 3,
            self.asks_for_fee: 2,
            self.resumes: 2,
            self.asks_for_refund: 2,
            self.waits: 4,
        }

    def step(self) -> None:
        (action,) = self.random.choices(list(self.actions), list(self.actions.values()))
        said_before = self.seen.total()
        action()
        if self.seen.total() != said_before:
            self.check()

    def attempt(self, call: Callable[[], Answer]) -> None:
        try:
            answer = call()
        except Reverted as reverted:
            error = reverted.error
        else:
            self.record(answer)
            return
        # A refusal is a custom error, never a panic: no sum over- or underflows.
        assert not isinstance(error, str), error
        assert error.name != "Panic"

    def record(self, answer: Answer) -> None:
        for event in answer.events:
            self.seen[type(event).__name__] += 1
            if isinstance(event, GradientCommitted):
                self.committed.append(event.miner)
            if isinstance(event, VerdictPosted) and event.timely:
                self.posted.append(event.validator)
            if isinstance(event, MinerAbsent | MinerFined | SeatBondBurnt):
                self.burnt += event.amount
            if isinstance(event, ExaminationPayWithdrawn):
                self.examination_pay += event.amount

    # ---- calls

    def goes_on(self) -> None:
        """Call what an honest network would call next, with some noise."""
        phase = self.world.phase
        if phase is Phase.WAITING:
            self.world.mine(1, 1)
        elif phase is Phase.COMMITMENT and not self.committed and self.random.random() < 0.9:
            for miner in MINERS:
                units = self.world.seat(miner).units
                self.attempt(lambda miner=miner, units=units: self.world.commit(miner, units))
        elif phase is Phase.VERDICT and not self.posted:
            words = self.random.choices((OK, BAD, CHEAT, MISSING), (6, 1, 5, 2), k=4)
            count = len(self.committed)
            for operator in self.random.sample(OPERATORS, self.random.choice((2, 3, 4, 4, 4))):
                self.attempt(lambda one=operator: self.world.verdict(one, words[:count]))
        elif phase is Phase.RESULT:
            self.settles()
        elif phase in (Phase.COMMITMENT, Phase.VERDICT, Phase.PAYMENT):
            self.world.pass_phase()
        else:
            self.advances()

    def settles(self) -> None:
        """Let a quorum vote for a payable result, and sometimes for three times as much."""
        state = self.world.round
        units = self.random.randint(0, min(state.committed_units, TERMS.max_units))
        miner, promise = self.random.choice(MINERS), self.random.choice((1, 1, 1, 3))
        earned = {**self.earned, miner: self.earned.get(miner, 0) + units * POT * promise}
        vote = result(f"{state.ballot_number}", units, self.tree(earned))
        if not units:
            vote, earned = empty_result(ResultKind.VOID), self.earned
        self.world.agree(vote)
        self.earned, self.committed, self.posted = earned, [], []
        self.record(self.world.settle(vote))

    def commits(self) -> None:
        miner, units = self.random.choice(MINERS), self.random.randint(0, 5)
        self.attempt(lambda: self.world.commit(miner, units))

    def judges(self) -> None:
        words = self.random.choices((OK, CHEAT), k=self.random.randint(0, 4))
        self.attempt(lambda: self.world.verdict(self.random.choice(OPERATORS), words))

    def posts(self) -> None:
        vote = result("alone", self.random.randint(0, 12))
        self.attempt(lambda: self.world.result(self.random.choice(OPERATORS), vote))

    def registers(self) -> None:
        miner, units = self.random.choice(MINERS), self.random.randint(1, 9)
        self.attempt(lambda: self.world.register(miner, units))

    def leaves(self) -> None:
        self.attempt(lambda: self.world.leave(self.random.choice(MINERS)))

    def withdraws(self) -> None:
        self.attempt(lambda: self.world.withdraw_bond(self.random.choice(MINERS)))

    def advances(self) -> None:
        before = self.world.place()
        self.attempt(self.world.advance)
        after = self.world.place()
        if after != before:
            self.posted = []
            if after["attempt"] != before["attempt"]:
                self.committed = []

    def fines_an_attempt(self) -> None:
        """Let a quorum vote for fines of some attempt, whatever its verdicts were."""
        ordinal = self.random.randint(1, self.world.round.attempt_count + 1)
        kinds = (FineKind.MISS, FineKind.MISS, FineKind.FRAUD)
        fines = [
            Fine(0, index, miner, self.random.choice(kinds), self.random.randint(0, 15))
            for index, miner in enumerate(MINERS[: self.random.randint(1, 4)])
        ]
        tree = build_fine_tree(CHAIN_ID, self.world.task, ordinal, fines)
        call = miner_seats.post_fines(self.world.task, ordinal, tree.root)
        for operator in OPERATORS[:3]:
            self.attempt(lambda one=operator: self.world.send(one, call))
        self.fines = ordinal, tree

    def slashes(self) -> None:
        if self.fines is None:
            return
        ordinal, tree = self.fines
        chosen = [tree.prove(self.random.randrange(len(tree.fines)))]
        call = miner_seats.slash(self.world.task, ordinal, chosen)
        self.attempt(lambda: self.world.send(STRANGER, call))

    def ends_seats(self) -> None:
        self.attempt(lambda: self.world.end_seats(*MINERS))

    def takes_credit(self) -> None:
        data = miner_seats.withdraw_credit(TERMS.token)
        operator = self.random.choice(OPERATORS)
        self.attempt(lambda: self.world.send(operator, data))

    def claims(self) -> None:
        miner = self.random.choice(MINERS)
        cumulative = self.earned.get(miner, 0) + self.random.choice((0, 0, 0, 1))
        self.attempt(lambda: self.world.claim(miner, self.tree(self.earned), cumulative))

    def funds(self) -> None:
        self.attempt(lambda: self.world.fund(self.random.randint(0, 20 * POT)))

    def cancels(self) -> None:
        self.attempt(self.world.cancel)

    def resumes(self) -> None:
        self.attempt(self.world.resume)

    def asks_for_refund(self) -> None:
        self.attempt(self.world.refund)

    def answers(self) -> None:
        operator = self.random.choice(OPERATORS)
        self.attempt(lambda: self.world.answer([operator], self.random.randint(0, 3)))

    def extends(self) -> None:
        purchase = Purchase(self.random.choice((0, 1_000)), self.random.choice((0, 5)))
        self.attempt(lambda: self.world.extend(purchase, self.random.choice(MINERS)))

    def expires(self) -> None:
        self.attempt(self.world.expire)

    def takes_examination_pay(self) -> None:
        operator = self.random.choice(OPERATORS)
        call = task_registry.withdraw_examination_pay()
        self.attempt(lambda: self.world.send(operator, call))

    def asks_for_fee(self) -> None:
        self.attempt(self.world.refund_fee)

    def waits(self) -> None:
        blocks, seconds = self.random.choice((1, 2, 16, 256)), self.random.randint(0, 25)
        if self.random.random() < 0.1:
            blocks, seconds = 720, 3_600  # answers are over
        self.world.mine(blocks, seconds)

    def tree(self, earned: dict[Address, int]) -> RewardTree:
        return self.world.rewards({who: amount for who, amount in earned.items() if amount})

    # ---- invariants

    def check(self) -> None:
        world = self.world
        money, state = world.money, world.round
        assert money.escrowed == money.paid + money.reserved + money.refundable + money.refunded
        claimed = world.claimed_total()
        assert claimed <= money.paid <= money.escrowed - money.refunded
        lease = world.lease
        pay = sum(world.read(task_registry.get_examination_pay(operator)) for operator in OPERATORS)
        fees = world.burnt + lease.held_pay + lease.held_rent + pay
        assert world.pot_of(TASK_REGISTRY) == money.escrowed - money.refunded - claimed + fees
        assert state.paid_total == money.paid

        seats = {miner: world.seat(miner) for miner in MINERS}
        withdrawn = sum(world.pot_of(operator) for operator in OPERATORS) - self.examination_pay
        credited = sum(world.credit(operator) for operator in OPERATORS)
        eighth = SEAT_BOND // 8
        seat_bonds = sum(
            SEAT_BOND - eighth * seat.miss_count for seat in seats.values() if seat.has_seat_bond
        )
        bonds = sum(seat.bond for seat in seats.values()) + seat_bonds
        assert world.pot_of(MINER_SEATS) == bonds + self.burnt - withdrawn
        assert world.pot_of(GRADIENT_LEDGER) == 0
        assert credited + withdrawn <= self.burnt // 2
        everyone = (*HOLDERS, *OPERATORS, TASK_REGISTRY, MINER_SEATS)
        assert sum(map(world.pot_of, everyone)) == SUPPLY_EACH * len(HOLDERS)

        assert state.open == (money.reserved != 0)
        assert not state.open or money.status is TaskStatus.ACTIVE
        assert (world.phase is Phase.INACTIVE) == (money.status is not TaskStatus.ACTIVE)
        assert state.commitment_count <= state.expected_commitments
        listed = world.read(miner_seats.list_seats(world.task))
        assert {one.miner for one in listed} == {
            who for who, seat in seats.items() if seat.position
        }
        assert sum(one.units for one in listed) <= TERMS.max_units


@pytest.mark.parametrize("seed", range(5))
def test_no_sequence_of_calls_makes_or_loses_money(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
    assert walk.seen["RoundSettled"], "this seed walks nowhere"


def test_a_whole_task_ends_with_every_unit_accounted_for() -> None:
    world = started_world()
    before = {who: world.balance(who) for who in HOLDERS}
    share = TERMS.validator_fee // 4
    earned: dict[Address, int] = {}
    for round_number in range(1, TERMS.rounds + 1):
        earned = dict.fromkeys(MINERS[:2], 2 * POT * round_number)
        earned |= dict.fromkeys(OPERATORS, share * round_number)
        tree = world.rewards(earned)
        world.commit_all()
        world.judge()
        world.settle(world.agree(result(f"{round_number}", rewards=tree)))
        world.mine(1, 1)
    for who, cumulative in earned.items():
        world.claim(who, tree, cumulative)
    world.refund()
    world.mine(80 + 2 * 64 + 1)
    for miner in MINERS[:2]:
        world.withdraw_bond(miner)
    held = world.lease.held_pay + sum(
        world.read(task_registry.get_examination_pay(operator)) for operator in OPERATORS
    )
    assert world.balance(TASK_REGISTRY) == world.burnt + held
    assert world.balance(MINER_SEATS) == 0
    for miner in MINERS[:2]:
        assert world.balance(miner) == before[miner] + BOND + SEAT_BOND + 6 * POT
