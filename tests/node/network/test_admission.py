"""Inbound connections, as loops over numbers."""

import ipaddress

from node.network import admission
from node.network.admission import Admission, RefusalReason, get_address_group

HOME = "203.0.113.7"


def fill(
    table: Admission, count: int, host: str = HOME, now: float = 0.0
) -> list[RefusalReason | None]:
    return [table.admit((host, port), now) for port in range(count)]


def test_connections_of_one_address_are_limited() -> None:
    table = Admission(accept_private_addresses=False)
    assert set(fill(table, admission.ADDRESS_CONNECTION_LIMIT)) == {None}
    assert table.admit((HOME, 9999), now=1e6) is RefusalReason.ADDRESS_FULL
    assert table.admit(("203.0.113.8", 1), now=1e6) is None
    table.release((HOME, 0))
    assert table.admit((HOME, 9999), now=1e6) is None


def test_reconnecting_address_is_rate_limited() -> None:
    table = Admission(accept_private_addresses=False)
    admitted = 0
    for tenth in range(600):
        if table.admit((HOME, tenth), now=tenth / 10) is None:
            admitted += 1
            table.release((HOME, tenth))
    assert admission.ADDRESS_BURST + 58 <= admitted <= admission.ADDRESS_BURST + 60


def test_total_rate_is_limited_but_not_for_validators() -> None:
    table = Admission(accept_private_addresses=False)
    validator = ("198.51.100.1", 30303)
    assert table.admit(validator, now=0) is None
    table.keep(validator, is_validator=True)
    table.release(validator)
    hosts = [f"203.0.{index // 250}.{1 + index % 250}" for index in range(2000)]
    outcomes = [table.admit((host, 1), now=0) for host in hosts]
    assert outcomes.count(None) == admission.TOTAL_BURST - 1
    assert set(outcomes) == {None, RefusalReason.TOO_FAST}
    assert table.admit(validator, now=0) is None


def test_address_of_a_validator_is_rate_limited_too() -> None:
    table = Admission(accept_private_addresses=False)
    validator = (HOME, 30303)
    table.admit(validator, now=0)
    table.keep(validator, is_validator=True)
    outcomes = [table.admit((HOME, port), now=port / 100) for port in range(1000)]
    admitted = outcomes.count(None)
    expected = admission.TRUSTED_BURST + 10 * admission.TRUSTED_PER_SECOND
    assert expected - 2 <= admitted <= expected
    # They use nothing of the total rate.
    assert table.admit(("198.51.100.1", 1), now=10) is None


def test_newest_sessionless_connection_of_busiest_address_is_closed() -> None:
    table = Admission(accept_private_addresses=True)
    fill(table, 40, host="10.0.0.1")
    fill(table, 24, host="10.0.0.2")
    assert table.find_surplus() is None
    table.admit(("10.0.0.3", 1), now=0)
    assert table.find_surplus() == ("10.0.0.1", 39)
    for port in range(10, 40):
        table.keep(("10.0.0.1", port), is_validator=False)
    assert table.find_surplus() is None
    fill(table, 64, host="10.0.0.4")
    assert table.find_surplus() == ("10.0.0.4", 63)


def test_validators_do_not_count_against_their_address() -> None:
    table = Admission(accept_private_addresses=False)
    fill(table, admission.ADDRESS_CONNECTION_LIMIT)
    for port in range(4):
        table.keep((HOME, port), is_validator=True)
    # Another node at a validator's address is still admitted.
    assert table.admit((HOME, 9999), now=0) is None


def test_tables_are_bounded() -> None:
    table = Admission(accept_private_addresses=False)
    for index in range(6000):
        endpoint = (str(ipaddress.ip_address(0x08000000 + index)), 1)
        if table.admit(endpoint, now=float(index)) is None:
            table.keep(endpoint, is_validator=True)
            table.release(endpoint)
    assert len(table._budgets) <= admission.ADDRESS_RECORD_LIMIT
    assert len(table._trusted) == admission.TRUSTED_LIMIT
    assert table.count() == 0


def test_ipv6_subnet_counts_as_one_address() -> None:
    groups = {
        get_address_group(ipaddress.ip_address(text)) for text in ("2001:db8::1", "2001:db8::2:3")
    }
    assert groups == {"2001:db8::/64"}
    assert get_address_group(ipaddress.ip_address("::ffff:192.0.2.1")) == "192.0.2.1"
