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
    /// @dev `slash` takes the whole commitment list of a round, which must fit into one transaction.
    uint256 private constant MAX_MINERS = 1024;
    /// @dev Every gradient is re-executed. Sampling needs the audit phase, which does not exist yet.
    uint256 private constant FULL_AUDIT_PPM = 1_000_000;
    uint256 private constant MAX_PHASE_SECONDS = 7 days;
    /// @dev Votes are late after three quarters of a phase, which must leave a second for them.
    uint256 private constant MIN_PHASE_SECONDS = 4;

    IValidatorSet private constant VALIDATORS = IValidatorSet(SystemAddresses.VALIDATOR_SET);
    IGradientLedger private constant LEDGER = IGradientLedger(SystemAddresses.GRADIENT_LEDGER);

    uint256 public taskCount;
    mapping(uint256 taskId => TaskTerms) private _terms;
    mapping(uint256 taskId => TaskAccount) private _accounts;
    mapping(uint256 taskId => mapping(address validator => bool)) private _ready;

    modifier onlyLedger() {
        if (msg.sender != address(LEDGER)) revert TaskNotLedger(msg.sender);
        _;
    }

    // ---- the submitter's calls

    function submitTask(TaskTerms calldata terms, bytes calldata spec, uint256 budget)
        external
        nonReentrant
        returns (uint256 taskId)
    {
        if (spec.length > MAX_SPEC_BYTES) revert TaskSpecTooLarge(spec.length, MAX_SPEC_BYTES);
        bytes32 actual = sha256(abi.encodePacked(bytes1(0), spec));
        if (actual != terms.specHash) revert TaskSpecHashMismatch(terms.specHash, actual);
        _validateTerms(terms);
        if (budget < _roundCost(terms)) revert TaskInvalidTerms("budget");

        taskId = ++taskCount;
        _terms[taskId] = terms;
        TaskAccount storage account = _accounts[taskId];
        account.submitter = msg.sender;
        account.status = TaskStatus.Pending;
        account.submittedBlock = uint64(block.number);
        account.escrowed = budget;
        account.refundable = budget;
        emit TaskSubmitted(taskId, msg.sender, terms.specHash, budget, spec);

        IERC20(terms.token).pullExact(msg.sender, budget);
    }

    function fundTask(uint256 taskId, uint256 amount) external nonReentrant {
        TaskAccount storage account = _open(taskId);
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

    // ---- the validators' vote

    function postReady(uint256 taskId) external {
        (, address validator, uint256 quorum,) =
            VALIDATORS.memberOfOperator(VALIDATORS.version(), msg.sender);
        TaskAccount storage account = _known(taskId);
        _requireStatus(taskId, account, TaskStatus.Pending);
        if (_ready[taskId][validator]) revert TaskAlreadyReady(taskId, msg.sender);
        _ready[taskId][validator] = true;
        uint32 readyCount = ++account.readyCount;
        emit TaskReady(taskId, validator, readyCount);
        if (readyCount < quorum) return;

        account.status = TaskStatus.Active;
        account.activatedBlock = uint64(block.number);
        emit TaskActivated(taskId);
        _tryRound(taskId, account);
    }

    // ---- the ledger's calls

    function reserveRound(uint256 taskId, uint256 amount) external onlyLedger returns (bool) {
        TaskAccount storage account = _accounts[taskId];
        if (account.status != TaskStatus.Active || account.refundable < amount) return false;
        account.refundable -= amount;
        account.reserved += amount;
        return true;
    }

    function settleReservation(uint256 taskId, uint256 payout) external onlyLedger {
        TaskAccount storage account = _accounts[taskId];
        account.refundable += account.reserved - payout;
        account.reserved = 0;
        account.paid += payout;
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

    function getAccount(uint256 taskId) external view returns (TaskAccount memory) {
        return _known(taskId);
    }

    function isReady(uint256 taskId, address operator) external view returns (bool) {
        return _ready[taskId][VALIDATORS.validatorOf(operator)];
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

    /// @dev A round never costs 0, so a reservation above 0 means that an attempt is open.
    function _isRoundOpen(TaskAccount storage account) private view returns (bool) {
        return account.reserved != 0;
    }

    function _tryRound(uint256 taskId, TaskAccount storage account) private {
        if (account.status == TaskStatus.Active && !_isRoundOpen(account)) LEDGER.advanceRound(taskId);
    }

    function _close(uint256 taskId, TaskAccount storage account, CloseReason reason) private {
        account.status = TaskStatus.Closed;
        emit TaskClosed(taskId, reason);
    }

    /// @dev Prices have 128 bits and units 17, so the product cannot overflow uint256.
    function _roundCost(TaskTerms calldata terms) private pure returns (uint256) {
        return uint256(terms.maxUnits) * terms.unitPrice + terms.validatorFee;
    }

    function _validateTerms(TaskTerms calldata terms) private pure {
        if (terms.unitPrice == 0) revert TaskInvalidTerms("unitPrice");
        if (terms.rounds == 0) revert TaskInvalidTerms("rounds");
        if (terms.maxUnits == 0 || terms.maxUnits > MAX_UNITS) revert TaskInvalidTerms("maxUnits");
        if (terms.minMiners == 0 || terms.minMiners > terms.maxUnits || terms.minMiners > MAX_MINERS) {
            revert TaskInvalidTerms("minMiners");
        }
        if (terms.auditPpm != FULL_AUDIT_PPM) revert TaskInvalidTerms("auditPpm");
        if (!_isPhase(terms.commitSeconds)) revert TaskInvalidTerms("commitSeconds");
        if (!_isPhase(terms.verdictSeconds)) revert TaskInvalidTerms("verdictSeconds");
        if (!_isPhase(terms.resultSeconds)) revert TaskInvalidTerms("resultSeconds");
        // The ledger stores bonds in 128 bits.
        if (_roundCost(terms) > type(uint128).max) revert TaskInvalidTerms("unitPrice");
    }

    function _isPhase(uint32 phaseSeconds) private pure returns (bool) {
        return phaseSeconds >= MIN_PHASE_SECONDS && phaseSeconds <= MAX_PHASE_SECONDS;
    }
}
