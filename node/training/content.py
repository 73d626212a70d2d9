"""The blobs that jobs need: fetching and checking them (docs/spec/training.md, section 10).

Blobs may be large, so none is held in this process's memory as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from chain.json_types import JsonObject
from chain.primitives import Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.attempt_records import Attempt
from chain.training.task_spec import TaskSpec
from node.storage.blobs import BlobDamagedError, BlobStore
from node.training.intact import INTACT_SECONDS, IntactBlobs
from node.training.work import ServedTask, TrainingPeers, UnavailableError
from node.training.worker_pool import WorkerFailedError
from pot_common.atomic_file import write_atomically


@dataclass(frozen=True, slots=True)
class Need:
    """What needs a blob."""

    task_id: TaskId
    attempt_id: AttemptId | None = None
    """None if the task as a whole needs it."""
    ballot_number: int | None = None
    """Set if one ballot needs it."""

    def is_over(self, current: Attempt | None) -> bool:
        """Whether the need has ended, by the attempt in progress; None between attempts."""
        if self.attempt_id is None:
            return False
        if current is None or current.id != self.attempt_id:
            # A peer's announcement may be a block ahead of this node.
            return current is None or current.id > self.attempt_id
        return self.ballot_number not in (None, current.ballot_number)


class Content:
    """The blobs of this node; missing ones are fetched from peers."""

    def __init__(self, blobs: BlobStore, peers: TrainingPeers, directory: Path) -> None:
        self._blobs = blobs
        self._peers = peers
        self._directory = directory
        self._fetches: dict[trio.CancelScope, Need] = {}
        self._intact = IntactBlobs(blobs)

    async def ensure(
        self, content_id: Hash32, size_limit: int, need: Need, *, is_urgent: bool = True
    ) -> None:
        """Fetch the blob unless it is held.

        Args:
            content_id: The blob.
            size_limit: A larger one is not kept.
            need: What needs the blob. The fetch ends with it.
            is_urgent: Whether a duty to a live round needs it. It then waits for no fetch of the
                content of tasks that are not served yet.

        Raises:
            UnavailableError: No peer has it, or nothing needs it any more.
        """
        if self._blobs.renew(content_id):
            return
        is_held = False
        scope = trio.CancelScope()
        self._fetches[scope] = need
        try:
            with scope:
                is_held = await self._peers.fetch_blob(
                    content_id, size_limit, is_urgent=is_urgent, task_id=need.task_id
                )
        finally:
            del self._fetches[scope]
        if not is_held:
            raise UnavailableError(f"blob {content_id.hex()[:16]} cannot be fetched")

    def end_fetches(self, task_id: TaskId, current: Attempt | None) -> None:
        """End the fetches for attempts and ballots of a task that are over."""
        for scope, need in self._fetches.items():
            if need.task_id == task_id and need.is_over(current):
                scope.cancel()

    async def ensure_shards(self, spec: TaskSpec, need: Need) -> None:
        """Fetch the task's data unless they are held.

        Raises:
            UnavailableError: No peer has a shard.
        """
        for shard in spec.data.shards:
            await self.ensure(shard.content_id, shard.byte_count, need)

    def get_size(self, content_id: Hash32) -> int:
        """The length of a blob in bytes.

        Raises:
            UnavailableError: The blob is not held.
        """
        try:
            return self._blobs.size_bytes(content_id)
        except KeyError as error:
            raise UnavailableError(f"blob {content_id.hex()[:16]} is not held") from error

    async def check_intact(
        self,
        content_ids: Sequence[Hash32],
        *,
        is_urgent: bool = False,
        trusted_seconds: float = INTACT_SECONDS,
    ) -> None:
        """Check that the disk did not damage any of these blobs, unless that was just done.

        Args:
            content_ids: The blobs.
            is_urgent: Whether a duty to a live round waits for it, which no miner or submitter can
                cause at will.
            trusted_seconds: For how long an earlier check counts.

        Raises:
            UnavailableError: One is not held, or the disk damaged it; it is fetched again.
        """
        for content_id in content_ids:
            try:
                await self._intact.check(
                    content_id, is_urgent=is_urgent, trusted_seconds=trusted_seconds
                )
            except (KeyError, FileNotFoundError) as error:
                raise UnavailableError(f"blob {content_id.hex()[:16]} is not held") from error
            except BlobDamagedError as error:
                raise UnavailableError(str(error)) from error

    def get_file(self, content_id: Hash32) -> JsonObject:
        """A blob as a worker is told of it."""
        return {"path": str(self._blobs.path(content_id)), "content_id": content_id.hex()}

    def get_spec_path(self, task: ServedTask) -> str:
        """The path of a file with the task's specification, written anew if it is damaged.

        Raises:
            OSError: The disk refuses it.
        """
        spec_path = self._directory / f"{task.task_id}.spec.json"
        try:
            is_intact = spec_path.read_bytes() == task.history.spec
        except FileNotFoundError:
            is_intact = False
        if not is_intact:
            write_atomically(spec_path, task.history.spec)
        return str(spec_path)

    def get_inputs(self, task: ServedTask, theta_root: Hash32) -> JsonObject:
        """The members that a request to a verifier worker has, without the rows of the task."""
        return {"spec": self.get_spec_path(task), "theta": str(self._blobs.path(theta_root))}


def list_shard_ids(spec: TaskSpec) -> list[Hash32]:
    """The content ids of a task's data shards."""
    return [shard.content_id for shard in spec.data.shards]


def get_integer(answer: Mapping[str, object], key: str) -> int:
    """An integer in the answer of a worker.

    Raises:
        WorkerFailedError: There is none.
    """
    value = answer.get(key)
    if not isinstance(value, int):
        raise WorkerFailedError(f"{key} is {value!r}")
    return value
