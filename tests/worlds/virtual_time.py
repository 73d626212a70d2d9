"""Time that passes only while every thread of a test waits for it, so that no test needs luck."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty
from threading import Condition
from threading import Thread as RealThread
from typing import Generic, TypeVar

import pytest

T = TypeVar("T")


class _Sleeper:
    def __init__(self, wake_at: float, queue: object) -> None:
        self.wake_at = wake_at
        self.queue = queue
        self.is_woken = False


class VirtualTime:
    """A clock, and the threads and queues that use it.

    One thread is there at the beginning, the one of the test. As soon as all threads sleep or wait
    for a queue, the time moves to the earliest moment for which one of them waits.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, modules: Sequence[str]) -> None:
        """Give modules this time, and `Thread` and `SimpleQueue` that know of it."""
        self.seconds = 1_000.0
        self._condition = Condition()
        self._running = 1
        self._sleepers: list[_Sleeper] = []
        virtual = self

        class Thread:
            def __init__(self, target: Callable[[], None], *, daemon: bool) -> None:
                self._target = target

            def start(self) -> None:
                with virtual._condition:
                    virtual._running += 1
                RealThread(target=self._run, daemon=True).start()

            def _run(self) -> None:
                try:
                    self._target()
                finally:
                    with virtual._condition:
                        virtual._leave()

        class SimpleQueue(Generic[T]):
            def __init__(self) -> None:
                self._items: deque[T] = deque()

            def put(self, item: T) -> None:
                with virtual._condition:
                    self._items.append(item)
                    for each in virtual._sleepers:
                        if each.queue is self:
                            virtual._wake(each)
                            break

            def get(self, timeout: float | None = None) -> T:
                with virtual._condition:
                    if not self._items:
                        seconds = math.inf if timeout is None else timeout
                        virtual._wait(_Sleeper(virtual.seconds + seconds, self))
                    if not self._items:
                        raise Empty
                    return self._items.popleft()

        for module in modules:
            monkeypatch.setattr(f"{module}.Thread", Thread)
            monkeypatch.setattr(f"{module}.SimpleQueue", SimpleQueue)
        monkeypatch.setattr(time, "monotonic", lambda: self.seconds)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let a thread wait, for a moment at least, so that a loop of pauses comes to an end."""
        with self._condition:
            self._wait(_Sleeper(self.seconds + max(seconds, 0.01), None))

    def _wait(self, sleeper: _Sleeper) -> None:
        self._sleepers.append(sleeper)
        self._leave()
        while not sleeper.is_woken:
            self._condition.wait()

    def _leave(self) -> None:
        """Move the time if no thread runs any more."""
        self._running -= 1
        if self._running == 0 and self._sleepers:
            first = min(self._sleepers, key=lambda each: each.wake_at)
            assert first.wake_at < math.inf, "all threads wait for each other"
            self.seconds = max(self.seconds, first.wake_at)
            self._wake(first)

    def _wake(self, sleeper: _Sleeper) -> None:
        self._sleepers.remove(sleeper)
        sleeper.is_woken = True
        self._running += 1
        self._condition.notify_all()
