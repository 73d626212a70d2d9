// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IGradientLedger} from "./interfaces/IGradientLedger.sol";
import {IMinerSeats} from "./interfaces/IMinerSeats.sol";
import {IRewardDistributor} from "./interfaces/IRewardDistributor.sol";
import {ITaskRegistry} from "./interfaces/ITaskRegistry.sol";
import {IValidatorSet} from "./interfaces/IValidatorSet.sol";
import {SystemAddresses} from "./libraries/SystemAddresses.sol";

/// @title The ledger of training rounds; IGradientLedger documents its functions
/// @dev The end of a phase is computed from the stored start of the attempt, so a deadline needs no
/// transaction. Only early ends and new ballots are stored. The structs below pack what a frequent
/// call writes into as few storage slots as possible.
contract GradientLedger is IGradientLedger {
    /// @dev Ballots of one attempt. If the last one fails, the attempt is void.
    uint8 private constant MAX_BALLOTS = 3;
    /// @dev The most results that a validator posts in a ballot: one, its evaluation, and in the last ballot one
    /// that only pays; and one more to correct a mistake. Gas may be free, so without a limit one operator could
    /// fill blocks, and undo a quorum again and again.
    uint256 private constant MAX_RESULTS = 4;
    /// @dev After so many void attempts in a row, those without a commitment not counted, a task is paused until
    /// its submitter resumes it.
    uint8 private constant MAX_VOID_ATTEMPTS = 3;
    /// @dev The records of so many latest ballots and attempts are kept. More can end within an attempt's windows
    /// for late verdicts, fines and slashes only if its verdict phase is very long.
    uint32 private constant RING = 512;
    /// @dev The least number of blocks of each of these three windows.
    uint256 private constant MIN_WINDOW_BLOCKS = 64;
    /// @dev The window for late verdicts has so many blocks for each second of the verdict phase. It then lasts at
    /// least as long as that phase, unless blocks come faster than this.
    uint256 private constant BLOCKS_PER_SECOND = 2;

    /// @dev The bits worth 1, 4 and 8 in each group of four.
    uint256 private constant ONES = 0x1111111111111111111111111111111111111111111111111111111111111111;
    uint256 private constant FOURS = 4 * ONES;
    uint256 private constant EIGHTS = 8 * ONES;

    /// @dev The last byte of `_resultVotes`: how many results the validator posted, and whether it evaluated the
    /// last one.
    bytes32 private constant POSTED = bytes32(uint256(0xff));
    bytes32 private constant EVALUATED = bytes32(uint256(0x80));
    /// @dev The `correctCount` of a validator that did not evaluate.
    uint32 private constant NOT_EVALUATED = type(uint32).max;

    IValidatorSet private constant VALIDATORS = IValidatorSet(SystemAddresses.VALIDATOR_SET);
    ITaskRegistry private constant REGISTRY = ITaskRegistry(SystemAddresses.TASK_REGISTRY);
    IMinerSeats private constant SEATS = IMinerSeats(SystemAddresses.MINER_SEATS);
    IRewardDistributor private constant DISTRIBUTOR = IRewardDistributor(SystemAddresses.REWARD_DISTRIBUTOR);

    struct Training {
        // slot 0: the attempt, and everything that a commitment changes
        uint32 round;
        uint32 attempt;
        uint32 ballotNumber;
        uint32 attemptCount; // of all rounds: the ordinal of the attempt that opened last
        uint8 ballot;
        uint8 voidStreak;
        bool open;
        uint32 expectedCommitments;
        uint32 commitmentCount;
        uint32 committedUnits;
        bool isPaying; // the payment phase has begun
        // slot 1
        uint64 openBlock;
        uint64 openTime;
        uint64 verdictBlock; // the block in which this ballot's verdict phase began; 0 before
        uint64 verdictTime;
        // slot 2: the result phase
        uint64 resultBlock; // the block in which it began, or the payment phase after it; 0 before
        uint64 resultTime;
        uint104 resultVoters; // bit i: validator i posted a result in this ballot
        uint16 floorBlocks; // least blocks of each phase of this attempt
        ResultKind quorumKind; // of the result with a quorum
        // slot 3: the task's terms, copied when the first attempt opens
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
        bytes32 quorumVote; // hash of the result that has a quorum in this ballot; 0 if none has
        bytes32 trainingStateRoot;
        bytes32 modelRoot;
        uint256 paidTotal;
    }

    /// @dev One of the last ballots.
    struct Ballot {
        uint32 ballotNumber;
        uint32 setVersion; // the validator set at the first verdict; it judges, and gives f and q
        uint32 commitmentCount;
        uint104 voters; // bit i: validator i posted a verdict while the attempt was open, or later
        uint48 endBlock; // end of the verdict phase, once a quorum voted in time; may be ahead
        uint8 completeCount; // timely verdicts that leave no gradient missing or unchecked
        // slot 1
        uint104 timely; // bit i: validator i posted it within the verdict phase
        uint104 late; // bit i: validator i posted its late verdict
        uint48 endTime;
    }

    /// @dev The start of a phase. It ends once `length` seconds and `floor` blocks are over.
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
    mapping(uint256 taskId => mapping(uint256 ring => Ballot)) private _ballots;
    mapping(uint256 taskId => mapping(uint256 ring => EndedAttempt)) private _ended;
    /// @dev The vote of the last result of each validator, and in its last byte what POSTED says.
    mapping(uint256 taskId => mapping(uint256 validatorIndex => bytes32)) private _resultVotes;
    /// @dev How many validators cast a result vote, by the vote's hash, which covers task and ballot.
    mapping(bytes32 vote => uint256) private _tallies;

    constructor(uint32 phaseFloorBlocks_, uint32 graceBlocks_) {
        phaseFloorBlocks = phaseFloorBlocks_;
        graceBlocks = graceBlocks_;
    }

    // ---- commitments

    function commitGradient(uint256 taskId, uint32 round, uint32 attempt, uint32 units, bytes32 commitment)
        external
    {
        Training storage training = _trainings[taskId];
        _requirePhase(taskId, training, Phase.Commitment);
        if (round != training.round || attempt != training.attempt) _revertWrongRound(training);
        SEATS.noteCommitment(taskId, training.attemptCount, msg.sender, units);

        uint32 index = training.commitmentCount;
        training.commitmentCount = index + 1;
        training.committedUnits += units;
        emit GradientCommitted(taskId, round, msg.sender, attempt, index, units, commitment);
        _endCommitmentsIfComplete(training);
    }

    function expectOneLess(uint256 taskId) external {
        if (msg.sender != address(SEATS)) revert LedgerNotSeats(msg.sender);
        Training storage training = _trainings[taskId];
        if (!training.open || _areCommitmentsOver(training)) return;
        --training.expectedCommitments;
        _endCommitmentsIfComplete(training);
    }

    // ---- operator votes

    function postVerdict(uint256 taskId, uint32 round, uint32 attempt, uint32 ballot, bytes calldata verdicts)
        external
    {
        Training storage training = _trainings[taskId];
        Phase current = _moment(taskId, training).phase;
        if (
            !training.open || round != training.round || attempt != training.attempt
                || ballot != training.ballot
        ) _revertWrongRound(training);
        if (current == Phase.Waiting || training.verdictBlock == 0) {
            revert LedgerWrongPhase(taskId, current);
        }
        Ballot storage record = _ballots[taskId][training.ballotNumber % RING];
        if (record.ballotNumber != training.ballotNumber) _startRecord(training, record);
        bool timely = current == Phase.Verdict;
        address validator = _castVerdict(taskId, training, record, timely, verdicts);
        emit VerdictPosted(taskId, round, validator, attempt, ballot, timely, verdicts);
    }

    function postLateVerdict(uint256 taskId, uint32 ordinal, bytes calldata verdicts) external {
        EndedAttempt storage ended = _ended[taskId][ordinal % RING];
        Ballot storage record = _ballots[taskId][ended.ballotNumber % RING];
        if (
            ended.ordinal != ordinal || record.ballotNumber != ended.ballotNumber
                || block.number > ended.endedBlock + ended.lateBlocks
        ) revert LedgerTooLate(taskId, ordinal);
        (uint256 index, address validator,,) =
            VALIDATORS.memberOfOperator(record.setVersion, msg.sender);
        uint104 bit = uint104(1 << index);
        if (record.late & bit != 0) revert LedgerAlreadyVoted(validator);
        _requireVerdictFormat(verdicts, record.commitmentCount);
        record.late |= bit;
        record.voters |= bit;
        emit LateVerdictPosted(taskId, validator, ordinal, verdicts);
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
        _requireValidResult(taskId, training, result, current);

        bytes32 vote = _voteHash(taskId, training.ballotNumber, result);
        if (correctCount != NOT_EVALUATED) vote |= EVALUATED;
        bool isCast = _castResult(taskId, training, index, vote, quorum, result.kind);
        if (!isCast) revert LedgerAlreadyVoted(validator);
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
        REGISTRY.settleReservation(taskId, result.payout, false);
        _goOn(taskId, training);
    }

    function advanceRound(uint256 taskId) external {
        Training storage training = _trainings[taskId];
        if (!training.open) {
            // The registry calls this whenever the task may be able to go on. If no attempt can open yet, the
            // registry's own caller did nothing wrong, so this does not revert.
            bool isOpened = _tryOpen(taskId, training);
            if (isOpened || msg.sender == address(REGISTRY)) return;
        }
        Phase current = _moment(taskId, training).phase;
        if (current != Phase.Stalled) revert LedgerWrongPhase(taskId, current);

        bool isEmpty = training.commitmentCount == 0;
        if (!isEmpty && training.verdictBlock == 0) {
            _startVerdicts(training);
            return;
        }
        bool isLast = training.ballot + 1 == MAX_BALLOTS;
        if (training.resultBlock == 0) {
            (uint48 endBlock,) = _verdictEnd(taskId, training);
            if (endBlock != 0) {
                _startResults(training);
                return;
            }
        } else if (isLast && !training.isPaying) {
            training.isPaying = true;
            _startResults(training);
            return;
        }
        if (!isEmpty) emit BallotFailed(taskId, training.round, training.attempt, training.ballot);
        if (isEmpty || isLast) _voidAttempt(taskId, training, 0);
        else _nextBallot(training);
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
        round.attemptCount = training.attemptCount;
        round.trainingStateRoot = training.trainingStateRoot;
        round.modelRoot = training.modelRoot;
        round.paidTotal = training.paidTotal;
        if (!training.open) return round;

        round.openBlock = training.openBlock;
        round.openTime = training.openTime;
        round.expectedCommitments = training.expectedCommitments;
        round.commitmentCount = training.commitmentCount;
        round.committedUnits = training.committedUnits;
        round.verdictCount = uint32(_countBits(_timelyVoters(taskId, training)));
        round.resultCount = uint32(_countBits(training.resultVoters));
        if (training.verdictBlock == 0) return round;
        (round.verdictBlock, round.verdictTime) = (training.verdictBlock, training.verdictTime);
        (round.resultBlock, round.resultTime) = (training.resultBlock, training.resultTime);
    }

    function progressOf(uint256 taskId) external view returns (Progress memory progress) {
        Training storage training = _trainings[taskId];
        progress.attemptCount = training.attemptCount;
        progress.isOpen = training.open;
        progress.openBlock = training.openBlock;
        progress.endedBlock = training.endedBlock;
    }

    function endedAttempt(uint256 taskId, uint32 ordinal) external view returns (EndedAttempt memory ended) {
        ended = _ended[taskId][ordinal % RING];
        if (ended.ordinal != ordinal) delete ended;
    }

    function judgesOf(uint256 taskId, uint32 ballotNumber) external view returns (uint256) {
        return _judges(taskId, ballotNumber);
    }

    // ---- inside: the state machine of a round

    function _load(uint256 taskId, Training storage training) private {
        if (training.maxUnits != 0) return;
        ITaskRegistry.TaskTerms memory terms = REGISTRY.getTerms(taskId);
        training.rounds = terms.rounds;
        training.minMiners = terms.minMiners;
        training.maxUnits = terms.maxUnits;
        training.commitSeconds = terms.commitSeconds;
        training.verdictSeconds = terms.verdictSeconds;
        training.resultSeconds = terms.resultSeconds;
        training.unitPrice = terms.unitPrice;
        training.validatorFee = terms.validatorFee;
    }

    /// @dev Opens an attempt in this block if the task has all that it needs. No seat can end in this block, so
    /// the attempt has as many participants as are counted here.
    function _tryOpen(uint256 taskId, Training storage training) private returns (bool) {
        if (!_canOpen(taskId)) return false;
        _load(taskId, training);
        uint256 seatCount = SEATS.seatCount(taskId);
        uint256 reserved = _payOf(training, training.maxUnits) + training.validatorFee;
        if (!REGISTRY.reserveRound(taskId, reserved)) return false;

        // The submitter resumed the task, so the count of void attempts starts again.
        if (training.voidStreak == MAX_VOID_ATTEMPTS) training.voidStreak = 0;
        training.open = true;
        training.ballot = 0;
        ++training.ballotNumber;
        uint32 ordinal = ++training.attemptCount;
        training.expectedCommitments = uint32(seatCount);
        training.commitmentCount = 0;
        training.committedUnits = 0;
        training.openBlock = uint64(block.number);
        training.openTime = uint64(block.timestamp);
        training.verdictBlock = 0;
        training.verdictTime = 0;
        // Each of f faulty primaries in a row may leave commitments or votes out of its block.
        uint256 floor = 2 * (VALIDATORS.maxFaulty() + 1);
        training.floorBlocks = uint16(floor > phaseFloorBlocks ? floor : phaseFloorBlocks);
        _clearResults(training);
        emit AttemptOpened(
            taskId, training.round, training.attempt, ordinal, uint32(seatCount), reserved
        );
        return true;
    }

    function _canOpen(uint256 taskId) private view returns (bool) {
        ITaskRegistry.TaskTerms memory terms = REGISTRY.getTerms(taskId);
        uint256 cost = uint256(terms.maxUnits) * terms.unitPrice + terms.validatorFee;
        return SEATS.seatCount(taskId) >= terms.minMiners
            && SEATS.registeredUnits(taskId) >= terms.minUnits && REGISTRY.canReserveRound(taskId, cost);
    }

    function _nextBallot(Training storage training) private {
        ++training.ballot;
        ++training.ballotNumber;
        _startVerdicts(training);
        _clearResults(training);
    }

    function _voidAttempt(uint256 taskId, Training storage training, uint256 payout) private {
        emit AttemptVoided(taskId, training.round, training.attempt);
        ++training.attempt;
        // Without a commitment validators had no work. Absent miners are charged for that attempt, and must not
        // be able to pause a task.
        bool isEmpty = training.commitmentCount == 0;
        if (!isEmpty) ++training.voidStreak;
        _endAttempt(taskId, training);
        REGISTRY.settleReservation(taskId, payout, isEmpty);
        _goOn(taskId, training);
    }

    /// @dev A verdict phase begins in the block of a call. So miners, who reveal once commitments are over in a
    /// final block, have all its least blocks, also if blocks come slowly or an earlier phase had many.
    function _startVerdicts(Training storage training) private {
        training.verdictBlock = uint64(block.number);
        training.verdictTime = uint64(block.timestamp);
    }

    /// @dev So do a result and a payment phase, for the votes in them.
    function _startResults(Training storage training) private {
        training.resultBlock = uint64(block.number);
        training.resultTime = uint64(block.timestamp);
    }

    function _endAttempt(uint256 taskId, Training storage training) private {
        uint256 judges = _judges(taskId, training);
        uint256 quorum = VALIDATORS.quorumOf(judges);
        // Enough for the turns of all operators, of two blocks each (3 q is at least 2 n), for f faulty primaries
        // in a row that leave a call out, and for 8 blocks more.
        uint256 window = 3 * quorum + 2 * ((quorum - 1) / 2 + 1) + 8;
        if (window < MIN_WINDOW_BLOCKS) window = MIN_WINDOW_BLOCKS;
        uint256 late = BLOCKS_PER_SECOND * training.verdictSeconds;
        if (late < window) late = window;
        uint32 ordinal = training.attemptCount;
        _ended[taskId][ordinal % RING] = EndedAttempt({
            ordinal: ordinal,
            ballotNumber: training.ballotNumber,
            judges: uint32(judges),
            windowBlocks: uint32(window),
            lateBlocks: uint32(late),
            endedBlock: uint64(block.number)
        });
        training.open = false;
        training.ballot = 0;
        training.isPaying = false;
        training.endedBlock = uint64(block.number);
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
            moment.phase =
                !isActive ? Phase.Inactive : _canOpen(taskId) ? Phase.Stalled : Phase.Waiting;
        } else if (training.openBlock == block.number) {
            moment.phase = Phase.Waiting;
        } else if (!_areCommitmentsOver(training)) {
            moment = Moment(
                Phase.Commitment,
                training.openBlock,
                training.openTime,
                training.commitSeconds,
                training.floorBlocks
            );
        } else if (training.verdictBlock == 0) {
            // No more commitments come. `advanceRound` voids an attempt that has none, or else begins
            // the verdict phase.
            moment.phase = Phase.Stalled;
        } else if (!_areVerdictsOver(taskId, training)) {
            moment = Moment(
                Phase.Verdict,
                training.verdictBlock,
                training.verdictTime,
                training.verdictSeconds,
                training.floorBlocks
            );
        } else if (training.quorumVote != 0) {
            // A ballot that failed has nothing to settle.
            moment.phase =
                training.quorumKind == ResultKind.Failed ? Phase.Stalled : Phase.Settleable;
        } else if (training.resultBlock == 0) {
            // `advanceRound` begins the result phase after a quorum of timely verdicts, or else ends the
            // ballot.
            moment.phase = Phase.Stalled;
        } else {
            // After the result phase of the last ballot `advanceRound` begins the payment phase, or else it
            // ends the ballot.
            uint32 length = training.resultSeconds;
            uint32 floor = training.floorBlocks;
            if (_isOver(training.resultBlock, training.resultTime, length, floor)) {
                moment.phase = Phase.Stalled;
            } else {
                Phase current = training.isPaying ? Phase.Payment : Phase.Result;
                moment = Moment(current, training.resultBlock, training.resultTime, length, floor);
            }
        }
    }

    /// @dev The version of the validator set that judges the ballot in progress.
    function _judges(uint256 taskId, Training storage training) private view returns (uint256) {
        return _judges(taskId, training.ballotNumber);
    }

    /// @dev Before the first verdict of a ballot this is the set in force.
    function _judges(uint256 taskId, uint32 ballotNumber) private view returns (uint256) {
        Ballot storage record = _ballots[taskId][ballotNumber % RING];
        return record.ballotNumber == ballotNumber ? record.setVersion : VALIDATORS.version();
    }

    function _areCommitmentsOver(Training storage training) private view returns (bool) {
        return training.verdictBlock != 0
            || _isOver(
                training.openBlock, training.openTime, training.commitSeconds, training.floorBlocks
            );
    }

    function _areVerdictsOver(uint256 taskId, Training storage training) private view returns (bool) {
        if (training.resultBlock != 0) return true;
        (uint48 endBlock, uint48 endTime) = _verdictEnd(taskId, training);
        if (endBlock != 0) return block.number >= endBlock && block.timestamp >= endTime;
        return _isOver(
            training.verdictBlock, training.verdictTime, training.verdictSeconds, training.floorBlocks
        );
    }

    /// @dev The end that a quorum of timely verdicts has set; 0 before. It may be ahead.
    function _verdictEnd(uint256 taskId, Training storage training) private view returns (uint48, uint48) {
        Ballot storage record = _ballots[taskId][training.ballotNumber % RING];
        return record.ballotNumber == training.ballotNumber ? (record.endBlock, record.endTime) : (0, 0);
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

    // ---- inside: commitments

    /// @dev Without a commitment there is nothing to judge: if the last participant is slashed, the attempt ends
    /// at its deadline, as one to which no miner commits.
    function _endCommitmentsIfComplete(Training storage training) private {
        uint32 count = training.commitmentCount;
        if (count != 0 && count == training.expectedCommitments) _startVerdicts(training);
    }

    function _payOf(Training storage training, uint32 units) private view returns (uint256) {
        return uint256(units) * training.unitPrice;
    }

    // ---- inside: votes

    function _startRecord(Training storage training, Ballot storage record) private {
        record.ballotNumber = training.ballotNumber;
        record.setVersion = uint32(VALIDATORS.version());
        record.commitmentCount = training.commitmentCount;
        record.voters = 0;
        record.timely = 0;
        record.late = 0;
        record.endBlock = 0;
        record.endTime = 0;
        record.completeCount = 0;
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
        bool isComplete = _requireVerdictFormat(verdicts, record.commitmentCount);
        record.voters |= bit;
        if (timely) {
            record.timely |= bit;
            if (isComplete) ++record.completeCount;
            _shortenVerdicts(taskId, training, record, isComplete, quorum, count);
        }
        return validator;
    }

    /// @dev Sets the end of the verdict phase after a timely verdict. It ends at once, and the result phase
    /// begins, if all validators voted. Otherwise it may end early only after a quorum with 2f + 1 complete
    /// verdicts: f + 1 of these are of honest validators, so they decide every gradient that honest validators
    /// agree on. Liars that say missing or unchecked, and validators that cannot check, could else end all
    /// ballots before the others are done. After such a quorum the phase ends at once if all voted that did in one
    /// of the last two ballots, or else it waits for the rest, a quarter of the time that the quorum took. After
    /// any other quorum it lasts to its deadline. It never waits beyond the deadline, neither in seconds nor in
    /// blocks. Only for `graceBlocks`, and for a block of a proposer that does not lie, it always waits after a
    /// quorum, so a phase lasts at most so many blocks longer.
    function _shortenVerdicts(
        uint256 taskId,
        Training storage training,
        Ballot storage record,
        bool isComplete,
        uint256 quorum,
        uint256 count
    ) private {
        uint256 votes = _countBits(record.timely);
        if (votes < quorum) return;
        uint64 endBlock = uint64(block.number);
        uint64 endTime = uint64(block.timestamp);
        uint256 needed = 2 * ((count - 1) / 3) + 1;
        bool isDecided = record.completeCount >= needed;
        if (votes == count || (isDecided && _recentVoters(taskId, record) & ~record.timely == 0)) {
            _startResults(training);
        } else if (votes == quorum || (isComplete && record.completeCount == needed)) {
            (uint64 startBlock, uint64 startTime) = (training.verdictBlock, training.verdictTime);
            (uint64 lastBlock, uint64 lastTime) =
                (startBlock + training.floorBlocks, startTime + training.verdictSeconds);
            // Up to f proposers in a row may leave verdicts out; the next one, still before the end,
            // takes them.
            uint64 wait = uint64((count - 1) / 3 + 2);
            if (wait < graceBlocks) wait = graceBlocks;
            uint64 least = endBlock + wait;
            endBlock = isDecided ? endBlock + (endBlock - startBlock + 3) / 4 : lastBlock;
            endTime = isDecided ? endTime + (endTime - startTime + 3) / 4 : lastTime;
            if (endBlock > lastBlock) endBlock = lastBlock;
            if (endTime > lastTime) endTime = lastTime;
            if (endBlock < least) endBlock = least;
            // An end that an earlier verdict has set is only brought nearer.
            if (record.endBlock != 0 && endBlock > record.endBlock) endBlock = record.endBlock;
        } else {
            return; // an earlier verdict has set the end
        }
        // Numbers of blocks and seconds have far fewer bits.
        record.endBlock = uint48(endBlock);
        record.endTime = uint48(endTime);
    }

    /// @dev The validators that posted a verdict, timely or not, in one of the last two ballots; all of them
    /// if the set changed since, or if there were no such ballots.
    function _recentVoters(uint256 taskId, Ballot storage record) private view returns (uint104 voters) {
        for (uint256 i = 1; i <= 2; ++i) {
            if (record.ballotNumber <= i) return type(uint104).max;
            Ballot storage earlier = _ballots[taskId][(record.ballotNumber - i) % RING];
            if (
                earlier.ballotNumber != record.ballotNumber - i || earlier.setVersion != record.setVersion
            ) return type(uint104).max;
            voters |= earlier.voters;
        }
    }

    function _timelyVoters(uint256 taskId, Training storage training) private view returns (uint104) {
        Ballot storage record = _ballots[taskId][training.ballotNumber % RING];
        return record.ballotNumber == training.ballotNumber ? record.timely : 0;
    }

    /// @dev Counts a result instead of the validator's earlier one; false if it is refused.
    function _castResult(
        uint256 taskId,
        Training storage training,
        uint256 index,
        bytes32 evaluatedVote,
        uint256 quorum,
        ResultKind kind
    ) private returns (bool) {
        uint104 bit = uint104(1 << index);
        bool isFirst = training.resultVoters & bit == 0;
        if (isFirst) training.resultVoters |= bit;
        (bool isTaken, bytes32 previous) = _recordResult(taskId, index, evaluatedVote, isFirst);
        bytes32 vote = evaluatedVote & ~POSTED;
        if (!isTaken || previous == vote) return isTaken;
        if (!isFirst) {
            uint256 left = --_tallies[previous];
            if (previous == training.quorumVote && left < quorum) training.quorumVote = 0;
        }
        if (++_tallies[vote] == quorum) {
            training.quorumVote = vote;
            training.quorumKind = kind;
        }
        return true;
    }

    /// @dev Stores the last result of a validator in a ballot, and returns the one before, or 0. False if it
    /// changes nothing, or the validator posted too many: the same result again is of use only with its evaluation.
    function _recordResult(uint256 taskId, uint256 index, bytes32 evaluatedVote, bool isFirst)
        private
        returns (bool, bytes32 previous)
    {
        uint256 count = 1;
        if (!isFirst) {
            bytes32 held = _resultVotes[taskId][index];
            previous = held & ~POSTED;
            count = uint256(held & POSTED & ~EVALUATED) + 1;
            bool isSame = previous == evaluatedVote & ~POSTED;
            bool isOfUse = !isSame || evaluatedVote & EVALUATED & ~held != 0;
            if (count > MAX_RESULTS || !isOfUse) return (false, previous);
        }
        _resultVotes[taskId][index] = evaluatedVote | bytes32(count);
        return (true, previous);
    }

    /// @dev A result that cannot be carried out must not reach a quorum: its attempt could never end. Neither must
    /// one that was computed from other verdicts than those that count: all nodes compute from these who is paid.
    function _requireValidResult(
        uint256 taskId,
        Training storage training,
        ResultVote calldata result,
        Phase current
    ) private view {
        // The verdict phase is over in this block, so these stay the same as long as the ballot lasts.
        uint104 timelyVoters = _timelyVoters(taskId, training);
        if (result.timelyVoters != timelyVoters) revert LedgerOtherVoters(timelyVoters);

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

    /// @dev Returns whether the verdict is complete: it calls no gradient missing (3) or unchecked (4).
    function _requireVerdictFormat(bytes calldata verdicts, uint256 commitmentCount)
        private
        pure
        returns (bool isComplete)
    {
        uint256 expected = (commitmentCount + 1) / 2;
        if (verdicts.length != expected) revert LedgerInvalidVerdicts(verdicts.length, expected);
        if (commitmentCount % 2 != 0 && uint8(verdicts[expected - 1]) >> 4 != 0) {
            revert LedgerInvalidVerdicts(verdicts.length, expected);
        }
        uint256 incomplete;
        for (uint256 start = 0; start < expected; start += 32) {
            // calldata beyond `verdicts` may follow, so only its own bytes are kept
            uint256 word = uint256(bytes32(verdicts[start:expected < start + 32 ? expected : start + 32]));
            uint256 fours = word & FOURS;
            if (word & EIGHTS != 0 || fours & ((word << 1) | (word << 2)) != 0) {
                revert LedgerUnknownVerdict();
            }
            incomplete |= fours | (word & (word >> 1) & ONES);
        }
        return incomplete == 0;
    }

    function _revertWrongRound(Training storage training) private view {
        revert LedgerWrongRound(training.round, training.attempt, training.ballot);
    }

    // ---- inside: hashes and bits

    /// @dev The last byte is 0, which leaves room for what POSTED says.
    function _voteHash(uint256 taskId, uint32 ballotNumber, ResultVote calldata result)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(taskId, ballotNumber, result)) & ~POSTED;
    }

    function _countBits(uint256 bits) private pure returns (uint256 count) {
        for (; bits != 0; bits &= bits - 1) ++count;
    }
}
