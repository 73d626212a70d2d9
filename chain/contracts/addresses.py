"""Where genesis puts the system contracts (docs/spec/contracts.md, section 3)."""

from typing import Final

from chain.primitives import Address

TRAINING_TOKEN: Final = Address(bytes.fromhex("706f740000000000000000000000000000000001"))
"""POT, the default reward token. All six are "pot" in ASCII, zeros and an index."""


VALIDATOR_SET: Final = Address(bytes.fromhex("706f740000000000000000000000000000000002"))
"""Validators and their operator accounts."""


TASK_REGISTRY: Final = Address(bytes.fromhex("706f740000000000000000000000000000000003"))
"""Tasks and their escrow."""


GRADIENT_LEDGER: Final = Address(bytes.fromhex("706f740000000000000000000000000000000004"))
"""Miners, commitments, operator votes, rounds, slashing."""


REWARD_DISTRIBUTOR: Final = Address(bytes.fromhex("706f740000000000000000000000000000000005"))
"""Claims."""


FAUCET: Final = Address(bytes.fromhex("706f740000000000000000000000000000000006"))
"""Money for the asking; predeployed on development networks only."""
