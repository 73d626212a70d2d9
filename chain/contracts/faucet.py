"""The faucet of development networks: its calls and events (docs/spec/contracts.md)."""

from dataclasses import dataclass

from eth_abi.abi import encode

from chain.contracts.abi import encode_call
from chain.primitives import Address


@dataclass(frozen=True, slots=True)
class Dripped:
    """The faucet paid."""

    to: Address
    token_amount: int
    coin_amount: int


def encode_drip(to: Address) -> bytes:
    """Ask the faucet to pay `to`."""
    return encode_call("drip(address)", to)


def encode_faucet_arguments(token_amount: int, coin_amount: int, blocks_between: int) -> bytes:
    """Base units of POT and wei of the native coin a drip, and an account's wait in blocks."""
    return encode(["uint256", "uint256", "uint64"], [token_amount, coin_amount, blocks_between])
