// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IValidatorSet} from "./interfaces/IValidatorSet.sol";
import {SystemAddresses} from "./libraries/SystemAddresses.sol";

/// @title The set of validators; IValidatorSet documents its functions
/// @dev A scheduled change takes effect without a transaction: the block number decides which set is
/// in force, and `_roll` stores that before the next change. Tokens move last; POT has no callbacks.
contract ValidatorSet is IValidatorSet {
    using SafeERC20 for IERC20;

    /// @dev PBFT's traffic grows with the square of n. The network was measured up to 100 validators.
    uint256 private constant MAX_VALIDATORS = 100;
    uint8 private constant PRE_PREPARE = 1;
    uint8 private constant COMMIT = 3;
    uint8 private constant VIEW_CHANGE = 4;
    uint64 private constant NOTHING_PREPARED = type(uint64).max;
    bytes32 private constant SIGNING_DOMAIN = keccak256("ProofOfTraining.consensus");
    bytes32 private constant JOIN_DOMAIN = keccak256("ProofOfTraining.join");
    /// @dev PBFT tolerates no fault with fewer, and f + 1 verdicts would be those of one validator.
    uint256 private constant MIN_FAULT_TOLERANT = 4;
    /// @dev EIP-2935's contract: the hashes of the last 8191 blocks, so block 0 only in the first 8191.
    address private constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    IERC20 private constant TOKEN = IERC20(SystemAddresses.TRAINING_TOKEN);

    // Light clients prove slots 0 to 2, so these must not move.
    bytes32 public setHash;
    bytes32 public nextSetHash;
    uint256 public activationBlock;

    uint256 private _version; // of setHash
    bytes32 public genesisHash;
    uint256 public slashedTotal;
    uint256 public proposalCount;

    mapping(uint256 version => address[]) private _sets;
    mapping(address validator => Validator) private _validators;
    mapping(address operator => address validator) private _validatorOf;
    mapping(uint256 proposalId => Proposal) private _proposals;
    mapping(uint256 proposalId => mapping(address validator => bool)) private _votes;
    /// @dev The open join proposal of an operator; 0 if it has none.
    mapping(address operator => uint256 proposalId) private _candidacies;
    /// @dev The last proposal to remove a validator; 0 if there was none. A second one while it is open would only
    /// bring further votes, which go before what others send and may cost nothing.
    mapping(address validator => uint256 proposalId) private _removals;

    uint256 public immutable requiredStake;
    uint256 public immutable minValidators;
    uint64 public immutable changeBlocks;
    uint64 public immutable evidenceBlocks;

    /// @dev Genesis gives this contract `requiredStake_` of POT for each initial validator.
    constructor(
        address[] memory validators_,
        address[] memory operators_,
        uint256 requiredStake_,
        uint256 minValidators_,
        uint64 changeBlocks_,
        uint64 evidenceBlocks_
    ) {
        uint256 n = validators_.length;
        if (minValidators_ == 0 || n < minValidators_ || n > MAX_VALIDATORS) revert ValidatorSetInvalid("count");
        if (operators_.length != n) revert ValidatorSetInvalid("operators: one for each validator");
        if (requiredStake_ == 0) revert ValidatorSetInvalid("stake: zero");
        if (changeBlocks_ == 0) revert ValidatorSetInvalid("change: in no blocks");

        address previous = address(0);
        for (uint256 i = 0; i < n; ++i) {
            address validator = validators_[i];
            address operator = operators_[i];
            if (validator <= previous) revert ValidatorSetInvalid("validators: not ascending, or zero");
            if (operator == address(0)) revert ValidatorSetInvalid("operators: zero");
            if (_validatorOf[operator] != address(0)) revert ValidatorSetInvalid("operators: not unique");
            _seat(validator, operator, requiredStake_);
            previous = validator;
        }
        _sets[0] = validators_;
        setHash = keccak256(abi.encode(validators_));
        requiredStake = requiredStake_;
        minValidators = minValidators_;
        changeBlocks = changeBlocks_;
        evidenceBlocks = evidenceBlocks_;
    }

    // ---- the set in force in this block

    function version() public view returns (uint256) {
        return _isActivated() ? _version + 1 : _version;
    }

    function count() external view returns (uint256) {
        return _sets[version()].length;
    }

    function quorum() external view returns (uint256) {
        return quorumOf(version());
    }

    function maxFaulty() external view returns (uint256) {
        return (_sets[version()].length - 1) / 3;
    }

    function committee() external view returns (address[] memory validators, address[] memory operators) {
        return committeeOf(version());
    }

    function nextValidators() external view returns (address[] memory validators) {
        if (activationBlock != 0 && !_isActivated()) validators = _sets[_version + 1];
    }

    // ---- a set that is or was in force

    function committeeOf(uint256 version_)
        public
        view
        returns (address[] memory validators, address[] memory operators)
    {
        validators = _sets[version_];
        operators = new address[](validators.length);
        for (uint256 i = 0; i < validators.length; ++i) {
            operators[i] = _validators[validators[i]].operator;
        }
    }

    function quorumOf(uint256 version_) public view returns (uint256) {
        return (2 * _sets[version_].length + 2) / 3;
    }

    function indexOf(uint256 version_, address validator) public view returns (uint256 index) {
        bool found;
        (found, index) = _find(_sets[version_], validator);
        if (!found) revert ValidatorSetNotMember(validator);
    }

    function memberOfOperator(uint256 version_, address operator)
        public
        view
        returns (uint256 index, address validator, uint256 quorum_, uint256 count_)
    {
        address[] storage set = _sets[version_];
        validator = _validatorOf[operator];
        bool found;
        (found, index) = _find(set, validator);
        if (!found) revert ValidatorSetNotOperator(operator);
        if (_validators[validator].slashed) revert ValidatorSetAlreadySlashed(validator);
        count_ = set.length;
        quorum_ = (2 * count_ + 2) / 3;
    }

    // ---- one validator

    function operatorOf(address validator) external view returns (address) {
        return _validators[validator].operator;
    }

    function validatorOf(address operator) external view returns (address) {
        return _validatorOf[operator];
    }

    function getValidator(address validator) external view returns (Validator memory) {
        return _validators[validator];
    }

    // ---- changes

    function proposeJoin(address validator, bytes calldata proof) external returns (uint256 proposalId) {
        _roll();
        if (validator == address(0) || validator == msg.sender) revert ValidatorSetInvalid("validator");
        bytes32 proven = keccak256(
            abi.encode(JOIN_DOMAIN, block.chainid, address(this), validator, msg.sender)
        );
        if (_signerOf(proven, proof) != validator) revert ValidatorSetInvalid("proof");
        if (!_isFreeKey(validator)) revert ValidatorSetTaken(validator);
        if (_candidacies[msg.sender] != 0 || !_isFreeOperator(msg.sender)) revert ValidatorSetTaken(msg.sender);

        proposalId = _propose(validator, msg.sender, true, requiredStake);
        _candidacies[msg.sender] = proposalId;

        TOKEN.safeTransferFrom(msg.sender, address(this), requiredStake);
    }

    function proposeRemoval(address validator) external returns (uint256 proposalId) {
        _roll();
        address member = _requireMember();
        indexOf(_version, validator);
        _requireStatus(validator, Status.Active);
        if (_isOpen(_proposals[_removals[validator]])) revert ValidatorSetTaken(validator);
        proposalId = _propose(validator, _validators[validator].operator, false, 0);
        _removals[validator] = proposalId;
        _castVote(proposalId, member);
    }

    function voteOnProposal(uint256 proposalId) external {
        _roll();
        address member = _requireMember();
        _requireOpen(proposalId);
        if (_votes[proposalId][member]) revert ValidatorSetAlreadyVoted(proposalId, member);
        _castVote(proposalId, member);
    }

    function carryOut(uint256 proposalId) external {
        _roll();
        _requireOpen(proposalId);
        if (!_tryCarryOut(proposalId)) revert ValidatorSetNotReady();
    }

    function withdrawProposal(uint256 proposalId) external {
        Proposal storage proposal = _proposals[proposalId];
        if (proposal.closed) revert ValidatorSetProposalClosed(proposalId);
        if (!proposal.isJoin || proposal.operator != msg.sender) revert ValidatorSetNotCandidate(msg.sender);
        uint256 amount = proposal.stake;
        _close(proposalId, false);

        TOKEN.safeTransfer(msg.sender, amount);
    }

    function leaveSet() external {
        _roll();
        address validator = _validatorOf[msg.sender];
        if (validator == address(0)) revert ValidatorSetNotOperator(msg.sender);
        _requireStatus(validator, Status.Active);
        _requestExit(validator);
    }

    function removeExiting(address validator) external {
        _roll();
        _requireStatus(validator, Status.Exiting);
        if (!_tryRemove(validator)) revert ValidatorSetNotReady();
    }

    function withdrawStake() external {
        address account = _validatorOf[msg.sender];
        if (account == address(0)) revert ValidatorSetNotOperator(msg.sender);
        _requireStatus(account, Status.Exited);
        Validator storage validator = _validators[account];
        if (block.number < validator.unlockBlock) revert ValidatorSetStakeLocked(account, validator.unlockBlock);
        if (validator.slashed) revert ValidatorSetAlreadySlashed(account);
        uint256 amount = validator.stake;
        validator.stake = 0;
        _validatorOf[msg.sender] = address(0);
        emit StakeWithdrawn(account, msg.sender, amount);

        TOKEN.safeTransfer(msg.sender, amount);
    }

    function getProposal(uint256 proposalId)
        external
        view
        returns (Proposal memory proposal, uint256 votes, uint256 needed)
    {
        proposal = _proposals[proposalId];
        if (proposal.validator == address(0)) revert ValidatorSetUnknownProposal(proposalId);
        (votes, needed) = _countVotes(proposalId, _sets[version()]);
    }

    function candidacyOf(address operator) external view returns (uint256) {
        return _candidacies[operator];
    }

    function hasVoted(uint256 proposalId, address validator) external view returns (bool) {
        return _votes[proposalId][validator];
    }

    // ---- evidence

    function recordGenesis() public {
        if (genesisHash != 0) return;
        (bool success, bytes memory answer) = HISTORY.staticcall(abi.encode(uint256(0)));
        if (!success || answer.length != 32) revert ValidatorSetGenesisUnknown();
        genesisHash = abi.decode(answer, (bytes32));
    }

    function reportEquivocation(
        VotePlace calldata place,
        SignedDigest calldata first,
        SignedDigest calldata second
    ) external {
        if (place.kind < PRE_PREPARE || place.kind > COMMIT) revert ValidatorSetBadEvidence("kind");
        if (first.digest == second.digest) revert ValidatorSetBadEvidence("one block");
        recordGenesis();
        address author = _authorOf(place, first.digest, first.signature);
        if (_authorOf(place, second.digest, second.signature) != author) revert ValidatorSetBadEvidence("two authors");
        _slash(author, place.number);
    }

    function reportLostLock(
        VotePlace calldata place,
        SignedDigest calldata commit,
        SignedViewChange calldata viewChange
    ) external {
        if (place.kind != COMMIT) revert ValidatorSetBadEvidence("kind");
        if (viewChange.view_ <= place.view_) revert ValidatorSetBadEvidence("an earlier view");
        if (viewChange.preparedView != NOTHING_PREPARED && viewChange.preparedView >= place.view_) {
            revert ValidatorSetBadEvidence("the lock is kept");
        }
        recordGenesis();
        address author = _authorOf(place, commit.digest, commit.signature);
        VotePlace memory later = VotePlace(VIEW_CHANGE, place.version, place.number, viewChange.view_);
        bytes32 payload = keccak256(abi.encode(viewChange.preparedView, viewChange.preparedDigest));
        if (_authorOf(later, payload, viewChange.signature) != author) {
            revert ValidatorSetBadEvidence("two authors");
        }
        _slash(author, place.number);
    }

    // ---- inside: proposals

    function _propose(address validator, address operator, bool isJoin, uint256 stake)
        private
        returns (uint256 proposalId)
    {
        proposalId = ++proposalCount;
        uint64 expiryBlock = uint64(block.number) + evidenceBlocks;
        _proposals[proposalId] = Proposal({
            validator: validator,
            operator: operator,
            isJoin: isJoin,
            closed: false,
            expiryBlock: expiryBlock,
            stake: stake
        });
        emit ProposalMade(proposalId, validator, operator, isJoin, expiryBlock);
    }

    function _castVote(uint256 proposalId, address member) private {
        _votes[proposalId][member] = true;
        emit ProposalVoted(proposalId, member);
        _tryCarryOut(proposalId);
    }

    function _tryCarryOut(uint256 proposalId) private returns (bool) {
        address[] storage set = _sets[_version];
        (uint256 votes, uint256 needed) = _countVotes(proposalId, set);
        if (votes < needed) return false;
        Proposal storage proposal = _proposals[proposalId];
        address validator = proposal.validator;
        if (proposal.isJoin) {
            if (activationBlock != 0 || set.length == MAX_VALIDATORS || !_isFreeKey(validator)) return false;
            _seat(validator, proposal.operator, proposal.stake);
            _close(proposalId, true);
            _schedule(_with(set, validator), validator, true);
        } else {
            bool isActive = _validators[validator].status == Status.Active;
            _close(proposalId, isActive);
            if (isActive) _requestExit(validator);
        }
        return true;
    }

    function _close(uint256 proposalId, bool carriedOut) private {
        Proposal storage proposal = _proposals[proposalId];
        proposal.closed = true;
        proposal.stake = 0;
        if (proposal.isJoin) delete _candidacies[proposal.operator];
        emit ProposalClosed(proposalId, carriedOut);
    }

    /// @dev Slashed members neither vote nor are counted, so that the others can replace them.
    function _countVotes(uint256 proposalId, address[] storage set)
        private
        view
        returns (uint256 votes, uint256 needed)
    {
        uint256 n = set.length;
        uint256 voters = 0;
        for (uint256 i = 0; i < n; ++i) {
            address member = set[i];
            if (_validators[member].slashed) continue;
            ++voters;
            if (_votes[proposalId][member]) ++votes;
        }
        needed = voters == 0 ? 1 : (2 * voters + 2) / 3;
    }

    function _requireMember() private view returns (address validator) {
        (, validator,,) = memberOfOperator(_version, msg.sender);
    }

    function _requireOpen(uint256 proposalId) private view {
        Proposal storage proposal = _proposals[proposalId];
        if (proposal.validator == address(0)) revert ValidatorSetUnknownProposal(proposalId);
        if (!_isOpen(proposal)) revert ValidatorSetProposalClosed(proposalId);
    }

    function _isOpen(Proposal storage proposal) private view returns (bool) {
        return !proposal.closed && block.number < proposal.expiryBlock;
    }

    function _requireStatus(address validator, Status status) private view {
        Status current = _validators[validator].status;
        if (current != status) revert ValidatorSetWrongStatus(validator, current);
    }

    /// @dev A slashed key can never join again. A key that left may, once its stake was withdrawn.
    function _isFreeKey(address validator) private view returns (bool) {
        Validator storage known = _validators[validator];
        return _validatorOf[validator] == address(0)
            && (known.status == Status.None
                || (known.status == Status.Exited && known.stake == 0 && !known.slashed));
    }

    /// @dev An operator serves one validator only, and a consensus key cannot be an operator.
    function _isFreeOperator(address operator) private view returns (bool) {
        return _validators[operator].status == Status.None && _validatorOf[operator] == address(0);
    }

    // ---- inside: the set

    function _isActivated() private view returns (bool) {
        return activationBlock != 0 && block.number >= activationBlock;
    }

    /// @dev Stores the scheduled set as the current one, if its activation block has come.
    function _roll() private {
        if (!_isActivated()) return;
        setHash = nextSetHash;
        nextSetHash = 0;
        activationBlock = 0;
        ++_version;
    }

    function _seat(address validator, address operator, uint256 stake) private {
        _validators[validator] = Validator({
            operator: operator,
            status: Status.Active,
            slashed: false,
            unlockBlock: 0,
            stake: stake
        });
        _validatorOf[operator] = validator;
    }

    function _schedule(address[] memory next, address validator, bool isJoin) private {
        uint256 nextVersion = _version + 1;
        uint64 activation = uint64(block.number) + changeBlocks;
        _sets[nextVersion] = next;
        nextSetHash = keccak256(abi.encode(next));
        activationBlock = activation;
        emit SetScheduled(nextVersion, validator, isJoin, activation);
    }

    function _requestExit(address validator) private {
        _validators[validator].status = Status.Exiting;
        emit ExitRequested(validator);
        _tryRemove(validator);
    }

    function _tryRemove(address validator) private returns (bool) {
        address[] storage set = _sets[_version];
        (bool found, uint256 index) = _find(set, validator);
        if (!found || activationBlock != 0 || set.length <= _minimumAfter(validator)) return false;
        _schedule(_without(set, index), validator, false);
        Validator storage leaving = _validators[validator];
        leaving.status = Status.Exited;
        // The removed validator may still vote on the block just before the activation.
        leaving.unlockBlock = uint64(activationBlock) + evidenceBlocks;
        return true;
    }

    /// @dev A slashed validator has nothing to lose, so it leaves even if fewer than `minValidators` stay,
    /// as long as those still tolerate a fault.
    function _minimumAfter(address validator) private view returns (uint256) {
        bool smaller = _validators[validator].slashed && minValidators > MIN_FAULT_TOLERANT;
        return smaller ? MIN_FAULT_TOLERANT : minValidators;
    }

    function _with(address[] storage set, address validator) private view returns (address[] memory next) {
        uint256 n = set.length;
        next = new address[](n + 1);
        (, uint256 place) = _find(set, validator);
        for (uint256 i = 0; i < n; ++i) {
            next[i < place ? i : i + 1] = set[i];
        }
        next[place] = validator;
    }

    function _without(address[] storage set, uint256 place) private view returns (address[] memory next) {
        uint256 n = set.length - 1;
        next = new address[](n);
        for (uint256 i = 0; i < n; ++i) {
            next[i] = set[i < place ? i : i + 1];
        }
    }

    /// @dev Whether an address is in a sorted list, and its position there or where it would be inserted.
    function _find(address[] storage set, address wanted) private view returns (bool, uint256) {
        uint256 low = 0;
        uint256 high = set.length;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            address found = set[middle];
            if (found == wanted) return (true, middle);
            if (found < wanted) low = middle + 1;
            else high = middle;
        }
        return (false, low);
    }

    // ---- inside: evidence

    function _slash(address account, uint64 number) private {
        _roll();
        Validator storage validator = _validators[account];
        if (validator.slashed) revert ValidatorSetAlreadySlashed(account);
        uint256 amount = validator.stake;
        if (amount == 0) revert ValidatorSetNotMember(account);
        if (uint256(number) + evidenceBlocks < block.number) revert ValidatorSetBadEvidence("too old");

        validator.stake = 0;
        validator.slashed = true;
        slashedTotal += amount;
        emit ValidatorSlashed(account, msg.sender, number, amount);
        if (validator.status == Status.Active) _requestExit(account);
    }

    /// @dev What every consensus signature covers: docs/spec/consensus.md, section 4.
    function _authorOf(VotePlace memory place, bytes32 payload, bytes calldata signature)
        private
        view
        returns (address author)
    {
        bytes32 signed = keccak256(
            abi.encode(
                SIGNING_DOMAIN,
                place.kind,
                block.chainid,
                genesisHash,
                place.version,
                place.number,
                place.view_,
                payload
            )
        );
        author = _signerOf(signed, signature);
        if (author == address(0)) revert ValidatorSetBadEvidence("signature");
    }

    /// @dev The signer of a digest, by a signature of r, s and parity; zero if it is malformed.
    function _signerOf(bytes32 signed, bytes calldata signature) private pure returns (address) {
        if (signature.length != 65) return address(0);
        return ecrecover(signed, 27 + uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
    }
}
