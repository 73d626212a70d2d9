"""Formats on disk: tables of the database, and files."""

import json
from collections.abc import Mapping
from dataclasses import replace

from chain.consensus.evidence import build_evidence
from chain.consensus.guard import GuardState, Step
from chain.consensus.records import (
    CommitRecord,
    PrepareRecord,
    Record,
    ViewChangeRecord,
    encode_record,
)
from chain.contracts import ledger_storage, set_storage
from chain.contracts.miner_seats import FineKind
from chain.contracts.task_registry import CloseReason, TaskStatus
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32, View
from chain.state.walk import StateItem
from chain.training.acceptance import ExponentRule, Measurement, Verdict, encode_verdicts
from chain.training.attempt import AttemptId
from chain.training.attempt_records import (
    ApprovedFines,
    Attempt,
    CommitmentRecord,
    EndedAttempt,
    build_mark,
)
from chain.training.history import BlockContext, TaskHistory
from chain.training.task_spec_codec import encode_task_spec
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.receipt import Log
from node.chain.training_index import TrainingIndex, build_rows
from node.consensus.evidence_store import EvidenceStore
from node.consensus.guard_file import GuardFile
from node.consensus.wal import WriteAheadLog
from node.network.peer_file import save_records
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import BlobStore
from node.storage.block_store import BlockStore, Snapshot
from node.storage.database import Database, Table, open_database
from node.storage.snapshot_progress import Part, Pivot, SnapshotProgress
from node.training.gradients import Gradients
from node.training.reveal_store import RevealStore
from node.training.rows import RowRecords
from node.training.state_parts import StatePartStore
from node.training.work import CheckedGradient, ServedTask, TaskWork
from tests.conformance import values
from tests.conformance.registry import Value, sample
from tests.conformance.streams import new_directory, read_directory
from tests.conformance.values import (
    build_log,
    build_task_receipt,
    make_address,
    make_bytes,
    make_hash,
    make_signature,
)

GENESIS = replace(values.HEADER, number=BlockNumber(0), logs_bloom=bytes(256))
DELTA = {make_hash(1): b"node", make_hash(2): b"code"}


def build_child(parent: Block, transactions: tuple[bytes, ...], tag: int) -> Block:
    """The next block, which carries the certificate of its parent."""
    certificate = values.CERTIFICATE if parent.number else None
    header = replace(
        values.HEADER,
        number=BlockNumber(parent.number + 1),
        parent_hash=parent.hash,
        coinbase=make_address(tag),
    )
    return Block(header, transactions, certificate)


def read_tables(database: Database) -> dict[str, list[tuple[bytes, bytes]]]:
    """The rows of every table."""
    with database.read() as reader:
        return {table.value: list(reader.scan(table, b"\x00", b"\xff" * 64)) for table in Table}


@sample(
    "storage.database",
    "BlockStore.initialize",
    "BlockStore.finalize",
    "BlockStore.adopt",
    "BlockStore.put_receipts",
    "BlockStore.encoded_header",
    "BlockStore.encoded_block",
    "BlockStore.encoded_receipts",
    "SnapshotProgress.begin",
    "SnapshotProgress.save_chunk",
    "SnapshotProgress.save_nodes",
    "_put_block",
    "_put_header",
    "_put_part",
    "_key",
    "_encode_validator_set",
    "_encoded_certificate",
)
def build_database() -> Value:
    """Rows of every table after two blocks, during a download, and after it."""
    raws = (values.TRANSACTIONS["type_2"], values.TRANSACTIONS["type_0"])
    senders = (make_address(3), make_address(4))
    first = build_child(Block(GENESIS, (), None), raws, 5)
    second = build_child(first, (), 6)
    ancestor = build_child(second, (), 7)
    pivot = build_child(ancestor, raws[:1], 8)
    with new_directory() as directory:
        database = open_database(directory / "chain")
        store = BlockStore(database)
        store.initialize(GENESIS, DELTA, b'{"genesis": 1}', values.GENESIS_SET)
        store.finalize(
            first,
            values.CERTIFICATE,
            receipts=values.RECEIPTS,
            senders=senders,
            delta={make_hash(9): b"new"},
            training_rows={b"row": b"value"},
            next_validator_set=values.NEXT_SET,
        )
        store.finalize(second, values.OTHER_CERTIFICATE, receipts=(), senders=(), delta={})
        parts = [store.encoded_header(first.number), store.encoded_block(first.number)]
        stages = [read_tables(database)]
        progress = SnapshotProgress(database)
        progress.begin(Pivot(pivot.header, values.CERTIFICATE))
        item = StateItem(b"\x03\x04", keccak256(b"chunk"), b"chunk")
        progress.save_chunk(Part(3, b"\x03\x05", b"\x04"), [item])
        progress.save_nodes({bytes(make_hash(10)): b"other"})
        stages.append(read_tables(database))
        store.put_receipts({ancestor.number: ()})
        store.adopt(
            Snapshot(
                ancestors=(ancestor.header,),
                block=pivot,
                certificate=CommitCertificate(View(2), values.CERTIFICATE.signatures[:1]),
                receipts=values.RECEIPTS[:1],
                senders=senders[:1],
                training_rows={b"row": b"later"},
                validator_set=values.GENESIS_SET,
                next_validator_set=values.NEXT_SET,
            )
        )
        stages.append(read_tables(database))
        parts.append((store.encoded_receipts(pivot.number),))
        database.close()
    tables = {name: [stage[name] for stage in stages] for name in stages[0]}
    return {**tables, "read_as_stored": parts}


def build_attempt_events() -> dict[str, object]:
    """The logs of a task from its submission to its second round, in order."""
    spec = encode_task_spec(values.SPEC)
    miner, task = make_address(11), values.TASK
    reward = values.SPEC.reward
    payout = 3 * reward.unit_price + 3 * (reward.validator_fee // 3)
    vote = (make_hash(12), make_hash(13), make_hash(14), 3, payout, 0, 0b111)
    verdicts = encode_verdicts([Verdict.OK])
    validators = values.GENESIS_SET.validators
    return {
        "submitted": build_log(
            "TaskSubmitted", task, make_address(15), keccak256(spec), 10**20, spec
        ),
        "leased": build_log("TaskLeased", task, make_address(15), 20, tuple(range(21, 36))),
        "ready": build_log("TaskAnswered", task, validators[1], 0, 1),
        "activated": build_log("TaskActivated", task),
        "opened": build_log("AttemptOpened", task, 0, 0, 1, 1, 10**19),
        "committed": build_log("GradientCommitted", task, 0, miner, 0, 0, 3, make_hash(16)),
        **{
            f"verdict_{at}": build_log("VerdictPosted", task, 0, validator, 0, 0, at != 3, verdicts)
            for at, validator in enumerate(validators)
        },
        **{
            f"result_{at}": build_log(
                "ResultPosted", task, 0, validator, 0, 0, vote, 2**32 - 1 if at else 17, 18
            )
            for at, validator in enumerate(validators[:3])
        },
        "settled": build_log("RoundSettled", task, 0, 0, 0, vote),
        "opened_again": build_log("AttemptOpened", task, 1, 0, 2, 2, 10**19),
        "committed_again": build_log("GradientCommitted", task, 1, miner, 0, 0, 2, make_hash(19)),
    }


def build_cheat() -> list[Log]:
    """The logs of the end of the second round, whose gradient is a cheat."""
    task, words = values.TASK, encode_verdicts([Verdict.CHEAT])
    validators = values.GENESIS_SET.validators
    return [
        *(build_log("VerdictPosted", task, 1, each, 0, 0, True, words) for each in validators[:3]),
        build_log("AttemptVoided", task, 1, 0),
        build_log("MinerFined", task, make_address(11), 2, FineKind.FRAUD, 7),
    ]


def build_ended() -> EndedAttempt:
    """An attempt that ended and may still cost a fine."""
    commitment = CommitmentRecord(make_address(200), 201, make_hash(202), BlockNumber(203))
    return EndedAttempt(
        Attempt(
            values.ATTEMPT,
            ballot=204,
            ballot_number=205,
            ordinal=206,
            open_block=BlockNumber(207),
            open_timestamp=208,
            expected_count=209,
            theta_root=make_hash(210),
            commitments=(commitment,),
            late_deliveries=(211,),
        ),
        block_number=BlockNumber(212),
        validator_set=values.GENESIS_SET,
        late_until=BlockNumber(213),
        voted_until=BlockNumber(214),
        slashed_until=BlockNumber(215),
        late_verdicts=((make_address(216), b"\x11"),),
        fines_votes=((make_address(217), True),),
        approved=(ApprovedFines(make_hash(218), False, BlockNumber(219)),),
        imposed=((make_address(220), FineKind.FRAUD),),
    )


@sample(
    "storage.training_index",
    "TrainingIndex.compute_rows",
    "_Changes.encode",
    "build_rows",
    "_encode_id",
    "_history_key",
    "_ended_key",
    "_money_key",
    "_reward_key",
    "_payment_key",
    "_encode_payments",
    "_round_key",
    "_closed_key",
    "_encode_closed",
    "_encode_open",
)
def build_training_index() -> Value:
    logs = list(build_attempt_events().values())
    with new_directory() as directory:
        database = open_database(directory / "chain")
        store = BlockStore(database)
        store.initialize(GENESIS, DELTA, b"{}", values.GENESIS_SET)
        header = build_child(Block(GENESIS, (), None), (), 20).header
        index = TrainingIndex(store)
        rows = index.compute_rows(header, [build_task_receipt(*logs)])
        rows_of_fines = index.compute_rows(header, [build_task_receipt(*logs, *build_cheat())])
        database.close()
    history = TaskHistory(
        task_id=values.TASK,
        submitter=make_address(21),
        spec_hash=make_hash(22),
        spec=b'{"a":1}',
        budget=2**100,
        submitted_block=BlockNumber(23),
        status=TaskStatus.CLOSED,
        close_reason=CloseReason.EXPIRED,
        closed=BlockContext(BlockNumber(24), 1_700_000_025),
        ready=(make_address(26),),
        rounds_settled=27,
        training_state_root=make_hash(28),
        model_root=make_hash(29),
        ballot_count=30,
        ended=(build_mark(build_ended(), BlockNumber(221)),),
    )
    rewards = ((make_address(31), 2**90),)
    return {
        "of_a_block": rows,
        "of_an_attempt_with_a_fine": rows_of_fines,
        "of_a_snapshot": build_rows([(history, rewards)]),
    }


@sample("storage.consensus_record", "encode_record", "_encode", "message_to_item")
def build_records() -> Value:
    prepare = replace(values.VOTE, view=View(5))
    records: Mapping[str, Record] = {
        "prepare": PrepareRecord(values.PRE_PREPARE, replace(values.VOTE, view=View(0))),
        "prepare_of_new_view": PrepareRecord(values.NEW_VIEW, prepare),
        "commit": CommitRecord(values.COMMIT, values.QUORUM),
        "view_change": ViewChangeRecord(values.VIEW_CHANGE_VOTE),
        "view_change_without_lock": ViewChangeRecord(values.EMPTY_VIEW_CHANGE_VOTE),
    }
    return {name: encode_record(record) for name, record in records.items()}


@sample("storage.write_ahead_log", "_encode", "_checksum", "WriteAheadLog.truncate_through")
def build_write_ahead_log() -> Value:
    """The file with a fixed salt instead of a random one; then without its first record."""
    with new_directory() as directory:
        path = directory / "wal"
        path.write_bytes(b"POTWAL2\n" + make_bytes(32, 8))
        log = WriteAheadLog(path)
        log.append(BlockNumber(33), make_bytes(34, 100))
        log.append(BlockNumber(2**40), b"")
        whole = path.read_bytes()
        log.truncate_through(BlockNumber(33))
        log.close()
        return [whole, path.read_bytes()]


@sample("storage.new_write_ahead_log", "WriteAheadLog.__init__")
def build_new_write_ahead_log() -> Value:
    with new_directory() as directory:
        WriteAheadLog(directory / "wal").close()
        data = (directory / "wal").read_bytes()
    return [data[:8], len(data)]


GUARD = GuardState(BlockNumber(35), View(36), Step.COMMIT, make_hash(37), (View(38), make_hash(39)))


@sample("storage.guard", "GuardState.encode")
def build_guard() -> Value:
    return {
        "locked": GUARD.encode(),
        "not_locked": replace(GUARD, step=Step.VIEW_CHANGE, prepared=None).encode(),
    }


@sample("storage.guard_file", "_encode", "GuardFile.save", "GuardState.encode")
def build_guard_file() -> Value:
    """The file after the first, the second and the third guard."""
    stages = []
    with new_directory() as directory:
        guard = GuardFile(directory / "guard")
        guard.load()
        for later in range(3):
            guard.save(replace(GUARD, number=BlockNumber(35 + later)))
            stages.append((directory / "guard").read_bytes())
    return stages


@sample("storage.evidence", "EvidenceStore.add")
def build_evidence_files() -> Value:
    other = replace(values.VOTE, digest=make_hash(40), signature=make_signature(41))
    with new_directory() as directory:
        EvidenceStore(directory).add(build_evidence(values.VOTE, other, make_address(42), 5))
        return [read_directory(directory)]


@sample("storage.reveals", "RevealStore.put", "Reveal.encode", "Reveal.to_item")
def build_reveal_files() -> Value:
    with new_directory() as directory:
        RevealStore(directory).put(values.REVEAL)
        return [read_directory(directory)]


@sample("storage.state_parts", "StatePartStore.put")
def build_state_part_files() -> Value:
    with new_directory() as directory:
        store = StatePartStore(directory)
        store.put(values.TASK, 43, [make_hash(44), make_hash(45)])
        return [read_directory(directory)]


@sample("storage.rows", "RowRecords.put")
def build_row_record() -> Value:
    with new_directory() as directory:
        RowRecords(directory).put(values.TASK, make_hash(47))
        return [read_directory(directory)]


@sample("storage.blobs", "_publish", "BlobStore.download", "LockedUsage.set")
def build_blob_files() -> Value:
    """A whole blob, a download with one chunk, and what both take of the quota."""
    data = make_bytes(46, 2**18 + 3)
    manifest = BlobManifest(2**18 + 3, (make_hash(47), make_hash(48)))
    with new_directory() as directory:
        store = BlobStore(directory, quota_bytes=2**22)
        store.put(data)
        with store.download(manifest) as download:
            missing = download.missing()
        return [read_directory(directory), missing]


class NoService:
    """Stands for services that writing measurements does not use; as a store it is empty."""

    def get(self, _attempt_id: AttemptId, _miner: Address) -> None:
        return None


@sample("storage.checks", "Gradients.save_checks")
def build_checks() -> Value:
    commitments = tuple(
        CommitmentRecord(make_address(50 + at), 1, make_hash(60 + at), BlockNumber(70))
        for at in range(3)
    )
    attempt = Attempt(values.ATTEMPT, 0, 1, 2, BlockNumber(71), 72, 3, make_hash(73), commitments)
    history = TaskHistory(
        values.TASK, make_address(73), make_hash(74), b"", 75, BlockNumber(76), attempt=attempt
    )
    work = TaskWork()
    work.checks[values.ATTEMPT] = {
        0: CheckedGradient(
            Verdict.BAD, Measurement(77, ExponentRule.BROKEN_TENFOLD), "the distance is 77"
        ),
        2: CheckedGradient(Verdict.MISSING),
    }
    with new_directory() as directory:
        gradients = Gradients(
            chain_id=values.CHAIN_ID,
            **dict.fromkeys(
                (
                    *("index", "contracts", "blobs", "content"),
                    *("reveals", "rows", "verifier", "peers"),
                ),
                NoService(),
            ),
            directory=directory,
        )
        verdicts = (Verdict.BAD, Verdict.MISSING, Verdict.MISSING)
        gradients.save_checks(ServedTask(history, values.SPEC, work), attempt, verdicts)
        return [read_directory(directory)]


@sample("storage.peer_file", "save_records")
def build_peer_file() -> Value:
    """The file without its time of saving."""
    with new_directory() as directory:
        path = directory / "peers.json"
        save_records(path, {"12D3KooWA": (78.5, 79.25), "12D3KooWB": (0.0, 0.0)})
        text = path.read_text()
    saved_at = json.loads(text)["savedAt"]
    assert isinstance(saved_at, int)
    return text.replace(str(saved_at), "NOW")


@sample("storage.prepared_gradient", "PreparedGradient.encode")
def build_prepared_gradient() -> Value:
    from miner.gradient_store import PreparedGradient  # imports torch, so only when needed

    return PreparedGradient(80, make_hash(81), make_bytes(82, 50)).encode()


@sample("storage.trusted_network", "_write_pin")
def build_trusted_network() -> Value:
    from miner.trust import Pin, _write_pin

    with new_directory() as directory:
        _write_pin(directory / "network.json", Pin(values.CHAIN_ID, make_hash(83)))
        return (directory / "network.json").read_bytes()


@sample(
    "storage.slots",
    "find_mapping_slot",
    "_element_slot",
    "encode_task_key",
    "list_attempt_slots",
    "list_opening_slots",
    "list_participant_slots",
    "list_seat_slots",
    "list_task_slots",
)
def build_slots() -> Value:
    """The storage slots of the contracts, and the values read from words whose bytes all differ."""
    miners = [make_address(84), make_address(85), make_address(86)]
    read_slots: list[list[object]] = []

    def read(contract: Address, slot: int) -> int:
        read_slots.append([contract, slot])
        if slot == set_storage.ACTIVATION_SLOT:
            return 87
        word = int.from_bytes(keccak256(contract + slot.to_bytes(32, "big")), "big")
        # A task's status has five values, and is stored in the bits above the submitter's address.
        return word & ~(0xFF << 160) | 2 << 160

    attempt = ledger_storage.read_attempt(read, values.TASK)
    seat = ledger_storage.read_seat(read, values.TASK, miners[0])
    task = ledger_storage.read_task(read, values.TASK)
    opening = ledger_storage.read_opening(read, values.TASK)
    ended_block = ledger_storage.read_ended_block(read, values.TASK)
    set_hashes: list[Hash32] = [
        set_storage.read_next_set_hash(read, BlockNumber(number)) for number in (85, 86)
    ]
    return {
        "attempt": [
            *ledger_storage.list_attempt_slots(values.TASK),
            *(getattr(attempt, name) for name in attempt.__slots__),
        ],
        "opening": [*(getattr(opening, name) for name in opening.__slots__), ended_block],
        "participants": ledger_storage.list_participant_slots(values.TASK, miners),
        "seat": [
            *ledger_storage.list_seat_slots(values.TASK, miners[1]),
            *(getattr(seat, name) for name in seat.__slots__),
        ],
        "task": [*ledger_storage.list_task_slots(values.TASK), *task],
        "validator_set": [*set_storage.SET_SLOTS, *set_hashes],
        "read": read_slots,
    }
