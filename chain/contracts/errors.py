"""Custom errors of the system contracts, decoded from revert data."""

from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from chain.contracts.abi import SELECTOR_BYTES, compute_selector, list_types


@dataclass(frozen=True, slots=True)
class ContractError:
    """A custom error, decoded: its name and its arguments, addresses and bytes in hexadecimal."""

    name: str
    arguments: tuple[int | str | bool, ...]

    def __str__(self) -> str:
        """As Solidity would write it."""
        return f"{self.name}({', '.join(map(str, self.arguments))})"


ERROR_SIGNATURES: Final = (
    "DistributorExceedsPaid(uint256,uint256,uint256)",
    "DistributorInvalidProof(uint256,address)",
    "DistributorNotLedger(address)",
    "DistributorNothingToClaim(uint256,address)",
    "ERC20InsufficientAllowance(address,uint256,uint256)",
    "ERC20InsufficientBalance(address,uint256,uint256)",
    "Error(string)",
    "FaucetTooSoon(address,uint256)",
    "LedgerAlreadyCommitted(uint256,address)",
    "LedgerAlreadyRegistered(uint256,address)",
    "LedgerAlreadySlashed(uint256,address)",
    "LedgerAlreadyVoted(address)",
    "LedgerBallotNotSettled(uint64)",
    "LedgerBondLocked(uint256,address)",
    "LedgerEvidenceExpired()",
    "LedgerEvidenceMismatch()",
    "LedgerInvalidUnits(uint32)",
    "LedgerInvalidVerdicts(uint256,uint256)",
    "LedgerNoQuorum(uint256,uint256)",
    "LedgerNotParticipating(uint256,address)",
    "LedgerNotRegistered(uint256,address)",
    "LedgerNothingToWithdraw()",
    "LedgerPayoutTooLarge(uint256,uint256)",
    "LedgerTooManyMiners(uint256)",
    "LedgerTooManySlashes(uint256,uint256)",
    "LedgerWrongPhase(uint256,uint8)",
    "LedgerWrongRound(uint32,uint32,uint32)",
    "Panic(uint256)",
    "ReentrancyGuardReentrantCall()",
    "TaskAlreadyReady(uint256,address)",
    "TaskInexactTransfer(uint256,uint256)",
    "TaskInvalidTerms(string)",
    "TaskNotDistributor(address)",
    "TaskNotLedger(address)",
    "TaskNotSubmitter(address)",
    "TaskNothingToRefund(uint256)",
    "TaskSpecHashMismatch(bytes32,bytes32)",
    "TaskSpecTooLarge(uint256,uint256)",
    "TaskUnknown(uint256)",
    "TaskWrongStatus(uint256,uint8)",
    "TokenAllocationMismatch(uint256,uint256)",
    "ValidatorSetAlreadySlashed(address)",
    "ValidatorSetAlreadyVoted(uint256,address)",
    "ValidatorSetBadEvidence(string)",
    "ValidatorSetGenesisUnknown()",
    "ValidatorSetInvalid(string)",
    "ValidatorSetNotCandidate(address)",
    "ValidatorSetNotMember(address)",
    "ValidatorSetNotOperator(address)",
    "ValidatorSetNotReady()",
    "ValidatorSetProposalClosed(uint256)",
    "ValidatorSetStakeLocked(address,uint64)",
    "ValidatorSetTaken(address)",
    "ValidatorSetUnknownProposal(uint256)",
    "ValidatorSetWrongStatus(address,uint8)",
)
"""The custom errors of the system contracts, those of POT that callers meet, and Solidity's two."""


_ERROR_OF: Final = {compute_selector(signature): signature for signature in ERROR_SIGNATURES}
"""By selector."""


def decode_error(data: bytes) -> ContractError | None:
    """What revert data says, or None if no system contract says such a thing."""
    signature = _ERROR_OF.get(data[:SELECTOR_BYTES])
    if signature is None:
        return None
    types = list_types(signature)
    try:
        arguments = decode(types, data[SELECTOR_BYTES:])
    except (DecodingError, UnicodeDecodeError):
        # Any contract may revert with any bytes.
        return None
    return ContractError(
        signature[: signature.index("(")],
        tuple("0x" + each.hex() if isinstance(each, bytes) else each for each in arguments),
    )
