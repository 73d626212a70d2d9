"""The memory that requests and answers take, shared by address (docs/spec/rpc.md, section 4).

A request costs a client a few bytes, and its answer stays in memory until the client reads it. So
what all requests hold together has a limit, and a client that needs room takes it from the address
that holds the most.
"""

from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

HELD_LIMIT_BYTES: Final = 256 * 2**20
"""The most that all requests hold together. Five of the largest batches fit."""


class NoRoomError(Exception):
    """There is no room, and no address holds more than this one."""

    def __init__(self) -> None:
        super().__init__("too many bytes of requests and unread answers: ask for less at a time")


class Holding:
    """What one request holds: its body, the values in it, and its answer."""

    def __init__(self, held: "HeldBytes", client: str, end: Callable[[], None]) -> None:
        self._held = held
        self.client = client
        self._end = end
        self.is_ended = False
        """Whether another client needed the room."""
        self.size_bytes = 0

    def end(self) -> None:
        """End the request, because another client needs the room."""
        self.is_ended = True
        self._end()

    def resize(self, size_bytes: int) -> None:
        """Hold so many bytes in all.

        Raises:
            NoRoomError: There is no room. The holding stays as it was.
        """
        self._held.resize(self, size_bytes)

    def add(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            NoRoomError: There is no room. The holding stays as it was.
        """
        self._held.resize(self, self.size_bytes + count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.release(self)


class HeldBytes:
    """The bytes that all requests of a process hold."""

    def __init__(self, limit_bytes: int = HELD_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._holdings: dict[Holding, None] = {}

    @property
    def total(self) -> int:
        """The bytes that are held now."""
        return sum(each.size_bytes for each in self._holdings)

    def open(self, client: str, end: Callable[[], None] = lambda: None) -> Holding:
        """An empty holding, which is released at the end of its `with` statement.

        Args:
            client: The address that holds it.
            end: Ends the request.
        """
        return Holding(self, client, end)

    def resize(self, holding: Holding, size_bytes: int) -> None:
        """Change what a request holds, and end larger ones if they leave no room.

        Raises:
            NoRoomError: There is no room, and no address holds more than this one.
        """
        if holding.is_ended:
            raise NoRoomError
        while self.total - holding.size_bytes + size_bytes > self._limit:
            victim = self._choose(holding, size_bytes)
            self.release(victim)
            victim.end()
        holding.size_bytes = size_bytes
        self._holdings[holding] = None

    def release(self, holding: Holding) -> None:
        """Hold nothing any more."""
        self._holdings.pop(holding, None)
        holding.size_bytes = 0

    def _choose(self, holding: Holding, size_bytes: int) -> Holding:
        """The largest request of the address that holds the most."""
        sums = Counter({holding.client: size_bytes - holding.size_bytes})
        for each in self._holdings:
            sums[each.client] += each.size_bytes
        most = max(sums.values())
        if sums[holding.client] == most:
            raise NoRoomError
        crowded = [each for each in self._holdings if sums[each.client] == most]
        return max(crowded, key=lambda each: each.size_bytes)
