"""The operations of clients, with their answers and the times of both."""

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Operation(Generic[Result]):
    """One call of one client; times are seconds of one monotonic clock."""

    client: int
    action: tuple[object, ...]
    """The verb and its arguments, as a model understands them."""
    invoked: float
    completed: float = math.inf
    """The time of the answer; infinite if there was none.

    An operation without an answer took effect at some later time, or not at all.
    """
    result: Result | None = None
    """None if there was no answer, or if the action returns nothing."""

    @property
    def is_open(self) -> bool:
        """Whether it was never answered."""
        return math.isinf(self.completed)
