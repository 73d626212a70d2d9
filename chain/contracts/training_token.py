"""POT, an ERC-20 token: its calls and answers (docs/spec/contracts.md)."""

from collections.abc import Sequence
from typing import Final

from chain.amounts import format_amount
from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall, ContractView
from chain.contracts.addresses import TRAINING_TOKEN
from chain.hexadecimal import to_hex
from chain.primitives import Address

CONTRACT: Final = Contract(TRAINING_TOKEN, tables.TRAINING_TOKEN)
"""The token POT."""


def balance_of(token: Address, account: Address) -> ContractView[int]:
    """The base units of a token that an account holds."""
    return _at(token).view("balanceOf", account, returns=int)


def allowance(token: Address, owner: Address, spender: Address) -> ContractView[int]:
    """The base units of a token that `spender` may take from `owner`."""
    return _at(token).view("allowance", owner, spender, returns=int)


def approve(token: Address, spender: Address, amount: int) -> ContractCall:
    """Let `spender` take `amount` base units from the caller."""
    return _at(token).call("approve", spender, amount)


def transfer(token: Address, to: Address, amount: int) -> ContractCall:
    """Send `amount` base units."""
    return _at(token).call("transfer", to, amount)


def encode_constructor(holders: Sequence[Address], amounts: Sequence[int]) -> bytes:
    """The constructor's arguments: the first holders, and their base units of POT."""
    return CONTRACT.encode_constructor(holders, amounts)


def describe_amount(base_units: int, token: Address) -> str:
    """An amount of a token with its name."""
    name = "POT" if token == TRAINING_TOKEN else f"of token {to_hex(token)}"
    return f"{format_amount(base_units)} {name}"


def _at(token: Address) -> Contract:
    """The ERC-20 token at an address, with POT's interface."""
    return Contract(token, CONTRACT.abi)
