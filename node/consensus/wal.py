r"""The write-ahead log: votes, durable before they are sent (docs/spec/consensus.md, section 8).

    file    = "POTWAL2\n" || salt (8 random bytes) || record ...
    record  = salt || payload length (u32) || CRC-32 (u32) || block number (u64) || payload

The CRC covers salt, length, number and payload; integers are big-endian. A vote is sent only after
`append` has returned, so a record that a crash cut off was never sent, and is dropped. If a whole
record follows a damaged one, the damage is not a cut-off end; then nothing is dropped, and the
operator must decide. Records begin with a random salt that peers do not know. Otherwise a peer
could put bytes into a block that look like a record, or like many starts of records, each of which
costs a checksum of up to 8 MiB.

A damaged last record looks like a cut-off one. The signer guard protects in this case: it knows a
later vote than the log, so the validator signs nothing.
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final, NoReturn

from chain.primitives import BlockNumber
from pot_common.atomic_file import write_atomically
from pot_common.errors import OperatorError, StorageError

_MAGIC: Final = b"POTWAL2\n"
_SALT_BYTES: Final = 8
_FILE_HEADER_BYTES: Final = len(_MAGIC) + _SALT_BYTES
_RECORD_HEADER: Final = Struct(">8sIIQ")

RECORD_LIMIT_BYTES: Final = 2**23
"""8 MiB: room for a block of 4 MiB and the PREPAREs of a quorum."""


@dataclass(frozen=True, slots=True)
class WalRecord:
    """One record; the payload is encoded by chain/consensus/records.py."""

    number: BlockNumber
    payload: bytes


class WriteAheadLog:
    """An open log; only one thread of one process may use it at a time.

    Args:
        path: The log file; created if it does not exist.
        fsync: Makes a file descriptor durable; replaced only in tests of failing disks.

    Raises:
        OperatorError: The file is damaged before its end, is not a log, or is not accessible.
    """

    def __init__(self, path: Path, *, fsync: Callable[[int], None] = os.fsync) -> None:
        self._path = path
        self._fsync = fsync
        self._failure: str | None = None
        try:
            if not path.exists():
                write_atomically(path, _MAGIC + os.urandom(_SALT_BYTES))
            data = path.read_bytes()
            self._salt = _read_salt(path, data)
            self._records, good_bytes = _replay(path, data, self._salt)
            if good_bytes < len(data):
                _cut(path, good_bytes, fsync)
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise OperatorError(f"cannot open the write-ahead log {path}: {error}") from error

    def records(self) -> tuple[WalRecord, ...]:
        """The records in the log, oldest first."""
        return tuple(self._records)

    def append(self, number: BlockNumber, payload: bytes) -> None:
        """Append a record, durably.

        Raises:
            StorageError: The disk refused. Every later call fails, too, and nothing may be signed.
        """
        assert len(payload) <= RECORD_LIMIT_BYTES
        self._check_alive()
        record = WalRecord(number, payload)
        data = _encode(record, self._salt)
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            self._fsync(self._descriptor)
        except OSError as error:
            self._fail(error)
        self._records.append(record)

    def truncate_through(self, number: BlockNumber) -> None:
        """Delete the records of block numbers up to `number`, which are final.

        Raises:
            StorageError: The disk refused. Every later call fails, too, and nothing may be signed.
        """
        self._check_alive()
        kept = [record for record in self._records if record.number > number]
        if len(kept) == len(self._records):
            return
        data = b"".join(_encode(record, self._salt) for record in kept)
        try:
            write_atomically(self._path, _MAGIC + self._salt + data)
            replaced = self._descriptor
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            os.close(replaced)
        except OSError as error:
            self._fail(error)
        self._records = kept

    def close(self) -> None:
        """Release the file; the object cannot be used afterwards."""
        os.close(self._descriptor)
        self._failure = "the log is closed"

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise StorageError(self._failure)

    def _fail(self, error: OSError) -> NoReturn:
        self._failure = (
            f"cannot write the write-ahead log {self._path}: {error}; this validator signs nothing "
            "more: free or repair the disk of data_dir and start again"
        )
        raise StorageError(self._failure) from error


def read_records(path: Path) -> tuple[WalRecord, ...]:
    """The records in the log at `path`, read without changing it; empty if there is no file.

    Raises:
        OperatorError: The file is damaged before its end, is not a log, or is not readable.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise OperatorError(f"cannot read the write-ahead log {path}: {error}") from error
    return tuple(_replay(path, data, _read_salt(path, data))[0])


_CURE: Final = (
    "restore it, or move it away: the signer guard then keeps this validator from signing until "
    "the network has passed what it may have signed"
)
"""The advice for an operator with an unreadable log."""


def _cut(path: Path, length: int, fsync: Callable[[int], None]) -> None:
    """Truncate the file to `length`, durably."""
    with path.open("rb+", buffering=0) as file:
        file.truncate(length)
        fsync(file.fileno())


def _encode(record: WalRecord, salt: bytes) -> bytes:
    checksum = _checksum(salt, record.number, record.payload)
    header = _RECORD_HEADER.pack(salt, len(record.payload), checksum, record.number)
    return header + record.payload


def _checksum(salt: bytes, number: int, payload: bytes) -> int:
    prefix = salt + len(payload).to_bytes(4, "big") + number.to_bytes(8, "big")
    return zlib.crc32(payload, zlib.crc32(prefix))


def _read_salt(path: Path, data: bytes) -> bytes:
    if len(data) < _FILE_HEADER_BYTES or not data.startswith(_MAGIC):
        raise OperatorError(f"{path} is no write-ahead log of this version; {_CURE}")
    return data[len(_MAGIC) : _FILE_HEADER_BYTES]


def _replay(path: Path, data: bytes, salt: bytes) -> tuple[list[WalRecord], int]:
    """The whole records from the start, and the position of their end."""
    records: list[WalRecord] = []
    position = _FILE_HEADER_BYTES
    while (record := _decode_at(data, position, salt)) is not None:
        records.append(record)
        position += _RECORD_HEADER.size + len(record.payload)
    candidate = data.find(salt, position + 1)
    while candidate != -1:
        if _decode_at(data, candidate, salt) is not None:
            raise OperatorError(
                f"the write-ahead log {path} is damaged at byte {position}, before whole records: "
                f"that is a broken disk, not a crash; {_CURE}"
            )
        candidate = data.find(salt, candidate + 1)
    return records, position


def _decode_at(data: bytes, position: int, salt: bytes) -> WalRecord | None:
    """The record that starts at `position`; None if there is no whole record."""
    start = position + _RECORD_HEADER.size
    if start > len(data):
        return None
    marker, length, checksum, number = _RECORD_HEADER.unpack_from(data, position)
    if marker != salt or length > RECORD_LIMIT_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    if checksum != _checksum(salt, number, payload):
        return None
    return WalRecord(BlockNumber(number), payload)
