"""The disk of one node and its possible accidents.

The log has the real format (docs/spec/consensus.md, section 8), so the real code must find a torn
write and a flipped bit.
"""

from pathlib import Path
from random import Random

from chain.consensus.guard import GuardState
from chain.consensus.records import Record, decode_record, encode_record
from chain.primitives import BlockNumber, Hash32
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.consensus import wal
from pot_common.errors import OperatorError

SALT = b"\x05" * 8
FILE_HEADER = wal._MAGIC + SALT


class Disk:
    """The log, the guard and the chain of one node."""

    def __init__(self, guard: GuardState | None) -> None:
        self.guard = guard
        self.chain: list[tuple[Block, CommitCertificate]] = []
        self.log = FILE_HEADER
        self.is_full = False
        """Whether the log takes no more until the process starts again."""
        self.sizes: list[tuple[BlockNumber, int]] = []
        """The block number and length of every whole record."""

    @property
    def head(self) -> BlockNumber:
        return BlockNumber(len(self.chain))

    def append(self, record: Record) -> None:
        """Write a record and fsync."""
        self.append_payload(record.number, encode_record(record))

    def append_payload(self, number: BlockNumber, payload: bytes) -> None:
        """Write an encoded record and fsync."""
        data = _frame(number, payload)
        self.log += data
        self.sizes.append((number, len(data)))

    def tear(self, number: BlockNumber, payload: bytes, random: Random) -> None:
        """Write a part of a record, as in a crash."""
        data = _frame(number, payload)
        self.log += data[: random.randrange(1, len(data))]

    def truncate_through(self, number: BlockNumber) -> None:
        """Drop the records of final numbers."""
        position, kept = len(FILE_HEADER), []
        data = FILE_HEADER
        for record_number, size in self.sizes:
            if record_number > number:
                data += self.log[position : position + size]
                kept.append((record_number, size))
            position += size
        self.log, self.sizes = data, kept

    def load(self) -> list[Record] | None:
        """The records, with a cut-off tail dropped; None if the log is damaged before its end."""
        try:
            records, good_bytes = wal._replay(Path("log"), self.log, SALT)
        except OperatorError:
            return None
        self.log = self.log[:good_bytes]
        self.sizes = [(r.number, len(wal._encode(r, SALT))) for r in records]
        return [decode_record(record.payload) for record in records]

    def records(self) -> list[wal.WalRecord]:
        """The records of a log that `load` has repaired."""
        return wal._replay(Path("log"), self.log, SALT)[0]

    def forget_log(self) -> None:
        self.log, self.sizes = FILE_HEADER, []

    def have_accident(self, kind: str, random: Random) -> None:
        """Lose something that was durable, or the room for more, by the kind of accident."""
        body = len(self.log) - len(FILE_HEADER)
        match kind:
            case "log":
                self.forget_log()
            case "flip" if body:
                position = len(FILE_HEADER) + random.randrange(body)
                flipped = bytes([self.log[position] ^ (1 << random.randrange(8))])
                self.log = self.log[:position] + flipped + self.log[position + 1 :]
            case "cut" if body:
                self.log = self.log[: -random.randrange(1, min(body, 400) + 1)]
            case "guard":
                self.guard = None
            case "full":
                self.is_full = True
            case "wiped":
                self.forget_log()
                self.guard = None
                self.chain = []
            case _:
                pass


def _frame(number: BlockNumber, payload: bytes) -> bytes:
    return wal._encode(wal.WalRecord(number, payload), SALT)


def find_stored(disk: Disk, digest: Hash32) -> Block | None:
    """A final block by its hash."""
    return next((block for block, _ in disk.chain if block.hash == digest), None)
