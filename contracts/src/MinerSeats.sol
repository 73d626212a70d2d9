// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IGradientLedger} from "./interfaces/IGradientLedger.sol";
import {IMinerSeats} from "./interfaces/IMinerSeats.sol";
import {ITaskRegistry} from "./interfaces/ITaskRegistry.sol";
import {IValidatorSet} from "./interfaces/IValidatorSet.sol";
import {ExactTransfer} from "./libraries/ExactTransfer.sol";
import {SystemAddresses} from "./libraries/SystemAddresses.sol";

/// @title The seats of miners; IMinerSeats documents its functions
/// @dev Absence is accounted for lazily, the next time a call touches the seat. A commitment sets
/// `accountedAttempt` to its attempt, so the seat missed every later attempt that has ended and in which it
/// took part. A seat ends at its second miss, so at most two of them are charged.
contract MinerSeats is IMinerSeats, ReentrancyGuardTransient {
    using ExactTransfer for IERC20;
    using SafeERC20 for IERC20;

    /// @dev The most seats of a task, because validators download, check and aggregate a gradient of each. A
    /// seat has at least a 1024th of the task's units, so that small seats cannot take all places and leave
    /// units free.
    uint256 private constant MAX_MINERS = 1024;
    uint256 private constant MAX_FINES = 16;
    uint256 private constant MAX_ENDED_SEATS = 64;
    /// @dev A miss costs one round's pay and the seat bond, each divided by this: far less than the bonds,
    /// because absence may be innocent.
    uint256 private constant MISS_SHARE = 8;
    /// @dev The bond covers so many misses besides a fraud; then the seat ends.
    uint256 private constant MAX_MISSES = 2;
    /// @dev Two misses within so many attempts burn all of the seat bond.
    uint256 private constant MISS_WINDOW = 8;
    /// @dev A newcomer may displace seats with at most so many units for each unit of its own. Without this
    /// limit, small seats could displace all large ones and leave most units free.
    uint256 private constant DISPLACED_PER_UNIT = 2;
    /// @dev A miner that has taken part in no attempt may leave once the task opened none for so many blocks.
    uint256 private constant IDLE_BLOCKS = 256;
    uint256 private constant PPM = 1_000_000;
    /// @dev The votes on fines are kept for so many latest attempts. More can end within an attempt's windows
    /// only if its verdict phase is very long; then the rest of the windows is lost.
    uint32 private constant ATTEMPT_RING = 512;

    IValidatorSet private constant VALIDATORS = IValidatorSet(SystemAddresses.VALIDATOR_SET);
    ITaskRegistry private constant REGISTRY = ITaskRegistry(SystemAddresses.TASK_REGISTRY);
    IGradientLedger private constant LEDGER = IGradientLedger(SystemAddresses.GRADIENT_LEDGER);
    IERC20 private constant POT = IERC20(SystemAddresses.TRAINING_TOKEN);

    /// @dev The task's terms, copied when the first miner registers.
    struct TaskSeats {
        address token;
        uint32 maxUnits;
        uint32 auditPpm;
        uint32 registeredUnits; // of all seats that have not ended, at most maxUnits
        uint128 unitPrice;
        uint32 minMiners;
        uint32 minUnits;
        uint32 displacedAfter; // the last attempt after whose opening a newcomer displaced seats
        uint32 displacerCount; // seats of such newcomers that have not ended
    }

    struct Misses {
        uint256 attempts; // bit k: the seat missed the attempt `last` - k
        uint32 last;
    }

    /// @dev The votes on the fines of an attempt. Index 0 is the vote at once, index 1 the closing vote.
    struct FinesVote {
        uint32 ordinal;
        uint104[2] voters; // bit i: validator i of the judging set voted
        bytes32[2] roots; // approved by a quorum; 0 before
    }

    uint256 public immutable seatBond;
    uint32 public immutable seatAttempts;

    mapping(uint256 taskId => TaskSeats) private _tasks;
    mapping(uint256 taskId => address[]) private _members;
    mapping(uint256 taskId => mapping(address miner => Seat)) private _seats;
    mapping(uint256 taskId => mapping(address miner => Misses)) private _misses;
    mapping(uint256 taskId => mapping(uint256 ring => FinesVote)) private _fines;
    /// @dev How many validators voted for a root, by the hash of task, attempt, vote and root.
    mapping(bytes32 vote => uint256) private _tallies;
    mapping(address token => mapping(address account => uint256)) private _credits;

    constructor(uint256 seatBond_, uint32 seatAttempts_) {
        seatBond = seatBond_;
        seatAttempts = seatAttempts_;
    }

    // ---- miners

    function register(uint256 taskId, uint32 units, address[] calldata displaced) external nonReentrant {
        if (!_takesMiners(taskId)) revert SeatsNotActive(taskId);
        Seat storage seat = _seats[taskId][msg.sender];
        IGradientLedger.Progress memory progress = LEDGER.progressOf(taskId);
        bool isReturning = seat.units != 0 && !seat.isSlashed;
        if (isReturning) _requireReturning(taskId, progress, seat, units);
        TaskSeats storage task = _load(taskId);
        uint32 least = _leastUnits(task);
        if (units < least) revert SeatsTooFewUnits(least);
        address[] storage members = _members[taskId];
        bool hasDisplaced = displaced.length != 0
            && _makeRoom(taskId, task, progress, displaced, units, isReturning && seat.isDisplaced);
        if (members.length == MAX_MINERS) revert SeatsTooManyMiners(MAX_MINERS);
        // Each miner does the units that it declared. Nothing is drawn, so no choice of an address or of the
        // seed brings more work.
        uint32 freeUnits = _freeUnits(taskId, task);
        if (units > freeUnits) revert SeatsTaskFull(freeUnits);

        task.registeredUnits += units;
        members.push(msg.sender);
        uint256 bond = seat.bond;
        if (!isReturning) {
            bond = _bondOf(task, units);
            delete _misses[taskId][msg.sender];
            delete _seats[taskId][msg.sender];
            (seat.units, seat.bond, seat.hasSeatBond) = (units, uint208(bond), true);
            seat.bondedFrom = progress.attemptCount + 1;
        }
        seat.firstAttempt = progress.attemptCount + 1;
        seat.accountedAttempt = progress.attemptCount;
        seat.position = uint32(members.length);
        seat.registeredBlock = uint32(block.number);
        seat.isDisplaced = false;
        seat.hasDisplaced = hasDisplaced;
        if (hasDisplaced) {
            if (task.displacedAfter != progress.attemptCount) task.displacerCount = 0;
            task.displacedAfter = progress.attemptCount;
            ++task.displacerCount;
        }
        emit MinerRegistered(taskId, msg.sender, units, bond, _seatBondLeft(seat));

        if (isReturning) return;
        IERC20(task.token).pullExact(msg.sender, bond);
        POT.pullExact(msg.sender, seatBond);
    }

    function leave(uint256 taskId) external {
        Seat storage seat = _seats[taskId][msg.sender];
        if (seat.position == 0) revert SeatsNotRegistered(taskId, msg.sender);
        IGradientLedger.Progress memory progress = LEDGER.progressOf(taskId);
        _requireNotOpening(taskId, progress);
        if (seat.firstAttempt > progress.attemptCount && !_owesNothing(taskId, progress, seat)) {
            revert SeatsAttemptOwed(taskId, msg.sender);
        }
        _account(taskId, progress, seat, msg.sender);
        // Accounting may have found a second miss, which ends the seat.
        if (seat.position != 0) _endSeat(taskId, progress, seat, msg.sender);
    }

    function withdrawBond(uint256 taskId) external nonReentrant {
        Seat storage seat = _requireFree(taskId);
        uint256 bond = seat.bond;
        uint256 potBond = _seatBondLeft(seat);
        address token = _tasks[taskId].token;
        delete _seats[taskId][msg.sender];
        emit BondWithdrawn(taskId, msg.sender, bond, potBond);

        if (bond != 0) IERC20(token).safeTransfer(msg.sender, bond);
        if (potBond != 0) POT.safeTransfer(msg.sender, potBond);
    }

    function withdrawSeatBond(uint256 taskId) external nonReentrant {
        Seat storage seat = _requireFree(taskId);
        uint256 potBond = _seatBondLeft(seat);
        if (potBond == 0) revert SeatsNothingToWithdraw();
        seat.hasSeatBond = false;
        emit BondWithdrawn(taskId, msg.sender, 0, potBond);

        POT.safeTransfer(msg.sender, potBond);
    }

    function endSeats(uint256 taskId, address[] calldata miners) external {
        if (miners.length > MAX_ENDED_SEATS) revert SeatsListTooLong(miners.length, MAX_ENDED_SEATS);
        IGradientLedger.Progress memory progress = LEDGER.progressOf(taskId);
        _requireNotOpening(taskId, progress);
        uint256 seatsBefore = _members[taskId].length;
        for (uint256 i = 0; i < miners.length; ++i) {
            Seat storage seat = _seats[taskId][miners[i]];
            if (seat.position != 0) _account(taskId, progress, seat, miners[i]);
        }
        if (_members[taskId].length == seatsBefore) revert SeatsNoneOver(taskId);
    }

    function noteCommitment(uint256 taskId, uint32 ordinal, address miner, uint32 units) external {
        if (msg.sender != address(LEDGER)) revert SeatsNotLedger(msg.sender);
        Seat storage seat = _seats[taskId][miner];
        if (!_takesPart(seat, ordinal)) revert SeatsNotParticipating(taskId, miner);
        if (seat.committedAttempt == ordinal) revert SeatsAlreadyCommitted(taskId, miner);
        if (units != seat.units) revert SeatsInvalidUnits(units);
        if (seat.accountedAttempt + 1 < ordinal) {
            _account(taskId, LEDGER.progressOf(taskId), seat, miner);
        }
        seat.accountedAttempt = ordinal;
        seat.committedAttempt = ordinal;
    }

    // ---- fines

    function postFines(uint256 taskId, uint32 ordinal, bytes32 root) external {
        IGradientLedger.EndedAttempt memory ended = LEDGER.endedAttempt(taskId, ordinal);
        (uint256 index, address validator, uint256 quorum,) =
            VALIDATORS.memberOfOperator(ended.judges, msg.sender);
        uint256 lateUntil = uint256(ended.endedBlock) + ended.lateBlocks;
        if (ended.endedBlock == 0 || root == 0 || block.number > lateUntil + ended.windowBlocks) {
            revert SeatsWindowClosed(taskId, ordinal);
        }
        bool isClosing = block.number > lateUntil;
        uint256 stage = isClosing ? 1 : 0;
        FinesVote storage vote = _fines[taskId][ordinal % ATTEMPT_RING];
        if (vote.ordinal != ordinal) {
            delete _fines[taskId][ordinal % ATTEMPT_RING];
            vote.ordinal = ordinal;
        }
        uint104 bit = uint104(1 << index);
        if (vote.voters[stage] & bit != 0) revert SeatsAlreadyVoted(validator);
        // Gas may be free, so a vote that changes nothing is refused.
        if (vote.roots[stage] != 0 || vote.roots[0] == root) revert SeatsAlreadyApproved(taskId, ordinal);
        vote.voters[stage] |= bit;
        emit FinesPosted(taskId, validator, ordinal, isClosing, root);
        bytes32 key = keccak256(abi.encode(taskId, ordinal, stage, root));
        if (++_tallies[key] == quorum) {
            delete _tallies[key];
            vote.roots[stage] = root;
            emit FinesApproved(taskId, ordinal, isClosing, root);
        }
    }

    function slash(uint256 taskId, uint32 ordinal, Fine[] calldata fines, bytes32[][] calldata proofs)
        external
    {
        if (fines.length > MAX_FINES) revert SeatsListTooLong(fines.length, MAX_FINES);
        IGradientLedger.EndedAttempt memory ended = LEDGER.endedAttempt(taskId, ordinal);
        uint256 until = uint256(ended.endedBlock) + ended.lateBlocks + 2 * uint256(ended.windowBlocks);
        if (ended.endedBlock == 0 || block.number > until) revert SeatsWindowClosed(taskId, ordinal);
        IGradientLedger.Progress memory progress = LEDGER.progressOf(taskId);
        _requireNotOpening(taskId, progress);

        bool isAnyImposed = false;
        for (uint256 i = 0; i < fines.length; ++i) {
            if (!_isApproved(taskId, ordinal, fines[i], proofs[i])) revert SeatsInvalidFine(i);
            if (_impose(taskId, ordinal, progress, ended.judges, fines[i])) isAnyImposed = true;
        }
        if (!isAnyImposed) revert SeatsNothingToFine(taskId, ordinal);
    }

    function withdrawCredit(address token) external nonReentrant {
        uint256 amount = _credits[token][msg.sender];
        if (amount == 0) revert SeatsNothingToWithdraw();
        _credits[token][msg.sender] = 0;
        emit CreditWithdrawn(token, msg.sender, amount);

        IERC20(token).safeTransfer(msg.sender, amount);
    }

    // ---- views

    function seatCount(uint256 taskId) external view returns (uint256) {
        return _members[taskId].length;
    }

    function registeredUnits(uint256 taskId) external view returns (uint32) {
        return _tasks[taskId].registeredUnits;
    }

    function getSeat(uint256 taskId, address miner) external view returns (Seat memory) {
        return _seats[taskId][miner];
    }

    function listSeats(uint256 taskId)
        public
        view
        returns (address[] memory miners, uint32[] memory units, uint32[] memory firstAttempts)
    {
        miners = _members[taskId];
        units = new uint32[](miners.length);
        firstAttempts = new uint32[](miners.length);
        for (uint256 i = 0; i < miners.length; ++i) {
            Seat storage seat = _seats[taskId][miners[i]];
            (units[i], firstAttempts[i]) = (seat.units, seat.firstAttempt);
        }
    }

    function participants(uint256 taskId)
        external
        view
        returns (address[] memory miners, uint32[] memory units)
    {
        uint32[] memory firstAttempts;
        (miners, units, firstAttempts) = listSeats(taskId);
        uint32 ordinal = LEDGER.progressOf(taskId).attemptCount;
        uint256 count = 0;
        for (uint256 i = 0; i < miners.length; ++i) {
            if (firstAttempts[i] > ordinal) continue;
            (miners[count], units[count]) = (miners[i], units[i]);
            ++count;
        }
        assembly ("memory-safe") {
            mstore(miners, count)
            mstore(units, count)
        }
    }

    function listOver(uint256 taskId, uint256 limit) external view returns (address[] memory miners) {
        address[] storage members = _members[taskId];
        IGradientLedger.Progress memory progress = LEDGER.progressOf(taskId);
        uint32 endedCount = _endedCount(progress);
        miners = new address[](limit);
        uint256 count = 0;
        for (uint256 i = 0; i < members.length && count < limit; ++i) {
            Seat storage seat = _seats[taskId][members[i]];
            if (seat.missCount + _absencesOf(seat, endedCount) < MAX_MISSES) continue;
            miners[count] = members[i];
            ++count;
        }
        assembly ("memory-safe") {
            mstore(miners, count)
        }
    }

    function requiredBond(uint256 taskId, uint32 units) external view returns (uint256) {
        ITaskRegistry.TaskTerms memory terms = REGISTRY.getTerms(taskId);
        return _computeBond(uint256(units) * terms.unitPrice, terms.auditPpm);
    }

    function finesOf(uint256 taskId, uint32 ordinal) external view returns (bytes32 first, bytes32 closing) {
        FinesVote storage vote = _fines[taskId][ordinal % ATTEMPT_RING];
        if (vote.ordinal == ordinal) (first, closing) = (vote.roots[0], vote.roots[1]);
    }

    function creditOf(address token, address account) external view returns (uint256) {
        return _credits[token][account];
    }

    // ---- inside: seats

    function _load(uint256 taskId) private returns (TaskSeats storage task) {
        task = _tasks[taskId];
        if (task.maxUnits != 0) return task;
        ITaskRegistry.TaskTerms memory terms = REGISTRY.getTerms(taskId);
        task.token = terms.token;
        task.maxUnits = terms.maxUnits;
        task.auditPpm = terms.auditPpm;
        task.unitPrice = terms.unitPrice;
        task.minMiners = terms.minMiners;
        task.minUnits = terms.minUnits;
    }

    /// @dev A seat in a paused task is ready for the attempt that opens when the submitter resumes it.
    function _takesMiners(uint256 taskId) private view returns (bool) {
        ITaskRegistry.TaskStatus status = REGISTRY.getAccount(taskId).status;
        return status == ITaskRegistry.TaskStatus.Active || status == ITaskRegistry.TaskStatus.Paused;
    }

    function _leastUnits(TaskSeats storage task) private view returns (uint32) {
        return uint32((task.maxUnits + MAX_MINERS - 1) / MAX_MINERS);
    }

    /// @dev The most units that a newcomer may have. No attempt opens without `minMiners` seats. So while
    /// seats are missing, the least units of a seat stay free for each further one that is missing. Otherwise
    /// one seat with all units would keep the task from opening any attempt. The registry makes sure that
    /// `minMiners` seats of the least units fit.
    function _freeUnits(uint256 taskId, TaskSeats storage task) private view returns (uint32 freeUnits) {
        uint256 seatsAfter = _members[taskId].length + 1;
        freeUnits = task.maxUnits - task.registeredUnits;
        if (seatsAfter < task.minMiners) {
            freeUnits -= uint32(task.minMiners - seatsAfter) * _leastUnits(task);
        }
    }

    function _isActive(uint256 taskId) private view returns (bool) {
        return REGISTRY.getAccount(taskId).status == ITaskRegistry.TaskStatus.Active;
    }

    /// @dev The participants of an attempt are read from the state after the block that opens it. So no seat
    /// may end in that block.
    function _requireNotOpening(uint256 taskId, IGradientLedger.Progress memory progress) private view {
        if (progress.isOpen && progress.openBlock == block.number) revert SeatsAttemptOpening(taskId);
    }

    function _takesPart(Seat storage seat, uint32 ordinal) private view returns (bool) {
        return seat.units != 0 && !seat.isSlashed && seat.firstAttempt <= ordinal
            && (seat.position != 0 || seat.lastAttempt >= ordinal);
    }

    /// @dev Whether a seat that has not taken part since it was taken may be given up. While an attempt takes
    /// commitments, the others still have time to take the room before the next one opens. Later, a seat could
    /// keep them out at no cost, and leave. One that ended other seats would have taken them for nothing. So it
    /// owes the next attempt, however late that opens, unless those miners can take their seats back.
    function _owesNothing(uint256 taskId, IGradientLedger.Progress memory progress, Seat storage seat)
        private
        view
        returns (bool)
    {
        if (seat.hasDisplaced) {
            if (!_isBlocked(taskId, _tasks[taskId], progress)) return false;
        } else {
            if (!_isActive(taskId)) return true;
            if (progress.isOpen) return LEDGER.phase(taskId) == IGradientLedger.Phase.Commitment;
        }
        uint256 quietSince =
            seat.registeredBlock > progress.endedBlock ? seat.registeredBlock : progress.endedBlock;
        return block.number >= quietSince + IDLE_BLOCKS;
    }

    /// @dev Whether only its miners or its submitter can have the task open an attempt: it is paused, or lacks
    /// seats or units. Time, attempts and money can be bought by any account.
    function _isBlocked(uint256 taskId, TaskSeats storage task, IGradientLedger.Progress memory progress)
        private
        view
        returns (bool)
    {
        if (progress.isOpen) return false;
        return !_isActive(taskId) || _members[taskId].length < task.minMiners
            || task.registeredUnits < task.minUnits;
    }

    /// @dev An account whose seat has ended takes it again with the bonds that it still has there. They answer
    /// for both, so the seat has the same units, and its misses still count. It does not take part in the attempt
    /// in progress, so it may take no part in that one as an ended seat either.
    function _requireReturning(
        uint256 taskId,
        IGradientLedger.Progress memory progress,
        Seat storage seat,
        uint32 units
    ) private {
        bool isOver = seat.position == 0 && !(progress.isOpen && seat.lastAttempt == progress.attemptCount);
        if (isOver) _account(taskId, progress, seat, msg.sender);
        if (!isOver || !seat.hasSeatBond || seat.missCount >= MAX_MISSES) {
            revert SeatsAlreadyRegistered(taskId, msg.sender);
        }
        if (units != seat.units) revert SeatsInvalidUnits(units);
    }

    /// @dev Ends seats to make room for the caller's, and returns whether it has to owe an attempt for that. A
    /// displacement is final once the newcomer takes part in an attempt. Before that, those that were displaced
    /// take their seats back if the task is blocked: otherwise newcomers could displace miners, see to it that no
    /// attempt opens that they would owe, and keep the task for nothing.
    function _makeRoom(
        uint256 taskId,
        TaskSeats storage task,
        IGradientLedger.Progress memory progress,
        address[] calldata displaced,
        uint32 units,
        bool isDisplaced
    ) private returns (bool hasDisplaced) {
        _requireNotOpening(taskId, progress);
        // A miner that was displaced since the last attempt opened has taken part in that one.
        bool takesBack = isDisplaced && _seats[taskId][msg.sender].lastAttempt == progress.attemptCount
            && _isBlocked(taskId, task, progress);
        uint256 displaceable = DISPLACED_PER_UNIT * units;
        for (uint256 i = 0; i < displaced.length; ++i) {
            Seat storage seat = _seats[taskId][displaced[i]];
            bool isFull = _members[taskId].length == MAX_MINERS || units > _freeUnits(taskId, task);
            if (!isFull || seat.position == 0) revert SeatsNotDisplaceable(taskId, displaced[i]);
            if (!takesBack || !_isProvisional(task, progress, seat)) {
                bool isTermOver = uint256(seat.firstAttempt) + seatAttempts <= progress.attemptCount + 1;
                if (!isTermOver || seat.units > displaceable) {
                    revert SeatsNotDisplaceable(taskId, displaced[i]);
                }
                displaceable -= seat.units;
                hasDisplaced = true;
            }
            _account(taskId, progress, seat, displaced[i]);
            if (seat.position != 0) _endSeat(taskId, progress, seat, displaced[i]);
            seat.isDisplaced = true;
        }
        if (!hasDisplaced) return false;
        // A paused task opens no attempt that the newcomer would owe, nor does one without enough seats or units.
        if (!_isActive(taskId)) revert SeatsNotActive(taskId);
        if (_members[taskId].length + 1 < task.minMiners || task.registeredUnits + units < task.minUnits) {
            revert SeatsNotDisplaceable(taskId, displaced[0]);
        }
    }

    /// @dev Whether miners that were displaced since the last attempt opened may end a seat to have theirs again: it
    /// was taken since then, and has displaced others. When all of these have ended, further ones may, because a
    /// second account could take the room that a small newcomer leaves. A seat of a miner that took part in the
    /// last attempt is none of them. All of those fit beside each other, so a displaced miner can always have its
    /// seat again, and does not lose it to another one.
    function _isProvisional(
        TaskSeats storage task,
        IGradientLedger.Progress memory progress,
        Seat storage seat
    ) private view returns (bool) {
        if (seat.firstAttempt <= progress.attemptCount) return false;
        return seat.hasDisplaced
            || (task.displacerCount == 0 && seat.lastAttempt != progress.attemptCount);
    }

    /// @dev The seat takes part in no attempt that opens from now on; it still finishes the open one.
    function _endSeat(
        uint256 taskId,
        IGradientLedger.Progress memory progress,
        Seat storage seat,
        address miner
    ) private {
        address[] storage members = _members[taskId];
        uint256 position = seat.position;
        address last = members[members.length - 1];
        members[position - 1] = last;
        _seats[taskId][last].position = uint32(position);
        members.pop();
        TaskSeats storage task = _tasks[taskId];
        task.registeredUnits -= seat.units;
        if (seat.hasDisplaced && seat.firstAttempt > progress.attemptCount) --task.displacerCount;

        seat.position = 0;
        // A seat that was taken again and took part in no attempt since then keeps its earlier last one.
        if (progress.attemptCount >= seat.firstAttempt) seat.lastAttempt = progress.attemptCount;
        emit MinerLeft(taskId, miner);
    }

    function _endedCount(IGradientLedger.Progress memory progress) private pure returns (uint32) {
        return progress.isOpen ? progress.attemptCount - 1 : progress.attemptCount;
    }

    /// @dev The number of attempts that have ended, in which the seat took part, and that are not accounted for
    /// yet. It missed all of them.
    function _absencesOf(Seat storage seat, uint32 endedCount) private view returns (uint32) {
        if (seat.position == 0 && seat.lastAttempt < endedCount) endedCount = seat.lastAttempt;
        uint32 accounted = seat.accountedAttempt;
        return endedCount > accounted ? endedCount - accounted : 0;
    }

    function _account(
        uint256 taskId,
        IGradientLedger.Progress memory progress,
        Seat storage seat,
        address miner
    ) private {
        uint32 endedCount = _endedCount(progress);
        while (_absencesOf(seat, endedCount) != 0) {
            uint32 ordinal = seat.accountedAttempt + 1;
            seat.accountedAttempt = ordinal;
            uint256 amount = _takeMiss(taskId, seat, miner, ordinal);
            emit MinerAbsent(taskId, miner, ordinal, amount);
            _countMiss(taskId, progress, seat, miner);
        }
    }

    /// @dev Charges the bond for a miss. Checks nothing: the caller knows that the seat was not charged for this
    /// attempt before.
    function _takeMiss(uint256 taskId, Seat storage seat, address miner, uint32 ordinal)
        private
        returns (uint256 amount)
    {
        Misses storage misses = _misses[taskId][miner];
        if (ordinal > misses.last) {
            misses.attempts = (misses.attempts << (ordinal - misses.last)) | 1;
            misses.last = ordinal;
        } else {
            misses.attempts |= 1 << (misses.last - ordinal);
        }
        amount = _missOf(uint256(seat.units) * _tasks[taskId].unitPrice);
        if (amount > seat.bond) amount = seat.bond;
        seat.bond -= uint208(amount);
    }

    /// @dev A miss burns an eighth of the seat bond, whatever the task's token is worth. After two misses
    /// the bond covers a fraud and no further miss, so the seat ends. If both are within eight attempts, the
    /// rest of the seat bond is burnt, even if the miner has left meanwhile.
    function _countMiss(
        uint256 taskId,
        IGradientLedger.Progress memory progress,
        Seat storage seat,
        address miner
    ) private {
        if (seat.missCount < MISS_SHARE) {
            ++seat.missCount;
            if (seat.hasSeatBond) emit SeatBondBurnt(taskId, miner, seatBond / MISS_SHARE);
        }
        if (seat.missCount < MAX_MISSES) return;
        uint256 missed = _misses[taskId][miner].attempts;
        for (uint256 i = 1; i < MISS_WINDOW; ++i) {
            if (missed & (missed >> i) != 0) _burnSeatBond(taskId, seat, miner);
        }
        if (seat.position == 0) return;
        _endSeat(taskId, progress, seat, miner);
        // The seat is over since this miss, so later attempts are no absences.
        seat.accountedAttempt = progress.attemptCount;
    }

    function _burnSeatBond(uint256 taskId, Seat storage seat, address miner) private {
        uint256 left = _seatBondLeft(seat);
        if (left == 0) return;
        seat.hasSeatBond = false;
        emit SeatBondBurnt(taskId, miner, left);
    }

    function _seatBondLeft(Seat storage seat) private view returns (uint256) {
        return seat.hasSeatBond ? seatBond - seat.missCount * (seatBond / MISS_SHARE) : 0;
    }

    /// @dev The caller's seat. Reverts if its last attempt can still be fined, because both bonds are locked
    /// until then. A seat that missed its last attempt loses the rest of the seat bond, so that a miner saves
    /// nothing by leaving after a miss.
    function _requireFree(uint256 taskId) private returns (Seat storage seat) {
        seat = _seats[taskId][msg.sender];
        if (seat.units == 0 || seat.isSlashed) revert SeatsNotRegistered(taskId, msg.sender);
        IGradientLedger.Progress memory progress = LEDGER.progressOf(taskId);
        bool isClosed = REGISTRY.getAccount(taskId).status == ITaskRegistry.TaskStatus.Closed;
        if (seat.position != 0 && !isClosed) revert SeatsBondLocked(taskId, msg.sender);
        _account(taskId, progress, seat, msg.sender);
        if (seat.position != 0) _endSeat(taskId, progress, seat, msg.sender);
        uint32 last = seat.lastAttempt;
        if (last < seat.bondedFrom) return seat; // the seat took part in no attempt
        if (progress.isOpen && last == progress.attemptCount) revert SeatsBondLocked(taskId, msg.sender);
        IGradientLedger.EndedAttempt memory ended = LEDGER.endedAttempt(taskId, last);
        // The ledger gives 0 for an attempt that it has forgotten, which can be fined no more.
        uint256 until = uint256(ended.endedBlock) + ended.lateBlocks + 2 * uint256(ended.windowBlocks);
        if (ended.endedBlock != 0 && block.number <= until) revert SeatsBondLocked(taskId, msg.sender);
        if (seat.committedAttempt != last || _misses[taskId][msg.sender].last == last) {
            _burnSeatBond(taskId, seat, msg.sender);
        }
    }

    // ---- inside: fines

    function _isApproved(uint256 taskId, uint32 ordinal, Fine calldata fine, bytes32[] calldata proof)
        private
        view
        returns (bool)
    {
        FinesVote storage vote = _fines[taskId][ordinal % ATTEMPT_RING];
        if (vote.ordinal != ordinal) return false;
        bytes32 leaf = keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(this), taskId, ordinal, fine)))
        );
        bytes32 root = MerkleProof.processProofCalldata(proof, leaf);
        return root == vote.roots[0] || root == vote.roots[1];
    }

    /// @dev Imposes a fine; false if it was imposed before, or if nothing is left to take. A fraud takes what a
    /// miss of the same attempt has left.
    function _impose(
        uint256 taskId,
        uint32 ordinal,
        IGradientLedger.Progress memory progress,
        uint256 judges,
        Fine calldata fine
    ) private returns (bool) {
        Seat storage seat = _seats[taskId][fine.miner];
        // A bond covers only attempts that opened after it was placed.
        if (seat.bond == 0 || ordinal < seat.bondedFrom) return false;
        if (fine.kind == FineKind.Miss) {
            Misses storage misses = _misses[taskId][fine.miner];
            // Misses are kept for 256 attempts. Earlier ones are beyond their windows.
            uint256 age = ordinal > misses.last ? 0 : misses.last - ordinal;
            if (age > 255) return false;
            if (ordinal <= misses.last && (misses.attempts >> age) & 1 != 0) return false;
            uint256 amount = _takeMiss(taskId, seat, fine.miner, ordinal);
            emit MinerFined(taskId, fine.miner, ordinal, FineKind.Miss, amount);
            _countMiss(taskId, progress, seat, fine.miner);
            return true;
        }
        if (fine.kind != FineKind.Fraud) return false;
        uint256 bond = seat.bond;
        bool isExpected =
            progress.isOpen && _takesPart(seat, progress.attemptCount)
            && seat.committedAttempt != progress.attemptCount;
        seat.bond = 0;
        emit MinerFined(taskId, fine.miner, ordinal, FineKind.Fraud, bond);
        _burnSeatBond(taskId, seat, fine.miner);
        if (seat.position != 0) _endSeat(taskId, progress, seat, fine.miner);
        seat.isSlashed = true;
        // The ledger refuses a commitment of this miner from now on, so the attempt must not wait for one.
        if (isExpected) LEDGER.expectOneLess(taskId);
        _creditAccusers(_tasks[taskId].token, bond / 2, judges, fine.accusers);
        return true;
    }

    function _creditAccusers(address token, uint256 amount, uint256 judges, uint256 accusers) private {
        uint256 count = 0;
        for (uint256 bits = accusers; bits != 0; bits &= bits - 1) ++count;
        if (count == 0) return;
        (, address[] memory operators) = VALIDATORS.committeeOf(judges);
        for (uint256 i = 0; i < operators.length; ++i) {
            if ((accusers >> i) & 1 != 0) _credits[token][operators[i]] += amount / count;
        }
    }

    // ---- inside: amounts

    function _bondOf(TaskSeats storage task, uint32 units) private view returns (uint256) {
        return _computeBond(uint256(units) * task.unitPrice, task.auditPpm);
    }

    /// @dev (2/p - 1) times the pay of one round, rounded up, and two misses. It is below 2**182, because a round
    /// pays less than 2**160, and auditPpm is at least 1.
    function _computeBond(uint256 pay, uint256 auditPpm) private pure returns (uint256) {
        return (pay * (2 * PPM - auditPpm) + auditPpm - 1) / auditPpm + MAX_MISSES * _missOf(pay);
    }

    /// @dev Rounded up, so that no miss is free.
    function _missOf(uint256 pay) private pure returns (uint256) {
        return (pay + MISS_SHARE - 1) / MISS_SHARE;
    }
}
