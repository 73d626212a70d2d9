// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title The consensus validators, their stake, and the operator accounts that vote for them
/// @notice Validators are sorted by address. A change takes effect some blocks after it was scheduled;
/// until then no other change can be scheduled. Sets are numbered by `version`, and every set that was
/// ever in force stays readable.
/// @dev Slot 0 = setHash = keccak256(abi.encode(validators)), slot 1 = nextSetHash, slot 2 = activation
/// block, so one EIP-1186 proof is enough for a light client to follow a change. Read them in the state
/// after block N - 1: block N is decided by the set of nextSetHash if activation != 0 and N >= activation,
/// otherwise by the set of setHash.
interface IValidatorSet {
    enum Status {
        None,
        Active, // in the set, or scheduled to join it
        Exiting, // will be removed as soon as a change can be scheduled
        Exited // removed, or scheduled for removal; its stake is locked until unlockBlock
    }

    struct Validator {
        address operator;
        Status status;
        bool slashed; // a slashed key can never join again
        uint64 unlockBlock; // first block in which the stake can be withdrawn; 0 unless exited
        uint256 stake;
    }

    struct Proposal {
        address validator;
        address operator; // for a join, the account that proposed it and paid the stake
        bool isJoin;
        bool closed;
        uint64 expiryBlock; // from this block on the proposal cannot be carried out
        uint256 stake; // deposit of an open join, else 0
    }

    /// @notice The fields that two conflicting votes share; `version` is the protocol version.
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

    /// @notice A VIEW-CHANGE vote; preparedView = 2^64 - 1 and preparedDigest = 0 if nothing was prepared.
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
    /// @notice A validator will be removed at the next possible change: it left, was voted out or slashed.
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
    /// @notice Votes are missing, another change is pending, or the set has its largest or smallest size.
    error ValidatorSetNotReady();
    error ValidatorSetStakeLocked(address validator, uint64 unlockBlock);
    error ValidatorSetBadEvidence(string reason);
    error ValidatorSetAlreadySlashed(address validator);
    error ValidatorSetGenesisUnknown();

    // ---- the set in force in this block

    /// @notice The version of the set in force; 0 is the set of genesis.
    function version() external view returns (uint256);

    function count() external view returns (uint256);

    /// @notice The quorum: ceil(2n/3) distinct validators.
    function quorum() external view returns (uint256);

    /// @notice f = (n - 1) / 3, the largest number of Byzantine validators that is tolerated.
    function maxFaulty() external view returns (uint256);

    /// @notice The validators in force and their operator accounts, by index.
    function committee() external view returns (address[] memory validators, address[] memory operators);

    /// @notice The validators after the scheduled change; empty if no change is scheduled.
    function nextValidators() external view returns (address[] memory);

    // ---- a set that is or was in force

    function committeeOf(uint256 version_)
        external
        view
        returns (address[] memory validators, address[] memory operators);

    function quorumOf(uint256 version_) external view returns (uint256);

    /// @notice The index of a validator in a set; reverts if the set does not contain it.
    function indexOf(uint256 version_, address validator) external view returns (uint256);

    /// @notice The validator of an operator account with its index, and the set's quorum and size. Reverts
    /// if the account is not an operator in that set, or if the validator was slashed: from that block on
    /// its votes count nowhere but in consensus.
    function memberOfOperator(uint256 version_, address operator)
        external
        view
        returns (uint256 index, address validator, uint256 quorum, uint256 count);

    // ---- one validator

    /// @notice The operator account of a current or former validator; zero for any other address.
    function operatorOf(address validator) external view returns (address);

    /// @notice The validator of an operator account; zero if the account is not an operator.
    function validatorOf(address operator) external view returns (address);

    function getValidator(address validator) external view returns (Validator memory);

    // ---- changes

    /// @notice Propose that `validator` joins, with the caller as its operator. Pulls the stake in POT now;
    /// `withdrawProposal` returns it if the members do not vote for the proposal.
    /// @param proof The signature (r, s, parity) of the consensus key over keccak256(abi.encode(
    /// keccak256("ProofOfTraining.join"), chain id, this contract, validator, caller)), so that no other
    /// account can become the operator of a key that it does not hold.
    function proposeJoin(address validator, bytes calldata proof) external returns (uint256 proposalId);

    /// @notice Propose to remove a validator, and vote for that; only operators of members may, and only if no
    /// such proposal is open for it. The removed validator keeps its stake.
    function proposeRemoval(address validator) external returns (uint256 proposalId);

    /// @notice Vote for a proposal; only operators of members may. Only votes of current members are counted.
    /// With a quorum a removal is carried out at once, and so is a join unless another change is pending;
    /// then `carryOut` does it later.
    function voteOnProposal(uint256 proposalId) external;

    /// @notice Carry out a join that has a quorum. Anyone may call.
    function carryOut(uint256 proposalId) external;

    /// @notice Close the caller's own join proposal and return its stake.
    function withdrawProposal(uint256 proposalId) external;

    /// @notice Remove the caller's own validator at the next possible change.
    function leaveSet() external;

    /// @notice Schedule the removal of an exiting validator. Anyone may call.
    function removeExiting(address validator) external;

    /// @notice Return the stake of the caller's former validator, from `unlockBlock` on.
    function withdrawStake() external;

    function proposalCount() external view returns (uint256);

    /// @notice A proposal, the number of current members that voted for it, and the number that it needs:
    /// ceil(2m/3) of the m members that were not slashed. Ids are 1 to proposalCount.
    function getProposal(uint256 proposalId)
        external
        view
        returns (Proposal memory proposal, uint256 votes, uint256 needed);

    /// @notice The id of the open join proposal of an account; 0 if there is none.
    function candidacyOf(address operator) external view returns (uint256 proposalId);

    function hasVoted(uint256 proposalId, address validator) external view returns (bool);

    // ---- evidence

    /// @notice Store the genesis hash, which every consensus signature covers. Anyone may call; it must be
    /// called once within the first 8191 blocks.
    function recordGenesis() external;

    function genesisHash() external view returns (bytes32);

    /// @notice Slash a validator that signed two different blocks in one place; it loses all its stake.
    function reportEquivocation(
        VotePlace calldata place,
        SignedDigest calldata first,
        SignedDigest calldata second
    ) external;

    /// @notice Slash a validator that signed COMMIT(number, v) and then VIEW-CHANGE(number, v' > v) claiming
    /// that it had prepared nothing, or only in a view below v; it loses all its stake.
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
    /// @notice Number of blocks between scheduling a change and its activation.
    function changeBlocks() external view returns (uint64);
    /// @notice Number of blocks for which evidence is accepted, and the stake of a former validator locked.
    function evidenceBlocks() external view returns (uint64);
    /// @notice The POT that slashing took; it stays in this contract for ever.
    function slashedTotal() external view returns (uint256);
}
