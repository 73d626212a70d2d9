"""Places for blobs that are being sent, shared by address (docs/spec/rpc.md, section 6)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from node.rpc.http import HttpError

ADDRESS_SHARE: Final = 4
"""One IP address takes at most one part in this many of the places."""


class ReadPlaces:
    """Places for blobs that are being sent."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: list[str] = []

    def check(self, address: str) -> None:
        """Refuse if there is no place for a client at this address.

        Raises:
            HttpError: 503: There is no place.
        """
        own = self._taken.count(address)
        if own >= self._limit // ADDRESS_SHARE or len(self._taken) >= self._limit:
            raise HttpError(503, "busy", "too many transfers at the same time: try again later")

    @contextmanager
    def hold(self, address: str) -> Iterator[None]:
        """Take a place that was checked for a moment ago."""
        self._taken.append(address)
        try:
            yield
        finally:
            self._taken.remove(address)
