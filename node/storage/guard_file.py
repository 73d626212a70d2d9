"""The signer guard: the furthest a consensus key has signed (docs/spec/consensus.md, section 8).

Two slots, written in turn and each with a CRC, in a file that never changes its length: one fsync
of one page and no rename, 0.15 ms against 0.69 ms where it was measured, twice a vote. A crash can
only damage the slot that was being written, and what it was to hold was not signed yet.
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

from chain.primitives import UINT64_MAX, ZERO_HASH, BlockNumber, Hash32, View
from node.atomic_file import write_atomically
from node.errors import OperatorError, StorageFailed

_MAGIC: Final = b"POTGRD1\n"
_SLOT: Final = Struct(">8sQQQBQ32s")
"""Magic, write count, number, view, step, prepared view, prepared digest; a CRC-32 follows."""

SLOT_STRIDE_BYTES: Final = 4096
"""A page for each slot, so that writing one cannot touch the other."""


@dataclass(frozen=True, slots=True)
class GuardRecord:
    """The furthest that was signed. Which steps may follow is the consensus core's rule."""

    number: BlockNumber
    view: View
    step: int
    """Order of the kinds of message within a view, 0 to 255."""
    prepared_view: View | None
    """The view of the highest prepared certificate at `number`; None if there is none."""
    prepared_digest: Hash32
    """Its digest; zero if there is none."""


class GuardFile:
    """The guard of one consensus key. One process at a time; synchronous.

    Args:
        path: the guard file; it exists from the first `save` on.
        fsync: makes a file descriptor durable; another one only in tests of failing disks.
    """

    def __init__(self, path: Path, *, fsync: Callable[[int], None] = os.fsync) -> None:
        self._path = path
        self._fsync = fsync
        self._write_count = 0
        self._failure: str | None = None

    def load(self) -> GuardRecord | None:
        """What was saved last, or None if nothing ever was.

        Raises:
            OperatorError: the file is there and neither slot is whole, or it is not readable.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OperatorError(f"cannot read the signer guard {self._path}: {error}") from error
        slots = [
            _decode(data[start : start + SLOT_STRIDE_BYTES]) for start in (0, SLOT_STRIDE_BYTES)
        ]
        whole = [slot for slot in slots if slot is not None]
        if not whole:
            raise OperatorError(
                f"the signer guard {self._path} is damaged: restore it, or move it away: this "
                "validator then signs nothing until the network has passed what it may have signed"
            )
        self._write_count, record = max(whole, key=lambda slot: slot[0])
        return record

    def save(self, record: GuardRecord) -> None:
        """Replace what is saved; durable on return. Call `load` once before.

        Raises:
            StorageFailed: the disk refused; from then on always, and nothing may be signed.
        """
        if self._failure is not None:
            raise StorageFailed(self._failure)
        count = self._write_count + 1
        slot = _encode(count, record)
        try:
            if self._write_count == 0:
                write_atomically(self._path, slot * 2)
            else:
                self._overwrite(slot, SLOT_STRIDE_BYTES * (count % 2))
        except OSError as error:
            self._failure = (
                f"cannot write the signer guard {self._path}: {error}; this validator signs "
                "nothing more: free or repair the disk of the consensus key and start again"
            )
            raise StorageFailed(self._failure) from error
        self._write_count = count

    def _overwrite(self, slot: bytes, offset: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.pwrite(descriptor, slot, offset)
            if written != len(slot):
                raise OSError(f"wrote {written} of {len(slot)} bytes")
            self._fsync(descriptor)
        finally:
            os.close(descriptor)


def _encode(count: int, record: GuardRecord) -> bytes:
    prepared_view = UINT64_MAX if record.prepared_view is None else record.prepared_view
    body = _SLOT.pack(
        _MAGIC,
        count,
        record.number,
        record.view,
        record.step,
        prepared_view,
        record.prepared_digest,
    )
    return (body + zlib.crc32(body).to_bytes(4, "big")).ljust(SLOT_STRIDE_BYTES, b"\x00")


def _decode(slot: bytes) -> tuple[int, GuardRecord] | None:
    """The write count and the record of a whole slot, or None."""
    body, checksum = slot[: _SLOT.size], slot[_SLOT.size : _SLOT.size + 4]
    if len(slot) != SLOT_STRIDE_BYTES or checksum != zlib.crc32(body).to_bytes(4, "big"):
        return None
    magic, count, number, view, step, prepared_view, digest = _SLOT.unpack(body)
    if magic != _MAGIC:
        return None
    no_view = prepared_view == UINT64_MAX
    return count, GuardRecord(
        number=BlockNumber(number),
        view=View(view),
        step=step,
        prepared_view=None if no_view else View(prepared_view),
        prepared_digest=ZERO_HASH if no_view else Hash32(digest),
    )
