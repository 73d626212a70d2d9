"""Locks that end with their process, against two processes on one directory or one key."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pot_common.errors import OperatorError


@contextmanager
def lock(path: Path, *, purpose: str, cure: str) -> Iterator[None]:
    """Hold the lock file `path` inside the `with` block.

    Args:
        path: The file, created if it is absent. It stays: removing it could break a new lock.
        purpose: The thing that it guards, for the message: "the data directory /var/lib/pot".
        cure: What the operator can change, for the message.

    Raises:
        OperatorError: Another process, which the message names, holds it, or it is not accessible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperatorError(f"cannot lock {purpose} ({path}): {error.strerror}; {cure}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise OperatorError(
                f"{purpose} is in use by the process {holder}: stop it first, or {cure}"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def wait_for_lock(path: Path) -> Iterator[int]:
    """Hold the lock of a file, which is created if it is absent; other threads wait, too.

    The `with` block gets the descriptor of the file, for reading and writing.

    Raises:
        OSError: The file is not accessible.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
