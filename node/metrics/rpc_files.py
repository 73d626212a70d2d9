"""The files that hold the counts of a node's RPC processes (docs/operator-guide.md, section 13).

An RPC process has no metrics port. It counts in files that prometheus_client maps into memory, and
the node adds them up for each request of Prometheus. The files are named by the place of a process
among the node's RPC processes, not by its process id. A restarted process therefore continues the
counts of the one before it, and no file is left behind.
"""

from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.values import MultiProcessValue

from pot_common.atomic_file import write_atomically
from pot_common.errors import StorageError

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus_client finds the files."""

FILE_BYTES: Final = 2**20
"""The size of each file: a hundred methods with ten buckets each take 250 kB. The space is
allocated when the node starts, because a write through a memory map to a full disk would kill the
process."""

_GAUGES: Final = "gauge_livesum"
_KINDS: Final = ("counter", "histogram", _GAUGES)


def prepare_files(directory: Path, process_count: int) -> None:
    """Create empty files for all RPC processes.

    Raises:
        StorageError: The disk refuses the files.
    """
    try:
        directory.mkdir(exist_ok=True, mode=0o700)
        for file in directory.iterdir():
            file.unlink()
        for place in range(process_count):
            for kind in _KINDS:
                _write_empty(directory, kind, place)
    except OSError as error:
        raise StorageError(
            f"cannot write to {directory}: {error}; free or repair the disk of data_dir"
        ) from error


def reset_gauges(directory: Path, place: int) -> None:
    """Clear the gauges of a process that ended.

    Raises:
        OSError: The disk refuses the file.
    """
    _write_empty(directory, _GAUGES, place)


def count_in_files(place: int) -> None:
    """Make metrics that this process creates from now on count in the files of `place`."""
    values.ValueClass = MultiProcessValue(lambda: place)


def _write_empty(directory: Path, kind: str, place: int) -> None:
    # The file is replaced whole, because a request for the metrics may read it at any moment.
    write_atomically(directory / f"{kind}_{place}.db", bytes(FILE_BYTES))
