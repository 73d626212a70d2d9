// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IGradientLedger} from "./interfaces/IGradientLedger.sol";
import {ITaskRegistry} from "./interfaces/ITaskRegistry.sol";
import {IValidatorSet} from "./interfaces/IValidatorSet.sol";
import {ExactTransfer} from "./libraries/ExactTransfer.sol";
import {SystemAddresses} from "./libraries/SystemAddresses.sol";

/// @title The registry of training tasks and their escrow; ITaskRegistry documents its functions
contract TaskRegistry is ITaskRegistry, ReentrancyGuardTransient {
    using ExactTransfer for IERC20;
    using SafeERC20 for IERC20;

    /// @dev The specification travels in one transaction and in its event.
    uint256 private constant MAX_SPEC_BYTES = 16 * 1024;
    /// @dev With more units the sum of gradients could leave the range |sum| < 2**61 of aggregation.
    uint256 private constant MAX_UNITS = 65_536;
    /// @dev A task has at most so many seats, and each has at least this part of its units, rounded up.
    uint256 private constant MAX_MINERS = 1024;
    /// @dev More attempts than can open in any lifetime. Above it a uint32 has room for those that are given back.
    uint256 private constant MAX_ATTEMPTS = 2 ** 31;
    /// @dev Every gradient is re-executed. Sampling needs the audit phase, which does not exist yet.
    uint256 private constant FULL_AUDIT_PPM = 1_000_000;
    uint256 private constant PPM = 1_000_000;
    uint256 private constant MAX_PHASE_SECONDS = 7 days;
    /// @dev Votes are late after three quarters of a phase, which must leave a second for them.
    uint256 private constant MIN_PHASE_SECONDS = 4;
    /// @dev Every answer pays for the longest examination: two dry runs that take all the time that a node allows.
    uint256 private constant DRY_RUN_SECONDS = 240;
    /// @dev The most ballots of an attempt, as in the ledger.
    uint256 private constant MAX_BALLOTS = 3;
    /// @dev The rent of one eighth of the slots is twice that of the eighth before it.
    uint256 private constant PRICE_STEPS = 8;
    /// @dev Validators keep the content of a closed task for one more day, and longer only if they have room.
    uint256 private constant KEPT_SECONDS = 1 days;
    uint256 private constant BYTE_SECONDS = 2 ** 30 * 1 days;
    /// @dev A task is idle after twice the longest chain of three attempts, or later.
    uint256 private constant IDLE_ATTEMPTS = 6;

    IValidatorSet private constant VALIDATORS = IValidatorSet(SystemAddresses.VALIDATOR_SET);
    IGradientLedger private constant LEDGER = IGradientLedger(SystemAddresses.GRADIENT_LEDGER);
    IERC20 private constant POT = IERC20(SystemAddresses.TRAINING_TOKEN);

    uint32 private immutable _taskSlots;
    uint128 private immutable _slotPrice;
    uint128 private immutable _secondPrice;
    uint128 private immutable _bytePrice;
    uint128 private immutable _examinationFee;
    uint32 private immutable _pendingSeconds;
    uint32 private immutable _maxLifetimeSeconds;
    uint32 private immutable _idleSeconds;
    uint32 private immutable _emptyBlockMilliseconds;
    uint32 private immutable _phaseFloorBlocks;

    // Light clients read the first slots.
    uint256 public taskCount;
    mapping(uint256 taskId => TaskTerms) private _terms;
    mapping(uint256 taskId => TaskAccount) private _accounts;
    mapping(uint256 taskId => TaskResources) private _resources;
    mapping(uint256 taskId => TaskLease) private _leases;
    /// @dev The code of each answer, plus 1.
    mapping(uint256 taskId => mapping(address validator => uint16)) private _answers;
    mapping(uint256 taskId => mapping(uint8 code => uint32)) private _answerCounts;
    mapping(address operator => uint256) private _examinationPay;
    uint256 public openTasks;
    uint256 public burnt;

    modifier onlyLedger() {
        if (msg.sender != address(LEDGER)) revert TaskNotLedger(msg.sender);
        _;
    }

    constructor(Prices memory prices_) {
        _taskSlots = prices_.taskSlots;
        _slotPrice = prices_.slotPrice;
        _secondPrice = prices_.secondPrice;
        _bytePrice = prices_.bytePrice;
        _examinationFee = prices_.examinationFee;
        _pendingSeconds = prices_.pendingSeconds;
        _maxLifetimeSeconds = prices_.maxLifetimeSeconds;
        _idleSeconds = prices_.idleSeconds;
        _emptyBlockMilliseconds = prices_.emptyBlockMilliseconds;
        _phaseFloorBlocks = prices_.phaseFloorBlocks;
    }

    // ---- the submitter's calls

    function submitTask(
        TaskTerms calldata terms,
        TaskResources calldata resources,
        bytes calldata spec,
        uint256 budget,
        uint32 lifetimeSeconds,
        uint32 attempts,
        uint256 maxFee
    ) external nonReentrant returns (uint256 taskId) {
        if (spec.length > MAX_SPEC_BYTES) revert TaskSpecTooLarge(spec.length, MAX_SPEC_BYTES);
        bytes32 actual = sha256(spec);
        if (actual != terms.specHash) revert TaskSpecHashMismatch(terms.specHash, actual);
        _validateTerms(terms);
        _validateResources(resources);
        if (budget < _roundCost(terms)) revert TaskInvalidTerms("budget");
        if (openTasks >= _taskSlots) revert TaskNoFreeSlot(_taskSlots);

        taskId = ++taskCount;
        _terms[taskId] = terms;
        _resources[taskId] = resources;
        TaskAccount storage account = _accounts[taskId];
        account.submitter = msg.sender;
        account.status = TaskStatus.Pending;
        account.submittedBlock = uint64(block.number);
        account.escrowed = budget;
        account.refundable = budget;
        emit TaskSubmitted(taskId, msg.sender, terms.specHash, budget, spec);
        uint256 fee = _lease(taskId, lifetimeSeconds, attempts, maxFee);
        ++openTasks;

        IERC20(terms.token).pullExact(msg.sender, budget);
        POT.pullExact(msg.sender, fee);
    }

    function extendTask(uint256 taskId, uint32 lifetimeSeconds, uint32 attempts, uint256 maxFee)
        external
        nonReentrant
    {
        TaskAccount storage account = _open(taskId);
        TaskLease storage lease = _leases[taskId];
        if (_isExpirable(account, lease)) revert TaskIsOver(taskId);
        // Each event makes every node write the task's history again, so no event may be free.
        if (lifetimeSeconds == 0 && attempts == 0) revert TaskInvalidTerms("attempts");
        if (uint256(lease.attemptsLeft) + attempts > MAX_ATTEMPTS) revert TaskInvalidTerms("attempts");
        Quote memory price = _quoteOf(taskId, lifetimeSeconds, attempts, openTasks - 1);
        uint256 fee = price.rent + price.computation;
        if (fee > maxFee) revert TaskFeeTooHigh(fee, maxFee);

        uint256 spent = 0;
        uint256 lifetime;
        if (account.status == TaskStatus.Pending) {
            lifetime = uint256(lease.lifetimeSeconds) + lifetimeSeconds;
            lease.lifetimeSeconds = uint32(lifetime);
            lease.heldRent += fee;
        } else {
            // Time that passed after the end, while an attempt was open, cannot be bought.
            lease.endTime = _later(lease.endTime, block.timestamp) + lifetimeSeconds;
            // Rounded down, or each purchase of a second would add a whole block, and the blocks of an idle chain
            // would keep the task open for longer than was paid.
            lease.endBlock = _later(lease.endBlock, block.number)
                + uint64(uint256(lifetimeSeconds) * 1000 / _emptyBlockMilliseconds);
            // The blocks of a chain that stood still are left, and bound the lifetime as well.
            if (lease.endBlock > block.number + _blocksOf(_maxLifetimeSeconds)) {
                revert TaskInvalidTerms("lifetimeSeconds");
            }
            lifetime = lease.endTime - block.timestamp;
            burnt += fee;
            spent = fee;
        }
        if (lifetime > _maxLifetimeSeconds) revert TaskInvalidTerms("lifetimeSeconds");
        lease.attemptsLeft += attempts;
        emit TaskLeased(taskId, msg.sender, spent, lease);
        _tryRound(taskId, account);

        POT.pullExact(msg.sender, fee);
    }

    function fundTask(uint256 taskId, uint256 amount) external nonReentrant {
        TaskAccount storage account = _open(taskId);
        if (amount == 0) revert TaskInvalidTerms("amount");
        account.escrowed += amount;
        account.refundable += amount;
        emit TaskFunded(taskId, msg.sender, amount);
        _tryRound(taskId, account);

        IERC20(_terms[taskId].token).pullExact(msg.sender, amount);
    }

    function cancelTask(uint256 taskId) external {
        TaskAccount storage account = _open(taskId);
        if (msg.sender != account.submitter) revert TaskNotSubmitter(msg.sender);
        if (_isRoundOpen(account)) account.cancelling = true;
        else _close(taskId, account, CloseReason.Cancelled);
    }

    function resumeTask(uint256 taskId) external {
        TaskAccount storage account = _known(taskId);
        if (msg.sender != account.submitter) revert TaskNotSubmitter(msg.sender);
        _requireStatus(taskId, account, TaskStatus.Paused);
        account.status = TaskStatus.Active;
        _noteProgress(_leases[taskId]);
        emit TaskResumed(taskId);
        _tryRound(taskId, account);
    }

    function refundTask(uint256 taskId) external nonReentrant {
        TaskAccount storage account = _known(taskId);
        _requireStatus(taskId, account, TaskStatus.Closed);
        uint256 amount = account.refundable;
        if (amount == 0) revert TaskNothingToRefund(taskId);
        account.refundable = 0;
        account.refunded += amount;
        address submitter = account.submitter;
        emit TaskRefunded(taskId, submitter, amount);

        IERC20(_terms[taskId].token).safeTransfer(submitter, amount);
    }

    function refundFee(uint256 taskId) external nonReentrant {
        TaskAccount storage account = _known(taskId);
        TaskLease storage lease = _leases[taskId];
        uint256 amount = 0;
        if (_hasPassed(lease.windowTime, lease.windowBlock)) {
            amount = lease.heldPay;
            lease.heldPay = 0;
        }
        if (account.status == TaskStatus.Closed) {
            amount += lease.heldRent;
            lease.heldRent = 0;
        }
        if (amount == 0) revert TaskNothingToRefund(taskId);
        address submitter = account.submitter;
        emit TaskFeeRefunded(taskId, submitter, amount);

        POT.safeTransfer(submitter, amount);
    }

    function expireTask(uint256 taskId) external {
        TaskAccount storage account = _open(taskId);
        if (!_isExpirable(account, _leases[taskId])) revert TaskNotExpired(taskId);
        _close(taskId, account, CloseReason.Expired);
    }

    // ---- the validators' answers

    function answerTask(uint256 taskId, uint8 code) external {
        (, address validator, uint256 quorum, uint256 count) =
            VALIDATORS.memberOfOperator(VALIDATORS.version(), msg.sender);
        TaskAccount storage account = _known(taskId);
        TaskLease storage lease = _leases[taskId];
        if (_hasPassed(lease.windowTime, lease.windowBlock)) revert TaskAnswersOver(taskId);
        if (_answers[taskId][validator] != 0) revert TaskAlreadyAnswered(taskId, msg.sender);
        _answers[taskId][validator] = uint16(code) + 1;
        uint32 equalCount = ++_answerCounts[taskId][code];
        if (code == 0) account.readyCount = equalCount;
        // A set that grew meanwhile has more validators than answers were paid for.
        uint256 pay = lease.answerPay;
        if (lease.heldPay >= pay) {
            lease.heldPay -= pay;
            _examinationPay[msg.sender] += pay;
        }
        emit TaskAnswered(taskId, validator, code, equalCount);
        if (account.status != TaskStatus.Pending) return;

        if (code == 0) {
            if (equalCount >= quorum) _activate(taskId, account, lease);
        } else if (equalCount > (count - 1) / 3) {
            lease.refusalCode = code;
            _close(taskId, account, CloseReason.Refused);
        }
    }

    function withdrawExaminationPay() external nonReentrant {
        uint256 amount = _examinationPay[msg.sender];
        if (amount == 0) revert TaskNothingToWithdraw(msg.sender);
        _examinationPay[msg.sender] = 0;
        emit ExaminationPayWithdrawn(msg.sender, amount);

        POT.safeTransfer(msg.sender, amount);
    }

    // ---- the ledger's calls

    function reserveRound(uint256 taskId, uint256 amount) external onlyLedger returns (bool) {
        TaskAccount storage account = _accounts[taskId];
        TaskLease storage lease = _leases[taskId];
        if (!_canReserve(account, lease, amount)) return false;
        --lease.attemptsLeft;
        account.refundable -= amount;
        account.reserved += amount;
        return true;
    }

    function settleReservation(uint256 taskId, uint256 payout, bool isEmpty) external onlyLedger {
        TaskAccount storage account = _accounts[taskId];
        TaskLease storage lease = _leases[taskId];
        account.refundable += account.reserved - payout;
        account.reserved = 0;
        account.paid += payout;
        if (isEmpty) ++lease.attemptsLeft;
        if (payout != 0 || isEmpty) _noteProgress(lease);
    }

    function pauseTask(uint256 taskId) external onlyLedger {
        TaskAccount storage account = _accounts[taskId];
        _requireStatus(taskId, account, TaskStatus.Active);
        account.status = TaskStatus.Paused;
        emit TaskPaused(taskId);
    }

    function closeTask(uint256 taskId, CloseReason reason) external onlyLedger {
        TaskAccount storage account = _accounts[taskId];
        _requireStatus(taskId, account, TaskStatus.Active);
        _close(taskId, account, reason);
    }

    // ---- the distributor's call

    /// @dev The distributor makes sure that this never exceeds what was paid.
    function payOut(uint256 taskId, address account, uint256 amount) external nonReentrant {
        if (msg.sender != SystemAddresses.REWARD_DISTRIBUTOR) revert TaskNotDistributor(msg.sender);
        IERC20(_terms[taskId].token).safeTransfer(account, amount);
    }

    // ---- views

    function getTerms(uint256 taskId) external view returns (TaskTerms memory) {
        _known(taskId);
        return _terms[taskId];
    }

    function getResources(uint256 taskId) external view returns (TaskResources memory) {
        _known(taskId);
        return _resources[taskId];
    }

    function getAccount(uint256 taskId) external view returns (TaskAccount memory) {
        return _known(taskId);
    }

    function canReserveRound(uint256 taskId, uint256 amount) external view returns (bool) {
        return _canReserve(_accounts[taskId], _leases[taskId], amount);
    }

    function getLease(uint256 taskId) external view returns (TaskLease memory) {
        _known(taskId);
        return _leases[taskId];
    }

    function prices() external view returns (Prices memory) {
        return Prices({
            taskSlots: _taskSlots,
            slotPrice: _slotPrice,
            secondPrice: _secondPrice,
            bytePrice: _bytePrice,
            examinationFee: _examinationFee,
            pendingSeconds: _pendingSeconds,
            maxLifetimeSeconds: _maxLifetimeSeconds,
            idleSeconds: _idleSeconds,
            emptyBlockMilliseconds: _emptyBlockMilliseconds,
            phaseFloorBlocks: _phaseFloorBlocks
        });
    }

    function quote(
        TaskTerms calldata terms,
        TaskResources calldata resources,
        uint32 lifetimeSeconds,
        uint32 attempts
    ) external view returns (Quote memory) {
        return _quote(terms, resources, lifetimeSeconds, attempts, openTasks);
    }

    function quoteExtension(uint256 taskId, uint32 lifetimeSeconds, uint32 attempts)
        external
        view
        returns (Quote memory price)
    {
        _open(taskId);
        price = _quoteOf(taskId, lifetimeSeconds, attempts, openTasks - 1);
        (price.pendingRent, price.answerPay, price.examination) = (0, 0, 0);
        price.fee = price.rent + price.computation;
    }

    function attemptSecondsOf(TaskTerms calldata terms) external view returns (uint256) {
        return _attemptSeconds(terms);
    }

    function isExpired(uint256 taskId) external view returns (bool) {
        TaskAccount storage account = _known(taskId);
        return account.status != TaskStatus.Closed && _isExpirable(account, _leases[taskId]);
    }

    function examinationPayOf(address account) external view returns (uint256) {
        return _examinationPay[account];
    }

    function answerOf(uint256 taskId, address operator) external view returns (uint16) {
        return _answers[taskId][VALIDATORS.validatorOf(operator)];
    }

    // ---- inside

    function _known(uint256 taskId) private view returns (TaskAccount storage account) {
        account = _accounts[taskId];
        if (account.status == TaskStatus.None) revert TaskUnknown(taskId);
    }

    /// @dev Reverts if the task is closed or unknown: its escrow cannot change any more.
    function _open(uint256 taskId) private view returns (TaskAccount storage account) {
        account = _known(taskId);
        if (account.status == TaskStatus.Closed) revert TaskWrongStatus(taskId, account.status);
    }

    function _requireStatus(uint256 taskId, TaskAccount storage account, TaskStatus status) private view {
        if (account.status != status) revert TaskWrongStatus(taskId, account.status);
    }

    function _canReserve(TaskAccount storage account, TaskLease storage lease, uint256 amount)
        private
        view
        returns (bool)
    {
        return account.status == TaskStatus.Active && account.refundable >= amount
            && lease.attemptsLeft != 0 && _coversAttempt(lease);
    }

    /// @dev A round never costs 0, so a reservation above 0 means that an attempt is open.
    function _isRoundOpen(TaskAccount storage account) private view returns (bool) {
        return account.reserved != 0;
    }

    function _tryRound(uint256 taskId, TaskAccount storage account) private {
        if (account.status == TaskStatus.Active && !_isRoundOpen(account)) LEDGER.advanceRound(taskId);
    }

    function _close(uint256 taskId, TaskAccount storage account, CloseReason reason) private {
        account.status = TaskStatus.Closed;
        account.closeReason = reason;
        account.closedBlock = uint64(block.number);
        account.closedTime = uint64(block.timestamp);
        --openTasks;
        emit TaskClosed(taskId, reason);
    }

    /// @dev Buys what a new task needs, and returns the fee.
    function _lease(uint256 taskId, uint32 lifetimeSeconds, uint32 attempts, uint256 maxFee)
        private
        returns (uint256)
    {
        uint256 attemptSeconds = _attemptSeconds(_terms[taskId]);
        if (lifetimeSeconds < attemptSeconds || lifetimeSeconds > _maxLifetimeSeconds) {
            revert TaskInvalidTerms("lifetimeSeconds");
        }
        if (attempts == 0 || attempts > MAX_ATTEMPTS) revert TaskInvalidTerms("attempts");
        Quote memory price = _quoteOf(taskId, lifetimeSeconds, attempts, openTasks);
        if (price.fee > maxFee) revert TaskFeeTooHigh(price.fee, maxFee);

        TaskLease storage lease = _leases[taskId];
        lease.windowTime = uint64(block.timestamp) + _pendingSeconds;
        lease.windowBlock = uint64(block.number) + _blocksOf(_pendingSeconds);
        lease.lifetimeSeconds = lifetimeSeconds;
        lease.attemptsLeft = attempts;
        // At most the longest lifetime, which has 32 bits.
        lease.attemptSeconds = uint32(attemptSeconds);
        uint256 idleSeconds = _larger(IDLE_ATTEMPTS * attemptSeconds, _idleSeconds);
        lease.idleSeconds = uint32(idleSeconds);
        lease.idleBlocks = _blocksOf(idleSeconds);
        // Prices have 63 bits, and dry runs 8.
        lease.answerPay = uint128(price.answerPay);
        lease.heldPay = price.examination;
        lease.heldRent = price.rent + price.computation;
        burnt += price.pendingRent;
        emit TaskLeased(taskId, msg.sender, price.pendingRent, lease);
        return price.fee;
    }

    function _activate(uint256 taskId, TaskAccount storage account, TaskLease storage lease) private {
        account.status = TaskStatus.Active;
        account.activatedBlock = uint64(block.number);
        uint256 rent = lease.heldRent;
        burnt += rent;
        lease.heldRent = 0;
        lease.endTime = uint64(block.timestamp) + lease.lifetimeSeconds;
        lease.endBlock = uint64(block.number) + _blocksOf(lease.lifetimeSeconds);
        _noteProgress(lease);
        emit TaskActivated(taskId);
        emit TaskLeased(taskId, msg.sender, rent, lease);
        _tryRound(taskId, account);
    }

    // ---- inside: prices

    /// @dev Prices have 63 bits, times 32, bytes 65, validators 7 and the time of an attempt 50, so no
    /// product leaves 256 bits.
    function _quote(
        TaskTerms memory terms,
        TaskResources memory resources,
        uint32 lifetimeSeconds,
        uint32 attempts,
        uint256 othersOpen
    ) private view returns (Quote memory price) {
        uint256 n = VALIDATORS.count();
        uint256 slotRate = uint256(_slotPrice) << (PRICE_STEPS * othersOpen / _taskSlots);
        uint256 byteRate = n * _bytePrice * (uint256(resources.peakBytes) + resources.diskBytes);
        uint256 workerRate = n * _secondPrice;
        // Of each validator's workers, as nodes compute it; 59 bits.
        uint256 checkMilliseconds = terms.maxUnits * uint256(resources.unitMilliseconds);
        uint256 sharePpm = _larger(
            _divideUp(1000 * checkMilliseconds, terms.verdictSeconds),
            _divideUp(1000 * uint256(resources.evaluationMilliseconds), terms.resultSeconds)
        );
        price.pendingRent = slotRate * _pendingSeconds
            + _divideUp(byteRate * (_pendingSeconds + KEPT_SECONDS), BYTE_SECONDS)
            + _divideUp(workerRate * sharePpm * _pendingSeconds, PPM);
        price.answerPay = uint256(_examinationFee) + uint256(_secondPrice) * DRY_RUN_SECONDS;
        price.examination = n * price.answerPay;
        price.rent = slotRate * lifetimeSeconds + _divideUp(byteRate * lifetimeSeconds, BYTE_SECONDS);
        // What was checked is not checked again in a further ballot, but each may end in another model.
        uint256 used = 1000 * uint256(attempts)
            * (checkMilliseconds + MAX_BALLOTS * uint256(resources.evaluationMilliseconds));
        // Validators keep the share free as long as the task is open, whether an attempt uses it or not.
        price.computation = _divideUp(workerRate * _larger(used, sharePpm * lifetimeSeconds), PPM);
        price.fee = price.pendingRent + price.examination + price.rent + price.computation;
    }

    function _quoteOf(uint256 taskId, uint32 lifetimeSeconds, uint32 attempts, uint256 othersOpen)
        private
        view
        returns (Quote memory)
    {
        return _quote(_terms[taskId], _resources[taskId], lifetimeSeconds, attempts, othersOpen);
    }

    function _divideUp(uint256 value, uint256 divisor) private pure returns (uint256) {
        return (value + divisor - 1) / divisor;
    }

    // ---- inside: times

    /// @dev Three ballots and the payment phase. Before each phase after the commitments, and at the end, all
    /// operators may have to let their turns of two blocks pass. A quorum just before the deadline of verdicts
    /// still has the least blocks in which the others may follow.
    function _attemptSeconds(TaskTerms memory terms) private view returns (uint256) {
        uint256 maxFaulty = VALIDATORS.maxFaulty();
        uint256 floorSeconds = _secondsOf(_larger(2 * (maxFaulty + 1), _phaseFloorBlocks));
        uint256 graceSeconds = _secondsOf(_larger(maxFaulty + 2, LEDGER.graceBlocks()));
        uint256 turnSeconds = _secondsOf(2 * VALIDATORS.count());
        uint256 verdict = _larger(terms.verdictSeconds, floorSeconds) + graceSeconds;
        uint256 result = _larger(terms.resultSeconds, floorSeconds);
        return _larger(terms.commitSeconds, floorSeconds)
            + MAX_BALLOTS * (turnSeconds + verdict + turnSeconds + result) + turnSeconds + result
            + turnSeconds;
    }

    function _isExpirable(TaskAccount storage account, TaskLease storage lease) private view returns (bool) {
        if (account.status == TaskStatus.Pending) return _hasPassed(lease.windowTime, lease.windowBlock);
        if (_isRoundOpen(account)) return false;
        if (_hasPassed(lease.endTime, lease.endBlock)) return true;
        // The submitter of a paused task may come back as long as it has paid for.
        return account.status == TaskStatus.Active
            && _hasPassed(lease.progressTime + lease.idleSeconds, lease.progressBlock + lease.idleBlocks);
    }

    /// @dev A lifetime ends when both its time and its blocks are over, so one that is left suffices.
    function _coversAttempt(TaskLease storage lease) private view returns (bool) {
        uint256 needed = lease.attemptSeconds;
        return block.timestamp + needed <= lease.endTime
            || block.number + _blocksOf(needed) <= lease.endBlock;
    }

    function _hasPassed(uint256 time, uint256 number) private view returns (bool) {
        return block.timestamp >= time && block.number >= number;
    }

    function _noteProgress(TaskLease storage lease) private {
        lease.progressTime = uint64(block.timestamp);
        lease.progressBlock = uint64(block.number);
    }

    function _blocksOf(uint256 duration) private view returns (uint64) {
        return uint64(_divideUp(duration * 1000, _emptyBlockMilliseconds));
    }

    function _secondsOf(uint256 blocks) private view returns (uint256) {
        return _divideUp(blocks * _emptyBlockMilliseconds, 1000);
    }

    function _larger(uint256 one, uint256 other) private pure returns (uint256) {
        return one > other ? one : other;
    }

    function _later(uint64 one, uint256 now_) private pure returns (uint64) {
        return uint64(_larger(one, now_));
    }

    /// @dev Prices have 128 bits and units 17, so the product cannot overflow uint256.
    function _roundCost(TaskTerms calldata terms) private pure returns (uint256) {
        return uint256(terms.maxUnits) * terms.unitPrice + terms.validatorFee;
    }

    function _validateTerms(TaskTerms calldata terms) private pure {
        if (terms.unitPrice == 0) revert TaskInvalidTerms("unitPrice");
        if (terms.rounds == 0) revert TaskInvalidTerms("rounds");
        if (terms.maxUnits == 0 || terms.maxUnits > MAX_UNITS) revert TaskInvalidTerms("maxUnits");
        // `minMiners` seats must fit, each of which has at least `leastUnits`.
        uint256 leastUnits = (terms.maxUnits + MAX_MINERS - 1) / MAX_MINERS;
        if (terms.minMiners == 0 || terms.minMiners > terms.maxUnits / leastUnits) {
            revert TaskInvalidTerms("minMiners");
        }
        // While units are missing, one more seat must fit, or a task could be full and open no attempt.
        if (terms.minUnits < terms.minMiners || terms.minUnits > terms.maxUnits - leastUnits + 1) {
            revert TaskInvalidTerms("minUnits");
        }
        if (terms.auditPpm != FULL_AUDIT_PPM) revert TaskInvalidTerms("auditPpm");
        if (!_isPhase(terms.commitSeconds)) revert TaskInvalidTerms("commitSeconds");
        if (!_isPhase(terms.verdictSeconds)) revert TaskInvalidTerms("verdictSeconds");
        if (!_isPhase(terms.resultSeconds)) revert TaskInvalidTerms("resultSeconds");
        // The ledger's results hold a round's payout in 128 bits.
        if (_roundCost(terms) > type(uint128).max) revert TaskInvalidTerms("unitPrice");
    }

    function _validateResources(TaskResources calldata resources) private pure {
        if (resources.unitMilliseconds == 0) revert TaskInvalidTerms("unitMilliseconds");
        if (resources.evaluationMilliseconds == 0) revert TaskInvalidTerms("evaluationMilliseconds");
        if (resources.peakBytes == 0) revert TaskInvalidTerms("peakBytes");
        if (resources.diskBytes == 0) revert TaskInvalidTerms("diskBytes");
    }

    function _isPhase(uint32 phaseSeconds) private pure returns (bool) {
        return phaseSeconds >= MIN_PHASE_SECONDS && phaseSeconds <= MAX_PHASE_SECONDS;
    }
}
