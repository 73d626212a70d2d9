"""Accounts above a state root, with undo (docs/spec/state-transition.md, section 5).

The EVM changes this overlay in memory. `compute_delta` turns it into a new state root and the trie
nodes to store.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

from chain.crypto import keccak256
from chain.primitives import EMPTY_TRIE_ROOT, Address, Hash32
from chain.state import trie
from chain.types.account import (
    EMPTY_CODE_HASH,
    Account,
    decode_account,
    decode_storage_value,
    encode_storage_value,
)


class ReadableDatabase(Protocol):
    """Trie nodes and code by their Keccak-256."""

    def get(self, key: bytes, /) -> bytes | None:
        """The value under `key`; None if it is not in the database."""


StateDelta = Mapping[bytes, bytes]
"""The new database entries of a block: trie nodes and code by their Keccak-256."""

_NO_ACCOUNT = Account()

KEPT_CODE_BYTES: Final = 16 * 1024 * 1024
"""More than all code that one transaction can run: finding its jump destinations costs effort, and
the gas cap of a transaction pays for 13 MiB. It can read more with EXTCODESIZE and EXTCODECOPY,
without running it; then reads are as slow as those of the database, which the floor of execution
bears."""


def get_account(database: ReadableDatabase, state_root: Hash32, address: Address) -> Account | None:
    """The account at `address` under `state_root`; None if it does not exist.

    Raises:
        MissingTrieNodeError: The state is not in the database.
    """
    with _reading():
        data = trie.get(database.get, state_root, keccak256(address))
        return decode_account(data) if data else None


def get_storage(database: ReadableDatabase, state_root: Hash32, address: Address, slot: int) -> int:
    """The value of a storage slot under `state_root`; 0 if it was never set.

    Raises:
        MissingTrieNodeError: The state is not in the database.
    """
    account = get_account(database, state_root, address)
    if account is None:
        return 0
    return _read_storage(database, account.storage_root, _to_word(slot))


def get_code(database: ReadableDatabase, state_root: Hash32, address: Address) -> bytes:
    """The code at `address` under `state_root`; empty if it has none.

    Raises:
        MissingTrieNodeError: The state is not in the database.
    """
    account = get_account(database, state_root, address)
    return b"" if account is None else _read_code(database, account.code_hash)


def _to_word(slot: int) -> bytes:
    """A slot as its 32 bytes, the only form in which it may be a key or in a set here.

    Python's hash of an integer is its remainder modulo 2^61 - 1. So code could choose slots that
    all have the same hash, and each access would be compared with all earlier ones. The hash of
    bytes has a secret of the process in it.
    """
    return slot.to_bytes(32, "big")


def _read_storage(database: ReadableDatabase, storage_root: Hash32, word: bytes) -> int:
    if storage_root == EMPTY_TRIE_ROOT:
        return 0
    key = keccak256(word)
    with _reading():
        return decode_storage_value(trie.get(database.get, storage_root, key))


def _read_code(database: ReadableDatabase, code_hash: Hash32) -> bytes:
    if code_hash == EMPTY_CODE_HASH:
        return b""
    with _reading():
        code = database.get(code_hash)
    if code is None:
        raise trie.MissingTrieNodeError(code_hash)
    return code


@contextmanager
def _reading() -> Iterator[None]:
    """Tell an error of the database, or damage in it, from all errors that a contract can cause."""
    try:
        yield
    except trie.StateReadError:
        raise
    except Exception as error:
        raise trie.StateReadError(f"the state cannot be read: {error!r}") from error


class KeptCode:
    """Code that was read from the database, by its hash, up to `KEPT_CODE_BYTES`.

    A database copies code at each read, and a copy has to be hashed before its analysis is found.
    Calls of the same 24 KiB of code take a fifth less time with this.
    """

    __slots__ = ("_by_hash", "_bytes")

    def __init__(self) -> None:
        self._by_hash: dict[bytes, bytes] = {}
        self._bytes = 0

    def get(self, code_hash: bytes) -> bytes | None:
        """The code, or None if it is not kept."""
        return self._by_hash.get(code_hash)

    def keep(self, code_hash: bytes, code: bytes) -> None:
        """Keep `code`; if there is no room for it, forget all other code first."""
        if self._bytes + len(code) > KEPT_CODE_BYTES:
            self._by_hash.clear()
            self._bytes = 0
        self._by_hash[code_hash] = code
        self._bytes += len(code)


class WorldState:
    """A mutable overlay above a state root, with the interface of py-evm's account database.

    Every change appends its inverse to an undo log; a checkpoint is a length of that log.
    """

    def __init__(self, database: ReadableDatabase, state_root: Hash32) -> None:
        self._database = database
        self._base_root = state_root
        self._accounts: dict[Address, Account | None] = {}
        self._storage: dict[Address, dict[bytes, int]] = {}
        """The slots that were read or written, by account; other slots are in the trie."""
        self._code: dict[bytes, bytes] = {}
        self._kept_code = KeptCode()
        self._dirty: dict[Address, set[bytes]] = {}
        """Accounts that may have changed, with their slots. Undoing a change does not remove
        them."""
        self._undo: list[Callable[[], object]] = []
        # The following belong to the transaction in progress only:
        self._touched: set[Address] = set()
        self._original: dict[tuple[Address, bytes], int] = {}
        self._warm: set[Address | tuple[Address, bytes]] = set()
        self._transient: dict[tuple[Address, bytes], bytes] = {}

    # Checkpoints.

    def record(self) -> int:
        """A checkpoint within this transaction, for `discard`."""
        return len(self._undo)

    def discard(self, checkpoint: int) -> None:
        """Undo everything since `checkpoint`."""
        while len(self._undo) > checkpoint:
            self._undo.pop()()

    def commit(self, checkpoint: int) -> None:
        """Keep the changes since `checkpoint`; an outer checkpoint can still undo them."""

    def lock_changes(self) -> None:
        """Begin a transaction; earlier changes can no longer be undone."""
        self._undo.clear()
        self._touched.clear()
        self._original.clear()
        self._warm.clear()
        self._transient.clear()

    # Accounts.

    @property
    def state_root(self) -> Hash32:
        """The state root below this overlay; changes are not in it."""
        return self._base_root

    def get_account(self, address: Address) -> Account | None:
        """The account with all changes so far; None if it does not exist."""
        try:
            return self._accounts[address]
        except KeyError:
            account = get_account(self._database, self._base_root, address)
            self._accounts[address] = account
            return account

    def _set_account(self, address: Address, account: Account | None) -> None:
        old = self.get_account(address)
        self._undo.append(partial(self._accounts.__setitem__, address, old))
        self._accounts[address] = account
        self._dirty.setdefault(address, set())
        self._touched.add(address)

    def get_balance(self, address: Address) -> int:
        """The balance in wei."""
        return (self.get_account(address) or _NO_ACCOUNT).balance

    def set_balance(self, address: Address, balance: int) -> None:
        """Set the balance to `balance` wei; create the account if it does not exist."""
        assert 0 <= balance < 1 << 256, "the total supply is below 2**256 and fees are checked"
        old = self.get_account(address) or _NO_ACCOUNT
        self._set_account(address, Account(old.nonce, balance, old.storage_root, old.code_hash))

    def get_nonce(self, address: Address) -> int:
        """The nonce: the number of transactions sent, or of contracts created by a contract."""
        return (self.get_account(address) or _NO_ACCOUNT).nonce

    def set_nonce(self, address: Address, nonce: int) -> None:
        """Set the nonce; create the account if it does not exist."""
        old = self.get_account(address) or _NO_ACCOUNT
        self._set_account(address, Account(nonce, old.balance, old.storage_root, old.code_hash))

    def increment_nonce(self, address: Address) -> None:
        """Add one to the nonce; create the account if it does not exist."""
        self.set_nonce(address, self.get_nonce(address) + 1)

    def get_code_hash(self, address: Address) -> Hash32:
        """keccak256 of the account's code."""
        return (self.get_account(address) or _NO_ACCOUNT).code_hash

    def get_code(self, address: Address) -> bytes:
        """The account's code; empty if it has none."""
        code_hash = self.get_code_hash(address)
        code = self._code.get(code_hash)
        if code is None:
            code = self._kept_code.get(code_hash)
        if code is None:
            code = _read_code(self._database, code_hash)
            self._kept_code.keep(code_hash, code)
        return code

    def set_code(self, address: Address, code: bytes) -> None:
        """Set the account's code; create the account if it does not exist."""
        code_hash = keccak256(code)
        self._code[code_hash] = code
        old = self.get_account(address) or _NO_ACCOUNT
        self._set_account(address, Account(old.nonce, old.balance, old.storage_root, code_hash))

    def delete_code(self, address: Address) -> None:
        """Remove the account's code."""
        self.set_code(address, b"")

    def account_has_code_or_nonce(self, address: Address) -> bool:
        """Whether the account has code or a nonce, so that no contract can be created there."""
        account = self.get_account(address) or _NO_ACCOUNT
        return account.nonce != 0 or account.code_hash != EMPTY_CODE_HASH

    def account_exists(self, address: Address) -> bool:
        """Whether the account exists, even if it is empty."""
        return self.get_account(address) is not None

    def account_is_empty(self, address: Address) -> bool:
        """Whether the account is empty (EIP-161) or does not exist."""
        return (self.get_account(address) or _NO_ACCOUNT).is_empty

    def touch_account(self, address: Address) -> None:
        """Create an empty account if it does not exist."""
        if self.get_account(address) is None:
            self._set_account(address, _NO_ACCOUNT)

    def delete_account(self, address: Address) -> None:
        """Delete the account and its storage."""
        self._forget_slots(address)
        self._set_account(address, None)

    def delete_touched_empty(self) -> None:
        """Delete the accounts that this transaction left empty (EIP-161)."""
        for address in sorted(self._touched):
            account = self.get_account(address)
            if account is not None and account.is_empty:
                self.delete_account(address)

    # Storage.

    def get_storage(self, address: Address, slot: int, from_journal: bool = True) -> int:
        """The slot's value; if `from_journal` is False, the value before this transaction."""
        word = _to_word(slot)
        if not from_journal:
            original = self._original.get((address, word))
            if original is not None:
                return original
        return self._get_value(address, word)

    def _get_value(self, address: Address, word: bytes) -> int:
        slots = self._storage.setdefault(address, {})
        value = slots.get(word)
        if value is None:
            account = self.get_account(address) or _NO_ACCOUNT
            value = _read_storage(self._database, account.storage_root, word)
            slots[word] = value
        return value

    def set_storage(self, address: Address, slot: int, value: int) -> None:
        """Set the slot to `value`, which is below 2**256."""
        word = _to_word(slot)
        old = self._get_value(address, word)
        self._original.setdefault((address, word), old)
        slots = self._storage[address]
        self._undo.append(partial(slots.__setitem__, word, old))
        slots[word] = value
        self._dirty.setdefault(address, set()).add(word)

    def delete_storage(self, address: Address) -> None:
        """Delete all storage of the account."""
        self._forget_slots(address)
        old = self.get_account(address)
        if old is not None and old.storage_root != EMPTY_TRIE_ROOT:
            self._set_account(
                address, Account(old.nonce, old.balance, EMPTY_TRIE_ROOT, old.code_hash)
            )

    def _forget_slots(self, address: Address) -> None:
        old = self._storage.get(address, {})
        self._undo.append(partial(self._storage.__setitem__, address, old))
        self._storage[address] = {}

    # Warm addresses and slots (EIP-2929), transient storage (EIP-1153).

    def is_address_warm(self, address: Address) -> bool:
        """Whether this transaction has accessed the account."""
        return address in self._warm

    def mark_address_warm(self, address: Address) -> None:
        """Record that this transaction has accessed the account."""
        self._mark_warm(address)

    def is_storage_warm(self, address: Address, slot: int) -> bool:
        """Whether this transaction has accessed the slot."""
        return (address, _to_word(slot)) in self._warm

    def mark_storage_warm(self, address: Address, slot: int) -> None:
        """Record that this transaction has accessed the slot."""
        self._mark_warm((address, _to_word(slot)))

    def _mark_warm(self, key: Address | tuple[Address, bytes]) -> None:
        if key not in self._warm:
            self._warm.add(key)
            self._undo.append(partial(self._warm.discard, key))

    def get_transient_storage(self, address: Address, slot: int) -> bytes:
        """The slot's transient value in this transaction; empty if it was not set."""
        return self._transient.get((address, _to_word(slot)), b"")

    def set_transient_storage(self, address: Address, slot: int, value: bytes) -> None:
        """Set the slot's transient value until the end of this transaction."""
        key = address, _to_word(slot)
        old = self._transient.get(key, b"")
        self._undo.append(partial(self._transient.__setitem__, key, old))
        self._transient[key] = value

    # The result.

    def list_changed(self) -> tuple[Address, ...]:
        """The accounts that were written to, ascending, including undone writes."""
        return tuple(sorted(self._dirty))

    def get_written_storage(self, address: Address) -> dict[int, int]:
        """The written slots with a value other than zero."""
        slots = self._storage.get(address, {})
        return {
            int.from_bytes(word, "big"): slots[word]
            for word in sorted(self._dirty[address])
            if slots.get(word)
        }

    def compute_delta(self) -> tuple[Hash32, StateDelta]:
        """The state root after all changes so far, and the nodes and code that are new.

        Raises:
            MissingTrieNodeError: Part of the base state is not in the database.
        """
        delta: dict[bytes, bytes] = {}
        changes: dict[bytes, bytes] = {}
        for address in sorted(self._dirty):
            account = self.get_account(address)
            if account is None:
                changes[keccak256(address)] = b""
                continue
            slots = self._storage.get(address, {})
            written = sorted(word for word in self._dirty[address] if word in slots)
            storage_root, nodes = trie.update(
                self._database.get,
                account.storage_root,
                {keccak256(word): encode_storage_value(slots[word]) for word in written},
            )
            delta.update(nodes)
            code = self._code.get(account.code_hash)
            if code:
                delta[account.code_hash] = code
            changes[keccak256(address)] = Account(
                account.nonce, account.balance, storage_root, account.code_hash
            ).encode()
        state_root, nodes = trie.update(self._database.get, self._base_root, changes)
        delta.update(nodes)
        return state_root, delta
