"""Hashes, signatures and content ids (docs/spec/wire.md, section 2).

Keccak-256 and secp256k1 are Ethereum's; a content id is SHA-256 over the size of a blob and the
Merkle root (RFC 6962) of its chunks.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import coincurve
from eth_hash.auto import keccak as _keccak

from chain.primitives import Address, Hash32, PrivateKey, Signature

SECP256K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The number of points of the curve. Both s and order - s verify, so the higher one is refused."""

CHUNK_BYTES: Final = 2**18
"""256 KiB: the size of a leaf of a content id, and of one blob response."""

_CONTENT_TAG: Final = b"\x02"
"""What a content id is the hash of begins with this; a leaf begins with 0, a node with 1."""


def keccak256(data: bytes) -> Hash32:
    """Ethereum's Keccak-256 of `data`."""
    return Hash32(_keccak(data))


def sha256(data: bytes) -> Hash32:
    """SHA-256 of `data`."""
    return Hash32(hashlib.sha256(data).digest())


def sign(digest: Hash32, private_key: PrivateKey) -> Signature:
    """The deterministic (RFC 6979), low-s, recoverable signature of `digest`."""
    key = coincurve.PrivateKey(private_key)
    return Signature(key.sign_recoverable(digest, hasher=None))


def recover(digest: Hash32, signature: bytes) -> Address | None:
    """The account that signed `digest`, or None if the signature is not canonical.

    Refuses a high s, a parity other than 0 or 1, and any length but 65 bytes, so that a signer
    has only one valid signature for a digest (rule S1).
    """
    if len(signature) != 65 or signature[64] > 1:
        return None
    if int.from_bytes(signature[32:64], "big") > SECP256K1_ORDER // 2:
        return None
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception:  # noqa: BLE001 - the library raises bare Exception on a bad point
        return None
    return public_key_to_address(key.format(compressed=False))


def public_key_to_address(uncompressed: bytes) -> Address:
    """The account of an uncompressed (65-byte) public key."""
    return Address(keccak256(uncompressed[1:])[12:])


def get_address(private_key: PrivateKey) -> Address:
    """The account of `private_key`."""
    return public_key_to_address(
        coincurve.PrivateKey(private_key).public_key.format(compressed=False)
    )


def merkle_leaf(data: bytes) -> Hash32:
    """RFC 6962's leaf hash: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data)


def merkle_node(left: bytes, right: bytes) -> Hash32:
    """RFC 6962's node hash: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right)


def merkle_root(leaves: Sequence[Hash32]) -> Hash32:
    """RFC 6962's tree hash over leaf hashes; SHA-256 of no bytes if there are no leaves."""
    if not leaves:
        return sha256(b"")
    level = list(leaves)
    # Pairing left to right and carrying an odd last node up gives RFC 6962's split at the
    # largest power of two below n.
    while len(level) > 1:
        paired = [merkle_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def merkle_path(leaves: Sequence[Hash32], index: int) -> tuple[Hash32, ...]:
    """RFC 6962's audit path of leaf `index`: the siblings on the way up to the root."""
    assert 0 <= index < len(leaves)
    if len(leaves) == 1:
        return ()
    split = _split(len(leaves))
    if index < split:
        return (*merkle_path(leaves[:split], index), merkle_root(leaves[split:]))
    return (*merkle_path(leaves[split:], index - split), merkle_root(leaves[:split]))


def merkle_root_of_path(
    leaf: Hash32, path: Sequence[Hash32], index: int, count: int
) -> Hash32 | None:
    """The tree hash that an audit path leads to; None if its length is wrong for this leaf.

    Args:
        leaf: The leaf hash.
        path: The siblings, as `merkle_path` returns them.
        index: The leaf's index, below `count`.
        count: The number of leaves of the tree.
    """
    if count == 1 or not path:
        return leaf if count == 1 and not path else None
    split = _split(count)
    if index < split:
        left = merkle_root_of_path(leaf, path[:-1], index, split)
        return None if left is None else merkle_node(left, path[-1])
    right = merkle_root_of_path(leaf, path[:-1], index - split, count - split)
    return None if right is None else merkle_node(path[-1], right)


def _split(count: int) -> int:
    """RFC 6962's k: the largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def chunk_hashes(data: bytes | memoryview) -> tuple[Hash32, ...]:
    """The leaf hash of every 256 KiB chunk of `data`; one leaf if `data` is empty."""
    view = memoryview(data)
    starts = range(0, max(len(view), 1), CHUNK_BYTES)
    return tuple(merkle_leaf(bytes(view[start : start + CHUNK_BYTES])) for start in starts)


def content_id(data: bytes | memoryview) -> Hash32:
    """The content id of a blob."""
    return content_id_of_chunks(memoryview(data).nbytes, chunk_hashes(data))


def content_id_of_chunks(size_bytes: int, leaves: Sequence[Hash32]) -> Hash32:
    """The content id of a blob from its size and chunk hashes: SHA-256(0x02 || size || root).

    The root alone would fix neither the size nor the number of chunks, because an inner node may
    be given as a leaf. With the size, no two blobs and no two manifests have one content id.
    """
    return sha256(_CONTENT_TAG + size_bytes.to_bytes(8, "big") + merkle_root(leaves))
