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
from pot_common.framing import NODE_FRAMES, FrameError, FrameReader

CALL_TIMEOUT_SECONDS: Final = 10.0
"""Limit for an answer. The node answers from memory, so only an overloaded or stuck node is
slower."""

RECONNECT_SECONDS: Final = 0.2
"""Pause between two attempts to connect. It is short, because an RPC process ends with its node and
so waits only for the node's start."""

MAX_PENDING: Final = 256
"""Limit of unanswered calls: the server handles as many at the same time, so more would only
wait."""

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
        if len(self._pending) >= MAX_PENDING:
            raise IpcError("the node process is busy")
        request_id = next(self._ids)
        future: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        try:
            self._writer.write(
                NODE_FRAMES.encode({"id": request_id, "method": method, "params": params or {}})
            )
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                response = await future
        except TimeoutError as error:
            raise IpcError("the node process does not answer") from error
        finally:
            del self._pending[request_id]
        refusal = response.get("error")
        if isinstance(refusal, dict):
            raise IpcRefusedError(str(refusal.get("reason")), str(refusal.get("message")))
        return response.get("result")

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
