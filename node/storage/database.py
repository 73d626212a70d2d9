"""The embedded database: one LMDB environment that every process may read (docs/operator-guide.md).

Writes go through one transaction at a time, in the process that finalizes; it is durable when
`write` returns. Readers, in this process or another, see the last committed state and block nobody.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Final

import lmdb

from pot_common.errors import OperatorError, StorageError

MAP_SIZE_BYTES: Final = 2**40
"""1 TiB of address space, not of disk: the file grows with what is stored. The same for every
process, since LMDB maps the whole of it."""

MAX_READERS: Final = 512
"""Concurrent read transactions over all processes; a slot is 64 bytes of the lock file."""


class Table(StrEnum):
    """The named tables; keys are big-endian block numbers unless said otherwise."""

    META = "meta"
    """By name: schema version, genesis, head."""
    STATE = "state"
    """Trie nodes and code by their Keccak-256."""
    HEADERS = "headers"
    BODIES = "bodies"
    NUMBERS = "numbers"
    """Block hash to block number."""
    CERTIFICATES = "certificates"
    """The head's commit certificate alone: its child carries it from then on."""
    RECEIPTS = "receipts"
    SENDERS = "senders"
    TRANSACTIONS = "transactions"
    """Transaction hash to block number and index."""
    COINBASES = "coinbases"
    BLOOMS = "blooms"
    """The logs bloom of blocks that have logs."""
    SNAPSHOT = "snapshot"
    """What node/storage/snapshot_progress.py keeps of a download that is not over."""
    VALIDATOR_SETS = "validator_sets"
    """By the first number that a validator set decides: its members and their operators."""
    TRAINING = "training"
    """What node/chain/training_index.py folds from the events of the system contracts."""


class Reader:
    """One consistent view of the tables, valid inside its `with` block."""

    def __init__(
        self, transaction: "lmdb.Transaction[bytes]", handles: dict[Table, "lmdb._Database"]
    ) -> None:
        self._transaction = transaction
        self._handles = handles

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value of `key`, or None if there is none."""
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
        """The entry with the greatest key <= last, or None if there is none."""
        with self._transaction.cursor(db=self._handles[table]) as cursor:
            is_found = cursor.set_range(last)
            if is_found and cursor.key() == last:
                return cursor.item()
            is_found = cursor.prev() if is_found else cursor.last()
            return cursor.item() if is_found else None


class Writer(Reader):
    """The view of the one write transaction, its own changes included."""

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set the value of `key`."""
        self._transaction.put(key, value, db=self._handles[table])

    def put_new(self, table: Table, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Add those of `entries` whose keys are not there yet."""
        with self._transaction.cursor(db=self._handles[table]) as cursor:
            cursor.putmulti(entries, overwrite=False)

    def delete(self, table: Table, key: bytes) -> None:
        """Remove `key`, if it is there."""
        self._transaction.delete(key, db=self._handles[table])


class Database:
    """An open environment. Also the chain's `ReadableDatabase` of trie nodes and code."""

    def __init__(self, environment: lmdb.Environment, path: Path, *, readonly: bool) -> None:
        self.path = path
        self.on_commit: Callable[[float], None] = lambda _seconds: None
        """Told how long a commit took."""
        self._environment = environment
        self._handles = {
            table: environment.open_db(table.encode(), create=not readonly) for table in Table
        }
        self._failure: str | None = None

    def get(self, key: bytes) -> bytes | None:
        """The trie node or code with that Keccak-256, or None if it is not held."""
        with self._environment.begin(db=self._handles[Table.STATE]) as transaction:
            return transaction.get(key)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A consistent view of everything committed so far."""
        with self._environment.begin() as transaction:
            yield Reader(transaction, self._handles)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """The one write transaction: durable on leaving, without effect on an exception.

        Raises:
            StorageError: the disk is full or broken; from then on always.
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
        """Release the files; the object is of no further use."""
        self._environment.close()


def open_database(path: Path, *, readonly: bool = False) -> Database:
    """The database in the directory `path`, made if it is absent and not `readonly`.

    Once a process: LMDB's locks are the process's, not the object's.

    Raises:
        OperatorError: absent (readonly), of another format, or not accessible.
    """
    if readonly and not (path / "data.mdb").exists():
        raise OperatorError(f"no database at {path}: run `pot init`, or set data_dir")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = lmdb.open(
            str(path),
            map_size=MAP_SIZE_BYTES,
            max_dbs=len(Table),
            max_readers=MAX_READERS,
            mode=0o600,
            readonly=readonly,
            sync=True,
            metasync=True,
            # Trie nodes lie in the order of their hashes: what is beside one is not read next.
            readahead=False,
        )
        # A killed reader's slot would keep freed pages from being used again.
        environment.reader_check()
        return Database(environment, path, readonly=readonly)
    except (lmdb.Error, OSError) as error:
        raise OperatorError(
            f"cannot open the database {path}: {error}; check the "
            "permissions and the disk of data_dir"
        ) from error
