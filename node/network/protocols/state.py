"""/pot/state/1: the state of a final block in chunks, and task records (docs/spec/wire.md, 9).

Everything is verified: a chunk carries its proof against the state root, a node must have its hash,
and the caller compares a task record with the hashes that the contracts hold.
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
"""The opener of a stream sends any number of requests, one after the other."""

CHUNK_BYTES: Final = 2**19
"""Bytes of nodes and code in one chunk: 2 000 reads, so the database is busy for 20 ms."""

ITEM_LIMIT_BYTES: Final = 2**19
"""One node, or the code of one contract: genesis may hold code beyond the limit of EIP-170."""

FRAME_LIMIT_BYTES: Final = CHUNK_BYTES + ITEM_LIMIT_BYTES + 2**17
"""A chunk with the largest item at its end, the nodes above its first item, and the list."""

ITEMS_LIMIT: Final = 2**15
"""Items of one chunk: none has fewer than 32 bytes."""

NODES_LIMIT: Final = 384
"""Trie nodes in one request: no node has more than 533 bytes, so all fit into CHUNK_BYTES."""

NODES_REQUEST_LIMIT_BYTES: Final = 33 * NODES_LIMIT + 16
"""A request with NODES_LIMIT hashes."""

RECORDS_LIMIT: Final = 16
"""Tasks in one request."""

ACCOUNTS_LIMIT: Final = 2**13
"""Accounts in one answer about tasks; further ones are in the next answers."""

RECORDS_FRAME_LIMIT_BYTES: Final = 2**20
"""An answer about tasks: 16 specifications of 16 KiB, and the earnings of 8 192 accounts, each at
most 57 bytes."""

BYTES_PER_SECOND: Final = 32.0 * 2**20
"""Bytes a second that all peers together are served; node/network/limits.py limits each peer."""

READERS_LIMIT: Final = 2
"""Answers read from the database at a time."""

_CHUNK: Final = 0
_NODES: Final = 1
_RECORDS: Final = 2


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """The data of a task of which the contracts hold only hashes, or a part of it."""

    spec: bytes
    rewards: tuple[tuple[Address, int], ...]
    """The total earnings of each account as of the block, by ascending address."""
    is_complete: bool = True
    """Whether no account with a higher address has earned something."""


class StateSource(Protocol):
    """The state that a node serves; every method may be called from a thread."""

    def state_chunk(
        self, number: BlockNumber, start: bytes, end: bytes, limit_bytes: int
    ) -> tuple[bytes, ...] | None:
        """Items of the state after a block (chain/state/walk.py); None if it is not held."""

    def state_nodes(self, hashes: Sequence[Hash32], limit_bytes: int) -> tuple[bytes, ...]:
        """The nodes or code with these hashes; empty where one is not held or does not fit."""

    def task_records(
        self, number: BlockNumber, first: TaskId, count: int, after: bytes, accounts_limit: int
    ) -> tuple[TaskRecord, ...] | None:
        """The records of the tasks from `first` on as of a block; None if they are not known.

        Of the first task they have the accounts above `after`, which is empty or an address. The
        records end with an incomplete one, if the accounts are more than the limit.
        """


class StateServer:
    """Serves all peers, within limits of bytes a second and of database readers."""

    def __init__(self, source: StateSource) -> None:
        self._source = source
        self._volume = TokenBucket(per_second=BYTES_PER_SECOND, burst=BYTES_PER_SECOND)
        self._readers = trio.CapacityLimiter(READERS_LIMIT)

    async def serve(self, stream: FrameStream) -> None:
        """Answer the requests of a peer until it closes the stream.

        Raises:
            RejectedInputError: A request breaks the rules.
            StreamClosedError: The peer left.
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
            case 2, [number, first, count, after]:
                records = self._source.task_records(
                    BlockNumber(codec.as_uint(number, bits=64)),
                    TaskId(codec.as_uint(first, bits=64)),
                    min(codec.as_uint(count, bits=16), RECORDS_LIMIT),
                    codec.as_bytes(after, max_length=20),
                    ACCOUNTS_LIMIT,
                )
                items = None if records is None else [_record_to_item(each) for each in records]
            case _:
                raise InvalidMessage(RejectionReason.MALFORMED, f"unknown request {kind}")
        return b"" if items is None else codec.encode(list(items))


async def request_chunk(
    stream: FrameStream, number: BlockNumber, state_root: Hash32, start: bytes, end: bytes
) -> VerifiedChunk | None:
    """A verified part of a state from `start` on; None if the peer does not hold the state.

    Raises:
        RejectedInputError: TOO_LARGE, MALFORMED, or CONTENT_MISMATCH if it is of another state.
        StreamClosedError: The peer left.
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
        # A chunk must be full unless it ends the range; else a peer could serve one item at a time.
        raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "the chunk is not full")
    return chunk


async def request_nodes(stream: FrameStream, hashes: Sequence[Hash32]) -> dict[bytes, bytes]:
    """The requested nodes that the peer holds, by hash.

    Raises:
        RejectedInputError: TOO_LARGE, MALFORMED, or CONTENT_MISMATCH if they are other nodes.
        StreamClosedError: The peer left.
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
    stream: FrameStream, number: BlockNumber, first: TaskId, count: int, after: bytes
) -> tuple[TaskRecord, ...] | None:
    """The records of at most `count` tasks as of a block, unverified; None if the peer has none.

    Args:
        stream: The stream to the peer.
        number: The block.
        first: The first task.
        count: The number of tasks.
        after: Of the first task, only accounts with a higher address are asked for; empty for all.

    Raises:
        RejectedInputError: TOO_LARGE, MALFORMED, or CONTENT_MISMATCH if it is short without need.
        StreamClosedError: The peer left.
    """
    assert count <= RECORDS_LIMIT
    await stream.write_frame(codec.encode([_RECORDS, number, first, count, after]))
    frame = await stream.read_frame(RECORDS_FRAME_LIMIT_BYTES)
    if not frame:
        return None
    return await trio.to_thread.run_sync(_decode_records, frame, count)


def _decode_records(frame: bytes, count: int) -> tuple[TaskRecord, ...]:
    items = codec.as_list(
        codec.decode(frame, limit_bytes=RECORDS_FRAME_LIMIT_BYTES), max_length=count
    )
    records = tuple(_record_from_item(item) for item in items)
    is_short = len(records) < count or not records[-1].is_complete
    if not all(each.is_complete for each in records[:-1]) or (
        is_short and sum(len(each.rewards) for each in records) < ACCOUNTS_LIMIT
    ):
        # As with chunks, a peer must not serve one account at a time.
        raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "the answer is not full")
    return records


def _record_to_item(record: TaskRecord) -> codec.Encodable:
    rewards: list[codec.Encodable] = [[account, earned] for account, earned in record.rewards]
    return [record.spec, rewards, int(record.is_complete)]


def _record_from_item(item: codec.Item) -> TaskRecord:
    spec, rewards, is_complete = codec.as_list(item, length=3)
    pairs = [
        codec.as_list(pair, length=2) for pair in codec.as_list(rewards, max_length=ACCOUNTS_LIMIT)
    ]
    return TaskRecord(
        codec.as_bytes(spec),
        tuple(
            (Address(codec.as_bytes(account, length=20)), codec.as_uint(earned, bits=256))
            for account, earned in pairs
        ),
        codec.as_uint(is_complete, bits=1) == 1,
    )
