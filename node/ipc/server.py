"""The node process's end of the Unix socket (docs/spec/rpc.md, section 7).

It runs on trio. It answers requests for facts that are not in the database, and announces new
heads. A client that breaks the protocol loses its connection; the node and other clients go on.
"""

import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import structlog
import trio

from chain import codec
from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import REVEAL_LIMIT_BYTES, reveal_from_item
from node.ipc.backend import Backend
from node.trio_types import TaskStatus
from pot_common.errors import OperatorError
from pot_common.framing import NODE_FRAMES, FrameError, FrameReader

MAX_CONNECTIONS: Final = 16
"""Limit of connections: enough for the RPC processes and tools of one node. Only the operator can
open the socket."""

MAX_REQUESTS_IN_FLIGHT: Final = 256
"""Limit of unanswered requests of one connection; above it, the server stops reading."""

RECEIVE_BYTES: Final = 2**16
"""Limit of bytes in one read from the socket."""

BACKLOG: Final = 16
"""Connections that the kernel queues until they are accepted; as many as are allowed at all."""

INTERNAL_ERROR: Final = "internal_error"
"""The reason of an error that is this node's fault, and neither the client's nor the operator's."""

UNIX_PATH_LIMIT_BYTES: Final = 107
"""The longest path of a Unix socket: Linux has 108 bytes for it, with the terminating zero."""

_log = structlog.get_logger("node.ipc")


class IpcServer:
    """Serves one `Backend` on one Unix socket."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._head: JsonObject | None = None
        self._head_changed = trio.Event()
        self._handlers: Mapping[str, Callable[[JsonObject], Awaitable[Json]]] = {
            "submit_transaction": self._submit_transaction,
            "pending_nonce": self._pending_nonce,
            "pooled_transaction": self._pooled_transaction,
            "pool_counts": self._pool_counts,
            "waiting_transactions": self._waiting_transactions,
            "gas_price": self._gas_price,
            "node_info": self._node_info,
            "validators": self._validators,
            "consensus_state": self._consensus_state,
            "sync_state": self._sync_state,
            "blob_arrived": self._blob_arrived,
            "reveal_arrived": self._reveal_arrived,
            "readiness": self._readiness,
            "disk_objection": self._disk_objection,
            "reveal_holders": self._reveal_holders,
        }

    def announce_head(self, number: BlockNumber, block_hash: Hash32) -> None:
        """Send a new head to all clients. A slow client gets only the newest."""
        self._head = {"number": number, "hash": to_hex(block_hash)}
        self._head_changed.set()
        self._head_changed = trio.Event()

    async def serve(
        self, path: Path, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen at `path`, which only its owner can open; runs until it is cancelled.

        Raises:
            OSError: The path is too long, or its directory cannot be written.
        """
        with trio.socket.from_stdlib_socket(_open_socket(path)) as listener:
            connections = trio.CapacityLimiter(MAX_CONNECTIONS)
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    client, _ = await listener.accept()
                    nursery.start_soon(self._serve_client, client, connections)

    async def _serve_client(
        self, client: trio.socket.SocketType, connections: trio.CapacityLimiter
    ) -> None:
        stream = trio.SocketStream(client)
        try:
            connections.acquire_nowait()
        except trio.WouldBlock:
            await trio.aclose_forcefully(stream)
            return
        try:
            async with stream:
                await _Connection(stream, self).run()
        except* (FrameError, trio.BrokenResourceError, trio.ClosedResourceError) as errors:
            _log.info("ipc connection lost", error=str(errors.exceptions[0]))
        finally:
            connections.release()

    async def answer(self, request: JsonObject) -> JsonObject:
        """The response to one request: its result or an error.

        Raises:
            OperatorError: The disk refused, so the node must end.
        """
        response: JsonObject = {"id": request.get("id")}
        method, params = request.get("method"), request.get("params")
        handler = self._handlers.get(method) if isinstance(method, str) else None
        try:
            if handler is None or not isinstance(params, dict):
                raise RejectedInputError(RejectionReason.MALFORMED, f"no method {method!r}")
            response["result"] = await handler(params)
        except RejectedInputError as error:
            response["error"] = {"reason": error.reason.value, "message": error.detail}
        except OperatorError:
            raise
        except Exception:  # noqa: BLE001 - a bug of ours, met with a client's input, ends no node
            _log.exception("request of a client failed", method=method)
            response["error"] = {"reason": INTERNAL_ERROR, "message": "internal error of the node"}
        return response

    async def wait_head(self, seen: JsonObject | None) -> JsonObject:
        """Wait until the head is not `seen`, and return it."""
        while self._head is None or self._head == seen:
            await self._head_changed.wait()
        return self._head

    async def _submit_transaction(self, params: JsonObject) -> Json:
        transaction_hash = await self._backend.submit_transaction(_as_bytes(params, "raw"))
        return {"hash": to_hex(transaction_hash)}

    async def _pending_nonce(self, params: JsonObject) -> Json:
        return self._backend.get_pending_nonce(Address(_as_bytes(params, "address")))

    async def _pooled_transaction(self, params: JsonObject) -> Json:
        raw = self._backend.get_pooled_transaction(Hash32(_as_bytes(params, "hash")))
        return None if raw is None else to_hex(raw)

    async def _pool_counts(self, _params: JsonObject) -> Json:
        pending, queued = self._backend.get_pool_counts()
        return {"pending": pending, "queued": queued}

    async def _waiting_transactions(self, params: JsonObject) -> Json:
        pending, queued = self._backend.list_waiting(Address(_as_bytes(params, "address")))
        return {"pending": [*map(to_hex, pending)], "queued": [*map(to_hex, queued)]}

    async def _gas_price(self, _params: JsonObject) -> Json:
        return self._backend.get_gas_price()

    async def _node_info(self, _params: JsonObject) -> Json:
        return self._backend.get_node_info()

    async def _validators(self, _params: JsonObject) -> Json:
        return self._backend.get_validators()

    async def _consensus_state(self, _params: JsonObject) -> Json:
        return self._backend.get_consensus_state()

    async def _sync_state(self, _params: JsonObject) -> Json:
        return self._backend.get_sync_state()

    async def _blob_arrived(self, _params: JsonObject) -> Json:
        self._backend.on_blob()
        return None

    async def _reveal_arrived(self, params: JsonObject) -> Json:
        item = codec.decode(_as_bytes(params, "reveal"), limit_bytes=REVEAL_LIMIT_BYTES)
        self._backend.on_reveal(reveal_from_item(item))
        return None

    async def _readiness(self, params: JsonObject) -> Json:
        return self._backend.get_readiness(TaskId(_as_integer(params, "task")))

    async def _disk_objection(self, params: JsonObject) -> Json:
        return self._backend.find_disk_objection(TaskId(_as_integer(params, "task")))

    async def _reveal_holders(self, params: JsonObject) -> Json:
        attempt_id = AttemptId(
            TaskId(_as_integer(params, "task")),
            _as_integer(params, "round"),
            _as_integer(params, "attempt"),
        )
        miner = Address(_as_bytes(params, "miner"))
        return await self._backend.find_reveal_holders(attempt_id, miner)


class _Connection:
    """The connection of one client; it answers requests, each in its own task, and sends heads."""

    def __init__(self, stream: trio.SocketStream, server: IpcServer) -> None:
        self._stream = stream
        self._server = server
        self._send_lock = trio.Lock()
        self._in_flight = trio.CapacityLimiter(MAX_REQUESTS_IN_FLIGHT)

    async def run(self) -> None:
        """Serve until the client closes the connection."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_heads)
            reader = FrameReader(NODE_FRAMES)
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                for request in reader.feed(data):
                    token = object()
                    await self._in_flight.acquire_on_behalf_of(token)
                    nursery.start_soon(self._answer, request, token)
            nursery.cancel_scope.cancel()

    async def _answer(self, request: JsonObject, token: object) -> None:
        try:
            response = await self._server.answer(request)
            try:
                await self._send(response)
            except FrameError as error:
                refusal: JsonObject = {
                    "reason": RejectionReason.TOO_LARGE.value,
                    "message": str(error),
                }
                await self._send({"id": request.get("id"), "error": refusal})
        finally:
            self._in_flight.release_on_behalf_of(token)

    async def _send_heads(self) -> None:
        seen: JsonObject | None = None
        while True:
            seen = await self._server.wait_head(seen)
            await self._send({"event": "new_head", "data": seen})

    async def _send(self, value: JsonObject) -> None:
        async with self._send_lock:
            await self._stream.send_all(NODE_FRAMES.encode(value))


def _open_socket(path: Path) -> socket.socket:
    if len(str(path).encode()) > UNIX_PATH_LIMIT_BYTES:
        raise OSError(
            f"the socket path {path} is longer than {UNIX_PATH_LIMIT_BYTES} bytes: "
            "choose a shorter data_dir"
        )
    # This node holds the lock of the data directory, so an existing socket is from a killed
    # process.
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def _as_bytes(params: JsonObject, name: str) -> bytes:
    try:
        return from_hex(params.get(name))
    except ValueError as error:
        raise RejectedInputError(
            RejectionReason.MALFORMED, f"{name} is not hexadecimal with 0x"
        ) from error


def _as_integer(params: JsonObject, name: str) -> int:
    value = params.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RejectedInputError(RejectionReason.MALFORMED, f"{name} is not a count")
    return value
