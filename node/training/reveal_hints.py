"""Announced reveals of commitments that this node does not know yet (docs/spec/training.md, 10.2).

A peer may be a block ahead. Without the commitment nobody can tell a false reveal from the true
one, so a further reveal of the same miner displaces none: all are kept until the commitment is
known. What a peer may send in a second (docs/spec/wire.md, section 2) is a small part of the limit.
"""

from typing import Final

from chain.primitives import Address
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal

HINT_LIMIT: Final = 4_096
"""The most reveals that are kept; the oldest one is forgotten for a further one. All peers without
a validator together need 4 seconds to announce so many."""


class RevealHints:
    """The latest announced reveals without a commitment, each once."""

    def __init__(self, limit: int = HINT_LIMIT) -> None:
        self._limit = limit
        self._reveals: dict[Reveal, None] = {}
        """All of them, the oldest first."""
        self._by_miner: dict[tuple[AttemptId, Address], list[Reveal]] = {}

    def __len__(self) -> int:
        return len(self._reveals)

    def note(self, reveal: Reveal) -> None:
        """Keep a reveal."""
        if reveal in self._reveals:
            return
        if len(self._reveals) >= self._limit:
            self._forget_oldest()
        self._reveals[reveal] = None
        self._by_miner.setdefault((reveal.attempt_id, reveal.miner), []).append(reveal)

    def pop(self, attempt_id: AttemptId, miner: Address) -> list[Reveal]:
        """The reveals of a miner in an attempt, which are forgotten, the oldest first."""
        found = self._by_miner.pop((attempt_id, miner), [])
        for reveal in found:
            del self._reveals[reveal]
        return found

    def _forget_oldest(self) -> None:
        oldest = next(iter(self._reveals))
        del self._reveals[oldest]
        key = oldest.attempt_id, oldest.miner
        self._by_miner[key].remove(oldest)
        if not self._by_miner[key]:
            del self._by_miner[key]
