"""The order in which a block takes transactions of the mempool (docs/spec/wire.md, section 5)."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from chain.primitives import Address, Hash32
from chain.types.transaction import Transaction
from node.mempool.entries import Entry
from node.mempool.fair_share import Group
from node.mempool.free_gas import FreeGasPolicy
from node.mempool.policy import Priority

TURN_GAS: Final = 1_500_000
"""The gas limit of a call in one turn: an operator's vote has this limit. A call that asks for more
waits for as many turns, so no operator delays the votes of others."""


OPERATOR_TURNS: Final = 4
"""Each operator has so many turns before each turn of the tasks with commitments. So whatever the
contracts accept of operators, the commitments of miners go into blocks, too."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The transactions that a block may include."""

    transactions: tuple[Transaction, ...]
    """The best first. Those of one sender come by ascending nonce: if a block does not include one,
    it cannot include the later ones."""
    free: frozenset[Hash32]
    """The hashes of those that share the ration of free gas."""
    refused: Mapping[Address, frozenset[Hash32]]
    """By operator, the votes and duties that the contracts refuse or that were not examined, if
    they offer too little. They share the operator's own ration."""


def merge(
    runs: Iterable[Sequence[tuple[Priority, Entry]]],
    base_fee_per_gas: int,
    policy: FreeGasPolicy,
) -> Candidates:
    """The transactions of all runs: in order within a run, the best first among runs.

    Operators take turns with their votes, and tasks with the commitments of their miners, at any
    price. Ordinary transactions come after them, by price.
    """
    heads: list[tuple[bool, int, Priority, int, Entry, Iterator[tuple[Priority, Entry]]]] = []
    turns: Counter[Group | None] = Counter()
    transactions: list[Transaction] = []
    free: set[Hash32] = set()
    refused: dict[Address, set[Hash32]] = {}

    def take_turn(group: Group | None, gas_limit: int) -> int:
        turns[group] += -(-gas_limit // TURN_GAS)
        return turns[group]

    def rank(priority: Priority, entry: Entry) -> int:
        transaction = entry.transaction
        match priority:
            case Priority.OPERATOR_VOTE:
                assert entry.subject is not None
                group = None if entry.subject.has_common_turn else entry.group
                return take_turn(group, transaction.gas_limit)
            case Priority.COMMITMENT:
                return OPERATOR_TURNS * take_turn(entry.group, transaction.gas_limit)
            case Priority.ORDINARY:
                return -transaction.compute_effective_gas_price(base_fee_per_gas)
            case _:
                assert_never(priority)

    def push_next(run: Iterator[tuple[Priority, Entry]]) -> None:
        first = next(run, None)
        # If one transaction cannot pay the base fee, later ones of its sender cannot be included.
        if first is not None and first[1].transaction.max_fee_per_gas >= base_fee_per_gas:
            priority, entry = first
            # No two arrivals are equal, so the comparison never reaches the entry.
            is_last = priority is Priority.ORDINARY
            key = (is_last, rank(priority, entry), priority, entry.arrival, entry, run)
            heapq.heappush(heads, key)

    # By arrival, because a commitment takes the next turn of its task when its run is pushed.
    for entries in sorted(filter(None, runs), key=lambda run: run[0][1].arrival):
        push_next(iter(entries))
    while heads:
        _, _, _, _, entry, run = heapq.heappop(heads)
        transaction = entry.transaction
        transactions.append(transaction)
        is_ordinary = entry.priority == Priority.ORDINARY
        if is_ordinary and policy.is_free(transaction, base_fee_per_gas):
            if entry.is_duty:
                refused.setdefault(transaction.sender, set()).add(transaction.hash)
            else:
                free.add(transaction.hash)
        push_next(run)
    by_operator = {operator: frozenset(hashes) for operator, hashes in refused.items()}
    return Candidates(tuple(transactions), frozenset(free), by_operator)
