"""Small files that are there whole or not at all, also after a power cut."""

import os
import threading
from pathlib import Path
from typing import BinaryIO, Final

TEMPORARY_SUFFIX: Final = ".tmp"
"""Marks a file whose writing was cut off; it never held anything that counted."""


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` at `path`, replacing what is there; durable on return.

    Raises:
        OSError: the disk refused; `path` holds what it held before.
    """
    # Two processes of a node may write the same file at once; the last one stays.
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f"{path.name}.{writer}{TEMPORARY_SUFFIX}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        sync_file(file)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_file(file: BinaryIO) -> None:
    """Make what was written to `file` durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable: a rename is not, until this."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
