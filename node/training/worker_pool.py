"""Pools of worker processes for the heavy work on tasks (docs/adr/0008).

A task that exhausts memory, hangs or crashes kills a worker, but not the node. Workers are started
when they are needed, and replaced when they die. Work of live rounds and dry runs of new tasks have
pools of their own, so that neither waits for the other.
"""

import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from chain.json_types import Json, JsonObject
from node.training.turns import Turn, Turns
from pot_common.framing import (
    LENGTH_BYTES,
    WORKER_ANSWERS,
    WORKER_QUESTIONS,
    FrameError,
    decode_body,
)
from pot_common.worker import FILES_FAULT, MACHINE_STATUS

END_SECONDS: Final = 30.0
"""How long a worker that closed its output is given to end. Whose fault it was follows from its
status, and unloading torch takes seconds of processor time, at the lowest priority."""

LOWEST_PRIORITY: Final = "pot_common.lowest_priority"
"""The module that runs another one at the lowest priority."""

_MACHINE_ENDS: Final = (-signal.SIGKILL, -signal.SIGTERM, MACHINE_STATUS)
"""How workers end that this node did not end, and that did not end themselves."""

_log = structlog.get_logger("node.training")


class WorkerFailedError(Exception):
    """A worker died or took too long; the request may be repeated."""


class WorkerStalledError(WorkerFailedError):
    """A worker did not get the processor time that its request may take: the fault of this node."""


class WorkerFilesError(WorkerFailedError):
    """A worker could not read or write a file that this node gave it: the fault of this node."""


class WorkerKilledError(WorkerFailedError):
    """Another process killed a worker, or it cannot work on this machine: the fault of this node.

    The kernel kills a worker when the machine has no memory left. A worker that reaches its own
    limit of memory ends by itself.
    """


class WorkerRefusedError(Exception):
    """A worker refused a request, because its content breaks a rule; `reason` says which."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What the workers of a pool run, and their limits."""

    command: tuple[str, ...]
    """The arguments of Python: a module and its options."""
    count: int = 1
    timeout_seconds: float = 120.0
    """The limit of one request, unless the request has its own."""
    patience: int = 1
    """How many times its limit a request may take by the clock. If more than 1, the limit is one of
    processor time: on a busy machine a worker of the lowest priority hardly runs."""
    is_reused: bool = True
    """Whether a worker answers more than one request. If not, what it measures of itself, such as
    its peak of memory, belongs to one request."""
    is_background: bool = False
    """Whether a worker runs at the lowest priority, its start included."""


class WorkerPool:
    """Sends requests to workers, one at a time to each."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._idle: list[tuple[trio.Process, Turn]] = []
        """With the turn that each had last."""
        self._turns = Turns(settings.count)

    @property
    def count(self) -> int:
        """The most workers of the pool."""
        return self._settings.count

    @property
    def timeout_seconds(self) -> float:
        """The limit of a request that has no other."""
        return self._settings.timeout_seconds

    async def warm_up(self) -> None:
        """Start one worker before the first request: importing its libraries takes seconds."""
        turn = Turn()
        async with self._turns.take(turn), self._worker(turn):
            pass

    async def ask(
        self,
        kind: str,
        members: Mapping[str, Json],
        turn: Turn,
        *,
        timeout_seconds: float | None = None,
    ) -> JsonObject:
        """The worker's answer to a request (the worker's module lists the requests).

        Args:
            kind: The kind of the request.
            members: Its other members.
            turn: What the request belongs to.
            timeout_seconds: The limit of this request; None for that of the pool. It is processor
                time if the pool has patience.

        Raises:
            WorkerRefusedError: The content of the request breaks a rule.
            WorkerStalledError: The worker had not taken its processor time when patience ended.
            WorkerFilesError: The worker could not read or write a file of this node.
            WorkerKilledError: Another process killed the worker, or it cannot work here.
            WorkerFailedError: The worker died or took too long.
            WorkOverError: The answer was not wanted any more before a worker was free.
        """
        limit = self._settings.timeout_seconds if timeout_seconds is None else timeout_seconds
        patience = self._settings.patience
        bound: JsonObject = (
            {"processor_milliseconds": math.ceil(1_000 * limit)} if patience > 1 else {}
        )
        question = WORKER_QUESTIONS.encode({"id": 0, "kind": kind, **members, **bound})
        async with self._turns.take(turn), self._worker(turn) as process:
            answer: JsonObject = {}
            try:
                with trio.fail_after(patience * limit):
                    answer = await _exchange(process, question)
            except trio.TooSlowError as error:
                if patience > 1:
                    raise WorkerStalledError(
                        f"no answer to {kind} in {patience * limit:g} s, in which the worker took "
                        f"less than {limit:g} s of processor time"
                    ) from error
                raise WorkerFailedError(f"no answer to {kind} in {limit:g} s") from error
            except FrameError as error:
                problem = f"the worker's answer to {kind} breaks the protocol"
                raise WorkerFailedError(problem) from error
            except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError) as error:
                end = await _describe_end(process)
                is_killed = process.returncode in _MACHINE_ENDS
                failure = WorkerKilledError if is_killed else WorkerFailedError
                raise failure(f"the worker ended during {kind}: {end}") from error
        if answer.get("error") == FILES_FAULT:
            raise WorkerFilesError(f"a file of this node fails: {answer.get('detail', '')}")
        if "error" in answer:
            raise WorkerRefusedError(str(answer["error"]), str(answer.get("detail", "")))
        return answer

    @asynccontextmanager
    async def _worker(self, turn: Turn) -> AsyncIterator[trio.Process]:
        """An idle or new worker. It is idle again afterwards, but killed after an exception."""
        process = self._take_idle(turn) if self._idle else await self._start()
        try:
            yield process
        except BaseException:
            await _end(process)
            raise
        if self._settings.is_reused:
            self._idle.append((process, turn))
        else:
            await _end(process)

    def _take_idle(self, turn: Turn) -> trio.Process:
        """The worker that still has open what the work needs: it had the last piece of the work.

        Else one that worked for the same promise, or the one that worked last.
        """

        def rate(index: int) -> tuple[bool, bool, int]:
            last = self._idle[index][1]
            is_same = last.promise == turn.promise
            return is_same and last.place == turn.place, is_same, index

        return self._idle.pop(max(range(len(self._idle)), key=rate))[0]

    async def _start(self) -> trio.Process:
        _log.info("worker starts", module=self._settings.command[0])
        launcher = ("-m", LOWEST_PRIORITY) if self._settings.is_background else ("-m",)
        return await trio.lowlevel.open_process(
            [sys.executable, *launcher, *self._settings.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    async def aclose(self) -> None:
        """Kill the idle workers."""
        while self._idle:
            await _end(self._idle.pop()[0])


@dataclass(frozen=True, slots=True)
class Workers:
    """The pools of a node, by what they work for."""

    checks: WorkerPool
    """Re-executes gradients of live rounds, and evaluates their models."""
    dry_runs: WorkerPool
    """Dry-runs new tasks, at the lowest priority."""
    aggregator: WorkerPool
    """Computes the training states of live rounds."""

    async def aclose(self) -> None:
        """Kill the idle workers."""
        for pool in (self.checks, self.dry_runs, self.aggregator):
            await pool.aclose()


async def _end(process: trio.Process) -> None:
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()


async def _exchange(process: trio.Process, question: bytes) -> JsonObject:
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.send_all(question)
    prefix = await _receive_exactly(process.stdout, LENGTH_BYTES)
    length = WORKER_ANSWERS.decode_length(prefix)
    return decode_body(await _receive_exactly(process.stdout, length))


async def _describe_end(process: trio.Process) -> str:
    """How a worker ended that closed its output without an answer."""
    with trio.move_on_after(END_SECONDS):
        await process.wait()
    match process.returncode:
        case None:
            return f"it closed its output, but has not ended after {END_SECONDS:g} s"
        case status if status == -signal.SIGPROF:
            return "it took too much processor time"
        case status if status in (-signal.SIGKILL, -signal.SIGTERM):
            return "another process killed it, or the kernel, for lack of memory"
        case status:
            return f"status {status}; its own log line says why"


async def _receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
