// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Rounds of training: who takes part, what was committed, what validators say, what is settled
/// @notice `phase(taskId)` is the authority on phases. A phase ends at the first block with
/// timestamp >= start + seconds and number >= start + the genesis floor, or sooner, at the block with
/// the last expected transaction.
interface IGradientLedger {
    enum Phase {
        Inactive, // the task is not Active
        Waiting, // no attempt is open: too few miners, or not enough escrow
        Commitment, // from the block after the opening block on
        Verdict,
        Dispute, // only where not every gradient is re-executed; reserved
        Result,
        Settleable, // a quorum of equal results: settleRound
        Stalled // a deadline passed without what it needs: advanceRound
    }

    struct Miner {
        uint32 units; // declared capacity a round
        uint64 registeredBlock;
        uint64 leftBlock; // 0 while taking part
        uint64 leftBallotNumber; // the task's ballot counter when it left
        uint256 bond;
    }

    struct Round {
        uint32 round; // 0-based; equals the rounds settled so far
        uint32 attempt; // 0-based, of this round
        uint32 ballot; // 0-based, of this attempt, at most 2
        uint32 voidStreak; // void attempts in a row
        uint64 ballotNumber; // counts every ballot of the task; names the slot of its verdicts
        bool open; // an attempt is open
        uint64 openBlock; // S: those registered by its end take part; the seed is of S + 1
        uint64 openTime;
        uint64 verdictBlock; // where the verdict phase of this ballot started; 0 before
        uint64 verdictTime;
        uint64 resultBlock; // where the result phase of this ballot started; 0 before
        uint64 resultTime;
        uint32 expectedCommitments;
        uint32 commitmentCount;
        uint32 committedUnits;
        uint32 verdictCount; // timely verdicts of this ballot
        uint32 resultCount;
        bytes32 commitmentDigest; // chain of keccak256(abi.encode(digest, miner, units, commitment))
        bytes32 trainingStateRoot; // after the last settled round; 0 before the first
        bytes32 modelRoot;
        uint256 paidTotal; // cumulative, of all settled rounds
    }

    struct ResultVote {
        bytes32 trainingStateRoot;
        bytes32 modelRoot;
        bytes32 rewardsRoot;
        uint32 acceptedUnits;
    }

    event MinerRegistered(uint256 indexed taskId, address indexed miner, uint32 units, uint256 bond);
    event MinerLeft(uint256 indexed taskId, address indexed miner);
    event BondWithdrawn(uint256 indexed taskId, address indexed miner, uint256 amount);
    event AttemptOpened(
        uint256 indexed taskId, uint32 indexed round, uint32 attempt, uint32 expectedCommitments, uint256 reserved
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
    /// @dev `timely`: posted within the verdict phase, so it counts for acceptance.
    event VerdictPosted(
        uint256 indexed taskId,
        uint32 indexed round,
        address indexed validator,
        uint32 attempt,
        uint32 ballot,
        bool timely,
        bytes verdicts
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
        uint256 indexed taskId, uint32 indexed round, uint32 attempt, uint32 ballot, ResultVote result, uint256 payout
    );
    event BallotFailed(uint256 indexed taskId, uint32 indexed round, uint32 attempt, uint32 ballot);
    event AttemptVoided(uint256 indexed taskId, uint32 indexed round, uint32 attempt);
    event MinerSlashed(uint256 indexed taskId, address indexed miner, uint256 amount, bool cheated);
    event CreditWithdrawn(address indexed token, address indexed account, uint256 amount);

    error LedgerWrongPhase(uint256 taskId, Phase phase);
    error LedgerWrongRound(uint32 round, uint32 attempt, uint32 ballot);
    error LedgerAlreadyRegistered(uint256 taskId, address miner);
    error LedgerNotRegistered(uint256 taskId, address miner);
    error LedgerInvalidUnits(uint32 units);
    error LedgerAlreadyCommitted(uint256 taskId, address miner);
    error LedgerNotParticipating(uint256 taskId, address miner);
    error LedgerAlreadyVoted(address validator);
    error LedgerInvalidVerdicts(uint256 length, uint256 expected);
    error LedgerNoQuorum(uint256 votes, uint256 quorum);
    error LedgerPayoutTooLarge(uint256 payout, uint256 reserved);
    error LedgerBondLocked(uint256 taskId, address miner);
    error LedgerEvidenceMismatch();
    error LedgerEvidenceExpired();
    error LedgerTooManySlashes(uint256 count, uint256 limit);
    error LedgerAlreadySlashed(uint256 taskId, address miner);
    error LedgerNothingToWithdraw();
    error LedgerTooManyMiners(uint256 limit);
    error LedgerBallotNotSettled(uint64 ballotNumber);

    /// @notice Take part in a task with a bond in its token of requiredBond(taskId, units).
    function register(uint256 taskId, uint32 units) external;

    /// @notice Stop taking part from the next attempt on.
    function leave(uint256 taskId) external;

    /// @notice Take the bond back once every round it was locked for is over and the evidence window too.
    function withdrawBond(uint256 taskId) external;

    /// @notice Commit to a gradient:
    /// keccak256(abi.encode(DOMAIN, chainId, task, round, attempt, miner, thetaRoot, gradientRoot, salt, units)).
    function commitGradient(uint256 taskId, uint32 round, uint32 attempt, uint32 units, bytes32 commitment)
        external;

    /// @notice An operator vote: two bits a commitment, bits 2i and 2i+1 (least significant first within
    /// each byte) for the i-th commitment: 0 ok, 1 bad, 2 cheat, 3 unavailable. Padding bits are 0.
    /// Late verdicts (until the result deadline + 8 blocks) are recorded for slashing only.
    function postVerdict(uint256 taskId, uint32 round, uint32 attempt, uint32 ballot, bytes calldata verdicts)
        external;

    /// @notice An operator vote on the outcome; replaceable until the round is settled. The evaluation of
    /// the held-out split (`correctCount`, `lossMillinats`) need not be equal among validators;
    /// correctCount = 2**32-1 says "not evaluated".
    function postResult(
        uint256 taskId,
        uint32 round,
        uint32 attempt,
        uint32 ballot,
        ResultVote calldata result,
        uint32 correctCount,
        uint64 lossMillinats
    ) external;

    /// @notice Settle the round with the result that a quorum posted. Anyone may call.
    function settleRound(uint256 taskId, ResultVote calldata result) external;

    /// @notice After a deadline without quorum: next ballot, or a void attempt and the next one. Also
    /// opens an attempt for a Waiting task whose conditions are met. Anyone may call.
    function advanceRound(uint256 taskId) external;

    struct CommitmentRecord {
        address miner;
        uint32 units;
        bytes32 commitment;
    }

    /// @notice Slash up to 32 miners: shows the ballot's whole commitment list and verdict bitmaps of
    /// validators whose hashes the contract holds. A quorum of `cheat` takes the whole bond (half to
    /// those who said cheat in the verdict phase, half kept for ever); a quorum of `unavailable` costs
    /// one round's pay. Anyone may call; open for the last 4 ballots of a task.
    function slash(
        uint256 taskId,
        uint64 ballotNumber,
        CommitmentRecord[] calldata commitments,
        address[] calldata validators,
        bytes[] calldata verdicts,
        uint32[] calldata indices
    ) external;

    /// @notice Withdraw what slashing credited to the caller.
    function withdrawCredit(address token) external;

    // ---- views

    function phase(uint256 taskId) external view returns (Phase);

    /// @notice When the phase ends unless everybody spoke before: both must be reached. 0, 0 if it has no end.
    function deadline(uint256 taskId) external view returns (uint64 blockNumber, uint64 timestamp);

    function getRound(uint256 taskId) external view returns (Round memory);

    function getMiner(uint256 taskId, address miner) external view returns (Miner memory);

    /// @notice Registered miners that take part if an attempt opens in this block, in no order.
    function participants(uint256 taskId) external view returns (address[] memory miners, uint32[] memory units);

    function requiredBond(uint256 taskId, uint32 units) external view returns (uint256);

    /// @notice The commitment of a miner in the attempt in progress: index + 1, or 0 if none.
    function commitmentPosition(uint256 taskId, address miner) external view returns (uint32);

    /// @notice The version of the validator set that judges the ballot in progress; before its first
    /// verdict, of the set in force.
    function judgesOf(uint256 taskId) external view returns (uint256 version);

    function creditOf(address token, address account) external view returns (uint256);

    function phaseFloorBlocks() external view returns (uint32);
}
