"""Snapshot sync: a node joins at a recent final block (docs/spec/consensus.md, section 10).

Peers need not be trusted. The certificate proves that the block (the pivot) is final, its state
root proves the state, and block and state contain the hashes of everything else. The state comes in
chunks from several peers. Each chunk is verified and stored together with the progress of its part,
so a crash costs at most one chunk. When everything is stored, the pivot becomes the head.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, TypeVar

import structlog
import trio

from chain.contracts import miner_seats
from chain.contracts.addresses import GRADIENT_LEDGER, MINER_SEATS
from chain.contracts.state_reader import StateReader
from chain.errors import InvalidBlock, RejectedInputError, RejectionReason
from chain.primitives import EMPTY_TRIE_ROOT, BlockNumber, Hash32, TaskId
from chain.state import trie
from chain.state.world_state import get_account
from chain.transition import compute_receipts_root
from chain.types.block import Block
from chain.types.header import Header
from chain.types.receipt import Receipt, may_contain
from chain.types.transaction import decode_transaction
from node.chain.executor import Executor
from node.chain.finalizer import Finalizer
from node.chain.training_index import build_rows
from node.network.protocols.state import NODES_LIMIT, RECORDS_LIMIT
from node.network.requests import SnapshotPeers
from node.network.stream import PeerId
from node.network.wire import BLOCK_REQUEST_LIMIT, RECEIPTS_REQUEST_LIMIT
from node.storage.block_store import BlockStore, Snapshot
from node.storage.database import Database
from node.storage.snapshot_progress import Pivot, SnapshotProgress
from node.sync.pivot_search import PivotSearch, read_with_nodes
from node.sync.record_pages import RecordPages
from node.sync.sources import Sources, UnfitError
from node.sync.state_download import StateDownload
from node.sync.task_snapshot import StateView, TaskProgress, fold_attempts

SyncMode = Literal["auto", "full", "snapshot"]
"""When a snapshot is used: if the node is far behind; never; or also if it has only genesis."""

DISTANCE_BLOCKS: Final = 4_096
"""In mode auto, a node that is further behind uses a snapshot. Executing so many blocks takes a
minute."""

PIVOT_LAG_BLOCKS: Final = 8
"""The pivot is this many blocks below a peer's head, so peers that are slightly behind have it,
too."""

HEADERS_LIMIT: Final = 2**17
"""Limit of headers below the pivot, which are in memory until it is adopted: 80 MB. With the
default block interval these are 16 hours, as long as an attempt can last. Above the limit blocks
are executed instead."""

STALL_SECONDS: Final = 60.0
"""After this time without progress the pivot is abandoned, because no peer serves it any more."""

RETRY_SECONDS: Final = 60.0
"""Time between a failed snapshot and the next try."""

ADVANCE_SECONDS: Final = 5.0
"""Blocks are executed as well when the snapshot has not come further for this long. Otherwise they
would only take the processor from it."""

POLL_SECONDS: Final = 0.2
"""Interval of looking for peers while none answers."""

PRIMARY_ORDER_TURNS: Final = 4
"""The primary order depends on the coinbases of 4n + 2 blocks."""

_PART: Final = "part of a snapshot"

_log = structlog.get_logger("node.sync")

_Answer = TypeVar("_Answer")


class SnapshotFailedError(Exception):
    """No snapshot is available now; blocks are executed instead."""


class SnapshotSync:
    """Joins the chain at a recent block if the node is far behind."""

    def __init__(
        self,
        *,
        store: BlockStore,
        database: Database,
        executor: Executor,
        network: SnapshotPeers,
        finalizer: Finalizer,
        chain_id: int,
        mode: SyncMode,
        checkpoint: Hash32 | None = None,
    ) -> None:
        """Create it; it does nothing before `join`.

        Args:
            store: The stored chain.
            database: Receives the state.
            executor: Verifies certificates.
            network: The peers.
            finalizer: Makes the snapshot the head.
            chain_id: The network's chain id.
            mode: When snapshots are used.
            checkpoint: The hash of a final block that the operator trusts. If it is given, only
                this block can be the pivot.
        """
        self._store = store
        self._database = database
        self._executor = executor
        self._network = network
        self._finalizer = finalizer
        self._chain_id = chain_id
        self._mode = mode
        self._checkpoint = checkpoint
        self._progress = SnapshotProgress(database)
        self._sources = Sources(network, store)
        self._pivots = PivotSearch(
            store=store,
            database=database,
            executor=executor,
            network=network,
            sources=self._sources,
            chain_id=chain_id,
            checkpoint=checkpoint,
        )
        self._not_before = 0.0
        self._progress_at = 0.0
        self._is_advancing = False
        self._changed = trio.Event()

    def is_wanted(self, head: BlockNumber, best: BlockNumber) -> bool:
        """Whether to join by snapshot now, with our head and the best head of the peers."""
        if self._mode == "full" or best - head <= self._get_distance(head):
            return False
        return trio.current_time() >= self._not_before

    def is_waited_for(self, head: BlockNumber, best: BlockNumber) -> bool:
        """Whether blocks are not executed now, because a snapshot is on its way.

        A peer's claim is not enough for that, unless the operator wants no blocks from before the
        snapshot.
        """
        if self._has_nothing(head):
            return self.is_wanted(head, best)
        return self._is_advancing and trio.current_time() - self._progress_at < ADVANCE_SECONDS

    def _has_nothing(self, head: BlockNumber) -> bool:
        return self._mode == "snapshot" and head == 0

    def _get_distance(self, head: BlockNumber) -> int:
        """The number of blocks that a node at `head` may be behind without using a snapshot."""
        return 2 * PIVOT_LAG_BLOCKS if self._has_nothing(head) else DISTANCE_BLOCKS

    async def join(self) -> None:
        """Bring the node to a recent block; on failure leave it unchanged and wait before a retry.

        Raises:
            StorageError: The disk refused.
        """
        try:
            pivot = self._progress.load()
            if pivot is None or not self._is_far_enough(pivot):
                head = self._store.head_number()
                least = BlockNumber(head + self._get_distance(head) + 1)
                pivot = await self._pivots.find(least, PIVOT_LAG_BLOCKS)
                if pivot is None:
                    raise SnapshotFailedError("no peer proves a block that is far enough ahead")
                await trio.to_thread.run_sync(self._progress.begin, pivot)
            _log.info("joining by snapshot", number=pivot.header.number)
            self._note_progress()
            self._is_advancing = True
            await self._download_state(pivot)
            if not self._is_far_enough(pivot):
                raise SnapshotFailedError("blocks were executed almost up to it meanwhile")
            await self._finalizer.adopt(await self._complete(pivot))
        except SnapshotFailedError as error:
            self._not_before = trio.current_time() + RETRY_SECONDS
            await trio.to_thread.run_sync(self._progress.clear)
            _log.warning("snapshot sync failed, blocks are executed instead", reason=str(error))
        else:
            _log.info("joined by snapshot", head=self._store.head_number())
        finally:
            self._is_advancing = False

    def _is_far_enough(self, pivot: Pivot) -> bool:
        """Whether a stored pivot is so far ahead that it is worth losing the blocks below it."""
        head, number = self._store.head_number(), pivot.header.number
        if pivot.header.hash == self._checkpoint:
            return number > head
        return number + PIVOT_LAG_BLOCKS - head > self._get_distance(head)

    # Asking.

    async def _ask(
        self,
        number: BlockNumber,
        ask: Callable[[PeerId], Awaitable[_Answer | None]],
        *,
        preferred: PeerId | None = None,
    ) -> _Answer:
        """The first good answer of a peer that has block `number`, the `preferred` one first.

        Raises:
            SnapshotFailedError: There was no good answer for STALL_SECONDS.
        """
        while True:
            peers = self._sources.list_at(number)
            for peer in sorted(peers, key=lambda each: each.peer_id != preferred):
                answer = await self._sources.ask(peer.peer_id, ask, _PART)
                if answer is not None:
                    self._note_progress()
                    return answer
            if self._is_stalled():
                raise _stalled()
            await trio.sleep(POLL_SECONDS)

    def _is_stalled(self) -> bool:
        return trio.current_time() - self._progress_at > STALL_SECONDS

    # The state.

    async def _download_state(self, pivot: Pivot) -> None:
        """Fetch the missing parts of the state, each from any free peer."""
        download = StateDownload(
            pivot=pivot,
            progress=self._progress,
            network=self._network,
            sources=self._sources,
            on_chunk=self._note_progress,
        )
        if not await download.run(self._is_stalled):
            raise _stalled()

    def _note_progress(self) -> None:
        self._progress_at = trio.current_time()

    # The parts of a snapshot besides the state.

    async def _complete(self, pivot: Pivot) -> Snapshot:
        """The snapshot: everything besides the state, verified against the pivot."""
        header = pivot.header
        view = StateView(self._database, header, self._chain_id)
        validator_set = await trio.to_thread.run_sync(view.validator_set)
        try:
            self._executor.verify_certificate_of(
                pivot.certificate, header.number, header.hash, validator_set.validators
            )
        except RejectedInputError as error:
            raise SnapshotFailedError(f"the checkpoint's certificate: {error}") from error
        tasks = await self._fetch_tasks(pivot, view)
        opened = [task.open_block for task in tasks if task.open_block is not None]
        window = PRIMARY_ORDER_TURNS * len(validator_set.validators) + 2
        first = BlockNumber(max(0, min([header.number - window, *opened])))
        ancestors = await self._fetch_ancestors(header, first)
        headers = {each.number: each for each in (*ancestors, header)}
        wanted = [header.number] + [
            number
            for number, each in headers.items()
            if opened and min(opened) <= number < header.number
            if may_contain(each.logs_bloom, GRADIENT_LEDGER)
        ]
        await self._fetch_receipts(header.number, [headers[each] for each in sorted(wanted)])
        executed = ((headers[each], self._get_receipts(each)) for each in sorted(wanted))
        histories = await trio.to_thread.run_sync(fold_attempts, view, tasks, executed)
        for task in tasks:
            if task.open_block is not None:
                await self._fetch_participants(header.number, headers[task.open_block], task)
        rewards = [task.rewards for task in tasks]
        block = await self._ask(header.number, self._bind_block(header))
        return Snapshot(
            ancestors=ancestors,
            block=block,
            certificate=pivot.certificate,
            receipts=self._get_receipts(header.number),
            senders=tuple(decode_transaction(raw).sender for raw in block.transactions),
            training_rows=build_rows(list(zip(histories, rewards, strict=True))),
            validator_set=validator_set,
            next_validator_set=await trio.to_thread.run_sync(
                view.next_validator_set, validator_set
            ),
        )

    async def _fetch_tasks(self, pivot: Pivot, view: StateView) -> list[TaskProgress]:
        validator_set = await trio.to_thread.run_sync(view.validator_set)
        task_count = await trio.to_thread.run_sync(view.task_count)
        tasks: list[TaskProgress] = []
        pages = RecordPages()

        async def ask(peer_id: PeerId) -> list[TaskProgress] | None:
            first = TaskId(len(tasks) + 1)
            count = min(RECORDS_LIMIT, task_count - len(tasks))
            number, after = pivot.header.number, pages.get_after(peer_id, first)
            records = await self._network.request_task_records(peer_id, number, first, count, after)
            if records is None:
                return None
            found = []
            try:
                # Shielded, because hashing many accounts must not count as the peer's time.
                with trio.CancelScope(shield=True):
                    for task_id, record in enumerate(pages.join(peer_id, first, records), first):
                        found.append(
                            await trio.to_thread.run_sync(
                                view.build_progress, TaskId(task_id), record, validator_set
                            )
                        )
            except RejectedInputError as error:
                raise UnfitError(error.reason, error.detail) from error
            return found

        while len(tasks) < task_count:
            tasks += await self._ask(pivot.header.number, ask, preferred=pages.peer_id)
        return tasks

    async def _fetch_ancestors(self, header: Header, first: BlockNumber) -> tuple[Header, ...]:
        """The headers from `first` to the parent of `header`, verified by the parent hashes."""
        if header.number - first > HEADERS_LIMIT:
            raise SnapshotFailedError(f"a round opened {header.number - first} blocks ago")
        found: list[Header] = []  # descending
        child = header

        async def ask(peer_id: PeerId) -> list[Header] | None:
            count = min(BLOCK_REQUEST_LIMIT, child.number - first)
            start = BlockNumber(child.number - count)
            answer = await self._network.request_headers(peer_id, start, count)
            if not answer:
                return None
            descending = [each for each, _ in reversed(answer)]
            for parent, below in zip(descending, [child, *descending], strict=False):
                if parent.hash != below.parent_hash:
                    raise UnfitError(RejectionReason.UNKNOWN_PARENT, f"header {parent.number}")
            return descending

        while child.number > first:
            found += await self._ask(header.number, ask)
            child = found[-1]
        return tuple(reversed(found))

    async def _fetch_receipts(self, pivot_number: BlockNumber, headers: Sequence[Header]) -> None:
        """Store the receipts of these blocks, verified against the receipts roots.

        Each answer is stored before the next is asked for: anyone can fill blocks with logs, and
        gigabytes of them while the longest attempt lasts. They stay stored after a crash.
        """
        numbers = [each.number for each in headers]
        missing = frozenset(
            await trio.to_thread.run_sync(self._store.list_without_receipts, numbers)
        )
        wanted = [each for each in headers if each.number in missing]

        def store(asked: Sequence[Header], answer: Sequence[tuple[Receipt, ...]]) -> None:
            for header, receipts in zip(asked, answer, strict=False):
                if compute_receipts_root(receipts) != header.receipts_root:
                    detail = f"block {header.number}"
                    raise UnfitError(RejectionReason.RECEIPTS_ROOT_MISMATCH, detail)
            asked_numbers = (each.number for each in asked)
            self._store.put_receipts(dict(zip(asked_numbers, answer, strict=False)))

        async def ask(peer_id: PeerId) -> int | None:
            asked = wanted[done : done + RECEIPTS_REQUEST_LIMIT]
            answer = await self._network.request_receipts(peer_id, [each.number for each in asked])
            # Shielded, because hashing and writing must not count as the peer's time.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(store, asked, answer)
            return len(answer) or None

        done = 0
        while done < len(wanted):
            done += await self._ask(pivot_number, ask)

    def _get_receipts(self, number: BlockNumber) -> tuple[Receipt, ...]:
        receipts = self._store.receipts(number)
        assert receipts is not None, "they were fetched"
        return receipts

    def _bind_block(self, header: Header) -> Callable[[PeerId], Awaitable[Block | None]]:
        async def ask(peer_id: PeerId) -> Block | None:
            for block, _ in await self._network.request_blocks(peer_id, header.number, 1):
                if block.hash != header.hash:
                    raise UnfitError(RejectionReason.CONTENT_MISMATCH, "another block")
                try:
                    self._executor.validate_body(block)
                except InvalidBlock as error:
                    raise UnfitError(error.reason, error.detail) from error
                return block
            return None

        return ask

    # The participants of an open attempt are in the state in which it opened. That state differs
    # little from the pivot's, so only the nodes that differ are fetched, each by its hash.

    async def _fetch_participants(
        self, pivot_number: BlockNumber, opened: Header, progress: TaskProgress
    ) -> None:
        if opened.number == pivot_number:
            return
        account = await self._with_nodes(
            pivot_number, lambda: get_account(self._database, opened.state_root, MINER_SEATS)
        )
        if account is not None and account.storage_root != EMPTY_TRIE_ROOT:
            await self._fetch_trie(pivot_number, account.storage_root)
        read = StateReader.at(self._database, opened, self._chain_id).read
        participants = miner_seats.participants(progress.history.task_id)
        await self._with_nodes(pivot_number, lambda: read(participants))

    async def _with_nodes(self, pivot_number: BlockNumber, read: Callable[[], _Answer]) -> _Answer:
        """The result of `read`, after fetching the missing trie nodes that it needs."""

        async def fetch(node_hash: Hash32) -> None:
            await self._fetch_nodes(pivot_number, [node_hash])

        return await read_with_nodes(read, fetch)

    async def _fetch_trie(self, pivot_number: BlockNumber, root: Hash32) -> None:
        """Fetch the missing nodes of a trie, level by level."""
        wanted = [root]
        while wanted:
            missing = [each for each in wanted if self._database.get(each) is None]
            wanted = []
            for start in range(0, len(missing), NODES_LIMIT):
                nodes = await self._fetch_nodes(pivot_number, missing[start : start + NODES_LIMIT])
                for node in nodes.values():
                    wanted += trie.list_hashes(node)

    async def _fetch_nodes(
        self, pivot_number: BlockNumber, hashes: Sequence[Hash32]
    ) -> dict[bytes, bytes]:
        """The trie nodes of these hashes, fetched and stored."""
        found: dict[bytes, bytes] = {}

        async def ask(peer_id: PeerId) -> dict[bytes, bytes] | None:
            missing = [each for each in hashes if bytes(each) not in found]
            return await self._network.request_state_nodes(peer_id, missing) or None

        while len(found) < len(hashes):
            found |= await self._ask(pivot_number, ask)
        await trio.to_thread.run_sync(self._progress.save_nodes, found)
        return found


def _stalled() -> SnapshotFailedError:
    return SnapshotFailedError(f"no peer has served it for {STALL_SECONDS:g} s")
