"""Any bytes on any stream, any field of any message: refused, counted, and the node goes on."""

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from chain.consensus.messages import encode_message
from chain.errors import RejectedInputError
from chain.primitives import Hash32
from node.network import wire
from node.network.protocols import (
    blobs,
    blocks,
    consensus,
    pieces,
    state,
    status,
    training,
    transactions,
)
from node.network.stream import StreamClosedError, UnreachablePeerError
from tests.chain.consensus import consensus_factory as factory
from tests.fuzz.mutate import mutate
from tests.node.network.network_fakes import (
    HEAD,
    MemoryInternet,
    Node,
    build_block,
    build_node,
    build_nodes,
    identity,
    running,
    until,
)

DIGEST = Hash32(b"\x31" * 32)
SEEDS = [
    wire.encode_status(wire.Ping(1, HEAD)),
    wire.encode_status(wire.Peers((f"/ip4/10.9.9.9/tcp/1/p2p/12D3KooW{'Z' * 44}",))),
    wire.encode_transaction_message(wire.AnnounceTransactions((DIGEST,))),
    wire.encode_transaction_message(wire.TransactionBatch((b"bad", b"good"))),
    wire.encode_blocks_request(wire.RequestBlocks(HEAD.number, 256)),
    wire.encode_blocks_request(wire.RequestBlockByHash(DIGEST)),
    wire.encode_blob_request(wire.RequestChunks(DIGEST, 0, 16)),
    encode_message(factory.view_change(1, 1)),
]
FRAMES = st.lists(
    st.binary(max_size=300)
    | st.integers(0, 2**32).map(lambda seed: mutate(random.Random(seed), SEEDS)),
    min_size=1,
    max_size=6,
)
"""Frames of any bytes, and messages with any of their fields changed."""


async def send(protocol: str, frames: list[bytes], *, is_framed: bool, index: int | None) -> None:
    internet = MemoryInternet()
    node, honest = build_nodes(internet, 2)
    node.chain.blocks.update({number: build_block(number) for number in range(8)})
    stranger = build_node(internet, 2).host
    async with running(node, honest), stranger.run():
        await until(lambda: len(node.network.peers()) == 1)
        await stranger.dial(node.host.peer_id, "")
        session = await stranger.open_stream(node.host.peer_id, status.PROTOCOL_ID)
        await status.shake_hands(
            session,
            identity(index),
            own_peer_id=stranger.peer_id,
            head=HEAD,
            addresses=(),
            nonce=DIGEST,
        )
        stream = session
        try:
            if protocol != status.PROTOCOL_ID:
                stream = await stranger.open_stream(node.host.peer_id, protocol)
            for frame in frames:
                with trio.move_on_after(5):
                    await (stream.write_frame if is_framed else stream._byte_stream.send_all)(frame)
            await stream.close()
        except (StreamClosedError, UnreachablePeerError):
            pass
        await trio.sleep(3)
        check_alive(node, honest)


def check_alive(node: Node, honest: Node) -> None:
    errors = node.host.errors
    assert all(isinstance(error, RejectedInputError | StreamClosedError) for error in errors), (
        errors
    )
    refused = sum(isinstance(error, RejectedInputError) for error in errors)
    assert sum(node.network.metrics.rejections.values()) >= refused
    [peer] = [each for each in node.network.peers() if each.peer_id == honest.host.peer_id]
    assert peer.score == 100


@pytest.mark.parametrize(
    "protocol",
    [
        each.PROTOCOL_ID
        for each in (blobs, blocks, consensus, pieces, state, status, training, transactions)
    ],
)
@settings(max_examples=15, deadline=None)
@given(frames=FRAMES, is_framed=st.booleans(), index=st.sampled_from([None, 2]))
def test_nothing_a_peer_sends_stops_a_node_or_hurts_another_peer(
    protocol: str, frames: list[bytes], is_framed: bool, index: int | None
) -> None:
    async def main() -> None:
        await send(protocol, frames, is_framed=is_framed, index=index)

    trio.run(main, clock=MockClock(autojump_threshold=0))
