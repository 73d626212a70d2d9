"""A miner in a task that opens no attempt says why, leaves it, and takes its bonds back."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from chain.contracts import miner_seats, reward_distributor, training_token
from chain.contracts.addresses import MINER_SEATS, TRAINING_TOKEN
from chain.contracts.miner_seats import IDLE_BLOCKS
from chain.crypto import get_address
from chain.primitives import Address, PrivateKey
from chain.types.transaction import decode_transaction
from miner.__main__ import _end_when_stopped
from miner.bonds import FIRST_SEARCH, BondReturns
from miner.client import FailoverClient
from miner.idle_watch import IN_VAIN_SECONDS
from miner.light import LightClient, fetch_network
from miner.miner import Miner
from miner.nodes import UNAVAILABLE_CODE
from miner.outcomes import OutOfTaskError
from miner.task_choice import TaskChoice
from miner.transactor import MinerIdentity
from tests.worlds.node_for_miners import BOND, LIMITS, SEAT_BOND, TASK, CountingTrainer, FakeNode
from tests.worlds.proofs import CHAIN_ID, GENESIS

KEY = PrivateKey(b"\x11" * 32)
MINER = get_address(KEY)
NAMES = {
    training_token.approve(TRAINING_TOKEN, MINER_SEATS, BOND + SEAT_BOND).data: "approve",
    miner_seats.register(TASK, 1).data: "register",
    miner_seats.leave(TASK).data: "leave",
    miner_seats.withdraw_bond(TASK).data: "withdraw",
    miner_seats.withdraw_seat_bond(TASK).data: "withdraw POT",
    reward_distributor.claim(TASK, 9, [b"\x01" * 32]).data: "claim",
}


class IdleNode(FakeNode):
    """A node whose task has no attempt, and whose chain makes a block a second."""

    def __init__(self, **fields: object) -> None:
        super().__init__(MINER, has_attempt=False, **fields)  # type: ignore[arg-type]
        self.locked: tuple[str, ...] = ()
        """The calls that the contract refuses now."""
        self.reverts: tuple[str, ...] = ()
        """The calls that pass the estimate, and revert in their block."""
        self.newer_tasks = 0
        """How many cancelled tasks were submitted after the miner's."""

    @property
    def names(self) -> list[str]:
        """The transactions in order."""
        return [NAMES[each.data] for each in self.transactions]

    def eth_estimateGas(self, call: dict[str, str]) -> object:  # noqa: N802
        if NAMES.get(bytes.fromhex(call["data"][2:])) in self.locked:
            raise RuntimeError(3, "execution reverted", None)
        return super().eth_estimateGas(call)

    def eth_sendRawTransaction(self, raw: str) -> object:  # noqa: N802
        sent = decode_transaction(bytes.fromhex(raw[2:]))
        if NAMES.get(sent.data) not in self.reverts:
            return super().eth_sendRawTransaction(raw)
        self.transactions.append(sent)
        return "0x" + sent.hash.hex()

    @property
    def task_count(self) -> int:
        return TASK + self.newer_tasks

    @property
    def claimed(self) -> int:
        return 0 if "claim" in self.reverts else super().claimed

    def eth_getTransactionReceipt(self, name: str) -> object:  # noqa: N802
        sent = next(each for each in self.transactions if "0x" + each.hash.hex() == name)
        is_reverted = NAMES.get(sent.data) in self.reverts
        return {"status": "0x0" if is_reverted else "0x1", "blockNumber": "0x9"}

    def pot_listTasks(self, page: dict[str, int]) -> object:  # noqa: N802
        own = self.pot_getTask(TASK)
        assert isinstance(own, dict)
        newer = [{**own, "id": 2 + each, "status": "closed"} for each in range(self.newer_tasks)]
        return [own, *newer][page["offset"] :][:100]


class Clock:
    """A clock that goes on when the miner sleeps, and the node's chain with it."""

    def __init__(self, node: FakeNode, seconds: float) -> None:
        self.now = 0.0
        self._node = node
        self._end = seconds
        self.at: dict[float, Callable[[], None]] = {}
        """What happens at a time."""

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.25)
        self._node.passed_blocks = int(self.now)
        for due in sorted(each for each in self.at if each <= self.now):
            self.at.pop(due)()
        if self.now > self._end:
            raise KeyboardInterrupt


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeNode, float], Clock]:
    def start(node: FakeNode, seconds: float) -> Clock:
        clock = Clock(node, seconds)
        for module in ("miner", "task_choice", "worker", "bonds", "idle_watch"):
            monkeypatch.setattr(f"miner.{module}.time", clock)
        return clock

    return start


def light_of(node: FakeNode) -> tuple[FailoverClient, LightClient]:
    client = FailoverClient(["http://node"], node.transport())
    return client, LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))


def miner_of(
    directory: Path, node: FakeNode, *, claims: bool = False, leaves_at_end: bool = False
) -> Miner:
    client, light = light_of(node)
    return Miner(
        client,
        light,
        KEY,
        directory,
        1,
        lambda spec, shards: CountingTrainer(),
        LIMITS,
        poll_seconds=1.0,
        claims=claims,
        leaves_at_end=leaves_at_end,
    )


def mine_all(directory: Path, node: FakeNode) -> list[str]:
    """Let a miner choose tasks until the clock ends; returns its log."""
    node.token_balance = BOND + SEAT_BOND
    with capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        miner_of(directory, node).mine_all()
    return [str(each["event"]) for each in logs]


def test_miner_leaves_an_idle_task_and_takes_its_bonds_back(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode()
    clocks(node, IDLE_BLOCKS + 60)
    events = mine_all(tmp_path, node)
    assert node.names == ["approve", "register", "leave", "withdraw"]
    (told,) = (each for each in events if "opens no attempt" in each)
    assert told == (
        "the task opens no attempt: too few miners: 1 of 3; the miner leaves after 256 blocks "
        "without an attempt"
    )


@pytest.mark.parametrize("has_other", [True, False])
def test_miner_leaves_a_task_whose_attempt_goes_on_without_it_for_another(
    tmp_path: Path,
    clocks: Callable[[FakeNode, float], Clock],
    monkeypatch: pytest.MonkeyPatch,
    has_other: bool,
) -> None:
    """One task with a commitment phase of 20 hours held all miners that came too late for it."""
    node = IdleNode(participants=((Address(b"\x22" * 20), 1),))
    node.has_attempt = True
    clock = clocks(node, IN_VAIN_SECONDS + 100)
    asked = []
    monkeypatch.setattr(TaskChoice, "has_other", lambda *_: asked.append(clock.now) or has_other)
    events = mine_all(tmp_path, node)
    assert (node.names == ["approve", "register", "leave", "withdraw"]) == has_other
    assert (node.names == ["approve", "register"]) != has_other
    assert IN_VAIN_SECONDS <= asked[0] < IN_VAIN_SECONDS + 15
    assert len(asked) <= 2, "all standings are read once a minute"
    assert ("the task has no attempt for this miner; it looks for another" in events) == has_other


def test_miner_that_may_not_leave_for_another_task_asks_seldom(
    tmp_path: Path,
    clocks: Callable[[FakeNode, float], Clock],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A newcomer that has displaced a seat owes an attempt."""
    node = IdleNode(participants=((Address(b"\x22" * 20), 1),))
    node.has_attempt, node.locked = True, ("leave",)
    clocks(node, IN_VAIN_SECONDS + 1_000)
    monkeypatch.setattr(TaskChoice, "has_other", lambda *_: True)
    events = mine_all(tmp_path, node)
    assert node.names == ["approve", "register"]
    assert len([each for each in events if each.startswith("not left: ")]) == 2


def test_miner_that_may_not_leave_an_idle_task_asks_seldom(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    """A newcomer that has displaced a seat waits for an attempt, also if money is missing."""
    node = IdleNode()
    node.locked = ("leave",)
    clocks(node, IDLE_BLOCKS + 1_000)
    events = mine_all(tmp_path, node)
    assert node.names == ["approve", "register"]
    assert len([each for each in events if each.startswith("not left: ")]) == 2


def test_miner_that_takes_part_in_an_attempt_of_hours_stays(
    tmp_path: Path,
    clocks: Callable[[FakeNode, float], Clock],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = IdleNode(units=1)
    node.has_attempt = True
    clocks(node, IN_VAIN_SECONDS + 100)
    monkeypatch.setattr(TaskChoice, "has_other", lambda *_: True)
    node.token_balance = BOND + SEAT_BOND
    with pytest.raises(KeyboardInterrupt):
        miner_of(tmp_path, node).mine_all()
    assert len(node.commitments) == len(node.transactions) == 1


def test_miner_does_not_leave_before_the_contract_allows_it(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode()
    clocks(node, IDLE_BLOCKS - 2)
    mine_all(tmp_path, node)
    assert node.names == ["approve", "register"]


def test_miner_stays_in_a_task_that_opens_an_attempt_in_time(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode()
    clock = clocks(node, 3 * IDLE_BLOCKS)

    def open_attempt() -> None:
        node.has_attempt, node.phase = True, "result"

    clock.at[IDLE_BLOCKS - 20] = open_attempt
    mine_all(tmp_path, node)
    assert node.names == ["approve", "register"]


def test_miner_places_no_bond_in_a_task_that_sold_its_last_attempt(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(attempts_left=0)
    clocks(node, 100)
    mine_all(tmp_path, node)
    assert node.names == []


def test_miner_that_names_its_task_stays_and_says_once_why_it_waits(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(units=1, attempts_left=0)
    clocks(node, 2 * IDLE_BLOCKS)
    with capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        miner_of(tmp_path, node).mine(TASK)
    assert node.names == []
    (told,) = (each["event"] for each in logs if each["log_level"] == "warning")
    assert told == (
        "the task opens no attempt: too few miners: 1 of 3; no attempts are left of those that "
        "were bought; the miner waits; to give the seat up: pot miner leave 1"
    )


def test_miner_whose_seat_was_given_up_by_hand_does_not_wait_for_ever(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(units=1)
    clock = clocks(node, 1_000)
    clock.at[50] = lambda: setattr(node, "has_left", True)
    with pytest.raises(OutOfTaskError, match="this account has left task 1"):
        miner_of(tmp_path, node).mine(TASK)
    assert clock.now < 100


def test_miner_finishes_an_attempt_that_opened_while_it_left(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(units=1)
    clock = clocks(node, 1_000)
    send = node.eth_sendRawTransaction
    ends = []

    def end_attempt() -> None:
        node.has_attempt = False
        ends.append(clock.now)

    def open_attempt(raw: str) -> object:
        node.has_attempt, node.phase = True, "result"
        clock.at[clock.now + 50] = end_attempt
        return send(raw)

    node.eth_sendRawTransaction = open_attempt  # type: ignore[method-assign]
    assert not miner_of(tmp_path, node).mine(TASK, stays=False)
    assert node.names == ["leave"]
    assert ends
    assert clock.now > ends[0]


def test_miner_goes_on_if_the_token_refuses_to_pay_its_rewards(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(units=1, claimable=9)
    clocks(node, 1_000)
    node.locked = ("claim",)
    with capture_logs() as logs:
        assert not miner_of(tmp_path, node, claims=True).mine(TASK, stays=False)
    assert node.names == ["leave"]
    assert logs[-1]["event"] == "rewards not claimed; try `pot wallet claim` later"


@pytest.mark.parametrize("fault", ["reverted", "unreachable"])
def test_miner_whose_claim_fails_waits_for_its_bonds_all_the_same(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock], fault: str
) -> None:
    """A token can pass the estimate, and refuse the transfer in the block."""
    node = IdleNode(units=1, claimable=9, status="closed")
    clocks(node, 1_000)
    if fault == "reverted":
        node.reverts = ("claim",)
    else:

        def fail(task: int, account: str) -> object:
            raise RuntimeError(UNAVAILABLE_CODE, "the node process does not run", None)

        node.pot_getRewardProof = fail  # type: ignore[method-assign]
    with capture_logs() as logs:
        miner_of(tmp_path, node, claims=True, leaves_at_end=True).mine_one(TASK)
    assert node.names == [*node.reverts, "withdraw"]
    (told,) = (each for each in logs if "rewards not claimed" in each["event"])
    assert ("reverted in block 9" in told["reason"]) == (fault == "reverted")


def test_miner_that_was_not_the_first_in_the_block_tries_again(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    """Another miner may take the last units in the very block."""
    node = IdleNode(token_balance=BOND + SEAT_BOND)
    clock = clocks(node, 60)
    node.reverts = ("register",)
    clock.at[3] = lambda: setattr(node, "reverts", ())
    with capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        miner_of(tmp_path, node).mine(TASK)
    assert node.names == ["approve", "register"] * 3
    refused = [each for each in logs if str(each["event"]).startswith("no seat yet: transaction")]
    assert len(refused) == 2


def test_miner_that_is_told_to_end_leaves_and_takes_its_bonds_back(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(units=1)
    clock = clocks(node, 1_000)
    miner = miner_of(tmp_path, node, leaves_at_end=True)
    node.locked = ("leave", "withdraw", "withdraw POT")
    clock.at[50] = miner.end
    clock.at[100] = lambda: setattr(node, "locked", ("withdraw", "withdraw POT"))
    clock.at[200] = lambda: setattr(node, "locked", ())
    with capture_logs() as logs:
        miner.mine_one(TASK)
    assert node.names == ["leave", "withdraw"]
    events = [str(each["event"]) for each in logs]
    assert sum("not left yet, and tried again" in each for each in events) == 1
    *_, left, owed, waiting, back = events
    assert (left, back) == ("left the task", "bonds are back")
    assert owed == "an attempt in progress is owed, and finished first"
    assert waiting == (
        "waiting for the bonds, which the chain locks for minutes or longer; if you stop the "
        "miner, take them later: pot miner withdraw 1"
    )


def test_miner_says_that_its_bonds_were_taken_back_elsewhere(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(units=1, status="closed")
    clock = clocks(node, 1_000)
    node.locked = ("withdraw", "withdraw POT")
    clock.at[100] = lambda: setattr(node, "units", 0)
    with capture_logs() as logs:
        miner_of(tmp_path, node, leaves_at_end=True).mine_one(TASK)
    assert node.names == []
    assert logs[-1]["event"] == "the bonds were taken back by another command"


def test_miner_of_any_task_ends_when_it_is_told_to(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode()
    node.token_balance = BOND + SEAT_BOND
    clock = clocks(node, 200)
    miner = miner_of(tmp_path, node)
    clock.at[50] = miner.end
    miner.mine_all()
    assert node.names == ["approve", "register", "leave", "withdraw"]


def test_miner_takes_the_bonds_of_its_closed_task_back_if_told_to(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(units=1)
    clock = clocks(node, 200)
    clock.at[50] = lambda: setattr(node, "status", "closed")
    miner_of(tmp_path, node, leaves_at_end=True).mine_one(TASK)
    assert node.names == ["withdraw"]


def test_miner_commits_to_the_attempt_that_it_owes_when_told_to_end(
    tmp_path: Path, clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = FakeNode(MINER, units=1)
    clocks(node, 1)
    miner = miner_of(tmp_path, node, leaves_at_end=True)
    miner.end()
    with pytest.raises(KeyboardInterrupt):
        miner.mine_one(TASK)
    assert len(node.commitments) == 1
    assert node.transactions[1].data == miner_seats.leave(TASK).data
    stopped = miner.describe_stop()
    assert stopped is not None
    assert "the last attempt of its seat in task 1 may be in progress" in stopped


@pytest.mark.parametrize(
    ("status", "units", "text"),
    [
        ("pending", 0, "is pending: too few validators are ready for it yet; the miner waits"),
        ("paused", 0, "is paused, because three attempts in a row failed; the miner waits until"),
        ("paused", 1, "; to give the seat up: pot miner leave 1"),
    ],
)
def test_miner_says_once_why_it_waits_for_a_task_that_it_names(
    tmp_path: Path,
    clocks: Callable[[FakeNode, float], Clock],
    status: str,
    units: int,
    text: str,
) -> None:
    node = IdleNode(status=status, units=units)
    clocks(node, 60)
    with capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        miner_of(tmp_path, node).mine(TASK)
    (told,) = (str(each["event"]) for each in logs if each["log_level"] == "warning")
    assert text in told
    assert ("give the seat up" in told) == bool(units)


def test_first_signal_ends_the_seat_and_the_second_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: dict[int, Callable[[int, object], None]] = {}
    monkeypatch.setattr("miner.__main__.signal.signal", handlers.__setitem__)
    miner = miner_of(tmp_path, IdleNode())
    _end_when_stopped(miner)
    assert sorted(handlers) == [signal.SIGINT, signal.SIGTERM]
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert miner.is_ending
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGINT](signal.SIGINT, None)


def bonds_of(node: FakeNode) -> BondReturns:
    client, light = light_of(node)
    return BondReturns(client, light, MinerIdentity(KEY, MINER, CHAIN_ID))


def test_locked_bonds_are_tried_again_until_they_are_free(
    clocks: Callable[[FakeNode, float], Clock],
) -> None:
    node = IdleNode(units=1, has_left=True)
    clock = clocks(node, 10_000)
    node.locked = ("withdraw", "withdraw POT")
    bonds = bonds_of(node)
    bonds.expect(TASK)
    tries = []
    while not bonds.collect():
        clock.sleep(5)
        if clock.now > 300:
            node.locked = ()
        tries.append(clock.now)
    assert node.names == ["withdraw"]
    assert tries[-1] == 465, "after pauses of 15, 30, 60, 120 and 240 seconds"
    assert not bonds.collect()


def test_pot_comes_back_if_the_token_refuses_the_transfer(
    clocks: Callable[[FakeNode, float], Clock],
) -> None:
    node = IdleNode(units=1, has_left=True)
    clocks(node, 1_000)
    node.locked = ("withdraw",)
    bonds = bonds_of(node)
    bonds.expect(TASK)
    with capture_logs() as logs:
        assert bonds.collect()
    assert node.names == ["withdraw POT"]
    (entry,) = logs
    assert "try `pot miner withdraw 1` later" in entry["event"]
    assert not bonds.collect()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"units": 1, "has_left": True}, ["withdraw"]),
        ({"units": 1, "status": "closed"}, ["withdraw"]),
        ({"units": 1}, []),
        ({"units": 1, "is_slashed": True}, []),
        ({"units": 0, "status": "closed"}, []),
    ],
)
def test_miner_that_starts_finds_the_bonds_of_earlier_runs(
    fields: dict[str, object], names: list[str], clocks: Callable[[FakeNode, float], Clock]
) -> None:
    node = IdleNode(**fields)
    clocks(node, 100)
    bonds = bonds_of(node)
    bonds.search()
    bonds.collect()
    assert node.names == names


@pytest.mark.parametrize("newer_tasks", [63, 64, 200])
def test_later_tasks_do_not_hide_the_bonds_of_earlier_runs(
    clocks: Callable[[FakeNode, float], Clock], newer_tasks: int
) -> None:
    """64 tasks that are cancelled at once cost a few POT."""
    node = IdleNode(units=1, has_left=True)
    clock = clocks(node, 1_000)
    node.newer_tasks = newer_tasks
    bonds = bonds_of(node)
    bonds.search()
    most = node.proofs
    while not bonds.is_done:
        before = node.proofs
        bonds.collect()
        most = max(most, node.proofs - before)
        clock.sleep(1)
    assert node.names == ["withdraw"]
    assert most <= FIRST_SEARCH + 1, "the miner's start and its commitments are not delayed"
