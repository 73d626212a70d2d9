from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.primitives import BlockNumber
from node.consensus import wal
from node.consensus.wal import WalRecord, WriteAheadLog
from pot_common.errors import OperatorError, StorageError

RECORDS = (
    WalRecord(BlockNumber(1), b"prepare"),
    WalRecord(BlockNumber(1), b""),
    WalRecord(BlockNumber(2), b"commit" * 9),
    WalRecord(BlockNumber(3), b"POTWAL2\n" * 3),
)


def written(path: Path, records: tuple[WalRecord, ...] = RECORDS) -> bytes:
    log = WriteAheadLog(path)
    for record in records:
        log.append(record.number, record.payload)
    log.close()
    return path.read_bytes()


def replayed(path: Path) -> tuple[WalRecord, ...]:
    log = WriteAheadLog(path)
    log.close()
    return log.records()


def count_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_what_was_appended_is_replayed_in_order(tmp_path):
    written(tmp_path / "wal")
    assert replayed(tmp_path / "wal") == RECORDS


def test_log_grows_over_restarts(tmp_path):
    for record in RECORDS:
        written(tmp_path / "wal", (record,))
    assert replayed(tmp_path / "wal") == RECORDS


def test_tail_torn_at_any_byte_is_dropped_and_the_log_goes_on(tmp_path):
    path = tmp_path / "wal"
    ends = [len(written(path, RECORDS[:0]))]
    for record in RECORDS:
        ends.append(len(written(path, (record,))))
    data = path.read_bytes()
    for length in range(ends[0], len(data) + 1):
        path.write_bytes(data[:length])
        whole = sum(end <= length for end in ends) - 1
        assert replayed(path) == RECORDS[:whole]
        written(path, (RECORDS[0],))
        assert replayed(path) == (*RECORDS[:whole], RECORDS[0])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_crash_that_fills_the_tail_with_anything_keeps_all_earlier_records(
    tmp_path_factory, data, payloads
):
    path = tmp_path_factory.mktemp("wal") / "wal"
    records = tuple(WalRecord(BlockNumber(5), payload) for payload in payloads)
    whole = written(path, records[:-1])
    torn = written(path, records[-1:])[len(whole) :]
    kept = data.draw(st.integers(0, len(torn) - 1))
    filler = data.draw(st.sampled_from([b"\x00", b"\xff", whole[8:16]]))
    path.write_bytes((whole + torn[:kept]) + (filler * len(torn))[: len(torn) - kept])
    assert replayed(path) in (records[:-1], records)  # records: the filler was what was torn off
    if path.read_bytes() != whole + torn:
        assert replayed(path) == records[:-1]


def test_every_changed_byte_before_the_last_record_is_refused(tmp_path):
    path = tmp_path / "wal"
    start = len(written(path, ()))
    last = len(written(path, RECORDS[:-1]))
    data = written(path, RECORDS[-1:])
    for position in range(start, last):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(OperatorError, match=r"damaged at byte \d+, before whole records"):
            WriteAheadLog(path)
        assert path.read_bytes() == damaged


def test_record_hidden_in_a_torn_payload_is_not_taken_for_a_whole_one(tmp_path):
    # A peer knows the format and chooses the bytes of a block, but not the salt of our file.
    foreign = written(tmp_path / "foreign", (WalRecord(BlockNumber(9), b"hidden"),))[16:]
    path = tmp_path / "wal"
    data = written(path, (WalRecord(BlockNumber(9), foreign + b"more"),))
    path.write_bytes(data[:-1])
    assert replayed(path) == ()


def test_torn_block_full_of_record_starts_costs_no_checksum_each(tmp_path, monkeypatch):
    foreign = written(tmp_path / "foreign", (WalRecord(BlockNumber(9), bytes(2**22)),))
    path = tmp_path / "wal"
    block = (foreign[16:40] * 2**18)[: 2**22]
    data = written(path, (WalRecord(BlockNumber(9), block),))
    path.write_bytes(data[:-1])
    checksums = Counter()
    monkeypatch.setattr(wal.zlib, "crc32", lambda *_: checksums.update("1") or 0)
    assert replayed(path) == ()
    assert checksums.total() == 0, "the one record is too short; none of 170 000 starts is ours"


def test_refused_logs_leave_no_file_open(tmp_path):
    path = tmp_path / "wal"
    data = written(path)
    damaged = data.replace(b"prepare", b"prepara")
    before = count_open_files()
    for content in (b"something else entirely", damaged):
        path.write_bytes(content)
        for _ in range(3):
            with pytest.raises(OperatorError):
                WriteAheadLog(path)
    assert count_open_files() == before


def test_file_that_is_no_log_is_refused(tmp_path):
    (tmp_path / "wal").write_bytes(b"something else entirely")
    with pytest.raises(OperatorError, match="no write-ahead log"):
        WriteAheadLog(tmp_path / "wal")


def test_truncation_drops_final_numbers_and_keeps_the_rest(tmp_path):
    path = tmp_path / "wal"
    written(path)
    log = WriteAheadLog(path)
    log.truncate_through(BlockNumber(2))
    assert log.records() == RECORDS[3:]
    log.append(BlockNumber(4), b"after")
    log.close()
    assert replayed(path) == (*RECORDS[3:], WalRecord(BlockNumber(4), b"after"))


def test_crash_during_truncation_keeps_the_old_log(tmp_path, monkeypatch):
    path = tmp_path / "wal"
    written(path)
    log = WriteAheadLog(path)

    def crash(*_: object) -> None:
        raise OSError(5, "power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(StorageError, match="power cut"):
            log.truncate_through(BlockNumber(9))
    with pytest.raises(StorageError, match="power cut"):
        log.append(BlockNumber(9), b"")
    log.close()
    assert replayed(path) == RECORDS


def test_failed_fsync_stops_the_log_for_ever(tmp_path):
    failing = True

    def fsync(_: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")

    log = WriteAheadLog(tmp_path / "wal", fsync=fsync)
    with pytest.raises(StorageError, match=r"Input/output error.*signs nothing"):
        log.append(BlockNumber(1), b"vote")
    failing = False
    with pytest.raises(StorageError):
        log.append(BlockNumber(1), b"vote")
    with pytest.raises(StorageError):
        log.truncate_through(BlockNumber(1))
    log.close()
    assert log.records() == ()


def test_record_is_synced_before_append_returns(tmp_path):
    path = tmp_path / "wal"
    sizes: list[int] = []
    log = WriteAheadLog(path, fsync=lambda _: sizes.append(path.stat().st_size))
    log.append(BlockNumber(1), b"vote")
    assert sizes == [path.stat().st_size]
    log.close()
