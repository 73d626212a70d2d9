// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ITaskRegistry} from "../interfaces/ITaskRegistry.sol";

/// @title Deposits that either arrive in full or revert
library ExactTransfer {
    using SafeERC20 for IERC20;

    /// @notice Pull `amount` of `token` from `from`. Reverts unless this contract's balance grew by exactly
    /// that, so a token that takes a fee, rebases or calls back cannot make the escrow short.
    function pullExact(IERC20 token, address from, uint256 amount) internal {
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(from, address(this), amount);
        uint256 received = token.balanceOf(address(this)) - before;
        if (received != amount) revert ITaskRegistry.TaskInexactTransfer(amount, received);
    }
}
