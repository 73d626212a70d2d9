// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Training tasks and the money behind them
/// @notice Anyone can submit a training task with a budget, which is held in escrow. Once a quorum of
/// validators holds the task's content, the task is active and the ledger runs its rounds. What is left at
/// the end is refunded to the submitter.
/// @dev For every task, always: escrowed = paid + reserved + refundable + refunded, and the distributor's
/// payments for the task never exceed paid.
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
        Exhausted
    }

    /// @notice The part of a task's specification that contracts need; fixed when the task is submitted.
    struct TaskTerms {
        bytes32 specHash; // SHA-256 content id of the canonical spec
        address token; // ERC-20 token of the pay and of the bonds
        uint128 unitPrice; // base units of the token for one accepted unit
        uint128 validatorFee; // base units for a settled round, shared by the operators with a timely verdict
        uint32 rounds;
        uint32 minMiners;
        uint32 maxUnits; // units of work in one round, at most 65 536
        uint32 auditPpm; // probability that a validator re-executes a gradient, in millionths
        uint32 commitSeconds;
        uint32 verdictSeconds;
        uint32 resultSeconds;
    }

    struct TaskAccount {
        address submitter;
        TaskStatus status;
        uint32 readyCount;
        uint64 submittedBlock;
        uint64 activatedBlock;
        bool cancelling; // the submitter cancelled; takes effect when the open round ends
        uint256 escrowed;
        uint256 paid;
        uint256 reserved;
        uint256 refundable;
        uint256 refunded;
    }

    event TaskSubmitted(
        uint256 indexed taskId, address indexed submitter, bytes32 indexed specHash, uint256 budget, bytes spec
    );
    event TaskFunded(uint256 indexed taskId, address indexed from, uint256 amount);
    event TaskReady(uint256 indexed taskId, address indexed validator, uint32 readyCount);
    event TaskActivated(uint256 indexed taskId);
    event TaskPaused(uint256 indexed taskId);
    event TaskResumed(uint256 indexed taskId);
    event TaskClosed(uint256 indexed taskId, CloseReason reason);
    event TaskRefunded(uint256 indexed taskId, address indexed to, uint256 amount);

    error TaskUnknown(uint256 taskId);
    error TaskWrongStatus(uint256 taskId, TaskStatus status);
    error TaskInvalidTerms(string field);
    error TaskSpecTooLarge(uint256 size, uint256 limit);
    error TaskSpecHashMismatch(bytes32 expected, bytes32 actual);
    error TaskNotSubmitter(address caller);
    error TaskAlreadyReady(uint256 taskId, address operator);
    error TaskInexactTransfer(uint256 expected, uint256 received);
    error TaskNothingToRefund(uint256 taskId);
    error TaskNotLedger(address caller);
    error TaskNotDistributor(address caller);

    /// @notice Submit a task. `spec` is its specification as canonical JSON, at most 16 KiB, and
    /// terms.specHash is SHA-256(0x00 || spec). Pulls exactly `budget` of the token, so approve that first.
    function submitTask(TaskTerms calldata terms, bytes calldata spec, uint256 budget)
        external
        returns (uint256 taskId);

    /// @notice Add to a task's escrow.
    function fundTask(uint256 taskId, uint256 amount) external;

    /// @notice An operator vote: this validator holds the task's content and ran it once within its limits.
    /// With a quorum of these votes the task becomes active.
    function postReady(uint256 taskId) external;

    /// @notice Cancel a task; only its submitter may. Takes effect at once, or when the open round ends.
    function cancelTask(uint256 taskId) external;

    /// @notice Resume a task that was paused after three void attempts in a row; only its submitter may.
    function resumeTask(uint256 taskId) external;

    /// @notice Pay the refundable part of a closed task's escrow to its submitter. Anyone may call.
    function refundTask(uint256 taskId) external;

    // ---- the ledger's calls

    /// @notice Move `amount` from refundable to reserved, for one round; false if there is not enough.
    function reserveRound(uint256 taskId, uint256 amount) external returns (bool);

    /// @notice End a round: `payout` of the reserved amount becomes paid, the rest becomes refundable.
    function settleReservation(uint256 taskId, uint256 payout) external;

    function pauseTask(uint256 taskId) external;

    function closeTask(uint256 taskId, CloseReason reason) external;

    // ---- the distributor's call

    /// @notice Transfer `amount` of the task's token to `account`, out of the paid amount.
    function payOut(uint256 taskId, address account, uint256 amount) external;

    // ---- views

    function taskCount() external view returns (uint256);

    function getTerms(uint256 taskId) external view returns (TaskTerms memory);

    function getAccount(uint256 taskId) external view returns (TaskAccount memory);

    function isReady(uint256 taskId, address operator) external view returns (bool);
}
