"""Whole networks: hosts in memory under a mock clock, and a few real hosts on loopback."""

import os
import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.errors import RejectionReason
from chain.primitives import Hash32
from node.network.host import LibP2PHost, create_host_key
from node.network.limits import LIMITS
from node.network.network import Network, NetworkConfig
from node.network.protocols import blobs, blocks, consensus, status, transactions
from node.network.sessions import HANDSHAKES_BURST, HANDSHAKES_PER_SECOND
from node.network.slow_peers import PATIENCE_SECONDS
from node.network.stream import FrameStream
from node.network.wire import DisconnectReason, Goodbye, decode_status
from node.storage.blobs import BlobStore
from tests.worlds.network import (
    HEAD,
    NO_BLOBS,
    MemoryChain,
    MemoryHost,
    MemoryInternet,
    MemoryPool,
    Node,
    NoStates,
    NoTraining,
    Received,
    build_node,
    build_nodes,
    identity,
    running,
    validator_address,
)
from tests.worlds.waiting import until


async def test_validators_find_each_other_through_one_bootstrap_address(
    autojump_clock: MockClock,
) -> None:
    nodes = build_nodes(MemoryInternet(), 4)
    async with running(*nodes):
        await until(lambda: all(len(node.network.peers()) == 3 for node in nodes), seconds=120)
        assert [peer.validator for peer in nodes[0].network.peers()] == [
            validator_address(index) for index in (1, 2, 3)
        ]
        assert nodes[3].network.peers()[0].head == HEAD


async def test_broadcast_reaches_every_other_validator_once(autojump_clock: MockClock) -> None:
    nodes = build_nodes(MemoryInternet(), 4)
    async with running(*nodes):
        nodes[2].network.broadcast_consensus(b"vote")
        for index in (0, 1, 3):
            with trio.fail_after(120):
                await nodes[index].received.wait_for(1)
        await trio.sleep(5)
        assert nodes[2].received.frames == []
        for index in (0, 1, 3):
            assert nodes[index].received.frames == [(validator_address(2), b"vote")]


async def test_nodes_that_dial_each_other_at_once_keep_one_session(
    autojump_clock: MockClock,
) -> None:
    internet = MemoryInternet()
    addresses = [build_node(internet, index).host.listen_addresses()[0] for index in (0, 1)]
    nodes = [
        build_node(internet, 0, bootstrap=(addresses[1],)),
        build_node(internet, 1, bootstrap=(addresses[0],)),
    ]
    async with running(*nodes):
        await until(lambda: all(node.network.peers() for node in nodes))
        await trio.sleep(60)
        [first], [second] = nodes[0].network.peers(), nodes[1].network.peers()
        assert (first.is_inbound, second.is_inbound) in ((True, False), (False, True))
        opened = nodes[0].network.metrics.sessions_opened
        await trio.sleep(60)
        assert nodes[0].network.metrics.sessions_opened == opened


async def test_node_of_another_chain_is_refused_but_not_banned(
    autojump_clock: MockClock,
) -> None:
    internet = MemoryInternet()
    ours = build_node(internet, 0)
    peer = build_node(internet, 1, bootstrap=ours.host.listen_addresses(), chain_id=1)
    async with running(ours, peer):
        await until(lambda: ours.network.metrics.rejections[RejectionReason.WRONG_CHAIN] > 2)
        assert ours.network.peers() == ()
        assert ours.network.metrics.peers_banned == 0


async def test_frozen_peer_is_noticed_within_six_seconds_and_redialled(
    autojump_clock: MockClock,
) -> None:
    nodes = build_nodes(MemoryInternet(), 2)
    async with running(*nodes):
        await until(lambda: all(node.network.peers() for node in nodes))
        frozen = nodes[1].host
        frozen.is_reachable = False
        started = trio.current_time()
        # A frozen node keeps its streams open, but neither reads nor writes.
        for stream in frozen._streams[nodes[0].host.peer_id]:
            stream._byte_stream.receive_some = hang
            stream._byte_stream.send_all = hang
        await trio.sleep(2.1)
        await until(lambda: not nodes[0].network.peers())
        assert trio.current_time() - started <= 6 + 2.1
        assert nodes[0].network.metrics.peers_silent == 1
        assert nodes[0].network.metrics.disconnects["silent"] == 1
        frozen.is_reachable = True
        await until(lambda: len(nodes[0].network.peers()) == 1, seconds=120)


async def hang(_: object) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


async def test_full_node_refuses_non_validators_but_no_validators(
    autojump_clock: MockClock,
) -> None:
    internet = MemoryInternet()
    hub = build_node(internet, 0, max_peers=1)
    address = hub.host.listen_addresses()
    hub.network.set_validators([validator_address(0), validator_address(3)])
    first, second = (
        build_node(internet, index, bootstrap=address, is_validator=False) for index in (1, 2)
    )
    validator = build_node(internet, 3, bootstrap=address)
    async with running(hub, first):
        await until(lambda: len(hub.network.peers()) == 1)
        async with running(second, validator):
            await until(lambda: len(hub.network.peers()) == 2)
            await trio.sleep(30)
            assert {peer.peer_id for peer in hub.network.peers()} == {
                first.host.peer_id,
                validator.host.peer_id,
            }


@pytest.mark.parametrize(("max_peers", "kept"), [(4, 3), (1, 1)])
async def test_full_node_reserves_sessions_for_peers_it_dials(
    autojump_clock: MockClock, max_peers: int, kept: int
) -> None:
    internet = MemoryInternet()
    friend = build_node(internet, 9, is_validator=False)
    friends = friend.host.listen_addresses()
    hub = build_node(internet, 0, bootstrap=friends, max_peers=max_peers, is_validator=False)
    address = hub.host.listen_addresses()
    others = [
        build_node(internet, index, bootstrap=address, is_validator=False) for index in range(1, 6)
    ]
    async with running(hub, *others):
        await until(lambda: len(hub.network.peers()) == kept)
        async with running(friend):
            await until(lambda: len(hub.network.peers()) == kept + 1, seconds=120)
            assert friend.host.peer_id in {peer.peer_id for peer in hub.network.peers()}
            await trio.sleep(30)
            assert len(hub.network.peers()) == kept + 1


async def test_consensus_frames_wait_while_the_validator_is_away(
    autojump_clock: MockClock,
) -> None:
    internet = MemoryInternet()
    nodes = build_nodes(internet, 2)
    async with running(nodes[0]):
        nodes[0].network.send_consensus(validator_address(1), b"first")
        nodes[0].network.send_consensus(validator_address(1), b"second")
        await trio.sleep(10)
        async with running(nodes[1]):
            with trio.fail_after(60):
                await nodes[1].received.wait_for(2)
    assert nodes[1].received.frames == [
        (validator_address(0), b"first"),
        (validator_address(0), b"second"),
    ]


async def test_votes_count_from_a_peer_that_joins_the_set_during_its_session(
    autojump_clock: MockClock,
) -> None:
    nodes = build_nodes(MemoryInternet(), 2)
    member, joiner = nodes
    member.network.set_validators([validator_address(0)])
    async with running(*nodes):
        await until(lambda: len(member.network.peers()) == 1, seconds=120)
        await trio.sleep(10)
        member.network.set_validators([validator_address(0), validator_address(1)])
        joiner.network.broadcast_consensus(b"vote")
        with trio.fail_after(10):
            await member.received.wait_for(1)
    assert member.received.frames == [(validator_address(1), b"vote")]


async def test_peer_that_joins_the_set_leaves_the_shared_budget(
    autojump_clock: MockClock,
) -> None:
    nodes = build_nodes(MemoryInternet(), 2)
    member, other = nodes
    peer_id = other.host.peer_id
    member.network.set_validators([validator_address(0)])
    async with running(*nodes):
        await until(lambda: len(member.network.peers()) == 1, seconds=120)
        [session] = member.network._sessions._sessions.values()
        waits: list[bool] = []
        for is_validator in (False, True, True, False):
            indices = (0, 1) if is_validator else (0,)
            member.network.set_validators(map(validator_address, indices))
            meter = member.network._sessions.get_meter(session, blocks.PROTOCOL_ID)
            waits.append(meter._shared is not None)
        assert waits == [True, False, False, True]
        assert member.host.kept == [(peer_id, False), (peer_id, True), (peer_id, False)]


async def test_connection_without_a_session_is_closed(autojump_clock: MockClock) -> None:
    internet = MemoryInternet()
    node = build_node(internet, 0)
    silent = build_node(internet, 1).host
    async with running(node), silent.run():
        await silent.dial(node.host.peer_id, "")
        stream = await silent.open_stream(node.host.peer_id, status.PROTOCOL_ID)
        assert await stream.read_frame(10_000)
        await until(lambda: node.host.connected_peers() == (), seconds=30)


async def open_session(node: Node, peer: MemoryHost) -> FrameStream:
    """A session with a peer that sends only what the test sends."""
    await peer.dial(node.host.peer_id, "")
    stream = await peer.open_stream(node.host.peer_id, status.PROTOCOL_ID)
    await status.shake_hands(
        stream,
        identity(None),
        own_peer_id=peer.peer_id,
        head=HEAD,
        addresses=(),
        nonce=Hash32(bytes(32)),
    )
    return stream


async def test_banned_peer_is_told_the_reason_across_a_restart(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    internet = MemoryInternet()
    file = tmp_path / "peers.json"
    node = build_node(internet, 0, peer_file=file)
    peer = build_node(internet, 1).host
    async with peer.run():
        async with running(node):
            session = await open_session(node, peer)
            for _ in range(3):
                stream = await peer.open_stream(node.host.peer_id, blocks.PROTOCOL_ID)
                await stream.write_frame(b"garbage")
            goodbye = None
            while not isinstance(goodbye, Goodbye):
                goodbye = decode_status(await session.read_frame(10_000))
            assert goodbye.reason is DisconnectReason.MISBEHAVIOUR
            assert node.network.metrics.peers_banned == 1
        # The ban outlives a restart.
        node = build_node(internet, 0, peer_file=file)
        async with running(node):
            await trio.sleep(1)
            await peer.dial(node.host.peer_id, "")
            stream = await peer.open_stream(node.host.peer_id, status.PROTOCOL_ID)
            assert decode_status(await stream.read_frame(10_000)) == goodbye


async def test_streams_and_handshakes_of_one_peer_are_limited(autojump_clock: MockClock) -> None:
    internet = MemoryInternet()
    node = build_node(internet, 0)
    peer = build_node(internet, 1).host
    async with running(node), peer.run():
        await open_session(node, peer)
        limit = LIMITS["blob"].streams
        for _ in range(limit + 3):
            await peer.open_stream(node.host.peer_id, blobs.PROTOCOL_ID)
        await trio.sleep(1)
        assert node.network.metrics.streams_refused == 3
        start = trio.current_time()
        for _ in range(10):
            await open_session(node, peer)
        assert (
            trio.current_time() - start >= (10 + 1 - HANDSHAKES_BURST) / HANDSHAKES_PER_SECOND - 2
        )


async def test_garbage_request_on_our_transaction_stream_costs_points(
    autojump_clock: MockClock,
) -> None:
    internet = MemoryInternet()
    node = build_node(internet, 0)
    peer = build_node(internet, 1).host
    served = []

    async def ask_garbage(stream: FrameStream) -> None:
        served.append(stream)
        await stream.write_frame(b"garbage")
        await trio.sleep_forever()

    peer.set_handler(transactions.PROTOCOL_ID, ask_garbage)
    async with running(node), peer.run():
        await open_session(node, peer)
        await until(lambda: node.network.metrics.peers_banned == 1)
        await until(lambda: node.network.metrics.disconnects["banned"] == 1)
        # Each time costs half of all points; one comes back while the stream is reopened.
        assert len(served) == 3


@pytest.mark.parametrize("frame", [b"garbage", b"", b"\xc1\x09", b"\xc2\x03" + b"\x05" * 9_000])
async def test_garbage_in_a_session_ends_it_and_costs_points(
    frame: bytes, autojump_clock: MockClock
) -> None:
    internet = MemoryInternet()
    node = build_node(internet, 0)
    peer = build_node(internet, 1).host
    async with running(node), peer.run():
        session = await open_session(node, peer)
        await until(lambda: len(node.network.peers()) == 1)
        await session.write_frame(frame)
        await until(lambda: not node.network.peers())
        assert node.network.metrics.rejections.total() == 1
        assert node.network._table.score(peer.peer_id, trio.current_time()) < 60


async def test_addresses_of_other_nodes_in_a_hello_are_ignored(autojump_clock: MockClock) -> None:
    nodes = build_nodes(MemoryInternet(), 2)
    victim = f"/ip4/192.0.2.1/tcp/1/p2p/12D3KooW{'Z' * 44}"
    nodes[1].host.listen_addresses = lambda: (victim,)  # type: ignore[method-assign]
    async with running(*nodes):
        await until(lambda: all(node.network.peers() for node in nodes))
        assert victim not in nodes[0].network._table._targets


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x03\xc2\x05",
        b"\x00\x00\x00\x05hello",
        b"\x00\x00\x00\x01\xc0",
        b"\x00\x00\x00\x02\xc1\x09",
        bytes(100_000),
    ],
)
@pytest.mark.parametrize("protocol", [status.PROTOCOL_ID, consensus.PROTOCOL_ID])
async def test_garbage_causes_only_refusals(
    garbage: bytes, protocol: str, autojump_clock: MockClock
) -> None:
    internet = MemoryInternet()
    node, honest = build_nodes(internet, 2)
    peer = build_node(internet, 2).host
    async with running(node, honest), peer.run():
        await peer.dial(node.host.peer_id, "")
        stream = await peer.open_stream(node.host.peer_id, protocol)
        await stream._byte_stream.send_all(garbage)
        await stream.close()
        await trio.sleep(20)
        assert all(
            type(error).__module__.startswith(("chain", "node")) for error in node.host.errors
        )
        assert len(node.network.peers()) == 1


async def test_validators_are_asked_before_strangers_with_older_sessions(
    autojump_clock: MockClock,
) -> None:
    internet = MemoryInternet()
    address = MemoryHost(internet, 0).listen_addresses()
    *strangers, named = (
        build_node(internet, number, bootstrap=address, is_validator=False)
        for number in range(2, 7)
    )
    first = build_node(internet, 0, bootstrap=named.host.listen_addresses())
    validator = build_node(internet, 1, bootstrap=address)
    first.network.set_validators(validator_address(number) for number in (0, 1))
    async with running(first, *strangers, named):
        await until(lambda: len(first.network.peers()) == 5)
        async with running(validator):
            await until(lambda: len(first.network.peers()) == 6)
            sessions = first.network._sessions
            chances = dict.fromkeys(sessions.peer_ids(), 0.5)
            chances |= {
                strangers[number].host.peer_id: chance
                for number, chance in enumerate((0.2, 0.1, 0.4, 0.3))
            }
            draws = iter([chances[peer_id] for peer_id in sessions.peer_ids()] * 2)
            sessions._random = lambda: next(draws)
            wanted = Hash32(b"x" * 32)
            sessions.note_announced(strangers[2].host.peer_id, wanted)
            anything, announced = sessions.list_preferred(), sessions.list_preferred(wanted)
    preferred = [validator.host.peer_id, named.host.peer_id]
    others = [strangers[number].host.peer_id for number in (1, 0, 3, 2)]
    assert anything == (*preferred, *others)
    assert announced == (others[-1], *preferred, *others[:-1])


async def test_silent_stranger_does_not_delay_a_fetch_on_real_hosts(tmp_path: Path) -> None:
    stores = [BlobStore(tmp_path / str(index), quota_bytes=2**26) for index in range(2)]
    wanted = stores[0].put(os.urandom(20_000))
    holder, _ = build_real_network(0, blobs=stores[0])
    async with trio.open_nursery() as nursery:
        await nursery.start(holder.run)
        fetching, _ = build_real_network(1, bootstrap=holder.listen_addresses(), blobs=stores[1])
        await nursery.start(fetching.run)
        silent, _ = build_real_network(None, bootstrap=fetching.listen_addresses())
        silent._host.set_handler(blobs.PROTOCOL_ID, hang)
        await nursery.start(silent.run)
        await until(lambda: len(fetching.peers()) == 2)
        with trio.fail_after(PATIENCE_SECONDS):
            await fetching.requests.fetch_blob(wanted, is_urgent=True)
        nursery.cancel_scope.cancel()


def build_real_network(
    index: int | None,
    *,
    bootstrap: tuple[str, ...] = (),
    validators: int = 2,
    blobs: BlobStore | None = None,
) -> tuple[Network, Received]:
    received = Received()
    network = Network(
        host=LibP2PHost(
            key=create_host_key(), listen_addresses=["/ip4/127.0.0.1/tcp/0"], max_connections=50
        ),
        config=NetworkConfig(bootstrap=bootstrap, accept_private_addresses=True),
        identity=identity(index),
        get_head=lambda: HEAD,
        handle_consensus=received.handle,
        transaction_pool=MemoryPool(),
        block_source=MemoryChain(),
        blob_store=blobs or NO_BLOBS,
        training_source=NoTraining(),
        state_source=NoStates(),
        random=random.random,
    )
    network.set_validators(validator_address(index) for index in range(validators))
    return network, received


async def test_real_hosts_shake_hands_and_vote() -> None:
    first, first_received = build_real_network(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(first.run)
        second, second_received = build_real_network(1, bootstrap=first.listen_addresses())
        await nursery.start(second.run)
        second.broadcast_consensus(b"x" * 200)
        first.broadcast_consensus(b"y" * 200_000)
        with trio.fail_after(10):
            await first_received.wait_for(1)
            await second_received.wait_for(1)
        assert first_received.frames == [(validator_address(1), b"x" * 200)]
        assert second_received.frames == [(validator_address(0), b"y" * 200_000)]
        nursery.cancel_scope.cancel()


async def test_votes_do_not_wait_for_blobs_on_real_hosts(tmp_path: Path) -> None:
    model = os.urandom(2**24)
    stores = [BlobStore(tmp_path / str(index), quota_bytes=2**26) for index in range(2)]
    first, first_received = build_real_network(0, blobs=stores[0])
    wanted = stores[0].put(model)
    async with trio.open_nursery() as nursery:
        await nursery.start(first.run)
        second, _ = build_real_network(1, bootstrap=first.listen_addresses(), blobs=stores[1])
        await nursery.start(second.run)
        await until(lambda: bool(first.peers() and second.peers()))
        second.broadcast_consensus(b"warm")
        await first_received.wait_for(1)
        waits = []
        fetched = trio.Event()

        async def fetch() -> None:
            await second.requests.fetch_blob(wanted)
            fetched.set()

        nursery.start_soon(fetch)
        while not fetched.is_set():
            start = trio.current_time()
            second.broadcast_consensus(bytes(200))
            await first_received.wait_for(len(waits) + 2)
            waits.append(trio.current_time() - start)
        nursery.cancel_scope.cancel()
    assert stores[1].path(wanted).read_bytes() == model
    assert len(waits) > 3
    # To wait for the blob would take much longer than this on any machine.
    assert sorted(waits)[len(waits) // 2] < 0.1
