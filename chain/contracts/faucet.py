"""The faucet of development networks: its calls and events (docs/spec/contracts.md)."""

from dataclasses import dataclass
from typing import Final

from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall
from chain.contracts.addresses import FAUCET
from chain.primitives import Address

CONTRACT: Final = Contract(FAUCET, tables.FAUCET)
"""The faucet, which is deployed on development networks only."""


@dataclass(frozen=True, slots=True)
class Dripped:
    """The faucet paid an account."""

    to: Address
    token_amount: int
    coin_amount: int


def drip(to: Address) -> ContractCall:
    """Ask the faucet to pay `to`."""
    return CONTRACT.call("drip", to)


def encode_constructor(token_amount: int, coin_amount: int, blocks_between: int) -> bytes:
    """The constructor's arguments.

    Args:
        token_amount: Base units of POT for one request.
        coin_amount: Wei of the native coin for one request.
        blocks_between: Blocks that an account waits before its next request.
    """
    return CONTRACT.encode_constructor(token_amount, coin_amount, blocks_between)
