// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Payment of rewards, claimed with Merkle proofs against one root a task
/// @notice The root covers, for each account, the sum of all that the task ever paid it: miners' pay and
/// operators' shares of the fee. A claim pays what exceeds the earlier claims.
/// @dev leaf = keccak256(keccak256(abi.encode(chainId, distributor, task, account, cumulative))); pairs
/// are sorted, as in OpenZeppelin's MerkleProof.
interface IRewardDistributor {
    struct Claim {
        uint256 taskId;
        address account;
        uint256 cumulative;
        bytes32[] proof;
    }

    event RootSet(uint256 indexed taskId, bytes32 root, uint256 paidTotal);
    event Claimed(uint256 indexed taskId, address indexed account, uint256 amount, uint256 cumulative);

    error DistributorNotLedger(address caller);
    error DistributorInvalidProof(uint256 taskId, address account);
    error DistributorNothingToClaim(uint256 taskId, address account);
    error DistributorExceedsPaid(uint256 taskId, uint256 claimed, uint256 paid);

    /// @notice Pay the caller what it has earned in a task and not claimed yet.
    function claim(uint256 taskId, uint256 cumulative, bytes32[] calldata proof) external;

    /// @notice The same for `account`. The caller pays the gas, the account gets the money.
    function claimFor(uint256 taskId, address account, uint256 cumulative, bytes32[] calldata proof) external;

    function claimMany(Claim[] calldata claims) external;

    /// @notice Replace a task's root. Only the ledger calls this, when it settles a round.
    function setRoot(uint256 taskId, bytes32 root, uint256 paidTotal) external;

    function rootOf(uint256 taskId) external view returns (bytes32);

    function paidTotalOf(uint256 taskId) external view returns (uint256);

    function claimedOf(uint256 taskId, address account) external view returns (uint256);

    function claimedTotalOf(uint256 taskId) external view returns (uint256);
}
