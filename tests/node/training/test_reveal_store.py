"""Reveals as files: written ones come back, damaged ones count as missing."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import codec
from chain.errors import RejectedInputError
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.encoding import compute_commitment
from chain.training.reveal import REVEAL_LIMIT_BYTES, Reveal, reveal_from_item
from node.training.reveal_store import RevealStore
from tests.worlds.training import HEADER

REVEAL = Reveal(
    HEADER.attempt_id,
    HEADER.miner,
    3,
    Hash32(b"\x5a" * 32),
    Hash32(b"\x6b" * 32),
)


NEXT_ATTEMPT = replace(HEADER.attempt_id, attempt_number=HEADER.attempt_id.attempt_number + 1)


def words(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@given(
    st.builds(
        Reveal,
        attempt_id=st.builds(
            AttemptId,
            st.integers(0, 2**64 - 1).map(TaskId),
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**32 - 1),
        ),
        miner=words(20).map(Address),
        units=st.integers(0, 2**32 - 1),
        salt=words(32).map(Hash32),
        gradient_root=words(32).map(Hash32),
    )
)
def test_every_reveal_fits_its_limit_and_decodes_to_itself(reveal: Reveal) -> None:
    item = codec.decode(reveal.encode(), limit_bytes=REVEAL_LIMIT_BYTES)
    assert reveal_from_item(item) == reveal


def test_a_reveal_opens_its_commitment_and_no_other_place() -> None:
    commitment = compute_commitment(HEADER, REVEAL.gradient_root, REVEAL.salt, REVEAL.units)
    assert REVEAL.opens(commitment, HEADER)
    others = (
        {"units": 4},
        {"salt": Hash32(bytes(32))},
        {"gradient_root": Hash32(bytes(32))},
        {"miner": Address(bytes(20))},
        {"attempt_id": replace(HEADER.attempt_id, round_number=HEADER.attempt_id.round_number + 1)},
        {"attempt_id": NEXT_ATTEMPT},
        {"attempt_id": replace(HEADER.attempt_id, task_id=TaskId(HEADER.attempt_id.task_id + 1))},
    )
    assert not any(replace(REVEAL, **change).opens(commitment, HEADER) for change in others)


def test_reveals_are_listed_by_ascending_miner(tmp_path: Path) -> None:
    store = RevealStore(tmp_path)
    miners = [Address(bytes([n]) * 20) for n in (9, 1, 5)]
    for miner in miners:
        store.put(replace(REVEAL, miner=miner))

    again = RevealStore(tmp_path)
    assert [reveal.miner for reveal in again.list(HEADER.attempt_id)] == sorted(miners)
    assert again.get(HEADER.attempt_id, miners[0]) == replace(REVEAL, miner=miners[0])
    assert again.get(HEADER.attempt_id, Address(bytes(20))) is None
    assert again.list(NEXT_ATTEMPT) == ()


def test_stored_reveal_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RevealStore(tmp_path)
    store.put(REVEAL)
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    store.put(REVEAL)
    assert synced == []
    another = replace(REVEAL, units=4)
    store.put(another)
    assert len(synced) == 2, "the file and its folder"
    assert store.list(HEADER.attempt_id) == (another,)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, bytes(1_000), None])
def test_a_damaged_file_is_a_reveal_that_is_not_held(tmp_path: Path, damage: bytes | None) -> None:
    store = RevealStore(tmp_path)
    store.put(REVEAL)
    (path,) = [each for each in tmp_path.rglob("*") if each.is_file()]
    path.write_bytes(REVEAL.encode()[:-1] if damage is None else damage)
    assert store.get(HEADER.attempt_id, REVEAL.miner) is None
    assert store.list(HEADER.attempt_id) == ()
    store.put(REVEAL)
    assert store.list(HEADER.attempt_id) == (REVEAL,)


def test_files_of_others_are_not_taken_for_reveals(tmp_path: Path) -> None:
    store = RevealStore(tmp_path)
    store.put(REVEAL)
    (path,) = [each for each in tmp_path.rglob("*") if each.is_file()]
    (path.parent / "notes.txt").write_text("hello")
    (path.parent / ("zz" * 20)).write_text("forty letters, no address")
    # Another miner's reveal under this miner's name.
    (path.parent / (b"\x01" * 20).hex()).write_bytes(REVEAL.encode())
    assert store.list(HEADER.attempt_id) == (REVEAL,)


@pytest.mark.parametrize("item", [[], [b""] * 6, [b"\x01"] * 7, b"text"])
def test_what_is_no_reveal_is_refused(item: codec.Item) -> None:
    with pytest.raises(RejectedInputError):
        reveal_from_item(item)
