// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Training rounds: attempts, commitments, operator votes, settlement
/// @notice A task is trained in rounds. Each round is one or more attempts: the miners with seats commit
/// to gradients, then the validators' operators vote a verdict on each gradient, then on the result. If a
/// vote misses its quorum it is repeated in the next ballot; after three ballots the attempt is void.
/// Every phase begins in the block of a call, so that its least blocks are never over before it began.
/// @dev `phase(taskId)` decides which phase a task is in; nodes must not compute it in another way. A
/// phase ends at the first block with timestamp >= start + seconds and number >= start + the floor of the
/// attempt, or earlier, at the block with the last expected transaction.
interface IGradientLedger {
    enum Phase {
        Inactive, // the task is not active
        Waiting, // the attempt opened in this block; or none is open and none can open
        Commitment, // begins in the block after the opening block
        Verdict,
        Audit, // reserved for tasks in which only a sample of the gradients is re-executed
        Result,
        Payment, // the last ballot has no result in time: vote to pay what was accepted
        Settleable, // a quorum posted the same result: call settleRound
        Stalled // a deadline passed without what the phase needed, or an attempt can open: call advanceRound
    }

    struct Round {
        uint32 round; // 0-based; equals the number of rounds settled so far
        uint32 attempt; // 0-based, within the round
        uint32 ballot; // 0-based, within the attempt, at most 2
        uint32 voidStreak; // void attempts in a row; those without a commitment are not counted
        uint64 ballotNumber; // counts all ballots of the task, from 1
        uint32 attemptCount; // counts all attempts of the task: the ordinal of the last one
        bool open; // whether an attempt is open
        uint64 openBlock; // S: miners that had a seat when it opened take part; block S gives the seed
        uint64 openTime;
        uint64 verdictBlock; // start of this ballot's verdict phase; 0 before it
        uint64 verdictTime;
        uint64 resultBlock; // start of this ballot's result phase, or of the payment phase; 0 before it
        uint64 resultTime;
        uint32 expectedCommitments;
        uint32 commitmentCount;
        uint32 committedUnits;
        uint32 verdictCount; // validators with a timely verdict in this ballot
        uint32 resultCount;
        bytes32 trainingStateRoot; // after the last settled round; 0 before the first
        bytes32 modelRoot;
        uint256 paidTotal; // sum over all settled rounds, in base units of the token
    }

    /// @dev The attempts of a task, as `MinerSeats` needs them.
    struct Progress {
        uint32 attemptCount; // the ordinal of the attempt that opened last
        bool isOpen;
        uint64 openBlock;
        uint64 endedBlock; // the block in which the last attempt ended; 0 if none has
    }

    /// @dev After the attempt has ended, late verdicts are taken for `lateBlocks`, votes on fines for
    /// `windowBlocks` more, and slashes for another `windowBlocks`.
    struct EndedAttempt {
        uint32 ordinal;
        uint32 ballotNumber; // the number of its last ballot
        uint32 judges; // the version of the validator set that judged that ballot
        uint32 windowBlocks;
        uint32 lateBlocks;
        uint64 endedBlock;
    }

    enum ResultKind {
        Settled, // the round is settled: the model advances, and accepted units are paid
        Failed, // the ballot could not decide on every gradient: hold the attempt's next ballot
        Void, // no gradient was accepted: the attempt ends without pay
        PaidOnly // in the Payment phase: accepted units are paid, and the model stays as it was
    }

    /// @dev `timelyVoters` names the verdicts that the result was computed from, as a bit for each judge. Of the
    /// other fields, those that a kind does not use are 0: Failed and Void use none, PaidOnly no model.
    struct ResultVote {
        bytes32 trainingStateRoot;
        bytes32 modelRoot;
        bytes32 rewardsRoot;
        uint32 acceptedUnits;
        uint128 payout; // of miners and operators together, in base units
        ResultKind kind;
        uint104 timelyVoters; // bit i: judge i posted a timely verdict in this ballot
    }

    event AttemptOpened(
        uint256 indexed taskId,
        uint32 indexed round,
        uint32 attempt,
        uint32 ordinal,
        uint32 expectedCommitments,
        uint256 reserved
    );
    event GradientCommitted(
        uint256 indexed taskId,
        uint32 indexed round,
        address indexed miner,
        uint32 attempt,
        uint32 index,
        uint32 units,
        bytes32 commitment
    );
    /// @dev `timely` is true if the vote came within the verdict phase; only then it counts for acceptance.
    event VerdictPosted(
        uint256 indexed taskId,
        uint32 indexed round,
        address indexed validator,
        uint32 attempt,
        uint32 ballot,
        bool timely,
        bytes verdicts
    );
    /// @dev A verdict on the last ballot of an ended attempt; it counts for fines only.
    event LateVerdictPosted(
        uint256 indexed taskId, address indexed validator, uint32 ordinal, bytes verdicts
    );
    event ResultPosted(
        uint256 indexed taskId,
        uint32 indexed round,
        address indexed validator,
        uint32 attempt,
        uint32 ballot,
        ResultVote result,
        uint32 correctCount,
        uint64 lossMillinats
    );
    event RoundSettled(
        uint256 indexed taskId, uint32 indexed round, uint32 attempt, uint32 ballot, ResultVote result
    );
    /// @dev A void attempt is paid for what it accepted; AttemptVoided follows.
    event AttemptPaid(
        uint256 indexed taskId, uint32 indexed round, uint32 attempt, uint32 ballot, ResultVote result
    );
    event BallotFailed(uint256 indexed taskId, uint32 indexed round, uint32 attempt, uint32 ballot);
    event AttemptVoided(uint256 indexed taskId, uint32 indexed round, uint32 attempt);

    error LedgerWrongPhase(uint256 taskId, Phase phase);
    error LedgerWrongRound(uint32 round, uint32 attempt, uint32 ballot);
    error LedgerAlreadyVoted(address validator);
    error LedgerInvalidVerdicts(uint256 length, uint256 expected);
    error LedgerUnknownVerdict();
    error LedgerNoQuorum(uint256 votes, uint256 quorum);
    error LedgerPayoutTooLarge(uint256 payout, uint256 limit);
    error LedgerTooManyUnits(uint32 acceptedUnits, uint32 committedUnits);
    error LedgerInvalidResult(ResultKind kind);
    error LedgerOtherVoters(uint104 timelyVoters);
    error LedgerTooLate(uint256 taskId, uint32 ordinal);
    error LedgerNotSeats(address caller);

    /// @notice Commit to a gradient over the units of the caller's seat, in the commitment phase. `commitment` is
    /// keccak256(abi.encode(DOMAIN, chainId, task, round, attempt, miner, thetaRoot, gradientRoot, salt, units)).
    function commitGradient(uint256 taskId, uint32 round, uint32 attempt, uint32 units, bytes32 commitment)
        external;

    /// @notice An operator vote on every commitment of the attempt. Four bits a commitment, the first in
    /// the less significant half of a byte: 0 ok, 1 bad, 2 cheat, 3 missing, 4 unchecked. Padding is 0.
    /// A verdict after the phase counts for fines only. It also makes the next two ballots wait for this
    /// validator.
    function postVerdict(uint256 taskId, uint32 round, uint32 attempt, uint32 ballot, bytes calldata verdicts)
        external;

    /// @notice An operator vote on an attempt that has ended, in its window for late verdicts; once for each judge
    /// of the attempt's last ballot. It counts for fines only: where the judge gave no verdict or said unchecked,
    /// its ok, bad or cheat counts instead.
    function postLateVerdict(uint256 taskId, uint32 ordinal, bytes calldata verdicts) external;

    /// @notice An operator vote on the result of the round. A later vote replaces it until the round is
    /// settled; a validator has four in a ballot. The same vote again is refused, unless it brings the evaluation
    /// that the first one lacked. Its `timelyVoters` must be those of the ballot, or it was computed from other verdicts than those
    /// that decide who is paid. The evaluation on the held-out split (`correctCount`, `lossMillinats`) may differ
    /// between validators; correctCount = 2**32-1 means that this validator did not evaluate.
    function postResult(
        uint256 taskId,
        uint32 round,
        uint32 attempt,
        uint32 ballot,
        ResultVote calldata result,
        uint32 correctCount,
        uint64 lossMillinats
    ) external;

    /// @notice End the attempt with the result that a quorum of validators posted: settle its round, or
    /// void it. Anyone may call.
    function settleRound(uint256 taskId, ResultVote calldata result) external;

    /// @notice Move a stalled round on: to the phase that follows a deadline, to the next ballot, or, after the
    /// last one, to the next attempt. Also opens an attempt if the task has all that it needs for one. Anyone
    /// may call.
    function advanceRound(uint256 taskId) external;

    // ---- the seats' call

    /// @notice Wait for one commitment less, because a participant was slashed before it committed.
    /// If all that are left have committed, and one did, commitments are over.
    function expectOneLess(uint256 taskId) external;

    // ---- views

    function phase(uint256 taskId) external view returns (Phase);

    /// @notice The deadline of the current phase: it is over once both the block number and the timestamp are
    /// reached. (0, 0) if the phase has no deadline. A phase can end earlier.
    function deadline(uint256 taskId) external view returns (uint64 blockNumber, uint64 timestamp);

    function getRound(uint256 taskId) external view returns (Round memory);

    function progressOf(uint256 taskId) external view returns (Progress memory);

    /// @notice An attempt that has ended; zeros if it has not, or ended more than 512 attempts ago.
    function endedAttempt(uint256 taskId, uint32 ordinal) external view returns (EndedAttempt memory);

    /// @notice The version of the validator set that judges a ballot, which must be one of the latest 512. Before
    /// the ballot's first verdict this is the set in force.
    function judgesOf(uint256 taskId, uint32 ballotNumber) external view returns (uint256 version);

    /// @notice The least number of blocks of every phase; votes get 2(f + 1) if that is more.
    function phaseFloorBlocks() external view returns (uint32);

    /// @notice The least number of blocks for which a quorum of verdicts waits for the others.
    function graceBlocks() external view returns (uint32);
}
