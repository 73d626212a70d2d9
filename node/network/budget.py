"""Budgets that refill with time (docs/spec/wire.md, section 1)."""

import math

import trio


class _Budget:
    """Tokens that are used up and come back with time, up to `burst`."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._updated_at = -math.inf

    def _refill(self, now: float) -> None:
        refilled = self._tokens + (now - self._updated_at) * self._per_second
        self._tokens = min(self._burst, refilled)
        self._updated_at = now


class Allowance(_Budget):
    """A token bucket that refuses instead of waiting."""

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Use `tokens` if the bucket holds them; `now` is in seconds and never goes back."""
        self._refill(now)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True


class TokenBucket(_Budget):
    """A token bucket in which callers wait in the order of their calls."""

    async def take(self, tokens: float) -> None:
        """Use `tokens`, after waiting for the time in which missing ones come back."""
        self._refill(trio.current_time())
        self._tokens -= tokens
        if self._tokens < 0:
            await trio.sleep(-self._tokens / self._per_second)
