"""Checks whether one order of the operations, within their times, explains every answer.

This is Wing and Gong's search (JPDC 1993) with Lowe's memory of tried positions (CCPE 2017). Take
an operation that began before any other was answered, compare its answer with the model's, and
continue with the rest. Go back if that fails. Never continue twice from the same state with the
same operations left.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from tests.chaos.history import Operation

State = TypeVar("State", bound=Hashable)

Step = Callable[[State, Operation[object]], "tuple[bool, State]"]
"""Whether the model gives the operation's answer in a state, and the state that follows."""

SEARCH_LIMIT: Final = 2_000_000
"""The most positions that are tried, which takes a minute.

A history of six clients needs a small multiple of its length.
"""


class Undecided(Exception):
    """The search was given up: the history may be linearizable or not."""


@dataclass(frozen=True, slots=True)
class Model(Generic[State]):
    """The model of an object: its first state, and its answer to each operation in a state."""

    initial: State
    step: Step[State]


def find_violation(
    history: Sequence[Operation[object]], model: Model[State], *, limit: int = SEARCH_LIMIT
) -> tuple[Operation[object], ...] | None:
    """The operations that remain after the longest order found; None if a full order exists.

    Raises:
        Undecided: more than `limit` positions would have to be tried.
    """
    operations = sorted(history, key=lambda operation: operation.invoked)
    answered = sum(1 << i for i, operation in enumerate(operations) if not operation.is_open)
    tried: set[tuple[int, State]] = set()
    best = 0
    stack: list[tuple[int, State, Iterator[int]]] = [
        (0, model.initial, _list_next(operations, 0)),
    ]
    while stack:
        taken, state, choices = stack[-1]
        if not answered & ~taken:
            return None
        for index in choices:
            explains, following = model.step(state, operations[index])
            position = (taken | 1 << index, following)
            if explains and position not in tried:
                tried.add(position)
                if len(tried) > limit:
                    raise Undecided(f"{len(operations)} operations, {limit} positions tried")
                best = max(best, position[0], key=int.bit_count)
                stack.append((*position, _list_next(operations, position[0])))
                break
        else:
            stack.pop()
    return tuple(operations[index] for index in _list_next(operations, best))


def _list_next(operations: Sequence[Operation[object]], taken: int) -> Iterator[int]:
    """The remaining operations that began before the first answer to any of them."""
    found: list[int] = []
    earliest = float("inf")
    first = (~taken & (taken + 1)).bit_length() - 1
    for index in range(first, len(operations)):
        if operations[index].invoked > earliest:
            break
        if not taken >> index & 1:
            found.append(index)
            earliest = min(earliest, operations[index].completed)
    # Answered operations first: the others took effect late or never, in most cases.
    return iter(sorted(found, key=lambda index: operations[index].completed))


def _step_register(state: int, operation: Operation[object]) -> tuple[bool, int]:
    match operation.action:
        case ("read",):
            return operation.is_open or operation.result == state, state
        case ("write", int(value)):
            return True, value
        case ("cas", int(expected), int(value)):
            swaps = state == expected
            explains = operation.is_open or operation.result is swaps
            return explains, value if swaps else state
    raise AssertionError(operation)


REGISTER: Final = Model(0, _step_register)
"""A register of integers: ("read",), ("write", value), ("cas", expected, value) -> bool."""


def _step_set(state: frozenset[int], operation: Operation[object]) -> tuple[bool, frozenset[int]]:
    match operation.action:
        case ("read",):
            return operation.is_open or operation.result == state, state
        case ("add", int(element)):
            return True, state | {element}
    raise AssertionError(operation)


SET: Final = Model(frozenset[int](), _step_set)
"""A set that grows: ("add", element), ("read",) -> frozenset."""
