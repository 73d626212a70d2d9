// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {IRewardDistributor} from "./interfaces/IRewardDistributor.sol";
import {ITaskRegistry} from "./interfaces/ITaskRegistry.sol";
import {SystemAddresses} from "./libraries/SystemAddresses.sol";

/// @title The distributor of rewards; IRewardDistributor documents its functions
contract RewardDistributor is IRewardDistributor {
    struct Pot {
        bytes32 root;
        uint256 paidTotal;
        uint256 claimedTotal;
        mapping(address account => uint256) claimed;
    }

    ITaskRegistry private constant REGISTRY = ITaskRegistry(SystemAddresses.TASK_REGISTRY);

    mapping(uint256 taskId => Pot) private _pots;

    function claim(uint256 taskId, uint256 cumulative, bytes32[] calldata proof) external {
        _claim(taskId, msg.sender, cumulative, proof);
    }

    function claimFor(uint256 taskId, address account, uint256 cumulative, bytes32[] calldata proof)
        external
    {
        _claim(taskId, account, cumulative, proof);
    }

    function claimMany(Claim[] calldata claims) external {
        for (uint256 i = 0; i < claims.length; ++i) {
            Claim calldata one = claims[i];
            _claim(one.taskId, one.account, one.cumulative, one.proof);
        }
    }

    function setRoot(uint256 taskId, bytes32 root, uint256 paidTotal) external {
        if (msg.sender != SystemAddresses.GRADIENT_LEDGER) revert DistributorNotLedger(msg.sender);
        Pot storage pot = _pots[taskId];
        pot.root = root;
        pot.paidTotal = paidTotal;
        emit RootSet(taskId, root, paidTotal);
    }

    function rootOf(uint256 taskId) external view returns (bytes32) {
        return _pots[taskId].root;
    }

    function paidTotalOf(uint256 taskId) external view returns (uint256) {
        return _pots[taskId].paidTotal;
    }

    function claimedOf(uint256 taskId, address account) external view returns (uint256) {
        return _pots[taskId].claimed[account];
    }

    function claimedTotalOf(uint256 taskId) external view returns (uint256) {
        return _pots[taskId].claimedTotal;
    }

    /// @dev Everything is recorded before the registry moves a token, so a token that calls back finds
    /// nothing left to claim. A dishonest quorum can redistribute only what this task was to pay.
    function _claim(uint256 taskId, address account, uint256 cumulative, bytes32[] calldata proof) private {
        Pot storage pot = _pots[taskId];
        bytes32 leaf = keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(this), taskId, account, cumulative)))
        );
        if (!MerkleProof.verifyCalldata(proof, pot.root, leaf)) {
            revert DistributorInvalidProof(taskId, account);
        }
        uint256 before = pot.claimed[account];
        if (cumulative <= before) revert DistributorNothingToClaim(taskId, account);
        uint256 amount = cumulative - before;
        uint256 claimedTotal = pot.claimedTotal + amount;
        if (claimedTotal > pot.paidTotal) {
            revert DistributorExceedsPaid(taskId, claimedTotal, pot.paidTotal);
        }
        pot.claimed[account] = cumulative;
        pot.claimedTotal = claimedTotal;
        emit Claimed(taskId, account, amount, cumulative);

        REGISTRY.payOut(taskId, account, amount);
    }
}
