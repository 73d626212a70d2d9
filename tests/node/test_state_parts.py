"""Which blobs a training state has, remembered as small files."""

from pathlib import Path

import pytest

from chain.primitives import Hash32
from chain.training.state import compute_state_root
from node.state_parts import StatePartStore

PARTS = tuple(Hash32(bytes([n]) * 32) for n in (1, 2, 3))
ROOT = compute_state_root(PARTS)


def test_parts_come_back_after_a_restart(tmp_path: Path) -> None:
    StatePartStore(tmp_path).put(ROOT, PARTS)
    store = StatePartStore(tmp_path)
    assert store.get(ROOT) == PARTS
    assert store.get(Hash32(bytes(32))) is None
    store.put(ROOT, PARTS)
    assert store.get(ROOT) == PARTS


@pytest.mark.parametrize("damage", [b"", b"short", b"\x01" * 96, b"".join(PARTS) + b"x"], ids=len)
def test_a_damaged_file_is_not_believed_and_is_written_again(tmp_path: Path, damage: bytes) -> None:
    store = StatePartStore(tmp_path)
    store.put(ROOT, PARTS)
    (tmp_path / ROOT.hex()).write_bytes(damage)
    assert store.get(ROOT) is None
    store.put(ROOT, PARTS)
    assert store.get(ROOT) == PARTS
