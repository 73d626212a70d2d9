"""What makes a header and a transaction valid (docs/spec/state-transition.md, sections 3 and 4).

Everything here is a pure function of chain data, but for `validate_fresh_proposal`, which asks what
only the moment of a first proposal can answer.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from chain.crypto import keccak256
from chain.errors import (
    InvalidBlock,
    InvalidTransaction,
    RejectedInputError,
    RejectionReason,
)
from chain.execution.gas import compute_base_fee, compute_floor_gas, compute_intrinsic_gas
from chain.genesis import GenesisConfig
from chain.hexadecimal import to_hex
from chain.primitives import (
    EMPTY_REQUESTS_HASH,
    EMPTY_TRIE_ROOT,
    EMPTY_UNCLES_HASH,
    UINT64_MAX,
    ZERO_HASH,
    Address,
    BlockNumber,
    Hash32,
)
from chain.types.account import EMPTY_CODE_HASH, Account
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.receipt import BLOOM_BYTES
from chain.types.transaction import Transaction

RANDAO_DOMAIN: Final = b"PROOF_OF_TRAINING_RANDAO_V1"
"""Keeps this hash apart from every other use of Keccak-256 over the same bytes."""

TIMESTAMP_AHEAD_LIMIT_SECONDS: Final = 1
"""How far a fresh proposal's clock may be ahead: whole seconds hide half of one anyway."""

MAX_INIT_CODE_BYTES: Final = 49_152
"""EIP-3860."""

DELEGATION_PREFIX: Final = b"\xef\x01\x00"
"""EIP-7702: code that says where the account's code is; its account may still send."""

DELEGATION_BYTES: Final = 23
"""The prefix and an address."""

VerifyCertificate = Callable[[CommitCertificate, BlockNumber, Hash32], None]
"""Raises RejectedInputError unless the certificate makes that hash final at that number:
`chain.consensus.certificates.verify_commit_certificate` with domain and validator set filled in.
"""


# Headers.


def compute_mix_hash(parent: Header) -> Hash32:
    """The child's mix hash: a source of assignment that the parent's primary can bias, once."""
    return keccak256(RANDAO_DOMAIN + parent.mix_hash + parent.hash)


def compute_extra_data(parent_certificate: CommitCertificate | None) -> Hash32:
    """What a header's extra data commits to: the certificate in its body (none in block 1)."""
    return ZERO_HASH if parent_certificate is None else parent_certificate.hash


def compute_next_base_fee(parent: Header, config: GenesisConfig) -> int:
    """The base fee of the block after `parent`, in wei a unit of gas."""
    parameters = config.parameters
    return compute_base_fee(
        parameters.base_fee_mode,
        parameters.base_fee_floor_wei,
        parent.base_fee_per_gas,
        parent.gas_used,
        parent.gas_limit,
    )


@dataclass(frozen=True, slots=True)
class HeaderContext:
    """What the rules of a header may look at besides the header."""

    parent: Header
    config: GenesisConfig
    validators: Collection[Address]
    """Of the block's number."""
    parent_certificate: CommitCertificate | None
    """From the block's body."""


HeaderRule = Callable[[Header, HeaderContext], bool]
"""Whether one field is right."""

HEADER_RULES: Final[dict[str, HeaderRule]] = {
    "parent_hash": lambda header, context: header.parent_hash == context.parent.hash,
    "ommers_hash": lambda header, _: header.ommers_hash == EMPTY_UNCLES_HASH,
    "coinbase": lambda header, context: header.coinbase in context.validators,
    # The four roots and sums of the execution have their form checked here, and their value
    # after it (chain.transition).
    "state_root": lambda header, _: len(header.state_root) == 32,
    "transactions_root": lambda header, _: len(header.transactions_root) == 32,
    "receipts_root": lambda header, _: len(header.receipts_root) == 32,
    "logs_bloom": lambda header, _: len(header.logs_bloom) == BLOOM_BYTES,
    "difficulty": lambda header, _: header.difficulty == 0,
    "number": lambda header, context: header.number == context.parent.number + 1,
    "gas_limit": lambda header, context: header.gas_limit == context.config.gas_limit,
    "gas_used": lambda header, _: 0 <= header.gas_used <= header.gas_limit,
    "timestamp": lambda header, context: context.parent.timestamp <= header.timestamp <= UINT64_MAX,
    "extra_data": lambda header, context: (
        header.extra_data == compute_extra_data(context.parent_certificate)
    ),
    "mix_hash": lambda header, context: header.mix_hash == compute_mix_hash(context.parent),
    "nonce": lambda header, _: header.nonce == bytes(8),
    "base_fee_per_gas": lambda header, context: (
        header.base_fee_per_gas == compute_next_base_fee(context.parent, context.config)
    ),
    "withdrawals_root": lambda header, _: header.withdrawals_root == EMPTY_TRIE_ROOT,
    "blob_gas_used": lambda header, _: header.blob_gas_used == 0,
    "excess_blob_gas": lambda header, _: header.excess_blob_gas == 0,
    "parent_beacon_block_root": lambda header, _: header.parent_beacon_block_root == ZERO_HASH,
    "requests_hash": lambda header, _: header.requests_hash == EMPTY_REQUESTS_HASH,
}
"""One rule for each of the 21 fields, by its name, in the order of the encoding."""


def validate_header(header: Header, context: HeaderContext) -> None:
    """Check every field of `header` that can be checked without executing the block.

    Raises:
        InvalidBlock: UNKNOWN_PARENT, or HEADER_FIELD with the field's name in the detail.
    """
    for name, is_right in HEADER_RULES.items():
        if not is_right(header, context):
            reason = (
                RejectionReason.UNKNOWN_PARENT
                if name == "parent_hash"
                else RejectionReason.HEADER_FIELD
            )
            raise InvalidBlock(reason, name)


def validate_parent_certificate(
    block: Block, parent: Header, verify_certificate: VerifyCertificate
) -> None:
    """Check that the body carries a certificate of the parent, and block 1 none.

    It is never compared with a certificate held here: honest nodes hold different ones.

    Raises:
        InvalidBlock: BAD_CERTIFICATE.
    """
    certificate = block.parent_certificate
    if (certificate is None) != (parent.number == 0):
        raise InvalidBlock(RejectionReason.BAD_CERTIFICATE, "one in every block but block 1")
    if certificate is None:
        return
    try:
        verify_certificate(certificate, parent.number, parent.hash)
    except RejectedInputError as error:
        raise InvalidBlock(RejectionReason.BAD_CERTIFICATE, str(error)) from error


def validate_fresh_proposal(header: Header, primary: Address, now_ms: int) -> None:
    """Check what holds only when a block is proposed for the first time.

    Not for a re-proposal with a prepared certificate, nor for a certified or synced block.

    Args:
        header: of the proposal.
        primary: of its number and view.
        now_ms: local time, milliseconds since the Unix epoch.

    Raises:
        InvalidBlock: WRONG_PRIMARY, or TIMESTAMP_TOO_EARLY, for which it is held, not dropped.
    """
    if header.coinbase != primary:
        raise InvalidBlock(RejectionReason.WRONG_PRIMARY, f"{to_hex(header.coinbase)}")
    if header.timestamp * 1000 > now_ms + TIMESTAMP_AHEAD_LIMIT_SECONDS * 1000:
        raise InvalidBlock(RejectionReason.TIMESTAMP_TOO_EARLY, f"{header.timestamp} s")


# Transactions.


class AccountView(Protocol):
    """The accounts a transaction is checked against."""

    def get_account(self, address: Address, /) -> Account | None:
        """The account, or None if there is none."""

    def get_code(self, address: Address, /) -> bytes:
        """The account's code; no bytes if it has none."""


def validate_transaction(
    transaction: Transaction,
    view: AccountView,
    config: GenesisConfig,
    *,
    base_fee_per_gas: int,
    gas_available: int,
) -> None:
    """Check that `transaction` can be the next of its sender: for mempool, builder and import.

    NONCE_TOO_HIGH is asked last: a mempool that meets it knows that all else is right, and may
    keep the transaction until the gap is filled.

    Args:
        transaction: decoded, so its form and signature are right.
        view: the accounts as the block so far has left them.
        config: of the network.
        base_fee_per_gas: of the block, in wei.
        gas_available: what the block has left; for a mempool, the block's limit.

    Raises:
        InvalidTransaction: with the reason.
    """
    _validate_form(transaction, config)
    if transaction.gas_limit > gas_available:
        raise InvalidTransaction(
            RejectionReason.GAS_LIMIT, f"{transaction.gas_limit}, block has {gas_available} left"
        )
    if transaction.max_fee_per_gas < base_fee_per_gas:
        raise InvalidTransaction(
            RejectionReason.FEE_TOO_LOW,
            f"max fee {transaction.max_fee_per_gas}, base fee {base_fee_per_gas}",
        )
    account = view.get_account(transaction.sender) or Account()
    if account.code_hash != EMPTY_CODE_HASH and not _is_delegation(
        view.get_code(transaction.sender)
    ):
        raise InvalidTransaction(RejectionReason.SENDER_HAS_CODE)  # EIP-3607
    if account.balance < transaction.cost:
        raise InvalidTransaction(
            RejectionReason.INSUFFICIENT_FUNDS,
            f"balance {account.balance}, needs {transaction.cost}",
        )
    if transaction.nonce < account.nonce:
        raise InvalidTransaction(
            RejectionReason.NONCE_TOO_LOW, f"{transaction.nonce}, account's is {account.nonce}"
        )
    if transaction.nonce > account.nonce:
        raise InvalidTransaction(
            RejectionReason.NONCE_TOO_HIGH, f"{transaction.nonce}, account's is {account.nonce}"
        )


def _validate_form(transaction: Transaction, config: GenesisConfig) -> None:
    """What does not depend on the state."""
    if transaction.chain_id not in (None, config.chain_id):
        raise InvalidTransaction(
            RejectionReason.WRONG_CHAIN, f"{transaction.chain_id}, this is {config.chain_id}"
        )
    if transaction.nonce == UINT64_MAX:  # EIP-2681
        raise InvalidTransaction(RejectionReason.NONCE_TOO_HIGH, "no nonce would be left")
    if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
        raise InvalidTransaction(RejectionReason.TIP_ABOVE_FEE)
    if transaction.gas_limit > config.parameters.transaction_gas_limit:
        raise InvalidTransaction(
            RejectionReason.GAS_LIMIT,
            f"{transaction.gas_limit}, limit {config.parameters.transaction_gas_limit}",
        )
    if transaction.to is None and len(transaction.data) > MAX_INIT_CODE_BYTES:
        raise InvalidTransaction(
            RejectionReason.INIT_CODE_TOO_LARGE, f"{len(transaction.data)} bytes"
        )
    required = max(compute_required_gas(transaction), compute_floor_gas(transaction.data))
    if transaction.gas_limit < required:
        raise InvalidTransaction(
            RejectionReason.INTRINSIC_GAS, f"{transaction.gas_limit}, needs {required}"
        )


def compute_required_gas(transaction: Transaction) -> int:
    """The intrinsic gas of `transaction`."""
    return compute_intrinsic_gas(
        transaction.to,
        transaction.data,
        transaction.access_list,
        len(transaction.authorization_list),
    )


def _is_delegation(code: bytes) -> bool:
    return len(code) == DELEGATION_BYTES and code.startswith(DELEGATION_PREFIX)
