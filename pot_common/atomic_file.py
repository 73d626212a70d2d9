"""Small files that are either complete or absent, also after a power cut."""

import os
import threading
from pathlib import Path
from typing import BinaryIO, Final

TEMPORARY_SUFFIX: Final = ".tmp"
"""The ending of a file that is being written; one that is left over can be deleted."""


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to the file `path`, replacing its content; durable on return.

    Raises:
        OSError: The disk refused; the file has its old content.
    """
    # Several processes may write one file at once, each through a temporary file of its own.
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f"{path.name}.{writer}{TEMPORARY_SUFFIX}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        sync_file(file)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_file(file: BinaryIO) -> None:
    """Make the bytes that were written to `file` durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; a rename is durable only after this."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
