"""Ethereum's hexary Merkle trie, with pure updates (docs/spec/state-transition.md, section 5).

An update takes a root and a batch of changes, and returns the new root and the new nodes; it writes
nothing. No key may be a prefix of another, as with keys of one length or RLP; so no branch has a
value. The library `trie`, which py-evm uses, has neither batch updates nor a bounded cache.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, assert_never

from chain import codec
from chain.crypto import keccak256
from chain.primitives import EMPTY_TRIE_ROOT, Hash32

NodeReader = Callable[[bytes], bytes | None]
"""Returns the encoding of a node, given its Keccak-256; None if the node is not held."""

NODE_CACHE_SIZE: Final = 2**16
"""Number of decoded nodes in the cache: the upper levels of a state with some million accounts.
They take 130 MB at most: a branch takes 2 kB, and no value in the state is longer than an
account."""

_EMPTY: Final = b"\x80"
"""The encoding of a missing child, and of a missing value."""


class StateReadError(Exception):
    """This node cannot read the state, which says nothing about the block or call that needs it."""


class MissingTrieNodeError(StateReadError):
    """A trie node is not in the database, so this node does not hold the state."""

    def __init__(self, node_hash: bytes) -> None:
        super().__init__(f"trie node {node_hash.hex()} is not in the database")
        self.node_hash = node_hash


@dataclass(frozen=True, slots=True)
class _Leaf:
    path: bytes
    """The nibbles of the key from here on, one a byte."""
    value: bytes


@dataclass(frozen=True, slots=True)
class _Extension:
    path: bytes
    child: bytes
    """A reference: 0xa0 and a hash, or a node's own encoding if that is shorter than 32 bytes."""


@dataclass(frozen=True, slots=True)
class _Branch:
    children: tuple[bytes, ...]
    """16 references; `_EMPTY` for a missing child."""


_Node = _Leaf | _Extension | _Branch
_Change = tuple[bytes, bytes]
"""The nibbles of the whole key, and the new value; an empty value deletes the key."""


def get(read: NodeReader, root: Hash32, key: bytes) -> bytes:
    """The value at `key`; empty if there is none.

    Raises:
        MissingTrieNodeError: A node on the way is not in the database.
    """
    if root == EMPTY_TRIE_ROOT:
        return b""
    nibbles = _to_nibbles(key)
    depth = 0
    reference = b"\xa0" + root
    while reference != _EMPTY:
        node = _decode_node(_read_reference(read, reference))
        match node:
            case _Leaf():
                return node.value if nibbles[depth:] == node.path else b""
            case _Extension():
                if nibbles[depth : depth + len(node.path)] != node.path:
                    break
                depth += len(node.path)
                reference = node.child
            case _Branch():
                if depth == len(nibbles):
                    break
                reference = node.children[nibbles[depth]]
                depth += 1
            case _:
                assert_never(node)
    return b""


def open_node(
    encoded: bytes,
) -> tuple[tuple[bytes, bytes] | None, tuple[tuple[bytes, bytes], ...]]:
    """A leaf's path and value (None for other nodes), and the paths and references of the children.

    A path is in nibbles, one a byte; a reference is 0xa0 and a hash, or an encoded node itself.
    The node is not put into the cache: a walk through the whole state would evict the nodes that
    execution needs.

    Raises:
        ValueError, IndexError: The bytes are not a trie node.
    """
    node = _decode_node.__wrapped__(encoded)
    match node:
        case _Leaf():
            return (node.path, node.value), ()
        case _Extension():
            return None, ((node.path, node.child),)
        case _Branch():
            children = ((bytes((nibble,)), child) for nibble, child in enumerate(node.children))
            return None, tuple(each for each in children if each[1] != _EMPTY)
        case _:
            assert_never(node)


def list_hashes(encoded: bytes) -> list[Hash32]:
    """The hashes in a node, including those in short nodes that are embedded in it.

    Raises:
        ValueError, IndexError: The bytes are not a trie node.
    """
    found = []
    for _, reference in open_node(encoded)[1]:
        if len(reference) == 33:
            found.append(Hash32(reference[1:]))
        else:
            found += list_hashes(reference)
    return found


def update(
    read: NodeReader, root: Hash32, changes: Mapping[bytes, bytes]
) -> tuple[Hash32, dict[bytes, bytes]]:
    """The root after `changes`, and the new nodes by their hash. An empty value deletes a key.

    Raises:
        MissingTrieNodeError: A node that must change is not in the database.
    """
    if not changes:
        return root, {}
    writer = _Writer(read)
    entries = sorted((_to_nibbles(key), value) for key, value in changes.items())
    node = writer.apply(None if root == EMPTY_TRIE_ROOT else writer.load_hash(root), entries, 0)
    if node is None:
        return EMPTY_TRIE_ROOT, {}
    encoded = _encode_node(node)
    new_root = keccak256(encoded)
    writer.nodes[new_root] = encoded
    return new_root, writer.nodes


def build(entries: Mapping[bytes, bytes]) -> tuple[Hash32, dict[bytes, bytes]]:
    """The root of a new trie of `entries`, and its nodes by their hash."""
    return update(_read_nothing, EMPTY_TRIE_ROOT, entries)


def compute_ordered_root(items: Sequence[bytes]) -> Hash32:
    """The root of the trie that maps rlp(index) to item, as for transactions and receipts."""
    root, _ = build({codec.encode(index): item for index, item in enumerate(items)})
    return root


def _read_nothing(_key: bytes) -> bytes | None:
    return None


def _read_reference(read: NodeReader, reference: bytes) -> bytes:
    if len(reference) != 33:
        return reference
    encoded = read(reference[1:])
    if encoded is None:
        raise MissingTrieNodeError(reference[1:])
    return encoded


class _Writer:
    """Collects the new nodes of an update."""

    def __init__(self, read: NodeReader) -> None:
        self._read = read
        self.nodes: dict[bytes, bytes] = {}

    def load_hash(self, node_hash: Hash32) -> _Node:
        return self._load(b"\xa0" + node_hash)

    def _load(self, reference: bytes) -> _Node:
        if len(reference) == 33:
            made = self.nodes.get(Hash32(reference[1:]))
            if made is not None:
                return _decode_node(made)
        return _decode_node(_read_reference(self._read, reference))

    def _store(self, node: _Node) -> bytes:
        encoded = _encode_node(node)
        if len(encoded) < 32:
            return encoded
        node_hash = keccak256(encoded)
        self.nodes[node_hash] = encoded
        return b"\xa0" + node_hash

    def apply(self, node: _Node | None, changes: list[_Change], depth: int) -> _Node | None:
        """The node at `depth` after `changes`, which are sorted and concern only its subtree."""
        match node:
            case None:
                return self._build([change for change in changes if change[1]], depth)
            case _Leaf():
                key = changes[0][0][:depth] + node.path
                merged = {key: node.value, **dict(changes)}
                return self._build(sorted(item for item in merged.items() if item[1]), depth)
            case _Extension():
                return self._apply_to_extension(node, changes, depth)
            case _Branch():
                return self._apply_to_branch(node, changes, depth)
            case _:
                assert_never(node)

    def _build(self, entries: list[_Change], depth: int) -> _Node | None:
        """The node of a new subtree of `entries`, which are sorted and have no empty value."""
        if not entries:
            return None
        first, last = entries[0][0], entries[-1][0]
        if len(entries) == 1:
            return _Leaf(first[depth:], entries[0][1])
        end = depth + _common_length(first[depth:], last[depth:])
        children = [_EMPTY] * 16
        for nibble, group in _group(entries, end):
            child = self._build(group, end + 1)
            assert child is not None, "a group has entries"
            children[nibble] = self._store(child)
        branch = _Branch(tuple(children))
        return branch if end == depth else _Extension(first[depth:end], self._store(branch))

    def _apply_to_extension(
        self, node: _Extension, changes: list[_Change], depth: int
    ) -> _Node | None:
        path = node.path
        common = min(_common_length(path, key[depth:]) for key, _ in (changes[0], changes[-1]))
        if common == len(path):
            return self._prepend(path, self.apply(self._load(node.child), changes, depth + common))
        rest = path[common + 1 :]
        children = [_EMPTY] * 16
        children[path[common]] = self._store(_Extension(rest, node.child)) if rest else node.child
        split = self._apply_to_branch(_Branch(tuple(children)), changes, depth + common)
        return self._prepend(path[:common], split)

    def _apply_to_branch(self, node: _Branch, changes: list[_Change], depth: int) -> _Node | None:
        children = list(node.children)
        for nibble, group in _group(changes, depth):
            reference = children[nibble]
            old = None if reference == _EMPTY else self._load(reference)
            new = self.apply(old, group, depth + 1)
            children[nibble] = _EMPTY if new is None else self._store(new)
        live = [nibble for nibble, reference in enumerate(children) if reference != _EMPTY]
        if not live:
            return None
        if len(live) == 1:
            return self._prepend(bytes(live), self._load(children[live[0]]))
        return _Branch(tuple(children))

    def _prepend(self, path: bytes, node: _Node | None) -> _Node | None:
        """The node that leads over `path` to `node`; leaves and extensions absorb the path."""
        if node is None or not path:
            return node
        match node:
            case _Leaf():
                return _Leaf(path + node.path, node.value)
            case _Extension():
                return _Extension(path + node.path, node.child)
            case _Branch():
                return _Extension(path, self._store(node))
            case _:
                assert_never(node)


def _group(changes: list[_Change], depth: int) -> list[tuple[int, list[_Change]]]:
    groups: dict[int, list[_Change]] = {}
    for change in changes:
        groups.setdefault(change[0][depth], []).append(change)
    return list(groups.items())


def _common_length(first: bytes, second: bytes) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


_NIBBLES: Final = tuple(bytes((byte >> 4, byte & 15)) for byte in range(256))
"""The two nibbles of every byte."""


def _to_nibbles(key: bytes) -> bytes:
    return b"".join([_NIBBLES[byte] for byte in key])


def _encode_path(path: bytes, *, is_leaf: bool) -> bytes:
    """The yellow paper's hex-prefix encoding."""
    flag = 0x20 if is_leaf else 0
    if len(path) % 2:
        head, rest = flag | 0x10 | path[0], path[1:]
    else:
        head, rest = flag, path
    return bytes((head,)) + bytes(
        [rest[index] << 4 | rest[index + 1] for index in range(0, len(rest), 2)]
    )


def _encode_node(node: _Node) -> bytes:
    match node:
        case _Leaf():
            payload = _encode_string(_encode_path(node.path, is_leaf=True))
            payload += _encode_string(node.value)
        case _Extension():
            payload = _encode_string(_encode_path(node.path, is_leaf=False)) + node.child
        case _Branch():
            payload = b"".join(node.children) + _EMPTY
        case _:
            assert_never(node)
    return _encode_length(len(payload), 0xC0) + payload


def _encode_string(data: bytes) -> bytes:
    if len(data) == 1 and data[0] < 0x80:
        return data
    return _encode_length(len(data), 0x80) + data


def _encode_length(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes((offset + length,))
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((offset + 55 + len(digits),)) + digits


@lru_cache(maxsize=NODE_CACHE_SIZE)
def _decode_node(encoded: bytes) -> _Node:
    """The node of an encoding that was verified against its hash."""
    start, end = _payload_bounds(encoded, 0)
    items: list[bytes] = []
    while start < end:
        _, item_end = _payload_bounds(encoded, start)
        items.append(encoded[start:item_end])
        start = item_end
    if len(items) == 17:
        if items[16] != _EMPTY:
            raise ValueError("a branch with a value")
        return _Branch(tuple(items[:16]))
    if len(items) != 2:
        raise ValueError("neither a branch nor a short node")
    encoded_path = _string(items[0])
    nibbles = _to_nibbles(encoded_path)
    path = nibbles[1:] if nibbles[0] & 1 else nibbles[2:]
    if nibbles[0] & 2:
        return _Leaf(path, _string(items[1]))
    return _Extension(path, items[1])


def _string(item: bytes) -> bytes:
    start, end = _payload_bounds(item, 0)
    return item[start:end]


def _payload_bounds(data: bytes, start: int) -> tuple[int, int]:
    """Start and end of the payload of the RLP item at `start`."""
    first = data[start]
    if first < 0x80:
        return start, start + 1
    offset = 0x80 if first < 0xC0 else 0xC0
    length = first - offset
    if length < 56:
        return start + 1, start + 1 + length
    begin = start + 1 + length - 55
    return begin, begin + int.from_bytes(data[start + 1 : begin], "big")
