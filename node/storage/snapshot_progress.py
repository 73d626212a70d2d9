"""The progress of a state snapshot's download, stored so that a crash loses at most one chunk.

Downloaded trie nodes are stored in the state's table, by hash. Until the snapshot is adopted, no
state root refers to them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from chain import codec
from chain.state.walk import END, POSITION_LIMIT_BYTES, START, StateItem
from chain.types.certificate import CERTIFICATE_LIMIT_BYTES, CommitCertificate, decode_certificate
from chain.types.header import Header, decode_header
from node.storage.database import Database, Table, Writer

PART_COUNT: Final = 16
"""Parts of the state that are fetched in parallel, one for each first nibble of an account's
hash."""

_PIVOT_KEY: Final = b"pivot"
_PART_PREFIX: Final = b"part"
_LAST_KEY: Final = b"\xff"
_LIMIT_BYTES: Final = CERTIFICATE_LIMIT_BYTES + 4096
"""Limit of the encoded list of a header and a certificate."""


@dataclass(frozen=True, slots=True)
class Pivot:
    """The pivot: the final block of which the state is fetched."""

    header: Header
    certificate: CommitCertificate


@dataclass(frozen=True, slots=True)
class Part:
    """The range of one part of the state that is still to be fetched."""

    index: int
    next_position: bytes
    end: bytes

    @property
    def is_done(self) -> bool:
        """Whether the whole part was fetched."""
        return self.next_position == self.end


class SnapshotProgress:
    """The stored progress of a download."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> Pivot | None:
        """The pivot of the stored download; None if there is none."""
        with self._database.read() as reader:
            value = reader.get(Table.SNAPSHOT, _PIVOT_KEY)
        if value is None:
            return None
        header, certificate = codec.as_list(codec.decode(value, limit_bytes=_LIMIT_BYTES), length=2)
        return Pivot(
            decode_header(codec.as_bytes(header)), decode_certificate(codec.as_bytes(certificate))
        )

    def begin(self, pivot: Pivot) -> None:
        """Begin the download of a block's state, and drop any other download.

        Raises:
            StorageError: The disk refused.
        """
        bounds = [START, *(bytes((nibble,)) for nibble in range(1, PART_COUNT)), END]
        with self._database.write() as writer:
            clear_progress(writer)
            row = codec.encode([pivot.header.encode(), pivot.certificate.encode()])
            writer.put(Table.SNAPSHOT, _PIVOT_KEY, row)
            for index in range(PART_COUNT):
                _put_part(writer, Part(index, bounds[index], bounds[index + 1]))

    def parts(self) -> tuple[Part, ...]:
        """All parts, including finished ones."""
        first, last = _PART_PREFIX, _PART_PREFIX + _LAST_KEY
        with self._database.read() as reader:
            return tuple(
                _decode_part(key, value) for key, value in reader.scan(Table.SNAPSHOT, first, last)
            )

    def save_chunk(self, part: Part, items: Iterable[StateItem]) -> None:
        """Store verified items and the progress of their part, in one step.

        Raises:
            StorageError: The disk refused.
        """
        with self._database.write() as writer:
            writer.put_new(Table.STATE, sorted((item.hash, item.data) for item in items))
            _put_part(writer, part)

    def save_nodes(self, nodes: Mapping[bytes, bytes]) -> None:
        """Store trie nodes, by their hashes, without changing the progress of a part.

        Raises:
            StorageError: The disk refused.
        """
        with self._database.write() as writer:
            writer.put_new(Table.STATE, sorted(nodes.items()))

    def clear(self) -> None:
        """Abandon the download.

        Raises:
            StorageError: The disk refused.
        """
        with self._database.write() as writer:
            clear_progress(writer)


def clear_progress(writer: Writer) -> None:
    """Delete the progress, within the transaction that adopts the snapshot or begins another."""
    for key, _ in list(writer.scan(Table.SNAPSHOT, b"", _LAST_KEY)):
        writer.delete(Table.SNAPSHOT, key)


def _put_part(writer: Writer, part: Part) -> None:
    key = _PART_PREFIX + bytes((part.index,))
    writer.put(Table.SNAPSHOT, key, codec.encode([part.next_position, part.end]))


def _decode_part(key: bytes, value: bytes) -> Part:
    row = codec.decode(value, limit_bytes=2 * POSITION_LIMIT_BYTES + 16)
    position, end = codec.as_list(row, length=2)
    return Part(key[-1], codec.as_bytes(position), codec.as_bytes(end))
