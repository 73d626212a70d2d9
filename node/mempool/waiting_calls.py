"""Calls that the contracts may accept later (docs/spec/wire.md, section 5)."""

from collections.abc import Iterator

from chain.primitives import Hash32
from node.mempool.fair_share import Group


class WaitingCalls:
    """The calls of one kind without priority, in turns of their tasks or operators.

    No call is forgotten while it is in the pool, so what came too early is found when it is due,
    however many others wait. A block looks at some of them, and the next one goes on from there.
    """

    def __init__(self) -> None:
        self._groups: dict[Group, dict[Hash32, None]] = {}
        """The group whose turn is next comes first, and so does the call of a group."""

    def add(self, group: Group, transaction_hash: Hash32) -> None:
        """Put a call at the end of its group."""
        self._groups.setdefault(group, {})[transaction_hash] = None

    def remove(self, group: Group, transaction_hash: Hash32) -> None:
        """Take note that a call got its priority, or left the pool."""
        held = self._groups[group]
        del held[transaction_hash]
        if not held:
            del self._groups[group]

    def take_turns(self) -> Iterator[Hash32]:
        """Each call once, in turns of the groups; those that were returned go to the end.

        Calls may be removed meanwhile.
        """
        left = {group: len(held) for group, held in self._groups.items()}
        while left:
            for group in tuple(left):
                held = self._groups.get(group)
                if not held or not left[group]:
                    del left[group]
                    continue
                left[group] -= 1
                transaction_hash = next(iter(held))
                held[transaction_hash] = held.pop(transaction_hash)
                self._groups[group] = self._groups.pop(group)
                yield transaction_hash
