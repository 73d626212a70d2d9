"""The RPC process's end of the socket (docs/spec/rpc.md, section 7).

asyncio. Reconnects for ever; while there is no connection, every call fails at once.
"""

import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import Final, Protocol

from chain.json_types import Json, JsonObject
from pot_common.framing import NODE_FRAMES, FrameError, FrameReader

CALL_TIMEOUT_SECONDS: Final = 10.0
"""The node answers from memory; it takes longer only when it is overloaded or stuck."""

RECONNECT_SECONDS: Final = 0.2
"""The node restarts the RPC process with itself, so this bridges its own start only."""

MAX_PENDING: Final = 256
"""As many as the server takes at a time: more would only wait."""

RECEIVE_BYTES: Final = 2**16
"""What one read asks the socket for."""


class IpcError(Exception):
    """The node cannot be asked now."""


class IpcRefusedError(Exception):
    """The node refused: `reason` is a RejectionReason's value, `message` is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class NodeLink(Protocol):
    """How the RPC process asks its node."""

    @property
    def is_connected(self) -> bool:
        """Whether the node is there."""
        ...

    async def call(self, method: str, params: JsonObject | None = None) -> Json:
        """The node's answer.

        Raises:
            IpcRefusedError: The node refused.
            IpcError: It cannot be asked now.
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
        """Whether the node is there."""
        return self._writer is not None

    async def run(self) -> None:
        """Keep a connection open until cancelled."""
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
                pass  # the loop connects again, and whoever waits is told below
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
            IpcRefusedError: The node refused.
            IpcError: There is no connection, it was lost, or the node is overloaded.
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
                future.set_exception(IpcError("the node process went away"))
