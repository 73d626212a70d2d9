"""WorkerPool workers: separate processes that run torch (docs/adr/0008).

A task that exhausts memory, hangs or crashes kills a worker, but not the node. Workers are started
when they are needed, and replaced when they die.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from chain.json_types import Json, JsonObject
from pot_common.framing import (
    LENGTH_BYTES,
    WORKER_ANSWERS,
    WORKER_QUESTIONS,
    FrameError,
    decode_body,
)

_log = structlog.get_logger("node.training")


class WorkerFailedError(Exception):
    """A worker died or took too long; the request may be repeated."""


class WorkerRefusedError(Exception):
    """A worker refused a request, because its content breaks a rule; `reason` says which."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The operator's settings for the workers."""

    workers: int = 1
    device: str = "cpu"
    threads: int = 1
    memory_bytes: int = 4 * 2**30
    timeout_seconds: float = 120.0
    """The limit of one request; the dry run has shown that the task stays far below it."""


class WorkerPool:
    """Sends requests to workers, one at a time to each."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._idle: list[trio.Process] = []
        self._slots = trio.CapacityLimiter(settings.workers)

    async def warm_up(self) -> None:
        """Start one worker before the first request: importing torch takes seconds."""
        async with self._slots, self._worker():
            pass

    async def ask(self, kind: str, members: Mapping[str, Json]) -> JsonObject:
        """The worker's answer to a request (miner/verify.py lists the requests).

        Raises:
            WorkerRefusedError: The content of the request breaks a rule.
            WorkerFailedError: The worker died or took too long.
        """
        question = WORKER_QUESTIONS.encode({"id": 0, "kind": kind, **members})
        async with self._slots, self._worker() as process:
            answer: JsonObject = {}
            try:
                with trio.fail_after(self._settings.timeout_seconds):
                    answer = await _exchange(process, question)
            except trio.TooSlowError as error:
                limit = self._settings.timeout_seconds
                raise WorkerFailedError(f"no answer to {kind} in {limit:g} s") from error
            except (
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                EOFError,
                FrameError,
            ) as error:
                raise WorkerFailedError(f"the worker ended during {kind}: {error!r}") from error
        if "error" in answer:
            raise WorkerRefusedError(str(answer["error"]), str(answer.get("detail", "")))
        return answer

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[trio.Process]:
        """An idle or new worker. It is idle again afterwards, but killed after an exception."""
        process = self._idle.pop() if self._idle else await self._start()
        try:
            yield process
        except BaseException:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            raise
        self._idle.append(process)

    async def _start(self) -> trio.Process:
        settings = self._settings
        options = {
            "--device": settings.device,
            "--threads": str(settings.threads),
            "--memory-bytes": str(settings.memory_bytes),
        }
        command = [sys.executable, "-m", "miner.verify"]
        command.extend(part for option in options.items() for part in option)
        _log.info("verifier worker starts", device=settings.device)
        return await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    async def aclose(self) -> None:
        """Kill the idle workers."""
        while self._idle:
            process = self._idle.pop()
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


async def _receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
