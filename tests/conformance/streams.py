"""A stream in memory whose sent bytes are recorded."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from node.network.stream import FrameStream, PeerId, StreamClosedError

PEER = PeerId("12D3KooW" + "A" * 44)


class Recording:
    """A byte stream that returns prepared bytes and records sent ones."""

    def __init__(self, received: bytes) -> None:
        self.sent = b""
        self._received = received

    async def receive_some(self, max_bytes: int) -> bytes:
        data, self._received = self._received[:max_bytes], self._received[max_bytes:]
        return data

    async def send_all(self, data: bytes) -> None:
        self.sent += data

    async def close(self) -> None:
        self.sent += b"closed"

    async def reset(self) -> None:
        self.sent += b"reset"


def frame(payload: bytes) -> bytes:
    """A frame as a peer sends it (docs/spec/wire.md, section 1)."""
    return len(payload).to_bytes(4, "big") + payload


def record(talk: Callable[[FrameStream], Awaitable[object]], *received: bytes) -> bytes:
    """The bytes that one side sends while it receives these frames, until the stream ends."""
    recording = Recording(b"".join(map(frame, received)))

    async def run() -> None:
        try:
            await talk(FrameStream(recording, PEER))
        except StreamClosedError:
            return

    with in_one_thread():
        trio.run(run)
    return recording.sent


@contextmanager
def in_one_thread() -> Iterator[None]:
    """Run the work of threads in this thread, where its calls are noted."""

    async def run_here(work: Callable[..., object], *arguments: object, **_: object) -> object:
        return work(*arguments)

    original = trio.to_thread.run_sync
    trio.to_thread.run_sync = run_here
    try:
        yield
    finally:
        trio.to_thread.run_sync = original


@contextmanager
def new_directory() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def read_directory(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by its path."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}
