"""The addresses of the system contracts (docs/spec/contracts.md, section 3)."""

from typing import Final

from chain.primitives import Address

TRAINING_TOKEN: Final = Address(bytes.fromhex("706f740000000000000000000000000000000001"))
"""POT, the default reward token. Each address is "pot" in ASCII, zeros and an index."""


VALIDATOR_SET: Final = Address(bytes.fromhex("706f740000000000000000000000000000000002"))
"""The validators, their stakes and their operator accounts."""


TASK_REGISTRY: Final = Address(bytes.fromhex("706f740000000000000000000000000000000003"))
"""The tasks and their escrow."""


GRADIENT_LEDGER: Final = Address(bytes.fromhex("706f740000000000000000000000000000000004"))
"""The rounds: commitments, operator votes, settlement."""


REWARD_DISTRIBUTOR: Final = Address(bytes.fromhex("706f740000000000000000000000000000000005"))
"""The payment of rewards."""


FAUCET: Final = Address(bytes.fromhex("706f740000000000000000000000000000000006"))
"""The faucet, which pays anyone; it exists only on development networks."""


MINER_SEATS: Final = Address(bytes.fromhex("706f740000000000000000000000000000000007"))
"""The seats of miners: bonds, terms, misses, fines."""
