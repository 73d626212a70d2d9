"""Private keys as Web3 keystore V3 files, which every wallet reads (docs/operator-guide.md).

Consensus, operator, miner and wallet keys each have a file. A password comes from a file or a
prompt, never from the command line, where every user of the machine could read it.
"""

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from chain.crypto import SECP256K1_ORDER, get_address
from chain.hexadecimal import from_plain_hex
from chain.primitives import Address, PrivateKey
from pot_common.atomic_file import write_atomically
from pot_common.errors import OperatorError

STANDARD_SCRYPT_COST: Final = 2**18
"""The cost that geth uses: about a second and 256 MB for each guess of the password."""

LIGHT_SCRYPT_COST: Final = 2**12
"""The cost of geth's --lightkdf: some milliseconds. For networks with a public password."""

KEYFILE_LIMIT_BYTES: Final = 2**16
"""A keystore takes about 500 bytes; a longer file was named by mistake."""


class _KeyfileHead(BaseModel):
    """The members of a keystore that can be read without its password."""

    version: int
    address: str | None = None
    """Optional in the format, and present in what most wallets write."""


def create_private_key() -> PrivateKey:
    """A new key from the operating system's randomness."""
    while True:
        candidate = os.urandom(32)
        if 0 < int.from_bytes(candidate, "big") < SECP256K1_ORDER:
            return PrivateKey(candidate)


def save_key(path: Path, private_key: PrivateKey, password: str, *, light: bool = False) -> Address:
    """Encrypt a key into a new file of mode 0600, and return its account.

    Args:
        path: A file that does not exist yet.
        private_key: The secret.
        password: What opens the file.
        light: Make the password cheap to guess, for development networks.

    Raises:
        OperatorError: The file exists or cannot be written, or the password is empty.
    """
    # Imported late: it takes a second, and most commands do not need it.
    from eth_keyfile import keyfile

    if not password:
        raise OperatorError(f"the password for {path} is empty: choose another")
    if path.exists():
        raise OperatorError(f"{path} exists and is not overwritten: name another key file")
    content = keyfile.create_keyfile_json(
        private_key,
        password.encode(),
        kdf="scrypt",
        iterations=LIGHT_SCRYPT_COST if light else STANDARD_SCRYPT_COST,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise OperatorError(f"cannot write the key file {path}: {error.strerror}") from error
    return get_address(private_key)


def load_key(path: Path, password: str) -> PrivateKey:
    """The key in a keystore file.

    Raises:
        OperatorError: The file is no keystore, or the password does not open it.
    """
    from eth_keyfile import keyfile

    stated = _read_stated_address(path)
    try:
        content = json.loads(path.read_bytes())
        private_key = PrivateKey(keyfile.decode_keyfile_json(content, password.encode()))
    except (ValueError, TypeError, KeyError) as error:
        if "MAC mismatch" in str(error):
            raise OperatorError(
                f"wrong password for {path}: check the password file, or type it again"
            ) from None
        raise OperatorError(f"{path} is no Web3 keystore V3: {error}") from error
    if stated is not None and get_address(private_key) != stated:
        raise OperatorError(f"{path} holds the key of another account than it says: restore it")
    return private_key


def unlock_key(path: Path, password_file: Path | None, *, setting: str) -> PrivateKey:
    """The key in a keystore file, with its password from a file or from a prompt.

    Args:
        path: The keystore.
        password_file: The file with the password, or None to ask.
        setting: The name of the password file's setting, for messages.

    Raises:
        OperatorError: The file is no keystore, or there is no password that opens it.
    """
    _read_stated_address(path)  # a wrong file shows before a password is asked for
    password = get_password(password_file, setting=setting, prompt=f"Password of {path}: ")
    return load_key(path, password)


def read_address(path: Path) -> Address:
    """The account that a keystore file states; reading it needs no password.

    Raises:
        OperatorError: The file is no keystore, or states no account.
    """
    stated = _read_stated_address(path)
    if stated is None:
        raise OperatorError(f"{path} is a Web3 keystore without its account: name another")
    return stated


def _read_stated_address(path: Path) -> Address | None:
    """The account that a keystore file states; None if it states none.

    Raises:
        OperatorError: The file is no keystore.
    """
    try:
        with path.open("rb") as file:
            head = _KeyfileHead.model_validate_json(file.read(KEYFILE_LIMIT_BYTES))
        address = None if head.address is None else from_plain_hex(head.address)
    except OSError as error:
        raise OperatorError(
            f"cannot read the key file {path}: {error.strerror}; name an existing one"
        ) from error
    except (ValidationError, ValueError):
        raise OperatorError(f"{path} is no Web3 keystore: name a file in that format") from None
    if head.version != 3 or (address is not None and len(address) != 20):
        raise OperatorError(f"{path} is no Web3 keystore of version 3: name a file in that format")
    return None if address is None else Address(address)


def list_keys(directory: Path) -> tuple[tuple[Address, Path], ...]:
    """The keystores in a directory with their accounts, by file name; other files are left out."""
    found: list[tuple[Address, Path]] = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        try:
            found.append((read_address(path), path))
        except OperatorError:
            continue
    return tuple(found)


def get_password(password_file: Path | None, *, setting: str, prompt: str) -> str:
    """The first line of the password file, or, without one, what is typed at a prompt.

    Args:
        password_file: The file, or None to ask.
        setting: The name of the file's setting, for the message.
        prompt: The text of the prompt.

    Raises:
        OperatorError: The file is not readable or empty, or there is no terminal to ask on.
    """
    if password_file is None:
        if not sys.stdin.isatty():
            raise OperatorError(
                f"no terminal to ask for a password on: set {setting} to a file with the password"
            )
        return getpass.getpass(prompt)
    try:
        lines = password_file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OperatorError(f"cannot read {setting} {password_file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise OperatorError(f"{setting} {password_file} is no text: name another file") from None
    if not lines or not lines[0]:
        raise OperatorError(f"{setting} {password_file} is empty: write the password into it")
    return lines[0]


def ask_new_password(*, setting: str) -> str:
    """A password typed twice.

    Raises:
        OperatorError: The two differ, or there is no terminal to ask on.
    """
    first = get_password(None, setting=setting, prompt="New password: ")
    if get_password(None, setting=setting, prompt="Again: ") != first:
        raise OperatorError("the two passwords differ: try again")
    return first
