"""Fetching data from URLs that a task's submitter named (docs/spec/training.md, section 1).

Anyone may submit a task, so such a URL may name a machine that only this miner can reach: its
own services, a router, the metadata service of a cloud. Only public addresses are asked. The name
is resolved once, every address of it is checked, and the connection goes to a checked address, so
that no second answer of the name service can replace it. Redirects are followed in the same way.
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx

MAX_REDIRECTS: Final = 4
"""A file is at its URL or one host further; mirrors chain a few."""

MIN_BYTES_PER_SECOND: Final = 16 * 1_024
"""A mirror that is slower is given up. It must not keep the miner from asking the next one."""

GRACE_SECONDS: Final = 30.0
"""The time that a mirror has in addition, to connect and to begin."""

METADATA_ADDRESSES: Final = frozenset({IPv4Address("168.63.129.16")})
"""Addresses of cloud services that look public: Azure's platform service."""

NAT64_NETWORK: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address, which a gateway translates."""

REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a host name, for a port."""


class PrivateAddressError(Exception):
    """A URL leads to an address that is not public."""


def resolve_host(host: str, port: int) -> tuple[str, ...]:
    """The addresses of a host name.

    Raises:
        OSError: There is no such name.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(text: str) -> bool:
    """Whether an address is one that the whole internet can reach.

    An IPv6 address that stands for an IPv4 address is as public as that one.
    """
    try:
        address = ip_address(text)
    except ValueError:  # such as an IPv6 address with a zone, which is link-local
        return False
    if isinstance(address, IPv6Address):
        inner = _find_inner(address)
        if inner is not None:
            return is_public(str(inner))
        if address.is_site_local:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in METADATA_ADDRESSES
    )


def _find_inner(address: IPv6Address) -> IPv4Address | None:
    if address.teredo is not None:
        return address.teredo[1]
    if address in NAT64_NETWORK:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class Mirrors:
    """Opens URLs of task data at public addresses.

    Args:
        http: The connections.
        private_hosts: Names of hosts that may have private addresses; the operator trusts them.
        resolve: The name service.
    """

    def __init__(
        self,
        http: httpx.Client,
        private_hosts: frozenset[str] = frozenset(),
        resolve: Resolve = resolve_host,
    ) -> None:
        self._http = http
        self._private_hosts = private_hosts
        self._resolve = resolve

    @contextmanager
    def stream(self, source: str, byte_count: int) -> Iterator[Iterator[bytes]]:
        """The body at a URL, as it arrives.

        Raises:
            PrivateAddressError: The URL, or one that it redirects to, is not at a public address.
            httpx.HTTPError: The mirror does not answer, or not with the file.
            httpx.InvalidURL, ValueError: There is no such host, or the URL is malformed.
        """
        url = httpx.URL(source)
        started = time.monotonic()
        for _ in range(MAX_REDIRECTS + 1):
            with self._open(url) as response:
                if response.status_code not in REDIRECT_STATUSES:
                    response.raise_for_status()
                    yield limit_time(response.iter_bytes(), byte_count, started)
                    return
                url = url.join(response.headers.get("location", ""))
        raise ValueError(f"{source} redirects more than {MAX_REDIRECTS} times")

    @contextmanager
    def _open(self, url: httpx.URL) -> Iterator[httpx.Response]:
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{url} is not a http or https URL")
        with ExitStack() as stack:
            failure: httpx.HTTPError | None = None
            for target in self._list_targets(url):
                # The name stays in the header and in the TLS handshake, which checks it.
                opened = self._http.stream(
                    "GET",
                    target,
                    headers={"host": url.netloc.decode("ascii"), "accept-encoding": "identity"},
                    extensions={"sni_hostname": url.host},
                )
                try:
                    response = stack.enter_context(opened)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failure = error
                    continue
                yield response
                return
            raise failure or ValueError(f"{url.host} has no address")

    def _list_targets(self, url: httpx.URL) -> list[httpx.URL]:
        """The URL with each checked address in the place of its host name."""
        if url.host in self._private_hosts:
            return [url]
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = self._resolve(url.host, port)
        except OSError as error:
            raise ValueError(f"{url.host} cannot be resolved ({error})") from error
        private = [each for each in addresses if not is_public(each)]
        if private:
            raise PrivateAddressError(
                f"{url.host} is at {private[0]}, which is not a public address; if you trust it, "
                f"allow it with --private-data-host {url.host}"
            )
        return [url.copy_with(host=each) for each in addresses]


def limit_time(parts: Iterable[bytes], byte_count: int, started: float) -> Iterator[bytes]:
    """The parts of a body of `byte_count` bytes that was asked for at `started` (monotonic).

    Raises:
        ValueError: The body comes too slowly.
    """
    deadline = started + GRACE_SECONDS + byte_count / MIN_BYTES_PER_SECOND
    for part in parts:
        if time.monotonic() > deadline:
            raise ValueError(f"slower than {MIN_BYTES_PER_SECOND} bytes a second")
        yield part
