"""The properties of a block that opcodes can read (docs/spec/state-transition.md, section 5)."""

from dataclasses import dataclass
from typing import Self

from chain.genesis import GenesisConfig
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.header import Header
from chain.validation import compute_mix_hash, compute_next_base_fee


@dataclass(frozen=True, slots=True)
class BlockEnvironment:
    """The properties of the block that opcodes can read."""

    chain_id: int
    number: BlockNumber
    timestamp: int
    """Seconds since the Unix epoch."""
    coinbase: Address
    gas_limit: int
    base_fee_per_gas: int
    """Wei."""
    mix_hash: Hash32
    gas_per_tick: int = 0
    """The least gas for a tick of effort (`chain.execution.effort`). 0 for a read that no account
    pays for: such a read is not limited by its effort."""

    @classmethod
    def of(cls, header: Header, chain_id: int, gas_per_tick: int = 0) -> Self:
        """The environment of the block with that header."""
        return cls(
            chain_id=chain_id,
            number=header.number,
            timestamp=header.timestamp,
            coinbase=header.coinbase,
            gas_limit=header.gas_limit,
            base_fee_per_gas=header.base_fee_per_gas,
            mix_hash=header.mix_hash,
            gas_per_tick=gas_per_tick,
        )

    @classmethod
    def after(
        cls, parent: Header, config: GenesisConfig, *, coinbase: Address, timestamp: int
    ) -> Self:
        """The environment of a block on top of `parent`.

        Args:
            parent: The header that the block extends.
            config: The network's.
            coinbase: The primary that proposes the block.
            timestamp: Seconds; raised to the parent's if it is below.
        """
        return cls(
            chain_id=config.chain_id,
            number=BlockNumber(parent.number + 1),
            timestamp=max(timestamp, parent.timestamp),
            coinbase=coinbase,
            gas_limit=config.gas_limit,
            base_fee_per_gas=compute_next_base_fee(parent, config.parameters),
            mix_hash=compute_mix_hash(parent),
            gas_per_tick=config.parameters.gas_per_tick,
        )
