"""The budget that refills."""

import pytest
import trio
from trio.testing import MockClock

from node.network.budget import TokenBucket


async def test_overdrawn_budget_makes_its_user_wait(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(per_second=10, burst=20)
    start = trio.current_time()
    for _ in range(20):
        await bucket.take(1)
    assert trio.current_time() == start
    for _ in range(30):
        await bucket.take(1)
    assert trio.current_time() - start == pytest.approx(3)
    await trio.sleep(1000)
    await bucket.take(20)
    assert trio.current_time() - start == pytest.approx(1003)
