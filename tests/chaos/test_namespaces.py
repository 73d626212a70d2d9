"""Packets between namespaces, if this machine allows namespaces."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.chaos.links import LinkState
from tests.chaos.namespaces import NamespaceLinks, NotAllowedError

# Marked slow so that `make test` does not list them as skipped where namespaces are not allowed.
pytestmark = pytest.mark.slow

BASE_PORT = 22_000 + os.getpid() % 1_000
"""Names the bridge; this process listens on none."""
PORT = 8_000
SERVE = """
import socketserver, sys

class Here(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"here")

socketserver.TCPServer((sys.argv[1], int(sys.argv[2])), Here).serve_forever()
"""
ASK = """
import socket, sys

print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).recv(4).decode())
"""


@asynccontextmanager
async def running_links(node_count: int) -> AsyncIterator[NamespaceLinks]:
    """Namespaces with a server in each."""
    links = NamespaceLinks(BASE_PORT, (PORT,) * node_count)
    async with trio.open_nursery() as nursery:
        try:
            await links.create(nursery)
        except NotAllowedError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        try:
            for index in range(node_count):
                program = [*links.inside(index), sys.executable, "-c", SERVE]
                nursery.start_soon(trio.run_process, [*program, links.host(index), str(PORT)])
            yield links
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await links.close()


async def asks(links: NamespaceLinks, source: int | None, target: int) -> bool:
    """Whether a node, or this process if None, gets an answer from another."""
    inside = () if source is None else links.inside(source)
    host, port = links.dial(source or 0, target)
    program = [*inside, sys.executable, "-c", ASK, host, str(port)]
    done = await trio.run_process(program, capture_stdout=True, capture_stderr=True, check=False)
    return done.stdout.strip() == b"here"


async def wait_for_answer(links: NamespaceLinks, source: int | None, target: int) -> None:
    with trio.fail_after(30):
        while not await asks(links, source, target):  # noqa: ASYNC110 - it has no event for us
            await trio.sleep(0.1)


async def test_silenced_node_hears_no_node_and_a_cut_link_hears_nothing() -> None:
    async with running_links(3) as links:
        for target in range(3):
            await wait_for_answer(links, None, target)
        assert await asks(links, 0, 1)

        await links.set_state(1, LinkState.SILENT)
        assert not await asks(links, 0, 1)
        assert not await asks(links, 1, 0)
        assert await asks(links, None, 1)
        assert await asks(links, 0, 2)

        # Two changes at once: node 1 is open again, but node 0 is silent.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(links.set_state, 0, LinkState.SILENT)
            nursery.start_soon(links.set_state, 1, LinkState.OPEN)
        assert not await asks(links, 0, 1)
        assert await asks(links, 1, 2)

        await links.set_state(0, LinkState.CUT)
        assert not await asks(links, None, 0)
        assert not await asks(links, 0, 2)
        await links.set_state(0, LinkState.OPEN)
        await wait_for_answer(links, None, 0)
        await wait_for_answer(links, 0, 1)
        assert links.count_passed_bytes() > 0


async def test_leftovers_of_a_killed_run_are_no_obstacle() -> None:
    async with running_links(0), trio.open_nursery() as nursery:
        links = NamespaceLinks(BASE_PORT, (PORT, PORT))
        for _ in range(2):
            await links.create(nursery)
        await links.close()
