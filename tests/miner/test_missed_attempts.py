"""A miner that misses an attempt leaves the task before a second miss costs its bond in POT."""

import re
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from structlog.testing import capture_logs

from chain.contracts import miner_seats
from chain.contracts.addresses import TRAINING_TOKEN
from chain.crypto import get_address
from chain.primitives import Address, PrivateKey
from chain.training.encoding import GradientHeader
from chain.training.task_spec import TaskSpec
from miner import worker
from miner.bonds import BondReturns
from miner.client import FailoverClient
from miner.deadline import compute_with_deadline
from miner.light import LightClient, fetch_network
from miner.miner import Miner
from miner.outcomes import OutOfTaskError
from miner.transactor import MinerIdentity
from pot_common.rpc_replies import ClientError
from tests.worlds.node_for_miners import (
    BOND,
    LIMITS,
    MINING_SPEC,
    SEAT_BOND,
    TASK,
    CountingTrainer,
    FakeNode,
)
from tests.worlds.proofs import CHAIN_ID, GENESIS

KEY = PrivateKey(b"\x11" * 32)
MINER = get_address(KEY)
OTHER = Address(b"\x01" * 20)
COMMITMENT = {"phase": "commitment"}
VERDICT = {"phase": "verdict"}
LEAVE = miner_seats.leave(TASK).data


def paying(price: int, token: Address = TRAINING_TOKEN) -> TaskSpec:
    """A task that pays so much for a unit."""
    return replace(MINING_SPEC, reward=replace(MINING_SPEC.reward, unit_price=price, token=token))


class SeatNode(FakeNode):
    """A node that goes through a script of phases, and tells when the miner gives its seat up."""

    def __init__(self, script: Sequence[dict[str, object]], **fields: object) -> None:
        super().__init__(MINER, units=1, participants=((OTHER, 1), (MINER, 1)), **fields)  # type: ignore[arg-type]
        self._script = iter(script)
        self.left = Event()

    @property
    def names(self) -> list[str]:
        """The transactions in order."""
        return ["leave" if each.data == LEAVE else "commit" for each in self.transactions]

    def eth_sendRawTransaction(self, raw: str) -> object:  # noqa: N802
        sent = super().eth_sendRawTransaction(raw)
        if self.transactions[-1].data == LEAVE:
            self.left.set()
        return sent

    def pot_getAttempt(self, task: int) -> object:  # noqa: N802
        changes = next(self._script, None)
        if changes is None:
            self.status = "closed"
            return None
        for name, value in changes.items():
            setattr(self, name, value)
        return super().pot_getAttempt(task)


class SlowTrainer(CountingTrainer):
    """A trainer whose gradient is not ready before the miner has given up its seat."""

    def __init__(self, node: SeatNode) -> None:
        super().__init__()
        self._node = node

    def build_payload(self, header: GradientHeader, theta: bytes, samples: Sequence[int]) -> bytes:
        assert self._node.left.wait(timeout=60)
        return super().build_payload(header, theta, list(samples))


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.worker.time.sleep", lambda seconds: None)


def mine(
    directory: Path, node: SeatNode, trainer: CountingTrainer, *, stays: bool = False
) -> list[str]:
    """Mine until the script ends or the miner is out of the task; returns its warnings."""
    client = FailoverClient(["http://node"], node.transport())
    light = LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))
    miner = Miner(
        *(client, light, KEY, directory, 1, lambda spec, shards: trainer, LIMITS),
        poll_seconds=0.0,
        claims=False,
    )
    with capture_logs() as logs:
        try:
            miner.mine(TASK, stays=stays)
        except OutOfTaskError as error:
            return [*warnings_of(logs), str(error)]
    return warnings_of(logs)


def warnings_of(logs: Sequence[MutableMapping[str, object]]) -> list[str]:
    return [str(each["event"]) for each in logs if each["log_level"] == "warning"]


def test_miner_leaves_while_the_attempt_that_it_may_miss_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LEAVE_SHARE", 1)
    monkeypatch.setattr(worker, "LEAVE_SECONDS", 1_000)
    node = SeatNode([COMMITMENT, VERDICT, {"attempt": 1, **COMMITMENT}], spec=paying(8 * SEAT_BOND))
    left, *_, out = mine(tmp_path, node, SlowTrainer(node))
    assert node.names == ["leave", "commit"]
    assert len(node.reveals) == 1, "it was in time after all, and is paid"
    assert "the gradient is not computed, and miners commit for 10 s" in left
    assert "this account has left task 1" in out


@pytest.mark.parametrize(
    ("price", "token"), [(8 * SEAT_BOND - 8, TRAINING_TOKEN), (8 * SEAT_BOND, OTHER)]
)
def test_miner_stays_if_another_miss_costs_less_than_its_bond_in_pot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, price: int, token: Address
) -> None:
    monkeypatch.setattr(worker, "LEAVE_SHARE", 1)
    monkeypatch.setattr(worker, "LEAVE_SECONDS", 1_000)
    node = SeatNode([COMMITMENT, VERDICT], spec=paying(price, token))
    mine(tmp_path, node, CountingTrainer())
    assert node.names == ["commit"]


def test_miner_that_missed_an_attempt_commits_once_more_and_leaves(tmp_path: Path) -> None:
    node = SeatNode(
        [
            COMMITMENT,
            VERDICT,
            {"attempt": 1, "miss_count": 1, **COMMITMENT},
            VERDICT,
            {"attempt": 2, **COMMITMENT},
        ]
    )
    *_, left, _, out = mine(tmp_path, node, CountingTrainer())
    assert node.names == ["commit", "commit", "leave"]
    assert [query["attempt"] for query, _ in node.reveals] == ["0", "1"]
    assert left == (
        "this seat has missed an attempt, and a second miss within 8 attempts costs its whole bond "
        "in POT; the miner has committed once more and leaves the task"
    )
    assert "this account has left task 1" in out


def test_miner_that_names_its_task_is_told_once_how_to_leave_after_a_miss(tmp_path: Path) -> None:
    script = [{"miss_count": 1, **COMMITMENT}, VERDICT, {"attempt": 1, **COMMITMENT}, VERDICT]
    node = SeatNode(script)
    told = [each for each in mine(tmp_path, node, CountingTrainer(), stays=True) if "miss" in each]
    assert node.names == ["commit", "commit"]
    assert [each.partition("; ")[2] for each in told] == [
        "to give it up: pot miner leave 1, and finish the attempt in progress"
    ]


class LongAgoNode(SeatNode):
    """A node that knows of a miss so long ago that a second one does not burn the whole bond."""

    def pot_getSeat(self, task: int, miner: str) -> object:  # noqa: N802
        found = super().pot_getSeat(task, miner)
        assert isinstance(found, dict)
        loss = {"attempt": self.ordinal - 8, "kind": "absence", "amount": "1"}
        return {**found, "losses": [loss] if self.miss_count else []}


def test_miner_is_not_warned_of_a_miss_that_is_long_ago(tmp_path: Path) -> None:
    node = LongAgoNode([{"miss_count": 1, **COMMITMENT}, VERDICT])
    assert mine(tmp_path, node, CountingTrainer(), stays=True) == []
    assert node.names == ["commit"]


def test_miner_does_not_return_to_a_task_in_which_it_missed_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = SeatNode([{"miss_count": 1, **COMMITMENT}, VERDICT, {"attempt": 1, **COMMITMENT}])
    node.token_balance = 100 * BOND
    withdraw = miner_seats.withdraw_bond(TASK).data
    client = FailoverClient(["http://node"], node.transport())
    light = LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))
    miner = Miner(
        *(client, light, KEY, tmp_path, 1, lambda spec, shards: CountingTrainer(), LIMITS),
        poll_seconds=0.0,
        claims=False,
    )
    waits = iter(range(100))

    def wait(_seconds: float) -> None:
        if next(waits, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("miner.miner.time.sleep", wait)
    with pytest.raises(KeyboardInterrupt):
        miner.mine_all()
    assert node.names[:2] == ["commit", "leave"]
    assert [each.data for each in node.transactions[2:]] == [withdraw]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "nothing is kept of it"


LOST = (
    "the seat of this account in task 1 has ended, because it missed 2 attempts; it paid 0.25 POT "
    "of its bond and 1 POT of its seat bond for no commitment in attempts 5 and 6; 1 POT of its "
    "bond and 0 POT of its seat bond are left; they are free in 180 blocks (about 15 min): pot "
    "miner withdraw 1. Before it starts again, give the miner a faster machine, fewer --units, or "
    "more nodes with --rpc; before you stop it, leave"
)


def test_miner_that_starts_after_two_misses_says_what_was_lost(tmp_path: Path) -> None:
    node = SeatNode([], spec=paying(10**18))
    node.miss_count = 2
    with pytest.raises(ClientError, match=re.escape(LOST)):
        mine(tmp_path, node, CountingTrainer(), stays=True)


def test_miner_of_any_task_says_at_start_what_was_lost(tmp_path: Path) -> None:
    node = SeatNode([], spec=paying(10**18))
    node.miss_count = 2
    client = FailoverClient(["http://node"], node.transport())
    light = LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))
    with capture_logs() as logs:
        BondReturns(client, light, MinerIdentity(KEY, MINER, CHAIN_ID)).search()
    assert warnings_of(logs) == [LOST]


def test_what_a_computation_raises_reaches_its_caller() -> None:
    def fail() -> bytes:
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        compute_with_deadline(fail, 60.0, lambda: None)
