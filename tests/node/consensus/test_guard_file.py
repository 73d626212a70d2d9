import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.consensus.guard import GuardState, Step
from chain.crypto import keccak256
from chain.primitives import BlockNumber, View
from node.consensus.guard_file import SLOT_STRIDE_BYTES, GuardFile
from pot_common.errors import OperatorError, StorageError

DIGEST = keccak256(b"block")


def state(number: int, prepared_view: int | None = None) -> GuardState:
    prepared = None if prepared_view is None else (View(prepared_view), DIGEST)
    return GuardState(BlockNumber(number), View(number % 5), Step.PREPARE, DIGEST, prepared)


def loaded(path) -> GuardFile:
    guard = GuardFile(path)
    guard.load()
    return guard


def test_absent_guard_is_none(tmp_path):
    assert GuardFile(tmp_path / "guard").load() is None


def test_last_saved_record_is_loaded_after_each_restart(tmp_path):
    path = tmp_path / "guard"
    for number in range(1, 6):
        guard = loaded(path)
        for given_state in (state(number), state(number, prepared_view=number)):
            guard.save(given_state)
            assert GuardFile(path).load() == given_state
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == 2 * SLOT_STRIDE_BYTES


@settings(max_examples=60, deadline=None)
@given(
    saved=st.integers(1, 4),
    torn_at=st.integers(0, 200),
    filler=st.binary(min_size=200, max_size=200),
)
def test_torn_write_leaves_the_record_before_it(tmp_path_factory, saved, torn_at, filler):
    path = tmp_path_factory.mktemp("guard") / "guard"
    guard = loaded(path)
    for number in range(1, saved + 1):
        guard.save(state(number))
    before = path.read_bytes()
    guard.save(state(99))
    after = path.read_bytes()
    start = next(i for i in range(len(after)) if after[i] != before[i]) // SLOT_STRIDE_BYTES
    start *= SLOT_STRIDE_BYTES
    used = len(after[start : start + SLOT_STRIDE_BYTES].rstrip(b"\x00"))
    torn = bytearray(before)
    torn[start : start + torn_at] = after[start : start + torn_at]
    torn[start + torn_at : start + 200] = filler[: 200 - torn_at]
    path.write_bytes(torn)

    restarted = GuardFile(path)
    assert restarted.load() == (
        state(99) if torn[start:][:used] == after[start:][:used] else state(saved)
    )
    restarted.save(state(100))
    assert GuardFile(path).load() == state(100)


def test_guard_with_no_whole_slot_is_an_error(tmp_path):
    path = tmp_path / "guard"
    loaded(path).save(state(1))
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
    assert guard.load() is None
    guard.save(state(1))
    with pytest.raises(StorageError, match=r"Input/output error.*signs nothing"):
        guard.save(state(2))
    failing = False
    with pytest.raises(StorageError):
        guard.save(state(3))


def test_guard_is_not_overwritten_before_it_was_read(tmp_path):
    loaded(tmp_path / "guard").save(state(5))
    with pytest.raises(AssertionError, match="load first"):
        GuardFile(tmp_path / "guard").save(state(1))
    assert GuardFile(tmp_path / "guard").load() == state(5)
