// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Training tasks and the money behind them
/// @notice Anyone can submit a training task with a budget, which is held in escrow, and a fee in POT for
/// what the task takes of the validators. They examine it; once a quorum is ready, the task is active and
/// the ledger runs its rounds. Every task ends: at the latest when the lifetime is over that was paid for.
/// What is left of the budget is refunded to the submitter.
/// @dev For every task, always: escrowed = paid + reserved + refundable + refunded, and the distributor's
/// payments for the task never exceed paid. A moment is a time and a block, and it has passed when both
/// have: a chain that stands still takes no lifetime away.
interface ITaskRegistry {
    enum TaskStatus {
        None,
        Pending,
        Active,
        Paused,
        Closed
    }

    enum CloseReason {
        Completed,
        Cancelled,
        Expired,
        Refused
    }

    /// @notice The part of a task's specification that contracts need; fixed when the task is submitted.
    struct TaskTerms {
        bytes32 specHash; // SHA-256 of the canonical spec
        address token; // ERC-20 token of the pay and of the bonds
        uint128 unitPrice; // base units of the token for one accepted unit
        uint128 validatorFee; // base units for a settled round, shared by the operators with a timely verdict
        uint32 rounds;
        uint32 minMiners; // an attempt opens with at least so many seats
        uint32 minUnits; // and at least so many units of all seats together
        uint32 maxUnits; // units of work in one round, at most 65 536
        uint32 auditPpm; // probability that a validator re-executes a gradient, in millionths
        uint32 commitSeconds;
        uint32 verdictSeconds;
        uint32 resultSeconds;
    }

    /// @notice The most that a task takes of one validator, as its specification declares it.
    struct TaskResources {
        uint32 unitMilliseconds; // of a worker, to check one unit
        uint32 evaluationMilliseconds; // of a worker, to evaluate a model
        uint64 peakBytes; // of memory that a worker needs
        uint64 diskBytes; // that are kept for the task
    }

    struct TaskAccount {
        address submitter;
        TaskStatus status;
        uint32 readyCount;
        bool cancelling; // the submitter cancelled; takes effect when the open round ends
        CloseReason closeReason; // Completed while the task is open
        // slot 1
        uint64 submittedBlock;
        uint64 activatedBlock; // 0 if it never was active
        uint64 closedBlock; // 0 while the task is open
        uint64 closedTime;
        // slots 2 to 6
        uint256 escrowed;
        uint256 paid;
        uint256 reserved;
        uint256 refundable;
        uint256 refunded;
    }

    /// @notice What was bought for a task, in POT, and when it ends.
    struct TaskLease {
        uint64 windowTime; // answers are accepted, and the task may be pending, until this moment
        uint64 windowBlock;
        uint64 endTime; // the end of the lifetime; 0 before the task is active
        uint64 endBlock;
        // slot 1
        // the latest progress: the task became active or was resumed, or an attempt ended that was paid or that
        // had no commitment
        uint64 progressTime;
        uint64 progressBlock;
        uint32 lifetimeSeconds; // bought before the task became active
        uint32 attemptsLeft; // attempts that may still open
        uint32 attemptSeconds; // the longest course of an attempt
        uint8 refusalCode; // with which the task was refused; 0 if it was not
        // slot 2
        uint128 answerPay; // for one answer of a validator
        uint32 idleSeconds; // after progress, until an active task is over
        uint64 idleBlocks;
        // slots 3 and 4
        uint256 heldPay; // for answers that were not given yet
        uint256 heldRent; // for the lifetime; burnt when the task becomes active
    }

    /// @notice The prices of a network, fixed at genesis, in base units of POT.
    struct Prices {
        uint32 taskSlots; // tasks that may be open at a time
        uint128 slotPrice; // a second of a slot while all are free
        uint128 secondPrice; // a second of one validator's worker
        uint128 bytePrice; // a GiB of one validator for a day
        uint128 examinationFee; // an answer, besides the time of the dry run
        uint32 pendingSeconds; // how long answers are accepted
        uint32 maxLifetimeSeconds; // how far in the future a lifetime may end
        uint32 idleSeconds; // the least time without a paid attempt after which a task expires
        uint32 emptyBlockMilliseconds; // the longest time between two blocks of a healthy chain
        uint32 phaseFloorBlocks; // the least blocks of a phase
    }

    /// @notice The parts of a fee, in base units of POT.
    struct Quote {
        uint256 pendingRent; // for the time in which the task is examined; burnt at once
        uint256 answerPay; // for one answer of a validator
        uint256 examination; // for one answer of each validator
        uint256 rent; // for the slot, memory and disk during the lifetime
        uint256 computation; // for the validators' time: used in attempts or promised, whichever is more
        uint256 fee; // pendingRent + examination + rent + computation
    }

    event TaskSubmitted(
        uint256 indexed taskId, address indexed submitter, bytes32 indexed specHash, uint256 budget, bytes spec
    );
    event TaskFunded(uint256 indexed taskId, address indexed from, uint256 amount);
    /// @notice Something was bought for a task, or its lifetime began; `burnt` POT were burnt by that.
    event TaskLeased(uint256 indexed taskId, address indexed from, uint256 burnt, TaskLease lease);
    event TaskAnswered(uint256 indexed taskId, address indexed validator, uint8 code, uint32 equalCount);
    event TaskActivated(uint256 indexed taskId);
    event TaskPaused(uint256 indexed taskId);
    event TaskResumed(uint256 indexed taskId);
    event TaskClosed(uint256 indexed taskId, CloseReason reason);
    event TaskRefunded(uint256 indexed taskId, address indexed to, uint256 amount);
    event TaskFeeRefunded(uint256 indexed taskId, address indexed to, uint256 amount);
    event ExaminationPayWithdrawn(address indexed account, uint256 amount);

    error TaskUnknown(uint256 taskId);
    error TaskWrongStatus(uint256 taskId, TaskStatus status);
    error TaskInvalidTerms(string field);
    error TaskSpecTooLarge(uint256 size, uint256 limit);
    error TaskSpecHashMismatch(bytes32 expected, bytes32 actual);
    error TaskNotSubmitter(address caller);
    error TaskNoFreeSlot(uint256 slots);
    error TaskFeeTooHigh(uint256 fee, uint256 maxFee);
    error TaskAlreadyAnswered(uint256 taskId, address operator);
    error TaskAnswersOver(uint256 taskId);
    error TaskNotExpired(uint256 taskId);
    error TaskIsOver(uint256 taskId);
    error TaskInexactTransfer(uint256 expected, uint256 received);
    error TaskNothingToRefund(uint256 taskId);
    error TaskNothingToWithdraw(address account);
    error TaskNotLedger(address caller);
    error TaskNotDistributor(address caller);

    /// @notice Submit a task. `spec` is its specification as canonical JSON, at most 16 KiB, and
    /// terms.specHash is SHA-256(spec). Pulls exactly `budget` of the token and the fee of `quote` in
    /// POT, so approve both first. Reverts if the fee is above `maxFee` or no slot is free.
    /// @param lifetimeSeconds How long the task may be open once it is active.
    /// @param attempts How many attempts at rounds may open.
    function submitTask(
        TaskTerms calldata terms,
        TaskResources calldata resources,
        bytes calldata spec,
        uint256 budget,
        uint32 lifetimeSeconds,
        uint32 attempts,
        uint256 maxFee
    ) external returns (uint256 taskId);

    /// @notice Buy more lifetime or more attempts for an open task, at today's prices. Anyone may call. Reverts if
    /// both are 0.
    function extendTask(uint256 taskId, uint32 lifetimeSeconds, uint32 attempts, uint256 maxFee) external;

    /// @notice Add more than 0 to a task's escrow.
    function fundTask(uint256 taskId, uint256 amount) external;

    /// @notice An operator vote: this validator examined the task. Code 0 says that it is ready: it holds the
    /// task's content and ran it once within its limits. Every other code is a reason to refuse. One answer
    /// of a validator, paid whatever it says, also if the task was decided meanwhile. With a quorum of code 0
    /// the task becomes active; with f + 1 equal other codes it is closed.
    function answerTask(uint256 taskId, uint8 code) external;

    /// @notice Pay the caller what it earned by answers.
    function withdrawExaminationPay() external;

    /// @notice Cancel a task; only its submitter may. Takes effect at once, or when the open round ends.
    function cancelTask(uint256 taskId) external;

    /// @notice Resume a task that was paused because three attempts in a row had commitments and were void; only
    /// its submitter may. A paused task does not become idle: it ends with its lifetime at the earliest.
    function resumeTask(uint256 taskId) external;

    /// @notice Pay the refundable part of a closed task's escrow to its submitter. Anyone may call.
    function refundTask(uint256 taskId) external;

    /// @notice Pay back to the submitter what was held in POT and is not needed: pay for answers that were
    /// not given in time, and the rent of a task that closed before it was active. Anyone may call.
    function refundFee(uint256 taskId) external;

    /// @notice Close a task that is over: pending for too long, at the end of its lifetime, or idle. No
    /// attempt may be open. Anyone may call.
    function expireTask(uint256 taskId) external;

    // ---- the ledger's calls

    /// @notice Move `amount` from refundable to reserved, for one attempt; false if there is not enough, if all
    /// attempts were used, or if the lifetime may end before the attempt does.
    function reserveRound(uint256 taskId, uint256 amount) external returns (bool);

    /// @notice End a round: `payout` of the reserved amount becomes paid, the rest becomes refundable.
    /// `isEmpty` says that the attempt had no commitment, and so cost validators nothing: it is given back to the
    /// task, and counts as progress.
    function settleReservation(uint256 taskId, uint256 payout, bool isEmpty) external;

    function pauseTask(uint256 taskId) external;

    function closeTask(uint256 taskId, CloseReason reason) external;

    // ---- the distributor's call

    /// @notice Transfer `amount` of the task's token to `account`, out of the paid amount.
    function payOut(uint256 taskId, address account, uint256 amount) external;

    // ---- views

    function taskCount() external view returns (uint256);

    function getTerms(uint256 taskId) external view returns (TaskTerms memory);

    function getResources(uint256 taskId) external view returns (TaskResources memory);

    function getAccount(uint256 taskId) external view returns (TaskAccount memory);

    /// @notice Whether reserveRound would succeed now.
    function canReserveRound(uint256 taskId, uint256 amount) external view returns (bool);

    function getLease(uint256 taskId) external view returns (TaskLease memory);

    /// @notice The prices of the network.
    function prices() external view returns (Prices memory);

    /// @notice The fee with which a task could be submitted now.
    function quote(
        TaskTerms calldata terms,
        TaskResources calldata resources,
        uint32 lifetimeSeconds,
        uint32 attempts
    ) external view returns (Quote memory);

    /// @notice The fee with which a task could be extended now.
    function quoteExtension(uint256 taskId, uint32 lifetimeSeconds, uint32 attempts)
        external
        view
        returns (Quote memory);

    /// @notice The least lifetime of a task with these terms: the longest course of an attempt.
    function attemptSecondsOf(TaskTerms calldata terms) external view returns (uint256);

    /// @notice Whether `expireTask` would close the task now.
    function isExpired(uint256 taskId) external view returns (bool);

    /// @notice The tasks that are pending, active or paused.
    function openTasks() external view returns (uint256);

    /// @notice The POT that fees have burnt; it stays in this contract for ever.
    function burnt() external view returns (uint256);

    /// @notice What an operator account can withdraw for its answers.
    function examinationPayOf(address account) external view returns (uint256);

    /// @notice The answer of an operator's validator: its code + 1, or 0 if it has not answered.
    function answerOf(uint256 taskId, address operator) external view returns (uint16);
}
