"""Which task a miner takes that chooses by itself (miner/task_choice.py)."""

import json
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.ledger_storage import OpeningState, StoredSeat
from chain.contracts.task_registry import TaskStatus
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.task_spec import Shard, TaskSpec
from chain.training.task_spec_codec import compute_spec_hash, encode_task_spec
from miner import task_choice
from miner.light import Standing
from miner.nodes import DishonestNodeError
from miner.task_choice import EXAMINED_LIMIT, TaskChoice
from pot_common.rpc_client import NodeUnreachableError
from pot_common.rpc_replies import ClientError
from tests.worlds.node_for_miners import LIMITS, MINING_SPEC
from tests.worlds.proofs import GENESIS

MINER = Address(b"\x77" * 20)
OTHER_TOKEN = Address(b"\x70" * 20)
OUTSIDE = StoredSeat(0, 0, 0, 0, has_ended=True, is_slashed=False, registered_block=0)


@dataclass
class FakeChain:
    """Tasks by id, as nodes list them and as proofs show them."""

    specs: dict[int, TaskSpec]
    listed_status: str = "active"
    proven: dict[int, TaskStatus] = field(default_factory=dict)
    seats: dict[int, StoredSeat] = field(default_factory=dict)
    changes: dict[int, dict[str, object]] = field(default_factory=dict)
    """By task: how it differs from one that can open an attempt."""
    fetched: list[int] = field(default_factory=list)
    current: str = "http://node"
    network = SimpleNamespace(parameters=ChainParameters())
    validators = (OTHER_TOKEN,) * 4

    def count_tasks(self) -> int:
        return max(self.specs, default=0)

    def list_tasks(self, count: int) -> list[SimpleNamespace]:
        assert count == self.count_tasks()
        return [SimpleNamespace(id=each, status=self.listed_status) for each in self.specs]

    def task_spec(self, task: int) -> object:
        self.fetched.append(task)
        return json.loads(encode_task_spec(self.specs[task]))

    def task(self, task: int) -> tuple[Hash32, TaskStatus]:
        return compute_spec_hash(self.specs[task]), self.proven.get(task, TaskStatus.ACTIVE)

    def standing(self, task: int, _miner: Address) -> Standing:
        opening = OpeningState(
            status=self.proven.get(task, TaskStatus[self.listed_status.upper()]),
            is_open=False,
            seat_count=3,
            registered_units=8,
            refundable=10**30,
            attempts_left=10,
            attempt_seconds=500,
            end_time=GENESIS.timestamp + 10**6,
            end_block=BlockNumber(0),
        )
        opening = replace(opening, **self.changes.get(task, {}))  # type: ignore[arg-type]
        seat = self.seats.get(task, OUTSIDE)
        return Standing(GENESIS, opening, seat, BlockNumber(0))


def paying(price: int, token: Address = TRAINING_TOKEN) -> TaskSpec:
    reward = replace(MINING_SPEC.reward, unit_price=price, token=token)
    return replace(MINING_SPEC, reward=reward)


def choice_of(chain: FakeChain) -> TaskChoice:
    return TaskChoice(chain, chain, MINER, LIMITS, units=2)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(seconds=1_000.0)
    monkeypatch.setattr(task_choice.time, "monotonic", lambda: clock.seconds)
    return clock


def test_task_that_pays_most_in_pot_is_chosen() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9), 3: paying(7), 4: paying(99, OTHER_TOKEN)})
    assert choice_of(chain).choose() == 2


def test_seat_of_an_earlier_run_is_found_behind_many_newer_tasks() -> None:
    """On a network with many slots the miner took a second seat, and missed attempts in one."""
    seat = replace(OUTSIDE, units=1, first_attempt=2, has_ended=False)
    chain = FakeChain({each: paying(9) for each in range(1, EXAMINED_LIMIT + 2)}, seats={1: seat})
    choice = TaskChoice(chain, chain, MINER, LIMITS, 2, lambda: [TaskId(1)])
    assert choice.choose() == 1


def test_other_task_is_one_that_can_be_taken_now(now: SimpleNamespace) -> None:
    seat = replace(OUTSIDE, units=1, first_attempt=2, has_ended=False)
    chain = FakeChain({1: paying(9), 2: paying(1)}, seats={1: seat})
    choice = choice_of(chain)
    assert choice.choose() == 1
    assert choice.has_other(TaskId(1))
    choice.leave_idle(TaskId(2))
    now.seconds += 10_000
    assert not choice.has_other(TaskId(1)), "in which the miner did not wait in vain before"
    del chain.specs[2]
    assert not choice.has_other(TaskId(1))


def test_task_whose_rounds_may_last_for_hours_needs_as_much_more_pay() -> None:
    """A price of one percent more held all miners for 20 hours, without work and unpaid."""
    honest, phases = paying(100), MINING_SPEC.phases
    seconds = phases.commit_seconds + phases.verdict_seconds + phases.result_seconds

    def decoy(price: int) -> TaskSpec:
        slow = replace(phases, commit_seconds=phases.commit_seconds + 800 * seconds)
        return replace(paying(price), phases=slow)

    changes: dict[int, dict[str, object]] = {2: {"is_open": True}}
    assert choice_of(FakeChain({1: honest, 2: decoy(101)}, changes=changes)).choose() == 1
    assert choice_of(FakeChain({1: honest, 2: decoy(80_099)}, changes=changes)).choose() == 1
    assert choice_of(FakeChain({1: honest, 2: decoy(80_101)}, changes=changes)).choose() == 2


def test_only_units_that_a_task_has_count_as_pay() -> None:
    small = replace(
        paying(9), reward=replace(paying(9).reward, max_units=1, min_miners=1, min_units=1)
    )
    assert choice_of(FakeChain({1: paying(5), 2: small})).choose() == 1


def test_task_that_pays_nothing_keeps_no_miner_from_one_that_lacks_some() -> None:
    """It had its miners, so it came first, and the other never got its first one."""
    chain = FakeChain({1: paying(900), 2: paying(1)}, changes={1: {"seat_count": 0}})
    assert choice_of(chain).choose() == 1
    # The more miners are lacking, the less is its pay worth.
    chain = FakeChain({1: paying(900), 2: paying(301)}, changes={1: {"seat_count": 0}})
    assert choice_of(chain).choose() == 2


def seat(*, has_ended: bool = False, is_slashed: bool = False) -> StoredSeat:
    return StoredSeat(
        1, 1, 0, 0, has_ended=has_ended, is_slashed=is_slashed, registered_block=BlockNumber(0)
    )


def test_task_with_a_seat_comes_first_even_if_it_is_paused_or_poor() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)})
    chain.seats[1] = seat()
    assert choice_of(chain).choose() == 1
    chain.changes[1] = {"status": TaskStatus.PAUSED}
    assert choice_of(chain).choose() == 1
    chain.changes[1] = {"refundable": 0}
    assert choice_of(chain).choose() == 1


def test_task_with_an_attempt_comes_first_of_those_with_a_seat() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)}, seats={1: seat(), 2: seat()})
    assert choice_of(chain).choose() == 2
    chain.changes[1] = {"is_open": True}
    assert choice_of(chain).choose() == 1


def test_task_whose_bond_was_lost_is_taken_again_only_with_a_new_choice() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)})
    chain.seats[1] = seat(has_ended=True, is_slashed=True)
    assert choice_of(chain).choose() == 2


def test_task_in_which_old_bonds_are_locked_is_not_chosen() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)}, seats={2: seat(has_ended=True)})
    assert choice_of(chain).choose() == 1


def test_task_that_displaced_this_miner_is_chosen_again() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)})
    chain.seats[2] = replace(seat(has_ended=True), is_displaced=True)
    assert choice_of(chain).choose() == 2
    chain.seats[2] = replace(chain.seats[2], miss_count=2)
    assert choice_of(chain).choose() == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attempts_left": 0}, "no attempts are left"),
        ({"refundable": 0}, "too little escrow: 0 POT of"),
        ({"end_time": GENESIS.timestamp + 499}, "less lifetime is left than an attempt may take"),
    ],
)
def test_task_that_can_open_no_attempt_is_not_chosen_and_the_log_says_why(
    changes: dict[str, object], reason: str, now: SimpleNamespace
) -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)}, changes={2: changes})
    choice = choice_of(chain)
    with capture_logs() as logs:
        for _ in range(3):
            assert choice.choose() == 1
            now.seconds += 11
    (entry,) = logs
    assert (entry["event"], entry["task"]) == ("task not taken: it opens no attempt", 2)
    assert reason in entry["reason"]
    chain.changes.clear()
    assert choice.choose() == 2


def test_task_that_needs_fewest_miners_besides_this_one_comes_first() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9), 3: paying(7)})
    assert MINING_SPEC.reward.min_miners == 3
    chain.changes = {2: {"seat_count": 0}, 3: {"seat_count": 1}}
    assert choice_of(chain).choose() == 1
    chain.changes[1] = {"attempts_left": 0}
    assert choice_of(chain).choose() == 3
    chain.changes[3] = {"seat_count": 2}
    assert choice_of(chain).choose() == 3
    chain.changes[3] = {"attempts_left": 0}
    assert choice_of(chain).choose() == 2, "its first miner must not wait for others"


def test_pay_of_a_task_is_worth_less_the_more_units_it_lacks() -> None:
    """Units come with miners, so a task without them is no worse than one without miners."""
    reward = replace(paying(900).reward, max_units=8, min_units=8)
    short = replace(paying(900), reward=reward)
    chain = FakeChain({1: short, 2: paying(301)}, changes={1: {"registered_units": 1}})
    # With the two units of this miner, five are missing: three more miners of its kind.
    assert choice_of(chain).choose() == 2
    chain.specs[2] = paying(224)
    assert choice_of(chain).choose() == 1
    chain.specs[2] = paying(226)
    assert choice_of(chain).choose() == 2
    chain.changes[1]["registered_units"] = 6
    assert choice_of(chain).choose() == 1


def test_task_that_stood_idle_comes_last_and_not_at_once(now: SimpleNamespace) -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)})
    choice = choice_of(chain)
    assert choice.choose() == 2
    choice.leave_idle(TaskId(2))
    now.seconds += 10**6
    assert choice.choose() == 1
    chain.changes[1] = {"attempts_left": 0}
    assert choice.choose() == 2
    waited = []
    for _ in range(3):
        choice.leave_idle(TaskId(2))
        began = now.seconds
        while choice.choose() is None:
            now.seconds += 10
        waited.append(now.seconds - began)
    assert waited == [240, 480, 960]


def test_pauses_for_lack_of_money_end_when_bonds_are_back(now: SimpleNamespace) -> None:
    chain = FakeChain({1: paying(5), 2: paying(9), 3: paying(7)})
    choice = choice_of(chain)
    choice.put_aside(TaskId(2), ClientError("the bond cannot be paid"))
    choice.finish(TaskId(3))
    assert choice.choose() == 1
    choice.leave_idle(TaskId(1))
    choice.look_again()
    assert choice.choose() == 2
    choice.finish(TaskId(2))
    assert choice.choose() is None


def test_task_that_only_a_node_calls_active_is_not_chosen(now: SimpleNamespace) -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)}, proven={2: TaskStatus.PENDING})
    choice = choice_of(chain)
    assert choice.choose() == 1
    chain.proven.clear()
    now.seconds += 10
    assert choice.choose() == 2
    chain.listed_status = "pending"
    assert choice.choose() is None


def test_task_without_time_to_reveal_is_not_chosen_and_the_log_says_why() -> None:
    hasty = replace(paying(9), phases=replace(MINING_SPEC.phases, verdict_seconds=4))
    with capture_logs() as logs:
        assert choice_of(FakeChain({1: paying(5), 2: hasty})).choose() == 1
    (entry,) = logs
    assert (entry["event"], entry["task"]) == ("task put aside", 2)
    assert "could cost you the bond: verdict_seconds is 4" in entry["reason"]


def test_task_without_time_to_commit_is_not_chosen_and_the_log_says_why() -> None:
    trap = replace(
        paying(9),
        phases=replace(MINING_SPEC.phases, commit_seconds=4, verdict_seconds=600),
        resources=replace(MINING_SPEC.resources, unit_milliseconds=60_000),
    )
    with capture_logs() as logs:
        assert choice_of(FakeChain({1: paying(5), 2: trap})).choose() == 1
    (entry,) = logs
    assert (entry["event"], entry["task"]) == ("task put aside", 2)
    assert "could cost you the bond: a miner needs" in entry["reason"]
    assert (
        "60000 ms to compute a unit, as declared, and commit_seconds 4 leaves 0 ms"
        in entry["reason"]
    )


def test_task_that_may_lock_bonds_for_days_is_not_chosen() -> None:
    patient = replace(
        paying(9),
        phases=replace(MINING_SPEC.phases, verdict_seconds=19_000),
    )
    # The bonds were locked for 38 128 blocks after an attempt of three such phases.
    days = (38_128 * 5 + 3 * 19_000) / 86_400
    with capture_logs() as logs:
        assert choice_of(FakeChain({1: paying(5), 2: patient})).choose() == 1
    (entry,) = logs
    assert (entry["event"], entry["task"]) == ("task put aside", 2)
    assert entry["reason"] == (
        f"task 2 may lock bonds for {days:.1f} days after its last attempt has begun, and "
        "--lock-days allows 2"
    )


def test_task_beyond_the_memory_or_the_disk_is_not_chosen() -> None:
    large = replace(
        paying(9), resources=replace(MINING_SPEC.resources, peak_bytes=LIMITS.memory_bytes + 1)
    )
    size = 3 * LIMITS.data_bytes // 2
    shard = Shard(Hash32(b"\x22" * 32), size, size // 257)  # a row has 257 bytes
    long = replace(paying(7), data=replace(MINING_SPEC.data, shards=(shard,)))
    with capture_logs() as logs:
        assert choice_of(FakeChain({1: paying(5), 2: large, 3: long})).choose() == 1
    reasons = {entry["task"]: entry["reason"] for entry in logs}
    assert reasons == {
        2: "task 2 takes up to 8.00 GiB of memory, and --memory-gib allows 8.00",
        3: "task 3 takes up to 0.75 GiB of disk, and --data-gib allows 0.50",
    }


def test_failing_task_is_put_aside_for_a_growing_time(now: SimpleNamespace) -> None:
    choice = choice_of(FakeChain({1: paying(5), 2: paying(9)}))
    waited = []
    for _ in range(3):
        assert choice.choose() == 2
        choice.put_aside(TaskId(2), ClientError("the bond cannot be paid"))
        began = now.seconds
        while choice.choose() == 1:
            now.seconds += 1
        waited.append(now.seconds - began)
    assert waited == [10, 20, 40]


def test_finished_task_is_not_chosen_again(now: SimpleNamespace) -> None:
    choice = choice_of(FakeChain({1: paying(5)}))
    choice.finish(TaskId(1))
    now.seconds += 10**9
    assert choice.choose() is None


def test_specification_is_fetched_once() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)})
    choice = choice_of(chain)
    for _ in range(5):
        choice.choose()
    assert sorted(chain.fetched) == [1, 2]


@pytest.mark.parametrize(
    "error", [DishonestNodeError("http://node", "lies"), NodeUnreachableError()]
)
def test_failing_node_is_not_held_against_a_task(error: ClientError) -> None:
    chain = FakeChain({1: paying(5)})
    choice, ask = choice_of(chain), chain.task

    def fail(_task: int) -> object:
        raise error

    chain.task = fail  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        choice.choose()
    chain.task = ask  # type: ignore[method-assign]
    assert choice.choose() == 1
