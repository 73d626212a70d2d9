// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title The addresses at which genesis places the system contracts
/// @dev Each is "pot" in ASCII, zeros, and an index. chain/contracts/addresses.py holds the same list.
library SystemAddresses {
    address internal constant TRAINING_TOKEN = 0x706F740000000000000000000000000000000001;
    address internal constant VALIDATOR_SET = 0x706f740000000000000000000000000000000002;
    address internal constant TASK_REGISTRY = 0x706F740000000000000000000000000000000003;
    address internal constant GRADIENT_LEDGER = 0x706f740000000000000000000000000000000004;
    address internal constant REWARD_DISTRIBUTOR = 0x706F740000000000000000000000000000000005;
    address internal constant FAUCET = 0x706F740000000000000000000000000000000006;
    address internal constant MINER_SEATS = 0x706F740000000000000000000000000000000007;
}
