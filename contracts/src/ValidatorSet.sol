// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IValidatorSet} from "./interfaces/IValidatorSet.sol";

/// @title The static set of validators (IValidatorSet says what it promises)
contract ValidatorSet is IValidatorSet {
    /// @dev PBFT's traffic grows with the square of n; 100 is what the network is measured for.
    uint256 private constant MAX_VALIDATORS = 100;

    // Slots 0 to 2 are fixed for light clients; in a static set the last two stay 0.
    bytes32 public setHash;
    bytes32 public nextSetHash;
    uint256 public activationBlock;

    address[] private _validators;
    mapping(address validator => address) private _operators;
    mapping(address operator => uint256 indexPlusOne) private _positions;

    constructor(address[] memory validators_, address[] memory operators_) {
        uint256 n = validators_.length;
        if (n == 0 || n > MAX_VALIDATORS) revert ValidatorSetInvalid("count");
        if (operators_.length != n) revert ValidatorSetInvalid("operators: one for each validator");

        address previous = address(0);
        for (uint256 i = 0; i < n; ++i) {
            address validator = validators_[i];
            address operator = operators_[i];
            if (validator <= previous) revert ValidatorSetInvalid("validators: not ascending, or zero");
            if (operator == address(0)) revert ValidatorSetInvalid("operators: zero");
            if (_positions[operator] != 0) revert ValidatorSetInvalid("operators: not unique");
            _operators[validator] = operator;
            _positions[operator] = i + 1;
            previous = validator;
        }
        _validators = validators_;
        setHash = keccak256(abi.encode(validators_));
    }

    function count() public view returns (uint256) {
        return _validators.length;
    }

    function quorum() public view returns (uint256) {
        return (2 * count() + 2) / 3;
    }

    function maxFaulty() external view returns (uint256) {
        return (count() - 1) / 3;
    }

    function validators() external view returns (address[] memory) {
        return _validators;
    }

    function validatorAt(uint256 index) external view returns (address) {
        return _validators[index];
    }

    function operatorOf(address validator) external view returns (address) {
        return _operators[validator];
    }

    function indexOfOperator(address operator) public view returns (uint256) {
        uint256 position = _positions[operator];
        if (position == 0) revert ValidatorSetNotOperator(operator);
        return position - 1;
    }

    function memberOfOperator(address operator)
        external
        view
        returns (uint256 index, address validator, uint256 quorum_, uint256 count_)
    {
        index = indexOfOperator(operator);
        validator = _validators[index];
        quorum_ = quorum();
        count_ = count();
    }
}
