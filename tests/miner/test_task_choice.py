"""Which task a miner takes that chooses by itself (miner/task_choice.py)."""

import json
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.ledger_storage import RegistrationState
from chain.contracts.task_registry import TaskStatus
from chain.params import ChainParameters
from chain.primitives import Address, Hash32, TaskId
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import compute_spec_hash, encode_task_spec
from miner import task_choice
from miner.client import DishonestNodeError
from miner.task_choice import TaskChoice
from pot_common.rpc_client import NodeUnreachableError
from pot_common.rpc_replies import ClientError
from tests.worlds.node_for_miners import MINING_SPEC

MINER = Address(b"\x77" * 20)
OTHER_TOKEN = Address(b"\x70" * 20)
OUTSIDE = RegistrationState(0, 0, 0, 0, has_ended=True, is_slashed=False, registered_block=0)


@dataclass
class FakeChain:
    """Tasks by id, as nodes list them and as proofs show them."""

    specs: dict[int, TaskSpec]
    listed_status: str = "active"
    proven: dict[int, TaskStatus] = field(default_factory=dict)
    registrations: dict[int, RegistrationState] = field(default_factory=dict)
    fetched: list[int] = field(default_factory=list)
    current: str = "http://node"
    network = SimpleNamespace(parameters=ChainParameters())

    def list_tasks(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(id=each, status=self.listed_status) for each in self.specs]

    def task_spec(self, task: int) -> object:
        self.fetched.append(task)
        return json.loads(encode_task_spec(self.specs[task]))

    def task(self, task: int) -> tuple[Hash32, TaskStatus]:
        return compute_spec_hash(self.specs[task]), self.proven.get(task, TaskStatus.ACTIVE)

    def progress(self, task: int, _miner: Address) -> SimpleNamespace:
        return SimpleNamespace(registration=self.registrations.get(task, OUTSIDE))


def paying(price: int, token: Address = TRAINING_TOKEN) -> TaskSpec:
    reward = replace(MINING_SPEC.reward, unit_price=price, token=token)
    return replace(MINING_SPEC, reward=reward)


def choice_of(chain: FakeChain) -> TaskChoice:
    return TaskChoice(chain, chain, MINER)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(seconds=1_000.0)
    monkeypatch.setattr(task_choice.time, "monotonic", lambda: clock.seconds)
    return clock


def test_task_that_pays_most_for_a_unit_in_pot_is_chosen() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9), 3: paying(7), 4: paying(99, OTHER_TOKEN)})
    assert choice_of(chain).choose() == 2


def test_task_with_a_bond_comes_before_one_that_pays_more() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)})
    chain.registrations[1] = RegistrationState(
        1, 1, 0, 0, has_ended=False, is_slashed=False, registered_block=0
    )
    assert choice_of(chain).choose() == 1
    chain.registrations[1] = RegistrationState(
        1, 1, 0, 0, has_ended=True, is_slashed=True, registered_block=0
    )
    assert choice_of(chain).choose() == 2


def test_task_that_only_a_node_calls_active_is_not_chosen() -> None:
    chain = FakeChain({1: paying(5), 2: paying(9)}, proven={2: TaskStatus.PENDING})
    choice = choice_of(chain)
    assert choice.choose() == 1
    chain.proven.clear()
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
