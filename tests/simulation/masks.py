"""Messages that never arrive before the network heals, chosen by kind and view.

Random loss seldom makes a hard state, such as a block that one node alone has prepared, and another
that one node alone has committed three views later. A mask does: it lets all PREPAREs of a view
reach one node only, all COMMITs another, and it treats messages that are sent again in the same
way.
"""

from collections.abc import Callable
from functools import cache
from random import Random

from chain.consensus.messages import MessageKind

Mask = Callable[[MessageKind, int, int, str, str], bool]
"""Whether a message of this kind, number and view passes from one node to another."""

VIEW_CHANGING = (MessageKind.VIEW_CHANGE, MessageKind.NEW_VIEW, MessageKind.PRE_PREPARE)


def let_pass(seed: int, n: int) -> Mask:
    """A mask that lets every message pass."""
    del seed, n
    return lambda kind, number, view, sender, receiver: True


def hide_locks(seed: int, n: int) -> Mask:
    """A mask by which each kind of a view reaches all, a few, or some nodes from some senders."""
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
    """A mask that splits the processes into two or three groups in each view, as in Twins."""
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
    """A mask by which one kind never reaches one node, or one node hears only the first primary."""
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
                # Each node hears only its two neighbours.
                return (int(sender) - int(receiver)) % n in (1, n - 1)
            case _:
                return (sender, receiver) != (hub, victim)

    return passes


def hold_at_one(seed: int, n: int) -> Mask:
    """A mask that keeps number 1 undecided.

    Only a view's primary gets the VIEW-CHANGEs, few nodes get its NEW-VIEW, and none gets their
    votes.
    """

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
