"""The RPC process's end of the Unix socket (docs/spec/rpc.md, section 7).

It runs on asyncio. It reconnects until it is cancelled; without a connection, each call fails at
once.
"""

import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import Final, Protocol

from chain.json_types import Json, JsonObject
from node.ipc.turns import SharedTurns
from pot_common.framing import NODE_FRAMES, FrameError, FrameReader

CALL_TIMEOUT_SECONDS: Final = 10.0
"""Limit for a turn and an answer. The node answers nearly all from memory, so only an overloaded or
stuck node is slower."""

RECONNECT_SECONDS: Final = 0.2
"""Pause between two attempts to connect. It is short, because an RPC process ends with its node and
so waits only for the node's start."""

SENDING_METHODS: Final = frozenset({"submit_transaction", "reveal_arrived", "blob_arrived"})
"""Calls that bring the node something. A miner or validator that they do not reach is fined, so no
question takes their turns."""

SENDING_LIMIT: Final = 64
"""Limit of unanswered calls that bring something."""

PEER_METHODS: Final = frozenset({"reveal_holders"})
"""Calls for which the node asks its peers, so that a silent peer delays the answer."""

PEER_LIMIT: Final = 8
"""Limit of unanswered calls for which the node asks peers; it asks about no more gradients at a
time."""

READING_LIMIT: Final = 128
"""Limit of other unanswered calls. The node answers them from memory."""

RECEIVE_BYTES: Final = 2**16
"""Limit of bytes in one read from the socket."""


class IpcError(Exception):
    """The node process cannot be reached now, or does not answer."""


class IpcRefusedError(Exception):
    """The node refused a call. `reason` is a RejectionReason's value; `message` is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class NodeLink(Protocol):
    """Calls from an RPC process to its node."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the node."""
        ...

    async def call(self, method: str, params: JsonObject | None = None) -> Json:
        """The node's answer.

        Raises:
            IpcRefusedError: The node refuses the call.
            IpcError: The node cannot be reached now, or does not answer.
        """
        ...


class IpcClient:
    """Calls to the node process over its Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[JsonObject]] = {}
        self._sending = SharedTurns(SENDING_LIMIT)
        self._asking_peers = SharedTurns(PEER_LIMIT)
        self._reading = SharedTurns(READING_LIMIT)
        self._writer: asyncio.StreamWriter | None = None
        self.head: JsonObject | None = None
        """The newest head that the node announced: {"number", "hash"}; None before the first."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the node."""
        return self._writer is not None

    async def run(self) -> None:
        """Keep a connection open; runs until it is cancelled."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                self._writer = writer
                await self._receive(reader)
            except (OSError, FrameError):
                pass  # the loop connects again, and pending calls fail below
            finally:
                self._writer = None
                writer.close()
                self._fail_pending()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def call(self, method: str, params: JsonObject | None = None) -> Json:
        """The node's answer.

        Raises:
            IpcRefusedError: The node refuses the call.
            IpcError: There is no connection, it is lost, or the node is overloaded.
        """
        if self._writer is None:
            raise IpcError("the node process is not reachable")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                # The node goes on with a call although its caller leaves.
                response = await self._get_turns(method).finish(
                    lambda: asyncio.ensure_future(self._exchange(method, params or {}))
                )
        except TimeoutError as error:
            raise IpcError("the node process is busy, or does not answer") from error
        refusal = response.get("error")
        if isinstance(refusal, dict):
            raise IpcRefusedError(str(refusal.get("reason")), str(refusal.get("message")))
        return response.get("result")

    def _get_turns(self, method: str) -> SharedTurns:
        if method in SENDING_METHODS:
            return self._sending
        return self._asking_peers if method in PEER_METHODS else self._reading

    async def _exchange(self, method: str, params: JsonObject) -> JsonObject:
        """Send a request, and wait for the response.

        Raises:
            IpcError: The connection is lost.
            TimeoutError: There is no response in time.
        """
        if self._writer is None:
            raise IpcError("the connection to the node process is lost")
        request_id = next(self._ids)
        future: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        try:
            self._writer.write(
                NODE_FRAMES.encode({"id": request_id, "method": method, "params": params})
            )
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                return await future
        finally:
            del self._pending[request_id]

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader(NODE_FRAMES)
        while data := await reader.read(RECEIVE_BYTES):
            for message in frames.feed(data):
                self._on_message(message)

    def _on_message(self, message: JsonObject) -> None:
        if message.get("event") == "new_head":
            head = message.get("data")
            self.head = head if isinstance(head, dict) else None
            return
        request_id = message.get("id")
        future = self._pending.get(request_id) if isinstance(request_id, int) else None
        if future is not None and not future.done():
            future.set_result(message)

    def _fail_pending(self) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(IpcError("the connection to the node process is lost"))
