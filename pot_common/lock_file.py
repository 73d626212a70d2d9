"""A lock that ends with its process: no second node on one data directory or consensus key."""

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
        path: made if it is absent, and never removed: removing it would race with the next holder.
        purpose: what it guards, for the message: "the data directory /var/lib/pot".
        cure: what to change.

    Raises:
        OperatorError: another process holds it (the message names its id), or it is not accessible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperatorError(f"cannot lock {purpose}: {error}; {cure}") from error
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
