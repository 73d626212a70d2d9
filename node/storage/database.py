"""The embedded database: one LMDB environment that every process may read (docs/operator-guide.md).

Only the process that finalizes blocks writes, one transaction at a time, which is durable when
`write` returns. Readers in any process see the last committed state; they block no other process.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Final

import lmdb

from pot_common.errors import OperatorError, StorageError

MAP_SIZE_BYTES: Final = 2**44
"""16 TiB of address space, not of disk: the file grows with its content. It is the largest file of
ext4, so that the disk is the limit: databases of all validators grow alike, and a smaller limit
would end them all at the same block. A process can address 128 TiB."""

MAX_READERS: Final = 512
"""Limit of concurrent read transactions of all processes; each takes 64 bytes of the lock file."""


class Table(StrEnum):
    """The tables. Keys are block numbers, big-endian, unless stated otherwise."""

    META = "meta"
    """By name: schema version, genesis, head."""
    STATE = "state"
    """Trie nodes and code by their Keccak-256."""
    HEADERS = "headers"
    BODIES = "bodies"
    NUMBERS = "numbers"
    """Block hash to block number."""
    CERTIFICATES = "certificates"
    """Only the head's commit certificate; others are in the body of the child block."""
    RECEIPTS = "receipts"
    SENDERS = "senders"
    TRANSACTIONS = "transactions"
    """Transaction hash to block number and index."""
    COINBASES = "coinbases"
    BLOOMS = "blooms"
    """The logs bloom of blocks that have logs."""
    SNAPSHOT = "snapshot"
    """The progress of an unfinished snapshot download (node/storage/snapshot_progress.py)."""
    VALIDATOR_SETS = "validator_sets"
    """Validators and operators of each validator set, by the first block that it decides."""
    TRAINING = "training"
    """Tasks and rounds, from the events of the contracts (node/chain/training_index.py)."""


class Reader:
    """A consistent view of the tables, valid inside its `with` block."""

    def __init__(
        self, transaction: "lmdb.Transaction[bytes]", handles: dict[Table, "lmdb._Database"]
    ) -> None:
        self._transaction = transaction
        self._handles = handles

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value of `key`; None if there is none."""
        return self._transaction.get(key, db=self._handles[table])

    def scan(self, table: Table, first: bytes, last: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries with first <= key <= last, by ascending key."""
        with self._transaction.cursor(db=self._handles[table]) as cursor:
            if not cursor.set_range(first):
                return
            for key, value in cursor:
                if key > last:
                    return
                yield key, value

    def find_last(self, table: Table, last: bytes) -> tuple[bytes, bytes] | None:
        """The entry with the greatest key <= last; None if there is none."""
        with self._transaction.cursor(db=self._handles[table]) as cursor:
            is_found = cursor.set_range(last)
            if is_found and cursor.key() == last:
                return cursor.item()
            is_found = cursor.prev() if is_found else cursor.last()
            return cursor.item() if is_found else None


class Writer(Reader):
    """The view of the write transaction, including its own changes."""

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set the value of `key`."""
        self._transaction.put(key, value, db=self._handles[table])

    def put_new(self, table: Table, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Add the `entries` with new keys; skip those with keys that exist."""
        with self._transaction.cursor(db=self._handles[table]) as cursor:
            cursor.putmulti(entries, overwrite=False)

    def delete(self, table: Table, key: bytes) -> None:
        """Remove `key` if it exists."""
        self._transaction.delete(key, db=self._handles[table])


class Database:
    """An open database. It is also the chain's `ReadableDatabase` of trie nodes and code."""

    def __init__(self, environment: lmdb.Environment, path: Path, *, readonly: bool) -> None:
        self.path = path
        self.on_commit: Callable[[float], None] = lambda _seconds: None
        """Called after every commit with its duration in seconds."""
        self._environment = environment
        self._handles = {
            table: environment.open_db(table.encode(), create=not readonly) for table in Table
        }
        self._failure: str | None = None

    def get(self, key: bytes) -> bytes | None:
        """The trie node or code with that Keccak-256; None if it is not held."""
        with self._environment.begin(db=self._handles[Table.STATE]) as transaction:
            return transaction.get(key)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A consistent view of everything that is committed."""
        with self._environment.begin() as transaction:
            yield Reader(transaction, self._handles)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """The write transaction: durable when the block ends, undone if it raises.

        Raises:
            StorageError: The disk is full or broken; every later write then fails, too.
        """
        if self._failure is not None:
            raise StorageError(self._failure)
        try:
            with self._environment.begin(write=True) as transaction:
                yield Writer(transaction, self._handles)
                started = perf_counter()
            self.on_commit(perf_counter() - started)
        except (lmdb.Error, OSError) as error:
            self._failure = (
                f"cannot write to the database {self.path}: {error}; "
                "free or repair the disk of data_dir and start again"
            )
            raise StorageError(self._failure) from error

    def close(self) -> None:
        """Release the files; the object cannot be used afterwards."""
        self._environment.close()


def open_database(
    path: Path, *, readonly: bool = False, map_size_bytes: int = MAP_SIZE_BYTES
) -> Database:
    """The database in the directory `path`; it is created if missing, unless `readonly`.

    A process must open a database only once, because LMDB's locks belong to the process.

    Args:
        path: The directory.
        readonly: Whether this process never writes.
        map_size_bytes: The largest database. A process that opens many maps less for each.

    Raises:
        OperatorError: The database is missing (readonly), of another format, or not accessible.
    """
    if readonly and not (path / "data.mdb").exists():
        raise OperatorError(f"no database at {path}: run `pot init`, or set data_dir")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = lmdb.open(
            str(path),
            map_size=map_size_bytes,
            max_dbs=len(Table),
            max_readers=MAX_READERS,
            mode=0o600,
            readonly=readonly,
            sync=True,
            metasync=True,
            # Trie nodes are ordered by hash, so neighbours are not read together: no read-ahead.
            readahead=False,
        )
        # The slot of a killed reader would prevent the reuse of freed pages.
        environment.reader_check()
        return Database(environment, path, readonly=readonly)
    except (lmdb.Error, OSError) as error:
        raise OperatorError(
            f"cannot open the database {path}: {error}; check the "
            "permissions and the disk of data_dir"
        ) from error
