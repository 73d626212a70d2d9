"""Where commands and miners find a node unless they are told otherwise."""

from typing import Final

DEFAULT_BASE_PORT: Final = 8545
"""Ethereum's port for JSON-RPC."""

DEFAULT_RPC_URL: Final = f"http://127.0.0.1:{DEFAULT_BASE_PORT}"
"""The URL at which `pot node run` and `pot devnet` answer by default."""

RPC_VARIABLE: Final = "ETH_RPC_URL"
"""The environment variable for --rpc, as Ethereum's tools have it: URLs with spaces between."""
