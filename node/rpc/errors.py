"""The errors of JSON-RPC responses (docs/spec/rpc.md, section 3)."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from chain.errors import RejectionReason
from chain.json_types import Json, JsonObject


class ErrorCode(IntEnum):
    """The number of an error, for programs."""

    PARSE = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    INVALID_INPUT = -32000
    """geth's number for an invalid transaction, call or block."""
    UNAVAILABLE = -32002
    """The node process is not reachable."""
    LIMIT_EXCEEDED = -32005
    """EIP-1474's number for a request beyond a limit."""
    HISTORY_NOT_HELD = 4444
    """EIP-4444's number for blocks that a node does not keep."""
    REVERTED = 3
    """geth's number for a revert; `data` holds the revert data of the contract."""


class RpcError(Exception):
    """A method ends with an error for the client."""

    def __init__(self, code: ErrorCode, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def to_json(self) -> JsonObject:
        """The `error` member of the response."""
        answer: JsonObject = {"code": int(self.code), "message": self.message}
        if self.data is not None:
            answer["data"] = self.data
        return answer


def invalid_params(message: str) -> RpcError:
    """The error for invalid parameters."""
    return RpcError(ErrorCode.INVALID_PARAMS, message)


def header_not_found() -> RpcError:
    """The error for the state of an unknown block, for which methods do not return null."""
    return RpcError(ErrorCode.INVALID_INPUT, "header not found")


def history_not_held(first_held: int) -> RpcError:
    """The error for a block below the state snapshot that this node began with."""
    message = f"history before block {first_held} is not held by this node"
    return RpcError(ErrorCode.HISTORY_NOT_HELD, message)


GETH_TEXTS: Final[Mapping[RejectionReason, str]] = {
    RejectionReason.NONCE_TOO_LOW: "nonce too low",
    RejectionReason.NONCE_TOO_HIGH: "nonce too high",
    RejectionReason.INSUFFICIENT_FUNDS: "insufficient funds for gas * price + value",
    RejectionReason.INTRINSIC_GAS: "intrinsic gas too low",
    RejectionReason.GAS_LIMIT: "exceeds block gas limit",
    RejectionReason.GAS_CAP: "transaction gas limit too high",
    RejectionReason.FEE_TOO_LOW: "max fee per gas less than block base fee",
    RejectionReason.TIP_ABOVE_FEE: "max priority fee per gas higher than max fee per gas",
    RejectionReason.SENDER_HAS_CODE: "sender not an eoa",
    RejectionReason.INIT_CODE_TOO_LARGE: "max initcode size exceeded",
    RejectionReason.TRANSACTION_TYPE: "transaction type not supported",
    RejectionReason.BAD_SIGNATURE: "invalid sender",
    RejectionReason.TOO_LARGE: "oversized data",
    RejectionReason.WRONG_CHAIN: "invalid chain id for signer",
    RejectionReason.MALFORMED: "rlp: malformed transaction",
    RejectionReason.ALREADY_KNOWN: "already known",
    RejectionReason.REPLACEMENT_UNDERPRICED: "replacement transaction underpriced",
    RejectionReason.UNDERPRICED: "transaction underpriced",
    RejectionReason.POOL_FULL: "txpool is full",
    RejectionReason.BANNED: "transaction can never be included",
    RejectionReason.DELEGATED_ACCOUNT: "in-flight transaction limit reached for delegated accounts",
    RejectionReason.TOO_MANY_AUTHORIZATIONS: "too many authorizations",
    RejectionReason.TOO_SLOW_TO_EXECUTE: "transaction takes too long to execute",
}
"""geth's texts, which ethers, viem and web3 recognize, by our reason."""


def build_rejection(reason: str, detail: str) -> RpcError:
    """The error for a refused transaction: geth's text, followed by our detail."""
    known = next((each for each in GETH_TEXTS if each.value == reason), None)
    text = reason if known is None else GETH_TEXTS[known]
    return RpcError(ErrorCode.INVALID_INPUT, f"{text}: {detail}" if detail else text)
