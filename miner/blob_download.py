"""The download of one blob from nodes that may be slow (docs/spec/rpc.md, section 9).

While no node sends fast enough, the next one is asked beside it.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

import httpx

from miner.nodes import SLOW_SECONDS

DOWNLOADS_LIMIT: Final = 2
"""The most nodes that send one blob at once. They share the miner's line, which may be slow."""

MEASURED_LOOKS: Final = 3
"""The rate of a node is that of the time of so many looks, since it is never even."""

COMPARED_SECONDS: Final = MEASURED_LOOKS * SLOW_SECONDS
"""After so long, the slower of two nodes that are both too slow makes place for a further one."""


class _Stream:
    """What one node has sent."""

    def __init__(self, byte_count: int) -> None:
        self.data = bytearray()
        self.is_over = False
        """Whether nobody waits for it any more."""
        self.began = time.monotonic()
        self._byte_count = byte_count
        self._seen = deque([(self.began, 0)], MEASURED_LOOKS + 1)
        """When it was looked at last, and the bytes that were there."""

    def look(self, now: float) -> None:
        """Note how much is there now."""
        self._seen.append((now, len(self.data)))

    @property
    def rate(self) -> float:
        """Bytes a second in the time of the last looks."""
        (first, before), (last, received) = self._seen[0], self._seen[-1]
        return (received - before) / (last - first) if last > first else 0.0

    @property
    def seconds_left(self) -> float:
        """How long the rest of the blob takes at this rate."""
        return (self._byte_count - self._seen[-1][1]) / self.rate if self.rate else math.inf


class BlobDownload:
    """Nodes that are asked for one blob until the caller has it."""

    def __init__(
        self,
        urls: Sequence[str],
        open_stream: Callable[[str], AbstractContextManager[Iterator[bytes]]],
        byte_count: int,
        least_rate: float,
    ) -> None:
        """Make a download.

        Args:
            urls: The nodes, in the order in which they are asked.
            open_stream: The blob as a node sends it.
            byte_count: The size of the blob.
            least_rate: A node that sends fewer bytes a second gets another one beside it.
        """
        self._rest = list(urls)
        self._open_stream = open_stream
        self._byte_count = byte_count
        self._least_rate = least_rate
        self._answers: SimpleQueue[tuple[str, bytes | BaseException]] = SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._given_up: set[str] = set()
        self._lacking: set[str] = set()

    @property
    def overtaken(self) -> list[str]:
        """The nodes that were asked and have not sent all."""
        return sorted({*self._streams, *self._given_up})

    def receive(self) -> Generator[tuple[str, bytes | BaseException], None, None]:
        """What nodes send, as it is complete, or why they do not, until all have failed.

        A node without the blob is asked again while another one is slow: it may just compute it.
        """
        look_at = 0.0
        try:
            while self._streams or any(each not in self._lacking for each in self._rest):
                now = time.monotonic()
                if not self._streams or now >= look_at:
                    self._look(now)
                    look_at = now + SLOW_SECONDS
                try:
                    url, answer = self._answers.get(timeout=max(0.0, look_at - now))
                except Empty:
                    continue
                if self._streams.pop(url, None) is None:
                    continue
                if isinstance(answer, httpx.HTTPStatusError):
                    self._lacking.add(url)
                    self._rest.append(url)
                yield url, answer
        finally:
            for each in self._streams.values():
                each.is_over = True

    def _look(self, now: float) -> None:
        """Ask the next node if no node sends fast enough."""
        for each in self._streams.values():
            each.look(now)
        if not self._rest or any(each.rate >= self._least_rate for each in self._streams.values()):
            return
        if len(self._streams) >= DOWNLOADS_LIMIT:
            if any(now - each.began < COMPARED_SECONDS for each in self._streams.values()):
                return
            slowest = max(self._streams, key=lambda url: self._streams[url].seconds_left)
            self._streams.pop(slowest).is_over = True
            self._given_up.add(slowest)
        self._ask(self._rest.pop(0))

    def _ask(self, url: str) -> None:
        stream = self._streams[url] = _Stream(self._byte_count)

        def fetch() -> None:
            try:
                with self._open_stream(url) as parts:
                    for part in parts:
                        stream.data += part
                        if stream.is_over:
                            return
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                self._answers.put((url, error))
            else:
                self._answers.put((url, bytes(stream.data)))

        Thread(target=fetch, daemon=True).start()
