from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.chaos.links import LinkState
from tests.chaos.proxy import HOST, Link

SILENCE_SECONDS = 0.05
PATIENCE_SECONDS = 10


@asynccontextmanager
async def echo_behind_link() -> AsyncIterator[Link]:
    """A link to an echo server."""

    async def echo(stream: trio.SocketStream) -> None:
        try:
            while data := await stream.receive_some(1024):
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host=HOST)
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            link = Link(listener.socket.getsockname()[1])
            await nursery.start(link.serve)
            yield link
            nursery.cancel_scope.cancel()


async def ask(stream: trio.SocketStream, data: bytes) -> bytes:
    await stream.send_all(data)
    return bytes(await stream.receive_some(1024))


async def test_an_open_link_passes_both_directions() -> None:
    async with echo_behind_link() as link:
        stream = await trio.open_tcp_stream(HOST, link.port)
        assert await ask(stream, b"hello") == b"hello"
        assert (link.byte_count, link.connection_count) == (10, 1)
        await stream.aclose()


async def test_a_silent_link_keeps_connections_and_delivers_late() -> None:
    async with echo_behind_link() as link:
        stream = await trio.open_tcp_stream(HOST, link.port)
        assert await ask(stream, b"a") == b"a"
        link.set_state(LinkState.SILENT)
        await stream.send_all(b"b")
        with trio.move_on_after(SILENCE_SECONDS) as scope:
            await stream.receive_some(1)
        assert scope.cancelled_caught
        link.set_state(LinkState.OPEN)
        assert await stream.receive_some(1) == b"b"
        await stream.aclose()


async def test_cut_link_ends_connections_and_refuses_new_ones_until_repaired() -> None:
    async with echo_behind_link() as link:
        old = await trio.open_tcp_stream(HOST, link.port)
        assert await ask(old, b"a") == b"a"
        link.set_state(LinkState.CUT)
        assert await end_of(old)
        new = await trio.open_tcp_stream(HOST, link.port)
        assert await end_of(new)
        link.set_state(LinkState.OPEN)
        mended = await trio.open_tcp_stream(HOST, link.port)
        assert await ask(mended, b"b") == b"b"
        await mended.aclose()


async def end_of(stream: trio.SocketStream) -> bool:
    """Whether the stream ends without another byte."""
    try:
        data = await stream.receive_some(1)
    except trio.BrokenResourceError:
        data = b""
    await trio.aclose_forcefully(stream)
    return data == b""


@pytest.mark.parametrize("state", [LinkState.OPEN, LinkState.SILENT])
async def test_link_to_a_closed_port_ends_connections(state: LinkState) -> None:
    async with trio.open_nursery() as nursery:
        link = Link(1)
        await nursery.start(link.serve)
        link.set_state(state)
        stream = await trio.open_tcp_stream(HOST, link.port)
        link.set_state(LinkState.OPEN)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await end_of(stream)
        nursery.cancel_scope.cancel()
