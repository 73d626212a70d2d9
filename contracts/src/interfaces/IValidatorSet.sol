// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title The consensus validators and the operator accounts that vote for them
/// @notice Validators are sorted by address. The set is fixed in genesis.
/// @dev Slot 0 = setHash = keccak256(abi.encode(validators)), slot 1 = nextSetHash, slot 2 = activation
/// block, so that one EIP-1186 proof carries a light client across a change.
interface IValidatorSet {
    error ValidatorSetNotOperator(address account);
    error ValidatorSetInvalid(string reason);

    function count() external view returns (uint256);

    /// @notice ceil(2n/3), of distinct validators.
    function quorum() external view returns (uint256);

    /// @notice (n - 1) / 3.
    function maxFaulty() external view returns (uint256);

    function validators() external view returns (address[] memory);

    function validatorAt(uint256 index) external view returns (address);

    function operatorOf(address validator) external view returns (address);

    /// @notice The validator index of an operator account; reverts for anyone else.
    function indexOfOperator(address operator) external view returns (uint256);

    /// @notice All that a vote needs of its sender in one call; reverts for anyone but an operator.
    function memberOfOperator(address operator)
        external
        view
        returns (uint256 index, address validator, uint256 quorum, uint256 count);

    function setHash() external view returns (bytes32);
}
