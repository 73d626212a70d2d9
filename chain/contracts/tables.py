"""The ABIs of the system contracts; `make contracts` writes this file from contracts/build."""

from typing import Final

from chain.contracts.abi import ContractAbi, EventAbi, FunctionAbi

FAUCET: Final = ContractAbi(
    constructor=("uint256", "uint256", "uint64"),
    functions={
        "blocksBetween": FunctionAbi((), ("uint64",)),
        "coinAmount": FunctionAbi((), ("uint256",)),
        "drip": FunctionAbi(("address",), ()),
        "nextBlockOf": FunctionAbi(("address",), ("uint256",)),
        "tokenAmount": FunctionAbi((), ("uint256",)),
    },
    events={"Dripped": EventAbi(("address", "uint256", "uint256"), (0,))},
    errors={
        "FailedCall": (),
        "FaucetTooSoon": ("address", "uint256"),
        "InsufficientBalance": ("uint256", "uint256"),
        "SafeERC20FailedOperation": ("address",),
    },
)
"""The ABI of Faucet.sol."""

GRADIENT_LEDGER: Final = ContractAbi(
    constructor=("uint32", "uint32"),
    functions={
        "advanceRound": FunctionAbi(("uint256",), ()),
        "commitGradient": FunctionAbi(("uint256", "uint32", "uint32", "uint32", "bytes32"), ()),
        "deadline": FunctionAbi(("uint256",), ("uint64", "uint64")),
        "endedAttempt": FunctionAbi(
            ("uint256", "uint32"), ("(uint32,uint32,uint32,uint32,uint32,uint64)",)
        ),
        "expectOneLess": FunctionAbi(("uint256",), ()),
        "getRound": FunctionAbi(
            ("uint256",),
            (
                "(uint32,uint32,uint32,uint32,uint64,uint32,bool,uint64,uint64,uint64,uint64,uint64,uint64,uint32,uint32,uint32,uint32,uint32,bytes32,bytes32,uint256)",
            ),
        ),
        "graceBlocks": FunctionAbi((), ("uint32",)),
        "judgesOf": FunctionAbi(("uint256", "uint32"), ("uint256",)),
        "phase": FunctionAbi(("uint256",), ("uint8",)),
        "phaseFloorBlocks": FunctionAbi((), ("uint32",)),
        "postLateVerdict": FunctionAbi(("uint256", "uint32", "bytes"), ()),
        "postResult": FunctionAbi(
            (
                "uint256",
                "uint32",
                "uint32",
                "uint32",
                "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)",
                "uint32",
                "uint64",
            ),
            (),
        ),
        "postVerdict": FunctionAbi(("uint256", "uint32", "uint32", "uint32", "bytes"), ()),
        "progressOf": FunctionAbi(("uint256",), ("(uint32,bool,uint64,uint64)",)),
        "settleRound": FunctionAbi(
            ("uint256", "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)"), ()
        ),
    },
    events={
        "AttemptOpened": EventAbi(
            ("uint256", "uint32", "uint32", "uint32", "uint32", "uint256"), (0, 1)
        ),
        "AttemptPaid": EventAbi(
            (
                "uint256",
                "uint32",
                "uint32",
                "uint32",
                "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)",
            ),
            (0, 1),
        ),
        "AttemptVoided": EventAbi(("uint256", "uint32", "uint32"), (0, 1)),
        "BallotFailed": EventAbi(("uint256", "uint32", "uint32", "uint32"), (0, 1)),
        "GradientCommitted": EventAbi(
            ("uint256", "uint32", "address", "uint32", "uint32", "uint32", "bytes32"), (0, 1, 2)
        ),
        "LateVerdictPosted": EventAbi(("uint256", "address", "uint32", "bytes"), (0, 1)),
        "ResultPosted": EventAbi(
            (
                "uint256",
                "uint32",
                "address",
                "uint32",
                "uint32",
                "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)",
                "uint32",
                "uint64",
            ),
            (0, 1, 2),
        ),
        "RoundSettled": EventAbi(
            (
                "uint256",
                "uint32",
                "uint32",
                "uint32",
                "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)",
            ),
            (0, 1),
        ),
        "VerdictPosted": EventAbi(
            ("uint256", "uint32", "address", "uint32", "uint32", "bool", "bytes"), (0, 1, 2)
        ),
    },
    errors={
        "LedgerAlreadyVoted": ("address",),
        "LedgerInvalidResult": ("uint8",),
        "LedgerInvalidVerdicts": ("uint256", "uint256"),
        "LedgerNoQuorum": ("uint256", "uint256"),
        "LedgerNotSeats": ("address",),
        "LedgerOtherVoters": ("uint104",),
        "LedgerPayoutTooLarge": ("uint256", "uint256"),
        "LedgerTooLate": ("uint256", "uint32"),
        "LedgerTooManyUnits": ("uint32", "uint32"),
        "LedgerUnknownVerdict": (),
        "LedgerWrongPhase": ("uint256", "uint8"),
        "LedgerWrongRound": ("uint32", "uint32", "uint32"),
    },
)
"""The ABI of GradientLedger.sol."""

MINER_SEATS: Final = ContractAbi(
    constructor=("uint256", "uint32"),
    functions={
        "creditOf": FunctionAbi(("address", "address"), ("uint256",)),
        "endSeats": FunctionAbi(("uint256", "address[]"), ()),
        "finesOf": FunctionAbi(("uint256", "uint32"), ("bytes32", "bytes32")),
        "getSeat": FunctionAbi(
            ("uint256", "address"),
            (
                "(uint32,uint32,uint32,uint32,uint32,uint32,uint8,bool,bool,uint32,bool,uint208,uint32,bool)",
            ),
        ),
        "leave": FunctionAbi(("uint256",), ()),
        "listOver": FunctionAbi(("uint256", "uint256"), ("address[]",)),
        "listSeats": FunctionAbi(("uint256",), ("address[]", "uint32[]", "uint32[]")),
        "noteCommitment": FunctionAbi(("uint256", "uint32", "address", "uint32"), ()),
        "participants": FunctionAbi(("uint256",), ("address[]", "uint32[]")),
        "postFines": FunctionAbi(("uint256", "uint32", "bytes32"), ()),
        "register": FunctionAbi(("uint256", "uint32", "address[]"), ()),
        "registeredUnits": FunctionAbi(("uint256",), ("uint32",)),
        "requiredBond": FunctionAbi(("uint256", "uint32"), ("uint256",)),
        "seatAttempts": FunctionAbi((), ("uint32",)),
        "seatBond": FunctionAbi((), ("uint256",)),
        "seatCount": FunctionAbi(("uint256",), ("uint256",)),
        "slash": FunctionAbi(
            ("uint256", "uint32", "(uint32,uint32,address,uint8,uint256)[]", "bytes32[][]"), ()
        ),
        "withdrawBond": FunctionAbi(("uint256",), ()),
        "withdrawCredit": FunctionAbi(("address",), ()),
        "withdrawSeatBond": FunctionAbi(("uint256",), ()),
    },
    events={
        "BondWithdrawn": EventAbi(("uint256", "address", "uint256", "uint256"), (0, 1)),
        "CreditWithdrawn": EventAbi(("address", "address", "uint256"), (0, 1)),
        "FinesApproved": EventAbi(("uint256", "uint32", "bool", "bytes32"), (0,)),
        "FinesPosted": EventAbi(("uint256", "address", "uint32", "bool", "bytes32"), (0, 1)),
        "MinerAbsent": EventAbi(("uint256", "address", "uint32", "uint256"), (0, 1)),
        "MinerFined": EventAbi(("uint256", "address", "uint32", "uint8", "uint256"), (0, 1)),
        "MinerLeft": EventAbi(("uint256", "address"), (0, 1)),
        "MinerRegistered": EventAbi(("uint256", "address", "uint32", "uint256", "uint256"), (0, 1)),
        "SeatBondBurnt": EventAbi(("uint256", "address", "uint256"), (0, 1)),
    },
    errors={
        "ReentrancyGuardReentrantCall": (),
        "SafeERC20FailedOperation": ("address",),
        "SeatsAlreadyApproved": ("uint256", "uint32"),
        "SeatsAlreadyCommitted": ("uint256", "address"),
        "SeatsAlreadyRegistered": ("uint256", "address"),
        "SeatsAlreadyVoted": ("address",),
        "SeatsAttemptOpening": ("uint256",),
        "SeatsAttemptOwed": ("uint256", "address"),
        "SeatsBondLocked": ("uint256", "address"),
        "SeatsInvalidFine": ("uint256",),
        "SeatsInvalidUnits": ("uint32",),
        "SeatsListTooLong": ("uint256", "uint256"),
        "SeatsNoneOver": ("uint256",),
        "SeatsNotActive": ("uint256",),
        "SeatsNotDisplaceable": ("uint256", "address"),
        "SeatsNotLedger": ("address",),
        "SeatsNotParticipating": ("uint256", "address"),
        "SeatsNotRegistered": ("uint256", "address"),
        "SeatsNothingToFine": ("uint256", "uint32"),
        "SeatsNothingToWithdraw": (),
        "SeatsTaskFull": ("uint32",),
        "SeatsTooFewUnits": ("uint32",),
        "SeatsTooManyMiners": ("uint256",),
        "SeatsWindowClosed": ("uint256", "uint32"),
        "TaskInexactTransfer": ("uint256", "uint256"),
    },
)
"""The ABI of MinerSeats.sol."""

REWARD_DISTRIBUTOR: Final = ContractAbi(
    constructor=(),
    functions={
        "claim": FunctionAbi(("uint256", "uint256", "bytes32[]"), ()),
        "claimFor": FunctionAbi(("uint256", "address", "uint256", "bytes32[]"), ()),
        "claimMany": FunctionAbi(("(uint256,address,uint256,bytes32[])[]",), ()),
        "claimedOf": FunctionAbi(("uint256", "address"), ("uint256",)),
        "claimedTotalOf": FunctionAbi(("uint256",), ("uint256",)),
        "paidTotalOf": FunctionAbi(("uint256",), ("uint256",)),
        "rootOf": FunctionAbi(("uint256",), ("bytes32",)),
        "setRoot": FunctionAbi(("uint256", "bytes32", "uint256"), ()),
    },
    events={
        "Claimed": EventAbi(("uint256", "address", "uint256", "uint256"), (0, 1)),
        "RootSet": EventAbi(("uint256", "bytes32", "uint256"), (0,)),
    },
    errors={
        "DistributorExceedsPaid": ("uint256", "uint256", "uint256"),
        "DistributorInvalidProof": ("uint256", "address"),
        "DistributorNotLedger": ("address",),
        "DistributorNothingToClaim": ("uint256", "address"),
    },
)
"""The ABI of RewardDistributor.sol."""

TASK_REGISTRY: Final = ContractAbi(
    constructor=("(uint32,uint128,uint128,uint128,uint128,uint32,uint32,uint32,uint32,uint32)",),
    functions={
        "answerOf": FunctionAbi(("uint256", "address"), ("uint16",)),
        "answerTask": FunctionAbi(("uint256", "uint8"), ()),
        "attemptSecondsOf": FunctionAbi(
            (
                "(bytes32,address,uint128,uint128,uint32,uint32,uint32,uint32,uint32,uint32,uint32,uint32)",
            ),
            ("uint256",),
        ),
        "burnt": FunctionAbi((), ("uint256",)),
        "canReserveRound": FunctionAbi(("uint256", "uint256"), ("bool",)),
        "cancelTask": FunctionAbi(("uint256",), ()),
        "closeTask": FunctionAbi(("uint256", "uint8"), ()),
        "examinationPayOf": FunctionAbi(("address",), ("uint256",)),
        "expireTask": FunctionAbi(("uint256",), ()),
        "extendTask": FunctionAbi(("uint256", "uint32", "uint32", "uint256"), ()),
        "fundTask": FunctionAbi(("uint256", "uint256"), ()),
        "getAccount": FunctionAbi(
            ("uint256",),
            (
                "(address,uint8,uint32,bool,uint8,uint64,uint64,uint64,uint64,uint256,uint256,uint256,uint256,uint256)",
            ),
        ),
        "getLease": FunctionAbi(
            ("uint256",),
            (
                "(uint64,uint64,uint64,uint64,uint64,uint64,uint32,uint32,uint32,uint8,uint128,uint32,uint64,uint256,uint256)",
            ),
        ),
        "getResources": FunctionAbi(("uint256",), ("(uint32,uint32,uint64,uint64)",)),
        "getTerms": FunctionAbi(
            ("uint256",),
            (
                "(bytes32,address,uint128,uint128,uint32,uint32,uint32,uint32,uint32,uint32,uint32,uint32)",
            ),
        ),
        "isExpired": FunctionAbi(("uint256",), ("bool",)),
        "openTasks": FunctionAbi((), ("uint256",)),
        "pauseTask": FunctionAbi(("uint256",), ()),
        "payOut": FunctionAbi(("uint256", "address", "uint256"), ()),
        "prices": FunctionAbi(
            (), ("(uint32,uint128,uint128,uint128,uint128,uint32,uint32,uint32,uint32,uint32)",)
        ),
        "quote": FunctionAbi(
            (
                "(bytes32,address,uint128,uint128,uint32,uint32,uint32,uint32,uint32,uint32,uint32,uint32)",
                "(uint32,uint32,uint64,uint64)",
                "uint32",
                "uint32",
            ),
            ("(uint256,uint256,uint256,uint256,uint256,uint256)",),
        ),
        "quoteExtension": FunctionAbi(
            ("uint256", "uint32", "uint32"), ("(uint256,uint256,uint256,uint256,uint256,uint256)",)
        ),
        "refundFee": FunctionAbi(("uint256",), ()),
        "refundTask": FunctionAbi(("uint256",), ()),
        "reserveRound": FunctionAbi(("uint256", "uint256"), ("bool",)),
        "resumeTask": FunctionAbi(("uint256",), ()),
        "settleReservation": FunctionAbi(("uint256", "uint256", "bool"), ()),
        "submitTask": FunctionAbi(
            (
                "(bytes32,address,uint128,uint128,uint32,uint32,uint32,uint32,uint32,uint32,uint32,uint32)",
                "(uint32,uint32,uint64,uint64)",
                "bytes",
                "uint256",
                "uint32",
                "uint32",
                "uint256",
            ),
            ("uint256",),
        ),
        "taskCount": FunctionAbi((), ("uint256",)),
        "withdrawExaminationPay": FunctionAbi((), ()),
    },
    events={
        "ExaminationPayWithdrawn": EventAbi(("address", "uint256"), (0,)),
        "TaskActivated": EventAbi(("uint256",), (0,)),
        "TaskAnswered": EventAbi(("uint256", "address", "uint8", "uint32"), (0, 1)),
        "TaskClosed": EventAbi(("uint256", "uint8"), (0,)),
        "TaskFeeRefunded": EventAbi(("uint256", "address", "uint256"), (0, 1)),
        "TaskFunded": EventAbi(("uint256", "address", "uint256"), (0, 1)),
        "TaskLeased": EventAbi(
            (
                "uint256",
                "address",
                "uint256",
                "(uint64,uint64,uint64,uint64,uint64,uint64,uint32,uint32,uint32,uint8,uint128,uint32,uint64,uint256,uint256)",
            ),
            (0, 1),
        ),
        "TaskPaused": EventAbi(("uint256",), (0,)),
        "TaskRefunded": EventAbi(("uint256", "address", "uint256"), (0, 1)),
        "TaskResumed": EventAbi(("uint256",), (0,)),
        "TaskSubmitted": EventAbi(("uint256", "address", "bytes32", "uint256", "bytes"), (0, 1, 2)),
    },
    errors={
        "ReentrancyGuardReentrantCall": (),
        "SafeERC20FailedOperation": ("address",),
        "TaskAlreadyAnswered": ("uint256", "address"),
        "TaskAnswersOver": ("uint256",),
        "TaskFeeTooHigh": ("uint256", "uint256"),
        "TaskInexactTransfer": ("uint256", "uint256"),
        "TaskInvalidTerms": ("string",),
        "TaskIsOver": ("uint256",),
        "TaskNoFreeSlot": ("uint256",),
        "TaskNotDistributor": ("address",),
        "TaskNotExpired": ("uint256",),
        "TaskNotLedger": ("address",),
        "TaskNotSubmitter": ("address",),
        "TaskNothingToRefund": ("uint256",),
        "TaskNothingToWithdraw": ("address",),
        "TaskSpecHashMismatch": ("bytes32", "bytes32"),
        "TaskSpecTooLarge": ("uint256", "uint256"),
        "TaskUnknown": ("uint256",),
        "TaskWrongStatus": ("uint256", "uint8"),
    },
)
"""The ABI of TaskRegistry.sol."""

TRAINING_TOKEN: Final = ContractAbi(
    constructor=("address[]", "uint256[]"),
    functions={
        "DOMAIN_SEPARATOR": FunctionAbi((), ("bytes32",)),
        "allowance": FunctionAbi(("address", "address"), ("uint256",)),
        "approve": FunctionAbi(("address", "uint256"), ("bool",)),
        "balanceOf": FunctionAbi(("address",), ("uint256",)),
        "decimals": FunctionAbi((), ("uint8",)),
        "eip712Domain": FunctionAbi(
            (), ("bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]")
        ),
        "name": FunctionAbi((), ("string",)),
        "nonces": FunctionAbi(("address",), ("uint256",)),
        "permit": FunctionAbi(
            ("address", "address", "uint256", "uint256", "uint8", "bytes32", "bytes32"), ()
        ),
        "symbol": FunctionAbi((), ("string",)),
        "totalSupply": FunctionAbi((), ("uint256",)),
        "transfer": FunctionAbi(("address", "uint256"), ("bool",)),
        "transferFrom": FunctionAbi(("address", "address", "uint256"), ("bool",)),
    },
    events={
        "Approval": EventAbi(("address", "address", "uint256"), (0, 1)),
        "EIP712DomainChanged": EventAbi((), ()),
        "Transfer": EventAbi(("address", "address", "uint256"), (0, 1)),
    },
    errors={
        "ECDSAInvalidSignature": (),
        "ECDSAInvalidSignatureLength": ("uint256",),
        "ECDSAInvalidSignatureS": ("bytes32",),
        "ERC20InsufficientAllowance": ("address", "uint256", "uint256"),
        "ERC20InsufficientBalance": ("address", "uint256", "uint256"),
        "ERC20InvalidApprover": ("address",),
        "ERC20InvalidReceiver": ("address",),
        "ERC20InvalidSender": ("address",),
        "ERC20InvalidSpender": ("address",),
        "ERC2612ExpiredSignature": ("uint256",),
        "ERC2612InvalidSigner": ("address", "address"),
        "InvalidAccountNonce": ("address", "uint256"),
        "InvalidShortString": (),
        "StringTooLong": ("string",),
        "TokenAllocationMismatch": ("uint256", "uint256"),
    },
)
"""The ABI of TrainingToken.sol."""

VALIDATOR_SET: Final = ContractAbi(
    constructor=("address[]", "address[]", "uint256", "uint256", "uint64", "uint64"),
    functions={
        "activationBlock": FunctionAbi((), ("uint256",)),
        "candidacyOf": FunctionAbi(("address",), ("uint256",)),
        "carryOut": FunctionAbi(("uint256",), ()),
        "changeBlocks": FunctionAbi((), ("uint64",)),
        "committee": FunctionAbi((), ("address[]", "address[]")),
        "committeeOf": FunctionAbi(("uint256",), ("address[]", "address[]")),
        "count": FunctionAbi((), ("uint256",)),
        "evidenceBlocks": FunctionAbi((), ("uint64",)),
        "genesisHash": FunctionAbi((), ("bytes32",)),
        "getProposal": FunctionAbi(
            ("uint256",), ("(address,address,bool,bool,uint64,uint256)", "uint256", "uint256")
        ),
        "getValidator": FunctionAbi(("address",), ("(address,uint8,bool,uint64,uint256)",)),
        "hasVoted": FunctionAbi(("uint256", "address"), ("bool",)),
        "indexOf": FunctionAbi(("uint256", "address"), ("uint256",)),
        "leaveSet": FunctionAbi((), ()),
        "maxFaulty": FunctionAbi((), ("uint256",)),
        "memberOfOperator": FunctionAbi(
            ("uint256", "address"), ("uint256", "address", "uint256", "uint256")
        ),
        "minValidators": FunctionAbi((), ("uint256",)),
        "nextSetHash": FunctionAbi((), ("bytes32",)),
        "nextValidators": FunctionAbi((), ("address[]",)),
        "operatorOf": FunctionAbi(("address",), ("address",)),
        "proposalCount": FunctionAbi((), ("uint256",)),
        "proposeJoin": FunctionAbi(("address", "bytes"), ("uint256",)),
        "proposeRemoval": FunctionAbi(("address",), ("uint256",)),
        "quorum": FunctionAbi((), ("uint256",)),
        "quorumOf": FunctionAbi(("uint256",), ("uint256",)),
        "recordGenesis": FunctionAbi((), ()),
        "removeExiting": FunctionAbi(("address",), ()),
        "reportEquivocation": FunctionAbi(
            ("(uint8,uint32,uint64,uint64)", "(bytes32,bytes)", "(bytes32,bytes)"), ()
        ),
        "reportLostLock": FunctionAbi(
            ("(uint8,uint32,uint64,uint64)", "(bytes32,bytes)", "(uint64,uint64,bytes32,bytes)"), ()
        ),
        "requiredStake": FunctionAbi((), ("uint256",)),
        "setHash": FunctionAbi((), ("bytes32",)),
        "slashedTotal": FunctionAbi((), ("uint256",)),
        "validatorOf": FunctionAbi(("address",), ("address",)),
        "version": FunctionAbi((), ("uint256",)),
        "voteOnProposal": FunctionAbi(("uint256",), ()),
        "withdrawProposal": FunctionAbi(("uint256",), ()),
        "withdrawStake": FunctionAbi((), ()),
    },
    events={
        "ExitRequested": EventAbi(("address",), (0,)),
        "ProposalClosed": EventAbi(("uint256", "bool"), (0,)),
        "ProposalMade": EventAbi(("uint256", "address", "address", "bool", "uint64"), (0, 1, 2)),
        "ProposalVoted": EventAbi(("uint256", "address"), (0, 1)),
        "SetScheduled": EventAbi(("uint256", "address", "bool", "uint64"), (0, 1)),
        "StakeWithdrawn": EventAbi(("address", "address", "uint256"), (0, 1)),
        "ValidatorSlashed": EventAbi(("address", "address", "uint64", "uint256"), (0, 1)),
    },
    errors={
        "SafeERC20FailedOperation": ("address",),
        "ValidatorSetAlreadySlashed": ("address",),
        "ValidatorSetAlreadyVoted": ("uint256", "address"),
        "ValidatorSetBadEvidence": ("string",),
        "ValidatorSetGenesisUnknown": (),
        "ValidatorSetInvalid": ("string",),
        "ValidatorSetNotCandidate": ("address",),
        "ValidatorSetNotMember": ("address",),
        "ValidatorSetNotOperator": ("address",),
        "ValidatorSetNotReady": (),
        "ValidatorSetProposalClosed": ("uint256",),
        "ValidatorSetStakeLocked": ("address", "uint64"),
        "ValidatorSetTaken": ("address",),
        "ValidatorSetUnknownProposal": ("uint256",),
        "ValidatorSetWrongStatus": ("address", "uint8"),
    },
)
"""The ABI of ValidatorSet.sol."""
