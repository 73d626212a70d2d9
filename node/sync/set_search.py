"""Finds the validator set of a block that is far ahead (docs/spec/consensus.md, section 10).

The state after the last block of a validator set names the next set. The search finds that block
by bisection among certified headers. A node that was away needs about twenty headers and a few
nodes of their states for each change of the set, and it need not trust any peer.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from chain.errors import RejectedInputError
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.certificate import CommitCertificate
from chain.types.header import Header

CHANGES_LIMIT: Final = 10_000
"""Limit of changes that are followed. With more of them, a checkpoint is faster."""

Certified = tuple[Header, CommitCertificate]
"""A header, and the certificate that is claimed to make it final."""

VerifyCertificate = Callable[[CommitCertificate, BlockNumber, Hash32, tuple[Address, ...]], None]
"""Raises InvalidMessage unless a certificate of those validators makes the block final."""

FetchCertified = Callable[[BlockNumber], Awaitable[Certified | None]]
"""Fetches header and certificate of a block number from the peer; None if it lacks one of them."""

ReadNextSet = Callable[[Header, tuple[Address, ...]], Awaitable[tuple[Address, ...] | None]]
"""Reads the validator set of the next block from the state after a final block; None if the set
does not change there."""


class SetSearch:
    """Follows the changes of the validator set through the headers of one peer."""

    def __init__(
        self, *, verify: VerifyCertificate, fetch: FetchCertified, read_next: ReadNextSet
    ) -> None:
        self._verify = verify
        self._fetch = fetch
        self._read_next = read_next

    async def is_final(
        self, target: Certified, head: BlockNumber, validators: Sequence[Address]
    ) -> bool:
        """Whether the peer proves that a block is final.

        Args:
            target: The block; its number is above `head`.
            head: The number of a final block.
            validators: The validators of the block after `head`.
        """
        known, current = head, tuple(validators)
        for _ in range(CHANGES_LIMIT):
            if await self._is_certified(target, current):
                return True
            found = await self._find_change(known, target[0].number, current)
            if found is None:
                return False
            known, current = found
        return False

    async def _find_change(
        self, low: BlockNumber, high: BlockNumber, validators: tuple[Address, ...]
    ) -> tuple[BlockNumber, tuple[Address, ...]] | None:
        """The last block of a validator set, and the next set; None if the peer does not prove it.

        Args:
            low: A final block; `validators` decide the next one.
            high: A block that was decided by another set.
            validators: The validator set.
        """
        while high - low > 1:
            middle = BlockNumber((low + high) // 2)
            certified = await self._fetch(middle)
            if certified is None:
                return None
            if not await self._is_certified(certified, validators):
                high = middle
                continue
            following = await self._read_next(certified[0], validators)
            if following is not None:
                return middle, following
            low = middle
        return None

    async def _is_certified(self, certified: Certified, validators: tuple[Address, ...]) -> bool:
        header, certificate = certified
        verify = partial(self._verify, certificate, header.number, header.hash, validators)
        try:
            await trio.to_thread.run_sync(verify)
        except RejectedInputError:
            return False
        return True
