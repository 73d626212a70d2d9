"""The block header, in Ethereum's Prague format (docs/spec/state-transition.md, section 2)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from chain import codec
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32

HEADER_LIMIT_BYTES: Final = 1024
"""A header with the largest value in every integer field takes less than 900 bytes."""

FIELD_COUNT: Final = 21
"""The number of header fields in Prague."""


@dataclass(frozen=True)
class Header:
    """A block header. It has no slots, so that the hash can be cached."""

    parent_hash: Hash32
    ommers_hash: Hash32
    coinbase: Address
    state_root: Hash32
    transactions_root: Hash32
    receipts_root: Hash32
    logs_bloom: bytes
    difficulty: int
    number: BlockNumber
    gas_limit: int
    gas_used: int
    timestamp: int
    """Seconds since the Unix epoch."""
    extra_data: bytes
    mix_hash: Hash32
    nonce: bytes
    base_fee_per_gas: int
    """Wei for a unit of gas."""
    withdrawals_root: Hash32
    blob_gas_used: int
    excess_blob_gas: int
    parent_beacon_block_root: Hash32
    requests_hash: Hash32

    def fields(self) -> list[bytes | int]:
        """The 21 fields in the order of the encoding."""
        return [
            self.parent_hash,
            self.ommers_hash,
            self.coinbase,
            self.state_root,
            self.transactions_root,
            self.receipts_root,
            self.logs_bloom,
            self.difficulty,
            self.number,
            self.gas_limit,
            self.gas_used,
            self.timestamp,
            self.extra_data,
            self.mix_hash,
            self.nonce,
            self.base_fee_per_gas,
            self.withdrawals_root,
            self.blob_gas_used,
            self.excess_blob_gas,
            self.parent_beacon_block_root,
            self.requests_hash,
        ]

    def encode(self) -> bytes:
        """The RLP list of the 21 fields."""
        return codec.encode(self.fields())

    @cached_property
    def hash(self) -> Hash32:
        """keccak256(rlp(header))."""
        return keccak256(self.encode())


def decode_header(data: bytes) -> Header:
    """The header that `data` encodes.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    return header_from_item(codec.decode(data, limit_bytes=HEADER_LIMIT_BYTES))


def header_from_item(item: codec.Item) -> Header:
    """The header of a decoded RLP list.

    Raises:
        RejectedInputError: MALFORMED.
    """
    f = codec.as_list(item, length=FIELD_COUNT)

    def hash32(index: int) -> Hash32:
        return Hash32(codec.as_bytes(f[index], length=32))

    return Header(
        parent_hash=hash32(0),
        ommers_hash=hash32(1),
        coinbase=Address(codec.as_bytes(f[2], length=20)),
        state_root=hash32(3),
        transactions_root=hash32(4),
        receipts_root=hash32(5),
        logs_bloom=codec.as_bytes(f[6], length=256),
        difficulty=codec.as_uint(f[7], bits=64),
        number=BlockNumber(codec.as_uint(f[8], bits=64)),
        gas_limit=codec.as_uint(f[9], bits=64),
        gas_used=codec.as_uint(f[10], bits=64),
        timestamp=codec.as_uint(f[11], bits=64),
        extra_data=codec.as_bytes(f[12], max_length=32),
        mix_hash=hash32(13),
        nonce=codec.as_bytes(f[14], length=8),
        base_fee_per_gas=codec.as_uint(f[15], bits=128),
        withdrawals_root=hash32(16),
        blob_gas_used=codec.as_uint(f[17], bits=64),
        excess_blob_gas=codec.as_uint(f[18], bits=64),
        parent_beacon_block_root=hash32(19),
        requests_hash=hash32(20),
    )
