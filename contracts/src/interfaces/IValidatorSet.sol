// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title The consensus validators, their stake, and the operator accounts that vote for them
/// @notice Validators are sorted by address. A change is scheduled and takes effect some blocks later;
/// until then no other can be. `version` counts the sets; one that was in force can be asked for ever.
/// @dev Slot 0 = setHash = keccak256(abi.encode(validators)), slot 1 = nextSetHash, slot 2 = activation
/// block, so that one EIP-1186 proof carries a light client across a change: block N is decided by the
/// set of nextSetHash if activation != 0 and N >= activation, else by that of setHash, both read in the
/// state after block N - 1.
interface IValidatorSet {
    enum Status {
        None,
        Active, // in the set, or scheduled to be
        Exiting, // to be removed as soon as a change can be scheduled
        Exited // removed, or scheduled to be; its stake is locked until unlockBlock
    }

    struct Validator {
        address operator;
        Status status;
        bool slashed; // its key never returns
        uint64 unlockBlock; // first block in which the stake can be withdrawn; 0 unless Exited
        uint256 stake;
    }

    struct Proposal {
        address validator;
        address operator; // of a join: who proposed it, and paid the stake
        bool isJoin;
        bool closed;
        uint64 expiryBlock; // from then on it cannot be carried out
        uint256 stake; // of an open join
    }

    /// @notice What two conflicting votes have in common; `version` is that of the protocol.
    struct VotePlace {
        uint8 kind; // 1 PRE-PREPARE, 2 PREPARE, 3 COMMIT
        uint32 version;
        uint64 number;
        uint64 view_;
    }

    /// @notice A block hash and its 65-byte signature (r, s, parity).
    struct SignedDigest {
        bytes32 digest;
        bytes signature;
    }

    /// @notice A VIEW-CHANGE; preparedView = 2^64 - 1 and preparedDigest = 0 if nothing was prepared.
    struct SignedViewChange {
        uint64 view_;
        uint64 preparedView;
        bytes32 preparedDigest;
        bytes signature;
    }

    event ProposalMade(
        uint256 indexed proposalId, address indexed validator, address indexed operator, bool isJoin, uint64 expiryBlock
    );
    event ProposalVoted(uint256 indexed proposalId, address indexed validator);
    event ProposalClosed(uint256 indexed proposalId, bool carriedOut);
    /// @notice Validator leaves at the next possible change: of its own will, voted out, or slashed.
    event ExitRequested(address indexed validator);
    event SetScheduled(uint256 indexed version, address indexed validator, bool isJoin, uint64 activationBlock);
    event ValidatorSlashed(address indexed validator, address indexed reporter, uint64 number, uint256 amount);
    event StakeWithdrawn(address indexed validator, address indexed operator, uint256 amount);

    error ValidatorSetNotOperator(address account);
    error ValidatorSetNotMember(address validator);
    error ValidatorSetInvalid(string reason);
    error ValidatorSetTaken(address account);
    error ValidatorSetWrongStatus(address validator, Status status);
    error ValidatorSetUnknownProposal(uint256 proposalId);
    error ValidatorSetProposalClosed(uint256 proposalId);
    error ValidatorSetAlreadyVoted(uint256 proposalId, address validator);
    error ValidatorSetNotCandidate(address account);
    /// @notice Votes are missing, a change is pending, or the set may not grow or shrink further.
    error ValidatorSetNotReady();
    error ValidatorSetStakeLocked(address validator, uint64 unlockBlock);
    error ValidatorSetBadEvidence(string reason);
    error ValidatorSetAlreadySlashed(address validator);
    error ValidatorSetGenesisUnknown();

    // ---- the set in force in this block

    /// @notice The number of the set in force; 0 is genesis's.
    function version() external view returns (uint256);

    function count() external view returns (uint256);

    /// @notice ceil(2n/3), of distinct validators.
    function quorum() external view returns (uint256);

    /// @notice (n - 1) / 3.
    function maxFaulty() external view returns (uint256);

    /// @notice The validators in force and their operator accounts, by index.
    function committee() external view returns (address[] memory validators, address[] memory operators);

    /// @notice The set that the scheduled change leads to; empty if none is scheduled.
    function nextValidators() external view returns (address[] memory);

    // ---- a set that is or was in force

    function committeeOf(uint256 version_)
        external
        view
        returns (address[] memory validators, address[] memory operators);

    function quorumOf(uint256 version_) external view returns (uint256);

    /// @notice The index of a validator in a set; reverts if it is not in it.
    function indexOf(uint256 version_, address validator) external view returns (uint256);

    /// @notice All that a vote needs of its sender in one call; reverts for anyone but an operator.
    function memberOfOperator(uint256 version_, address operator)
        external
        view
        returns (uint256 index, address validator, uint256 quorum, uint256 count);

    // ---- one validator

    /// @notice The operator account of a validator, also of one that has left; zero if there was none.
    function operatorOf(address validator) external view returns (address);

    /// @notice The validator of an operator account; zero if there is none.
    function validatorOf(address operator) external view returns (address);

    function getValidator(address validator) external view returns (Validator memory);

    // ---- changes

    /// @notice The caller becomes the operator of `validator` once a quorum of members voted for it; the
    /// stake in POT is taken now and returned by `withdrawProposal` if they do not.
    function proposeJoin(address validator) external returns (uint256 proposalId);

    /// @notice A member's operator asks for another's removal, and votes for it. Stake is not touched.
    function proposeRemoval(address validator) external returns (uint256 proposalId);

    /// @notice A member's operator votes. Votes of who is a member when they are counted count; with a
    /// quorum a removal is carried out at once and a join if no change is pending, else by `carryOut`.
    function voteOnProposal(uint256 proposalId) external;

    /// @notice Anyone's: carries out a join that has a quorum.
    function carryOut(uint256 proposalId) external;

    /// @notice The candidate's: closes its proposal and returns the stake.
    function withdrawProposal(uint256 proposalId) external;

    /// @notice A member's operator leaves, at the next possible change.
    function leaveSet() external;

    /// @notice Anyone's: schedules the removal of a validator that is Exiting.
    function removeExiting(address validator) external;

    /// @notice The operator's, after `unlockBlock`.
    function withdrawStake() external;

    function proposalCount() external view returns (uint256);

    /// @notice A proposal, with the votes of current members; ids are 1 to proposalCount.
    function getProposal(uint256 proposalId) external view returns (Proposal memory proposal, uint256 votes);

    /// @notice The open join that an account proposed; 0 if there is none.
    function candidacyOf(address operator) external view returns (uint256 proposalId);

    function hasVoted(uint256 proposalId, address validator) external view returns (bool);

    // ---- evidence

    /// @notice Anyone's, once in the first 8191 blocks: remembers the genesis hash, which every signature
    /// covers.
    function recordGenesis() external;

    function genesisHash() external view returns (bytes32);

    /// @notice Two signatures of one validator for different blocks in one place: all its stake is lost.
    function reportEquivocation(
        VotePlace calldata place,
        SignedDigest calldata first,
        SignedDigest calldata second
    ) external;

    /// @notice COMMIT(number, v) and VIEW-CHANGE(number, v' > v) that claims nothing prepared, or a view
    /// below v: all its stake is lost.
    function reportLostLock(
        VotePlace calldata place,
        SignedDigest calldata commit,
        SignedViewChange calldata viewChange
    ) external;

    // ---- the network's constants, and the books

    function setHash() external view returns (bytes32);
    function nextSetHash() external view returns (bytes32);
    function activationBlock() external view returns (uint256);
    function requiredStake() external view returns (uint256);
    function minValidators() external view returns (uint256);
    /// @notice Blocks from a change's scheduling to its activation.
    function changeBlocks() external view returns (uint64);
    /// @notice Blocks after which evidence is too old, and after which stake of who left is free.
    function evidenceBlocks() external view returns (uint64);
    /// @notice POT that slashing took; it stays here for ever.
    function slashedTotal() external view returns (uint256);
}
