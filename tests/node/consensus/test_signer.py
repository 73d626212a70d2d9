"""The signer over real files: what it signs, refuses and remembers (rules S2 to S4 and S8)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chain.consensus.effects import Persist
from chain.consensus.guard import GuardState
from chain.consensus.records import CommitRecord, PrepareRecord, Record, compute_intent
from chain.primitives import BlockNumber, Hash32
from node.consensus.guard_file import GuardFile
from node.consensus.signer import ConsensusSigner
from node.consensus.wal import WriteAheadLog, read_records
from tests.worlds.replica import (
    BLOCK_B,
    commit,
    pre_prepare,
    prepare,
    prepared,
    token_signer,
    validators_of,
)

ONE, TWO = BlockNumber(1), BlockNumber(2)
PREPARE = PrepareRecord(pre_prepare(), prepare(1))
COMMIT = CommitRecord(commit(1), prepared().signatures)
OTHER_PREPARE = PrepareRecord(pre_prepare(BLOCK_B), prepare(1, BLOCK_B))


def vote_of(record: Record) -> Persist:
    return Persist(record, compute_intent(record, None))


def build_signer(
    directory: Path, *, fsync: Callable[[int], None] = lambda _descriptor: None
) -> ConsensusSigner:
    """The signer of validator 1, as a process that has just started builds it."""
    guard = GuardFile(directory / "guard", fsync=fsync)
    log = WriteAheadLog(directory / "wal", fsync=fsync)
    return ConsensusSigner(validators_of(4)[1], token_signer(1), guard, log)


def start_signer(directory: Path, head: int = 0, certified_head: int = 0) -> ConsensusSigner:
    signer = build_signer(directory)
    signer.start(BlockNumber(head), BlockNumber(certified_head))
    return signer


def load_guard(directory: Path) -> GuardState | None:
    return GuardFile(directory / "guard").load()


def test_vote_is_in_log_and_guard_once_it_may_be_sent(tmp_path: Path) -> None:
    signer = start_signer(tmp_path)
    assert signer.persist(vote_of(PREPARE))
    assert signer.persist(vote_of(COMMIT))
    assert start_signer(tmp_path).load_records(ONE) == [PREPARE, COMMIT]
    assert load_guard(tmp_path) == compute_intent(COMMIT, None)


def test_log_is_written_before_the_guard(tmp_path: Path) -> None:
    logged = []

    def fsync(_descriptor: int) -> None:
        logged.append(len(read_records(tmp_path / "wal")))

    signer = build_signer(tmp_path, fsync=fsync)
    signer.start(BlockNumber(0), BlockNumber(0))
    logged.clear()
    assert signer.persist(vote_of(PREPARE))
    assert logged == [1, 1], "one fsync of the log, then one of the guard"


def test_nothing_is_signed_before_start(tmp_path: Path) -> None:
    signer = build_signer(tmp_path)
    assert signer.get_index(ONE, validators_of(4)) is None
    assert not signer.persist(vote_of(PREPARE))
    assert read_records(tmp_path / "wal") == ()


def test_refused_vote_is_not_written_and_ends_the_signing(tmp_path: Path) -> None:
    signer = start_signer(tmp_path)
    assert signer.persist(vote_of(PREPARE))
    assert not signer.persist(vote_of(OTHER_PREPARE))
    assert signer.failure == "the signer guard at PREPARE 1/0 refuses PREPARE 1/0"
    assert signer.get_index(ONE, validators_of(4)) is None
    assert not signer.persist(vote_of(COMMIT)), "and no vote after it, though it would be allowed"
    assert signer.load_records(ONE) == [PREPARE]
    assert signer.failure.startswith("the signer guard")


@pytest.mark.parametrize("failing", ["wal", "guard"])
def test_disk_that_refuses_ends_the_signing(tmp_path: Path, failing: str) -> None:
    start_signer(tmp_path)

    def fsync(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    good = lambda _descriptor: None  # noqa: E731
    guard = GuardFile(tmp_path / "guard", fsync=fsync if failing == "guard" else good)
    log = WriteAheadLog(tmp_path / "wal", fsync=fsync if failing == "wal" else good)
    signer = ConsensusSigner(validators_of(4)[1], token_signer(1), guard, log)
    signer.start(BlockNumber(0), BlockNumber(0))
    assert not signer.persist(vote_of(PREPARE))
    assert not signer.may_sign(ONE)
    assert "No space left on device" in (signer.failure or "")


class Crash(BaseException):
    """The process dies here."""


class CrashingGuard(GuardFile):
    """A guard whose process dies before it is written."""

    def save(self, state: GuardState) -> None:
        raise Crash


def test_crash_between_log_and_guard_counts_as_a_vote_cast(tmp_path: Path) -> None:
    start_signer(tmp_path)
    guard, log = CrashingGuard(tmp_path / "guard"), WriteAheadLog(tmp_path / "wal")
    signer = ConsensusSigner(validators_of(4)[1], token_signer(1), guard, log)
    signer.start(BlockNumber(0), BlockNumber(0))
    with pytest.raises(Crash):
        signer.persist(vote_of(PREPARE))
    restarted = start_signer(tmp_path)
    assert restarted.first_signable == ONE
    assert load_guard(tmp_path) == compute_intent(PREPARE, None)
    assert not restarted.persist(vote_of(OTHER_PREPARE))


def test_lost_log_silences_the_numbers_that_the_guard_knows(tmp_path: Path) -> None:
    assert start_signer(tmp_path).persist(vote_of(PREPARE))
    (tmp_path / "wal").unlink()
    restarted = start_signer(tmp_path)
    assert restarted.first_signable == TWO
    assert restarted.get_index(ONE, validators_of(4)) is None
    assert restarted.get_index(TWO, validators_of(4)) == 1
    assert not restarted.persist(vote_of(OTHER_PREPARE))


def test_lost_guard_silences_two_numbers_after_the_certified_head(tmp_path: Path) -> None:
    assert start_signer(tmp_path).persist(vote_of(PREPARE))
    (tmp_path / "guard").unlink()
    assert build_signer(tmp_path).load_guard() is None
    assert start_signer(tmp_path, certified_head=7).first_signable == 10
    # The guard that was written at the start keeps it so after the next restart.
    assert start_signer(tmp_path, certified_head=0).first_signable == 10


def test_log_is_truncated_only_after_start(tmp_path: Path) -> None:
    assert start_signer(tmp_path).persist(vote_of(PREPARE))
    restarted = build_signer(tmp_path)
    restarted.truncate_log(ONE)
    assert restarted.load_records(ONE) == [PREPARE], "start must see what was signed"
    restarted.start(BlockNumber(0), BlockNumber(0))
    restarted.truncate_log(ONE)
    assert restarted.load_records(ONE) == []


def test_log_that_cannot_be_truncated_ends_the_signing_only(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path / "wal")
    guard = GuardFile(tmp_path / "guard")
    signer = ConsensusSigner(validators_of(4)[1], token_signer(1), guard, log)
    signer.start(BlockNumber(0), BlockNumber(0))
    assert signer.persist(vote_of(PREPARE))
    log.close()
    signer.truncate_log(ONE)
    assert not signer.may_sign(TWO)
    assert signer.failure == "the log is closed"


def test_validator_that_left_the_set_has_no_index(tmp_path: Path) -> None:
    signer = start_signer(tmp_path)
    assert signer.get_index(ONE, validators_of(4)) == 1
    assert signer.get_index(ONE, validators_of(4)[2:]) is None
    assert signer.may_sign(ONE)


def test_identity_is_signed_before_start(tmp_path: Path) -> None:
    digest = Hash32(b"\x07" * 32)
    signer = build_signer(tmp_path)
    assert signer.sign_identity(digest) == token_signer(1)(digest)
