"""A fresh node joins by snapshot at any step of a round, across crashes, with lying peers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.events import Event, decode_event
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import ZERO_HASH, Address, BlockNumber, View
from chain.training.history import TaskHistory
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.receipt import Log, Receipt
from node.chain.contract_reader import ContractReader
from node.network.protocols import state
from node.network.protocols.state import TaskRecord
from node.network.stream import PeerId
from node.network.wire import Head
from node.storage.block_store import BlockStore
from node.storage.database import Database, Writer
from node.storage.snapshot_progress import SnapshotProgress
from node.sync import snapshot_sync, task_snapshot
from node.sync.snapshot_sync import DISTANCE_BLOCKS, RETRY_SECONDS, SnapshotSync
from node.sync.sources import ANSWER_SECONDS
from tests.worlds.cluster import Killed, suppress_killed
from tests.worlds.snapshot import (
    FreshNode,
    MemoryNetwork,
    Server,
    build_world,
    small_numbers,
)
from tests.worlds.training_chain import TASK, FixedClock, TrainingChain

pytestmark = pytest.mark.usefixtures("inline_threads")


STEPS = ("submit", "activate", "register", "commit", "judge", "agree", "settle", "cancel", "close")


def play(chain: TrainingChain, until: str) -> None:
    for step in STEPS[: STEPS.index(until) + 1]:
        getattr(chain, step)()


def play_world(
    directory: Path, monkeypatch: pytest.MonkeyPatch, until: str
) -> tuple[TrainingChain, Server]:
    """A chain with a round up to a step, and a peer that serves it in small chunks."""
    small_numbers(monkeypatch)
    chain, server = build_world(directory)
    play(chain, until)
    return chain, server


@pytest.mark.parametrize("step", STEPS)
async def test_a_node_that_joins_at_any_step_of_a_round_knows_what_others_know(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    small_numbers(monkeypatch, chunk_bytes=2**19)
    chain, server = build_world(tmp_path)
    play(chain, step)
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    await node.sync.join()
    head = chain.store.head()
    assert node.store.head() == head
    assert node.store.first_held() == head.number
    assert node.store.block(head.number) == chain.store.block(head.number)
    assert node.store.receipts(head.number) == chain.store.receipts(head.number)
    assert node.store.senders(head.number) == chain.store.senders(head.number)
    assert node.store.certificate(head.number) == chain.store.certificate(head.number)
    assert node.index.history(TASK) == without_ended_attempts(chain)
    assert node.collect_state() == FreshNode.collect_state(chain_node(chain))
    # It then follows like any node: later rounds give the same rows.
    for following in STEPS[STEPS.index(step) + 1 :]:
        getattr(chain, following)()
    node.follow(chain.local)
    assert node.store.head() == chain.store.head()
    is_settled = STEPS.index(step) >= STEPS.index("settle")
    after = without_ended_attempts(chain) if is_settled else chain.index.history(TASK)
    assert node.index.history(TASK) == after


def without_ended_attempts(chain: TrainingChain) -> TaskHistory:
    """The task without attempts that ended before the snapshot: others fine their miners."""
    history = chain.index.history(TASK)
    assert history is not None
    return replace(history, ended=())


def chain_node(chain: TrainingChain) -> SimpleNamespace:
    return SimpleNamespace(store=chain.store, database=chain.local.database)


async def test_participants_of_an_attempt_opened_before_the_pivot_are_known(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "judge")
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    await node.sync.join()
    history = node.index.history(TASK)
    assert history is not None
    assert history.attempt is not None
    opened, ordinal = history.attempt.open_block, history.attempt.ordinal
    assert opened < node.store.first_held()
    contracts = ContractReader(node.store, node.database, chain.local.config, FixedClock())
    found = contracts.participants(TASK, opened, ordinal)
    assert found == chain.contracts.participants(TASK, opened, ordinal) != ()


async def test_events_since_an_attempt_opened_are_decoded_in_a_thread(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For 64 tasks and a day of blocks it took 39 minutes, in the thread of consensus.
    chain, server = play_world(tmp_path, monkeypatch, "judge")
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    run_in_thread, depth, places = trio.to_thread.run_sync, 0, []

    async def run(function: Callable[..., object], *arguments: object) -> object:
        def count_depth() -> object:
            nonlocal depth
            depth += 1
            try:
                return function(*arguments)
            finally:
                depth -= 1

        return await run_in_thread(count_depth)

    def decode(log: Log) -> Event | None:
        places.append(depth)
        return decode_event(log)

    monkeypatch.setattr(trio.to_thread, "run_sync", run)
    monkeypatch.setattr(task_snapshot, "decode_event", decode)
    await node.sync.join()
    assert places
    assert 0 not in places


async def test_sums_that_began_before_the_pivot_are_not_known(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "commit")
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    await node.sync.join()
    for step in ("judge", "agree", "settle"):
        getattr(chain, step)()
    node.follow(chain.local)
    whole = chain.index.money(TASK)
    assert whole is not None
    assert whole.miners_paid > 0
    assert node.index.money(TASK) is None, "a part of the sum would mislead"


async def test_rewards_settled_after_the_pivot_are_not_in_the_snapshot(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_numbers(monkeypatch, lag=1)  # the last block settles the round, the pivot is before it
    chain, server = build_world(tmp_path)
    play(chain, "settle")
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    await node.sync.join()
    assert node.store.head_number() == chain.store.head_number() - 1
    history = node.index.history(TASK)
    assert history is not None
    assert node.index.rewards(TASK) == {}
    node.follow(chain.local)
    assert node.index.rewards(TASK) == chain.index.rewards(TASK) != {}
    assert node.index.history(TASK) == chain.index.history(TASK)
    assert node.index.settled_round(TASK, 0) == chain.index.settled_round(TASK, 0)


async def test_payment_of_a_void_attempt_after_the_pivot_is_not_in_it(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_numbers(monkeypatch, lag=1)  # the last block pays, the pivot is before it
    chain, server = build_world(tmp_path)
    play(chain, "judge")
    chain.pay_void_attempt()
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    await node.sync.join()
    assert node.store.head_number() == chain.store.head_number() - 1
    assert node.index.rewards(TASK) == {}
    node.follow(chain.local)
    assert node.index.rewards(TASK) == chain.index.rewards(TASK) != {}
    assert node.index.history(TASK) == chain.index.history(TASK)


async def test_rewards_that_fill_several_answers_are_joined(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "ACCOUNTS_LIMIT", 2)
    chain, server = play_world(tmp_path, monkeypatch, "settle")
    silent = Server(chain.store, chain.local.database)
    silent.lies["records"] = lambda _: None
    network = MemoryNetwork(ann=silent, ben=server)
    node = FreshNode(chain.local, tmp_path / "new", network)
    await node.sync.join()
    assert server.asked.count("records") == 3, "four operators and a miner were paid"
    assert node.index.rewards(TASK) == chain.index.rewards(TASK)
    assert network.faults == []


async def test_slow_hashing_of_rewards_is_not_the_peers_fault(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "settle")
    run_in_thread = trio.to_thread.run_sync

    async def run_slowly(function: Callable[..., object], *args: object, **options: object):
        answer = await run_in_thread(function, *args, **options)
        if getattr(function, "__name__", "") == "build_progress":
            await trio.sleep(2 * ANSWER_SECONDS)
        return answer

    monkeypatch.setattr(trio.to_thread, "run_sync", run_slowly)
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    await node.sync.join()
    assert node.store.head() == chain.store.head()
    assert node.network.faults == []


async def test_a_snapshot_node_serves_the_next_one(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "commit")
    second = FreshNode(chain.local, tmp_path / "second", MemoryNetwork(ann=server))
    await second.sync.join()
    chain.judge()
    second.follow(chain.local)
    network = MemoryNetwork(second=Server(second.store, second.database))
    third = FreshNode(chain.local, tmp_path / "third", network)
    await third.sync.join()
    assert third.store.head() == chain.store.head()
    assert third.index.history(TASK) == chain.index.history(TASK)
    assert third.collect_state() == second.collect_state()


async def test_sync_resumes_after_any_crash_and_fetches_nothing_twice(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_numbers(monkeypatch, chunk_bytes=2**10)
    chain, server = build_world(tmp_path)
    play(chain, "commit")
    whole = FreshNode(chain.local, tmp_path / "whole", MemoryNetwork(ann=server))
    await whole.sync.join()
    chunks = server.asked.count("chunk")
    assert chunks > 20
    server.asked.clear()
    write = Database.write
    writes_left, lives = 0, 0

    @contextmanager
    def cut(database: Database) -> Iterator[Writer]:
        # The node is killed just before or just after a transaction is durable.
        nonlocal writes_left
        writes_left -= 1
        if writes_left == 0:
            raise Killed
        with write(database) as writer:
            yield writer
        if writes_left == 1 and lives % 2:
            writes_left = 0
            raise Killed

    while True:
        writes_left, lives = 10**9, lives + 1
        monkeypatch.setattr(Database, "write", cut)
        node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
        writes_left = 3
        try:
            with suppress_killed():
                await node.sync.join()
                break
        finally:
            node.database.close()
    assert lives > chunks // 3
    # Each crash loses at most the chunk in progress.
    assert server.asked.count("chunk") <= chunks + lives
    monkeypatch.setattr(Database, "write", write)
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    assert node.store.head() == whole.store.head()
    assert node.collect_state() == whole.collect_state()
    assert node.index.history(TASK) == chain.index.history(TASK)
    assert SnapshotProgress(node.database).load() is None
    assert SnapshotProgress(node.database).parts() == ()


def spoil(value: object) -> object:
    """A wrong value of the same shape."""
    match value:
        case tuple() | list():
            return type(value)(spoil(each) for each in value)
        case dict():
            raise RejectedInputError(
                RejectionReason.CONTENT_MISMATCH
            )  # the network layer checks this itself
        case Header():
            return replace(value, gas_used=value.gas_used + 1)
        case Block():
            return replace(value, transactions=(*value.transactions, b"\x02"))
        case Receipt():
            return replace(value, cumulative_gas_used=value.cumulative_gas_used + 1)
        case TaskRecord():
            return replace(value, rewards=((Address(bytes(20)), 10**18),))
        case CommitCertificate():
            return replace(value, view=View(value.view + 1))
        case bytes():
            return value[:-1] + bytes((value[-1] ^ 1,))
        case _:
            return value


LIES = {
    "headers": RejectionReason.UNKNOWN_PARENT,
    "chunk": RejectionReason.CONTENT_MISMATCH,
    "records": RejectionReason.CONTENT_MISMATCH,
    "receipts": RejectionReason.RECEIPTS_ROOT_MISMATCH,
    "nodes": RejectionReason.CONTENT_MISMATCH,
    "blocks": RejectionReason.TRANSACTIONS_ROOT_MISMATCH,
}


@pytest.mark.parametrize("name", LIES)
async def test_a_liar_is_reported_and_the_snapshot_comes_from_another(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "commit")
    liar = Server(chain.store, chain.local.database)
    liar.lies[name] = spoil
    network = MemoryNetwork(liar=liar, nice=server)
    node = FreshNode(chain.local, tmp_path / "new", network)
    await node.sync.join()
    assert node.store.head() == chain.store.head()
    assert node.index.history(TASK) == chain.index.history(TASK)
    assert network.faults == [("liar", reason) for reason in (LIES[name],) if reason]


async def test_headers_that_do_not_lead_to_the_pivot_are_refused(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "commit")
    liar = Server(chain.store, chain.local.database)
    liar.lies["headers"] = lambda found: found if len(found) == 1 else spoil(found)
    network = MemoryNetwork(liar=liar, nice=server)
    node = FreshNode(chain.local, tmp_path / "new", network)
    await node.sync.join()
    assert node.store.head() == chain.store.head()
    assert network.faults == [("liar", RejectionReason.UNKNOWN_PARENT)]


async def test_peers_without_a_snapshot_are_not_blamed_and_nothing_changes(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "submit")
    server.lies["chunk"] = lambda _: None
    monkeypatch.setattr(snapshot_sync, "DISTANCE_BLOCKS", 0)
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server), mode="auto")
    await node.sync.join()
    assert node.store.head_number() == 0
    assert node.network.faults == []
    assert SnapshotProgress(node.database).load() is None, "another pivot is chosen the next time"
    far = BlockNumber(1)
    assert not node.sync.is_wanted(BlockNumber(0), far), "blocks are synced meanwhile"
    await trio.sleep(RETRY_SECONDS)
    assert node.sync.is_wanted(BlockNumber(0), far)
    server.lies.clear()
    await node.sync.join()
    assert node.store.head() == chain.store.head()


async def test_unproven_head_costs_the_node_neither_history_nor_time(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "submit")
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server), mode="auto")
    node.follow(chain.local)
    chain.activate()
    network = node.network
    far = BlockNumber(DISTANCE_BLOCKS + 10)
    liar = Server(chain.store, chain.local.database)
    monkeypatch.setattr(Server, "head", property(lambda self: Head(far, ZERO_HASH)))
    network.servers[PeerId("liar")] = liar
    del network.servers[PeerId("ann")]
    left, start = node.store.head(), trio.current_time()
    assert node.sync.is_wanted(left.number, far)
    await node.sync.join()
    assert trio.current_time() - start < 1
    assert (node.store.head(), node.store.first_held()) == (left, 0)
    assert network.faults == [("liar", RejectionReason.FALSE_HEAD)]
    assert not node.sync.is_wanted(left.number, far), "blocks are synced first"


async def test_slow_peer_is_reported_and_delays_nothing(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "submit")
    network = MemoryNetwork(ann=Server(chain.store, chain.local.database), ben=server)
    get = network._get

    async def get_late(peer_id: PeerId, name: str, value: object) -> object:
        if peer_id == "ann" and name == "chunk":
            await trio.sleep_forever()
        return await get(peer_id, name, value)

    network._get = get_late
    node = FreshNode(chain.local, tmp_path / "new", network)
    start = trio.current_time()
    await node.sync.join()
    assert node.store.head() == chain.store.head()
    assert trio.current_time() - start < ANSWER_SECONDS + 2
    assert network.faults == [("ann", RejectionReason.TOO_SLOW)]


async def test_node_far_behind_jumps_by_snapshot_and_keeps_its_blocks(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_sync, "DISTANCE_BLOCKS", 2)
    chain, server = play_world(tmp_path, monkeypatch, "register")
    node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
    node.follow(chain.local)
    left = node.store.head_number()
    for step in STEPS[STEPS.index("commit") :]:
        getattr(chain, step)()
    await node.sync.join()
    assert node.store.head() == chain.store.head()
    assert node.store.first_held() == chain.store.head_number()
    assert node.store.block(left) == chain.store.block(left)
    assert node.index.history(TASK) == without_ended_attempts(chain)
    assert node.index.settled_round(TASK, 0) is None, "it was settled meanwhile"
    assert node.index.money(TASK) is None, "the sum lacks what was paid meanwhile"
    assert node.collect_state() == FreshNode.collect_state(chain_node(chain))


async def test_endless_receipts_are_neither_kept_in_memory_nor_fetched_twice(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 256 MiB of them nobody could join by snapshot, and logs cost nothing."""
    monkeypatch.setattr(snapshot_sync, "RECEIPTS_REQUEST_LIMIT", 1)
    chain, server = play_world(tmp_path, monkeypatch, "judge")
    whole = FreshNode(chain.local, tmp_path / "whole", MemoryNetwork(ann=server))
    await whole.sync.join()
    count = server.asked.count("receipts")
    assert count == 4
    server.asked.clear()
    put = BlockStore.put_receipts
    puts_left = 0

    def put_some(store: BlockStore, receipts: Mapping[BlockNumber, Sequence[Receipt]]) -> None:
        nonlocal puts_left
        assert len(receipts) == 1
        put(store, receipts)
        puts_left -= 1
        if puts_left == 0:
            raise Killed

    monkeypatch.setattr(BlockStore, "put_receipts", put_some)
    for _ in range(count + 1):
        puts_left = 1
        node = FreshNode(chain.local, tmp_path / "new", MemoryNetwork(ann=server))
        with suppress_killed():
            await node.sync.join()
        history, head = node.index.history(TASK), node.store.head()
        node.database.close()
    assert head == chain.store.head()
    assert history == chain.index.history(TASK)
    assert server.asked.count("receipts") == count


async def test_snapshot_is_of_the_operators_checkpoint_if_there_is_one(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, server = play_world(tmp_path, monkeypatch, "register")
    checkpoint = chain.store.head()
    chain.commit()
    network = MemoryNetwork(ann=server)
    node = FreshNode(chain.local, tmp_path / "new", network, checkpoint=checkpoint.hash)
    await node.sync.join()
    assert node.store.head() == checkpoint
    node.follow(chain.local)
    assert node.index.history(TASK) == chain.index.history(TASK)


def test_snapshot_is_chosen_by_mode_and_distance() -> None:
    def wanted(mode: str, head: int, best: int) -> bool:
        sync = object.__new__(SnapshotSync)
        sync._mode, sync._not_before = mode, -1.0
        return sync.is_wanted(BlockNumber(head), BlockNumber(best))

    async def check() -> None:
        assert [wanted("full", 0, 10**6), wanted("auto", 0, DISTANCE_BLOCKS)] == [False, False]
        assert [wanted("auto", 0, DISTANCE_BLOCKS + 1), wanted("snapshot", 0, 17)] == [True, True]
        assert [wanted("snapshot", 0, 16), wanted("snapshot", 1, 99)] == [False, False]
        assert wanted("snapshot", 1, DISTANCE_BLOCKS + 2)

    trio.run(check)
