"""The parts of training states as small files."""

import os
from pathlib import Path

import pytest

from chain.primitives import Hash32, TaskId
from chain.training.state import compute_state_root
from node.training.state_parts import StatePartStore

PARTS = tuple(Hash32(bytes([n]) * 32) for n in (1, 2, 3))
ROOT = compute_state_root(PARTS)
TASK, OTHER = TaskId(4), TaskId(12)


def list_states(store: StatePartStore) -> list[tuple[TaskId, int, Hash32, tuple[Hash32, ...]]]:
    return [
        (each.task_id, each.rounds_settled, each.root, each.part_ids) for each in store.states()
    ]


def test_parts_come_back_after_a_restart(tmp_path: Path) -> None:
    assert StatePartStore(tmp_path).put(TASK, 3, PARTS) == ROOT
    store = StatePartStore(tmp_path)
    assert store.get(ROOT) == PARTS
    assert store.get(Hash32(bytes(32))) is None
    assert list_states(store) == [(TASK, 3, ROOT, PARTS)]


def test_of_equal_states_of_a_task_the_latest_counts(tmp_path: Path) -> None:
    store = StatePartStore(tmp_path)
    for rounds_settled in (3, 5, 4):
        store.put(TASK, rounds_settled, PARTS)
    assert list_states(store) == [(TASK, 5, ROOT, PARTS)]


def test_state_that_is_computed_again_is_the_newest(tmp_path: Path) -> None:
    store = StatePartStore(tmp_path)
    store.put(TASK, 3, PARTS)
    os.utime(tmp_path / str(TASK) / ROOT.hex(), ns=(5, 5))
    assert [each.written_ns for each in store.states()] == [5]
    store.put(TASK, 3, PARTS)
    assert [each.written_ns > 5 for each in store.states()] == [True]


def test_a_state_of_two_tasks_is_forgotten_for_each(tmp_path: Path) -> None:
    store = StatePartStore(tmp_path)
    store.put(TASK, 1, PARTS)
    store.put(OTHER, 7, PARTS)
    store.remove(TASK, ROOT)
    assert store.get(ROOT) == PARTS
    assert list_states(store) == [(OTHER, 7, ROOT, PARTS)]
    store.remove_task(OTHER)
    store.remove_task(OTHER)
    assert store.get(ROOT) is None


def test_question_for_an_unknown_root_searches_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any peer may ask, as often as its limits allow; one thread answers all of them."""
    StatePartStore(tmp_path).put(TASK, 1, PARTS)
    store = StatePartStore(tmp_path)
    monkeypatch.setattr(Path, "glob", lambda *_: pytest.fail("it lists the folders of all tasks"))
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it reads a file"))
    assert store.get(Hash32(bytes(32))) is None


def test_root_that_is_written_while_it_is_removed_stays_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StatePartStore(tmp_path)
    store.put(TASK, 1, PARTS)
    unlink = Path.unlink

    def unlink_and_write(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        StatePartStore.put(store, TASK, 2, PARTS)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink_and_write)
        store.remove(TASK, ROOT)
    assert store.get(ROOT) == PARTS


@pytest.mark.parametrize("damage", [b"", b"short", b"\x01" * 96, b"".join(PARTS) + b"x"], ids=len)
def test_damaged_file_is_ignored_and_written_again(tmp_path: Path, damage: bytes) -> None:
    store = StatePartStore(tmp_path)
    store.put(TASK, 1, PARTS)
    (tmp_path / str(TASK) / ROOT.hex()).write_bytes(damage)
    assert store.get(ROOT) is None
    assert list(store.states()) == []
    store.put(TASK, 1, PARTS)
    assert store.get(ROOT) == PARTS
