"""Waiting in trio tests, under the real clock or a virtual one."""

from collections.abc import Callable

import trio

TICK_SECONDS = 0.01


async def until(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    """Wait for a condition that other tasks bring about; fail after `seconds` of trio's clock."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - any condition, of any task
            await trio.sleep(TICK_SECONDS)


async def run_thread_inline(function: Callable[..., object], *arguments: object, **_: object):
    """Replace `trio.to_thread.run_sync`: a virtual clock runs on while a real thread works."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)
