"""Client and server of the Unix socket between the node and its RPC processes, together."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from node.ipc.client import (
    CALL_TIMEOUT_SECONDS,
    PEER_LIMIT,
    READING_LIMIT,
    SENDING_LIMIT,
    IpcClient,
    IpcError,
    IpcRefusedError,
)
from node.ipc.server import MAX_CONNECTIONS, MAX_REQUESTS_IN_FLIGHT, IpcServer
from node.training.holders import FIND_SECONDS, QUESTIONS_LIMIT
from pot_common.framing import NODE_FRAMES
from tests.worlds.training_node import REVEALS

HASH = Hash32(b"\x11" * 32)


class FakeBackend:
    """A backend with fixed answers, which records transactions and blobs."""

    def __init__(self) -> None:
        self.submitted: list[bytes] = []
        self.stored_blobs = 0
        self.reveals: list[Reveal] = []

    async def submit_transaction(self, raw: bytes) -> Hash32:
        if raw == b"\xff":
            raise RejectedInputError(RejectionReason.NONCE_TOO_LOW, "next nonce 3, got 1")
        self.submitted.append(raw)
        return HASH

    def get_pending_nonce(self, address: Address) -> int | None:
        return 7 if address == Address(b"\x01" * 20) else None

    def get_pooled_transaction(self, transaction_hash: Hash32) -> bytes | None:
        return b"\x02raw" if transaction_hash == HASH else None

    def list_waiting(self, address: Address) -> tuple[list[Hash32], list[Hash32]]:
        return [HASH], []

    def get_pool_counts(self) -> tuple[int, int]:
        return 1, 2

    def get_gas_price(self) -> int:
        return 5

    def get_node_info(self) -> JsonObject:
        return {"peerId": "me"}

    def get_validators(self) -> Json:
        return []

    def get_consensus_state(self) -> JsonObject:
        return {"view": 0}

    def get_sync_state(self) -> JsonObject:
        return {"peers": 3, "best": 9}

    def on_blob(self) -> None:
        self.stored_blobs += 1

    def on_reveal(self, reveal: Reveal) -> None:
        self.reveals.append(reveal)

    def get_readiness(self, task_id: TaskId) -> dict[str, object]:
        return {"state": "ready", "task": task_id}

    def find_disk_objection(self, task_id: TaskId) -> str | None:
        return f"no room for {task_id}"

    async def find_reveal_holders(self, attempt_id: AttemptId, miner: Address) -> list[str]:
        return [f"{attempt_id.task_id} {attempt_id.round_number} {attempt_id.attempt_number}"]


async def wait_until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the client has no event for every state
            await asyncio.sleep(0.005)


@contextmanager
def served(path: Path, backend: FakeBackend) -> Iterator[tuple[IpcServer, trio.lowlevel.TrioToken]]:
    """An IpcServer in a thread with its own trio loop."""
    ready = threading.Event()
    held: list[tuple[IpcServer, trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def main() -> None:
        server = IpcServer(backend)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, path)
            held.append((server, trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    server, token, scope = held[0]
    try:
        yield server, token
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def connected_client(path: Path) -> Iterator[tuple[IpcClient, asyncio.Runner]]:
    with asyncio.Runner() as runner:
        client = IpcClient(path)

        async def start() -> asyncio.Task[None]:
            task = asyncio.create_task(client.run())
            await wait_until(lambda: client.is_connected)
            return task

        async def stop(task: asyncio.Task[None]) -> None:
            task.cancel()
            await asyncio.wait([task])

        task = runner.run(start())
        try:
            yield client, runner
        finally:
            runner.run(stop(task))


def test_client_gets_the_answers_of_the_backend(tmp_path: Path) -> None:
    backend = FakeBackend()
    path = tmp_path / "node.ipc"
    with served(path, backend), connected_client(path) as (client, runner):
        assert runner.run(client.call("submit_transaction", {"raw": "0x02c0"})) == {
            "hash": "0x" + HASH.hex()
        }
        assert backend.submitted == [b"\x02\xc0"]
        assert runner.run(client.call("pending_nonce", {"address": "0x" + "01" * 20})) == 7
        assert runner.run(client.call("pending_nonce", {"address": "0x" + "02" * 20})) is None
        assert (
            runner.run(client.call("pooled_transaction", {"hash": "0x" + HASH.hex()}))
            == "0x02726177"
        )
        assert runner.run(client.call("waiting_transactions", {"address": "0x" + "01" * 20})) == {
            "pending": ["0x" + HASH.hex()],
            "queued": [],
        }
        assert runner.run(client.call("pool_counts")) == {"pending": 1, "queued": 2}
        assert runner.run(client.call("gas_price")) == 5
        assert runner.run(client.call("sync_state")) == {"peers": 3, "best": 9}
        runner.run(client.call("blob_arrived"))
        assert backend.stored_blobs == 1
        runner.run(client.call("reveal_arrived", {"reveal": to_hex(REVEALS[0].encode())}))
        assert backend.reveals == [REVEALS[0]]
        for reveal in ("0x", "0xc0", to_hex(REVEALS[0].encode() + b"\0")):
            with pytest.raises(IpcRefusedError):
                runner.run(client.call("reveal_arrived", {"reveal": reveal}))
        readiness = runner.run(client.call("readiness", {"task": 4}))
        assert readiness == {"state": "ready", "task": 4}
        assert runner.run(client.call("disk_objection", {"task": 4})) == "no room for 4"
        place = {"task": 4, "round": 2, "attempt": 1, "miner": "0x" + "01" * 20}
        assert runner.run(client.call("reveal_holders", place)) == ["4 2 1"]


def test_refusals_reach_the_client_with_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "node.ipc"
    with served(path, FakeBackend()), connected_client(path) as (client, runner):
        with pytest.raises(IpcRefusedError) as refused:
            runner.run(client.call("submit_transaction", {"raw": "0xff"}))
        assert (refused.value.reason, refused.value.message) == (
            "nonce_too_low",
            "next nonce 3, got 1",
        )
        for method, params in (
            ("unknown", {}),
            ("submit_transaction", {}),
            ("submit_transaction", {"raw": "zz"}),
            ("submit_transaction", {"raw": "0xz"}),
        ):
            with pytest.raises(IpcRefusedError, match="malformed"):
                runner.run(client.call(method, params))


def test_new_heads_are_pushed_and_a_late_client_gets_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "node.ipc"

    async def wait_head(client: IpcClient, number: int) -> None:
        await wait_until(lambda: client.head is not None and client.head["number"] == number)

    with served(path, FakeBackend()) as (server, token):
        with connected_client(path) as (client, runner):
            token.run_sync_soon(server.announce_head, BlockNumber(5), HASH)
            runner.run(wait_head(client, 5))
            assert client.head == {"number": 5, "hash": "0x" + HASH.hex()}
            token.run_sync_soon(server.announce_head, BlockNumber(6), HASH)
            runner.run(wait_head(client, 6))
        with connected_client(path) as (client, runner):
            runner.run(wait_head(client, 6))


def test_client_reconnects_and_without_a_node_calls_fail_at_once(tmp_path: Path) -> None:
    path = tmp_path / "node.ipc"
    with served(path, FakeBackend()):
        context = connected_client(path)
        client, runner = context.__enter__()
    try:
        runner.run(wait_until(lambda: not client.is_connected))
        with pytest.raises(IpcError, match="not reachable"):
            runner.run(client.call("node_info"))
        with served(path, FakeBackend()):
            runner.run(wait_until(lambda: client.is_connected))
            assert runner.run(client.call("node_info")) == {"peerId": "me"}
    finally:
        context.__exit__(None, None, None)


def test_client_that_sends_garbage_loses_only_its_own_connection(tmp_path: Path) -> None:
    path = tmp_path / "node.ipc"
    with served(path, FakeBackend()), connected_client(path) as (client, runner):
        for garbage in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x02{]", b"\x00\x00\x00\x02[]"):
            with socket.socket(socket.AF_UNIX) as bad_client:
                bad_client.settimeout(10)
                bad_client.connect(str(path))
                bad_client.sendall(garbage)
                assert bad_client.recv(100) == b""
        assert runner.run(client.call("node_info")) == {"peerId": "me"}


def test_connections_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "node.ipc"
    with served(path, FakeBackend()):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CONNECTIONS)]
        try:
            for client in clients:
                client.connect(str(path))
                client.sendall(NODE_FRAMES.encode({"id": 1, "method": "node_info", "params": {}}))
                assert client.recv(4) != b""
            with socket.socket(socket.AF_UNIX) as one_too_many:
                one_too_many.settimeout(10)
                one_too_many.connect(str(path))
                assert one_too_many.recv(4) == b""
        finally:
            for client in clients:
                client.close()


def test_too_long_answer_is_an_error_and_keeps_the_connection(tmp_path: Path) -> None:
    class LargeNode(FakeBackend):
        def get_validators(self) -> Json:
            return "x" * NODE_FRAMES.limit_bytes

    path = tmp_path / "node.ipc"
    with served(path, LargeNode()), connected_client(path) as (client, runner):
        with pytest.raises(IpcRefusedError, match="too_large"):
            runner.run(client.call("validators"))
        assert runner.run(client.call("node_info")) == {"peerId": "me"}


def test_unforeseen_error_of_a_request_ends_neither_node_nor_connection(tmp_path: Path) -> None:
    class FaultyNode(FakeBackend):
        async def submit_transaction(self, raw: bytes) -> Hash32:
            raise KeyError(raw)

    path = tmp_path / "node.ipc"
    with served(path, FaultyNode()), connected_client(path) as (client, runner):
        with pytest.raises(IpcRefusedError, match="internal_error"):
            runner.run(client.call("submit_transaction", {"raw": "0xff"}))
        assert runner.run(client.call("node_info")) == {"peerId": "me"}


def test_socket_is_private_and_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "node.ipc"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with served(path, FakeBackend()):
        assert path.stat().st_mode & 0o777 == 0o600


def test_error_for_too_long_path_names_the_cure() -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(OSError, match="shorter data_dir"), flatten_subgroups=True
    ):
        trio.run(_serve_once, Path("/tmp/" + "x" * 110))


async def _serve_once(path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(IpcServer(FakeBackend()).serve, path)


class SilentPeersNode(FakeBackend):
    """A node whose peers never say which gradients they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0

    async def find_reveal_holders(self, attempt_id: AttemptId, miner: Address) -> list[str]:
        self.questions += 1
        await trio.sleep_forever()
        return []


HOLDERS_QUESTION: JsonObject = {"task": 1, "round": 0, "attempt": 0, "miner": "0x" + "01" * 20}


@pytest.mark.parametrize("is_hanging_up", [False, True])
def test_questions_that_last_keep_no_transaction_from_the_node(
    is_hanging_up: bool, tmp_path: Path
) -> None:
    backend = SilentPeersNode()

    async def run(client: IpcClient) -> None:
        flood = [
            asyncio.create_task(client.call("reveal_holders", HOLDERS_QUESTION)) for _ in range(300)
        ]
        await wait_until(lambda: backend.questions == PEER_LIMIT)
        if is_hanging_up:
            for each in flood:
                each.cancel()
            again = [client.call("reveal_holders", HOLDERS_QUESTION) for _ in range(300)]
            flood += [asyncio.create_task(each) for each in again]
        await client.call("submit_transaction", {"raw": "0x01"})
        assert await client.call("node_info") == {"peerId": "me"}
        for each in flood:
            each.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    path = tmp_path / "node.ipc"
    with served(path, backend), connected_client(path) as (client, runner):
        runner.run(run(client))
    assert (backend.submitted, backend.questions) == ([b"\x01"], PEER_LIMIT)


def test_more_questions_than_the_node_takes_wait_for_their_answers(tmp_path: Path) -> None:
    async def run(client: IpcClient) -> list[Json]:
        return await asyncio.gather(*(client.call("gas_price") for _ in range(1_000)))

    path = tmp_path / "node.ipc"
    with served(path, FakeBackend()), connected_client(path) as (client, runner):
        assert runner.run(run(client)) == [5] * 1_000


def test_the_node_takes_as_many_requests_as_an_rpc_process_sends() -> None:
    assert SENDING_LIMIT + PEER_LIMIT + READING_LIMIT <= MAX_REQUESTS_IN_FLIGHT
    assert PEER_LIMIT <= QUESTIONS_LIMIT
    assert FIND_SECONDS < CALL_TIMEOUT_SECONDS
