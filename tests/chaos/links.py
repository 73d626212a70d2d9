"""The network between the nodes under test, and how it fails."""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

import trio


class LinkState(Enum):
    """What happens to what a node sends to other nodes, and is sent by them."""

    OPEN = auto()
    SILENT = auto()
    """Connections stay; nothing arrives."""
    CUT = auto()
    """There is no way to it."""


class Links(Protocol):
    """Addresses of nodes, and what lies between them."""

    name: str
    """As the report calls it."""

    def host(self, index: int) -> str:
        """The address of a node."""

    def dial(self, source: int, target: int) -> tuple[str, int]:
        """Address and port at which one node reaches another."""

    def program(self, index: int, arguments: Iterable[str]) -> tuple[str, ...]:
        """The module and arguments that start a node where it belongs."""

    async def create(self, nursery: trio.Nursery) -> None:
        """Set it up, all of it open."""

    async def set_state(self, index: int, state: LinkState) -> None:
        """Change what happens to everything that a node sends and is sent."""

    def count_passed_bytes(self) -> int:
        """What has gone through."""

    async def close(self) -> None:
        """Leave nothing behind."""
