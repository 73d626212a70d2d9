"""The account that signs the transactions of a command."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from chain.contracts.abi import ContractCall
from chain.crypto import get_address
from chain.json_types import JsonObject
from chain.primitives import Address, PrivateKey
from node.cli.output import parse_address, print_note
from node.client.rpc_client import RpcClient
from pot_common.gas_offer import GasHint
from pot_common.keystore import read_address, unlock_key

DEFAULT_WALLET: Final = Path.home() / ".pot" / "wallet"
"""The directory in which `pot wallet new` stores keystores."""

ACCOUNT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""A valid account name. It is a file name, so it must not lead out of the directory."""

KeyOption = Annotated[Path, typer.Option("--key", help="V3 keystore, or an account of pot wallet.")]
"""The keystore of the signing key."""

PasswordOption = Annotated[
    Path | None,
    typer.Option("--password-file", help="A file with the password; without it, you are asked."),
]
"""The file with the key's password; None to ask at the terminal."""


GasPriceOption = Annotated[
    int,
    typer.Option(
        "--gas-price",
        metavar="WEI",
        min=0,
        help="Pay this for a unit of gas. It takes the place of the same call that waits; others "
        "of this account that wait before it are sent again at this price.",
    ),
]
"""The price of gas; 0 pays nothing where gas is free."""


@dataclass(frozen=True, slots=True)
class Account:
    """An unlocked key, and the node that receives its transactions."""

    client: RpcClient
    private_key: PrivateKey

    @property
    def address(self) -> Address:
        """The account's address."""
        return get_address(self.private_key)

    def send_call(self, call: ContractCall, *, value: int = 0) -> JsonObject:
        """Send a call of a contract, wait until it is in a block, and return the receipt.

        Args:
            call: The call.
            value: Wei to send with it.

        Raises:
            ClientError: The node refused the transaction, or it failed.
        """
        return self.client.transact(self.private_key, call, value=value)


def find_key_file(key: Path) -> Path:
    """The keystore file, from its path or from the name of an account of `pot wallet new`."""
    named = DEFAULT_WALLET / f"{key}.json"
    is_name = ACCOUNT_NAME.fullmatch(str(key)) is not None
    return named if is_name and not key.is_file() and named.is_file() else key


def parse_account(text: str) -> Address:
    """The account that is named by its address, its keystore, or its name in `pot wallet`.

    Raises:
        OperatorError: The text is none of these, or the address is mistyped.
    """
    path = find_key_file(Path(text))
    return read_address(path) if path.is_file() else parse_address(text)


def unlock_account(
    client: RpcClient, key: Path, password_file: Path | None, gas_price: int
) -> Account:
    """The account of a keystore, unlocked with a password from a file or the terminal.

    The client pays `gas_price` from now on, and tells the user why a transaction waits.

    Raises:
        OperatorError: The keystore cannot be read, or the password is wrong.
    """
    private_key = unlock_key(find_key_file(key), password_file, setting="--password-file")
    client.gas_price, client.on_wait, client.on_note = gas_price, _tell_why_it_waits, print_note
    return Account(client, private_key)


def _tell_why_it_waits(hint: GasHint) -> None:
    print_note("it waits: gas is free up to a ration, for which too many transactions wait")
    print_note(f"to pay, stop this command and give it again with {hint.option}")
    print_note(f"({hint.cost})")
