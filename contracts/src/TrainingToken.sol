// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title POT, the default reward token
/// @notice The supply is fixed: genesis allocates all of it, and there is no function to mint.
contract TrainingToken is ERC20, ERC20Permit {
    error TokenAllocationMismatch(uint256 holders, uint256 amounts);

    constructor(address[] memory holders, uint256[] memory amounts)
        ERC20("Proof of Training", "POT")
        ERC20Permit("Proof of Training")
    {
        if (holders.length != amounts.length) {
            revert TokenAllocationMismatch(holders.length, amounts.length);
        }
        for (uint256 i = 0; i < holders.length; ++i) {
            _mint(holders[i], amounts[i]);
        }
    }
}
