"""A miner whose nodes answer right, but late (miner/nodes.py, miner/blob_download.py)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from chain.contracts import miner_seats
from chain.contracts.abi import ContractCall
from chain.contracts.task_registry import TaskStatus
from chain.crypto import content_id, get_address
from chain.hexadecimal import to_hex
from chain.primitives import Address, PrivateKey
from miner.client import FailoverClient
from miner.light import LightClient, fetch_network
from miner.miner import Miner
from miner.mirrors import MIN_BYTES_PER_SECOND
from miner.nodes import ASKED_LIMIT, REST_SECONDS, SLOW_SECONDS
from pot_common.rpc_client import NodeUnreachableError, RpcCallError
from pot_common.rpc_replies import ClientError
from tests.worlds.node_for_miners import LIMITS, TASK, CountingTrainer, FakeNode
from tests.worlds.proofs import CHAIN_ID, GENESIS
from tests.worlds.virtual_time import VirtualTime

KEY = PrivateKey(b"\x11" * 32)
MINER = get_address(KEY)
OTHER = Address(b"\x01" * 20)
MODEL = bytes(2**22)
SUCCESSORS = tuple(
    sorted((PrivateKey(bytes([0x60 + each]) * 32) for each in range(4)), key=get_address)
)
MODULES = ("miner.nodes", "miner.blob_download")

Delay = Callable[[], float]
"""After how many seconds a node answers now."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    return VirtualTime(monkeypatch, MODULES)


class LateNode:
    """A node of which each answer takes a while."""

    def __init__(self, clock: VirtualTime, node: FakeNode, seconds: float = 0.0) -> None:
        self.node = node
        self.seconds = seconds
        self.asked: list[str] = []
        self._clock = clock

    def handle(self, request: httpx.Request) -> httpx.Response:
        is_call = request.method == "POST" and request.url.path == "/"
        name = json.loads(request.content)["method"] if is_call else request.url.path
        self.asked.append(name)
        if self.seconds:
            self._clock.sleep(self.seconds)
        return self.node.handle(request)


def client_of(*nodes: LateNode) -> FailoverClient:
    by_host = {f"node{index}": node for index, node in enumerate(nodes)}
    transport = httpx.MockTransport(lambda request: by_host[request.url.host].handle(request))
    return FailoverClient([f"http://{host}" for host in by_host], transport)


def late_nodes(clock: VirtualTime, *seconds: float) -> list[LateNode]:
    """Nodes of one chain, which answer after so many seconds."""
    first = FakeNode(MINER, units=1, participants=((OTHER, 3), (MINER, 1)))
    nodes = [first]
    for _ in seconds[1:]:
        other = FakeNode(MINER, units=1, participants=first.participants)
        other.transactions = first.transactions
        nodes.append(other)
    return [LateNode(clock, *each) for each in zip(nodes, seconds, strict=True)]


class Mining:
    """A miner and its nodes; from the opening of the attempt on, these answer late."""

    def __init__(
        self, directory: Path, clock: VirtualTime, seconds: tuple[float, ...], phase_seconds: int
    ) -> None:
        self._clock, self._phase_seconds = clock, phase_seconds
        self.nodes = late_nodes(clock, *(0.0 for _ in seconds))
        self._seconds = seconds
        self._opened_at: float | None = None
        self.committed_after: list[float] = []
        for each in self.nodes:
            handle = each.handle
            each.handle = lambda request, handle=handle: self._follow(request, handle)  # type: ignore[method-assign,misc]
        client = client_of(*self.nodes)
        network = fetch_network(client, CHAIN_ID, GENESIS.hash)
        self.miner = Miner(
            client,
            LightClient(client, network),
            KEY,
            directory,
            1,
            lambda spec, shards: CountingTrainer(),
            LIMITS,
            poll_seconds=0.5,
            claims=False,
        )

    def _follow(
        self, request: httpx.Request, handle: Callable[[httpx.Request], httpx.Response]
    ) -> httpx.Response:
        """Answer, and let the chain go on as the time does."""
        if self._opened_at is None and b"pot_getAttempt" in request.content:
            self._opened_at = self._clock.seconds
            for node, seconds in zip(self.nodes, self._seconds, strict=True):
                node.seconds = seconds
        self._pass_phases()
        answer = handle(request)
        if self.nodes[0].node.commitments and not self.committed_after:
            assert self._opened_at is not None
            self.committed_after.append(self._clock.seconds - self._opened_at)
        self._pass_phases()
        return answer

    def _pass_phases(self) -> None:
        if self._opened_at is None:
            return
        number = int(self._clock.seconds - self._opened_at) // self._phase_seconds
        for each in self.nodes:
            each.node.phase = ("commitment", "verdict", "result")[min(number, 2)]
            if number > 2:
                each.node.status = "closed"

    @property
    def reveals(self) -> list[tuple[dict[str, str], bytes]]:
        """What was revealed to any node."""
        return [reveal for each in self.nodes for reveal in each.node.reveals]


@pytest.mark.parametrize("phase_seconds", [10, 30])
@pytest.mark.parametrize("late_seconds", [1.5, 9.0, 19.0, 39.0])
def test_miner_commits_in_time_although_its_first_node_is_late(
    tmp_path: Path, clock: VirtualTime, late_seconds: float, phase_seconds: int
) -> None:
    mining = Mining(tmp_path, clock, (late_seconds, 0.0), phase_seconds)
    mining.miner.mine(TASK)
    assert mining.committed_after
    assert mining.committed_after[0] < 5
    assert mining.reveals


def test_miner_with_two_late_nodes_of_three_commits_in_time(
    tmp_path: Path, clock: VirtualTime
) -> None:
    mining = Mining(tmp_path, clock, (19.0, 9.0, 0.0), 30)
    mining.miner.mine(TASK)
    assert mining.committed_after[0] < 7
    assert mining.reveals


def test_miner_whose_only_node_is_late_commits_nevertheless(
    tmp_path: Path, clock: VirtualTime
) -> None:
    mining = Mining(tmp_path, clock, (9.0,), 180)
    mining.miner.mine(TASK)
    assert mining.committed_after
    assert mining.reveals


def test_of_two_late_nodes_the_first_answer_is_taken(clock: VirtualTime) -> None:
    slow, slower = late_nodes(clock, 9.0, 4.0)
    client, begin = client_of(slow, slower), clock.seconds
    assert client.task(TASK) is not None
    assert clock.seconds - begin == pytest.approx(SLOW_SECONDS + 4.0)
    assert client.current == "http://node1"


def test_late_answer_ends_no_rest_and_a_fast_one_does(clock: VirtualTime) -> None:
    late, fast = late_nodes(clock, 9.0, 0.0)
    client = client_of(late, fast)
    client.task(TASK)
    clock.sleep(20)  # the late answer is there
    asked = len(late.asked)
    client.prefer("http://node0")
    client.task(TASK)
    assert len(late.asked) == asked
    clock.sleep(REST_SECONDS)
    late.seconds = 0.0
    client.prefer("http://node0")
    client.task(TASK)
    client.task(TASK)
    assert len(late.asked) == asked + 2


def test_late_answer_that_is_taken_lets_its_node_rest(clock: VirtualTime) -> None:
    late, fast = late_nodes(clock, 1.2, 0.9)
    client, begin = client_of(late, fast), clock.seconds
    client.task(TASK)
    assert (client.current, clock.seconds - begin) == ("http://node0", pytest.approx(1.2))
    clock.sleep(5)
    client.task(TASK)
    assert client.current == "http://node1"
    assert len(late.asked) == 1


def test_question_goes_to_few_slow_nodes_at_once_and_to_the_last(clock: VirtualTime) -> None:
    nodes = late_nodes(clock, *[300.0] * (ASKED_LIMIT + 1), 0.0)
    hanging = nodes[:-1]
    client, begin = client_of(*nodes), clock.seconds
    assert client.task(TASK) is not None
    assert 20 < clock.seconds - begin < 23
    for _ in range(5):
        assert client.task(TASK) is not None
    assert [len(each.asked) for each in hanging] == [1] * len(hanging)
    assert clock.seconds - begin < 23


def test_node_that_hangs_is_not_asked_the_same_again(clock: VirtualTime) -> None:
    hanging, slow = late_nodes(clock, 300.0, 1.5)
    client = client_of(hanging, slow)
    for _ in range(20):
        assert client.task(TASK) is not None
    assert len(hanging.asked) == 1


def test_nodes_that_all_hang_are_given_up_after_one_deadline(clock: VirtualTime) -> None:
    client, begin = client_of(*late_nodes(clock, 300.0, 300.0)), clock.seconds
    with pytest.raises(NodeUnreachableError, match=r"http://node0 \(no complete answer in 20 s\)"):
        client.task(TASK)
    assert clock.seconds - begin == pytest.approx(21)


def test_fast_node_without_news_does_not_hide_those_of_a_slow_one(clock: VirtualTime) -> None:
    slow, silent = late_nodes(clock, 3.0, 0.0)
    silent.node.pot_getAttempt = lambda task: None  # type: ignore[method-assign]
    client = client_of(slow, silent)
    assert client.attempt(TASK) is not None
    assert client.current == "http://node0"
    client.prefer("http://node1")
    assert client.attempt(TASK) is None
    client.rotate()
    assert client.attempt(TASK) is not None


def test_refusal_of_a_fast_node_hides_no_answer_of_a_slow_one(clock: VirtualTime) -> None:
    slow, liar = late_nodes(clock, 3.0, 0.0)

    def refuse(*_: object) -> object:
        raise RuntimeError(3, "execution reverted", None)

    for name in ("pot_getTask", "eth_estimateGas"):
        setattr(liar.node, name, refuse)
    client = client_of(slow, liar)
    assert client.task(TASK) is not None
    slow.seconds, begin = 60.0, clock.seconds
    client.prefer("http://node0")
    client.rotate(), client.rotate()
    with pytest.raises(RpcCallError, match="reverted"):
        client.task(TASK)
    assert clock.seconds - begin < 6


@pytest.mark.parametrize("late_seconds", [0.9, 5.0, 19.0, 60.0])
def test_transaction_with_a_late_node_of_two_is_soon_known_to_be_final(
    clock: VirtualTime, late_seconds: float
) -> None:
    nodes = late_nodes(clock, late_seconds, 0.0)
    client, begin = client_of(*nodes), clock.seconds
    client.transact(KEY, miner_seats.leave(TASK), chain_id=CHAIN_ID)
    assert clock.seconds - begin < 9
    assert "eth_sendRawTransaction" in nodes[0].asked


def test_refusal_of_a_transaction_does_not_wait_for_a_node_that_hangs(clock: VirtualTime) -> None:
    hanging, refusing = late_nodes(clock, 300.0, 0.0)

    def refuse(raw: str) -> object:
        raise RuntimeError(-32000, "nonce too low", None)

    refusing.node.eth_sendRawTransaction = refuse  # type: ignore[method-assign]
    client, begin = client_of(hanging, refusing), clock.seconds
    with pytest.raises(RpcCallError, match="nonce too low"):
        client.send_raw(b"transaction")
    assert clock.seconds - begin < 4


def test_slow_nodes_still_get_transactions_and_gradients(clock: VirtualTime) -> None:
    slow, fast = late_nodes(clock, 1.5, 0.0)
    client = client_of(slow, fast)
    client.task(TASK)
    assert client._slow.has("http://node0")
    client.transact(KEY, ContractCall(OTHER, b""), chain_id=CHAIN_ID)
    client.reveal({"task": 1}, b"payload")
    clock.sleep(5)
    assert {"eth_sendRawTransaction", "/v1/reveals"} <= set(slow.asked)
    assert slow.node.reveals


def test_node_is_not_blamed_for_the_validator_sets_that_another_tells(clock: VirtualTime) -> None:
    honest, liar = late_nodes(clock, 0.0, 0.0)
    client = client_of(honest, liar)
    light = LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))
    light.task(TASK)
    for each in (honest, liar):
        each.node.set_changes = ((103, SUCCESSORS),)
        each.node.round_number = 1
    tell = honest.node.pot_getValidatorSets

    def tell_late(after: int) -> object:
        clock.sleep(2)
        return tell(after)

    honest.node.pot_getValidatorSets = tell_late  # type: ignore[method-assign]
    liar.node.pot_getValidatorSets = lambda after: []  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="http://node0 or http://node1 is wrong about the valid"):
        light.task(TASK)
    assert "http://node0" in client._list_candidates()
    clock.sleep(5)
    client.rotate()
    honest.node.pot_getValidatorSets = tell  # type: ignore[method-assign]
    assert light.task(TASK)[1] is TaskStatus.ACTIVE


class Line:
    """Nodes that send a blob at given rates, in parts of a quarter of a second."""

    def __init__(self, clock: VirtualTime, *rates: int) -> None:
        self._clock = clock
        self._rates = {f"node{index}": rate for index, rate in enumerate(rates)}
        self.at_once = self.most_at_once = 0
        self.client = FailoverClient(
            [f"http://{host}" for host in self._rates], httpx.MockTransport(self._answer)
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=self._send(self._rates[request.url.host]))

    def _send(self, rate: int) -> Iterator[bytes]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        step, sent = max(1, rate // 4), 0
        try:
            while sent < len(MODEL):
                self._clock.sleep(0.25)
                yield MODEL[sent : sent + step]
                sent += step
        finally:
            self.at_once -= 1


def test_model_just_above_the_least_rate_does_not_take_the_phase(clock: VirtualTime) -> None:
    least, begin = MIN_BYTES_PER_SECOND, clock.seconds
    line = Line(clock, least + 1_024, 2**22)
    assert line.client.fetch_blob(content_id(MODEL), len(MODEL), 10) == MODEL
    assert clock.seconds - begin < 4
    assert line.client._list_candidates()[0] == "http://node1"


def test_model_comes_from_the_third_node_if_two_are_slow(clock: VirtualTime) -> None:
    begin = clock.seconds
    line = Line(clock, 20_000, 30_000, 2**22)
    assert line.client.fetch_blob(content_id(MODEL), len(MODEL), 10) == MODEL
    assert clock.seconds - begin < 8
    assert line.most_at_once <= 3  # one may not know yet that nobody waits for it


def test_model_that_comes_in_time_is_asked_of_one_node(clock: VirtualTime) -> None:
    line = Line(clock, 2**20, 2**22)
    assert line.client.fetch_blob(content_id(MODEL), len(MODEL), 10) == MODEL
    assert line.most_at_once == 1


def test_model_of_a_single_slow_node_is_waited_for(clock: VirtualTime) -> None:
    line = Line(clock, 20_000)
    assert line.client.fetch_blob(content_id(MODEL), len(MODEL), 10) == MODEL


def test_node_that_computes_the_model_is_asked_again_beside_a_silent_one(
    clock: VirtualTime,
) -> None:
    silent, honest = late_nodes(clock, 300.0, 0.0)
    name, begin = to_hex(content_id(MODEL)), clock.seconds
    take = honest.node.handle

    def compute(request: httpx.Request) -> httpx.Response:
        if clock.seconds - begin > 4:
            honest.node.blobs[name] = MODEL
        return take(request)

    honest.node.handle = compute  # type: ignore[method-assign]
    client = client_of(silent, honest)
    assert client.fetch_blob(content_id(MODEL), len(MODEL)) == MODEL
    assert clock.seconds - begin < 7


def test_node_that_hangs_on_a_model_is_asked_for_no_other_meanwhile(clock: VirtualTime) -> None:
    hanging, honest = late_nodes(clock, 300.0, 1.5)
    honest.node.blobs[to_hex(content_id(MODEL))] = MODEL
    client = client_of(hanging, honest)
    for _ in range(10):
        assert client.fetch_blob(content_id(MODEL), len(MODEL)) == MODEL
    assert len(hanging.asked) == 1
