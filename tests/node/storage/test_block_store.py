import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chain.crypto import keccak256
from chain.primitives import BlockNumber
from chain.types.block import Block
from chain.types.receipt import encode_receipts
from node.storage.block_store import BlockStore
from node.storage.database import Database, Table, Writer, open_database
from pot_common.errors import OperatorError, StorageError
from tests.worlds.values import (
    GENESIS,
    GENESIS_DELTA,
    GENESIS_SET,
    ChainLink,
    address,
    certificate,
    chain_of,
    header,
    topic,
)

LARGEST_FILE_BYTES = 2**44
"""Of ext4."""


@pytest.fixture
def database(tmp_path):
    opened = open_database(tmp_path / "database")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> BlockStore:
    result = BlockStore(database)
    result.initialize(GENESIS, GENESIS_DELTA, b"{}", GENESIS_SET)
    return result


def finalize(store: BlockStore, link: ChainLink) -> None:
    store.finalize(
        link.block,
        link.certificate,
        receipts=link.receipts,
        senders=link.senders,
        delta=link.delta,
    )


def test_initialized_store_has_genesis_as_head(store, database):
    assert store.head() == GENESIS
    assert store.genesis_hash() == GENESIS.hash
    assert store.genesis_config() == b"{}"
    assert store.block(BlockNumber(0)) == Block(GENESIS, (), None)
    assert store.receipts(BlockNumber(0)) == ()
    assert store.certificate(BlockNumber(0)) is None
    assert database.get(keccak256(b"genesis state")) == b"genesis state"


def test_initializing_again_keeps_the_chain(store):
    finalize(store, chain_of(1)[0])
    store.initialize(GENESIS, GENESIS_DELTA, b"{}", GENESIS_SET)
    assert store.head_number() == 1


def test_another_genesis_is_refused_with_the_cure(store):
    other = header(0, GENESIS.hash)
    with pytest.raises(OperatorError, match=r"another chain.*set data_dir to an empty directory"):
        store.initialize(other, {}, b"{}", GENESIS_SET)
    assert store.head() == GENESIS


def test_store_of_another_format_is_refused(store, database):
    with database.write() as writer:
        writer.put(Table.META, b"schema", b"0")
    with pytest.raises(OperatorError, match="format 0"):
        store.check_initialized()
    with pytest.raises(OperatorError, match="format 0"):
        store.initialize(GENESIS, {}, b"{}", GENESIS_SET)


def test_empty_store_names_the_command_that_fills_it(database):
    with pytest.raises(OperatorError, match="pot init"):
        BlockStore(database).check_initialized()


def test_reader_without_a_database_names_the_setting(tmp_path):
    with pytest.raises(OperatorError, match="data_dir"):
        open_database(tmp_path / "nothing", readonly=True)


def test_every_reader_finds_what_was_finalized(store, database):
    links = chain_of(5)
    for link in links:
        finalize(store, link)

    assert store.head() == links[-1].block.header
    for number, link in enumerate(links, start=1):
        assert store.block(BlockNumber(number)) == link.block
        assert store.header(BlockNumber(number)) == link.block.header
        assert store.number_of(link.block.hash) == number
        assert store.receipts(BlockNumber(number)) == link.receipts
        assert store.senders(BlockNumber(number)) == link.senders
        signed = certificate(number).encode()
        assert store.encoded_block(BlockNumber(number)) == (link.block.encode(), signed)
        assert store.encoded_header(BlockNumber(number)) == (link.block.header.encode(), signed)
        assert store.encoded_receipts(BlockNumber(number)) == encode_receipts(link.receipts)
        for index, raw in enumerate(link.block.transactions):
            assert store.transaction_location(keccak256(raw)) == (number, index)
        assert all(database.get(key) == value for key, value in link.delta.items())


def test_nothing_is_found_past_the_head(store):
    assert store.block(BlockNumber(1)) is None
    assert store.header(BlockNumber(1)) is None
    assert store.receipts(BlockNumber(1)) is None
    assert store.senders(BlockNumber(1)) is None
    assert store.certificate(BlockNumber(1)) is None
    assert store.encoded_block(BlockNumber(1)) is None
    assert store.encoded_header(BlockNumber(1)) is None
    assert store.encoded_receipts(BlockNumber(1)) is None
    assert store.number_of(keccak256(b"x")) is None
    assert store.transaction_location(keccak256(b"x")) is None


def test_certificate_moves_from_the_side_table_to_the_child(store, database):
    for count, link in enumerate(chain_of(4), start=1):
        finalize(store, link)
        for number in range(1, count + 1):
            assert store.certificate(BlockNumber(number)) == certificate(number)
        with database.read() as reader:
            held = [key for key, _ in reader.scan(Table.CERTIFICATES, bytes(8), b"\xff" * 8)]
        assert held == [count.to_bytes(8, "big")]


def test_headers_and_coinbases_come_in_order_as_far_as_the_chain_goes(store):
    links = chain_of(4)
    for link in links:
        finalize(store, link)
    assert store.coinbases(BlockNumber(2), BlockNumber(9)) == tuple(
        address(1000 + number) for number in (2, 3, 4)
    )
    assert store.headers(BlockNumber(0), BlockNumber(1)) == (GENESIS, links[0].block.header)


def test_log_search_asks_for_one_of_each_group(store):
    for link in chain_of(6):
        finalize(store, link)

    def found(*alternatives: list[bytes], first: int = 0, last: int = 9) -> tuple[int, ...]:
        return store.block_numbers_with_logs(BlockNumber(first), BlockNumber(last), alternatives)

    assert found() == (2, 4, 6)
    assert found([address(4)]) == (4,)
    assert found([address(4), address(2)], [topic(7)]) == (2, 4)
    assert found([address(4)], [topic(6)]) == ()
    assert found([], [topic(7)], first=3, last=5) == (4,)


def test_block_that_is_not_the_heads_child_is_an_assertion_error(store):
    with pytest.raises(AssertionError):
        finalize(store, chain_of(2)[1])
    assert store.head() == GENESIS


def test_failure_anywhere_in_finalize_leaves_no_trace(store, database, monkeypatch):
    first, second = chain_of(2)
    finalize(store, first)

    def tables() -> dict[Table, list[tuple[bytes, bytes]]]:
        with database.read() as reader:
            return {table: list(reader.scan(table, b"\x00", b"\xff" * 40)) for table in Table}

    before = tables()
    changes = 0
    put = Writer.put
    for survived in range(100):
        changes = 0

        def failing_put(writer: Writer, table: Table, key: bytes, value: bytes, limit=survived):
            nonlocal changes
            if changes == limit:
                raise KeyboardInterrupt
            changes += 1
            put(writer, table, key, value)

        monkeypatch.setattr(Writer, "put", failing_put)
        try:
            finalize(store, second)
        except KeyboardInterrupt:
            assert tables() == before
        else:
            break
    assert changes > 8
    assert store.block(BlockNumber(2)) == second.block


def test_full_disk_stops_every_later_write(store, database, monkeypatch):
    first = chain_of(1)[0]

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "put", refuse)
        with pytest.raises(StorageError, match="No space left"):
            finalize(store, first)
    with pytest.raises(StorageError, match="No space left"):
        finalize(store, first)
    assert store.head() == GENESIS


KILLED_WRITER = """
import sys
from pathlib import Path
from node.storage.block_store import BlockStore
from node.storage.database import open_database
from tests.worlds.values import GENESIS_SET, GENESIS, GENESIS_DELTA, chain_of
store = BlockStore(open_database(Path(sys.argv[1])))
store.initialize(GENESIS, GENESIS_DELTA, b"{}", GENESIS_SET)
links = chain_of(300, state_nodes=20)
print("ready", flush=True)
for link in links[store.head_number():]:
    store.finalize(link.block, link.certificate, receipts=link.receipts, senders=link.senders,
                   delta=link.delta)
    print(link.block.number, flush=True)
"""


def test_disk_is_the_limit_of_the_database_and_not_its_map(tmp_path):
    opened = open_database(tmp_path / "whole")
    assert opened._environment.info()["map_size"] >= LARGEST_FILE_BYTES
    opened.close()
    small = open_database(tmp_path / "small", map_size_bytes=2**20)
    with pytest.raises(StorageError, match="MDB_MAP_FULL"), small.write() as writer:
        writer.put(Table.META, b"name", bytes(2**20))
    small.close()


def test_killed_writer_leaves_a_whole_head_and_loses_nothing_it_reported(tmp_path):
    path = tmp_path / "database"
    links = chain_of(300, state_nodes=20)
    reported = 0
    for kill_after in (3, 17, 60):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        start = reported
        while reported < start + kill_after:
            reported = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()

        database = open_database(path)
        store = BlockStore(database)
        head = store.head_number()
        assert reported <= head <= reported + 1
        link = links[head - 1]
        assert store.block(head) == link.block
        assert store.certificate(head) == link.certificate
        assert store.receipts(head) == link.receipts
        assert all(database.get(key) == value for key, value in link.delta.items())
        assert store.header(BlockNumber(head + 1)) is None
        database.close()
        reported = head


READER = """
import sys
from pathlib import Path
from node.storage.block_store import BlockStore
from node.storage.database import open_database
store = BlockStore(open_database(Path(sys.argv[1]), readonly=True))
store.check_initialized()
for line in sys.stdin:
    print(store.head_number(), store.certificate(store.head_number()) is not None, flush=True)
"""


def test_another_process_sees_each_finalized_block_at_once(store, database):
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(database.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for link in chain_of(3):
        finalize(store, link)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{link.block.number} True\n"
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_readers_in_other_threads_see_a_consistent_chain_while_it_grows(store):
    links = chain_of(20)
    done = threading.Event()
    problems: list[str] = []

    def read() -> None:
        while not done.is_set():
            head = store.head_number()
            if head and store.certificate(head) != certificate(head):
                problems.append(f"certificate of {head}")
            if store.block(head) is None:
                problems.append(f"block {head}")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for link in links:
        finalize(store, link)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
