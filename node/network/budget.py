"""A budget that refills with time (docs/spec/wire.md, section 1)."""

import math

import trio


class Allowance:
    """A budget that refills with time; who overdraws it is refused."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._updated_at = -math.inf

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Use `tokens` if they are there; `now` in seconds, never less than before."""
        refilled = self._tokens + (now - self._updated_at) * self._per_second
        self._tokens = min(self._burst, refilled)
        self._updated_at = now
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True


class TokenBucket:
    """A budget that refills with time; who overdraws it waits, and his peer with him."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._updated_at = -math.inf

    async def take(self, tokens: float) -> None:
        """Use `tokens`, after waiting until there were as many (or the whole burst)."""
        now = trio.current_time()
        self._tokens += (now - self._updated_at) * self._per_second
        self._tokens = min(self._tokens, self._burst) - tokens
        self._updated_at = now
        if self._tokens < 0:
            await trio.sleep(-self._tokens / self._per_second)
