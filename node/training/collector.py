"""Garbage collection of the blobs and records that no task needs (docs/spec/training.md, 11).

Each collection decides anew from the chain and the files on the disk, so a restart or a crash
between two deletions changes nothing. A record (a reveal, the parts of a state) is written before
its blobs and removed after them. A blob that is needed again while it is collected either stays or
is fetched again (`BlobStore.collect`).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Final

import structlog
import trio

from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.task_checks import list_content
from chain.types.header import Header
from node.chain.training_index import TrainingIndex
from node.clock import Clock
from node.config import Retention
from node.metrics.registry import NodeMetrics
from node.storage.blobs import BlobStore, StoredBlob
from node.storage.block_store import BlockStore
from node.training.checks import remove_old_checks
from node.training.retention import KeptTask, RetentionPolicy, compute_kept
from node.training.reveal_store import RevealStore
from node.training.rows import RowRecords
from node.training.state_parts import StatePartStore

COLLECT_SECONDS: Final = 10.0
"""The time between two collections. The gradients of rounds that settle in it wait for the next."""

CLOSED_SHARE: Final = 4
"""Files of closed tasks that nothing pays for stay while at most one part in this many of the quota
is in use. The next content then finds room at once, even that of two tasks of the largest size."""

PAUSE_FACTOR: Final = 20
"""After a collection the collector sleeps at least this many times as long as it took."""

GRACE_SECONDS: Final = 86_400
"""A blob of no served task stays for a day after it was last needed, by the chain's clock: longer
than an upload or an outage takes."""

CLOCK_SLACK_NS: Final = 10**9
"""A file system's clock may be some milliseconds behind the node's."""

_FILE_OF_TASK: Final = re.compile(r"(\d{1,20})[-.].*")
"""The name of a file in the training directory starts with the id of its task."""

_log = structlog.get_logger("node.training")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the tasks need, according to the chain at one head."""

    task_count: int
    kept: Mapping[TaskId, KeptTask]
    worked_on: frozenset[TaskId]
    """The tasks whose rows may be read: they are open, or this node works on them."""
    gone: Sequence[TaskId]
    """The tasks that stopped needing anything since the last collection."""
    named: AbstractSet[Hash32]
    """What tasks name that are open, or closed for less than a day. It goes a day after it was last
    wanted, and no sooner: a miner may name it as its gradient, or another task as its weights."""
    fetched: AbstractSet[Hash32]
    """The content that this node may still download: that of tasks that it has not refused."""
    unwanted_before_ns: int


class Collector:
    """Deletes, from time to time, what no task needs."""

    def __init__(
        self,
        *,
        store: BlockStore,
        index: TrainingIndex,
        blobs: BlobStore,
        reveals: RevealStore,
        state_parts: StatePartStore,
        directory: Path,
        clock: Clock,
        policy: RetentionPolicy,
        own_validator: Address | None,
        is_served: Callable[[TaskId], bool],
        is_refused: Callable[[TaskId], bool],
        metrics: NodeMetrics,
    ) -> None:
        self._store = store
        self._index = index
        self._blobs = blobs
        self._reveals = reveals
        self._state_parts = state_parts
        self._directory = directory
        self._rows = RowRecords(directory)
        self._clock = clock
        self._policy = policy
        self._own_validator = own_validator
        self._is_served = is_served
        """Whether this node works on a task, such as a dry run of one that others have closed."""
        self._is_refused = is_refused
        """Whether this node takes no part in a task, so that nothing is promised to it."""
        self._metrics = metrics
        self._closed: set[TaskId] = set()
        """Closed tasks that may need something."""
        self._closed_since = BlockNumber(0)
        """Tasks that were closed in earlier blocks are known."""
        self._closed_at: dict[Hash32, int] = {}
        """What closed tasks that need nothing name and this node holds, for a day."""

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            started = trio.current_time()
            try:
                await self.collect()
            except OSError as error:
                # Nothing is lost: the next collection goes on where this one ended.
                _log.error("blob collection failed; check the disk of data_dir", reason=str(error))
            took = trio.current_time() - started
            await trio.sleep(max(COLLECT_SECONDS, PAUSE_FACTOR * took))

    async def collect(self) -> None:
        """Delete everything that no task needs now.

        Raises:
            OSError: The disk refused.
        """
        started_ns = self._clock.now_ms() * 10**6
        # In a thread, because many closed tasks must not delay consensus.
        wanted = await trio.to_thread.run_sync(self._ask_chain)
        await trio.to_thread.run_sync(self._sweep, wanted, started_ns - CLOCK_SLACK_NS)

    def _ask_chain(self) -> _Wanted:
        # The count is read first: tasks that are submitted meanwhile count as unknown.
        task_count = self._index.task_count()
        head = self._store.head()
        kept: dict[TaskId, KeptTask] = {}
        worked_on: set[TaskId] = set()
        gone: list[TaskId] = []
        named: set[Hash32] = set()
        fetched: set[Hash32] = set()
        graced_after = head.timestamp - GRACE_SECONDS
        # What is closed meanwhile is in both lists, or in the next collection.
        open_tasks = self._index.open_tasks()
        self._note_closed(head)
        for task_id in sorted({*open_tasks, *self._closed}):
            history = self._index.history(task_id)
            assert history is not None
            spec = self._index.spec(history)
            task = None
            if spec is not None:
                task = compute_kept(
                    history,
                    spec,
                    partial(self._index.settled_round, task_id),
                    self._index.accused,
                    self._policy,
                    head_number=head.number,
                    head_timestamp=head.timestamp,
                    own_validator=self._own_validator,
                )
            is_served = self._is_served(task_id)
            if (task is not None and not history.is_closed) or is_served:
                worked_on.add(task_id)
            is_fetched = is_served or not history.is_closed
            if spec is not None and is_fetched and not self._is_refused(task_id):
                fetched.update(list_content(spec))
            if task is not None:
                kept[task_id] = task
            elif history.is_closed and not is_served:
                gone.append(task_id)
                self._closed.discard(task_id)
            if task is None and spec is not None:
                closed = history.closed
                if closed is None:
                    named.update(list_content(spec))
                elif closed.timestamp > graced_after:
                    for each in list_content(spec):
                        latest = max(closed.timestamp, self._closed_at.get(each, 0))
                        self._closed_at[each] = latest
        self._closed_at = {k: at for k, at in self._closed_at.items() if at > graced_after}
        named.update(self._closed_at)
        unwanted_before_ns = graced_after * 10**9
        worked = frozenset(worked_on)
        return _Wanted(task_count, kept, worked, gone, named, fetched, unwanted_before_ns)

    def _note_closed(self, head: Header) -> None:
        """Note the tasks that were closed since the last collection.

        Of those that were closed a day before the node started, few need anything or have files.
        """
        is_first = self._closed_since == 0
        with_files = self._list_tasks_with_files() if is_first else frozenset()
        for each in self._index.closed_tasks(self._closed_since):
            is_shown = (
                each.has_model and head.timestamp < each.timestamp + self._policy.closed_seconds
            )
            is_judged = head.number <= each.slashed_until
            is_graced = each.timestamp > head.timestamp - GRACE_SECONDS
            is_needed = is_shown or is_judged or is_graced
            if not is_first or is_needed or each.task_id in with_files:
                self._closed.add(each.task_id)
        self._closed_since = BlockNumber(head.number + 1)

    def _list_tasks_with_files(self) -> frozenset[TaskId]:
        names = (_FILE_OF_TASK.fullmatch(path.name) for path in self._directory.iterdir())
        return frozenset(
            (
                *(TaskId(int(name[1])) for name in names if name is not None),
                *(attempt.task_id for attempt in self._reveals.attempts()),
                *(state.task_id for state in self._state_parts.states()),
                *(task_id for task_id, _ in self._rows.list()),
            )
        )

    def _sweep(self, wanted: _Wanted, started_ns: int) -> None:
        stored = self._blobs.list_stored()
        self._delete(wanted, stored, started_ns)
        crowded_out = self._list_crowded_out(wanted)
        if crowded_out:
            _log.warning(
                "closed tasks gave way to others; raise blobs.quota_bytes to keep them longer",
                latest=crowded_out[-1],
            )
            kept = {k: task for k, task in wanted.kept.items() if k not in frozenset(crowded_out)}
            self._delete(replace(wanted, kept=kept), stored, started_ns)
        # Whoever submits many tasks has only as many names remembered as it has uploaded blobs.
        self._closed_at = {
            k: at for k, at in self._closed_at.items() if k in stored and stored[k].is_whole
        }
        self._blobs.remove_uploads(wanted.unwanted_before_ns)
        for task_id in wanted.gone:
            self._reveals.remove_task(task_id)
            self._state_parts.remove_task(task_id)
        if wanted.gone:
            self._remove_files(frozenset(wanted.gone))
        if self._policy.retention is not Retention.TASK:
            remove_old_checks(self._directory)

    def _list_crowded_out(self, wanted: _Wanted) -> Sequence[TaskId]:
        """The closed tasks that nothing pays for any more, and of which the room is needed.

        They are the ones that were closed first. Tasks with gradients that late verdicts may still
        find guilty come last.
        """
        unpaid = sorted(
            (any(task.accused.values()), task.unpaid_since, task_id)
            for task_id, task in wanted.kept.items()
            if task.unpaid_since is not None
        )
        if not unpaid:
            return ()
        excess = self._blobs.used_bytes() - self._blobs.quota_bytes // CLOSED_SHARE
        if excess <= 0:
            return ()
        order = [task_id for _, _, task_id in unpaid]
        freed = self._count_freed_bytes(wanted, order)
        crowded_out = 0
        for count, total in enumerate(accumulate(freed), 1):
            if freed[count - 1]:
                crowded_out = count
            if total >= excess:
                break
        return order[:crowded_out]

    def _count_freed_bytes(self, wanted: _Wanted, order: Sequence[TaskId]) -> Sequence[int]:
        """The bytes that each task frees if the tasks are deleted in this order.

        What tasks share is freed with the last of them, and not if another task needs it.
        """
        places = {task_id: place for place, task_id in enumerate(order)}
        last: dict[Hash32, int] = {}

        def note(task_id: TaskId, content_ids: Iterable[Hash32]) -> None:
            place = places.get(task_id, len(order))
            for content_id in content_ids:
                last[content_id] = max(place, last.get(content_id, 0))

        for task_id, task in wanted.kept.items():
            note(task_id, task.content)
        for attempt in self._reveals.attempts():
            note(attempt.task_id, (each.gradient_root for each in self._reveals.list(attempt)))
        for state in self._state_parts.states():
            note(state.task_id, state.part_ids)
        freed = [0] * (len(order) + 1)
        # Listed anew, without what was just deleted.
        for content_id, stored in self._blobs.list_stored().items():
            if stored.wanted_ns < wanted.unwanted_before_ns:
                freed[last.get(content_id, len(order))] += stored.stored_bytes
        return freed[:-1]

    def _delete(
        self, wanted: _Wanted, stored: Mapping[Hash32, StoredBlob], started_ns: int
    ) -> None:
        """Delete the blobs and records that no task needs."""
        needed = {each for task in wanted.kept.values() for each in task.content}
        fetched = set(wanted.fetched)
        over: list[tuple[Sequence[Hash32], Callable[[], None]]] = []
        for attempt_id in self._reveals.attempts():
            reveals = self._reveals.list(attempt_id)
            task = wanted.kept.get(attempt_id.task_id)
            # While a node syncs, it may hold blobs of tasks that it does not know yet.
            is_unknown = attempt_id.task_id > wanted.task_count
            kept = {
                each.gradient_root
                for each in reveals
                if is_unknown or (task is not None and task.keeps_gradient(attempt_id, each.miner))
            }
            needed.update(kept)
            fetched.update(
                each.gradient_root
                for each in reveals
                if is_unknown or (task is not None and task.needs_gradient(attempt_id, each.miner))
            )
            free = [each.gradient_root for each in reveals if each.gradient_root not in kept]
            if free or not reveals:
                over.append((free, partial(self._forget_reveals, attempt_id, kept)))
        states = tuple(self._state_parts.states())
        newest_ns: dict[tuple[TaskId, int], int] = {}
        for state in states:
            place = (state.task_id, state.rounds_settled)
            newest_ns[place] = max(state.written_ns, newest_ns.get(place, 0))
        for state in states:
            task = wanted.kept.get(state.task_id)
            is_newest = state.written_ns == newest_ns[state.task_id, state.rounds_settled]
            if task is not None and task.has_other_state(state, is_newest=is_newest):
                task = None
            is_unknown = state.task_id > wanted.task_count
            if is_unknown or (task is not None and task.needs_state(state.rounds_settled)):
                fetched.update(state.part_ids)
            is_model_needed = task is not None and task.needs_model(state.rounds_settled)
            model, *others = state.part_ids
            if is_unknown or (task is not None and task.keeps_state(state.rounds_settled)):
                needed.update(state.part_ids)
            elif is_model_needed:
                # The record stays, so that the model goes when it is not needed any more.
                needed.add(model)
                over.append((others, _keep_record))
            else:
                forget_state = partial(self._state_parts.remove, state.task_id, state.root)
                over.append((state.part_ids, forget_state))
        for task_id, rows_id in tuple(self._rows.list()):
            if task_id in wanted.worked_on or task_id > wanted.task_count:
                needed.add(rows_id)
            else:
                over.append(((rows_id,), partial(self._rows.remove, task_id)))
        for content_ids, forget in over:
            for content_id in content_ids:
                if content_id not in needed and content_id not in wanted.named:
                    self._free(content_id, started_ns)
            forget()
        for content_id, each in stored.items():
            if each.is_downloaded and content_id not in fetched:
                self._note_freed(self._blobs.collect_download(content_id, started_ns))
            if each.wanted_ns < wanted.unwanted_before_ns and content_id not in needed:
                self._free(content_id, wanted.unwanted_before_ns)

    def _forget_reveals(self, attempt_id: AttemptId, kept: AbstractSet[Hash32]) -> None:
        """Delete the reveals of an attempt, unless some of its gradients are kept."""
        if not kept:
            self._reveals.remove(attempt_id)

    def _free(self, content_id: Hash32, before_ns: int) -> None:
        self._note_freed(self._blobs.collect(content_id, before_ns))

    def _note_freed(self, freed: int) -> None:
        if freed:
            self._metrics.blobs_collected.inc()
            self._metrics.blob_bytes_collected.inc(freed)

    def _remove_files(self, tasks: frozenset[TaskId]) -> None:
        for path in tuple(self._directory.iterdir()):
            name = _FILE_OF_TASK.fullmatch(path.name)
            if name is not None and TaskId(int(name[1])) in tasks:
                path.unlink(missing_ok=True)


def _keep_record() -> None:
    """Forget nothing."""
