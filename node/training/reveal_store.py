"""The reveals that this node holds, as files (docs/spec/training.md, section 10).

Each reveal is one small file, so that the RPC process, which takes uploads, and the node process,
which checks them, share reveals without a lock. The gradient itself is a blob.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from chain import codec
from chain.errors import RejectedInputError
from chain.primitives import Address, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import REVEAL_LIMIT_BYTES, Reveal, reveal_from_item
from pot_common.atomic_file import write_atomically
from pot_common.errors import StorageError

_ADDRESS_NAME: Final = re.compile("[0-9a-f]{40}")
"""The name of a reveal's file: the miner. Other files, such as half-written ones, are ignored."""

_ATTEMPT_NAME: Final = re.compile(r"\d{1,20}/\d{1,10}-\d{1,10}")
"""The path of an attempt's folder: task, round and attempt number."""


class RevealStore:
    """Reveals by attempt and miner, as files below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, reveal: Reveal) -> None:
        """Write a reveal that opens its commitment; it is durable on return.

        One that is stored already is not written again: others know it and may repeat it.

        Raises:
            StorageError: The disk refused.
        """
        path = self._path(reveal.attempt_id)
        try:
            if self.get(reveal.attempt_id, reveal.miner) == reveal:
                return
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / reveal.miner.hex(), reveal.encode())
        except OSError as error:
            raise StorageError(
                f"cannot write reveals to {self._directory}: {error}; free or repair the disk of "
                "data_dir"
            ) from error

    def get(self, attempt_id: AttemptId, miner: Address) -> Reveal | None:
        """The reveal of a miner in an attempt; None if it is not held."""
        path = self._path(attempt_id) / miner.hex()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            reveal = reveal_from_item(codec.decode(data, limit_bytes=REVEAL_LIMIT_BYTES))
        except RejectedInputError:
            # A damaged file counts as missing; a peer or the miner still has the reveal.
            return None
        return reveal if reveal.miner == miner else None

    def get_change_ns(self, attempt_id: AttemptId) -> int | None:
        """When the reveals of an attempt last changed, in Unix nanoseconds; None if there are none.

        The clock of the file system is coarse: changes within some milliseconds may have one time.
        """
        try:
            return self._path(attempt_id).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def list(self, attempt_id: AttemptId) -> tuple[Reveal, ...]:
        """The reveals of an attempt by ascending miner address."""
        found = (self.get(attempt_id, miner) for miner in self.list_miners(attempt_id))
        return tuple(reveal for reveal in found if reveal is not None)

    def list_miners(self, attempt_id: AttemptId) -> Sequence[Address]:
        """The miners that have a reveal in an attempt, by ascending address."""
        directory = self._path(attempt_id)
        try:
            names = sorted(path.name for path in directory.iterdir())
        except FileNotFoundError:
            return []
        return [Address(bytes.fromhex(name)) for name in names if _ADDRESS_NAME.fullmatch(name)]

    def attempts(self) -> Iterator[AttemptId]:
        """The attempts that have a folder of reveals."""
        if not self._directory.is_dir():
            return
        for folder in self._directory.glob("*/*"):
            if _ATTEMPT_NAME.fullmatch(f"{folder.parent.name}/{folder.name}"):
                round_number, attempt_number = map(int, folder.name.split("-"))
                yield AttemptId(TaskId(int(folder.parent.name)), round_number, attempt_number)

    def remove(self, attempt_id: AttemptId) -> None:
        """Delete the reveals of an attempt."""
        shutil.rmtree(self._path(attempt_id))

    def remove_task(self, task_id: TaskId) -> None:
        """Delete the folder of a task."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._directory / str(task_id))

    def _path(self, attempt_id: AttemptId) -> Path:
        name = f"{attempt_id.round_number}-{attempt_id.attempt_number}"
        return self._directory / str(attempt_id.task_id) / name
