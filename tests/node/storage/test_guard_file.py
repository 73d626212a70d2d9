import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import keccak256
from chain.primitives import ZERO_HASH, BlockNumber, View
from node.errors import OperatorError, StorageFailed
from node.storage.guard_file import SLOT_STRIDE_BYTES, GuardFile, GuardRecord


def record(number: int, prepared_view: int | None = None) -> GuardRecord:
    digest = ZERO_HASH if prepared_view is None else keccak256(b"block")
    view = None if prepared_view is None else View(prepared_view)
    return GuardRecord(BlockNumber(number), View(number % 5), number % 4, view, digest)


def test_absent_guard_is_none(tmp_path):
    assert GuardFile(tmp_path / "guard").load() is None


def test_last_saved_record_is_loaded_after_each_restart(tmp_path):
    path = tmp_path / "guard"
    for number in range(1, 6):
        guard = GuardFile(path)
        guard.load()
        for given_record in (record(number), record(number, prepared_view=number)):
            guard.save(given_record)
            assert GuardFile(path).load() == given_record
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == 2 * SLOT_STRIDE_BYTES


@settings(max_examples=60, deadline=None)
@given(
    saved=st.integers(1, 4), torn_at=st.integers(0, 76), filler=st.binary(min_size=77, max_size=77)
)
def test_torn_write_leaves_the_record_before_it(tmp_path_factory, saved, torn_at, filler):
    path = tmp_path_factory.mktemp("guard") / "guard"
    guard = GuardFile(path)
    for number in range(1, saved + 1):
        guard.save(record(number))
    before = path.read_bytes()
    guard.save(record(99))
    after = path.read_bytes()
    start = next(i for i in range(len(after)) if after[i] != before[i]) // SLOT_STRIDE_BYTES
    start *= SLOT_STRIDE_BYTES
    torn = bytearray(before)
    torn[start : start + torn_at] = after[start : start + torn_at]
    torn[start + torn_at : start + 77] = filler[: 77 - torn_at]
    path.write_bytes(torn)

    restarted = GuardFile(path)
    assert restarted.load() == (record(99) if torn == after else record(saved))
    restarted.save(record(100))
    assert GuardFile(path).load() == record(100)


def test_guard_with_no_whole_slot_is_an_error(tmp_path):
    path = tmp_path / "guard"
    GuardFile(path).save(record(1))
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    data[SLOT_STRIDE_BYTES + 20] ^= 1
    for damaged in (bytes(data), b"", b"\x00" * len(data), data[:100]):
        path.write_bytes(damaged)
        with pytest.raises(OperatorError, match=r"signer guard .* is damaged"):
            GuardFile(path).load()


def test_failed_fsync_stops_the_guard_for_ever(tmp_path):
    failing = True

    def fsync(_: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")

    guard = GuardFile(tmp_path / "guard", fsync=fsync)
    guard.save(record(1))
    with pytest.raises(StorageFailed, match=r"Input/output error.*signs nothing"):
        guard.save(record(2))
    failing = False
    with pytest.raises(StorageFailed):
        guard.save(record(3))
