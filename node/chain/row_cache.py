"""A cache of decoded rows that forgets one at a time, for use from several threads."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

from cachetools import LRUCache

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class RowCache(Generic[_Key, _Value]):
    """The values that were used last."""

    def __init__(self, limit: int, size_of: Callable[[_Value], int] | None = None) -> None:
        """`limit` is of the sum of the sizes; a value is of size 1 without `size_of`."""
        self._values: LRUCache[_Key, _Value] = LRUCache(limit, size_of)
        self._lock = Lock()

    def get(self, key: _Key) -> _Value | None:
        """A value; None if it is not held."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: _Key, value: _Value) -> None:
        """Hold a value, in place of those that were not used for longest."""
        with self._lock:
            self._values[key] = value
