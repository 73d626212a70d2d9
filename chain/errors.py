"""Reasons for refusing the input of a peer or client, as values that can be counted and matched."""

from enum import StrEnum


class RejectionReason(StrEnum):
    """Why the input of a peer, a miner or a client was refused.

    Programs, tests and metrics use the member; people read the message of the exception.
    """

    MALFORMED = "malformed"
    """The bytes are not a canonical encoding of the expected kind."""
    TOO_LARGE = "too_large"
    """The bytes exceed the limit of their kind, so they were not decoded."""
    WRONG_CHAIN = "wrong_chain"
    """Another chain id, genesis or protocol version."""
    BAD_SIGNATURE = "bad_signature"
    """The signature is not canonical, has a high s, or is of another account."""
    UNKNOWN_VALIDATOR = "unknown_validator"
    """The author is not in the validator set of that block number."""

    # Blocks (docs/spec/state-transition.md, section 3).
    UNKNOWN_PARENT = "unknown_parent"
    HEADER_FIELD = "header_field"
    """A header field breaks its rule; the message names the field."""
    BAD_CERTIFICATE = "bad_certificate"
    BAD_TRANSACTION = "bad_transaction"
    STATE_ROOT_MISMATCH = "state_root_mismatch"
    RECEIPTS_ROOT_MISMATCH = "receipts_root_mismatch"
    TRANSACTIONS_ROOT_MISMATCH = "transactions_root_mismatch"
    GAS_USED_MISMATCH = "gas_used_mismatch"
    BLOOM_MISMATCH = "bloom_mismatch"
    TIMESTAMP_TOO_EARLY = "timestamp_too_early"
    """The timestamp of a fresh proposal is ahead of our clock. The proposal is held, not
    dropped."""
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    """The timestamp of a fresh proposal is older than an honest primary's can be. It gets no vote
    in this view."""
    WRONG_PRIMARY = "wrong_primary"

    # Consensus messages (docs/spec/consensus.md).
    BAD_JUSTIFICATION = "bad_justification"
    """The proof in a VIEW-CHANGE or NEW-VIEW is missing, too small, or of something else."""

    # Transactions (docs/spec/state-transition.md, section 4).
    TRANSACTION_TYPE = "transaction_type"
    NONCE_TOO_LOW = "nonce_too_low"
    NONCE_TOO_HIGH = "nonce_too_high"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    INTRINSIC_GAS = "intrinsic_gas"
    GAS_LIMIT = "gas_limit"
    """The gas limit is above that of the block, or what the block has left."""
    GAS_CAP = "gas_cap"
    """The gas limit is above the cap of one transaction."""
    FEE_TOO_LOW = "fee_too_low"
    TIP_ABOVE_FEE = "tip_above_fee"
    SENDER_HAS_CODE = "sender_has_code"
    INIT_CODE_TOO_LARGE = "init_code_too_large"

    # Policy of the mempool; a block may still contain such transactions.
    ALREADY_KNOWN = "already_known"
    REPLACEMENT_UNDERPRICED = "replacement_underpriced"
    UNDERPRICED = "underpriced"
    """It offers less than this node's gas price, and its gas limit is above what such may have."""
    POOL_FULL = "pool_full"
    """The mempool, or the sender's share of it, is full of transactions that are worth more."""
    DELEGATED_ACCOUNT = "delegated_account"
    """An account that delegates to code, or is about to, has one transaction in the pool."""
    TOO_MANY_AUTHORIZATIONS = "too_many_authorizations"
    """More authorizations than the pool takes in one transaction."""
    BANNED = "banned"
    """The builder found that it can never be included."""
    TOO_SLOW_TO_EXECUTE = "too_slow_to_execute"
    """A transaction with this sender and nonce exceeded the time that this node has for one."""

    # Sync (docs/spec/consensus.md, section 10).
    FALSE_HEAD = "false_head"
    """The peer announced blocks that it does not serve."""
    TOO_SLOW = "too_slow"
    """Another peer, asked seconds later, served the same blocks first."""

    # Training (docs/spec/training.md).
    BAD_SPEC = "bad_spec"
    CONTENT_MISMATCH = "content_mismatch"
    """The bytes do not hash to the content id that was asked for."""
    BAD_GRADIENT = "bad_gradient"
    """The gradient has a wrong shape, is not finite or canonical, or exceeds the norm bound."""
    NOT_COMMITTED = "not_committed"
    """The blob does not open any commitment on the chain."""


class RejectedInputError(Exception):
    """The input of a peer or client was refused; programs read `reason`, people the message."""

    def __init__(self, reason: RejectionReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class InvalidBlock(RejectedInputError):
    """The block breaks a rule of the state transition, so no honest node finalizes it."""


class InvalidTransaction(RejectedInputError):
    """The transaction cannot be included on top of the given state."""


class InvalidMessage(RejectedInputError):
    """A consensus or network message breaks its rules."""


class InvalidSpec(RejectedInputError):
    """A training task's specification breaks a rule of docs/spec/training.md."""


class InvalidGradient(RejectedInputError):
    """A gradient payload breaks a rule of its encoding."""
