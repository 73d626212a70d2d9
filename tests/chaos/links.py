"""The network between the nodes under test, and how it fails."""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

import trio


class LinkState(Enum):
    """The state of a node's connections to all other nodes."""

    OPEN = auto()
    SILENT = auto()
    """Connections stay open, but nothing arrives in either direction."""
    CUT = auto()
    """The node cannot be reached."""


class Links(Protocol):
    """The addresses of the nodes and the network between them."""

    name: str
    """The name in the report."""

    def host(self, index: int) -> str:
        """The address of a node."""

    def dial(self, source: int, target: int) -> tuple[str, int]:
        """Address and port at which one node reaches another."""

    def program(self, index: int, arguments: Iterable[str]) -> tuple[str, ...]:
        """The module and arguments that start a node in its place in the network."""

    async def create(self, nursery: trio.Nursery) -> None:
        """Set up the network; all connections are open."""

    async def set_state(self, index: int, state: LinkState) -> None:
        """Change the state of a node's connections."""

    def count_passed_bytes(self) -> int:
        """The bytes that went through the network so far."""

    async def close(self) -> None:
        """Remove everything that `create` made."""
