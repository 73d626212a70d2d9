"""A full HTTP port still accepts clients from other addresses."""

from dataclasses import dataclass

import pytest

from node.rpc.connections import choose_connection
from node.rpc.http import get_client_group


@dataclass(eq=False)
class FakeConnection:
    group: str
    opened_at: float
    is_busy: bool = False


def choose(newcomer: FakeConnection, *others: FakeConnection) -> FakeConnection:
    return choose_connection(others, newcomer)


def test_address_with_the_most_connections_loses_its_oldest_idle_one() -> None:
    busy = FakeConnection("many", 1, is_busy=True)
    young, old = FakeConnection("many", 3), FakeConnection("many", 2)
    other = FakeConnection("other", 0)
    assert choose(FakeConnection("new", 9), busy, young, old, other) is old


def test_address_without_idle_connections_loses_its_newest_request() -> None:
    first, last = (FakeConnection("many", at, is_busy=True) for at in (1, 2))
    assert choose(FakeConnection("new", 9), first, last, FakeConnection("other", 0)) is last


def test_address_with_the_most_connections_takes_none_of_another() -> None:
    busy = [FakeConnection("many", at, is_busy=True) for at in range(3)]
    newcomer = FakeConnection("many", 9)
    assert choose(newcomer, *busy, FakeConnection("other", 0)) is newcomer


def test_idle_connection_gives_way_if_all_addresses_have_one() -> None:
    busy = [FakeConnection(str(at), at, is_busy=True) for at in range(3)]
    idle, newcomer = FakeConnection("idle", 5), FakeConnection("new", 9)
    assert choose(newcomer, *busy, idle) is idle
    assert choose(newcomer, *busy) is newcomer


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:ff::1", "2001:db8:0:1::/64"),
        ("", ""),
    ],
)
def test_ipv6_network_counts_as_one_client(address: str, group: str) -> None:
    assert get_client_group(address) == group
