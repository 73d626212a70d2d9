"""A TCP proxy between each pair of nodes, which cuts their connections without privileges."""

from collections.abc import Iterable
from functools import partial
from typing import Final

import trio

from tests.chaos.links import LinkState

CHUNK_BYTES: Final = 65_536
"""The most bytes of one read."""

HOST: Final = "127.0.0.1"
"""All nodes are on this machine."""


class Link:
    """The proxy that one node dials to reach another."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        """The port that it listens on; set by `serve`."""
        self.byte_count = 0
        """The bytes passed on in both directions."""
        self._target_port = target_port
        self._state = LinkState.OPEN
        self._opened = trio.Event()
        self._opened.set()
        self._scopes: set[trio.CancelScope] = set()

    @property
    def connection_count(self) -> int:
        """The number of open connections."""
        return len(self._scopes)

    def set_state(self, state: LinkState) -> None:
        """Change the state of the link."""
        self._state = state
        if state is LinkState.SILENT:
            self._opened = trio.Event()
        else:
            self._opened.set()
        if state is LinkState.CUT:
            for scope in self._scopes:
                scope.cancel()

    async def serve(self, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections until cancelled."""
        [listener] = await trio.open_tcp_listeners(0, host=HOST)
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._handle, [listener])

    async def _handle(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self._state is not LinkState.CUT:
                    await self._join(near)
            except (OSError, trio.BrokenResourceError):
                pass  # one side is gone: the other sees the end of its stream
            finally:
                self._scopes.discard(scope)
                await trio.aclose_forcefully(near)

    async def _join(self, near: trio.SocketStream) -> None:
        await self._opened.wait()
        far = await trio.open_tcp_stream(HOST, self._target_port)
        try:
            async with trio.open_nursery() as nursery:
                for source, sink in ((near, far), (far, near)):
                    nursery.start_soon(partial(self._pump, source, sink, nursery.cancel_scope))
        finally:
            await trio.aclose_forcefully(far)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK_BYTES):
                await self._opened.wait()
                self.byte_count += len(data)
                await sink.send_all(data)
        except (OSError, trio.BrokenResourceError):
            pass
        both.cancel()


class ProxyLinks:
    """A `Link` from each node to each other one; all nodes are on loopback.

    Args:
        peer_ports: Where each node listens for its links.
    """

    name = "TCP proxies"

    def __init__(self, peer_ports: tuple[int, ...]) -> None:
        self._links = {
            (source, target): Link(port)
            for target, port in enumerate(peer_ports)
            for source in range(len(peer_ports))
            if source != target
        }

    def host(self, index: int) -> str:
        """The address of a node."""
        del index
        return HOST

    def dial(self, source: int, target: int) -> tuple[str, int]:
        """Address and port at which one node reaches another."""
        return HOST, self._links[source, target].port

    def program(self, index: int, arguments: Iterable[str]) -> tuple[str, ...]:
        """The module and arguments that start a node."""
        del index
        return tuple(arguments)

    async def create(self, nursery: trio.Nursery) -> None:
        """Begin to serve the links."""
        for link in self._links.values():
            await nursery.start(link.serve)

    async def set_state(self, index: int, state: LinkState) -> None:
        """Change every link to and from a node."""
        for pair, link in self._links.items():
            if index in pair:
                link.set_state(state)
        await trio.lowlevel.checkpoint()

    def count_passed_bytes(self) -> int:
        """The bytes that all links have passed on."""
        return sum(link.byte_count for link in self._links.values())

    async def close(self) -> None:
        """Do nothing: the links end with their nursery."""
