"""A state as one sequence of trie nodes and code, cut into chunks (docs/spec/wire.md, section 9).

The sequence is a depth-first walk, in which each account's leaf is followed by its code and its
storage trie. An earlier item contains the hash of every later one. So a chunk that starts with the
nodes above its first item proves itself: to verify it, take the same walk with the chunk instead of
the database.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from chain.crypto import keccak256
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import EMPTY_TRIE_ROOT, Hash32
from chain.state import trie
from chain.types.account import EMPTY_CODE_HASH, Account, decode_account

START: Final = b""
"""The position of the state root's node, which is the first."""

END: Final = b"\x10"
"""A position after all others, because a nibble is below 16."""

_CODE: Final = b"\x10"
_STORAGE: Final = b"\x11"
"""`_CODE` follows an account's 64 nibbles in the position of its code, `_STORAGE` in those of its
storage. Both are greater than every nibble, so code and storage come after the account's leaf."""

_KEY_NIBBLES: Final = 64

POSITION_LIMIT_BYTES: Final = 2 * _KEY_NIBBLES + 1
"""Length of an account's key, the mark `_STORAGE` and a path in its storage, one byte a nibble."""

ReadItem = Callable[[Hash32], bytes | None]
"""Returns the node or code of a hash; None ends the walk at that place."""


@dataclass(frozen=True, slots=True)
class StateItem:
    """A trie node or code, with its position in the walk."""

    position: bytes
    """Positions ascend along the walk. A position that is a prefix of another lies above it in the
    trie."""
    hash: Hash32
    data: bytes


@dataclass(frozen=True, slots=True)
class VerifiedChunk:
    """A chunk that was verified to belong to the state."""

    items: tuple[StateItem, ...]
    """All items of the chunk, including the nodes above its first item."""
    next_position: bytes
    """Where the next chunk starts; the requested end if this was the last chunk."""


class _Walk:
    """A walk from `start` (with the nodes above it) up to but not including `end`."""

    def __init__(self, root: Hash32, start: bytes, end: bytes, read: ReadItem) -> None:
        self.stopped_at: bytes | None = None
        """The position at which `read` returned None."""
        self._start = start
        self._end = end
        self._read = read
        self._code_seen: set[Hash32] = set()
        self._stack: list[tuple[bytes, bytes]] = []
        """Positions and references still to visit; the next one is the last."""
        if root != EMPTY_TRIE_ROOT:
            self._stack.append((START, b"\xa0" + root))

    def __iter__(self) -> Iterator[StateItem]:
        while self._stack:
            position, reference = self._stack.pop()
            if position >= self._end:
                return
            if position < self._start and not self._start.startswith(position):
                continue  # and nothing below it is in the range either
            if len(reference) != 33:
                self._push_children(position, reference)
                continue
            item_hash = Hash32(reference[1:])
            is_code = position[_KEY_NIBBLES:] == _CODE
            if is_code and item_hash in self._code_seen:
                continue  # the code came with another account
            data = self._read(item_hash)
            if data is None:
                self.stopped_at = position
                return
            yield StateItem(position, item_hash, data)
            if is_code:
                self._code_seen.add(item_hash)
            else:
                self._push_children(position, data)

    def _push_children(self, position: bytes, encoded: bytes) -> None:
        leaf, children = trie.open_node(encoded)
        for nibbles, reference in reversed(children):
            self._stack.append((position + nibbles, reference))
        if leaf is not None and len(position) < _KEY_NIBBLES:
            self._push_account(position + leaf[0], decode_account(leaf[1]))

    def _push_account(self, key: bytes, account: Account) -> None:
        if len(key) != _KEY_NIBBLES:
            raise ValueError("an account's key has 64 nibbles")
        if account.storage_root != EMPTY_TRIE_ROOT:
            self._stack.append((key + _STORAGE, b"\xa0" + account.storage_root))
        if account.code_hash != EMPTY_CODE_HASH:
            self._stack.append((key + _CODE, b"\xa0" + account.code_hash))


def collect_chunk(
    read: ReadItem, root: Hash32, start: bytes, end: bytes, limit_bytes: int
) -> tuple[bytes, ...]:
    """The items of a state from `start` up to but not including `end`, after the nodes above them.

    The chunk has at least one item of the range, if there is one, and ends with the item that
    makes it reach `limit_bytes`. A `start` or `end` that is not a position of the state stands for
    the next one that is.

    Raises:
        MissingTrieNodeError: The state is not in the database.
    """

    def read_held(item_hash: Hash32) -> bytes:
        data = read(item_hash)
        if data is None:
            raise trie.MissingTrieNodeError(item_hash)
        return data

    items: list[bytes] = []
    size_bytes = 0
    for item in _Walk(root, start, end, read_held):
        items.append(item.data)
        size_bytes += len(item.data)
        if size_bytes >= limit_bytes and item.position >= start:
            break
    return tuple(items)


def verify_chunk(root: Hash32, start: bytes, end: bytes, items: Sequence[bytes]) -> VerifiedChunk:
    """The verified chunk of `items`, which must be the items of the state from `start` on.

    Raises:
        RejectedInputError: CONTENT_MISMATCH if an item does not have the hash that an earlier one
            (or `root`) names, if an item is missing or superfluous, or if no item is in the range.
    """
    left = iter(items)

    def read_next(item_hash: Hash32) -> bytes | None:
        data = next(left, None)
        if data is not None and keccak256(data) != item_hash:
            raise ValueError(f"item is not {item_hash.hex()}")
        return data

    walk = _Walk(root, start, end, read_next)
    try:
        found = tuple(walk)
    except (ValueError, IndexError, RejectedInputError) as error:
        raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, f"state: {error}") from error
    if next(left, None) is not None:
        raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "state: more than the range")
    next_position = end if walk.stopped_at is None else walk.stopped_at
    if next_position <= start and next_position != end:
        raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "state: nothing of the range")
    return VerifiedChunk(found, next_position)
