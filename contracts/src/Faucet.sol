// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {SystemAddresses} from "./libraries/SystemAddresses.sol";

/// @title The faucet of a development network: a small gift of POT and coin to any account
/// @notice Pays out of the balances that genesis allocated to this contract.
contract Faucet {
    using SafeERC20 for IERC20;

    uint256 public immutable tokenAmount;
    uint256 public immutable coinAmount;
    uint64 public immutable blocksBetween;

    /// @notice The first block in which an account can be paid again; 0 before its first payment.
    mapping(address account => uint256) public nextBlockOf;

    event Dripped(address indexed to, uint256 tokenAmount, uint256 coinAmount);

    error FaucetTooSoon(address account, uint256 nextBlock);

    constructor(uint256 tokenAmount_, uint256 coinAmount_, uint64 blocksBetween_) {
        tokenAmount = tokenAmount_;
        coinAmount = coinAmount_;
        blocksBetween = blocksBetween_;
    }

    /// @notice Pay `to` one portion of POT and of the native coin. Anyone may call this for any account.
    function drip(address to) external {
        if (block.number < nextBlockOf[to]) revert FaucetTooSoon(to, nextBlockOf[to]);
        nextBlockOf[to] = block.number + blocksBetween;
        emit Dripped(to, tokenAmount, coinAmount);

        IERC20(SystemAddresses.TRAINING_TOKEN).safeTransfer(to, tokenAmount);
        Address.sendValue(payable(to), coinAmount);
    }
}
