"""The plan which peer is asked for which blocks (docs/spec/consensus.md, section 10).

It is pure: time, heads and peers are arguments, so that tests need no clock or network. A slow peer
cannot delay the others, because its range is also given to a free one. The number of open ranges
bounds the memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chain.primitives import BlockNumber
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.network.stream import PeerId

RANGE_BLOCKS: Final = 64
"""Blocks in one request. They take a second to execute, so a lost answer costs little."""

RANGES_LIMIT: Final = 8
"""Limit of ranges that are requested or held; with BLOCKS_LIMIT_BYTES each they take 64 MiB."""

PATIENCE_SECONDS: Final = 3.0
"""A peer that has not answered for this long is late, and its range is requested from others."""

ASKED_LIMIT: Final = 3
"""Limit of peers that are asked for the same range at the same time, besides those that are late.
"""


@dataclass(frozen=True, slots=True, order=True)
class BlockRange:
    """Blocks `first` to `last`, both included."""

    first: BlockNumber
    last: BlockNumber

    @property
    def count(self) -> int:
        """The number of blocks."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        """The range as logs show it."""
        return f"blocks {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class Batch:
    """One or more consecutive blocks from one peer, each with a certificate."""

    peer_id: PeerId
    certified: tuple[tuple[Block, CommitCertificate], ...]

    @property
    def range(self) -> BlockRange:
        """The range of the blocks' numbers."""
        return BlockRange(self.certified[0][0].number, self.certified[-1][0].number)


@dataclass(slots=True)
class _Flight:
    peers: dict[PeerId, float] = field(default_factory=dict)
    """When each peer was asked, in this order."""

    def wants_another(self, now: float) -> bool:
        """Whether the first peer is late, and there is room for one more."""
        late = [each for each in self.peers.values() if now - each >= PATIENCE_SECONDS]
        return bool(late) and len(self.peers) - len(late) < ASKED_LIMIT


class RangePlan:
    """The ranges above the head: requested, received, and not requested yet."""

    def __init__(self, first: BlockNumber) -> None:
        self._next = first
        """The lowest block that was never requested."""
        self._open: list[BlockRange] = []
        """Ranges that must be requested again, ascending."""
        self._flights: dict[BlockRange, _Flight] = {}
        self._ready: list[Batch] = []

    def take(
        self,
        peer_id: PeerId,
        peer_head: BlockNumber,
        head: BlockNumber,
        now: float,
        least: BlockNumber | None = None,
    ) -> BlockRange | None:
        """The range to request from a free peer; None if there is nothing for it now.

        Args:
            peer_id: The free peer.
            peer_head: The highest block that the peer says it holds.
            head: The highest block that is final here.
            now: Monotonic time in seconds.
            least: The lowest block that the peer may be asked for, because others are preferred for
                those that are needed soon; None if it may be asked for any.
        """
        self._forget_through(head)
        least = BlockNumber(0) if least is None else least
        wanted = self._choose(peer_head, head, least) or self._choose_late(
            peer_id, peer_head, head, now, least
        )
        if wanted is not None:
            self._flights.setdefault(wanted, _Flight()).peers[peer_id] = now
        return wanted

    def _choose_late(
        self,
        peer_id: PeerId,
        peer_head: BlockNumber,
        head: BlockNumber,
        now: float,
        least: BlockNumber,
    ) -> BlockRange | None:
        """A range that another peer is late with; of the one needed next, what the peer has.

        The peer that is late may have claimed more blocks than there are.
        """
        for late, flight in sorted(self._flights.items(), key=lambda item: item[0]):
            if peer_id in flight.peers or not flight.wants_another(now) or late.first < least:
                continue
            if late.last <= peer_head and late.first > head:
                return late
            if late.first <= head + 1 <= min(late.last, peer_head):
                first = BlockNumber(head + 1)
                wanted = BlockRange(first, BlockNumber(min(late.last, peer_head)))
                if wanted not in self._flights:
                    return wanted
        return None

    def _choose(
        self, peer_head: BlockNumber, head: BlockNumber, least: BlockNumber
    ) -> BlockRange | None:
        if not self._open and least <= self._next <= peer_head:
            last = BlockNumber(min(self._next + RANGE_BLOCKS - 1, peer_head))
            self._open.append(BlockRange(self._next, last))
            self._next = BlockNumber(last + 1)
        if not self._open or self._open[0].first > peer_head:
            return None
        is_next = self._open[0].first <= head + 1
        if self._open[0].first < least:
            return None
        is_full = self._count_flights(head) + len(self._ready) >= RANGES_LIMIT
        # The next block to execute must always be requested: all other ranges wait for it.
        if is_full and not is_next:
            return None
        wanted = self._open.pop(0)
        if wanted.last > peer_head:
            self.reopen(BlockRange(BlockNumber(peer_head + 1), wanted.last))
            wanted = BlockRange(wanted.first, peer_head)
        return wanted

    def put(self, asked: BlockRange, batch: Batch) -> Sequence[PeerId] | None:
        """Accept the answer to the request `asked`; it may have fewer blocks.

        Returns:
            The peers that were late when this one was asked. None if another peer has answered
            before, so that this answer is not needed.
        """
        flight = self._flights.get(asked)
        if flight is None or batch.peer_id not in flight.peers:
            return None
        del self._flights[asked]
        self._ready.append(batch)
        if batch.range.last < asked.last:
            self.reopen(BlockRange(BlockNumber(batch.range.last + 1), asked.last))
        asked_at = flight.peers[batch.peer_id]
        return [peer for peer, each in flight.peers.items() if asked_at - each >= PATIENCE_SECONDS]

    def give_back(self, asked: BlockRange, peer_id: PeerId) -> None:
        """Note that a peer did not answer, so that another peer is asked for the range."""
        flight = self._flights.get(asked)
        if flight is None or peer_id not in flight.peers:
            return
        del flight.peers[peer_id]
        if not flight.peers:
            del self._flights[asked]
            self.reopen(asked)

    def pop_next(self, head: BlockNumber) -> Batch | None:
        """Remove and return the batch with the child of the head; None if it has not come yet."""
        self._forget_through(head)
        for index, batch in enumerate(self._ready):
            if batch.range.first <= head + 1:
                return self._ready.pop(index)
        return None

    def reopen(self, again: BlockRange) -> None:
        """Request a range again."""
        self._open.append(again)
        self._open.sort()

    def _count_flights(self, head: BlockNumber) -> int:
        """The requested ranges with blocks that are still needed."""
        return sum(each.last > head for each in self._flights)

    def _forget_through(self, head: BlockNumber) -> None:
        """Drop the ranges up to a block that consensus has made final meanwhile."""
        self._next = BlockNumber(max(self._next, head + 1))
        self._open = [
            BlockRange(BlockNumber(max(each.first, head + 1)), each.last)
            for each in self._open
            if each.last > head
        ]
        self._ready = [each for each in self._ready if each.range.last > head]
