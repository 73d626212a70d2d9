// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title The seats of miners in tasks: bonds, terms, misses, fines
/// @notice A miner takes a seat in a task with two bonds: one in the task's token, which answers for its
/// gradients, and one in POT, which answers for its presence. A seat takes part in every attempt until it
/// ends: it leaves, it is displaced after its term, or it misses twice.
/// @dev An attempt is named by its ordinal, which counts all attempts of a task from 1.
interface IMinerSeats {
    enum FineKind {
        Miss, // a quorum could not get the gradient: costs an eighth of the round's pay and of the seat bond
        Deviation, // reserved for tasks in which only a sample of the gradients is re-executed
        Fraud // the gradient is a cheat: costs the whole bond and the seat bond
    }

    struct Seat {
        uint32 units; // units of work that the miner does in each round; 0 if it has no seat
        uint32 firstAttempt; // the first attempt in which the seat takes part since it was taken last
        uint32 lastAttempt; // the last attempt in which it took part before it ended last; 0 if there is none
        uint32 accountedAttempt; // absences up to this attempt are charged
        uint32 committedAttempt; // the attempt of the miner's last commitment
        uint32 position; // index in the list of seats + 1; 0 once the seat has ended
        uint8 missCount;
        bool hasSeatBond; // whether a part of the seat bond is left: an eighth less for each miss
        bool isSlashed; // a fraud has taken both bonds; the miner may register again
        uint32 registeredBlock; // when the seat was taken last
        bool isDisplaced; // whether a newcomer ended the seat
        uint208 bond; // what is left of it, in base units of the task's token
        uint32 bondedFrom; // its bonds answer for attempts from this one on, before it was taken again, too
        bool hasDisplaced; // whether seats past their term ended to make room when it was taken last
    }

    /// @dev A leaf of an attempt's tree of fines.
    struct Fine {
        uint32 ballot; // the fine follows from the verdicts of this ballot of the attempt
        uint32 index; // the index of the commitment in the attempt
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
    /// @dev A miss burnt an eighth of the seat bond. Or all that was left of it is burnt, because two misses
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
    error SeatsAlreadyApproved(uint256 taskId, uint32 ordinal);
    error SeatsInvalidFine(uint256 position);
    error SeatsListTooLong(uint256 length, uint256 limit);
    error SeatsNothingToFine(uint256 taskId, uint32 ordinal);
    error SeatsNothingToWithdraw();

    /// @notice Take a seat with `units` of work in each round, from the next attempt on. Pulls
    /// requiredBond(taskId, units) in the task's token, and the seat bond in POT. The task must be active or
    /// paused, and `units` at least a 1024th of the task's.
    /// Displacing: if an active task is full, a newcomer may name seats in `displaced`, which end to make room. They
    /// must have had their term, and at most twice the newcomer's units together. As many seats and units as an
    /// attempt needs must be left.
    /// Coming back: an account whose seat has ended may take it again with the same units, as soon as its last
    /// attempt has ended. Its bonds stay as they are, and its misses still count.
    /// Coming back after a displacement: if no attempt has opened since, and the task is paused or lacks seats or
    /// units, the account may name in `displaced` those seats that have displaced others since the last opening.
    /// If all of these have ended, it may name others that were taken since then, except those of accounts that
    /// took part in the last attempt.
    function register(uint256 taskId, uint32 units, address[] calldata displaced) external;

    /// @notice Leave the task at the end of the attempt in progress. Reverts before the seat has taken part
    /// in an attempt, unless the task opened none for 256 blocks, is not active, or has an attempt in its
    /// commitment phase. If other seats were displaced for this one, it may leave only if the task opened none for
    /// 256 blocks and is not active, or lacks seats or units.
    function leave(uint256 taskId) external;

    /// @notice Pay the caller what is left of both its bonds. The caller's seat must have ended, or the task
    /// must be closed. Reverts as long as an attempt in which the seat took part can be fined. If the seat missed
    /// the last of these attempts, the rest of the seat bond is burnt instead of paid.
    function withdrawBond(uint256 taskId) external;

    /// @notice Pay the caller only what is left of its bond in POT, under the same conditions. For tasks whose
    /// token refuses transfers, which makes `withdrawBond` revert.
    function withdrawSeatBond(uint256 taskId) external;

    /// @notice Charge up to 64 miners for their absences, and end the seats with two misses. Reverts if no seat
    /// ends. Anyone may call.
    function endSeats(uint256 taskId, address[] calldata miners) external;

    /// @notice An operator vote on the root of the fines of an attempt that has ended; for operators of the
    /// judges of its last ballot. Each has one vote before the window for late verdicts ends, and a closing vote
    /// after it. A quorum of equal votes approves the root; further votes of that kind are refused, and so is a
    /// closing vote for the root that was approved at once.
    function postFines(uint256 taskId, uint32 ordinal, bytes32 root) external;

    /// @notice Impose up to 16 fines that an approved root contains. Fines that were imposed before are
    /// skipped. Reverts if nothing is left to take. Anyone may call.
    function slash(uint256 taskId, uint32 ordinal, Fine[] calldata fines, bytes32[][] calldata proofs)
        external;

    /// @notice Pay the caller its credit in `token`: shares of the bonds that frauds have cost.
    function withdrawCredit(address token) external;

    // ---- the ledger's call

    /// @notice Record that `miner` commits in the open attempt. Reverts unless it takes part and has not
    /// committed.
    function noteCommitment(uint256 taskId, uint32 ordinal, address miner, uint32 units) external;

    // ---- views

    /// @notice The number of seats that have not ended: all take part in the next attempt.
    function seatCount(uint256 taskId) external view returns (uint256);

    /// @notice The units of these seats together.
    function registeredUnits(uint256 taskId) external view returns (uint32);

    function getSeat(uint256 taskId, address miner) external view returns (Seat memory);

    /// @notice The seats that have not ended, in no particular order.
    function listSeats(uint256 taskId)
        external
        view
        returns (address[] memory miners, uint32[] memory units, uint32[] memory firstAttempts);

    /// @notice The miners that take part in the attempt that opened last, with their units. Read it in the state
    /// after the block in which that attempt opened: seats may end later.
    function participants(uint256 taskId)
        external
        view
        returns (address[] memory miners, uint32[] memory units);

    /// @notice Miners whose seats have two misses, absences that are not charged yet included. `endSeats` would
    /// end these seats. At most `limit` miners are returned.
    function listOver(uint256 taskId, uint256 limit) external view returns (address[] memory miners);

    /// @notice The bond of a seat with that many units, in base units of the task's token.
    function requiredBond(uint256 taskId, uint32 units) external view returns (uint256);

    /// @notice The approved roots of an attempt's fines; 0 where there is none.
    function finesOf(uint256 taskId, uint32 ordinal) external view returns (bytes32 first, bytes32 closing);

    function creditOf(address token, address account) external view returns (uint256);

    /// @notice The bond of each seat in base units of POT.
    function seatBond() external view returns (uint256);

    /// @notice The term of a seat in attempts: after it, a newcomer to a full task may displace the seat.
    function seatAttempts() external view returns (uint32);
}
