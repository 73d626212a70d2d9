"""A miner with one honest node and one that lies, is late, or stops (miner/miner.py)."""

import math
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from chain.crypto import get_address
from chain.primitives import Address, PrivateKey
from miner.client import FailoverClient
from miner.light import LightClient, fetch_network
from miner.miner import Miner
from tests.worlds.node_for_miners import LIMITS, TASK, CountingTrainer, FakeNode
from tests.worlds.proofs import CHAIN_ID, GENESIS, VALIDATOR_KEYS

KEY = PrivateKey(b"\x11" * 32)
MINER = get_address(KEY)
OTHER = Address(b"\x01" * 20)
PHASE_SECONDS = 8
ROUND = [{"phase": "commitment"}, {"phase": "verdict"}, {"phase": "result"}]

Lie = Callable[[FakeNode], None]


class OverError(Exception):
    """The end of the time that a test watches."""


class Clock:
    """Time that passes only while the miner sleeps."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.end = math.inf

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += max(seconds, 0.05)
        if self.seconds > self.end:
            raise OverError


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    modules = ("worker", "miner", "client", "task_choice", "bonds")
    for module in (*(f"miner.{each}" for each in modules), "pot_common.rpc_client"):
        monkeypatch.setattr(f"{module}.time.sleep", clock.sleep)
        monkeypatch.setattr(f"{module}.time.monotonic", clock.monotonic)
    return clock


class Network:
    """Two nodes of one chain, and the first of them lies. Every phase lasts eight seconds."""

    def __init__(self, directory: Path, clock: Clock, lie: Lie) -> None:
        self.honest, self.liar = (
            FakeNode(MINER, units=1, participants=((OTHER, 3), (MINER, 1))) for _ in range(2)
        )
        self.liar.transactions = self.honest.transactions  # one chain
        self.trainer = CountingTrainer()
        self._clock, self._started = clock, clock.seconds
        client = FailoverClient(["http://liar", "http://honest"], httpx.MockTransport(self._handle))
        self.miner = Miner(
            client,
            LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash)),
            KEY,
            directory,
            1,
            lambda spec, shards: self.trainer,
            LIMITS,
            poll_seconds=0.1,
            claims=False,
        )
        lie(self.liar)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        elapsed = int(self._clock.seconds - self._started) // PHASE_SECONDS
        for node in (self.honest, self.liar):
            for name, value in ROUND[min(elapsed, 2)].items():
                setattr(node, name, value)
            if elapsed > 2:
                node.status = "closed"
        return (self.liar if request.url.host == "liar" else self.honest).handle(request)

    def mine(self) -> None:
        self.miner.mine(TASK)


def lie_about_the_attempt(**changes: object) -> Lie:
    def lie(node: FakeNode) -> None:
        honest = node.pot_getAttempt

        def forge(task: int) -> object:
            answer = honest(task)
            assert isinstance(answer, dict)
            return {**answer, **changes}

        node.pot_getAttempt = forge  # type: ignore[method-assign]

    return lie


def say_nothing_of_it(node: FakeNode) -> None:
    node.pot_getAttempt = lambda task: None  # type: ignore[method-assign]


def go_away(node: FakeNode) -> None:
    node.is_down = True


def stand_still(node: FakeNode) -> None:
    node.pot_getAttempt = FakeNode(MINER, round_number=0, phase="waiting").pot_getAttempt  # type: ignore[method-assign]
    node.lag = 3


def change_networks(node: FakeNode) -> None:
    node.is_down = True
    node.chain_id = 5


def forge_proofs(node: FakeNode) -> None:
    node.pot_getProof = lambda storage, block: {  # type: ignore[method-assign]
        "header": "0x" + GENESIS.encode().hex(),
        "certificate": "0xc0",
        "nodes": [],
    }


def answer_nonsense(node: FakeNode) -> None:
    node.pot_getAttempt = lambda task: {"round": "many"}  # type: ignore[method-assign]


def swallow_transactions(node: FakeNode) -> None:
    node.eth_sendRawTransaction = lambda raw: "0x00"  # type: ignore[method-assign]
    node.eth_getTransactionReceipt = lambda name: None  # type: ignore[method-assign]


def forge_receipts(node: FakeNode) -> None:
    node.eth_sendRawTransaction = lambda raw: "0x00"  # type: ignore[method-assign]
    node.eth_getTransactionReceipt = lambda name: {"status": "0x1", "blockNumber": "0x8"}  # type: ignore[method-assign]


def forge_nonces(node: FakeNode) -> None:
    node.eth_getTransactionCount = lambda account, block: hex(7)  # type: ignore[method-assign]


def refuse_all_calls(node: FakeNode) -> None:
    def refuse(call: dict[str, str]) -> object:
        raise RuntimeError(3, "execution reverted", None)

    node.eth_estimateGas = refuse  # type: ignore[method-assign]


def estimate_too_much_gas(node: FakeNode) -> None:
    node.eth_estimateGas = lambda call: hex(2**40)  # type: ignore[method-assign]


def refuse_receipts(node: FakeNode) -> None:
    def refuse(name: str) -> object:
        raise RuntimeError(-32005, "too many requests", None)

    node.eth_getTransactionReceipt = refuse  # type: ignore[method-assign]


LIES: dict[str, Lie] = {
    "another round": lie_about_the_attempt(round=7),
    "another block": lie_about_the_attempt(openBlock=2),
    "other participants": lie_about_the_attempt(participants=[["0x" + MINER.hex(), 1]]),
    "commitments are over": lie_about_the_attempt(phase="verdict"),
    "commitments are not over": lie_about_the_attempt(phase="commitment"),
    "nothing is open": say_nothing_of_it,
    "forged proofs": forge_proofs,
    "nonsense": answer_nonsense,
    "gone": go_away,
    "still": stand_still,
    "another network": change_networks,
    "swallowed transactions": swallow_transactions,
    "forged receipts": forge_receipts,
    "nonces behind a gap": forge_nonces,
    "calls refused": refuse_all_calls,
    "gas estimated too high": estimate_too_much_gas,
    "receipts refused": refuse_receipts,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_miner_with_one_dishonest_node_commits_once_and_reveals_in_time(
    tmp_path: Path, clock: Clock, lie: Lie
) -> None:
    network = Network(tmp_path, clock, lie)
    network.mine()
    honest = network.honest
    assert len(honest.commitments) == 1
    assert len(network.trainer.calls) == 1
    assert honest.reveals
    assert all(honest.opens(query) for query, _ in honest.reveals)


def test_gradient_that_a_node_calls_held_still_goes_to_the_busy_one(
    tmp_path: Path, clock: Clock
) -> None:
    def call_it_held(node: FakeNode) -> None:
        everyone = ["0x" + get_address(key).hex() for key in VALIDATOR_KEYS]
        node.pot_getRevealHolders = lambda *_: {"validators": everyone}  # type: ignore[method-assign]

    network = Network(tmp_path, clock, call_it_held)
    honest, take = network.honest, network.honest.take_reveal

    def refuse_once(query: dict[str, str], body: bytes) -> httpx.Response:
        honest.take_reveal = take  # type: ignore[method-assign]
        return httpx.Response(503, headers={"retry-after": "1"})

    honest.take_reveal = refuse_once  # type: ignore[method-assign]
    network.mine()
    assert len(honest.reveals) == 1


@pytest.mark.parametrize("lie", [LIES["another round"], LIES["forged proofs"]])
def test_dishonest_node_is_not_asked_for_a_while(tmp_path: Path, clock: Clock, lie: Lie) -> None:
    network = Network(tmp_path, clock, lie)
    network.mine()
    assert network.liar.reveals == []


def lie_about_the_task(**changes: object) -> Lie:
    def lie(node: FakeNode) -> None:
        honest = node.pot_getTask
        node.pot_getTask = lambda task: {**honest(task), **changes}  # type: ignore[method-assign]

    return lie


def know_no_task(node: FakeNode) -> None:
    node.pot_getTask = lambda task: None  # type: ignore[method-assign]


def list_no_task(node: FakeNode) -> None:
    node.pot_listTasks = lambda page: []  # type: ignore[method-assign]


def call_all_tasks_closed(node: FakeNode) -> None:
    honest = node.pot_listTasks
    node.pot_listTasks = lambda page: [  # type: ignore[method-assign]
        {**each, "status": "closed"} for each in honest(page)
    ]


SPEC_LIES = {
    "unknown version": lie_about_the_task(spec={"x": 1}),
    "no object": lie_about_the_task(spec=None),
    "half a surrogate pair": lie_about_the_task(spec={"x": "\ud800"}),
    "no task": know_no_task,
}


@pytest.mark.parametrize("lie", SPEC_LIES.values(), ids=SPEC_LIES.keys())
def test_false_specification_ends_no_miner(tmp_path: Path, clock: Clock, lie: Lie) -> None:
    network = Network(tmp_path, clock, lie)
    network.miner.mine_one(TASK)
    assert len(network.honest.commitments) == 1


LIST_LIES = {**SPEC_LIES, "nothing": list_no_task, "closed": call_all_tasks_closed}


@pytest.mark.parametrize("lie", LIST_LIES.values(), ids=LIST_LIES.keys())
def test_false_list_keeps_no_task_from_a_miner(tmp_path: Path, clock: Clock, lie: Lie) -> None:
    network = Network(tmp_path, clock, lie)
    clock.end = clock.seconds + 4 * PHASE_SECONDS
    with pytest.raises(OverError):
        network.miner.mine_all()
    assert len(network.honest.commitments) == 1
