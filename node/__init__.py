"""The world around the chain: disk, network, clock, processes (docs/adr/0002)."""

import os

# eth-hash takes the first backend that it finds, which hashes a trie node in 11 us instead of 3.
os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")
