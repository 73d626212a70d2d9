"""Votes and commitments that the contracts may accept one block later (docs/spec/wire.md, 5)."""

from collections.abc import Iterator
from typing import Final

from cachetools import FIFOCache

from chain.primitives import Address, Hash32
from node.mempool.policy import Priority, Subject

EARLY_LIMIT: Final = 16
"""The most votes, and the most commitments, that are examined again at a block, because the
contracts would not accept them yet: the sender's node may be a block ahead. Each takes about 2 ms.
"""

KEPT_EARLY_LIMIT: Final = 256
"""The most votes, and the most commitments, that wait to be examined again: sixteen blocks of them.
What is forgotten stays ordinary, and may wait for the ration of free gas."""


class EarlyCalls:
    """At most one transaction of each sender and subject; miners take no place of operators."""

    def __init__(self) -> None:
        self._kinds: dict[Priority, FIFOCache[tuple[Address, Subject], Hash32]] = {
            Priority.OPERATOR_VOTE: FIFOCache(KEPT_EARLY_LIMIT),
            Priority.COMMITMENT: FIFOCache(KEPT_EARLY_LIMIT),
        }

    def get(self, sender: Address, subject: Subject) -> Hash32 | None:
        """The transaction of a sender with a subject; None if there is none."""
        return self._kinds[subject.priority].get((sender, subject))

    def put(self, sender: Address, subject: Subject, transaction_hash: Hash32) -> None:
        """Remember a transaction; the oldest one of its kind makes room."""
        self._kinds[subject.priority][sender, subject] = transaction_hash

    def take(self) -> Iterator[Hash32]:
        """Forget what this block examines, and yield it: votes first, in the order of `put`."""
        for kind in self._kinds.values():
            for key in list(kind)[:EARLY_LIMIT]:
                yield kind.pop(key)
