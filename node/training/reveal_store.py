"""What opens commitments: who revealed which gradient (docs/spec/training.md, section 10).

One small file a reveal, so that the RPC process that took an upload and the node process that
verifies share them without a lock. The gradient itself is a blob.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chain import codec
from chain.errors import RejectedInputError
from chain.primitives import Address, Hash32, TaskId
from chain.training.encoding import GradientHeader, compute_commitment
from pot_common.atomic_file import write_atomically

REVEAL_LIMIT_BYTES: Final = 160
"""Seven fields: three hashes or addresses and four integers."""


_ADDRESS_NAME: Final = re.compile("[0-9a-f]{40}")
"""Other files, such as half-written ones, are none of ours."""

_ATTEMPT_NAME: Final = re.compile(r"\d{1,20}/\d{1,10}-\d{1,10}")
"""Task, round and attempt."""


@dataclass(frozen=True, slots=True)
class Reveal:
    """What a miner says is behind its commitment."""

    task_id: TaskId
    round_number: int
    attempt: int
    miner: Address
    units: int
    salt: Hash32
    gradient_root: Hash32

    def to_item(self) -> codec.Encodable:
        """The seven fields."""
        return [
            self.task_id,
            self.round_number,
            self.attempt,
            self.miner,
            self.units,
            self.salt,
            self.gradient_root,
        ]

    def encode(self) -> bytes:
        """The RLP list of the seven fields."""
        return codec.encode(self.to_item())

    def opens(self, commitment: Hash32, header: GradientHeader) -> bool:
        """Whether this is what `commitment` binds, for the gradient that `header` describes."""
        is_same = (header.task, header.round_number, header.attempt, header.miner) == (
            self.task_id,
            self.round_number,
            self.attempt,
            self.miner,
        )
        opened = compute_commitment(header, self.gradient_root, self.salt, self.units)
        return is_same and opened == commitment


def reveal_from_item(item: codec.Item) -> Reveal:
    """The reveal of a decoded RLP list.

    Raises:
        RejectedInputError: MALFORMED.
    """
    fields = codec.as_list(item, length=7)
    return Reveal(
        task_id=TaskId(codec.as_uint(fields[0], bits=64)),
        round_number=codec.as_uint(fields[1], bits=32),
        attempt=codec.as_uint(fields[2], bits=32),
        miner=Address(codec.as_bytes(fields[3], length=20)),
        units=codec.as_uint(fields[4], bits=32),
        salt=Hash32(codec.as_bytes(fields[5], length=32)),
        gradient_root=Hash32(codec.as_bytes(fields[6], length=32)),
    )


class RevealStore:
    """The reveals that this node holds, as files below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, reveal: Reveal) -> None:
        """Keep a reveal that opens its commitment; durable on return."""
        path = self._path(reveal.task_id, reveal.round_number, reveal.attempt)
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / reveal.miner.hex(), reveal.encode())

    def get(
        self, task_id: TaskId, round_number: int, attempt: int, miner: Address
    ) -> Reveal | None:
        """The reveal of a miner in an attempt, or None if it is not held."""
        path = self._path(task_id, round_number, attempt) / miner.hex()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            reveal = reveal_from_item(codec.decode(data, limit_bytes=REVEAL_LIMIT_BYTES))
        except RejectedInputError:
            # A damaged file is a reveal that is not held; a peer or the miner has it still.
            return None
        return reveal if reveal.miner == miner else None

    def list(self, task_id: TaskId, round_number: int, attempt: int) -> tuple[Reveal, ...]:
        """The reveals of an attempt, by miner."""
        directory = self._path(task_id, round_number, attempt)
        names: Iterable[str] = (
            sorted(path.name for path in directory.iterdir()) if directory.is_dir() else ()
        )
        found = (
            self.get(task_id, round_number, attempt, Address(bytes.fromhex(name)))
            for name in names
            if _ADDRESS_NAME.fullmatch(name)
        )
        return tuple(reveal for reveal in found if reveal is not None)

    def attempts(self) -> Iterator[tuple[TaskId, int, int]]:
        """Task, round and attempt of every folder of reveals."""
        if not self._directory.is_dir():
            return
        for folder in self._directory.glob("*/*"):
            if _ATTEMPT_NAME.fullmatch(f"{folder.parent.name}/{folder.name}"):
                round_number, attempt = folder.name.split("-")
                yield TaskId(int(folder.parent.name)), int(round_number), int(attempt)

    def remove(self, task_id: TaskId, round_number: int, attempt: int) -> None:
        """Forget the reveals of an attempt."""
        shutil.rmtree(self._path(task_id, round_number, attempt))

    def remove_task(self, task_id: TaskId) -> None:
        """Forget a task whose attempts are forgotten."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._directory / str(task_id))

    def _path(self, task_id: TaskId, round_number: int, attempt: int) -> Path:
        return self._directory / str(task_id) / f"{round_number}-{attempt}"
