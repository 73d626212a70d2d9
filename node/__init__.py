"""The node: disk, network, clock and processes around the chain's rules (docs/adr/0002)."""

import os

# Without this, eth-hash chooses a backend that takes 11 us instead of 3 us for a trie node.
os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")
