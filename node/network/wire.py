"""The messages of every protocol, as values and as bytes (docs/spec/wire.md, sections 3 to 7).

A message is the canonical RLP list [kind, field, ...]; a frame's limit is checked before a byte
of it is read, a list's before its items are looked at.
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
from node.storage.blobs import MAX_CHUNKS, BlobManifest

PROTOCOL_VERSION: Final = 1
"""Said in every hello; a node refuses another, so that a change of these messages is seen."""

ADDRESS_LIMIT: Final = 16
"""Addresses in one hello or peers message: a machine's own, or a sample of who else is there."""

ADDRESS_LIMIT_BYTES: Final = 256
"""An IPv6 or DNS address with port and peer id takes under 150."""

STATUS_FRAME_LIMIT_BYTES: Final = 8192
"""A hello with ADDRESS_LIMIT addresses of ADDRESS_LIMIT_BYTES, and its fixed fields."""

CONSENSUS_FRAME_LIMIT_BYTES: Final = 2 * BLOCK_LIMIT_BYTES
"""A NEW-VIEW of 100 validators: a full block, and 67 VIEW-CHANGEs with 67 signatures each."""

HASHES_LIMIT: Final = 4096
"""Transaction hashes in one announcement: 128 KiB."""

TRANSACTION_REQUEST_LIMIT: Final = 256
"""Transactions in one request; the answer may hold fewer, of at most 2 MiB together."""

TRANSACTIONS_LIMIT_BYTES: Final = 2**21
"""Raw transactions in one message; at least one transaction of the largest size fits."""

TRANSACTION_FRAME_LIMIT_BYTES: Final = TRANSACTIONS_LIMIT_BYTES + 2**16
"""The raw transactions and their list."""

BLOCK_REQUEST_LIMIT: Final = 256
"""Blocks in one answer, however small."""

BLOCKS_LIMIT_BYTES: Final = 2 * BLOCK_LIMIT_BYTES
"""Bytes after which an answer stops; the requester asks again from where it stopped."""

RECEIPTS_REQUEST_LIMIT: Final = 24
"""Blocks whose receipts are asked for at a time: their numbers fit in a request."""

BLOCK_FRAME_LIMIT_BYTES: Final = BLOCK_LIMIT_BYTES + CERTIFICATE_LIMIT_BYTES + 64
"""One block, its certificate, and their list."""

REQUEST_FRAME_LIMIT_BYTES: Final = 256
"""A request names a range or a content id."""

MANIFEST_FRAME_LIMIT_BYTES: Final = 32 * MAX_CHUNKS + 64
"""The chunk hashes of the largest blob, 16 GiB, and its size."""

CHUNK_FRAME_LIMIT_BYTES: Final = 1 + CHUNK_BYTES
"""A chunk behind the byte that says it is one."""

CHUNK_REQUEST_LIMIT: Final = 16
"""Chunks of one request: 4 MiB hide a round trip of 50 ms at 80 MB/s."""

_ADDRESS = re.compile(
    r"/(ip4/[0-9.]{7,15}|ip6/[0-9a-f:.]{2,45}|dns[46]?/[A-Za-z0-9.-]{1,128})"
    r"/tcp/[0-9]{1,5}/p2p/([1-9A-HJ-NP-Za-km-z]{40,64})"
)


def peer_id_of_address(text: str) -> str | None:
    """The peer id in a full multiaddress, or None if it is not one we can dial."""
    match = _ADDRESS.fullmatch(text)
    return match[2] if match else None


class DisconnectReason(IntEnum):
    """Why a peer is let go, told in the goodbye."""

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
    """Who I am; the first message of both sides."""

    version: int
    chain_id: int
    genesis_hash: Hash32
    head: Head
    nonce: Hash32
    """Random; the other side's proof signs it."""
    addresses: tuple[str, ...]
    """Where I listen."""


@dataclass(frozen=True, slots=True)
class ValidatorProof:
    """That this peer id belongs to a validator; the second message of both sides."""

    claim: tuple[Address, Signature] | None
    """None from a node that is no validator."""


@dataclass(frozen=True, slots=True)
class Ping:
    """I am alive, and this is my head."""

    sequence: int
    head: Head


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Peers:
    """Addresses of nodes I am connected to."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last message of a side that leaves."""

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
    """I hold these."""

    hashes: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class RequestTransactions:
    """Send me these; the answer is one TransactionBatch."""

    hashes: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class TransactionBatch:
    """Those of the requested transactions that I still hold and that fit."""

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
    """Blocks first_number .. first_number + count - 1, each with the certificate that commits it.

    The answer is one frame [block, certificate] for each, then an empty frame.
    """

    first_number: BlockNumber
    count: int


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """As RequestBlocks, with headers in the place of blocks.

    A certificate is empty if it is not held: headers also come from below a snapshot, and hash up
    to one that is certified.
    """

    first_number: BlockNumber
    count: int


@dataclass(frozen=True, slots=True)
class RequestBlockByHash:
    """A block that may not be committed yet; the answer is one frame, empty if it is not held."""

    hash: Hash32


@dataclass(frozen=True, slots=True)
class RequestReceipts:
    """The receipts of these blocks; a frame [receipt, ...] for each, then an empty frame."""

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
    """The frame that says: nothing below this block is held here."""
    return codec.encode([number])


def decode_first_held(frame: bytes) -> BlockNumber | None:
    """The block of such a frame; None if it is another frame.

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
    """Do you hold this blob? The answer is one frame, 0x01 if it is held and else empty."""

    content_id: Hash32


@dataclass(frozen=True, slots=True)
class RequestManifest:
    """What are its chunks? The answer is one manifest frame, empty if it is not held."""

    content_id: Hash32


@dataclass(frozen=True, slots=True)
class RequestChunks:
    """Chunks first_index .. first_index + count - 1; the answer is a frame 0x01 || chunk for each.

    An empty frame in the place of a chunk says that it is not held (any more) and ends the answer.
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
    """The frame of a manifest; the hashes are one byte string."""
    return codec.encode([manifest.size_bytes, b"".join(manifest.leaves)])


def decode_manifest(frame: bytes, content_id: Hash32) -> BlobManifest:
    """The manifest of the blob `content_id`.

    Raises:
        RejectedInputError: TOO_LARGE, MALFORMED, or CONTENT_MISMATCH if it is another blob's.
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
