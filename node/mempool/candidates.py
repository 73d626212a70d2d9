"""The transactions of the mempool in the order in which a block takes them."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from chain.primitives import Hash32
from chain.types.transaction import Transaction
from node.mempool.entries import Entry
from node.mempool.free_gas import FreeGasPolicy
from node.mempool.policy import Priority


@dataclass(frozen=True, slots=True)
class Candidates:
    """The transactions that a block may include."""

    transactions: tuple[Transaction, ...]
    """The best first. Those of one sender come by ascending nonce: if a block does not include one,
    it cannot include the later ones."""
    free: frozenset[Hash32]
    """The hashes of those that share the ration of free gas."""


def merge(
    runs: Iterable[Sequence[tuple[Priority, Entry]]],
    base_fee_per_gas: int,
    policy: FreeGasPolicy,
) -> Candidates:
    """The transactions of all runs: in order within a run, the best first among runs."""
    heads: list[tuple[int, int, int, Entry, Iterator[tuple[Priority, Entry]]]] = []
    transactions: list[Transaction] = []
    free: set[Hash32] = set()

    def push_next(run: Iterator[tuple[Priority, Entry]]) -> None:
        first = next(run, None)
        # If one transaction cannot pay the base fee, later ones of its sender cannot be included.
        if first is not None and first[1].transaction.max_fee_per_gas >= base_fee_per_gas:
            priority, entry = first
            price = entry.transaction.compute_effective_gas_price(base_fee_per_gas)
            # No two arrivals are equal, so the comparison never reaches the entry.
            heapq.heappush(heads, (priority, -price, entry.arrival, entry, run))

    for entries in runs:
        push_next(iter(entries))
    while heads:
        priority, _, _, entry, run = heapq.heappop(heads)
        transaction = entry.transaction
        transactions.append(transaction)
        is_ordinary = priority == Priority.ORDINARY and not entry.is_duty
        if is_ordinary and policy.is_free(transaction, base_fee_per_gas):
            free.add(transaction.hash)
        push_next(run)
    return Candidates(tuple(transactions), frozenset(free))
