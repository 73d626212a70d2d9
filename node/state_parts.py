"""Which blobs a training state consists of (docs/spec/training.md, section 8).

A root says nothing of what is below it; this remembers the content ids, for restarts and peers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chain.primitives import Hash32
from chain.training.state import compute_state_root
from node.atomic_file import write_atomically

MAX_PARTS: Final = 16
"""More tensors than any optimizer keeps."""


class StatePartStore:
    """Content ids by training state root, as small files below one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def put(self, root: Hash32, part_ids: Sequence[Hash32]) -> None:
        """Remember the parts of a state; they must hash to its root."""
        assert compute_state_root(part_ids) == root
        if self.get(root) is None:
            write_atomically(self._directory / root.hex(), b"".join(part_ids))

    def get(self, root: Hash32) -> tuple[Hash32, ...] | None:
        """The parts of a state, theta first; None if they are not known."""
        try:
            data = (self._directory / root.hex()).read_bytes()
        except FileNotFoundError:
            return None
        part_ids = tuple(Hash32(data[start : start + 32]) for start in range(0, len(data), 32))
        return part_ids if part_ids and compute_state_root(part_ids) == root else None
