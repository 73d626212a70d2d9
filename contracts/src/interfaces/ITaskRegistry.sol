// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Training tasks and the money behind them
/// @notice Anyone submits a training task with an escrowed budget; validators say when they hold its
/// content; the ledger moves the task from round to round; what is left is refunded.
/// @dev For every task, always: escrowed = paid + reserved + refundable + refunded, and what the
/// distributor has paid out <= paid.
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

    /// @notice What settlement needs of a task; fixed at submission and equal to what the spec says.
    struct TaskTerms {
        bytes32 specHash; // SHA-256 content id of the canonical spec
        address token; // plain ERC-20 that pays and bonds
        uint128 unitPrice; // base units of the token for one accepted unit
        uint128 validatorFee; // base units a settled round, shared by operators with a timely verdict
        uint32 rounds;
        uint32 minMiners;
        uint32 maxUnits; // of one round, at most 65 536
        uint32 auditPpm; // chance that an honest validator re-executes a gradient, in millionths
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
        bool cancelling; // the submitter asked; acts at the next round boundary
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

    /// @notice Submit a task. `spec` is the canonical JSON, at most 16 KiB; terms.specHash must be
    /// SHA-256(0x00 || spec). Pulls exactly `budget` of the token, which must have been approved.
    function submitTask(TaskTerms calldata terms, bytes calldata spec, uint256 budget)
        external
        returns (uint256 taskId);

    /// @notice Add to a task's escrow.
    function fundTask(uint256 taskId, uint256 amount) external;

    /// @notice An operator vote: this validator holds the content and dry-ran the task. At a quorum the
    /// task becomes Active.
    function postReady(uint256 taskId) external;

    /// @notice The submitter ends the task: at once while no round is open, else when the round ends.
    function cancelTask(uint256 taskId) external;

    /// @notice The submitter continues a task that was paused after three void attempts in a row.
    function resumeTask(uint256 taskId) external;

    /// @notice Pay what is refundable of a closed task to its submitter. Anyone may call.
    function refundTask(uint256 taskId) external;

    // ---- the ledger's calls

    /// @notice Move `amount` from refundable to reserved for a round; false if there is not enough.
    function reserveRound(uint256 taskId, uint256 amount) external returns (bool);

    /// @notice End a round: `payout` of the reservation is paid, the rest is refundable again.
    function settleReservation(uint256 taskId, uint256 payout) external;

    function pauseTask(uint256 taskId) external;

    function closeTask(uint256 taskId, CloseReason reason) external;

    // ---- the distributor's call

    /// @notice Transfer `amount` of the task's token, out of what was paid, to `account`.
    function payOut(uint256 taskId, address account, uint256 amount) external;

    // ---- views

    function taskCount() external view returns (uint256);

    function getTerms(uint256 taskId) external view returns (TaskTerms memory);

    function getAccount(uint256 taskId) external view returns (TaskAccount memory);

    function isReady(uint256 taskId, address operator) external view returns (bool);
}
