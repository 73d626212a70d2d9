// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title The seats of miners in tasks: bonds, terms, misses, fines
/// @notice A miner takes a seat in a task with two bonds: one in the task's token, which answers for its
/// gradients, and one in POT, which answers for its presence. A seat takes part in every attempt until it
/// ends: it leaves, it is displaced after its term, or it misses twice.
/// @dev An attempt is named by its ordinal, which counts all attempts of a task from 1.
interface IMinerSeats {
    enum FineKind {
        Miss, // no gradient that a quorum could get: an eighth of the round's pay and of the seat bond
        Deviation, // reserved for tasks in which only a sample of the gradients is re-executed
        Fraud // the whole bond
    }

    struct Seat {
        uint32 units; // units of work that the miner does in each round; 0 if it has no seat
        uint32 firstAttempt; // the first attempt in which the seat takes part
        uint32 lastAttempt; // the last one, once the seat has ended
        uint32 accountedAttempt; // absence is accounted for up to this attempt
        uint32 committedAttempt; // the attempt of the miner's last commitment
        uint32 position; // index in the list of seats + 1; 0 once the seat has ended
        uint8 missCount;
        bool hasSeatBond; // less an eighth for each miss
        bool isSlashed; // the miner lost its bond; it may register again
        uint40 registeredBlock;
        uint256 bond;
    }

    /// @dev A leaf of an attempt's tree of fines.
    struct Fine {
        uint32 ballot; // the ballot whose verdicts cost the fine
        uint32 index; // of the commitment
        address miner;
        FineKind kind;
        uint256 accusers; // bit i: validator i of the judging set said cheat in time
    }

    event MinerRegistered(
        uint256 indexed taskId, address indexed miner, uint32 units, uint256 bond, uint256 seatBond
    );
    event MinerLeft(uint256 indexed taskId, address indexed miner);
    event BondWithdrawn(uint256 indexed taskId, address indexed miner, uint256 amount, uint256 seatBond);
    /// @dev The miner took part in the attempt and did not commit.
    event MinerAbsent(uint256 indexed taskId, address indexed miner, uint32 ordinal, uint256 amount);
    event MinerFined(
        uint256 indexed taskId, address indexed miner, uint32 ordinal, FineKind kind, uint256 amount
    );
    /// @dev A miss burnt an eighth of the seat bond; or all that was left of it is burnt, because two misses
    /// were within eight attempts, the seat missed its last attempt, or the miner committed a fraud.
    event SeatBondBurnt(uint256 indexed taskId, address indexed miner, uint256 amount);
    event FinesPosted(
        uint256 indexed taskId, address indexed validator, uint32 ordinal, bool isClosing, bytes32 root
    );
    event FinesApproved(uint256 indexed taskId, uint32 ordinal, bool isClosing, bytes32 root);
    event CreditWithdrawn(address indexed token, address indexed account, uint256 amount);

    error SeatsNotActive(uint256 taskId);
    error SeatsInvalidUnits(uint32 units);
    error SeatsTooFewUnits(uint32 least);
    error SeatsAlreadyRegistered(uint256 taskId, address miner);
    error SeatsNotRegistered(uint256 taskId, address miner);
    error SeatsTooManyMiners(uint256 limit);
    error SeatsTaskFull(uint32 freeUnits);
    error SeatsNotDisplaceable(uint256 taskId, address miner);
    error SeatsAttemptOpening(uint256 taskId);
    error SeatsAttemptOwed(uint256 taskId, address miner);
    error SeatsBondLocked(uint256 taskId, address miner);
    error SeatsNotParticipating(uint256 taskId, address miner);
    error SeatsAlreadyCommitted(uint256 taskId, address miner);
    error SeatsNotLedger(address caller);
    error SeatsNoneOver(uint256 taskId);
    error SeatsWindowClosed(uint256 taskId, uint32 ordinal);
    error SeatsAlreadyVoted(address validator);
    error SeatsInvalidFine(uint256 position);
    error SeatsTooManyFines(uint256 count, uint256 limit);
    error SeatsNothingToFine(uint256 taskId, uint32 ordinal);
    error SeatsNothingToWithdraw();

    /// @notice Take a seat with `units` of work in each round, from the next attempt on. Pulls
    /// requiredBond(taskId, units) in the task's token, and the seat bond in POT. The task must be active or
    /// paused, and `units` at least a 1024th of the task's. If too few units are free, `displaced` names seats
    /// whose term is over, with at most twice as many units; they leave.
    function register(uint256 taskId, uint32 units, address[] calldata displaced) external;

    /// @notice Leave the task at the end of the attempt in progress. Reverts before the seat has taken part
    /// in an attempt, unless the task is not active or opened none for 256 blocks.
    function leave(uint256 taskId) external;

    /// @notice Return both bonds of the caller, whose seat has ended or whose task is closed. Reverts until
    /// no attempt that the caller took part in can be fined any more. What is left of the seat bond is burnt
    /// if the seat missed the last attempt that it took part in.
    function withdrawBond(uint256 taskId) external;

    /// @notice Return the bond in POT alone, for callers whose task has a token that no longer moves.
    function withdrawSeatBond(uint256 taskId) external;

    /// @notice Account for the absences of up to 64 miners, and end the seats with two misses. Reverts if
    /// none of them ends. Anyone may call.
    function endSeats(uint256 taskId, address[] calldata miners) external;

    /// @notice An operator vote of the judges of an ended attempt on the root of its fines. Each judge has one
    /// vote at once, and a closing one after the window of late verdicts. With a quorum the root is approved.
    function postFines(uint256 taskId, uint32 ordinal, bytes32 root) external;

    /// @notice Impose up to 16 fines that an approved root contains. Fines that were imposed before are
    /// skipped. Reverts if nothing is left to take. Anyone may call.
    function slash(uint256 taskId, uint32 ordinal, Fine[] calldata fines, bytes32[][] calldata proofs)
        external;

    /// @notice Transfer to the caller what slashing credited to it.
    function withdrawCredit(address token) external;

    // ---- the ledger's call

    /// @notice Record that `miner` commits in the open attempt. Reverts unless it takes part and has not
    /// committed.
    function noteCommitment(uint256 taskId, uint32 ordinal, address miner, uint32 units) external;

    // ---- views

    /// @notice The number of seats that have not ended: all take part in the next attempt.
    function seatCount(uint256 taskId) external view returns (uint256);

    function getSeat(uint256 taskId, address miner) external view returns (Seat memory);

    /// @notice The seats that have not ended, in no particular order.
    function listSeats(uint256 taskId)
        external
        view
        returns (address[] memory miners, uint32[] memory units, uint32[] memory firstAttempts);

    /// @notice The seats that take part in the attempt that opened last. Ask in the state after the block in
    /// which it opened.
    function participants(uint256 taskId)
        external
        view
        returns (address[] memory miners, uint32[] memory units);

    /// @notice The miners whose seats endSeats would end, at most `limit`.
    function listOver(uint256 taskId, uint256 limit) external view returns (address[] memory miners);

    function requiredBond(uint256 taskId, uint32 units) external view returns (uint256);

    /// @notice The approved roots of an attempt's fines; 0 where there is none.
    function finesOf(uint256 taskId, uint32 ordinal) external view returns (bytes32 first, bytes32 closing);

    function creditOf(address token, address account) external view returns (uint256);

    /// @notice The bond of each seat in base units of POT.
    function seatBond() external view returns (uint256);

    /// @notice The term of a seat: after so many attempts it may be displaced.
    function seatAttempts() external view returns (uint32);
}
