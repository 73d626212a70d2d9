"""Votes and commitments that the contracts may accept one block later (docs/spec/wire.md, 5)."""

from collections.abc import Iterator
from typing import Final, TypeAlias

from chain.primitives import Address, Hash32, TaskId
from node.mempool.policy import Priority, Subject

EARLY_LIMIT: Final = 16
"""The most votes, and the most commitments, that are examined again at a block, because the
contracts would not accept them yet: the sender's node may be a block ahead. Each takes about 4 ms.
"""

KEPT_EARLY_LIMIT: Final = 256
"""The most votes, and the most commitments, that wait to be examined again: sixteen blocks of them.
What is forgotten is an ordinary transaction, and may wait for the ration of free gas."""

_Group: TypeAlias = Address | TaskId
_Key: TypeAlias = tuple[Address, Subject]


class _EarlyKind:
    """Early calls of one kind, by the operator or task whose turn they take."""

    def __init__(self) -> None:
        self._groups: dict[_Group, dict[_Key, Hash32]] = {}
        """The group whose turn is next comes first; the calls of a group by age."""

    def get(self, group: _Group, key: _Key) -> Hash32 | None:
        return self._groups.get(group, {}).get(key)

    def put(self, group: _Group, key: _Key, transaction_hash: Hash32) -> Hash32 | None:
        self._groups.setdefault(group, {})[key] = transaction_hash
        if sum(map(len, self._groups.values())) <= KEPT_EARLY_LIMIT:
            return None
        largest = max(self._groups, key=lambda each: len(self._groups[each]))
        return self._take_oldest(largest)

    def remove(self, group: _Group, key: _Key) -> None:
        self._groups[group].pop(key)
        if not self._groups[group]:
            del self._groups[group]

    def take(self) -> Iterator[Hash32]:
        for _ in range(EARLY_LIMIT):
            group = next(iter(self._groups), None)
            if group is None:
                return
            yield self._take_oldest(group)
            if group in self._groups:
                self._groups[group] = self._groups.pop(group)

    def _take_oldest(self, group: _Group) -> Hash32:
        key, transaction_hash = next(iter(self._groups[group].items()))
        self.remove(group, key)
        return transaction_hash


class EarlyCalls:
    """At most one transaction of each sender and subject; miners take no place of operators.

    Operators take turns with their votes and duties, and tasks with the commitments of their
    miners. When there are too many, the one with the most makes room.
    """

    def __init__(self) -> None:
        self._kinds = {Priority.OPERATOR_VOTE: _EarlyKind(), Priority.COMMITMENT: _EarlyKind()}

    def get(self, sender: Address, subject: Subject) -> Hash32 | None:
        """The transaction of a sender with a subject; None if there is none."""
        return self._kinds[subject.priority].get(_find_group(sender, subject), (sender, subject))

    def put(self, sender: Address, subject: Subject, transaction_hash: Hash32) -> Hash32 | None:
        """Remember a transaction; return the one that is forgotten for it, or None."""
        group = _find_group(sender, subject)
        return self._kinds[subject.priority].put(group, (sender, subject), transaction_hash)

    def remove(self, sender: Address, subject: Subject, transaction_hash: Hash32) -> None:
        """Forget a transaction that leaves the pool, if it is remembered."""
        if self.get(sender, subject) == transaction_hash:
            group = _find_group(sender, subject)
            self._kinds[subject.priority].remove(group, (sender, subject))

    def take(self) -> tuple[Hash32, ...]:
        """Forget what this block examines, and return it: votes first."""
        return tuple(each for kind in self._kinds.values() for each in kind.take())


def _find_group(sender: Address, subject: Subject) -> Address | TaskId:
    return subject.task_id if subject.priority is Priority.COMMITMENT else sender
