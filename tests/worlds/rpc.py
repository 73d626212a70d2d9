"""The RPC service over ASGI without a socket, with a client and a node that mines at once."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from chain.errors import RejectedInputError, RejectionReason
from chain.json_types import Json, JsonObject
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from chain.types.transaction import Transaction, decode_transaction
from node.ipc.client import IpcError, IpcRefusedError
from node.ipc.server import IpcServer
from node.rpc.calls import CallExecutor, CallWorkers
from node.rpc.http import AccessRules
from node.rpc.service import RpcOptions, build_service
from tests.worlds.http_server import serve_http
from tests.worlds.stored_chain import StoredChain


class InstantNode:
    """The node process; it puts a transaction into a block at once, unless it is `holding`."""

    def __init__(self, chain: StoredChain) -> None:
        self.chain = chain
        self.holding = False
        self.pool: dict[Hash32, Transaction] = {}
        self.stored_blobs = 0
        self.reveals: list[Reveal] = []
        self.peers = 3
        self.best_ahead = 0
        self.gas_price = 0

    async def submit_transaction(self, raw: bytes) -> Hash32:
        transaction = decode_transaction(raw)
        if transaction.hash in self.pool:
            raise RejectedInputError(RejectionReason.ALREADY_KNOWN)
        if self.holding:
            self.pool[transaction.hash] = transaction
        else:
            self.chain.extend(raw)
        return transaction.hash

    def get_pending_nonce(self, address: Address) -> int | None:
        nonces = [each.nonce for each in self.pool.values() if each.sender == address]
        return max(nonces) + 1 if nonces else None

    def get_pooled_transaction(self, transaction_hash: Hash32) -> bytes | None:
        transaction = self.pool.get(transaction_hash)
        return None if transaction is None else transaction.raw

    def list_waiting(self, address: Address) -> tuple[list[Hash32], list[Hash32]]:
        return [each.hash for each in self.pool.values() if each.sender == address], []

    def get_pool_counts(self) -> tuple[int, int]:
        return len(self.pool), 0

    def get_gas_price(self) -> int:
        return self.gas_price

    def get_node_info(self) -> JsonObject:
        return {"peerId": "12D3KooWTest", "listen": [], "validator": None, "role": "validator"}

    def get_validators(self) -> Json:
        return []

    def get_consensus_state(self) -> JsonObject:
        return {"number": self.chain.store.head_number() + 1, "view": 0}

    def get_sync_state(self) -> JsonObject:
        return {"peers": self.peers, "best": self.chain.store.head_number() + self.best_ahead}

    def on_blob(self) -> None:
        self.stored_blobs += 1

    def on_reveal(self, reveal: Reveal) -> None:
        self.reveals.append(reveal)

    def get_readiness(self, task_id: TaskId) -> JsonObject:
        return {"validator": None, "state": "waiting", "code": "no_room", "reason": "full"}

    def find_disk_objection(self, task_id: TaskId) -> str | None:
        return None

    async def find_reveal_holders(self, attempt_id: AttemptId, miner: Address) -> Json:
        return ["0x" + "22" * 20]


class DirectLink:
    """The link to the node process, without its socket."""

    def __init__(self, node: InstantNode) -> None:
        self._server = IpcServer(node)
        self.is_connected = True

    async def call(self, method: str, params: JsonObject | None = None) -> Json:
        if not self.is_connected:
            raise IpcError("the node process is not reachable")
        response = await self._server.answer({"id": 1, "method": method, "params": params or {}})
        error = response.get("error")
        if isinstance(error, dict):
            raise IpcRefusedError(str(error["reason"]), str(error["message"]))
        return response["result"]


class RpcHarness:
    """A chain, its node process, and the RPC service over both."""

    def __init__(self, directory: Path, runner: asyncio.Runner, chain: StoredChain) -> None:
        self.chain = chain
        self.node = InstantNode(self.chain)
        self.link = DirectLink(self.node)
        self._runner = runner
        self.options = RpcOptions(
            database=directory / "database",
            blobs=directory / "blobs",
            reveals=directory / "reveals",
            checks=directory / "training",
            socket=directory / "unused",
            access=AccessRules(
                frozenset({"https://wallet.example"}), frozenset({"localhost", "node.example"})
            ),
            call_timeout_seconds=2.0,
        )
        command = (sys.executable, "-m", "node.rpc.call_worker", str(self.options.database))
        self.workers = CallWorkers((*command, "50000000"), size=1, timeout_seconds=2.0)
        self._client = self._build_client(self.workers)

    def _build_client(self, calls: CallExecutor) -> httpx.AsyncClient:
        application = build_service(
            self.options, self.chain.database, self.link, calls, self.workers
        )
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(application),  # type: ignore[arg-type]
            base_url="http://localhost:8545",
        )

    @contextmanager
    def calls_by(self, calls: CallExecutor) -> Iterator[None]:
        """Execute the calls of clients by other means for a while."""
        usual, self._client = self._client, self._build_client(calls)
        try:
            yield
        finally:
            self._client = usual

    def http(self, method: str, path: str, **arguments: object) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, **arguments))  # type: ignore[arg-type]

    def post(self, value: object) -> object:
        """The answer to a JSON-RPC body; None if there is none."""
        response = self.http("POST", "/", json=value)
        return response.json() if response.content else None

    def ask(self, method: str, *params: object) -> dict[str, object]:
        """The response object."""
        answer = self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        assert isinstance(answer, dict)
        assert answer.pop("jsonrpc") == "2.0"
        assert answer.pop("id") == 1
        return answer

    def result(self, method: str, *params: object) -> object:
        answer = self.ask(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    def error(self, method: str, *params: object) -> dict[str, object]:
        answer = self.ask(method, *params)
        assert "error" in answer, answer
        error = answer["error"]
        assert isinstance(error, dict)
        return error


@contextmanager
def rpc_harness(directory: Path, chain: StoredChain | None = None) -> Iterator[RpcHarness]:
    """The service over a chain at `directory / "database"`, by default a new one."""
    with asyncio.Runner() as runner:
        harness = RpcHarness(directory, runner, chain or StoredChain(directory / "database"))
        try:
            yield harness
        finally:
            runner.run(harness.workers.close())
            harness.chain.database.close()


@contextmanager
def served(rpc: RpcHarness) -> Iterator[str]:
    """The URL of a node that makes a block of every transaction it is sent."""

    def respond(_method: str, _path: str, body: bytes) -> tuple[int, bytes]:
        return 200, json.dumps(rpc.post(json.loads(body))).encode()

    # The harness has one event loop, and so one thread.
    with serve_http(respond, is_threaded=False) as url:
        yield url
