"""A block: header, transactions, the parent's certificate (docs/spec/state-transition.md, 2)."""

from dataclasses import dataclass
from typing import Final

from chain import codec
from chain.primitives import BlockNumber, Hash32
from chain.types.certificate import CommitCertificate, certificate_from_item
from chain.types.header import Header, header_from_item

BLOCK_LIMIT_BYTES: Final = 2**22
"""4 MiB: a block of 30 M gas of calldata, at 10 gas a zero byte, and its certificate are
smaller."""

BLOCK_ITEMS_LIMIT: Final = 2**16 + 2**14
"""Limit of RLP items in any message with a block: ten times the transactions for which the largest
gas limit, 2^27, has room, and what header, certificates and the votes of a NEW-VIEW take."""

TRANSACTION_LIMIT_BYTES: Final = 2**17
"""128 KiB, as in geth: wallets and libraries expect this limit."""


@dataclass(frozen=True)
class Block:
    """A block. Its digest in PBFT is its hash, in every view."""

    header: Header
    transactions: tuple[bytes, ...]
    """Signed transactions in their EIP-2718 encoding."""
    parent_certificate: CommitCertificate | None
    """None only in genesis and in block 1, because genesis has no votes."""

    @property
    def number(self) -> BlockNumber:
        """The header's number."""
        return self.header.number

    @property
    def hash(self) -> Hash32:
        """The header's hash."""
        return self.header.hash

    def to_item(self) -> codec.Encodable:
        """[header, [transaction, ...], certificate or []]."""
        certificate = self.parent_certificate
        return [
            self.header.fields(),
            list(self.transactions),
            [] if certificate is None else certificate.to_item(),
        ]

    def encode(self) -> bytes:
        """The RLP of the block."""
        return codec.encode(self.to_item())


def block_from_item(item: codec.Item) -> Block:
    """The block of a decoded RLP list.

    Raises:
        RejectedInputError: MALFORMED.
    """
    header_item, transactions_item, certificate_item = codec.as_list(item, length=3)
    return Block(
        header=header_from_item(header_item),
        transactions=tuple(
            codec.as_bytes(raw, max_length=TRANSACTION_LIMIT_BYTES)
            for raw in codec.as_list(transactions_item)
        ),
        parent_certificate=(
            None if certificate_item == [] else certificate_from_item(certificate_item)
        ),
    )


def decode_block(data: bytes) -> Block:
    """The block that `data` encodes.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    return block_from_item(
        codec.decode(data, limit_bytes=BLOCK_LIMIT_BYTES, limit_items=BLOCK_ITEMS_LIMIT)
    )
