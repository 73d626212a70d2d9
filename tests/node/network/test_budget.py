"""Budgets that refill."""

import pytest
import trio
from trio.testing import MockClock

from node.network.budget import Allowance, TokenBucket


async def test_token_bucket_waits_when_overdrawn(autojump_clock: MockClock) -> None:
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


def test_used_up_allowance_refuses_until_it_refills() -> None:
    allowance = Allowance(per_second=10, burst=20)
    assert allowance.take(100.0, 15)
    assert not allowance.take(100.0, 6)
    assert allowance.take(100.0, 5)
    assert not allowance.take(100.5, 6.5)
    assert allowance.take(101.0, 6)
    assert not allowance.take(10_000.0, 21)
    assert allowance.take(10_000.0, 20)
