"""/pot/state/1 between nodes whose hosts are in memory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from chain import codec
from chain.crypto import keccak256
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import EMPTY_TRIE_ROOT, Address, BlockNumber, Hash32, TaskId
from chain.state.walk import END, START, collect_chunk
from chain.state.world_state import WorldState
from node.network.protocols import state
from node.network.protocols.state import StateServer, TaskRecord
from tests.worlds.network import (
    MemoryInternet,
    Node,
    build_node,
    running,
    stream_pair,
    validator_address,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

RECORD = TaskRecord(b"{}", ((Address(b"\x01" * 20), 7), (Address(b"\x02" * 20), 2**200)))
MANY = TaskId(9)
"""A task that has paid so many accounts that one answer cannot hold them."""

MANY_REWARDS = tuple((Address(i.to_bytes(20, "big")), 2**255) for i in range(1, 20_001))


class OneState:
    """A node that holds the state after block 5, and three tasks."""

    def __init__(self) -> None:
        world = WorldState({}, EMPTY_TRIE_ROOT)
        for index in range(300):
            world.set_balance(Address(index.to_bytes(20, "big")), index + 1)
        self.root, delta = world.compute_delta()
        self.nodes = dict(delta)

    def state_chunk(
        self, number: BlockNumber, start: bytes, end: bytes, limit_bytes: int
    ) -> tuple[bytes, ...] | None:
        if number != 5:
            return None
        return collect_chunk(self.nodes.get, self.root, start, end, limit_bytes)

    def state_nodes(self, hashes: Sequence[Hash32], limit_bytes: int) -> tuple[bytes, ...]:
        return tuple(self.nodes.get(each, b"") for each in hashes)

    def task_records(
        self, number: BlockNumber, first: TaskId, count: int, after: bytes, accounts_limit: int
    ) -> tuple[TaskRecord, ...] | None:
        if first == MANY:
            rest = MANY_REWARDS[int.from_bytes(after, "big") :]
            is_complete = len(rest) <= accounts_limit
            return (TaskRecord(bytes(2**14), rest[:accounts_limit], is_complete),)
        return (RECORD,) * count if number == 5 and first + count <= 4 else None


@asynccontextmanager
async def connected_pair() -> AsyncIterator[tuple[Node, Node, OneState]]:
    internet, states = MemoryInternet(), OneState()
    serving = build_node(internet, 0, states=states)
    asking = build_node(internet, 1, bootstrap=serving.host.listen_addresses())
    for node in (asking, serving):
        node.network.set_validators(validator_address(index) for index in range(2))
    async with running(asking, serving):
        await until(lambda: bool(asking.network.peers() and serving.network.peers()))
        yield asking, serving, states


async def test_state_chunks_nodes_and_task_records_are_served(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "CHUNK_BYTES", 4_000)
    async with connected_pair() as (asking, serving, states):
        peers, peer_id = asking.network.requests, serving.host.peer_id
        position, found = START, {}
        while position != END:
            chunk = await peers.request_state_chunk(
                peer_id, BlockNumber(5), states.root, position, END
            )
            assert chunk is not None
            found.update((item.hash, item.data) for item in chunk.items)
            position = chunk.next_position
        assert found == states.nodes
        assert (
            await peers.request_state_chunk(peer_id, BlockNumber(6), states.root, START, END)
            is None
        )
        unknown = keccak256(b"unknown")
        assert await peers.request_state_nodes(peer_id, [states.root, unknown]) == {
            bytes(states.root): states.nodes[states.root]
        }
        five = BlockNumber(5)
        assert await peers.request_task_records(peer_id, five, TaskId(1), 3, b"") == (RECORD,) * 3
        assert await peers.request_task_records(peer_id, five, TaskId(2), 3, b"") is None


async def test_task_with_many_paid_accounts_comes_in_several_answers(
    autojump_clock: MockClock,
) -> None:
    async with connected_pair() as (asking, serving, _):
        peers, peer_id = asking.network.requests, serving.host.peer_id
        found, after, is_complete = [], b"", False
        while not is_complete:
            records = await peers.request_task_records(peer_id, BlockNumber(5), MANY, 1, after)
            assert records is not None
            found += records[0].rewards
            after, is_complete = found[-1][0], records[0].is_complete
        assert tuple(found) == MANY_REWARDS


async def test_answers_that_do_not_match_the_request_are_refused(
    autojump_clock: MockClock,
) -> None:
    states = OneState()
    items = list(collect_chunk(states.nodes.get, states.root, START, END, 4_000))
    wrong = codec.encode([b"another node"])

    async def chunk(stream):
        return await state.request_chunk(stream, BlockNumber(5), states.root, START, END)

    async def nodes(stream):
        return await state.request_nodes(stream, [states.root])

    async def records(stream):
        return await state.request_records(stream, BlockNumber(5), TaskId(1), 2, b"")

    too_much = bytes(state.FRAME_LIMIT_BYTES + 1)
    for ask, frame, reason in (
        (chunk, codec.encode(items), RejectionReason.CONTENT_MISMATCH),  # less than a full chunk
        (chunk, codec.encode(items[1:]), RejectionReason.CONTENT_MISMATCH),
        (chunk, b"\x05", RejectionReason.MALFORMED),
        (chunk, codec.encode([[]]), RejectionReason.MALFORMED),
        (chunk, too_much, RejectionReason.TOO_LARGE),
        (nodes, wrong, RejectionReason.CONTENT_MISMATCH),
        (nodes, codec.encode([]), RejectionReason.MALFORMED),
        (nodes, too_much, RejectionReason.TOO_LARGE),
        (records, codec.encode([]), RejectionReason.CONTENT_MISMATCH),
        (records, codec.encode([[b"{}", [], 1]]), RejectionReason.CONTENT_MISMATCH),
        (records, codec.encode([[b"{}", [], 0]] * 2), RejectionReason.CONTENT_MISMATCH),
        (records, codec.encode([[b"{}", [[b"short", 1]], 1]] * 2), RejectionReason.MALFORMED),
        (records, codec.encode([[b"{}", [], 2]] * 2), RejectionReason.MALFORMED),
        (records, bytes(state.RECORDS_FRAME_LIMIT_BYTES + 1), RejectionReason.TOO_LARGE),
    ):
        asking, serving = stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving.write_frame, frame)
            with pytest.raises(RejectedInputError) as refusal:
                await ask(asking)
            nursery.cancel_scope.cancel()
        assert refusal.value.reason is reason


async def test_requests_that_break_the_rules_end_the_stream(autojump_clock: MockClock) -> None:
    for request in (
        b"",
        b"\x05",
        codec.encode([]),
        codec.encode([9]),
        codec.encode([0, 5, bytes(200), END]),
        codec.encode([1, [bytes(31)]]),
        codec.encode([1, [bytes(32)] * (state.NODES_LIMIT + 1)]),
        codec.encode([2, 5, 1, 1]),
        codec.encode([2, 5, 1, 1, bytes(21)]),
    ):
        asking, serving = stream_pair()
        await asking.write_frame(request)
        with pytest.raises(RejectedInputError):
            await StateServer(OneState()).serve(serving)


async def test_all_peers_share_one_rate_of_served_bytes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "BYTES_PER_SECOND", 100_000.0)
    states = OneState()
    server, received, start = StateServer(states), 0, trio.current_time()

    async def ask_for_ever() -> None:
        nonlocal received
        asking, serving = stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, serving)
            while True:
                await asking.write_frame(codec.encode([0, 5, START, END]))
                received += len(await asking.read_frame(state.FRAME_LIMIT_BYTES))

    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask_for_ever)
    seconds = trio.current_time() - start
    assert 200_000 < received <= 100_000 * (seconds + 1) + 4 * 60_000
