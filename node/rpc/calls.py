"""Runs calls in worker processes, so that each has a time limit (docs/spec/rpc.md, section 5).

A worker that exceeds the limit is ended by its own alarm signal, even inside native code. Workers
start when they are first needed, and end when the pipe to this process closes.
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
from node.ipc.turns import SharedTurns
from node.rpc.errors import ErrorCode, RpcError
from node.rpc.parameters import parse_data, parse_quantity
from node.rpc.worker_request import CallMethod, WorkerRequest, encode_request
from pot_common.framing import LENGTH_BYTES, NODE_FRAMES, FrameError, decode_body

WAITING_LIMIT: Final = 1_000
"""Limit of calls that run or wait for a worker; above it, calls are refused at once."""

OUTPUT_LIMIT_BYTES: Final = 2**22
"""Limit of a call's output. Memory of this size would cost more than 30 million gas."""

_log = structlog.get_logger("node.rpc")


class CallExecutor(Protocol):
    """Executes calls, which change no state."""

    async def call(
        self,
        header: Header,
        call: CallRequest,
        overrides: Mapping[Address, AccountOverride],
        *,
        is_pending: bool = False,
    ) -> bytes:
        """The output of a call on the state after the block of `header`.

        The opcodes see that block, or the block after it if `is_pending`.

        Raises:
            RpcError: 3: The call reverts. -32000: The call fails or takes too long.
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
        """A gas limit with which a call succeeds, at most 1/64 above the lowest one.

        The arguments are those of `call`.

        Raises:
            RpcError: 3: The call reverts. -32000: The call fails with the highest gas limit, or
                takes too long.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Worker:
    process: asyncio.subprocess.Process

    async def ask(self, request: WorkerRequest) -> JsonObject:
        """The worker's answer to a request.

        Raises:
            asyncio.IncompleteReadError, OSError: The worker has ended.
            FrameError: The worker broke the protocol.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(NODE_FRAMES.encode(encode_request(request)))
        await stdin.drain()
        length = NODE_FRAMES.decode_length(await stdout.readexactly(LENGTH_BYTES))
        return decode_body(await stdout.readexactly(length))

    async def end(self) -> int:
        """Kill the worker if it still runs, and return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        return await self.process.wait()


class _WorkerEndedError(Exception):
    """A worker ended before it answered."""


class CallWorkers:
    """A CallExecutor with a bounded number of worker processes."""

    def __init__(self, command: Sequence[str], *, size: int, timeout_seconds: float) -> None:
        self._command = tuple(command)
        self._timeout_seconds = timeout_seconds
        self._turns = SharedTurns(size)
        self._idle: list[_Worker] = []

    def count(self) -> int:
        """The number of calls that run in a worker or wait for one."""
        return self._turns.count()

    async def call(
        self,
        header: Header,
        call: CallRequest,
        overrides: Mapping[Address, AccountOverride],
        *,
        is_pending: bool = False,
    ) -> bytes:
        """The output of a call; see CallExecutor."""
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
        """A gas limit with which a call succeeds; see CallExecutor."""
        return parse_quantity(
            await self._request(
                CallMethod.ESTIMATE_GAS, header, call, overrides, is_pending=is_pending
            )
        )

    async def warm_up(self) -> None:
        """Start a worker before the first call, because its imports take a second or two."""
        self._idle.append(await self._start())

    async def close(self) -> None:
        """End the idle workers. Call this only when no call runs."""
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
        if self._turns.count() >= WAITING_LIMIT:
            raise RpcError(ErrorCode.LIMIT_EXCEEDED, "too many calls at a time: try again later")
        request = WorkerRequest(
            method, header.number, is_pending, call, overrides, self._timeout_seconds
        )
        # If the client disconnects, the call still runs to its end: a new worker would cost more.
        response = await self._turns.finish(
            lambda: asyncio.ensure_future(self._ask_worker(request))
        )
        error = response.get("error")
        if isinstance(error, dict):
            code, message = error.get("code"), error.get("message")
            assert isinstance(code, int)
            raise RpcError(ErrorCode(code), str(message), error.get("data"))
        return response.get("result")

    async def _ask_worker(self, request: WorkerRequest) -> JsonObject:
        if self._idle:
            try:
                return await self._ask(self._idle.pop(), request)
            except _WorkerEndedError:
                # It may have ended while it was idle, so a new one is asked. A request that ends
                # workers ends no more than these two.
                pass
        try:
            return await self._ask(await self._start(), request)
        except _WorkerEndedError as error:
            raise RpcError(ErrorCode.INTERNAL, "the call could not be executed") from error

    async def _ask(self, worker: _Worker, request: WorkerRequest) -> JsonObject:
        """The answer of a worker, which is then idle again. Without an answer, it is ended."""
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
