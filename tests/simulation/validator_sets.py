"""The validator set of each number, drawn from the chain as the contract would give it.

A world without spares has one set for ever. With spares, each block with a transaction makes one
validator leave or one spare join from the next number on, chosen by the block's hash. So no node
can know a set in advance, as in a real network.
"""

from functools import cache

from chain.primitives import Address, BlockNumber, ValidatorIndex
from chain.types.block import Block

LEAST = 4
"""The smallest set: fewer validators tolerate no fault."""


class ValidatorSets:
    """The sets of all numbers that may be decided so far; a slot is the number of a key."""

    def __init__(self, keys: tuple[Address, ...], n: int) -> None:
        self._keys = keys
        self._is_fixed = len(keys) == n
        self._members = {BlockNumber(1): tuple(range(n))}
        self._addresses_of = cache(lambda members: tuple(keys[slot] for slot in members))

    def members(self, number: BlockNumber) -> tuple[int, ...]:
        """The slots of a number's validators, in the order of their indices."""
        return self._members[BlockNumber(1) if self._is_fixed else number]

    def validators(self, number: BlockNumber) -> tuple[Address, ...]:
        """The addresses of a number's validators, ascending."""
        return self._addresses_of(self.members(number))

    def index_of(self, slot: int, number: BlockNumber) -> ValidatorIndex | None:
        """The validator index of a key at a number; None if it is not in the set."""
        members = self.members(number)
        return ValidatorIndex(members.index(slot)) if slot in members else None

    def on_final(self, block: Block) -> bool:
        """Compute the next number's set when a node first stores this block; whether it changed."""
        following = BlockNumber(block.number + 1)
        if self._is_fixed or following in self._members:
            return False
        members = self._members[block.number]
        self._members[following] = self._change(members, block) if block.transactions else members
        return self._members[following] != members

    def _change(self, members: tuple[int, ...], block: Block) -> tuple[int, ...]:
        slot = int.from_bytes(block.hash[:8], "big") % len(self._keys)
        if slot not in members:
            return tuple(sorted((*members, slot)))
        if len(members) > LEAST:
            return tuple(each for each in members if each != slot)
        return members
