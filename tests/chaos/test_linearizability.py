import random
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.history import Operation
from tests.chaos.linearizability import REGISTER, SET, Model, Undecided, find_violation

Call = Operation[object]


def write(value: int, invoked: float, completed: float = float("inf")) -> Call:
    return Operation(0, ("write", value), invoked, completed)


def read(value: object, invoked: float, completed: float) -> Call:
    return Operation(1, ("read",), invoked, completed, value)


def cas(expected: int, value: int, done: bool, invoked: float, completed: float) -> Call:
    return Operation(2, ("cas", expected, value), invoked, completed, done)


def add(element: int, invoked: float, completed: float = float("inf")) -> Call:
    return Operation(0, ("add", element), invoked, completed)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [read(0, 0, 1)],
        [write(1, 0, 1), read(1, 2, 3)],
        # While a write is under way, either value may be read, but time does not run backwards.
        [write(1, 0, 9), read(0, 1, 2), read(1, 3, 4)],
        # An unanswered write may take effect late, or never.
        [write(1, 0), read(0, 5, 6), read(1, 7, 8)],
        [write(1, 0), read(0, 5, 6)],
        [cas(0, 1, True, 0, 4), cas(0, 2, False, 0, 4), read(1, 5, 6)],
        # Concurrent writes, ordered by what was read.
        [write(1, 0, 9), write(2, 0, 9), read(2, 1, 2), read(1, 3, 4)],
        # An unanswered swap explains the second one's failure.
        [Operation(3, ("cas", 0, 5), 0), cas(0, 1, False, 1, 2), read(5, 3, 4)],
    ],
)
def test_good_register_histories_pass(history: list[Call]) -> None:
    assert find_violation(history, REGISTER) is None


@pytest.mark.parametrize(
    "history",
    [
        [read(1, 0, 1)],
        [write(1, 0, 1), read(0, 2, 3)],  # a stale read
        [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],  # a lost write
        [write(1, 0, 9), read(1, 1, 2), read(0, 3, 4)],  # back in time
        [cas(0, 1, True, 0, 4), cas(0, 2, True, 0, 4)],  # both won
        [cas(0, 1, False, 0, 1)],  # refused without a reason
        [write(1, 0), read(1, 5, 6), read(0, 7, 8)],  # an unanswered write, and undone
        [read(1, 0, 1), write(1, 2, 3)],  # before it was written
    ],
)
def test_bad_register_histories_fail(history: list[Call]) -> None:
    assert find_violation(history, REGISTER)


@pytest.mark.parametrize(
    ("history", "is_good"),
    [
        ([add(1, 0, 1), read(frozenset({1}), 2, 3)], True),
        ([add(1, 0, 1), read(frozenset(), 2, 3)], False),
        ([add(1, 0), read(frozenset(), 2, 3), read(frozenset({1}), 4, 5)], True),
        ([add(1, 0), read(frozenset({1}), 2, 3), read(frozenset(), 4, 5)], False),
        # Two readers that see two concurrent additions in different orders: a fork.
        (
            [add(1, 0, 9), add(2, 0, 9), read(frozenset({1}), 1, 2), read(frozenset({2}), 1, 2)],
            False,
        ),
        ([add(1, 0, 9), add(2, 0, 9), read(frozenset({1}), 1, 2)], True),
        ([read(frozenset({3}), 0, 1)], False),
    ],
)
def test_set_histories(history: list[Call], is_good: bool) -> None:
    assert (find_violation(history, SET) is None) is is_good


def test_unexplained_operation_is_named() -> None:
    assert find_violation([write(1, 0, 1), read(7, 2, 3)], REGISTER) == (read(7, 2, 3),)


def is_linearizable_by_trying_all(history: list[Call], model: Model[int]) -> bool:
    """The definition: some subset with all answered operations, in some order, explains all."""
    pending = [call for call in history if call.is_open]
    answered = [call for call in history if not call.is_open]
    for keep in product((False, True), repeat=len(pending)):
        chosen = answered + [call for call, kept in zip(pending, keep, strict=True) if kept]
        for order in permutations(chosen):
            state, fits = model.initial, True
            for place, call in enumerate(order):
                explains, state = model.step(state, call)
                fits &= explains and all(
                    later.completed >= call.invoked for later in order[place + 1 :]
                )
            if fits:
                return True
    return False


VALUES = st.integers(0, 2)
ACTIONS = st.one_of(
    st.tuples(st.just("read")),
    st.tuples(st.just("write"), VALUES),
    st.tuples(st.just("cas"), VALUES, VALUES),
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    action = draw(ACTIONS)
    invoked = draw(st.integers(0, 8))
    if draw(st.integers(0, 4)) == 0:
        return Operation(0, action, invoked)
    result = {"read": draw(VALUES), "write": None, "cas": draw(st.booleans())}[action[0]]
    return Operation(0, action, invoked, invoked + draw(st.integers(1, 4)) + 0.5, result)


@settings(max_examples=150, deadline=None)
@given(st.lists(calls(), max_size=5))
def test_the_search_agrees_with_the_definition(history: list[Call]) -> None:
    expected = is_linearizable_by_trying_all(history, REGISTER)
    assert (find_violation(history, REGISTER) is None) is expected


def long_history(seed: int) -> list[Call]:
    """600 calls of six clients on a true register."""
    source = random.Random(seed)
    free_at = [0.0] * 6
    state, history = 0, []
    for number in range(600):
        client = min(range(6), key=lambda each: free_at[each])
        # It takes effect at `number`, somewhere between call and answer.
        invoked = max(free_at[client], number - source.random() * 3)
        completed = number + 0.01 + source.random() * 3
        free_at[client] = completed
        action = source.choice([("read",), ("write", number), ("cas", state, number)])
        result: object = None
        if action[0] == "read":
            result = state
        elif action[0] == "cas":
            result, state = True, number
        else:
            state = number
        history.append(Operation(client, action, min(invoked, number), completed, result))
    return history


def test_a_long_history_is_decided_and_one_wrong_answer_in_it_is_found() -> None:
    history = long_history(3)
    assert find_violation(history, REGISTER) is None
    index = next(i for i in range(400, 600) if history[i].action == ("read",))
    bad = history[index]
    history[index] = Operation(bad.client, bad.action, bad.invoked, bad.completed, 10_000)
    assert bad.action in [call.action for call in find_violation(history, REGISTER) or ()]


def test_a_search_without_end_is_given_up() -> None:
    history = [write(value, 0, 99) for value in range(20)] + [read(77, 100, 101)]
    with pytest.raises(Undecided, match="21 operations"):
        find_violation(history, REGISTER, limit=1_000)
