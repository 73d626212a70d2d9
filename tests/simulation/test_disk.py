"""The simulated disk keeps its records, and loses exactly what an accident takes."""

from random import Random

import pytest

from chain.consensus.guard import build_floor_guard
from chain.consensus.records import CommitRecord, PrepareRecord, Record, encode_record
from chain.primitives import BlockNumber
from tests.simulation.disk import Disk
from tests.worlds.replica import commit, pre_prepare, prepare, prepared

RECORDS: list[Record] = [
    PrepareRecord(pre_prepare(), prepare(1)),
    CommitRecord(commit(1), prepared().signatures),
]


def written() -> Disk:
    disk = Disk(build_floor_guard(BlockNumber(1)))
    for record in RECORDS:
        disk.append(record)
    return disk


def test_appended_records_are_loaded() -> None:
    assert written().load() == RECORDS


def test_torn_record_is_dropped_and_the_log_goes_on() -> None:
    for seed in range(20):
        disk = written()
        disk.tear(RECORDS[1].number, encode_record(RECORDS[1]), Random(seed))
        assert disk.load() == RECORDS
        disk.append(RECORDS[1])
        assert disk.load() == [*RECORDS, RECORDS[1]]


def test_flipped_bit_is_never_read_as_a_vote() -> None:
    # A flipped bit in the last record looks like a torn tail; in an earlier one the log is refused.
    seen = set()
    for seed in range(60):
        disk = written()
        disk.have_accident("flip", Random(seed))
        loaded = disk.load()
        assert loaded in (None, RECORDS[:1])
        seen.add(loaded is None)
    assert seen == {True, False}


@pytest.mark.parametrize(("kind", "left"), [("log", []), ("wiped", []), ("guard", RECORDS)])
def test_accident_loses_exactly_what_its_kind_says(kind: str, left: list[Record]) -> None:
    disk = written()
    disk.have_accident(kind, Random(0))
    assert disk.load() == left
    assert (disk.guard is None) == (kind != "log")


def test_final_numbers_leave_the_log() -> None:
    disk = written()
    disk.append(PrepareRecord(pre_prepare(number=2), prepare(1, number=2)))
    disk.truncate_through(BlockNumber(1))
    assert [record.number for record in disk.load() or []] == [2]
