"""/pot/blocks/1: finalized blocks and headers by range (docs/spec/wire.md, section 6).

Answers are only decoded here: the caller must verify that a block follows from its parent and that
the certificate makes it final.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import trio

from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import BlockNumber, Hash32
from chain.types.block import BLOCK_LIMIT_BYTES, Block, decode_block
from chain.types.certificate import CommitCertificate, decode_certificate
from chain.types.header import Header, decode_header
from chain.types.receipt import Receipt, decode_receipts
from node.network.budget import TokenBucket
from node.network.metrics import NetworkMetrics
from node.network.stream import FrameStream, UnreachablePeerError
from node.network.wire import (
    BLOCK_FRAME_LIMIT_BYTES,
    BLOCK_REQUEST_LIMIT,
    BLOCKS_LIMIT_BYTES,
    RECEIPTS_FRAME_LIMIT_BYTES,
    RECEIPTS_REQUEST_LIMIT,
    REQUEST_FRAME_LIMIT_BYTES,
    BlocksRequest,
    RequestBlockByHash,
    RequestBlocks,
    RequestHeaders,
    RequestReceipts,
    decode_blocks_request,
    decode_certified,
    decode_first_held,
    encode_blocks_request,
    encode_certified,
    encode_first_held,
)

PROTOCOL_ID: Final = "/pot/blocks/1"
"""The opener of a stream sends any number of requests, one after the other."""

BYTES_PER_SECOND: Final = 16.0 * 2**20
"""Bytes a second that one stream is served; execution limits a syncing node much earlier."""

REQUESTS_PER_SECOND: Final = 20.0
"""Requests a second of one stream, however small the answers."""

DECODERS: Final = 2
"""The most answers that are decoded at the same time. Their threads share the interpreter with the
one of consensus, and there are more peers than it could share it with."""

T = TypeVar("T")

_DECODERS: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("decoders of blocks")

WRITE_FRAMES: Final = 16
"""Small frames sent in one write; other streams get their turn between two writes."""

WRITE_BYTES: Final = 2**16
"""A frame of at least this size is sent without waiting for more."""


class BlockSource(Protocol):
    """Finalized blocks, and blocks that may become final, in their stored encoding."""

    def encoded_block(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        """A finalized block and the certificate that makes it final."""

    def encoded_header(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        """A finalized block's header and its certificate, which is empty if it is not held."""

    def encoded_receipts(self, number: BlockNumber) -> bytes | None:
        """The receipts of a finalized block."""

    def first_held(self) -> BlockNumber:
        """The lowest block from which on all are held: 0 unless the node began with a snapshot."""

    def find_block(self, block_hash: Hash32) -> bytes | None:
        """The block with this hash, finalized or not; None if it is not held."""


class HistoryNotHeldError(UnreachablePeerError):
    """The peer began with a snapshot above the requested blocks; that breaks no rule."""


async def serve(stream: FrameStream, source: BlockSource, metrics: NetworkMetrics) -> None:
    """Answer the requests of a peer until it closes the stream.

    Raises:
        RejectedInputError: A request breaks the rules.
        StreamClosedError: The peer left.
    """
    requests = TokenBucket(per_second=REQUESTS_PER_SECOND, burst=2 * REQUESTS_PER_SECOND)
    volume = TokenBucket(per_second=BYTES_PER_SECOND, burst=2 * BYTES_PER_SECOND)
    while True:
        request = decode_blocks_request(await stream.read_frame(REQUEST_FRAME_LIMIT_BYTES))
        await requests.take(1)
        if isinstance(request, RequestBlockByHash):
            await stream.write_frame(source.find_block(request.hash) or b"")
            continue
        room = BLOCKS_LIMIT_BYTES
        if isinstance(request, RequestBlocks) and request.first_number < source.first_held():
            await stream.write_frames([encode_first_held(source.first_held()), b""])
            continue
        waiting: list[bytes] = []
        for position, number in enumerate(_list_numbers(request)):
            frame = _load(request, number, source)
            if frame is None or (position and len(frame) > room):
                break
            room -= len(frame)
            await volume.take(len(frame))
            waiting.append(frame)
            metrics.blocks_served += 1
            if len(waiting) == WRITE_FRAMES or len(frame) >= WRITE_BYTES:
                await stream.write_frames(waiting)
                waiting = []
        await stream.write_frames([*waiting, b""])


_RangeRequest = RequestBlocks | RequestHeaders | RequestReceipts


def _list_numbers(request: _RangeRequest) -> Sequence[BlockNumber]:
    if isinstance(request, RequestReceipts):
        return request.numbers
    first, count = request.first_number, min(request.count, BLOCK_REQUEST_LIMIT)
    return [BlockNumber(number) for number in range(first, first + count)]


def _load(request: _RangeRequest, number: BlockNumber, source: BlockSource) -> bytes | None:
    if isinstance(request, RequestReceipts):
        return source.encoded_receipts(number)
    is_header = isinstance(request, RequestHeaders)
    pair = source.encoded_header(number) if is_header else source.encoded_block(number)
    return None if pair is None else encode_certified(*pair)


async def request_blocks(
    stream: FrameStream, first_number: BlockNumber, count: int
) -> tuple[tuple[Block, CommitCertificate], ...]:
    """Blocks from `first_number` on, each with its certificate; fewer if the peer has no more.

    Raises:
        HistoryNotHeldError: The peer began with a snapshot above these blocks.
        InvalidMessage: CONTENT_MISMATCH. The answer holds other blocks than requested.
        RejectedInputError: TOO_LARGE or MALFORMED.
        StreamClosedError: The peer left.
    """
    request = RequestBlocks(first_number, min(count, BLOCK_REQUEST_LIMIT))
    frames = await _ask(stream, request, request.count)
    first_held = decode_first_held(frames[0]) if len(frames) == 1 else None
    if first_held is not None and first_held > first_number:
        raise HistoryNotHeldError(f"blocks below {first_held} are not held there")
    return await _decode(lambda: _decode_blocks(frames, first_number))


async def request_headers(
    stream: FrameStream, first_number: BlockNumber, count: int
) -> tuple[tuple[Header, CommitCertificate | None], ...]:
    """Headers from `first_number` on, each with its block's certificate if the peer holds that.

    Raises:
        InvalidMessage: CONTENT_MISMATCH. The answer holds other headers than requested.
        RejectedInputError: TOO_LARGE or MALFORMED.
        StreamClosedError: The peer left.
    """
    request = RequestHeaders(first_number, min(count, BLOCK_REQUEST_LIMIT))
    frames = await _ask(stream, request, request.count)
    return await _decode(lambda: _decode_headers(frames, first_number))


async def request_receipts(
    stream: FrameStream, numbers: Sequence[BlockNumber]
) -> tuple[tuple[Receipt, ...], ...]:
    """The receipts of these blocks, unverified; only of the first ones if not all fit.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
        StreamClosedError: The peer left.
    """
    request = RequestReceipts(tuple(numbers[:RECEIPTS_REQUEST_LIMIT]))
    frames = await _ask(stream, request, len(request.numbers))
    return await _decode(lambda: tuple(decode_receipts(frame) for frame in frames))


async def request_block_by_hash(stream: FrameStream, block_hash: Hash32) -> Block | None:
    """The block with this hash; None if the peer does not hold it.

    Raises:
        InvalidMessage: CONTENT_MISMATCH. The answer is another block.
        RejectedInputError: TOO_LARGE or MALFORMED.
        StreamClosedError: The peer left.
    """
    await stream.write_frame(encode_blocks_request(RequestBlockByHash(block_hash)))
    frame = await stream.read_frame(BLOCK_LIMIT_BYTES)
    if not frame:
        return None
    block = await _decode(lambda: decode_block(frame))
    if block.hash != block_hash:
        raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "another block than asked for")
    return block


async def _ask(stream: FrameStream, request: BlocksRequest, count: int) -> list[bytes]:
    """The frames of an answer, refused beyond `count` frames or BLOCKS_LIMIT_BYTES."""
    await stream.write_frame(encode_blocks_request(request))
    is_receipts = isinstance(request, RequestReceipts)
    limit_bytes = RECEIPTS_FRAME_LIMIT_BYTES if is_receipts else BLOCK_FRAME_LIMIT_BYTES
    frames: list[bytes] = []
    room = BLOCKS_LIMIT_BYTES
    while frame := await stream.read_frame(limit_bytes):
        room -= len(frame)
        frames.append(frame)
        if len(frames) > count or (room < 0 and len(frames) > 1):
            raise InvalidMessage(RejectionReason.TOO_LARGE, "more than was asked for")
    return frames


async def _decode(decode: Callable[[], T]) -> T:
    """The result of `decode`, computed in a thread.

    An answer of 8 MiB, which any peer that claims a higher head may send, takes seconds.
    """
    try:
        threads = _DECODERS.get()
    except LookupError:
        threads = trio.CapacityLimiter(DECODERS)
        _DECODERS.set(threads)
    return await trio.to_thread.run_sync(decode, limiter=threads)


def _decode_blocks(
    frames: Sequence[bytes], first_number: int
) -> tuple[tuple[Block, CommitCertificate], ...]:
    answer = []
    for number, frame in enumerate(frames, first_number):
        block_bytes, certificate_bytes = decode_certified(frame)
        block = decode_block(block_bytes)
        _check_number(block.number, number)
        answer.append((block, decode_certificate(certificate_bytes)))
    return tuple(answer)


def _decode_headers(
    frames: Sequence[bytes], first_number: int
) -> tuple[tuple[Header, CommitCertificate | None], ...]:
    answer = []
    for number, frame in enumerate(frames, first_number):
        header_bytes, certificate_bytes = decode_certified(frame)
        header = decode_header(header_bytes)
        _check_number(header.number, number)
        certificate = decode_certificate(certificate_bytes) if certificate_bytes else None
        answer.append((header, certificate))
    return tuple(answer)


def _check_number(number: int, expected: int) -> None:
    if number != expected:
        raise InvalidMessage(
            RejectionReason.CONTENT_MISMATCH, f"block {number} in the place of block {expected}"
        )
