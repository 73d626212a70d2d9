"""The used part of the blob quota, which all processes of a node keep as one number.

A node may hold hundreds of thousands of files, and each blob that comes needs to know whether there
is room. So the number is kept in a small file. Its lock is held while files are created, renamed or
deleted. The number is raised before a file appears and lowered after one is gone: a process that is
killed between the two leaves it too large, never too small. The node counts anew when it starts.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pot_common.lock_file import wait_for_lock

_FILE_NAME: Final = "used_bytes"
_NUMBER_BYTES: Final = 8


class LockedUsage:
    """The used bytes while this process holds their lock."""

    def __init__(self, descriptor: int, used_bytes: int) -> None:
        self._descriptor = descriptor
        self.used_bytes = used_bytes

    @contextmanager
    def changed(self, more_bytes: int) -> Iterator[None]:
        """Count files that the `with` block changes; nothing is counted if it fails."""
        if more_bytes > 0:
            self.set(self.used_bytes + more_bytes)
        try:
            yield
        except BaseException:
            if more_bytes > 0:
                self.set(self.used_bytes - more_bytes)
            raise
        if more_bytes < 0:
            self.set(self.used_bytes + more_bytes)

    def set(self, used_bytes: int) -> None:
        """Write the number. A power cut may lose it; the node then counts anew."""
        # A file that the disk has cut short was counted with its whole length.
        self.used_bytes = max(0, used_bytes)
        os.pwrite(self._descriptor, self.used_bytes.to_bytes(_NUMBER_BYTES, "big"), 0)


class BlobUsage:
    """The used bytes of one directory.

    Args:
        directory: The directory; the number is in a file there.
        count: Counts the bytes anew, from the files.
    """

    def __init__(self, directory: Path, count: Callable[[], int]) -> None:
        self._path = directory / _FILE_NAME
        self._count = count

    def get(self) -> int:
        """The number; this waits for no lock.

        Raises:
            OSError: The directory is not accessible.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        if len(data) == _NUMBER_BYTES:
            return int.from_bytes(data, "big")
        with self.lock() as usage:
            return usage.used_bytes

    @contextmanager
    def lock(self) -> Iterator[LockedUsage]:
        """Hold the lock inside the `with` block; other threads and processes wait.

        Raises:
            OSError: The directory is not accessible.
        """
        with wait_for_lock(self._path) as descriptor:
            data = os.pread(descriptor, _NUMBER_BYTES, 0)
            usage = LockedUsage(descriptor, int.from_bytes(data, "big"))
            if len(data) != _NUMBER_BYTES:
                usage.set(self._count())
            yield usage

    def count_anew(self) -> None:
        """Count the files; no other process may change them now.

        Raises:
            OSError: The directory is not accessible.
        """
        with self.lock() as usage:
            usage.set(self._count())
