"""How a signed transaction enters the mempool, from RPC or from a peer."""

from collections.abc import Callable

import trio

from chain.primitives import Hash32
from chain.types.transaction import decode_transaction
from node.mempool.pool import Mempool


class Pool:
    """The mempool as network and RPC see it: raw bytes in, announcements out."""

    def __init__(self, mempool: Mempool) -> None:
        self._mempool = mempool
        self._announce: Callable[[tuple[Hash32, ...]], None] = lambda hashes: None
        self._on_added: Callable[[], None] = lambda: None

    def connect(
        self, announce: Callable[[tuple[Hash32, ...]], None], on_added: Callable[[], None]
    ) -> None:
        """Say whom to tell of an admitted transaction: the peers, and consensus."""
        self._announce, self._on_added = announce, on_added

    def contains(self, transaction_hash: Hash32) -> bool:
        """Whether it is held, or was refused since the last block."""
        return self._mempool.is_settled(transaction_hash)

    def get_raw(self, transaction_hash: Hash32) -> bytes | None:
        """The signed transaction, or None if it is not held."""
        transaction = self._mempool.get(transaction_hash)
        return None if transaction is None else transaction.raw

    def hashes(self) -> tuple[Hash32, ...]:
        """All that is held."""
        return self._mempool.hashes()

    async def submit(self, raw: bytes) -> Hash32:
        """Admit a signed transaction and announce it to every peer; its hash.

        Raises:
            RejectedInputError: Why it was refused.
        """
        await trio.lowlevel.checkpoint()
        transaction = decode_transaction(raw)
        self._mempool.add(transaction)
        self._announce((transaction.hash,))
        self._on_added()
        return transaction.hash
