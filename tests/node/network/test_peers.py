"""Addresses to dial, scores and limits, as loops over numbers."""

import itertools
from collections.abc import Callable
from random import Random

import pytest

from chain.errors import RejectionReason
from node.network import peers
from node.network.peers import PeerTable, is_dialable
from node.network.stream import PeerId
from pot_common.errors import OperatorError

OWN = PeerId("12D3KooW" + "A" * 44)
BOB = PeerId("12D3KooW" + "B" * 44)


def address(peer_id: str = BOB, *, host: str = "203.0.113.7", port: int = 9000) -> str:
    return f"/ip4/{host}/tcp/{port}/p2p/{peer_id}"


def build_table(
    *bootstrap: str, accept_private: bool = True, random: Callable[[], float] = lambda: 0.5
) -> PeerTable:
    return PeerTable(
        own_peer_id=OWN, bootstrap=bootstrap, random=random, accept_private=accept_private
    )


def dial_times(table: PeerTable, until: int) -> list[float]:
    """The times at which the table asks for a dial, if every dial fails."""
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
    table.learn([address()], BOB)
    assert len(dial_times(table, until=1000)) == peers.LEARNED_FAILURES_LIMIT


def test_connected_banned_and_own_peers_are_not_dialled() -> None:
    table = build_table(address(), address(OWN))
    assert table.due(0, connected=[BOB]) == ()
    while not table.penalize(BOB, RejectionReason.MALFORMED, now=0):
        pass
    assert table.due(peers.BAN_SECONDS - 1, connected=()) == ()
    assert table.due(peers.BAN_SECONDS, connected=()) == ((BOB, address()),)


def test_connection_resets_the_backoff() -> None:
    table = build_table(address())
    dial_times(table, until=60)
    assert table.due(60.1, connected=()) == ()
    table.connected(BOB)
    assert table.due(60.1, connected=()) == ((BOB, address()),)


def test_two_malformed_messages_ban_but_time_forgives_one() -> None:
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
    for index in range(1000):
        source = PeerId(f"12D3KooW{index:044d}".replace("0", "K"))
        table.learn([address(source, host=f"10.0.{index // 256}.{index % 256}")], source)
    assert len(table._targets) == peers.TARGET_LIMIT
    assert address() in table._targets
    for index in range(2000):
        table.penalize(PeerId(f"peer{index}"), RejectionReason.MALFORMED, now=0)
    assert len(table._records) == peers.RECORD_LIMIT


def test_private_addresses_are_not_learned_from_peers() -> None:
    for host in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"):
        assert not is_dialable(address(host=host), accept_private=False)
    assert is_dialable(address(host="8.8.8.8"), accept_private=False)
    assert is_dialable(address(host="127.0.0.1"), accept_private=True)
    for bad in (address(host="999.1.1.1"), address(port=0), address(port=70000)):
        assert not is_dialable(bad, accept_private=True)
    assert not is_dialable(f"/dns4/example.org/tcp/1/p2p/{BOB}", accept_private=True)


def peer(number: int) -> PeerId:
    digits = "".join("ABCDEFGHJK"[int(digit)] for digit in f"{number:044d}")
    return PeerId(f"12D3KooW{digits}")


def test_one_peer_cannot_fill_the_table_with_false_addresses() -> None:
    table = build_table()
    liar, honest = peer(10**6), peer(10**7)
    for start in range(0, 10_000, 16):
        lies = [address(peer(index), port=1 + index) for index in range(start, start + 16)]
        table.learn(lies, liar)
    assert len(table._targets) == peers.SOURCE_LIMIT
    table.learn([address(honest)], honest)
    assert table.known_addresses([honest], 16) == (address(honest),)


def test_false_addresses_of_a_peer_leave_room_for_its_own() -> None:
    table = build_table()
    for source in range(100, 120):
        table.learn([address(BOB, host=f"198.51.100.{source}")], peer(source))
    table.learn([address(BOB)], BOB)
    assert len(table._targets) == peers.PEER_ADDRESS_LIMIT + 1
    # The address that the peer claims for itself is tried first.
    assert table.due(0, connected=()) == ((BOB, address()),)


def test_full_table_drops_an_address_of_the_peer_that_told_most() -> None:
    table = build_table()
    for source in range(peers.TARGET_LIMIT // peers.SOURCE_LIMIT):
        told = [address(peer(1000 * source + index)) for index in range(1, 17)]
        table.learn(told, peer(10**6 + source))
    assert len(table._targets) == peers.TARGET_LIMIT
    table.learn([address()], BOB)
    assert address() in table._targets
    assert len(table._targets) == peers.TARGET_LIMIT


def test_only_proven_or_self_claimed_addresses_are_told_to_others() -> None:
    table = build_table()
    table.learn([address(BOB, port=1)], peer(1))
    assert table.known_addresses([BOB], 16) == ()
    table.learn([address(BOB, port=2)], BOB)
    assert table.known_addresses([BOB], 16) == (address(BOB, port=2),)
    table.dial_succeeded(address(BOB, port=1))
    assert table.known_addresses([BOB], 16) == (address(BOB, port=1),)
    assert table.is_proven(address(BOB, port=1))
    assert not table.is_proven(address(BOB, port=2))


def test_all_proven_addresses_are_told_in_time_despite_claims() -> None:
    """A bug told only the claims of a few peers, because their addresses sorted first."""
    table = build_table(random=Random(1).random)
    honest = [peer(index) for index in range(1, 31)]
    for index, name in enumerate(honest):
        table.learn([address(name, host=f"8.8.{index}.1")], name)
        table.dial_succeeded(address(name, host=f"8.8.{index}.1"))
    liars = [peer(1000 + index) for index in range(4)]
    for index, name in enumerate(liars):
        table.learn([address(name, host=f"1.0.0.{4 * index + i}") for i in range(1, 5)], name)
    told = [table.known_addresses(honest + liars, 16) for _ in range(20)]
    assert all(len(each) == 16 for each in told)
    assert {each for one in told for each in one} == {
        address(name, host=f"8.8.{index}.1") for index, name in enumerate(honest)
    }


def test_few_addresses_of_one_group_are_told() -> None:
    table = build_table()
    names = [peer(index) for index in range(1, 9)]
    for index, name in enumerate(names):
        table.learn([address(name, host="8.8.8.8", port=1 + index)], name)
    assert len(table.known_addresses(names, 16)) == peers.GROUP_TOLD_LIMIT
    for index, name in enumerate(names):
        table.learn([address(name, host="10.0.0.1", port=1 + index)], name)
    assert len(table.known_addresses(names, 16)) == len(names)


def test_one_address_group_cannot_fill_the_table() -> None:
    table = build_table()
    for index in range(1, 300):
        name = peer(index)
        table.learn([address(name, host="8.8.8.8", port=1 + index)], name)
        table.dial_succeeded(address(name, host="8.8.8.8", port=1 + index))
    assert len(table._targets) == peers.GROUP_LIMIT
    for index in range(300):
        name = peer(1000 + index)
        table.learn([address(name, host=f"9.9.{index // 3}.9", port=1 + index)], name)
        table.dial_succeeded(address(name, host=f"9.9.{index // 3}.9", port=1 + index))
    assert len(table._targets) == peers.TARGET_LIMIT
    table.learn([address(host="4.4.4.4")], BOB)
    assert address(host="4.4.4.4") in table._targets
    assert sum("/8.8.8.8/" in each for each in table._targets) < peers.GROUP_LIMIT


def test_settled_node_dials_only_the_operators_addresses() -> None:
    table = build_table(address())
    table.learn([address(peer(1))], peer(1))
    assert table.due(0, connected=(), only_persistent=True) == ((BOB, address()),)
    assert table.due(0, connected=()) == ((peer(1), address(peer(1))),)


def test_peer_that_refused_us_is_redialled_after_minutes() -> None:
    table = build_table(address())
    table.learn([address(peer(1))], peer(1))
    for each in (BOB, peer(1)):
        table.session_refused(each, now=0)
    assert table.due(peers.BACKOFF_LAST_SECONDS - 1, connected=()) == ()
    assert table.due(peers.BACKOFF_LAST_SECONDS, connected=()) == ((BOB, address()),)
    learned = ((peer(1), address(peer(1))),)
    assert table.due(peers.REFUSED_SECONDS - 1, connected=[BOB]) == ()
    assert table.due(peers.REFUSED_SECONDS, connected=[BOB]) == learned


def test_peer_claims_only_a_few_addresses_for_itself() -> None:
    table = build_table()
    table.learn([address(BOB, port=1 + index) for index in range(16)], BOB)
    assert len(table._targets) == peers.OWN_ADDRESS_LIMIT


def test_bans_outlive_a_restart_and_keep_decaying() -> None:
    table = build_table()
    while not table.penalize(BOB, RejectionReason.MALFORMED, now=0):
        pass
    table.penalize(OWN, RejectionReason.HEADER_FIELD, now=0)
    records = table.export_records(now=100)
    later = build_table()
    later.import_records(records, age_seconds=50, now=7)
    assert later.is_banned(BOB, now=7 + peers.BAN_SECONDS - 151)
    assert not later.is_banned(BOB, now=7 + peers.BAN_SECONDS - 149)
    assert later.score(BOB, now=7) == 75
    assert table.export_records(now=10_000) == {}
    later.import_records({BOB: (-1e9, 1e9)}, age_seconds=0, now=7)
    assert not later.is_banned(BOB, now=7 + peers.BAN_SECONDS)


def test_invalid_bootstrap_address_is_reported() -> None:
    with pytest.raises(OperatorError, match=r"network\.bootstrap: 'localhost:9000'"):
        build_table("localhost:9000")
