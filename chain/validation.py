"""Validity of headers and transactions (docs/spec/state-transition.md, sections 3 and 4).

All functions depend on chain data alone, except `validate_fresh_proposal`: it also needs the local
time, and so applies only when a block is proposed for the first time.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from chain import codec
from chain.amounts import format_amount
from chain.crypto import keccak256
from chain.errors import (
    InvalidBlock,
    InvalidTransaction,
    RejectedInputError,
    RejectionReason,
)
from chain.execution.gas import (
    GAS_AUTHORIZATION,
    compute_base_fee,
    compute_floor_gas,
    compute_intrinsic_gas,
)
from chain.genesis import GenesisConfig
from chain.hexadecimal import to_hex
from chain.params import ChainParameters
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
from chain.types.transaction import Transaction, decode_outline

RANDAO_DOMAIN: Final = b"PROOF_OF_TRAINING_RANDAO_V1"
"""Domain separation: no other hash of the protocol has this prefix."""

CLOCK_TOLERANCE_SECONDS: Final = 1
"""How far the clock of an honest primary may be from ours, in both directions. Timestamps are whole
seconds and so inexact by about as much."""

MAX_INIT_CODE_BYTES: Final = 49_152
"""EIP-3860."""

DELEGATION_PREFIX: Final = b"\xef\x01\x00"
"""EIP-7702: the code of an account that delegates to other code; it may still send transactions."""

DELEGATION_BYTES: Final = 23
"""Length of the prefix and an address."""

VerifyCertificate = Callable[[CommitCertificate, BlockNumber, Hash32], None]
"""Raises RejectedInputError unless a certificate makes a block hash final at a number. It is
`chain.consensus.certificates.verify_commit_certificate` with domain and validator set filled in.
"""


# Headers.


def compute_mix_hash(parent: Header) -> Hash32:
    """The mix hash of the next block, which seeds assignments.

    The parent's primary can bias it by its choice of a block, so nothing that must be unbiased may
    depend on it.
    """
    return keccak256(RANDAO_DOMAIN + parent.mix_hash + parent.hash)


def compute_extra_data(parent_certificate: CommitCertificate | None) -> Hash32:
    """The extra data of a header: the hash of the certificate in its body (zero in block 1)."""
    return ZERO_HASH if parent_certificate is None else parent_certificate.hash


def compute_next_base_fee(parent: Header, parameters: ChainParameters) -> int:
    """The base fee of the block after `parent`, in wei a unit of gas."""
    return compute_base_fee(
        parameters.base_fee_mode,
        parameters.base_fee_floor_wei,
        parent.base_fee_per_gas,
        parent.gas_used,
        parent.gas_limit,
    )


@dataclass(frozen=True, slots=True)
class HeaderContext:
    """The facts that the header rules need besides the header."""

    parent: Header
    config: GenesisConfig
    validators: Collection[Address]
    """The validators of the block's number."""
    parent_certificate: CommitCertificate | None
    """The certificate in the block's body."""


HeaderRule = Callable[[Header, HeaderContext], bool]
"""Returns whether one field of the header is valid."""

HEADER_RULES: Final[dict[str, HeaderRule]] = {
    "parent_hash": lambda header, context: header.parent_hash == context.parent.hash,
    "ommers_hash": lambda header, _: header.ommers_hash == EMPTY_UNCLES_HASH,
    "coinbase": lambda header, context: header.coinbase in context.validators,
    # Here only the form of the roots and sums is checked; chain.transition compares their values
    # with those of the execution.
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
        header.base_fee_per_gas == compute_next_base_fee(context.parent, context.config.parameters)
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
    """Check that the body has a valid certificate of the parent, and that block 1 has none.

    The certificate is not compared with our own: honest nodes hold different ones.

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


def compute_oldest_timestamp(received_ms: int, age_limit_ms: int) -> int:
    """The least timestamp of a fresh proposal that arrives at `received_ms`, in seconds.

    An honest primary takes the whole seconds of its clock when it begins to build. That is at most
    `age_limit_ms` ago, and its clock is at most the tolerance behind ours.
    """
    return (received_ms - age_limit_ms) // 1000 - CLOCK_TOLERANCE_SECONDS


def validate_fresh_proposal(
    header: Header, parent: Header, primary: Address, *, now_ms: int, oldest: int
) -> None:
    """Check the rules that apply only when a block is proposed for the first time.

    They do not apply to a re-proposal with a prepared certificate, or to a certified or synced
    block.

    Args:
        header: The header of the proposal.
        parent: The header of its parent. Its timestamp is never too early for a proposal, because
            an honest primary whose clock is behind it repeats it.
        primary: The primary of its number and view.
        now_ms: Local time, in milliseconds since the Unix epoch.
        oldest: The least timestamp that an honest proposal can have (`compute_oldest_timestamp`).

    Raises:
        InvalidBlock: WRONG_PRIMARY, TIMESTAMP_TOO_OLD, or TIMESTAMP_TOO_EARLY; the last is held,
            not dropped.
    """
    if header.coinbase != primary:
        raise InvalidBlock(RejectionReason.WRONG_PRIMARY, f"{to_hex(header.coinbase)}")
    if header.timestamp < oldest:
        raise InvalidBlock(RejectionReason.TIMESTAMP_TOO_OLD, f"{header.timestamp} s")
    limit_ms = max(now_ms + CLOCK_TOLERANCE_SECONDS * 1000, parent.timestamp * 1000)
    if header.timestamp * 1000 > limit_ms:
        raise InvalidBlock(RejectionReason.TIMESTAMP_TOO_EARLY, f"{header.timestamp} s")


# Transactions.


FORM_REASONS: Final = frozenset(
    {
        RejectionReason.MALFORMED,
        RejectionReason.TOO_LARGE,
        RejectionReason.TRANSACTION_TYPE,
        RejectionReason.BAD_SIGNATURE,
        RejectionReason.WRONG_CHAIN,
        RejectionReason.TIP_ABOVE_FEE,
        RejectionReason.GAS_CAP,
        RejectionReason.INIT_CODE_TOO_LARGE,
        RejectionReason.INTRINSIC_GAS,
    }
)
"""Why a transaction is refused by its bytes and the genesis alone, so at every head."""

GAS_OF_ACCESS_LIST_BYTE: Final = 57
"""The least gas of an encoded byte of an access list: an entry of k keys has at most 29 + 33 k
bytes, and costs 2 400 + 1 900 k."""


def validate_outline(raw: bytes, config: GenesisConfig) -> None:
    """Refuse an encoded transaction if its gas limit is below the cost of its data and lists.

    `validate_transaction` would refuse it, too, once it is decoded. But to decode a transaction
    of the largest size, and to recover its sender, takes 100 times as long as this check, which a
    node makes first where the transaction is a stranger's.

    Raises:
        InvalidTransaction: GAS_CAP, INTRINSIC_GAS, or the reasons of `decode_transaction`.
    """
    outline = decode_outline(raw)
    _validate_gas_cap(outline.gas_limit, config)
    authorization_limit = outline.gas_limit // GAS_AUTHORIZATION
    intrinsic_gas = compute_intrinsic_gas(
        outline.to,
        outline.data,
        (),
        codec.count_items(outline.authorizations, limit=authorization_limit + 1),
    )
    access_list_gas = outline.access_list_bytes * GAS_OF_ACCESS_LIST_BYTE
    required = max(intrinsic_gas + access_list_gas, compute_floor_gas(outline.data))
    if outline.gas_limit < required:
        raise InvalidTransaction(
            RejectionReason.INTRINSIC_GAS, f"{outline.gas_limit}, needs {required} or more"
        )


class AccountView(Protocol):
    """Read access to the accounts that a transaction is checked against."""

    def get_account(self, address: Address, /) -> Account | None:
        """The account, or None if it does not exist."""

    def get_code(self, address: Address, /) -> bytes:
        """The account's code; empty if it has none."""


def validate_transaction(
    transaction: Transaction,
    view: AccountView,
    config: GenesisConfig,
    *,
    base_fee_per_gas: int,
    gas_available: int,
) -> None:
    """Check that `transaction` can be its sender's next; used by mempool, builder and import.

    NONCE_TOO_HIGH is checked last. A mempool that gets it knows that everything else is valid, so
    it may keep the transaction until the missing nonces come.

    Args:
        transaction: A decoded transaction; its form and signature are valid.
        view: The accounts after the block's earlier transactions.
        config: The network's configuration.
        base_fee_per_gas: The block's base fee, in wei.
        gas_available: The gas left in the block; for a mempool, the block's gas limit.

    Raises:
        InvalidTransaction: The transaction breaks a rule.
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
    if account.code_hash != EMPTY_CODE_HASH and not is_delegation(
        view.get_code(transaction.sender)
    ):
        raise InvalidTransaction(RejectionReason.SENDER_HAS_CODE)  # EIP-3607
    if account.balance < transaction.cost:
        raise InvalidTransaction(
            RejectionReason.INSUFFICIENT_FUNDS,
            f"{format_amount(account.balance)} coins, needs {format_amount(transaction.cost)}",
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
    """Check the rules that do not depend on the state."""
    if transaction.chain_id not in (None, config.chain_id):
        raise InvalidTransaction(
            RejectionReason.WRONG_CHAIN, f"{transaction.chain_id}, this is {config.chain_id}"
        )
    if transaction.nonce == UINT64_MAX:  # EIP-2681
        raise InvalidTransaction(RejectionReason.NONCE_TOO_HIGH, "no nonce would be left")
    if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
        raise InvalidTransaction(RejectionReason.TIP_ABOVE_FEE)
    _validate_gas_cap(transaction.gas_limit, config)
    if transaction.to is None and len(transaction.data) > MAX_INIT_CODE_BYTES:
        raise InvalidTransaction(
            RejectionReason.INIT_CODE_TOO_LARGE, f"{len(transaction.data)} bytes"
        )
    required = max(compute_required_gas(transaction), compute_floor_gas(transaction.data))
    if transaction.gas_limit < required:
        raise InvalidTransaction(
            RejectionReason.INTRINSIC_GAS, f"{transaction.gas_limit}, needs {required}"
        )


def _validate_gas_cap(gas_limit: int, config: GenesisConfig) -> None:
    cap = config.parameters.transaction_gas_limit
    if gas_limit > cap:
        raise InvalidTransaction(RejectionReason.GAS_CAP, f"cap {cap}, transaction {gas_limit}")


def compute_required_gas(transaction: Transaction) -> int:
    """The intrinsic gas of `transaction`."""
    return compute_intrinsic_gas(
        transaction.to,
        transaction.data,
        transaction.access_list,
        len(transaction.authorization_list),
    )


def is_delegation(code: bytes) -> bool:
    """Whether an account's code only names other code that it runs (EIP-7702)."""
    return len(code) == DELEGATION_BYTES and code.startswith(DELEGATION_PREFIX)
