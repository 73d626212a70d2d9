"""A miner computes a unit before it pays bonds, and takes no more than it computes in time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from chain.contracts import miner_seats
from chain.crypto import get_address
from chain.primitives import PrivateKey
from chain.training.encoding import GradientHeader
from miner import trial
from miner.client import FailoverClient
from miner.light import LightClient, fetch_network
from miner.miner import Miner
from pot_common.rpc_replies import ClientError
from tests.worlds.node_for_miners import BOND, LIMITS, MINING_SPEC, TASK, CountingTrainer, FakeNode
from tests.worlds.proofs import CHAIN_ID, GENESIS

KEY = PrivateKey(b"\x11" * 32)
MINER = get_address(KEY)
COMMIT_SECONDS = 12
SPEC = replace(MINING_SPEC, phases=replace(MINING_SPEC.phases, commit_seconds=COMMIT_SECONDS))


class SlowTrainer(CountingTrainer):
    """A trainer on a machine that takes some seconds for a unit, on a clock of its own."""

    def __init__(self, unit_seconds: float, first_seconds: float = 0.0) -> None:
        super().__init__()
        self.now = 0.0
        self._unit_seconds = unit_seconds
        self._first_seconds = first_seconds

    def monotonic(self) -> float:
        return self.now

    def build_payload(self, header: GradientHeader, theta: bytes, samples: Sequence[int]) -> bytes:
        units = len(samples) / SPEC.samples_per_unit
        self.now += units * self._unit_seconds + self._first_seconds
        self._first_seconds = 0.0
        return super().build_payload(header, theta, list(samples))


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.worker.time.sleep", lambda seconds: None)


def start(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainer: SlowTrainer,
    units: int,
    node: FakeNode,
) -> None:
    """Run a miner of a task that closes as soon as the miner has a seat."""
    monkeypatch.setattr(trial, "time", trainer)
    node.pot_getAttempt = lambda task: setattr(node, "status", "closed")  # type: ignore[method-assign]
    client = FailoverClient(["http://node"], node.transport())
    light = LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))
    miner = Miner(
        *(client, light, KEY, directory, units, lambda spec, shards: trainer, LIMITS),
        poll_seconds=0.0,
        claims=False,
    )
    miner.mine(TASK)


def new_node() -> FakeNode:
    return FakeNode(MINER, spec=SPEC, token_balance=100 * BOND)


def register(
    directory: Path, monkeypatch: pytest.MonkeyPatch, trainer: SlowTrainer, units: int
) -> FakeNode:
    """The node after a miner has taken a seat."""
    node = new_node()
    start(directory, monkeypatch, trainer, units, node)
    return node


def test_miner_pays_no_bond_if_a_unit_takes_longer_than_the_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = new_node()
    refusal = (
        r"could cost you the bond: .* 12\.0 s to compute, and commit_seconds 12 leaves 6\.0 s for"
    )
    with pytest.raises(ClientError, match=refusal):
        start(tmp_path, monkeypatch, SlowTrainer(12.0), 1, node)
    assert node.transactions == []


@pytest.mark.parametrize(
    ("unit_seconds", "wanted", "taken"), [(6.0, 1, 1), (3.0, 4, 2), (1.9, 4, 3), (0.1, 4, 4)]
)
def test_miner_declares_the_units_that_fit_into_the_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit_seconds: float, wanted: int, taken: int
) -> None:
    with capture_logs() as logs:
        node = register(tmp_path, monkeypatch, SlowTrainer(unit_seconds), wanted)
    assert node.transactions[-1].data == miner_seats.register(TASK, taken).data
    warnings = [each["event"] for each in logs if each["log_level"] == "warning"]
    expected = (
        f"this machine computes {taken} of {wanted} units in the time that commit_seconds 12 "
        "leaves for them; it takes as many"
    )
    assert warnings == ([expected] if taken < wanted else [])


def test_slow_first_run_of_a_device_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = register(tmp_path, monkeypatch, SlowTrainer(1.0, first_seconds=30.0), 1)
    assert node.transactions[-1].data == miner_seats.register(TASK, 1).data


def test_trial_draws_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = SlowTrainer(0.1)
    register(tmp_path, monkeypatch, trainer, 1)
    (_, first), (_, second) = trainer.calls
    assert len(first) == len(second) == SPEC.samples_per_unit
    assert first != second


def test_task_that_needs_too_much_memory_costs_no_bond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = SlowTrainer(0.1)

    def run_out(*_: object) -> bytes:
        raise RuntimeError("CUDA out of memory")

    trainer.build_payload = run_out  # type: ignore[method-assign]
    node = new_node()
    with pytest.raises(ClientError, match="task 1 cannot be computed on this machine: CUDA out"):
        start(tmp_path, monkeypatch, trainer, 1, node)
    assert node.transactions == []
