"""What clients asked of the network and were told, each with when it was asked and answered."""

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
    """Infinite: never answered, so it may have taken effect at any later time, or not at all."""
    result: Result | None = None
    """None without an answer, or where an action has none."""

    @property
    def is_open(self) -> bool:
        """Whether it was never answered."""
        return math.isinf(self.completed)
