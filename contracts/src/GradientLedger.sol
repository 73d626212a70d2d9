// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IGradientLedger} from "./interfaces/IGradientLedger.sol";
import {IRewardDistributor} from "./interfaces/IRewardDistributor.sol";
import {ITaskRegistry} from "./interfaces/ITaskRegistry.sol";
import {IValidatorSet} from "./interfaces/IValidatorSet.sol";
import {ExactTransfer} from "./libraries/ExactTransfer.sol";
import {SystemAddresses} from "./libraries/SystemAddresses.sol";

/// @title The ledger of training rounds; IGradientLedger documents its functions
/// @dev The end of a phase is computed from the stored start of the attempt, so a deadline needs no
/// transaction. Only early ends and new ballots are stored. The structs below pack what a frequent
/// call writes into as few storage slots as possible.
contract GradientLedger is IGradientLedger, ReentrancyGuardTransient {
    using ExactTransfer for IERC20;
    using SafeERC20 for IERC20;

    /// @dev Ballots of one attempt. If the last one fails, the attempt is void.
    uint8 private constant MAX_BALLOTS = 3;
    /// @dev After this many void attempts in a row a task is paused until its submitter resumes it.
    uint8 private constant MAX_VOID_ATTEMPTS = 3;
    /// @dev The evidence of this many latest ballots of a task is kept.
    uint64 private constant EVIDENCE_BALLOTS = 4;
    /// @dev For this many blocks after the end of a ballot, late verdicts are recorded.
    uint64 private constant LATE_VERDICT_BLOCKS = 8;
    /// @dev A bond stays locked for the ballots that may follow when a miner leaves: at most two more of
    /// the open attempt, then the four through which evidence is kept.
    uint64 private constant BOND_BALLOTS = EVIDENCE_BALLOTS + MAX_BALLOTS - 1;
    /// @dev No ballot follows in a closed task, so time is counted in blocks: as long as late verdicts
    /// are recorded, and as long again to slash with them.
    uint64 private constant BOND_CLOSED_BLOCKS = 2 * LATE_VERDICT_BLOCKS;
    /// @dev In a task that makes no progress no ballot may ever follow, so time is counted in blocks.
    uint64 private constant BOND_IDLE_BLOCKS = 256;
    /// @dev `slash` takes the whole commitment list of a round, which must fit into one transaction.
    uint256 private constant MAX_MINERS = 1024;
    uint256 private constant MAX_SLASHES = 32;
    /// @dev A miss costs this part of one round's pay: far less than the bond, as absence may be innocent.
    uint256 private constant MISS_SHARE = 8;
    uint256 private constant OK = 0;
    uint256 private constant CHEAT = 2;
    uint256 private constant MISSING = 3;

    /// @dev The bits worth 4 and 8 in each group of four.
    uint256 private constant FOURS = 0x4444444444444444444444444444444444444444444444444444444444444444;
    uint256 private constant EIGHTS = 2 * FOURS;

    IValidatorSet private constant VALIDATORS = IValidatorSet(SystemAddresses.VALIDATOR_SET);
    ITaskRegistry private constant REGISTRY = ITaskRegistry(SystemAddresses.TASK_REGISTRY);
    IRewardDistributor private constant DISTRIBUTOR = IRewardDistributor(SystemAddresses.REWARD_DISTRIBUTOR);

    struct Training {
        // slot 0: the attempt, and everything that a commitment changes
        uint32 round;
        uint32 attempt;
        uint64 ballotNumber;
        uint8 ballot;
        uint8 voidStreak;
        bool open;
        uint32 expectedCommitments;
        uint32 commitmentCount;
        uint32 committedUnits;
        // slot 1
        uint64 openBlock;
        uint64 openTime;
        uint64 verdictBlock; // 0 unless all commitments came before the deadline, or in a later ballot
        uint64 verdictTime;
        // slot 2: the result phase
        uint64 resultBlock; // end of the verdict phase, once a quorum voted in time; may be ahead
        uint64 resultTime;
        uint104 resultVoters; // bit i: validator i posted a result in this ballot
        uint16 voteFloor; // least blocks of a verdict or result phase of this attempt
        ResultKind quorumKind; // of the result with a quorum
        // slot 3: the task's terms, copied when the first miner registers
        uint32 rounds;
        uint32 minMiners;
        uint32 maxUnits;
        uint32 commitSeconds;
        uint32 verdictSeconds;
        uint32 resultSeconds;
        uint64 endedBlock; // the block in which the last attempt ended
        // slot 4
        uint128 unitPrice;
        uint128 validatorFee;
        // slot 5
        address token;
        uint32 registeredUnits; // of all members, at most maxUnits
        bytes32 commitmentDigest;
        bytes32 quorumVote; // hash of the result that has a quorum in this ballot; 0 if none has
        bytes32 trainingStateRoot;
        bytes32 modelRoot;
        uint256 paidTotal;
    }

    struct Registration {
        uint32 units; // 0 if not registered
        uint64 registeredBlock;
        uint64 leftBlock;
        uint64 committedOpenBlock; // opening block of the attempt of the miner's last commitment
        uint24 commitmentPosition; // index of that commitment + 1
        bool slashed;
        // slot 1
        uint128 bond;
        uint64 leftBallotNumber;
        uint32 memberPosition; // index in the list of members + 1; 0 if it is not in the list
    }

    /// @dev A validator that posted the verdicts which are given as evidence.
    struct Voter {
        address operator;
        bool timely;
    }

    /// @dev One of the last four ballots. Its hashes cover the ballot number, so hashes that an older
    /// ballot left in the same slot match nothing.
    struct Ballot {
        uint32 ballotNumber;
        uint32 setVersion; // the validator set at the first verdict; it judges, and gives f and q
        uint64 openBlock;
        uint64 endedBlock; // 0 while the ballot is open
        uint32 round;
        uint32 attempt;
        // slot 1
        uint104 voters; // bit i: validator i posted a verdict
        uint104 timely; // bit i: validator i posted it within the verdict phase
        uint32 commitmentCount;
        uint8 ballot;
        bool settled; // true if this ballot settled its round
        bytes32 commitmentDigest;
        mapping(uint256 validatorIndex => bytes32) verdictHashes;
    }

    /// @dev The start of a phase. It ends once `length` seconds and `phaseFloorBlocks` blocks are over.
    struct Moment {
        Phase phase;
        uint64 startBlock;
        uint64 startTime;
        uint32 length; // 0 if the phase has no deadline
        uint32 floor; // least number of blocks
    }

    uint32 public immutable phaseFloorBlocks;
    uint32 public immutable graceBlocks;

    mapping(uint256 taskId => Training) private _trainings;
    mapping(uint256 taskId => address[]) private _members;
    mapping(uint256 taskId => mapping(address miner => Registration)) private _registrations;
    mapping(uint256 taskId => mapping(uint256 ring => Ballot)) private _ballots;
    mapping(uint256 taskId => mapping(uint256 validatorIndex => bytes32)) private _resultVotes;
    /// @dev How many validators cast a result vote, by the vote's hash, which covers task and ballot.
    mapping(bytes32 vote => uint256) private _tallies;
    mapping(address token => mapping(address account => uint256)) private _credits;

    constructor(uint32 phaseFloorBlocks_, uint32 graceBlocks_) {
        phaseFloorBlocks = phaseFloorBlocks_;
        graceBlocks = graceBlocks_;
    }

    // ---- miners

    function register(uint256 taskId, uint32 units) external nonReentrant {
        Training storage training = _load(taskId);
        Registration storage miner = _registrations[taskId][msg.sender];
        if (units == 0) revert LedgerInvalidUnits(units);
        if (miner.bond != 0) revert LedgerAlreadyRegistered(taskId, msg.sender);
        if (REGISTRY.getAccount(taskId).status == ITaskRegistry.TaskStatus.Closed) {
            revert LedgerWrongPhase(taskId, Phase.Inactive);
        }
        address[] storage members = _members[taskId];
        if (members.length == MAX_MINERS) revert LedgerTooManyMiners(MAX_MINERS);
        // A miner does what it declared: there is no draw that its address or the seed could win.
        uint32 freeUnits = training.maxUnits - training.registeredUnits;
        if (units > freeUnits) revert LedgerTaskFull(freeUnits);

        training.registeredUnits += units;
        uint256 bond = _payOf(training, units);
        members.push(msg.sender);
        _registrations[taskId][msg.sender] = Registration({
            units: units,
            registeredBlock: uint64(block.number),
            leftBlock: 0,
            committedOpenBlock: 0,
            commitmentPosition: 0,
            slashed: false,
            bond: uint128(bond),
            leftBallotNumber: 0,
            memberPosition: uint32(members.length)
        });
        emit MinerRegistered(taskId, msg.sender, units, bond);
        if (!training.open) _tryOpen(taskId, training);
        else if (training.openBlock == block.number) ++training.expectedCommitments;

        IERC20(training.token).pullExact(msg.sender, bond);
    }

    function leave(uint256 taskId) external {
        Registration storage miner = _registrations[taskId][msg.sender];
        if (miner.memberPosition == 0) revert LedgerNotRegistered(taskId, msg.sender);
        _removeMember(taskId, _trainings[taskId], miner, msg.sender);
    }

    function withdrawBond(uint256 taskId) external nonReentrant {
        Training storage training = _trainings[taskId];
        Registration storage miner = _registrations[taskId][msg.sender];
        uint256 amount = miner.bond;
        if (amount == 0) revert LedgerNotRegistered(taskId, msg.sender);
        if (!_isBondFree(taskId, training, miner)) revert LedgerBondLocked(taskId, msg.sender);

        if (miner.memberPosition != 0) _removeMember(taskId, training, miner, msg.sender);
        delete _registrations[taskId][msg.sender];
        emit BondWithdrawn(taskId, msg.sender, amount);

        IERC20(training.token).safeTransfer(msg.sender, amount);
    }

    function commitGradient(uint256 taskId, uint32 round, uint32 attempt, uint32 units, bytes32 commitment)
        external
    {
        Training storage training = _trainings[taskId];
        _requirePhase(taskId, training, Phase.Commitment);
        if (round != training.round || attempt != training.attempt) _revertWrongRound(training);
        Registration storage miner = _registrations[taskId][msg.sender];
        if (!_takesPart(training, miner) || miner.slashed) {
            revert LedgerNotParticipating(taskId, msg.sender);
        }
        if (_hasCommitted(training, miner)) revert LedgerAlreadyCommitted(taskId, msg.sender);
        if (units != miner.units) revert LedgerInvalidUnits(units);

        uint32 index = training.commitmentCount;
        training.commitmentCount = index + 1;
        training.committedUnits += units;
        miner.committedOpenBlock = training.openBlock;
        miner.commitmentPosition = uint24(index + 1);
        training.commitmentDigest = _chain(training.commitmentDigest, msg.sender, units, commitment);
        emit GradientCommitted(taskId, round, msg.sender, attempt, index, units, commitment);
        _endCommitmentsIfComplete(training);
    }

    // ---- operator votes

    function postVerdict(uint256 taskId, uint32 round, uint32 attempt, uint32 ballot, bytes calldata verdicts)
        external
    {
        Training storage training = _trainings[taskId];
        (Ballot storage record, bool timely) = _recordOf(taskId, training, round, attempt, ballot);
        address validator = _castVerdict(taskId, training, record, timely, verdicts);
        emit VerdictPosted(taskId, round, validator, attempt, ballot, timely, verdicts);
    }

    function postResult(
        uint256 taskId,
        uint32 round,
        uint32 attempt,
        uint32 ballot,
        ResultVote calldata result,
        uint32 correctCount,
        uint64 lossMillinats
    ) external {
        Training storage training = _trainings[taskId];
        (uint256 index, address validator, uint256 quorum,) =
            VALIDATORS.memberOfOperator(_judges(taskId, training), msg.sender);
        Phase current = _moment(taskId, training).phase;
        if (current != Phase.Result && current != Phase.Payment && current != Phase.Settleable) {
            revert LedgerWrongPhase(taskId, current);
        }
        if (round != training.round || attempt != training.attempt || ballot != training.ballot) {
            _revertWrongRound(training);
        }
        _requireValidResult(training, result, current);

        bytes32 vote = _voteHash(taskId, training.ballotNumber, result);
        _castResult(taskId, training, index, vote, quorum, result.kind);
        emit ResultPosted(taskId, round, validator, attempt, ballot, result, correctCount, lossMillinats);
    }

    // ---- from round to round

    function settleRound(uint256 taskId, ResultVote calldata result) external {
        Training storage training = _trainings[taskId];
        Phase current = _moment(taskId, training).phase;
        bytes32 vote = _voteHash(taskId, training.ballotNumber, result);
        bool isVoting = current == Phase.Result || current == Phase.Payment;
        if (isVoting || (current == Phase.Settleable && vote != training.quorumVote)) {
            revert LedgerNoQuorum(_tallies[vote], VALIDATORS.quorumOf(_judges(taskId, training)));
        }
        if (current != Phase.Settleable) revert LedgerWrongPhase(taskId, current);

        Ballot storage record = _ballots[taskId][training.ballotNumber % EVIDENCE_BALLOTS];
        record.settled = true;
        delete _tallies[vote];
        uint256 paidTotal = training.paidTotal + result.payout;
        training.paidTotal = paidTotal;
        uint32 round = training.round;
        bool isSettled = result.kind == ResultKind.Settled;
        if (isSettled) emit RoundSettled(taskId, round, training.attempt, training.ballot, result);
        else if (result.kind == ResultKind.PaidOnly) {
            emit AttemptPaid(taskId, round, training.attempt, training.ballot, result);
        }
        if (result.payout != 0) DISTRIBUTOR.setRoot(taskId, result.rewardsRoot, paidTotal);
        if (!isSettled) {
            _voidAttempt(taskId, training, result.payout);
            return;
        }
        training.trainingStateRoot = result.trainingStateRoot;
        training.modelRoot = result.modelRoot;
        training.round = round + 1;
        training.attempt = 0;
        training.voidStreak = 0;
        _endAttempt(taskId, training);
        REGISTRY.settleReservation(taskId, result.payout);
        _goOn(taskId, training);
    }

    function advanceRound(uint256 taskId) external {
        Training storage training = _trainings[taskId];
        Phase current = _moment(taskId, training).phase;
        if (current == Phase.Waiting && !training.open) {
            _tryOpen(taskId, training);
            return;
        }
        if (current != Phase.Stalled) revert LedgerWrongPhase(taskId, current);

        bool isEmpty = training.commitmentCount == 0;
        if (!isEmpty) emit BallotFailed(taskId, training.round, training.attempt, training.ballot);
        if (isEmpty || training.ballot + 1 == MAX_BALLOTS) _voidAttempt(taskId, training, 0);
        else _nextBallot(taskId, training);
    }

    // ---- slashing

    function slash(
        uint256 taskId,
        uint64 ballotNumber,
        CommitmentRecord[] calldata commitments,
        address[] calldata validators,
        bytes[] calldata verdicts,
        uint32[] calldata indices
    ) external {
        if (indices.length > MAX_SLASHES) revert LedgerTooManySlashes(indices.length, MAX_SLASHES);
        Ballot storage record = _evidence(taskId, ballotNumber);
        if (_digestOf(commitments) != record.commitmentDigest) revert LedgerEvidenceMismatch();
        Voter[] memory voters = _requireVerdicts(record, validators, verdicts);

        for (uint256 i = 0; i < indices.length; ++i) {
            uint256 index = indices[i];
            if (index >= commitments.length) revert LedgerEvidenceMismatch();
            _slashOne(taskId, record, commitments[index].miner, index, voters, verdicts);
        }
    }

    function withdrawCredit(address token) external nonReentrant {
        uint256 amount = _credits[token][msg.sender];
        if (amount == 0) revert LedgerNothingToWithdraw();
        _credits[token][msg.sender] = 0;
        emit CreditWithdrawn(token, msg.sender, amount);

        IERC20(token).safeTransfer(msg.sender, amount);
    }

    // ---- views

    function phase(uint256 taskId) external view returns (Phase) {
        return _moment(taskId, _trainings[taskId]).phase;
    }

    function deadline(uint256 taskId) external view returns (uint64 blockNumber, uint64 timestamp) {
        Moment memory moment = _moment(taskId, _trainings[taskId]);
        if (moment.length == 0) return (0, 0);
        return (moment.startBlock + moment.floor, moment.startTime + moment.length);
    }

    function getRound(uint256 taskId) external view returns (Round memory round) {
        Training storage training = _trainings[taskId];
        round.round = training.round;
        round.attempt = training.attempt;
        round.ballot = training.ballot;
        round.voidStreak = training.voidStreak;
        round.ballotNumber = training.ballotNumber;
        round.open = training.open;
        round.trainingStateRoot = training.trainingStateRoot;
        round.modelRoot = training.modelRoot;
        round.paidTotal = training.paidTotal;
        if (!training.open) return round;

        round.openBlock = training.openBlock;
        round.openTime = training.openTime;
        round.expectedCommitments = training.expectedCommitments;
        round.commitmentCount = training.commitmentCount;
        round.committedUnits = training.committedUnits;
        round.commitmentDigest = training.commitmentDigest;
        round.verdictCount = uint32(_countBits(_timelyVoters(taskId, training)));
        round.resultCount = uint32(_countBits(training.resultVoters));
        if (!_areCommitmentsOver(training) || training.commitmentCount == 0) return round;
        (round.verdictBlock, round.verdictTime) = _verdictStart(training);
        if (!_areVerdictsOver(training) || _isShortOfVerdicts(taskId, training)) return round;
        (round.resultBlock, round.resultTime) = _resultStart(training);
    }

    function getMiner(uint256 taskId, address miner) external view returns (Miner memory) {
        Registration storage registration = _registrations[taskId][miner];
        return Miner({
            units: registration.units,
            registeredBlock: registration.registeredBlock,
            leftBlock: registration.leftBlock,
            leftBallotNumber: registration.leftBallotNumber,
            bond: registration.bond
        });
    }

    function participants(uint256 taskId)
        external
        view
        returns (address[] memory miners, uint32[] memory units)
    {
        miners = _members[taskId];
        units = new uint32[](miners.length);
        for (uint256 i = 0; i < miners.length; ++i) {
            units[i] = _registrations[taskId][miners[i]].units;
        }
    }

    /// @dev (1 + 2 (1/p - 1)) times the pay of one round. p, the audit probability, is always 1 today.
    function requiredBond(uint256 taskId, uint32 units) external view returns (uint256) {
        return uint256(units) * REGISTRY.getTerms(taskId).unitPrice;
    }

    function commitmentPosition(uint256 taskId, address miner) external view returns (uint32) {
        Training storage training = _trainings[taskId];
        Registration storage registration = _registrations[taskId][miner];
        return training.open && _hasCommitted(training, registration) ? registration.commitmentPosition : 0;
    }

    function judgesOf(uint256 taskId) external view returns (uint256) {
        return _judges(taskId, _trainings[taskId]);
    }

    function creditOf(address token, address account) external view returns (uint256) {
        return _credits[token][account];
    }

    // ---- inside: the state machine of a round

    function _load(uint256 taskId) private returns (Training storage training) {
        training = _trainings[taskId];
        if (training.maxUnits != 0) return training;
        ITaskRegistry.TaskTerms memory terms = REGISTRY.getTerms(taskId);
        training.rounds = terms.rounds;
        training.minMiners = terms.minMiners;
        training.maxUnits = terms.maxUnits;
        training.commitSeconds = terms.commitSeconds;
        training.verdictSeconds = terms.verdictSeconds;
        training.resultSeconds = terms.resultSeconds;
        training.unitPrice = terms.unitPrice;
        training.validatorFee = terms.validatorFee;
        training.token = terms.token;
    }

    /// @dev Opens an attempt in this block if there are enough miners and enough escrow. It reserves the
    /// cost of a full round, so miners who register later in the same block need no further reservation.
    function _tryOpen(uint256 taskId, Training storage training) private {
        uint256 memberCount = _members[taskId].length;
        if (memberCount == 0 || memberCount < training.minMiners) return;
        uint256 reserved = _payOf(training, training.maxUnits) + training.validatorFee;
        if (!REGISTRY.reserveRound(taskId, reserved)) return;

        // The submitter resumed the task, so the count of void attempts starts again.
        if (training.voidStreak == MAX_VOID_ATTEMPTS) training.voidStreak = 0;
        training.open = true;
        training.ballot = 0;
        ++training.ballotNumber;
        training.expectedCommitments = uint32(memberCount);
        training.commitmentCount = 0;
        training.committedUnits = 0;
        training.openBlock = uint64(block.number);
        training.openTime = uint64(block.timestamp);
        training.verdictBlock = 0;
        training.verdictTime = 0;
        training.commitmentDigest = 0;
        // Each of f faulty primaries in a row may leave votes out of its block.
        uint256 floor = 2 * (VALIDATORS.maxFaulty() + 1);
        training.voteFloor = uint16(floor > phaseFloorBlocks ? floor : phaseFloorBlocks);
        _clearResults(training);
        emit AttemptOpened(taskId, training.round, training.attempt, uint32(memberCount), reserved);
    }

    function _nextBallot(uint256 taskId, Training storage training) private {
        _endBallot(taskId, training);
        ++training.ballot;
        ++training.ballotNumber;
        training.verdictBlock = uint64(block.number);
        training.verdictTime = uint64(block.timestamp);
        _clearResults(training);
    }

    function _voidAttempt(uint256 taskId, Training storage training, uint256 payout) private {
        emit AttemptVoided(taskId, training.round, training.attempt);
        ++training.attempt;
        ++training.voidStreak;
        _endAttempt(taskId, training);
        REGISTRY.settleReservation(taskId, payout);
        _goOn(taskId, training);
    }

    function _endAttempt(uint256 taskId, Training storage training) private {
        _endBallot(taskId, training);
        training.open = false;
        training.ballot = 0;
        training.endedBlock = uint64(block.number);
    }

    /// @dev A ballot without any verdict has no record.
    function _endBallot(uint256 taskId, Training storage training) private {
        Ballot storage record = _ballots[taskId][training.ballotNumber % EVIDENCE_BALLOTS];
        if (record.ballotNumber == training.ballotNumber) record.endedBlock = uint64(block.number);
    }

    function _clearResults(Training storage training) private {
        training.resultBlock = 0;
        training.resultTime = 0;
        training.resultVoters = 0;
        training.quorumVote = 0;
    }

    /// @dev Runs between two attempts: the task may end here, be paused, or open the next attempt.
    function _goOn(uint256 taskId, Training storage training) private {
        if (training.round == training.rounds) {
            REGISTRY.closeTask(taskId, ITaskRegistry.CloseReason.Completed);
        } else if (REGISTRY.getAccount(taskId).cancelling) {
            REGISTRY.closeTask(taskId, ITaskRegistry.CloseReason.Cancelled);
        } else if (training.voidStreak == MAX_VOID_ATTEMPTS) {
            REGISTRY.pauseTask(taskId);
        } else {
            _tryOpen(taskId, training);
        }
    }

    function _moment(uint256 taskId, Training storage training) private view returns (Moment memory moment) {
        if (!training.open) {
            bool isActive = REGISTRY.getAccount(taskId).status == ITaskRegistry.TaskStatus.Active;
            moment.phase = isActive ? Phase.Waiting : Phase.Inactive;
        } else if (training.openBlock == block.number) {
            moment.phase = Phase.Waiting;
        } else if (!_areCommitmentsOver(training)) {
            moment = Moment(
                Phase.Commitment,
                training.openBlock,
                training.openTime,
                training.commitSeconds,
                phaseFloorBlocks
            );
        } else if (training.commitmentCount == 0) {
            moment.phase = Phase.Stalled;
        } else if (!_areVerdictsOver(training)) {
            (uint64 startBlock, uint64 startTime) = _verdictStart(training);
            moment = Moment(
                Phase.Verdict, startBlock, startTime, training.verdictSeconds, training.voteFloor
            );
        } else if (training.quorumVote != 0) {
            // A ballot that failed has nothing to settle.
            moment.phase =
                training.quorumKind == ResultKind.Failed ? Phase.Stalled : Phase.Settleable;
        } else if (training.resultBlock == 0 && _isShortOfVerdicts(taskId, training)) {
            moment.phase = Phase.Stalled;
        } else {
            uint32 length = training.resultSeconds;
            (uint64 startBlock, uint64 startTime) = _resultStart(training);
            uint32 floor = training.voteFloor;
            moment = Moment(Phase.Result, startBlock, startTime, length, floor);
            if (!_isOver(startBlock, startTime, length, floor)) return moment;
            if (training.ballot + 1 == MAX_BALLOTS) {
                moment = Moment(Phase.Payment, startBlock + floor, startTime + length, length, floor);
                if (!_isOver(startBlock + floor, startTime + length, length, floor)) return moment;
            }
            moment = Moment(Phase.Stalled, 0, 0, 0, 0);
        }
    }

    function _isShortOfVerdicts(uint256 taskId, Training storage training) private view returns (bool) {
        return _countBits(_timelyVoters(taskId, training)) < VALIDATORS.quorumOf(_judges(taskId, training));
    }

    /// @dev The version of the validator set that judges the ballot in progress. Before the first
    /// verdict this is the set in force.
    function _judges(uint256 taskId, Training storage training) private view returns (uint256) {
        Ballot storage record = _ballots[taskId][training.ballotNumber % EVIDENCE_BALLOTS];
        return record.ballotNumber == training.ballotNumber ? record.setVersion : VALIDATORS.version();
    }

    function _areCommitmentsOver(Training storage training) private view returns (bool) {
        return training.verdictBlock != 0
            || _isOver(training.openBlock, training.openTime, training.commitSeconds, phaseFloorBlocks);
    }

    function _areVerdictsOver(Training storage training) private view returns (bool) {
        if (training.resultBlock != 0) {
            return block.number >= training.resultBlock && block.timestamp >= training.resultTime;
        }
        (uint64 startBlock, uint64 startTime) = _verdictStart(training);
        return _isOver(startBlock, startTime, training.verdictSeconds, training.voteFloor);
    }

    /// @dev A phase that ran to its deadline ends exactly then, no matter when a transaction comes.
    function _verdictStart(Training storage training) private view returns (uint64, uint64) {
        if (training.verdictBlock != 0) return (training.verdictBlock, training.verdictTime);
        return (training.openBlock + phaseFloorBlocks, training.openTime + training.commitSeconds);
    }

    function _resultStart(Training storage training) private view returns (uint64, uint64) {
        if (training.resultBlock != 0) return (training.resultBlock, training.resultTime);
        (uint64 startBlock, uint64 startTime) = _verdictStart(training);
        return (startBlock + training.voteFloor, startTime + training.verdictSeconds);
    }

    function _isOver(uint64 startBlock, uint64 startTime, uint32 length, uint32 floor)
        private
        view
        returns (bool)
    {
        return block.timestamp >= startTime + length && block.number >= startBlock + floor;
    }

    function _requirePhase(uint256 taskId, Training storage training, Phase wanted) private view {
        Phase current = _moment(taskId, training).phase;
        if (current != wanted) revert LedgerWrongPhase(taskId, current);
    }

    // ---- inside: miners

    function _takesPart(Training storage training, Registration storage miner) private view returns (bool) {
        uint64 openBlock = training.openBlock;
        return miner.units != 0 && miner.registeredBlock <= openBlock
            && (miner.leftBlock == 0 || miner.leftBlock > openBlock);
    }

    function _hasCommitted(Training storage training, Registration storage miner) private view returns (bool) {
        return miner.committedOpenBlock == training.openBlock && miner.commitmentPosition != 0;
    }

    /// @dev Takes a miner out of the next attempts, and out of the open one if it opened in this block.
    function _removeMember(
        uint256 taskId,
        Training storage training,
        Registration storage miner,
        address account
    ) private {
        address[] storage members = _members[taskId];
        uint256 position = miner.memberPosition;
        address last = members[members.length - 1];
        members[position - 1] = last;
        _registrations[taskId][last].memberPosition = uint32(position);
        members.pop();
        training.registeredUnits -= miner.units;

        miner.memberPosition = 0;
        miner.leftBlock = uint64(block.number);
        miner.leftBallotNumber = training.ballotNumber;
        emit MinerLeft(taskId, account);
        if (training.open && training.openBlock == block.number) --training.expectedCommitments;
    }

    function _endCommitmentsIfComplete(Training storage training) private {
        if (training.commitmentCount != training.expectedCommitments) return;
        training.verdictBlock = uint64(block.number);
        training.verdictTime = uint64(block.timestamp);
    }

    /// @dev The rule is in docs/spec/contracts.md, section 6.
    function _isBondFree(uint256 taskId, Training storage training, Registration storage miner)
        private
        view
        returns (bool)
    {
        uint256 quietSince = training.endedBlock;
        if (REGISTRY.getAccount(taskId).status == ITaskRegistry.TaskStatus.Closed) {
            return block.number >= quietSince + BOND_CLOSED_BLOCKS;
        }
        if (miner.memberPosition != 0) return false;
        if (training.ballotNumber >= miner.leftBallotNumber + BOND_BALLOTS) return true;
        if (miner.leftBlock > quietSince) quietSince = miner.leftBlock;
        return !training.open && block.number >= quietSince + BOND_IDLE_BLOCKS;
    }

    function _payOf(Training storage training, uint32 units) private view returns (uint256) {
        return uint256(units) * training.unitPrice;
    }

    // ---- inside: votes

    /// @dev The record that a verdict is written to, and whether it counts for acceptance.
    function _recordOf(
        uint256 taskId,
        Training storage training,
        uint32 round,
        uint32 attempt,
        uint32 ballot
    ) private returns (Ballot storage record, bool timely) {
        if (
            training.open && round == training.round && attempt == training.attempt
                && ballot == training.ballot
        ) {
            Phase current = _moment(taskId, training).phase;
            if (
                current == Phase.Waiting || current == Phase.Commitment || training.commitmentCount == 0
            ) revert LedgerWrongPhase(taskId, current);
            record = _ballots[taskId][training.ballotNumber % EVIDENCE_BALLOTS];
            if (record.ballotNumber != training.ballotNumber) _startRecord(training, record);
            return (record, current == Phase.Verdict);
        }
        for (uint256 i = 0; i < EVIDENCE_BALLOTS; ++i) {
            record = _ballots[taskId][i];
            if (
                record.round == round && record.attempt == attempt && record.ballot == ballot
                    && record.endedBlock != 0 && block.number <= record.endedBlock + LATE_VERDICT_BLOCKS
            ) return (record, false);
        }
        _revertWrongRound(training);
    }

    function _startRecord(Training storage training, Ballot storage record) private {
        record.ballotNumber = uint32(training.ballotNumber);
        record.setVersion = uint32(VALIDATORS.version());
        record.openBlock = training.openBlock;
        record.endedBlock = 0;
        record.round = training.round;
        record.attempt = training.attempt;
        record.ballot = training.ballot;
        record.settled = false;
        record.voters = 0;
        record.timely = 0;
        record.commitmentCount = training.commitmentCount;
        record.commitmentDigest = training.commitmentDigest;
    }

    function _castVerdict(
        uint256 taskId,
        Training storage training,
        Ballot storage record,
        bool timely,
        bytes calldata verdicts
    ) private returns (address) {
        (uint256 index, address validator, uint256 quorum, uint256 count) =
            VALIDATORS.memberOfOperator(record.setVersion, msg.sender);
        uint104 bit = uint104(1 << index);
        if (record.voters & bit != 0) revert LedgerAlreadyVoted(validator);
        _requireVerdictFormat(verdicts, record.commitmentCount);
        record.voters |= bit;
        record.verdictHashes[index] = _verdictHash(record.ballotNumber, verdicts);
        if (timely) {
            record.timely |= bit;
            _shortenVerdicts(taskId, training, record, quorum, count);
        }
        return validator;
    }

    /// @dev Sets the end of the verdict phase after a timely verdict. It ends at once if all validators
    /// voted, or a quorum with all that voted in one of the last two ballots. After other quorums it
    /// waits for the rest: `graceBlocks`, or a quarter of the time that the quorum took, if that is more.
    function _shortenVerdicts(
        uint256 taskId,
        Training storage training,
        Ballot storage record,
        uint256 quorum,
        uint256 count
    ) private {
        uint256 votes = _countBits(record.timely);
        if (votes < quorum) return;
        uint64 endBlock = uint64(block.number);
        uint64 endTime = uint64(block.timestamp);
        if (votes != count && _recentVoters(taskId, record) & ~record.timely != 0) {
            if (votes > quorum) return; // the quorum's verdict has set the end
            (uint64 startBlock, uint64 startTime) = _verdictStart(training);
            uint64 quarter = (endBlock - startBlock + 3) / 4;
            endBlock += quarter > graceBlocks ? quarter : graceBlocks;
            endTime += (endTime - startTime + 3) / 4;
            if (endTime > startTime + training.verdictSeconds) {
                endTime = startTime + training.verdictSeconds;
            }
        }
        training.resultBlock = endBlock;
        training.resultTime = endTime;
    }

    /// @dev The validators that posted a verdict, timely or not, in one of the last two ballots; all of them
    /// if the set changed since, or if there were no such ballots.
    function _recentVoters(uint256 taskId, Ballot storage record) private view returns (uint104 voters) {
        for (uint256 i = 1; i <= 2; ++i) {
            if (record.ballotNumber <= i) return type(uint104).max;
            Ballot storage earlier = _ballots[taskId][(record.ballotNumber - i) % EVIDENCE_BALLOTS];
            if (
                earlier.ballotNumber != record.ballotNumber - i || earlier.setVersion != record.setVersion
            ) return type(uint104).max;
            voters |= earlier.voters;
        }
    }

    function _timelyVoters(uint256 taskId, Training storage training) private view returns (uint104) {
        Ballot storage record = _ballots[taskId][training.ballotNumber % EVIDENCE_BALLOTS];
        return record.ballotNumber == training.ballotNumber ? record.timely : 0;
    }

    function _castResult(
        uint256 taskId,
        Training storage training,
        uint256 index,
        bytes32 vote,
        uint256 quorum,
        ResultKind kind
    ) private {
        uint104 bit = uint104(1 << index);
        if (training.resultVoters & bit == 0) {
            training.resultVoters |= bit;
        } else {
            bytes32 previous = _resultVotes[taskId][index];
            if (previous == vote) return;
            uint256 left = --_tallies[previous];
            if (previous == training.quorumVote && left < quorum) training.quorumVote = 0;
        }
        _resultVotes[taskId][index] = vote;
        if (++_tallies[vote] == quorum) {
            training.quorumVote = vote;
            training.quorumKind = kind;
        }
    }

    /// @dev A result that cannot be carried out must not reach a quorum: its attempt could never end.
    function _requireValidResult(Training storage training, ResultVote calldata result, Phase current)
        private
        view
    {
        bool hasModel = result.trainingStateRoot != 0 || result.modelRoot != 0;
        bool hasPay = result.acceptedUnits != 0;
        bool isLast = training.ballot + 1 == MAX_BALLOTS;
        bool isValid;
        if (result.kind == ResultKind.Settled) {
            isValid = hasPay;
        } else if (result.kind == ResultKind.PaidOnly) {
            isValid = hasPay && !hasModel && isLast && current != Phase.Result;
        } else {
            isValid = !hasPay && !hasModel && result.rewardsRoot == 0
                && (result.kind == ResultKind.Void || !isLast);
        }
        if (!isValid) revert LedgerInvalidResult(result.kind);

        uint32 units = training.committedUnits;
        if (result.acceptedUnits > units) revert LedgerTooManyUnits(result.acceptedUnits, units);
        uint256 limit = hasPay ? _payOf(training, result.acceptedUnits) + training.validatorFee : 0;
        if (result.payout > limit) revert LedgerPayoutTooLarge(result.payout, limit);
    }

    function _requireVerdictFormat(bytes calldata verdicts, uint256 commitmentCount) private pure {
        uint256 expected = (commitmentCount + 1) / 2;
        if (verdicts.length != expected) revert LedgerInvalidVerdicts(verdicts.length, expected);
        if (commitmentCount % 2 != 0 && uint8(verdicts[expected - 1]) >> 4 != 0) {
            revert LedgerInvalidVerdicts(verdicts.length, expected);
        }
        for (uint256 start = 0; start < expected; start += 32) {
            // calldata beyond `verdicts` may follow, so only its own bytes are kept
            uint256 word = uint256(bytes32(verdicts[start:expected < start + 32 ? expected : start + 32]));
            uint256 fours = word & FOURS;
            if (word & EIGHTS != 0 || fours & ((word << 1) | (word << 2)) != 0) {
                revert LedgerUnknownVerdict();
            }
        }
    }

    function _revertWrongRound(Training storage training) private view {
        revert LedgerWrongRound(training.round, training.attempt, training.ballot);
    }

    // ---- inside: evidence

    function _evidence(uint256 taskId, uint64 ballotNumber) private view returns (Ballot storage record) {
        record = _ballots[taskId][ballotNumber % EVIDENCE_BALLOTS];
        if (
            ballotNumber == 0 || record.ballotNumber != ballotNumber
                || _trainings[taskId].ballotNumber >= ballotNumber + EVIDENCE_BALLOTS
        ) revert LedgerEvidenceExpired();
        if (!record.settled) revert LedgerBallotNotSettled(ballotNumber);
    }

    function _chain(bytes32 digest, address miner, uint32 units, bytes32 commitment)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(digest, miner, units, commitment));
    }

    function _digestOf(CommitmentRecord[] calldata commitments) private pure returns (bytes32 digest) {
        for (uint256 i = 0; i < commitments.length; ++i) {
            CommitmentRecord calldata one = commitments[i];
            digest = _chain(digest, one.miner, one.units, one.commitment);
        }
    }

    /// @dev All timely verdicts must be given, so the caller cannot choose who shares the bond.
    function _requireVerdicts(
        Ballot storage record,
        address[] calldata validators,
        bytes[] calldata verdicts
    ) private view returns (Voter[] memory voters) {
        if (validators.length != verdicts.length) revert LedgerEvidenceMismatch();
        voters = new Voter[](validators.length);
        uint256 shown = 0;
        for (uint256 i = 0; i < validators.length; ++i) {
            address operator = VALIDATORS.operatorOf(validators[i]);
            uint256 index = VALIDATORS.indexOf(record.setVersion, validators[i]);
            uint256 bit = 1 << index;
            bytes32 hash = _verdictHash(record.ballotNumber, verdicts[i]);
            if (shown & bit != 0 || record.verdictHashes[index] != hash) revert LedgerEvidenceMismatch();
            shown |= bit;
            voters[i] = Voter(operator, record.timely & bit != 0);
        }
        if (shown & record.timely != record.timely) revert LedgerEvidenceMismatch();
    }

    function _slashOne(
        uint256 taskId,
        Ballot storage record,
        address account,
        uint256 index,
        Voter[] memory voters,
        bytes[] calldata verdicts
    ) private {
        Registration storage miner = _registrations[taskId][account];
        if (miner.slashed) revert LedgerAlreadySlashed(taskId, account);
        // A bond covers only attempts that opened after it was placed.
        if (miner.bond == 0 || miner.registeredBlock > record.openBlock) {
            revert LedgerNotParticipating(taskId, account);
        }
        bool cheated = _requireGuilt(verdicts, index, VALIDATORS.quorumOf(record.setVersion));
        uint256 amount = _takeBond(taskId, miner, account, cheated);
        if (cheated) _creditAccusers(_trainings[taskId].token, amount / 2, voters, verdicts, index);
    }

    /// @dev True if the verdicts cost the whole bond, false if they cost a miss; reverts if they cost
    /// nothing. Cheat and missing count together: otherwise a miner could show a false gradient to a few
    /// validators only, so that neither reaches a quorum. The bond takes an honest validator's cheat.
    function _requireGuilt(bytes[] calldata verdicts, uint256 index, uint256 quorum)
        private
        pure
        returns (bool cheated)
    {
        uint256 cheats = 0;
        uint256 missing = 0;
        uint256 oks = 0;
        for (uint256 i = 0; i < verdicts.length; ++i) {
            uint256 verdict = _verdictOn(verdicts[i], index);
            if (verdict == CHEAT) ++cheats;
            else if (verdict == MISSING) ++missing;
            else if (verdict == OK) ++oks;
        }
        uint256 faults = (quorum - 1) / 2; // f of a set with this quorum, whatever its size
        if (cheats + missing < quorum || oks > faults) revert LedgerNoQuorum(cheats + missing, quorum);
        return cheats > faults;
    }

    function _takeBond(uint256 taskId, Registration storage miner, address account, bool cheated)
        private
        returns (uint256 amount)
    {
        Training storage training = _trainings[taskId];
        amount = cheated ? miner.bond : _payOf(training, miner.units) / MISS_SHARE;
        miner.bond -= uint128(amount);
        miner.slashed = true;
        emit MinerSlashed(taskId, account, amount, cheated);
        if (miner.memberPosition != 0) _removeMember(taskId, training, miner, account);

        // A commitment of this miner would be refused from now on, so the attempt expects one less.
        if (
            training.open && _takesPart(training, miner) && !_hasCommitted(training, miner)
                && !_areCommitmentsOver(training)
        ) {
            --training.expectedCommitments;
            _endCommitmentsIfComplete(training);
        }
    }

    function _creditAccusers(
        address token,
        uint256 amount,
        Voter[] memory voters,
        bytes[] calldata verdicts,
        uint256 index
    ) private {
        uint256 accusers = 0;
        for (uint256 i = 0; i < voters.length; ++i) {
            if (voters[i].timely && _verdictOn(verdicts[i], index) == CHEAT) ++accusers;
        }
        if (accusers == 0) return;
        uint256 share = amount / accusers;
        for (uint256 i = 0; i < voters.length; ++i) {
            if (voters[i].timely && _verdictOn(verdicts[i], index) == CHEAT) {
                _credits[token][voters[i].operator] += share;
            }
        }
    }

    // ---- inside: hashes and bits

    function _voteHash(uint256 taskId, uint64 ballotNumber, ResultVote calldata result)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(taskId, ballotNumber, result));
    }

    function _verdictHash(uint64 ballotNumber, bytes calldata verdicts) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(ballotNumber, verdicts));
    }

    function _verdictOn(bytes calldata verdicts, uint256 index) private pure returns (uint256) {
        return (uint8(verdicts[index / 2]) >> (4 * (index % 2))) & 15;
    }

    function _countBits(uint256 bits) private pure returns (uint256 count) {
        for (; bits != 0; bits &= bits - 1) ++count;
    }
}
