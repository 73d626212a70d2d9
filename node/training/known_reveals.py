"""What this node knows of the reveals of the attempts in progress (docs/spec/training.md, 10.2).

An attempt can have a thousand commitments, and consensus runs in the same thread. So commitments
are found by their miner, the file of a reveal is read once, and by another thread, and what is held
is known without a look at the disk.
"""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

import trio
from cachetools import FIFOCache

from chain.primitives import Address, TaskId
from chain.training.attempt import AttemptId
from chain.training.attempt_records import Attempt, CommitmentRecord
from chain.training.encoding import GradientHeader, count_payload_bytes
from chain.training.reveal import Reveal
from node.network.stream import PeerId
from node.storage.blobs import BlobStore
from node.training.reveal_store import RevealStore

LIARS_LIMIT: Final = 1_024
"""The most peers that are remembered to have sent false reveals of an attempt. The one noted first
is forgotten first, and asked again."""


@dataclass(slots=True)
class AttemptReveals:
    """The reveals of one attempt that open its commitments.

    Attributes:
        commitments: The commitments so far.
        indices: The index of each miner's commitment.
        opened: The reveals, by index of the commitment.
        held: The indices of the opened commitments whose gradients are held.
        lacking: The indices of those with a gradient, or what a check of it needs, that no peer
            sent when it was last asked for.
        is_read: Whether the store has been read. What it had may be held without being known.
        liars: Peers that sent a reveal which opens no commitment. An honest peer keeps none.
        hinted_count: For so many commitments, announcements that came before them were looked up.
    """

    commitments: Sequence[CommitmentRecord]
    indices: Mapping[Address, int]
    opened: dict[int, Reveal] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    lacking: set[int] = field(default_factory=set)
    is_read: bool = False
    liars: FIFOCache[PeerId, None] = field(default_factory=lambda: FIFOCache(LIARS_LIMIT))
    hinted_count: int = 0

    def note(self, index: int, reveal: Reveal, *, is_held: bool) -> None:
        """Note a reveal together with what is held of it: there is no moment between the two."""
        self.opened[index] = reveal
        if is_held:
            self.held.add(index)

    def find_held(self) -> frozenset[int] | None:
        """The commitments whose gradients are held; None if there may be more than are known.

        The store has no more once each commitment is opened, however the reveals came.
        """
        is_complete = self.is_read or len(self.opened) == len(self.commitments)
        return frozenset(self.held) if is_complete else None

    def list_missing(self) -> list[int]:
        """The indices of the commitments without a reveal."""
        return [index for index in range(len(self.commitments)) if index not in self.opened]

    def find(self, reveal: Reveal, header: GradientHeader) -> int | None:
        """The index of the commitment that a reveal opens; None if it opens none.

        Args:
            reveal: The reveal.
            header: The header of any miner's gradient in this attempt.
        """
        index = self.indices.get(reveal.miner)
        if index is None:
            return None
        commitment = self.commitments[index].commitment
        return index if reveal.opens(commitment, replace(header, miner=reveal.miner)) else None


class KnownReveals:
    """The reveals of attempts, read from a store.

    What is known lives as long as the attempt is kept, however many attempts other tasks open:
    reading it again takes a thread and a file for each miner.
    """

    def __init__(self, store: RevealStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs
        self._tasks: dict[TaskId, dict[AttemptId, AttemptReveals]] = {}
        """The attempts of each task that this node works on."""

    def get(self, attempt: Attempt) -> AttemptReveals:
        """What is known of an attempt's reveals; it is not kept for a task without `keep`."""
        attempts = self._tasks.get(attempt.id.task_id, {})
        known = attempts.get(attempt.id)
        if known is None:
            known = attempts[attempt.id] = AttemptReveals((), {})
        if known.commitments is not attempt.commitments:
            known.commitments = attempt.commitments
            known.indices = {each.miner: i for i, each in enumerate(attempt.commitments)}
        return known

    def keep(self, task_id: TaskId, attempt_ids: Collection[AttemptId]) -> None:
        """Forget all attempts of a task but these; others that come up from now on are kept."""
        attempts = self._tasks.get(task_id, {})
        self._tasks[task_id] = {k: each for k, each in attempts.items() if k in attempt_ids}

    def forget(self, task_id: TaskId) -> None:
        """Forget all attempts of a task, for good."""
        self._tasks.pop(task_id, None)

    async def put(
        self,
        known: AttemptReveals,
        reveal: Reveal,
        header: GradientHeader,
        *,
        is_stored: bool = True,
    ) -> bool:
        """Note, and store, a reveal if it opens a commitment; False if it does not.

        Raises:
            StorageError: The disk refused.
        """
        index = known.find(reveal, header)
        if index is None:
            return False
        if is_stored:
            await trio.to_thread.run_sync(self._store.put, reveal)
        known.note(index, reveal, is_held=self.is_held(reveal, header))
        return True

    def is_held(self, reveal: Reveal, header: GradientHeader) -> bool:
        """Whether the blob that a reveal names is here, and is as long as a gradient."""
        size = self._blobs.get_size(reveal.gradient_root)
        return size == count_payload_bytes(header.parameter_count)

    async def read(self, known: AttemptReveals, header: GradientHeader) -> None:
        """Read the reveals that the store has and that are not known yet."""
        miners = {known.commitments[index].miner for index in known.list_missing()}
        try:
            for reveal, is_held in await trio.to_thread.run_sync(self._read, header, miners):
                index = known.find(reveal, header)
                if index is not None:
                    known.note(index, reveal, is_held=is_held)
                # A thousand may be read at once, and consensus runs in the same thread.
                await trio.lowlevel.checkpoint()
        finally:
            known.is_read = True

    def _read(
        self, header: GradientHeader, miners: AbstractSet[Address]
    ) -> list[tuple[Reveal, bool]]:
        attempt_id = header.attempt_id
        stored = self._store.list_miners(attempt_id)
        found = [self._store.get(attempt_id, miner) for miner in stored if miner in miners]
        return [(each, self.is_held(each, header)) for each in found if each is not None]
