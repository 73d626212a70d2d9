import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import httpx
import pytest
from eth_utils.abi import function_signature_to_4byte_selector as compute_selector

from chain.contracts import training_token
from chain.contracts.abi import ContractCall
from chain.crypto import CHUNK_BYTES, content_id
from chain.hexadecimal import to_hex
from chain.primitives import Address, TaskId
from chain.training.attempt import AttemptId
from miner.client import TIP_LIMIT_WEI, FailoverClient
from pot_common.rpc_client import ContentUnavailableError, NodeUnreachableError, RpcCallError
from pot_common.rpc_replies import ClientError
from tests.worlds.node_for_miners import SHARD, THETA, FakeNode
from tests.worlds.proofs import CHAIN_ID, GENESIS

MINER = Address(b"\x77" * 20)


def client_of(*nodes: FakeNode) -> FailoverClient:
    by_host = {f"node{index}": node for index, node in enumerate(nodes)}
    transport = httpx.MockTransport(lambda request: by_host[request.url.host].handle(request))
    return FailoverClient([f"http://{host}/" for host in by_host], transport)


def test_second_node_answers_when_the_first_is_down() -> None:
    client = client_of(FakeNode(MINER, is_down=True), FakeNode(MINER, status="paused"))
    task = client.task(1)
    assert task is not None
    assert task.status == "paused"


def test_node_that_answered_is_kept() -> None:
    nodes = FakeNode(MINER, is_down=True), FakeNode(MINER, status="paused")
    client = client_of(*nodes)
    client.node_info()
    nodes[0].is_down = False
    assert getattr(client.task(1), "status", None) == "paused"


def test_error_without_a_node_names_every_url_and_the_setting() -> None:
    client = client_of(FakeNode(MINER, is_down=True), FakeNode(MINER, is_down=True))
    with pytest.raises(NodeUnreachableError) as failure:
        client.node_info()
    message = str(failure.value)
    assert "http://node0" in message
    assert "http://node1" in message
    assert "--rpc" in message


def test_next_node_is_asked_when_one_cannot_answer_now() -> None:
    first, second = FakeNode(MINER), FakeNode(MINER)

    def is_unavailable(*_: object) -> object:
        raise RuntimeError(-32002, "the node is starting", None)

    first.pot_getAttempt = is_unavailable  # type: ignore[method-assign]
    assert client_of(first, second).attempt(1) is not None


def test_refused_call_is_not_sent_to_another_node() -> None:
    first, second = FakeNode(MINER), FakeNode(MINER)
    revert = compute_selector("TaskUnknown(uint256)") + (9).to_bytes(32, "big")

    def refuse(*_: object) -> object:
        raise RuntimeError(3, "execution reverted", to_hex(revert))

    first.eth_estimateGas = refuse  # type: ignore[method-assign]
    with pytest.raises(RpcCallError, match="there is no task 9") as refusal:
        client_of(first, second).call("eth_estimateGas", {})
    assert refusal.value.code == 3


def test_nodes_of_two_networks_are_refused() -> None:
    for other in (
        FakeNode(MINER, genesis_hash="0x" + "cd" * 32),
        FakeNode(MINER, chain_id=CHAIN_ID + 1),
    ):
        client = client_of(FakeNode(MINER), other)
        with pytest.raises(ClientError, match="http://node1 is on another network") as failure:
            client.require_network(CHAIN_ID, GENESIS.hash)
        assert "--rpc" in str(failure.value)


def test_node_that_comes_back_on_another_network_is_not_asked() -> None:
    first, second = FakeNode(MINER), FakeNode(MINER, status="paused")
    client = client_of(first, second)
    client.require_network(CHAIN_ID, GENESIS.hash)
    first.is_down = True
    client.task(1)
    first.is_down, first.chain_id, second.is_down = False, CHAIN_ID + 1, True
    with pytest.raises(NodeUnreachableError, match=r"node0 .not believed: its network has chain"):
        client.task(1)


@pytest.mark.parametrize("nonsense", [None, [], {"x": 1}])
def test_next_node_is_asked_when_one_describes_itself_in_another_shape(nonsense: object) -> None:
    first, second = FakeNode(MINER), FakeNode(MINER, status="paused")
    first.pot_nodeInfo = lambda *_: nonsense  # type: ignore[method-assign]
    client = client_of(first, second)
    client.require_network(CHAIN_ID, GENESIS.hash)
    task = client.task(1)
    assert task is not None
    assert task.status == "paused"


def test_next_node_is_asked_when_one_answers_with_deeply_nested_json() -> None:
    second = FakeNode(MINER, status="paused")

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "deep":
            return httpx.Response(200, content=b"[" * 200_000)
        return second.handle(request)

    client = FailoverClient(["http://deep/", "http://node/"], httpx.MockTransport(answer))
    task = client.task(1)
    assert task is not None
    assert task.status == "paused"


def test_tip_is_the_suggested_one_up_to_a_limit() -> None:
    node = FakeNode(MINER)
    node.eth_maxPriorityFeePerGas = lambda: hex(10**18)  # type: ignore[method-assign]
    client_of(node).transact(b"\x11" * 32, ContractCall(MINER, b"\x01"), chain_id=31_337)
    assert node.transactions[0].max_priority_fee_per_gas == TIP_LIMIT_WEI


def test_list_of_tasks_ends_at_the_proven_number() -> None:
    node, pages = FakeNode(MINER), []

    def list_without_end(page: dict[str, int]) -> object:
        pages.append(page["offset"])
        assert len(pages) < 10
        task = node.pot_getTask(1)
        assert isinstance(task, dict)
        return [{**task, "id": page["offset"] + each} for each in range(1, 4)]

    node.pot_listTasks = list_without_end  # type: ignore[method-assign]
    assert [each.id for each in client_of(node).list_tasks(5)] == [1, 2, 3, 4, 5]
    assert pages == [0, 3]


def test_answer_of_another_shape_is_a_one_line_error() -> None:
    node = FakeNode(MINER)
    node.pot_getAttempt = lambda task: {"round": "many"}  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="not understood") as failure:
        client_of(node).attempt(1)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("forgery", [b"", THETA + b"\x00", b"\x01" + THETA[1:]])
def test_blob_with_a_wrong_hash_is_taken_from_another_node(forgery: bytes) -> None:
    liar, honest = FakeNode(MINER), FakeNode(MINER)
    name = content_id(THETA)
    liar.blobs[to_hex(name)] = forgery
    assert client_of(liar, honest).fetch_blob(name, len(THETA)) == THETA
    with pytest.raises(ContentUnavailableError):
        client_of(liar).fetch_blob(name, len(THETA))


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
def test_fetched_file_is_complete_or_absent(tmp_path: Path, size: int) -> None:
    node, path = FakeNode(MINER), tmp_path / "shard"
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    node.blobs[to_hex(content_id(data))] = data + b"!"
    with pytest.raises(ContentUnavailableError):
        client_of(node).fetch_file(content_id(data), size, path)
    assert not path.exists()
    node.blobs[to_hex(content_id(data))] = data
    client_of(node).fetch_file(content_id(data), size, path)
    assert path.read_bytes() == data


def test_file_is_fetched_from_a_mirror_of_the_specification(tmp_path: Path) -> None:
    node, mirror = FakeNode(MINER), FakeNode(MINER)
    name = content_id(SHARD)
    del node.blobs[to_hex(name)]
    mirror.blobs[name.hex()] = SHARD
    client = FailoverClient(
        ["http://node"],
        httpx.MockTransport(
            lambda request: (mirror if request.url.host == "mirror" else node).handle(request)
        ),
        private_data_hosts=["mirror"],
    )
    client.fetch_file(name, len(SHARD), tmp_path / "shard", ["http://mirror/data/"])
    assert (tmp_path / "shard").read_bytes() == SHARD


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.251", "168.63.129.16", "[::1]", "[fd00::1]", "[fe80::1]"),
        *("[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]", "2130706433"),
    ],
)
def test_mirror_at_a_private_address_is_never_asked(tmp_path: Path, host: str) -> None:
    node, name, asked = FakeNode(MINER), content_id(SHARD), []
    del node.blobs[to_hex(name)]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "node":
            return node.handle(request)
        asked.append(request.url)
        return httpx.Response(200, content=SHARD)

    client = FailoverClient(["http://node"], httpx.MockTransport(answer))
    with pytest.raises(ContentUnavailableError):
        client.fetch_file(name, len(SHARD), tmp_path / "shard", [f"http://{host}/data"])
    assert asked == []


def test_transaction_pays_twice_the_base_fee_with_a_gas_margin() -> None:
    node = FakeNode(MINER)
    client_of(node).transact(b"\x11" * 32, ContractCall(MINER, b"\x01"), chain_id=31_337)
    (sent,) = node.transactions
    assert (sent.max_fee_per_gas, sent.max_priority_fee_per_gas) == (15, 1)
    assert (sent.gas_limit, sent.chain_id, sent.data) == (350_000, 31_337, b"\x01")


def test_reverted_transaction_is_an_error() -> None:
    node = FakeNode(MINER)
    reverted = {"status": "0x0", "blockNumber": "0x9"}
    node.eth_getTransactionReceipt = lambda name: reverted  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="reverted in block 9"):
        client_of(node).transact(b"\x11" * 32, ContractCall(MINER, b""), chain_id=31_337)


def test_reveal_goes_to_every_node_and_reports_refusals() -> None:
    nodes = FakeNode(MINER), FakeNode(MINER, refuses_reveals=True), FakeNode(MINER, is_down=True)
    client = client_of(*nodes)
    takers, refusals = client.reveal({"task": 1}, b"payload")
    assert takers == {"http://node0"}
    assert [refusal.split(":")[1] for refusal in refusals] == ["//node1", "//node2"]
    assert nodes[0].reveals == [({"task": "1"}, b"payload")]
    # Again, it goes to the one that refused: who has it is left alone, who is down too.
    nodes[1].refuses_reveals = False
    assert client.reveal({"task": 1}, b"payload", takers) == ({"http://node1"}, [])


def test_busy_node_is_asked_again_when_it_says_and_others_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("miner.client.time.monotonic", lambda: now)
    busy, other = FakeNode(MINER, busy_seconds="3"), FakeNode(MINER, refuses_reveals=True)
    client = client_of(busy, other)
    for asked in ((1, 1), (1, 2)):
        client.reveal({"task": 1}, b"payload")
        assert (busy.asked_reveals, other.asked_reveals) == asked
    busy.busy_seconds = None
    now += 3.0
    assert client.reveal({"task": 1}, b"payload")[0] == {"http://node0"}


@pytest.mark.parametrize(("named", "seconds"), [("99999", 10.0), ("soon", 1.0), ("", 1.0)])
def test_busy_node_cannot_put_a_gradient_off_for_long(
    named: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("miner.client.time.monotonic", lambda: now)
    busy = FakeNode(MINER, busy_seconds=named)
    client = client_of(busy)
    for count, later in ((1, seconds - 0.1), (1, 0.1), (2, 0.0)):
        client.reveal({"task": 1}, b"payload")
        assert busy.asked_reveals == count
        now += later


def test_node_that_cuts_an_upload_off_is_asked_again_at_once() -> None:
    node, cuts = FakeNode(MINER), [httpx.WriteError("broken pipe"), httpx.ReadError("reset")]

    def answer(request: httpx.Request) -> httpx.Response:
        if cuts:
            raise cuts.pop()
        return node.handle(request)

    urls = ["http://node", "http://down"]
    down = FakeNode(MINER, is_down=True)
    client = FailoverClient(
        urls,
        httpx.MockTransport(lambda r: (down.handle if r.url.host == "down" else answer)(r)),
    )
    found = [client.reveal({"task": 1}, b"payload")[0] for _ in range(3)]
    assert found == [frozenset(), frozenset(), {"http://node"}]


def test_node_that_trickles_a_blob_delays_it_by_seconds_and_is_put_off() -> None:
    node, release = FakeNode(MINER), Event()

    class Trickle(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while not release.wait(20):
                yield b"\x00"

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "trickle":
            return httpx.Response(200, stream=Trickle())
        return node.handle(request)

    urls = ["http://trickle", "http://node"]
    client = FailoverClient(urls, httpx.MockTransport(answer))
    begin = time.monotonic()
    assert client.fetch_blob(content_id(THETA), len(THETA)) == THETA
    assert time.monotonic() - begin < 10
    assert client._list_candidates() == ["http://node", "http://trickle"]
    release.set()


def test_node_with_other_bytes_for_a_blob_is_not_asked_again() -> None:
    liar, honest = FakeNode(MINER, status="paused"), FakeNode(MINER)
    liar.blobs[to_hex(content_id(THETA))] = b"\x01" + THETA[1:]
    client = client_of(liar, honest)
    client.fetch_blob(content_id(THETA), len(THETA))
    assert getattr(client.task(1), "status", None) == "active"


def test_view_function_is_called_at_the_head() -> None:
    balance = training_token.balance_of(MINER, MINER)
    assert client_of(FakeNode(MINER, token_balance=7)).read(balance) == 7


def client_with_a_hanging_node(release: Event) -> tuple[FailoverClient, list[str]]:
    """A client of `hang` and `node`; `hang` answers nothing until it is released."""
    node, asked = FakeNode(MINER), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "hang":
            release.wait(20)
            raise httpx.ReadTimeout("no answer")
        return node.handle(request)

    return FailoverClient(["http://hang", "http://node"], httpx.MockTransport(answer)), asked


def test_node_that_hangs_keeps_no_gradient_from_the_others() -> None:
    release = Event()
    client, asked = client_with_a_hanging_node(release)
    begin = time.monotonic()
    takers, refusals = client.reveal({"task": 1, "round": 0}, b"payload")
    assert (takers, refusals) == ({"http://node"}, [])
    client.reveal({"task": 1, "round": 0}, b"payload")
    assert asked.count("hang") == 1, "it is not asked the same again while it hangs"
    client.reveal_holders(AttemptId(TaskId(1), 0, 0), MINER)
    assert time.monotonic() - begin < 10
    release.set()


def test_node_that_fails_again_and_again_rests_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("miner.client.time.monotonic", lambda: now[0])
    first, second = FakeNode(MINER, is_down=True), FakeNode(MINER)
    client = client_of(first, second)
    rests = []
    for _ in range(6):
        client.prefer("http://node0")
        client.task(1)
        begin = now[0]
        while client._unreachable.has("http://node0"):
            now[0] += 10
        rests.append(now[0] - begin)
    assert rests == [30, 60, 120, 240, 480, 480]
    first.is_down = False
    client.prefer("http://node0")
    client.task(1)
    assert client.current == "http://node0"
