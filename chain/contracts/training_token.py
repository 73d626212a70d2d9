"""POT, an ERC-20 token: its calls and answers (docs/spec/contracts.md)."""

from collections.abc import Sequence

from eth_abi.abi import encode

from chain.contracts.abi import encode_call
from chain.primitives import Address


def encode_balance_of(account: Address) -> bytes:
    """Answers `decode_uint`."""
    return encode_call("balanceOf(address)", account)


def encode_allowance(owner: Address, spender: Address) -> bytes:
    """Answers `decode_uint`."""
    return encode_call("allowance(address,address)", owner, spender)


def encode_approve(spender: Address, amount: int) -> bytes:
    """Let `spender` pull `amount` base units."""
    return encode_call("approve(address,uint256)", spender, amount)


def encode_transfer(to: Address, amount: int) -> bytes:
    """Send `amount` base units."""
    return encode_call("transfer(address,uint256)", to, amount)


def encode_training_token_arguments(holders: Sequence[Address], amounts: Sequence[int]) -> bytes:
    """Who holds how many base units of POT."""
    return encode(["address[]", "uint256[]"], [holders, amounts])
