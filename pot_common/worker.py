"""What a worker process is made of: requests, limits and the loop that answers.

A node starts a worker, writes requests to its standard input and reads answers from its standard
output (pot_common/framing.py). Large data is passed as paths. The worker limits its own memory: a
request that needs more ends the worker, not the node, and the node starts another. It ends when its
input ends.
"""

import os
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import from_plain_hex
from chain.json_types import Json, JsonObject
from pot_common.framing import WORKER_ANSWERS, WORKER_QUESTIONS

MAX_OPEN_FILES: Final = 256
"""More than Python, torch and the input and output files of one request need."""

PROCESS_STATUS: Final = Path("/proc/self/status")
"""Where Linux describes the process that reads it."""

STDOUT: Final = 1
"""The file descriptor of standard output, to which libraries print, C++ ones included."""

FILES_FAULT: Final = "files_fault"
"""The `error` of an answer if a file of the request could not be read or written. The node gave the
worker that file, so the fault is the node's, and says nothing about the content of the request."""

DETAIL_LIMIT: Final = 400
"""The most characters of the `detail` of an answer. Messages of libraries may repeat what strangers
wrote into a file, and an answer that does not fit into its frame would end the worker."""

MACHINE_STATUS: Final = 78
"""The exit status of a worker that cannot work on this machine, for example because its device is
gone: EX_CONFIG of sysexits.h."""

Answer = Mapping[str, Json]
"""The members of an answer without its id."""


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """One request, or an object in it; a member is checked when it is read."""

    members: JsonObject

    def text(self, key: str) -> str:
        """The string `key`."""
        value = self.members.get(key)
        if not isinstance(value, str):
            raise bad_request(f"{key} must be a string")
        return value

    def integer(self, key: str) -> int:
        """The integer `key`, not negative."""
        value = self.members.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
            raise bad_request(f"{key} must be an integer from 0 to 2**64 - 1")
        return value

    def path(self, key: str) -> Path:
        """The path `key`."""
        return Path(self.text(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """The array of strings `key`."""
        value = self.members.get(key)
        texts = [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
        if texts != value:
            raise bad_request(f"{key} must be an array of strings")
        return tuple(texts)

    def paths(self, key: str) -> tuple[Path, ...]:
        """The array of paths `key`."""
        return tuple(map(Path, self.texts(key)))

    def digest(self, key: str, byte_count: int) -> bytes:
        """The hexadecimal bytes `key`."""
        try:
            value = from_plain_hex(self.text(key))
        except ValueError as error:
            raise bad_request(f"{key} must be hexadecimal") from error
        if len(value) != byte_count:
            raise bad_request(f"{key} must be {byte_count} bytes")
        return value

    def child(self, key: str) -> "WorkerRequest":
        """The object `key`."""
        value = self.members.get(key)
        if not isinstance(value, dict):
            raise bad_request(f"{key} must be an object")
        return WorkerRequest(value)

    def children(self, key: str) -> tuple["WorkerRequest", ...]:
        """The array of objects `key`."""
        value = self.members.get(key)
        found = (
            [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
        )
        if found != value:
            raise bad_request(f"{key} must be an array of objects")
        return tuple(WorkerRequest(item) for item in found)


def bad_request(problem: str) -> RejectedInputError:
    """The refusal of a request that the node has made wrongly."""
    return RejectedInputError(RejectionReason.MALFORMED, problem)


def serve(answer: Callable[[WorkerRequest], Answer], questions: BinaryIO, out: BinaryIO) -> None:
    """Answer questions until their stream ends.

    An answer has the request's `id`. If the request or its files break a rule, or a file cannot be
    read, it has `error` and `detail` and nothing else.

    Raises:
        FrameError: A frame breaks the protocol; the node that wrote it is at fault.
    """
    while (members := WORKER_QUESTIONS.read(questions)) is not None:
        try:
            given = answer(WorkerRequest(members))
        except RejectedInputError as refusal:
            given = {"error": refusal.reason.value, "detail": refusal.detail[:DETAIL_LIMIT]}
        except OSError as error:
            given = {"error": FILES_FAULT, "detail": str(error)[:DETAIL_LIMIT]}
        out.write(WORKER_ANSWERS.encode({"id": members.get("id"), **given}))
        out.flush()


def limit_process(memory_bytes: int) -> None:
    """Limit the memory and the open files of this process, and turn off core dumps.

    The limit is RLIMIT_DATA: RLIMIT_AS counts address space that CUDA and allocators only reserve.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def get_peak_memory_bytes() -> int:
    """The most memory that this process has had in use."""
    # Linux hands the peak that getrusage reports down from the parent, which may be a large node.
    with suppress(FileNotFoundError):
        for line in PROCESS_STATUS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return int(value.removesuffix("kB")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def claim_stdout() -> BinaryIO:
    """Return a stream to the parent process, and send all later prints to standard error."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(STDOUT), "wb")
    os.dup2(sys.stderr.fileno(), STDOUT)
    return stream
