"""Who decided a block that is far ahead (docs/spec/consensus.md, section 10).

Every set names the next one, in the state of the last block that it decided. That block is looked
for by bisection among certified headers: a node that was away needs some twenty headers and a few
nodes of their states for each change since, and believes no peer.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from chain.errors import RejectedInputError
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.certificate import CommitCertificate
from chain.types.header import Header

CHANGES_LIMIT: Final = 10_000
"""Past it a checkpoint is faster."""

Certified = tuple[Header, CommitCertificate]
"""A header, and what is said to make it final."""

VerifyCertificate = Callable[[CommitCertificate, BlockNumber, Hash32, tuple[Address, ...]], None]
"""Raises InvalidMessage if those validators did not make that block final."""

FetchCertified = Callable[[BlockNumber], Awaitable[Certified | None]]
"""What the peer has of that number; None if it has not both."""

ReadNextSet = Callable[[Header, tuple[Address, ...]], Awaitable[tuple[Address, ...] | None]]
"""Who decides the block after a final one that those decided; None if they do."""


class SetSearch:
    """Follows the sets of validators through the headers of one peer."""

    def __init__(
        self, *, verify: VerifyCertificate, fetch: FetchCertified, read_next: ReadNextSet
    ) -> None:
        self._verify = verify
        self._fetch = fetch
        self._read_next = read_next

    async def is_final(
        self, target: Certified, head: BlockNumber, validators: Sequence[Address]
    ) -> bool:
        """Whether a block is final.

        Args:
            target: The block, above `head`.
            head: A final block.
            validators: Who decides the block after it.
        """
        known, current = head, tuple(validators)
        for _ in range(CHANGES_LIMIT):
            if self._is_certified(target, current):
                return True
            found = await self._find_change(known, target[0].number, current)
            if found is None:
                return False
            known, current = found
        return False

    async def _find_change(
        self, low: BlockNumber, high: BlockNumber, validators: tuple[Address, ...]
    ) -> tuple[BlockNumber, tuple[Address, ...]] | None:
        """The last block that a set decided, and who follows it; None if that is not proven.

        Args:
            low: A final block; `validators` decide the next one.
            high: A block that they have not decided.
            validators: The set.
        """
        while high - low > 1:
            middle = BlockNumber((low + high) // 2)
            certified = await self._fetch(middle)
            if certified is None:
                return None
            if not self._is_certified(certified, validators):
                high = middle
                continue
            following = await self._read_next(certified[0], validators)
            if following is not None:
                return middle, following
            low = middle
        return None

    def _is_certified(self, certified: Certified, validators: tuple[Address, ...]) -> bool:
        header, certificate = certified
        try:
            self._verify(certificate, header.number, header.hash, validators)
        except RejectedInputError:
            return False
        return True
