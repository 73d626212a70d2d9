// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A token that deducts a fee from every transfer.
contract FeeToken is ERC20("Fee", "FEE") {
    uint256 private _fee;

    constructor(address[] memory holders, uint256 amount) {
        for (uint256 i = 0; i < holders.length; ++i) _mint(holders[i], amount);
    }

    function setFee(uint256 fee) external {
        _fee = fee;
    }

    function _update(address from, address to, uint256 value) internal override {
        if (from == address(0) || _fee == 0) return super._update(from, to, value);
        super._update(from, address(0xfee), _fee);
        super._update(from, to, value - _fee);
    }
}

/// @notice A token that keeps correct balances, and makes an external call before an armed transfer.
contract CallbackToken is ERC20("Callback", "CALL") {
    address private _target;
    bytes private _data;
    bool public called;
    bool public succeeded;
    bytes public answer;

    constructor(address[] memory holders, uint256 amount) {
        for (uint256 i = 0; i < holders.length; ++i) _mint(holders[i], amount);
        _mint(address(this), amount);
    }

    function arm(address target, bytes calldata data) external {
        _target = target;
        _data = data;
    }

    /// @notice Calls a contract in the name of the token, which thus acts as submitter, miner or claimant.
    function act(address target, bytes calldata data) external {
        (bool ok, bytes memory result) = target.call(data);
        if (!ok) {
            assembly {
                revert(add(result, 32), mload(result))
            }
        }
    }

    function _update(address from, address to, uint256 value) internal override {
        if (_target != address(0)) {
            address target = _target;
            _target = address(0);
            called = true;
            (succeeded, answer) = target.call(_data);
        }
        super._update(from, to, value);
    }
}
