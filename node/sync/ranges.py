"""Which peer is asked for which blocks, as a value (docs/spec/consensus.md, section 10).

Time, heads and peers are arguments, so that a test is a loop over them. No peer can hold the others
up: its range goes to another one that is free, and memory is bounded by the ranges that are out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chain.primitives import BlockNumber
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.network.stream import PeerId

RANGE_BLOCKS: Final = 64
"""Blocks of one request: a second of execution, so that a lost answer costs little."""

RANGES_LIMIT: Final = 8
"""Ranges asked for or held: at BLOCKS_LIMIT_BYTES each, 64 MiB."""

PATIENCE_SECONDS: Final = 3.0
"""After so long a range that holds up the rest is asked of a second peer too."""

ASKED_LIMIT: Final = 3
"""Peers asked for one range at a time."""


@dataclass(frozen=True, slots=True, order=True)
class BlockRange:
    """Blocks `first` to `last`, both included."""

    first: BlockNumber
    last: BlockNumber

    @property
    def count(self) -> int:
        """How many blocks."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        """As logs show it."""
        return f"blocks {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive final blocks from one peer, each with a certificate; at least one."""

    peer_id: PeerId
    certified: tuple[tuple[Block, CommitCertificate], ...]

    @property
    def range(self) -> BlockRange:
        """The blocks' numbers."""
        return BlockRange(self.certified[0][0].number, self.certified[-1][0].number)


@dataclass(slots=True)
class _Flight:
    asked_at: float
    peers: list[PeerId] = field(default_factory=list)


class RangePlan:
    """What is asked for, what came, and what is still to be asked for, above the head."""

    def __init__(self, first: BlockNumber) -> None:
        self._next = first
        """Nobody was asked for it yet, nor for what is above."""
        self._open: list[BlockRange] = []
        """To be asked for again, ascending."""
        self._flights: dict[BlockRange, _Flight] = {}
        self._ready: list[Batch] = []

    def take(
        self, peer_id: PeerId, peer_head: BlockNumber, head: BlockNumber, now: float
    ) -> BlockRange | None:
        """What to ask a free peer for; None if there is nothing for it now.

        Args:
            peer_id: who is asked.
            peer_head: the highest block that the peer says it holds.
            head: the highest block that is finalized here.
            now: in seconds.
        """
        self._forget_through(head)
        wanted = self._choose(peer_head, head)
        if wanted is not None:
            self._flights[wanted] = _Flight(now, [peer_id])
            return wanted
        for late in sorted(self._flights):
            flight = self._flights[late]
            if peer_id in flight.peers or late.last > peer_head:
                continue
            if now - flight.asked_at >= PATIENCE_SECONDS and len(flight.peers) < ASKED_LIMIT:
                flight.peers.append(peer_id)
                return late
        return None

    def _choose(self, peer_head: BlockNumber, head: BlockNumber) -> BlockRange | None:
        if not self._open and self._next <= peer_head:
            last = BlockNumber(min(self._next + RANGE_BLOCKS - 1, peer_head))
            self._open.append(BlockRange(self._next, last))
            self._next = BlockNumber(last + 1)
        if not self._open or self._open[0].first > peer_head:
            return None
        is_full = len(self._flights) + len(self._ready) >= RANGES_LIMIT
        # The next block to execute is always asked for, or the rest would wait for it for ever.
        if is_full and self._open[0].first > head + 1:
            return None
        wanted = self._open.pop(0)
        if wanted.last > peer_head:
            self.reopen(BlockRange(BlockNumber(peer_head + 1), wanted.last))
            wanted = BlockRange(wanted.first, peer_head)
        return wanted

    def put(self, asked: BlockRange, batch: Batch) -> Sequence[PeerId] | None:
        """Take the answer to `asked`, which may end early; who was asked before and is slower.

        Returns:
            None if another peer was faster: this answer is of no use.
        """
        flight = self._flights.pop(asked, None)
        if flight is None:
            return None
        self._ready.append(batch)
        if batch.range.last < asked.last:
            self.reopen(BlockRange(BlockNumber(batch.range.last + 1), asked.last))
        return flight.peers[: flight.peers.index(batch.peer_id)]

    def give_back(self, asked: BlockRange, peer_id: PeerId) -> None:
        """The peer did not answer: somebody else is to be asked."""
        flight = self._flights.get(asked)
        if flight is None or peer_id not in flight.peers:
            return
        flight.peers.remove(peer_id)
        if not flight.peers:
            del self._flights[asked]
            self.reopen(asked)

    def pop_next(self, head: BlockNumber) -> Batch | None:
        """The batch that begins with the child of the head or reaches beyond it, if it came."""
        self._forget_through(head)
        for index, batch in enumerate(self._ready):
            if batch.range.first <= head + 1:
                return self._ready.pop(index)
        return None

    def reopen(self, again: BlockRange) -> None:
        """Have a range asked for again."""
        self._open.append(again)
        self._open.sort()

    def _forget_through(self, head: BlockNumber) -> None:
        """Consensus may be faster than sync: what is final needs no asking."""
        self._next = BlockNumber(max(self._next, head + 1))
        self._open = [each for each in self._open if each.last > head]
        self._ready = [each for each in self._ready if each.range.last > head]
