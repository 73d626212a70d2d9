"""The dial list, scores and budgets, as loops over numbers."""

import itertools

import pytest
import trio
from trio.testing import MockClock

from chain.errors import RejectionReason
from node.errors import OperatorError
from node.network import peers
from node.network.peers import PeerTable, TokenBucket, is_dialable
from node.network.stream import PeerId

OWN = PeerId("12D3KooW" + "A" * 44)
BOB = PeerId("12D3KooW" + "B" * 44)


def address(peer_id: str = BOB, *, host: str = "203.0.113.7", port: int = 9000) -> str:
    return f"/ip4/{host}/tcp/{port}/p2p/{peer_id}"


def build_table(*bootstrap: str, accept_private: bool = True) -> PeerTable:
    return PeerTable(
        own_peer_id=OWN, bootstrap=bootstrap, random=lambda: 0.5, accept_private=accept_private
    )


def dial_times(table: PeerTable, until: int) -> list[float]:
    """When the table asks for a dial, if every one of them fails."""
    times = []
    for tenth in range(until * 10):
        for _, dialled in table.due(tenth / 10, connected=()):
            table.dial_failed(dialled)
            times.append(tenth / 10)
    return times


def test_bootstrap_peer_is_redialled_for_ever_with_growing_waits() -> None:
    times = dial_times(build_table(address()), until=200)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30], abs=0.11)


def test_learned_address_is_forgotten_after_failures() -> None:
    table = build_table()
    table.learn([address()])
    assert len(dial_times(table, until=1000)) == peers.LEARNED_FAILURES_LIMIT


def test_connected_banned_and_own_peers_are_not_dialled() -> None:
    table = build_table(address(), address(OWN))
    assert table.due(0, connected=[BOB]) == ()
    while not table.penalize(BOB, RejectionReason.MALFORMED, now=0):
        pass
    assert table.due(peers.BAN_SECONDS - 1, connected=()) == ()
    assert table.due(peers.BAN_SECONDS, connected=()) == ((BOB, address()),)


def test_connection_starts_the_backoff_anew() -> None:
    table = build_table(address())
    dial_times(table, until=60)
    assert table.due(60.1, connected=()) == ()
    table.connected(BOB)
    assert table.due(60.1, connected=()) == ((BOB, address()),)


def test_two_malformed_messages_ban_and_time_forgives_one() -> None:
    table = build_table()
    assert not table.penalize(BOB, RejectionReason.MALFORMED, now=0)
    assert table.score(BOB, now=0) == 50
    assert table.score(BOB, now=50) == 75
    assert not table.penalize(BOB, RejectionReason.MALFORMED, now=50)
    assert table.penalize(BOB, RejectionReason.MALFORMED, now=51)
    assert table.is_banned(BOB, now=60)
    assert not table.is_banned(OWN, now=60)


def test_tables_are_bounded() -> None:
    table = build_table(address())
    table.learn(address(host=f"10.0.{i // 256}.{i % 256}") for i in range(1000))
    assert len(table._targets) == peers.TARGET_LIMIT
    assert address() in table._targets
    for index in range(2000):
        table.penalize(PeerId(f"peer{index}"), RejectionReason.MALFORMED, now=0)
    assert len(table._records) == peers.RECORD_LIMIT


def test_strangers_may_not_point_us_at_private_services() -> None:
    for host in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"):
        assert not is_dialable(address(host=host), accept_private=False)
    assert is_dialable(address(host="8.8.8.8"), accept_private=False)
    assert is_dialable(address(host="127.0.0.1"), accept_private=True)
    for bad in (address(host="999.1.1.1"), address(port=0), address(port=70000)):
        assert not is_dialable(bad, accept_private=True)
    assert not is_dialable(f"/dns4/example.org/tcp/1/p2p/{BOB}", accept_private=True)


def test_bad_bootstrap_address_is_named() -> None:
    with pytest.raises(OperatorError, match=r"network\.bootstrap: 'localhost:9000'"):
        build_table("localhost:9000")


async def test_overdrawn_budget_makes_its_user_wait(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(per_second=10, burst=20)
    start = trio.current_time()
    for _ in range(20):
        await bucket.take(1)
    assert trio.current_time() == start
    for _ in range(30):
        await bucket.take(1)
    assert trio.current_time() - start == pytest.approx(3)
    await trio.sleep(1000)
    await bucket.take(20)
    assert trio.current_time() - start == pytest.approx(1003)
