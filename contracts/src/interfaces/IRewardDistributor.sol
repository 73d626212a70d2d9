// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title Claims against one cumulative Merkle root a task
/// @notice leaf = keccak256(keccak256(abi.encode(chainId, distributor, task, account, cumulative))),
/// pairs sorted (OpenZeppelin's MerkleProof). The root covers miners' pay and operators' fee shares.
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

    /// @notice Claim for the caller.
    function claim(uint256 taskId, uint256 cumulative, bytes32[] calldata proof) external;

    /// @notice Claim for `account`: anyone pays the gas, the account gets the money.
    function claimFor(uint256 taskId, address account, uint256 cumulative, bytes32[] calldata proof) external;

    function claimMany(Claim[] calldata claims) external;

    /// @notice The ledger's call at settlement.
    function setRoot(uint256 taskId, bytes32 root, uint256 paidTotal) external;

    function rootOf(uint256 taskId) external view returns (bytes32);

    function paidTotalOf(uint256 taskId) external view returns (uint256);

    function claimedOf(uint256 taskId, address account) external view returns (uint256);

    function claimedTotalOf(uint256 taskId) external view returns (uint256);
}
