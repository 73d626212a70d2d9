"""Task data from URLs that a submitter named: which addresses are asked, and under which name."""

import httpx
import pytest

from miner import mirrors
from miner.mirrors import Mirrors, PrivateAddressError

PUBLIC, OTHER = "93.184.216.34", "2606:2800:220:1::1"
FILE = b"rows" * 1_000
Names = dict[str, tuple[str, ...]]


class Internet:
    """Hosts by name, and what each answers at its addresses."""

    def __init__(self, names: Names, private_hosts: frozenset[str] = frozenset()) -> None:
        self.names = names
        self.asked: list[tuple[str, str, object]] = []
        self.redirects: dict[str, str] = {}
        self.down: set[str] = set()
        self.resolved: list[str] = []
        http = httpx.Client(transport=httpx.MockTransport(self._answer))
        self.mirrors = Mirrors(http, private_hosts, self._resolve)

    def _resolve(self, host: str, _port: int) -> tuple[str, ...]:
        self.resolved.append(host)
        if host not in self.names:
            raise OSError("unknown host")
        return self.names[host]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.host in self.down:
            raise httpx.ConnectError("refused", request=request)
        name = request.headers["host"]
        self.asked.append((request.url.host, name, request.extensions.get("sni_hostname")))
        target = self.redirects.get(name)
        if target is not None:
            return httpx.Response(302, headers={"location": target})
        return httpx.Response(200, content=FILE)

    def fetch(self, url: str) -> bytes:
        with self.mirrors.stream(url, len(FILE)) as parts:
            return b"".join(parts)


def test_connection_goes_to_the_checked_address_under_the_name() -> None:
    net = Internet({"data.example": (PUBLIC,)})
    assert net.fetch("https://user:secret@data.example:8443/shard") == FILE
    assert net.asked == [(PUBLIC, "data.example:8443", "data.example")]
    assert net.resolved == ["data.example"]


def test_next_address_is_tried_when_one_does_not_answer() -> None:
    net = Internet({"data.example": (OTHER, PUBLIC)})
    net.down = {OTHER}
    assert net.fetch("https://data.example/shard") == FILE
    net.down = {OTHER, PUBLIC}
    with pytest.raises(httpx.ConnectError):
        net.fetch("https://data.example/shard")


def test_name_with_one_private_address_among_public_ones_is_refused() -> None:
    net = Internet({"data.example": (PUBLIC, "10.0.0.7")})
    with pytest.raises(PrivateAddressError, match=r"--private-data-host data\.example"):
        net.fetch("https://data.example/shard")
    assert net.asked == []


def test_redirect_to_a_private_address_is_refused() -> None:
    net = Internet({"data.example": (PUBLIC,), "inside.example": ("192.168.1.1",)})
    net.redirects = {"data.example": "http://inside.example/admin"}
    with pytest.raises(PrivateAddressError):
        net.fetch("https://data.example/shard")
    assert [address for address, *_ in net.asked] == [PUBLIC]


def test_redirects_are_followed_a_few_times() -> None:
    net = Internet({"a.example": (PUBLIC,), "b.example": (PUBLIC,)})
    net.redirects = {"a.example": "https://b.example/shard"}
    assert net.fetch("https://a.example/shard") == FILE
    net.redirects["b.example"] = "https://a.example/shard"
    with pytest.raises(ValueError, match="redirects more than"):
        net.fetch("https://a.example/shard")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://data.example/", "https://"])
def test_only_http_urls_are_opened(target: str) -> None:
    net = Internet({"data.example": (PUBLIC,)})
    net.redirects = {"data.example": target}
    with pytest.raises((ValueError, httpx.InvalidURL)):
        net.fetch("https://data.example/shard")


def test_named_host_may_be_at_a_private_address() -> None:
    net = Internet({}, frozenset({"nas.local"}))
    assert net.fetch("http://nas.local/shard") == FILE
    assert net.resolved == []


def test_unknown_host_is_a_plain_error() -> None:
    with pytest.raises(ValueError, match=r"data\.example cannot be resolved"):
        Internet({}).fetch("https://data.example/shard")


def test_mirror_that_sends_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Internet({"data.example": (PUBLIC,)})
    with net.mirrors.stream("https://data.example/shard", len(FILE)) as parts:
        now = mirrors.time.monotonic()
        monkeypatch.setattr(mirrors.time, "monotonic", lambda: now + 60)
        with pytest.raises(ValueError, match="slower than"):
            list(parts)


@pytest.mark.parametrize(
    "address", [PUBLIC, OTHER, "8.8.8.8", "2002:808:808::1", "64:ff9b::808:808"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert mirrors.is_public(address)
