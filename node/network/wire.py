"""The messages of every protocol, as values and as bytes (docs/spec/wire.md, sections 3 to 7).

A message is the canonical RLP list [kind, field, ...]. The limit of a frame is checked before its
payload is read, that of a list before its items are decoded.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chain import codec
from chain.crypto import CHUNK_BYTES
from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, Signature
from chain.types.block import BLOCK_ITEMS_LIMIT, BLOCK_LIMIT_BYTES, TRANSACTION_LIMIT_BYTES
from chain.types.certificate import CERTIFICATE_LIMIT_BYTES
from chain.types.receipt import RECEIPTS_LIMIT_BYTES
from node.storage.blob_manifest import MAX_CHUNKS, BlobManifest, compute_chunk_count

PROTOCOL_VERSION: Final = 3
"""The version in every hello; a node refuses peers with another one."""

ADDRESS_LIMIT: Final = 16
"""Addresses in one hello (the sender's own) or peers message (a sample of its peers')."""

ADDRESS_LIMIT_BYTES: Final = 256
"""Bytes of one address; an IPv6 or DNS address with port and peer id takes under 150."""

STATUS_FRAME_LIMIT_BYTES: Final = 8192
"""A hello with ADDRESS_LIMIT addresses of ADDRESS_LIMIT_BYTES, and its fixed fields."""

CONSENSUS_FRAME_LIMIT_BYTES: Final = 2 * BLOCK_LIMIT_BYTES
"""A NEW-VIEW of 100 validators: a full block, and 67 VIEW-CHANGEs with 67 signatures each."""

HASHES_LIMIT: Final = 4096
"""Transaction hashes in one announcement: 128 KiB."""

TRANSACTION_REQUEST_LIMIT: Final = 256
"""Transactions in one request; the answer may hold fewer, of at most 2 MiB together."""

TRANSACTIONS_LIMIT_BYTES: Final = 2**21
"""Bytes of the raw transactions in one message; one of the largest size always fits."""

TRANSACTION_FRAME_LIMIT_BYTES: Final = TRANSACTIONS_LIMIT_BYTES + 2**16
"""The raw transactions and the list around them."""

BLOCK_REQUEST_LIMIT: Final = 256
"""Blocks in one answer, however small."""

BLOCKS_LIMIT_BYTES: Final = 2 * BLOCK_LIMIT_BYTES
"""Bytes after which an answer ends, if it has a frame; the requester asks again from there."""

RECEIPTS_REQUEST_LIMIT: Final = 24
"""Blocks in one request for receipts: as many numbers as REQUEST_FRAME_LIMIT_BYTES holds."""

BLOCK_FRAME_LIMIT_BYTES: Final = BLOCK_LIMIT_BYTES + CERTIFICATE_LIMIT_BYTES + 64
"""One block, its certificate, and the list around them."""

RECEIPTS_FRAME_LIMIT_BYTES: Final = RECEIPTS_LIMIT_BYTES
"""The receipts of one block."""

REQUEST_FRAME_LIMIT_BYTES: Final = 256
"""A request names a range or a content id."""

MAX_BLOB_BYTES: Final = MAX_CHUNKS * CHUNK_BYTES
"""The size of the largest blob, 16 GiB."""

MANIFEST_FRAME_LIMIT_BYTES: Final = 32 * MAX_CHUNKS + 64
"""The chunk hashes of the largest blob, and its size."""

CHUNK_FRAME_LIMIT_BYTES: Final = 1 + CHUNK_BYTES
"""A chunk after its marker byte."""

CHUNK_REQUEST_LIMIT: Final = 16
"""Chunks in one request: 4 MiB keep an 80 MB/s line busy during a round trip of 50 ms."""

_ADDRESS = re.compile(
    r"/(ip4/[0-9.]{7,15}|ip6/[0-9a-f:.]{2,45}|dns[46]?/[A-Za-z0-9.-]{1,128})"
    r"/tcp/[0-9]{1,5}/p2p/([1-9A-HJ-NP-Za-km-z]{40,64})"
)


def peer_id_of_address(text: str) -> str | None:
    """The peer id in a full multiaddress; None if the text is not one that can be dialled."""
    match = _ADDRESS.fullmatch(text)
    return match[2] if match else None


class DisconnectReason(IntEnum):
    """Why a session ends or is refused, as the goodbye tells it."""

    SHUTTING_DOWN = 0
    WRONG_CHAIN = 1
    TOO_MANY_PEERS = 2
    DUPLICATE = 3
    MISBEHAVIOUR = 4
    SILENT = 5


@dataclass(frozen=True, slots=True)
class Head:
    """A node's highest finalized block."""

    number: BlockNumber
    hash: Hash32


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of both sides: chain, version, head and addresses of its sender."""

    version: int
    chain_id: int
    genesis_hash: Hash32
    head: Head
    nonce: Hash32
    """Random; the proof of the other side signs it."""
    addresses: tuple[str, ...]
    """The addresses at which the sender listens."""


@dataclass(frozen=True, slots=True)
class ValidatorProof:
    """The second message of both sides: the proof that the peer id is a validator's."""

    claim: tuple[Address, Signature] | None
    """The validator and its signature; None from a non-validator."""


@dataclass(frozen=True, slots=True)
class Ping:
    """The sender is alive, and tells its head."""

    sequence: int
    head: Head


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Peers:
    """Addresses of nodes that the sender has a session with."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last message of a side that ends the session."""

    reason: DisconnectReason


StatusMessage = Hello | ValidatorProof | Ping | Pong | Peers | Goodbye


def encode_status(message: StatusMessage) -> bytes:
    """The frame of a status message."""
    match message:
        case Hello(version, chain_id, genesis_hash, head, nonce, addresses):
            encoded = [address.encode() for address in addresses]
            return codec.encode(
                [0, version, chain_id, genesis_hash, head.number, head.hash, nonce, encoded]
            )
        case ValidatorProof(claim):
            return codec.encode([1, *(claim or (b"", b""))])
        case Ping(sequence, head):
            return codec.encode([2, sequence, head.number, head.hash])
        case Pong(sequence):
            return codec.encode([3, sequence])
        case Peers(addresses):
            return codec.encode([4, [address.encode() for address in addresses]])
        case Goodbye(reason):
            return codec.encode([5, reason])


def decode_status(frame: bytes) -> StatusMessage:
    """The message of a status frame.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    kind, fields = _decode_message(frame, STATUS_FRAME_LIMIT_BYTES)
    match kind, len(fields):
        case 0, 7:
            return Hello(
                version=codec.as_uint(fields[0], bits=32),
                chain_id=codec.as_uint(fields[1], bits=256),
                genesis_hash=_hash32(fields[2]),
                head=_head(fields[3], fields[4]),
                nonce=_hash32(fields[5]),
                addresses=_addresses(fields[6]),
            )
        case 1, 2:
            if fields == [b"", b""]:
                return ValidatorProof(None)
            address = Address(codec.as_bytes(fields[0], length=20))
            return ValidatorProof((address, Signature(codec.as_bytes(fields[1], length=65))))
        case 2, 3:
            return Ping(codec.as_uint(fields[0], bits=64), _head(fields[1], fields[2]))
        case 3, 1:
            return Pong(codec.as_uint(fields[0], bits=64))
        case 4, 1:
            return Peers(_addresses(fields[0]))
        case 5, 1:
            try:
                return Goodbye(DisconnectReason(codec.as_uint(fields[0], bits=8)))
            except ValueError as error:
                raise InvalidMessage(RejectionReason.MALFORMED, "unknown reason") from error
        case _:
            raise _unknown(kind)


@dataclass(frozen=True, slots=True)
class AnnounceTransactions:
    """The sender holds these transactions."""

    hashes: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class RequestTransactions:
    """A request for transactions; the answer is one TransactionBatch."""

    hashes: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class TransactionBatch:
    """The requested transactions that the sender still holds, as many as fit in one frame."""

    transactions: tuple[bytes, ...]
    """Signed, in their EIP-2718 encoding."""


TransactionMessage = AnnounceTransactions | RequestTransactions | TransactionBatch


def encode_transaction_message(message: TransactionMessage) -> bytes:
    """The frame of a transaction message."""
    match message:
        case AnnounceTransactions(hashes):
            return codec.encode([0, list(hashes)])
        case RequestTransactions(hashes):
            return codec.encode([1, list(hashes)])
        case TransactionBatch(transactions):
            return codec.encode([2, list(transactions)])


def decode_transaction_message(frame: bytes) -> TransactionMessage:
    """The message of a transaction frame.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    kind, fields = _decode_message(frame, TRANSACTION_FRAME_LIMIT_BYTES)
    match kind, fields:
        case 0, [hashes]:
            return AnnounceTransactions(_hashes(hashes, HASHES_LIMIT))
        case 1, [hashes]:
            return RequestTransactions(_hashes(hashes, TRANSACTION_REQUEST_LIMIT))
        case 2, [batch]:
            return TransactionBatch(
                tuple(
                    codec.as_bytes(raw, max_length=TRANSACTION_LIMIT_BYTES)
                    for raw in codec.as_list(batch, max_length=TRANSACTION_REQUEST_LIMIT)
                )
            )
        case _:
            raise _unknown(kind)


@dataclass(frozen=True, slots=True)
class RequestBlocks:
    """A request for blocks first_number .. first_number + count - 1 with their certificates.

    The answer is one frame [block, certificate] for each, then an empty frame.
    """

    first_number: BlockNumber
    count: int


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """As RequestBlocks, with headers instead of blocks.

    A certificate is empty if the peer does not hold it: a node that began with a snapshot has
    headers below it without certificates, linked by hash to a certified one.
    """

    first_number: BlockNumber
    count: int


@dataclass(frozen=True, slots=True)
class RequestBlockByHash:
    """A request for one block, final or not; the answer is one frame, empty if it is not held."""

    hash: Hash32


@dataclass(frozen=True, slots=True)
class RequestReceipts:
    """A request for receipts; the answer is a frame [receipt, ...] a block, then an empty frame."""

    numbers: tuple[BlockNumber, ...]


BlocksRequest = RequestBlocks | RequestHeaders | RequestBlockByHash | RequestReceipts


def encode_blocks_request(request: BlocksRequest) -> bytes:
    """The frame of a request for blocks."""
    match request:
        case RequestBlocks(first_number, count):
            return codec.encode([0, first_number, count])
        case RequestHeaders(first_number, count):
            return codec.encode([1, first_number, count])
        case RequestBlockByHash(block_hash):
            return codec.encode([2, block_hash])
        case RequestReceipts(numbers):
            return codec.encode([3, list(numbers)])


def decode_blocks_request(frame: bytes) -> BlocksRequest:
    """The request of a frame.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    kind, fields = _decode_message(frame, REQUEST_FRAME_LIMIT_BYTES)
    match kind, fields:
        case ((0 | 1), [first_number, count]):
            request_type = RequestHeaders if kind else RequestBlocks
            return request_type(
                BlockNumber(codec.as_uint(first_number, bits=64)), codec.as_uint(count, bits=16)
            )
        case 2, [block_hash]:
            return RequestBlockByHash(_hash32(block_hash))
        case 3, [numbers]:
            items = codec.as_list(numbers, max_length=RECEIPTS_REQUEST_LIMIT)
            return RequestReceipts(
                tuple(BlockNumber(codec.as_uint(item, bits=64)) for item in items)
            )
        case _:
            raise _unknown(kind)


def encode_certified(encoded_block: bytes, encoded_certificate: bytes) -> bytes:
    """The frame of a block or header with its certificate, both already encoded."""
    return codec.encode([encoded_block, encoded_certificate])


def encode_first_held(number: BlockNumber) -> bytes:
    """The frame that tells the lowest block from which on all are held."""
    return codec.encode([number])


def decode_first_held(frame: bytes) -> BlockNumber | None:
    """The number in a frame of `encode_first_held`; None if it is another frame.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    if len(frame) > 16:
        return None
    item = codec.decode(frame, limit_bytes=16)
    return BlockNumber(codec.as_uint(codec.as_list(item, length=1)[0], bits=64))


def decode_certified(frame: bytes) -> tuple[bytes, bytes]:
    """The encoded block or header, and the encoded certificate, of a frame.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    item = codec.decode(frame, limit_bytes=BLOCK_FRAME_LIMIT_BYTES, limit_items=BLOCK_ITEMS_LIMIT)
    block, certificate = codec.as_list(item, length=2)
    return codec.as_bytes(block), codec.as_bytes(certificate)


@dataclass(frozen=True, slots=True)
class RequestHave:
    """Asks whether a blob is held; the answer is one frame, 0x01 if it is and else empty."""

    content_id: Hash32


@dataclass(frozen=True, slots=True)
class RequestManifest:
    """Asks for a manifest; the answer is one frame, empty if the blob is not held."""

    content_id: Hash32


@dataclass(frozen=True, slots=True)
class RequestChunks:
    """Asks for chunks first_index .. first_index + count - 1; the answer is 0x01 || chunk for each.

    An empty frame instead of a chunk means that it is not held, and ends the answer.
    """

    content_id: Hash32
    first_index: int
    count: int


BlobRequest = RequestHave | RequestManifest | RequestChunks


def encode_blob_request(request: BlobRequest) -> bytes:
    """The frame of a request for a blob."""
    match request:
        case RequestHave(content_id):
            return codec.encode([0, content_id])
        case RequestManifest(content_id):
            return codec.encode([1, content_id])
        case RequestChunks(content_id, first_index, count):
            return codec.encode([2, content_id, first_index, count])


def decode_blob_request(frame: bytes) -> BlobRequest:
    """The request of a frame.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    kind, fields = _decode_message(frame, REQUEST_FRAME_LIMIT_BYTES)
    match kind, fields:
        case 0, [content_id]:
            return RequestHave(_hash32(content_id))
        case 1, [content_id]:
            return RequestManifest(_hash32(content_id))
        case 2, [content_id, first_index, count_item]:
            count = codec.as_uint(count_item, bits=16)
            if not 1 <= count <= CHUNK_REQUEST_LIMIT:
                raise InvalidMessage(RejectionReason.MALFORMED, f"{count} chunks at a time")
            return RequestChunks(_hash32(content_id), codec.as_uint(first_index, bits=32), count)
        case _:
            raise _unknown(kind)


def encode_manifest(manifest: BlobManifest) -> bytes:
    """The frame of a manifest; all hashes form one byte string."""
    return codec.encode([manifest.size_bytes, b"".join(manifest.leaves)])


def compute_manifest_frame_limit(size_limit: int) -> int:
    """The longest frame of a manifest of a blob of so many bytes."""
    return min(MANIFEST_FRAME_LIMIT_BYTES, 32 * compute_chunk_count(size_limit) + 64)


def decode_manifest(frame: bytes, content_id: Hash32) -> BlobManifest:
    """The manifest of the blob `content_id`.

    Raises:
        RejectedInputError: TOO_LARGE, MALFORMED, or CONTENT_MISMATCH if it is of another blob.
    """
    item = codec.decode(frame, limit_bytes=MANIFEST_FRAME_LIMIT_BYTES)
    size_item, hashes_item = codec.as_list(item, length=2)
    hashes = codec.as_bytes(hashes_item)
    if len(hashes) % 32:
        raise InvalidMessage(RejectionReason.MALFORMED, "chunk hashes of 32 bytes each")
    manifest = BlobManifest(
        codec.as_uint(size_item, bits=64),
        tuple(Hash32(hashes[start : start + 32]) for start in range(0, len(hashes), 32)),
    )
    if manifest.content_id != content_id:
        raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "the manifest of another blob")
    return manifest


def _decode_message(frame: bytes, limit_bytes: int) -> tuple[int, list[codec.Item]]:
    items = codec.as_list(codec.decode(frame, limit_bytes=limit_bytes), max_length=8)
    if not items:
        raise InvalidMessage(RejectionReason.MALFORMED, "a message without a kind")
    return codec.as_uint(items[0], bits=8), items[1:]


def _unknown(kind: int) -> RejectedInputError:
    return InvalidMessage(RejectionReason.MALFORMED, f"no message of kind {kind} and this shape")


def _hash32(item: codec.Item) -> Hash32:
    return Hash32(codec.as_bytes(item, length=32))


def _hashes(item: codec.Item, limit: int) -> tuple[Hash32, ...]:
    return tuple(_hash32(entry) for entry in codec.as_list(item, max_length=limit))


def _head(number: codec.Item, block_hash: codec.Item) -> Head:
    return Head(BlockNumber(codec.as_uint(number, bits=64)), _hash32(block_hash))


def _addresses(item: codec.Item) -> tuple[str, ...]:
    addresses = []
    for entry in codec.as_list(item, max_length=ADDRESS_LIMIT):
        data = codec.as_bytes(entry, max_length=ADDRESS_LIMIT_BYTES)
        address = data.decode("ascii", errors="replace")
        if peer_id_of_address(address) is None:
            raise InvalidMessage(RejectionReason.MALFORMED, "not a dialable multiaddress")
        addresses.append(address)
    return tuple(addresses)
