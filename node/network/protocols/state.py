"""/pot/state/1: the state of a final block in chunks, and what tasks add (docs/spec/wire.md, 9).

Nothing here is believed: a chunk proves itself against a state root, a node is its hash, and what
is told of a task hashes to what the contracts hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from chain import codec
from chain.crypto import keccak256
from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.state.walk import POSITION_LIMIT_BYTES, VerifiedChunk, verify_chunk
from node.network.budget import TokenBucket
from node.network.stream import FrameStream

PROTOCOL_ID: Final = "/pot/state/1"
"""Opened by the side that asks; any number of requests, one after the other."""

CHUNK_BYTES: Final = 2**19
"""Nodes and code of one chunk: some 2 000 reads, so a reader holds the database for 20 ms."""

ITEM_LIMIT_BYTES: Final = 2**19
"""One node, or the code of one contract: the genesis file may hold more than EIP-170 lets in."""

FRAME_LIMIT_BYTES: Final = CHUNK_BYTES + ITEM_LIMIT_BYTES + 2**17
"""A chunk whose last item is the largest, the nodes above its first one, and their list."""

ITEMS_LIMIT: Final = 2**15
"""Items of one chunk: none is shorter than 32 bytes."""

NODES_LIMIT: Final = 384
"""Trie nodes asked for at a time: a branch has at most 533 bytes."""

NODES_REQUEST_LIMIT_BYTES: Final = 33 * NODES_LIMIT + 16
"""A request that names them all."""

RECORDS_LIMIT: Final = 16
"""Tasks asked for at a time."""

RECORD_LIMIT_BYTES: Final = 2**22
"""A specification of 16 KiB, and 100 000 accounts with what they earned."""

BYTES_PER_SECOND: Final = 32.0 * 2**20
"""What all peers together are served; each one's limit is in node/network/limits.py."""

READERS_LIMIT: Final = 2
"""Answers read from the database at a time."""

_CHUNK: Final = 0
_NODES: Final = 1
_RECORDS: Final = 2


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What the contracts hold of a task by its hash alone."""

    spec: bytes
    rewards: tuple[tuple[Address, int], ...]
    """What each account had earned in all as of the block, by ascending address."""


class StateSource(Protocol):
    """What a node serves of its state; every method may be called from a thread."""

    def state_chunk(
        self, number: BlockNumber, start: bytes, end: bytes, limit_bytes: int
    ) -> tuple[bytes, ...] | None:
        """Items of the state after a block (chain.execution.state_walk); None if not held."""

    def state_nodes(self, hashes: Sequence[Hash32], limit_bytes: int) -> tuple[bytes, ...]:
        """The nodes or code of these hashes, empty where one is not held or has no room."""

    def task_records(
        self, number: BlockNumber, first: TaskId, count: int
    ) -> tuple[TaskRecord, ...] | None:
        """What the tasks from `first` on were as of a block; None if that is not known."""


class StateServer:
    """Serves all peers together within bounds: of bytes, and of readers of the database."""

    def __init__(self, source: StateSource) -> None:
        self._source = source
        self._volume = TokenBucket(per_second=BYTES_PER_SECOND, burst=BYTES_PER_SECOND)
        self._readers = trio.CapacityLimiter(READERS_LIMIT)

    async def serve(self, stream: FrameStream) -> None:
        """Answer a peer's requests until it closes the stream.

        Raises:
            RejectedInputError: a request that breaks the rules.
            StreamClosedError: the peer left.
        """
        while True:
            frame = await stream.read_frame(NODES_REQUEST_LIMIT_BYTES)
            answer = await trio.to_thread.run_sync(self._answer, frame, limiter=self._readers)
            await self._volume.take(len(answer))
            await stream.write_frame(answer)

    def _answer(self, frame: bytes) -> bytes:
        request = codec.as_list(codec.decode(frame, limit_bytes=NODES_REQUEST_LIMIT_BYTES))
        kind = codec.as_uint(request[0], bits=8) if request else -1
        items: Sequence[codec.Encodable] | None
        match kind, request[1:]:
            case 0, [number, start, end]:
                items = self._source.state_chunk(
                    BlockNumber(codec.as_uint(number, bits=64)),
                    codec.as_bytes(start, max_length=POSITION_LIMIT_BYTES),
                    codec.as_bytes(end, max_length=POSITION_LIMIT_BYTES),
                    CHUNK_BYTES,
                )
            case 1, [hashes]:
                items = self._source.state_nodes(
                    [
                        Hash32(codec.as_bytes(each, length=32))
                        for each in codec.as_list(hashes, max_length=NODES_LIMIT)
                    ],
                    CHUNK_BYTES,
                )
            case 2, [number, first, count]:
                records = self._source.task_records(
                    BlockNumber(codec.as_uint(number, bits=64)),
                    TaskId(codec.as_uint(first, bits=64)),
                    min(codec.as_uint(count, bits=16), RECORDS_LIMIT),
                )
                items = None if records is None else [_record_to_item(each) for each in records]
            case _:
                raise InvalidMessage(RejectionReason.MALFORMED, f"unknown request {kind}")
        return b"" if items is None else codec.encode(list(items))


async def request_chunk(
    stream: FrameStream, number: BlockNumber, state_root: Hash32, start: bytes, end: bytes
) -> VerifiedChunk | None:
    """The next part of a state; None if the peer does not hold it.

    Raises:
        RejectedInputError: TOO_LARGE, MALFORMED, or CONTENT_MISMATCH: not of that state.
        StreamClosedError: the peer left.
    """
    await stream.write_frame(codec.encode([_CHUNK, number, start, end]))
    frame = await stream.read_frame(FRAME_LIMIT_BYTES)
    if not frame:
        return None
    return await trio.to_thread.run_sync(_verify_chunk, frame, state_root, start, end)


def _verify_chunk(frame: bytes, state_root: Hash32, start: bytes, end: bytes) -> VerifiedChunk:
    items = codec.as_list(
        codec.decode(frame, limit_bytes=FRAME_LIMIT_BYTES), max_length=ITEMS_LIMIT
    )
    encoded = [codec.as_bytes(item) for item in items]
    chunk = verify_chunk(state_root, start, end, encoded)
    if chunk.next_position != end and sum(map(len, encoded)) < CHUNK_BYTES:
        # Drop by drop it would be true as well, and take for ever.
        raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "less than there is")
    return chunk


async def request_nodes(stream: FrameStream, hashes: Sequence[Hash32]) -> dict[bytes, bytes]:
    """Those of the nodes that the peer holds, by hash.

    Raises:
        RejectedInputError: TOO_LARGE, MALFORMED, or CONTENT_MISMATCH: other nodes.
        StreamClosedError: the peer left.
    """
    assert len(hashes) <= NODES_LIMIT
    await stream.write_frame(codec.encode([_NODES, list(hashes)]))
    frame = await stream.read_frame(FRAME_LIMIT_BYTES)
    items = codec.as_list(codec.decode(frame, limit_bytes=FRAME_LIMIT_BYTES), length=len(hashes))
    nodes = {}
    for node_hash, item in zip(hashes, items, strict=True):
        if node := codec.as_bytes(item):
            if keccak256(node) != node_hash:
                raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "another node")
            nodes[bytes(node_hash)] = node
    return nodes


async def request_records(
    stream: FrameStream, number: BlockNumber, first: TaskId, count: int
) -> tuple[TaskRecord, ...] | None:
    """What `count` tasks were as of a block, unverified; None if the peer does not know.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
        StreamClosedError: the peer left.
    """
    assert count <= RECORDS_LIMIT
    await stream.write_frame(codec.encode([_RECORDS, number, first, count]))
    limit_bytes = RECORD_LIMIT_BYTES * count
    frame = await stream.read_frame(limit_bytes)
    if not frame:
        return None
    items = codec.as_list(codec.decode(frame, limit_bytes=limit_bytes), length=count)
    return tuple(_record_from_item(item) for item in items)


def _record_to_item(record: TaskRecord) -> codec.Encodable:
    return [record.spec, [[account, earned] for account, earned in record.rewards]]


def _record_from_item(item: codec.Item) -> TaskRecord:
    spec, rewards = codec.as_list(item, length=2)
    pairs = [codec.as_list(pair, length=2) for pair in codec.as_list(rewards)]
    return TaskRecord(
        codec.as_bytes(spec),
        tuple(
            (Address(codec.as_bytes(account, length=20)), codec.as_uint(earned, bits=256))
            for account, earned in pairs
        ),
    )
