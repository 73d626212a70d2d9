"""Calls that the contracts may accept later (docs/spec/wire.md, section 5)."""

from collections.abc import Iterator

from chain.primitives import Address, Hash32
from node.mempool.fair_share import Group


class WaitingCalls:
    """The calls of one kind without priority, in turns of their tasks or operators.

    No call is forgotten while it is in the pool, so what came too early is found when it is due,
    however many others wait. A block looks at some of them, and the next one goes on from there.
    The senders of a group take turns as well, because each may have many calls in the pool.
    """

    def __init__(self) -> None:
        self._groups: dict[Group, dict[Address, dict[Hash32, None]]] = {}
        """The group whose turn is next comes first; so does the sender of a group, and its call."""

    def add(self, group: Group, sender: Address, transaction_hash: Hash32) -> None:
        """Put a call at the end of those of its sender."""
        senders = self._groups.setdefault(group, {})
        senders.setdefault(sender, {})[transaction_hash] = None

    def remove(self, group: Group, sender: Address, transaction_hash: Hash32) -> None:
        """Take note that a call got its priority, or left the pool."""
        senders = self._groups[group]
        held = senders[sender]
        del held[transaction_hash]
        if not held:
            del senders[sender]
        if not senders:
            del self._groups[group]

    def take_turns(self) -> Iterator[Hash32]:
        """Each call once, in turns of the groups; those that were returned go to the end.

        Calls may be removed meanwhile.
        """
        left = {
            group: {sender: len(held) for sender, held in senders.items()}
            for group, senders in self._groups.items()
        }
        while left:
            for group in tuple(left):
                transaction_hash = self._take_turn(group, left[group])
                if transaction_hash is None:
                    del left[group]
                else:
                    yield transaction_hash

    def _take_turn(self, group: Group, left: dict[Address, int]) -> Hash32 | None:
        """The next call of a group; None if all of those that are left have come.

        Args:
            group: The group whose turn it is.
            left: How many calls of each sender are left, in the order of their turns.
        """
        while left:
            sender = next(iter(left))
            count = left.pop(sender)
            held = self._groups.get(group, {}).get(sender)
            if held is None:
                continue
            if count > 1:
                left[sender] = count - 1
            transaction_hash = next(iter(held))
            held[transaction_hash] = held.pop(transaction_hash)
            self._groups[group][sender] = self._groups[group].pop(sender)
            self._groups[group] = self._groups.pop(group)
            return transaction_hash
        return None
