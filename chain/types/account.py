"""An account of the state trie, and its encoding (docs/spec/state-transition.md, section 5)."""

from dataclasses import dataclass
from typing import Final

from chain import codec
from chain.primitives import EMPTY_TRIE_ROOT, Hash32

EMPTY_CODE_HASH: Final = Hash32(
    bytes.fromhex("c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470")
)
"""keccak256(b""): the code hash of an account without code."""

ACCOUNT_LIMIT_BYTES: Final = 128
"""The largest values of the four fields take 111 bytes."""


@dataclass(frozen=True, slots=True)
class Account:
    """Nonce, balance in wei, and the hashes of storage and code."""

    nonce: int = 0
    balance: int = 0
    storage_root: Hash32 = EMPTY_TRIE_ROOT
    code_hash: Hash32 = EMPTY_CODE_HASH

    @property
    def is_empty(self) -> bool:
        """Whether the account is empty (EIP-161), and so is deleted when it is touched."""
        return self.nonce == 0 and self.balance == 0 and self.code_hash == EMPTY_CODE_HASH

    def encode(self) -> bytes:
        """The RLP that is stored in the state trie."""
        return codec.encode([self.nonce, self.balance, self.storage_root, self.code_hash])


def decode_account(data: bytes) -> Account:
    """The account that `data` encodes.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    item = codec.decode(data, limit_bytes=ACCOUNT_LIMIT_BYTES)
    nonce, balance, storage_root, code_hash = codec.as_list(item, length=4)
    return Account(
        codec.as_uint(nonce, bits=64),
        codec.as_uint(balance, bits=256),
        Hash32(codec.as_bytes(storage_root, length=32)),
        Hash32(codec.as_bytes(code_hash, length=32)),
    )


def encode_storage_value(value: int) -> bytes:
    """The RLP that is stored in a storage trie; empty for zero, which has no entry."""
    return codec.encode(value) if value else b""


def decode_storage_value(data: bytes) -> int:
    """The value of a storage trie's entry; 0 if there is no entry.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    return codec.as_uint(codec.decode(data, limit_bytes=33), bits=256) if data else 0
