"""Receipts, logs and their bloom filter (docs/spec/state-transition.md, section 6)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from chain import codec
from chain.crypto import keccak256
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, Hash32

BLOOM_BYTES: Final = 256
"""Length of the yellow paper's bloom filter, 2048 bits."""

MAX_TOPICS: Final = 4
"""Topics of a log at most; the opcodes end with LOG4."""

RECEIPTS_LIMIT_BYTES: Final = 2**24
"""Limit of a block's receipts: four times the data that 30 M gas allow to log."""

RECEIPT_LIMIT_BYTES: Final = 2**22
"""Limit of one receipt; 30 M gas allow 3.75 MB of log data."""

BYTE_GAS: Final = 8
"""The least gas for a byte of receipts: that of log data. What surrounds the data costs more."""

BLOCK_GAS_LIMIT: Final = BYTE_GAS * RECEIPTS_LIMIT_BYTES
"""The most gas that genesis may allow a block. With more, the receipts of a block could exceed the
limit above, and no node could fetch them."""

TRANSACTION_GAS_LIMIT: Final = BYTE_GAS * RECEIPT_LIMIT_BYTES
"""The most gas that genesis may allow a transaction, for the same reason."""

LOG_GAS: Final = 375
"""Gas of a log, and of each of its topics."""

LOG_ITEMS: Final = 4
"""RLP items of a log without topics: itself, its address, its list of topics and its data."""

RECEIPT_ITEMS_LIMIT: Final = LOG_ITEMS * (TRANSACTION_GAS_LIMIT // LOG_GAS) + 4
"""Limit of RLP items in a receipt; a topic is one more, and costs as much as a log."""

RECEIPTS_COUNT_LIMIT: Final = BLOCK_GAS_LIMIT // 21_000
"""Limit of receipts in a block, one for each transaction."""


@dataclass(frozen=True, slots=True)
class Log:
    """A log entry that a contract emitted."""

    address: Address
    topics: tuple[Hash32, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of one transaction of a block."""

    transaction_type: int
    status: int
    """1 for success, 0 if it reverted or halted (EIP-658)."""
    cumulative_gas_used: int
    """Gas used by this and all earlier transactions of the block."""
    logs_bloom: bytes
    logs: tuple[Log, ...]

    def encode(self) -> bytes:
        """The EIP-2718 encoding; the receipts root is computed from it."""
        payload = codec.encode(
            [
                self.status,
                self.cumulative_gas_used,
                self.logs_bloom,
                [[log.address, list(log.topics), log.data] for log in self.logs],
            ]
        )
        return bytes([self.transaction_type]) + payload if self.transaction_type else payload


def build_receipt(
    transaction_type: int, status: int, cumulative_gas_used: int, logs: tuple[Log, ...]
) -> Receipt:
    """The receipt with the bloom filter of its logs."""
    return Receipt(transaction_type, status, cumulative_gas_used, compute_bloom(logs), logs)


def decode_receipt(data: bytes) -> Receipt:
    """The receipt that `data` encodes.

    Raises:
        RejectedInputError: TOO_LARGE, or MALFORMED, also if the bloom does not match the logs.
    """
    typed = bool(data) and data[0] < 0xC0
    item = codec.decode(
        data[1:] if typed else data,
        limit_bytes=RECEIPT_LIMIT_BYTES,
        limit_items=RECEIPT_ITEMS_LIMIT,
    )
    status, cumulative_gas_used, logs_bloom, log_items = codec.as_list(item, length=4)
    receipt = build_receipt(
        data[0] if typed else 0,
        codec.as_uint(status, bits=1),
        codec.as_uint(cumulative_gas_used, bits=64),
        tuple(_as_log(log) for log in codec.as_list(log_items)),
    )
    if logs_bloom != receipt.logs_bloom or (typed and data[0] == 0):
        raise RejectedInputError(RejectionReason.MALFORMED, "bloom or type of a receipt")
    return receipt


def encode_receipts(receipts: Sequence[Receipt]) -> bytes:
    """The receipts of a block, one a transaction, as one byte string."""
    return codec.encode([receipt.encode() for receipt in receipts])


def decode_receipts(data: bytes) -> tuple[Receipt, ...]:
    """The receipts of a block that `data` encodes.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    items = codec.as_list(
        codec.decode(data, limit_bytes=RECEIPTS_LIMIT_BYTES, limit_items=RECEIPTS_COUNT_LIMIT)
    )
    return tuple(decode_receipt(codec.as_bytes(item)) for item in items)


def _as_log(item: codec.Item) -> Log:
    address, topics, data = codec.as_list(item, length=3)
    return Log(
        Address(codec.as_bytes(address, length=20)),
        tuple(
            Hash32(codec.as_bytes(topic, length=32))
            for topic in codec.as_list(topics, max_length=MAX_TOPICS)
        ),
        codec.as_bytes(data),
    )


def compute_bloom(logs: Iterable[Log]) -> bytes:
    """The 256-byte filter with three bits for every address and topic of `logs`."""
    bits = 0
    for log in logs:
        for value in (log.address, *log.topics):
            bits |= _bloom_bits(value)
    return bits.to_bytes(BLOOM_BYTES, "big")


def combine_blooms(blooms: Sequence[bytes]) -> bytes:
    """The union of `blooms`."""
    bits = 0
    for bloom in blooms:
        bits |= int.from_bytes(bloom, "big")
    return bits.to_bytes(BLOOM_BYTES, "big")


def may_contain(bloom: bytes, value: bytes) -> bool:
    """Whether `value`, an address or a topic, may be in the filter; False means surely not."""
    wanted = _bloom_bits(value)
    return int.from_bytes(bloom, "big") & wanted == wanted


def _bloom_bits(value: bytes) -> int:
    digest = keccak256(value)
    bits = 0
    for start in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[start : start + 2], "big") & 2047)
    return bits
