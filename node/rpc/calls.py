"""Calls run in worker processes, so that one of them costs at most its time (docs/spec/rpc.md, 5).

A worker that is past its time is ended by its own alarm, wherever it is. Workers start when they
are first needed, and end with the pipe to this process.
"""

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from chain.execution.call_values import AccountOverride, CallRequest
from chain.json_types import Json, JsonObject
from chain.primitives import Address
from chain.types.header import Header
from node.rpc.errors import ErrorCode, RpcError
from node.rpc.parameters import parse_data, parse_quantity
from node.rpc.worker_request import CallMethod, WorkerRequest, encode_request
from pot_common.framing import LENGTH_BYTES, NODE_FRAMES, FrameError, decode_body

WAITING_LIMIT: Final = 1_000
"""Calls that wait for a worker; what is past it is refused at once."""

OUTPUT_LIMIT_BYTES: Final = 2**22
"""What a call may return: 30 M gas of memory is less."""

_log = structlog.get_logger("node.rpc")


class CallExecutor(Protocol):
    """Executes what is not a transaction."""

    async def call(
        self,
        header: Header,
        call: CallRequest,
        overrides: Mapping[Address, AccountOverride],
        *,
        is_pending: bool = False,
    ) -> bytes:
        """What the call returns on the state after the block of `header`.

        The opcodes see that block, or the one after it if `is_pending`.

        Raises:
            RpcError: 3 if it reverted, -32000 if it failed or took too long.
        """
        ...

    async def estimate_gas(
        self,
        header: Header,
        call: CallRequest,
        overrides: Mapping[Address, AccountOverride],
        *,
        is_pending: bool = False,
    ) -> int:
        """The least gas limit, to within 1.5 %, with which the call succeeds where `call` would.

        Raises:
            RpcError: 3 if it reverts, -32000 if it fails with all the gas there is.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Worker:
    process: asyncio.subprocess.Process

    async def ask(self, request: WorkerRequest) -> JsonObject:
        """The worker's answer.

        Raises:
            asyncio.IncompleteReadError, OSError: it ended.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(NODE_FRAMES.encode(encode_request(request)))
        await stdin.drain()
        length = NODE_FRAMES.decode_length(await stdout.readexactly(LENGTH_BYTES))
        return decode_body(await stdout.readexactly(length))

    async def end(self) -> int:
        """Kill it, if it still runs; its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        return await self.process.wait()


class _WorkerEndedError(Exception):
    """A worker ended instead of answering."""


class CallWorkers:
    """A bounded pool of workers: the CallExecutor of the service."""

    def __init__(self, command: Sequence[str], *, size: int, timeout_seconds: float) -> None:
        self._command = tuple(command)
        self._timeout_seconds = timeout_seconds
        self._free = asyncio.Semaphore(size)
        self._idle: list[_Worker] = []
        self._waiting = 0

    def count(self) -> int:
        """Calls in a worker or waiting for one."""
        return self._waiting

    async def call(
        self,
        header: Header,
        call: CallRequest,
        overrides: Mapping[Address, AccountOverride],
        *,
        is_pending: bool = False,
    ) -> bytes:
        """See CallExecutor."""
        output = await self._request(
            CallMethod.CALL, header, call, overrides, is_pending=is_pending
        )
        return parse_data(output, limit_bytes=OUTPUT_LIMIT_BYTES)

    async def estimate_gas(
        self,
        header: Header,
        call: CallRequest,
        overrides: Mapping[Address, AccountOverride],
        *,
        is_pending: bool = False,
    ) -> int:
        """See CallExecutor."""
        return parse_quantity(
            await self._request(
                CallMethod.ESTIMATE_GAS, header, call, overrides, is_pending=is_pending
            )
        )

    async def warm_up(self) -> None:
        """Start a worker before somebody waits for it: its imports take a second or two."""
        self._idle.append(await self._start())

    async def close(self) -> None:
        """End the idle workers; only when no call runs."""
        workers, self._idle = self._idle, []
        for worker in workers:
            await worker.end()

    async def _request(
        self,
        method: CallMethod,
        header: Header,
        call: CallRequest,
        overrides: Mapping[Address, AccountOverride],
        *,
        is_pending: bool,
    ) -> Json:
        if self._waiting >= WAITING_LIMIT:
            raise RpcError(ErrorCode.LIMIT_EXCEEDED, "too many calls at a time: try again later")
        self._waiting += 1
        try:
            await self._free.acquire()
        except asyncio.CancelledError:
            self._waiting -= 1
            raise
        asked = asyncio.ensure_future(
            self._ask_worker(
                WorkerRequest(
                    method, header.number, is_pending, call, overrides, self._timeout_seconds
                )
            )
        )
        asked.add_done_callback(self._free_place)
        # Who asked may go away; the worker ends its call, for a new worker costs more than that.
        response = await asyncio.shield(asked)
        error = response.get("error")
        if isinstance(error, dict):
            code, message = error.get("code"), error.get("message")
            assert isinstance(code, int)
            raise RpcError(ErrorCode(code), str(message), error.get("data"))
        return response.get("result")

    def _free_place(self, _asked: asyncio.Future[JsonObject]) -> None:
        self._waiting -= 1
        self._free.release()

    async def _ask_worker(self, request: WorkerRequest) -> JsonObject:
        while self._idle:
            try:
                return await self._ask(self._idle.pop(), request)
            except _WorkerEndedError:
                continue  # it may have ended while it was idle; a new one decides
        try:
            return await self._ask(await self._start(), request)
        except _WorkerEndedError as error:
            raise RpcError(ErrorCode.INTERNAL, "the call could not be executed") from error

    async def _ask(self, worker: _Worker, request: WorkerRequest) -> JsonObject:
        """A worker's answer, after which it is idle; it is ended if it gives none."""
        answered = False
        try:
            response = await worker.ask(request)
            answered = True
        except (asyncio.IncompleteReadError, OSError, FrameError) as error:
            status = await worker.process.wait() if not isinstance(error, FrameError) else 0
            if status == -signal.SIGALRM:
                raise RpcError(
                    ErrorCode.INVALID_INPUT,
                    f"execution aborted (timeout = {self._timeout_seconds:g}s)",
                ) from error
            _log.error("call worker ended", status=status, request=request.method)
            raise _WorkerEndedError from error
        finally:
            if answered:
                self._idle.append(worker)
            else:
                await worker.end()
        return response

    async def _start(self) -> _Worker:
        return _Worker(
            await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )
