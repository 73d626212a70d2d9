"""Messages that never arrive before the network heals, chosen by kind and view.

Random loss seldom builds a state that is hard: a block prepared by one node alone, another one
committed three views later and seen by nobody else. A mask does: it lets all PREPAREs of a view
reach one node, all COMMITs another, and whatever is sent again meets the same fate.
"""

from collections.abc import Callable
from functools import cache
from random import Random

from chain.consensus.messages import MessageKind

Mask = Callable[[MessageKind, int, int, str, str], bool]
"""Whether what is of this kind, number and view passes from one node to another."""

VIEW_CHANGING = (MessageKind.VIEW_CHANGE, MessageKind.NEW_VIEW, MessageKind.PRE_PREPARE)


def let_pass(seed: int, n: int) -> Mask:
    """Everything arrives."""
    del seed, n
    return lambda kind, number, view, sender, receiver: True


def hide_locks(seed: int, n: int) -> Mask:
    """Each kind of a view reaches everybody, or a few, or some of them from some."""
    del n

    @cache
    def draw(kind: MessageKind, number: int, view: int) -> tuple[str, str]:
        random = Random(f"{seed} {int(kind)} {number} {view}")
        weights = (8, 1, 1) if kind in VIEW_CHANGING else (3, 4, 3)
        (fate,) = random.choices(("all", "some", "pairs"), weights)
        return fate, str(random.random())

    @cache
    def passes(kind: MessageKind, number: int, view: int, sender: str, receiver: str) -> bool:
        if kind is MessageKind.STATUS:
            return True
        if kind is MessageKind.COMMITTED:
            return Random(f"{seed} {number} {sender} {receiver}").random() < 0.2
        fate, salt = draw(kind, number, view)
        match fate:
            case "all":
                return True
            case "some":
                return Random(salt + receiver).random() < 0.45
            case _:
                return Random(salt + sender + receiver).random() < 0.6

    return passes


def part_by_view(seed: int, n: int) -> Mask:
    """Twins' network: in each view the processes are parted in two or three groups."""
    del n

    @cache
    def draw_group(number: int, view: int, name: str) -> int:
        shape = Random(f"{seed} {number} {view}")
        groups = shape.choice((1, 2, 2, 2, 3))
        return Random(f"{seed} {number} {view} {name}").randrange(groups)

    def passes(kind: MessageKind, number: int, view: int, sender: str, receiver: str) -> bool:
        del kind
        return draw_group(number, view, sender) == draw_group(number, view, receiver)

    return passes


def starve_one(seed: int, n: int) -> Mask:
    """One kind never reaches one node, or one node hears only the first primary."""
    random = Random(f"starve {seed}")
    kind_lost = random.choice(list(MessageKind))
    victim = str(random.randrange(n))
    hub = str(random.randrange(n))
    shape = random.choice(("kind", "star", "ring", "one way"))

    def passes(kind: MessageKind, number: int, view: int, sender: str, receiver: str) -> bool:
        del number, view
        match shape:
            case "kind":
                return receiver != victim or kind is not kind_lost
            case "star":
                return hub in (sender, receiver)
            case "ring":
                # Each hears its two neighbours only.
                return (int(sender) - int(receiver)) % n in (1, n - 1)
            case _:
                return (sender, receiver) != (hub, victim)

    return passes


def hold_at_one(seed: int, n: int) -> Mask:
    """Number 1 is never decided: a view's primary alone hears who asks for the view, few hear it,
    and nobody hears that they did."""

    @cache
    def hears(view: int, receiver: str) -> bool:
        return Random(f"{seed} {view} {receiver}").random() < 0.4

    def passes(kind: MessageKind, number: int, view: int, sender: str, receiver: str) -> bool:
        del number, sender
        match kind:
            case MessageKind.VIEW_CHANGE:
                return view % n == int(receiver)
            case MessageKind.NEW_VIEW:
                return hears(view, receiver)
            case _:
                return kind not in (MessageKind.PREPARE, MessageKind.COMMIT)

    return passes


MASKS: dict[str, Callable[[int, int], Mask]] = {
    "none": let_pass,
    "locks": hide_locks,
    "twins": part_by_view,
    "starve": starve_one,
    "hold": hold_at_one,
}
