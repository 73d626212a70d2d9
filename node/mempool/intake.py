"""The entrance of the mempool, for signed transactions from RPC and from peers."""

from collections.abc import Callable

import trio

from chain.primitives import Hash32
from node.mempool.pool import Mempool


class Pool:
    """The mempool as network and RPC use it: with encoded transactions, and with listeners."""

    def __init__(self, mempool: Mempool) -> None:
        self._mempool = mempool
        self._listeners: list[Callable[[Hash32], None]] = []

    def add_listener(self, listener: Callable[[Hash32], None]) -> None:
        """Call `listener` with the hash of each transaction that is admitted from now on."""
        self._listeners.append(listener)

    def contains(self, transaction_hash: Hash32) -> bool:
        """Whether a transaction is in the pool, or need not be fetched."""
        return self._mempool.is_settled(transaction_hash)

    def get_raw(self, transaction_hash: Hash32) -> bytes | None:
        """An encoded transaction; None if the pool does not hold it."""
        transaction = self._mempool.get(transaction_hash)
        return None if transaction is None else transaction.raw

    def hashes(self) -> tuple[Hash32, ...]:
        """The hashes of all transactions in the pool."""
        return self._mempool.hashes()

    async def submit(self, raw: bytes) -> Hash32:
        """Admit a signed transaction, tell the listeners, and return its hash.

        Raises:
            RejectedInputError: The transaction is malformed, or the pool refuses it.
        """
        await trio.lowlevel.checkpoint()
        transaction = self._mempool.decode(raw)
        self._mempool.add(transaction)
        for listener in self._listeners:
            listener(transaction.hash)
        return transaction.hash
