"""The blobs that jobs need: fetching, reading and checking them (docs/spec/training.md, 10)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from chain.crypto import content_id as compute_content_id
from chain.json_types import JsonObject
from chain.primitives import Hash32
from chain.training.task_spec import (
    TaskSpec,
)
from node.storage.blobs import BlobStore
from node.training.work import ServedTask, TrainingPeers, UnavailableError
from node.training.worker_pool import WorkerFailedError
from pot_common.atomic_file import write_atomically


class Content:
    """The blobs of this node; missing ones are fetched from peers."""

    def __init__(self, blobs: BlobStore, peers: TrainingPeers, directory: Path) -> None:
        self._blobs = blobs
        self._peers = peers
        self._directory = directory

    async def ensure(self, content_id: Hash32, size_limit: int) -> None:
        """Fetch the blob unless it is held.

        Raises:
            UnavailableError: No peer has it.
        """
        if self._blobs.renew(content_id):
            return
        if not await self._peers.fetch_blob(content_id, size_limit):
            raise UnavailableError(f"blob {content_id.hex()[:16]} cannot be fetched")

    async def ensure_shards(self, spec: TaskSpec) -> None:
        """Fetch the task's data unless they are held.

        Raises:
            UnavailableError: No peer has a shard.
        """
        for shard in spec.data.shards:
            await self.ensure(shard.content_id, shard.byte_count)

    async def read(self, content_id: Hash32) -> bytes:
        """The bytes of a blob. A damaged blob is deleted, so that it is fetched again.

        Raises:
            UnavailableError: The blob is not held, or the disk damaged it.
        """
        try:
            with self._blobs.open(content_id) as file:
                data = await trio.to_thread.run_sync(file.read)
        except KeyError as error:
            raise UnavailableError(f"blob {content_id.hex()[:16]} is not held") from error
        if await trio.to_thread.run_sync(compute_content_id, data) != content_id:
            self._blobs.delete(content_id)
            raise UnavailableError(f"blob {content_id.hex()[:16]} was damaged on this disk")
        return data

    def get_size(self, content_id: Hash32) -> int:
        """The length of a blob in bytes.

        Raises:
            UnavailableError: The blob is not held.
        """
        try:
            return self._blobs.size_bytes(content_id)
        except KeyError as error:
            raise UnavailableError(f"blob {content_id.hex()[:16]} is not held") from error

    async def check_intact(self, content_ids: Sequence[Hash32]) -> None:
        """Check that the disk did not damage the blobs on which a verdict against a miner rests.

        Raises:
            UnavailableError: The disk damaged one; it was deleted, and is fetched again.
        """
        for content_id in content_ids:
            await self.read(content_id)

    def get_inputs(self, task: ServedTask, theta_root: Hash32) -> JsonObject:
        """The members that every request to a verifier worker has."""
        spec_path = self._directory / f"{task.task_id}.spec.json"
        if not spec_path.exists():
            write_atomically(spec_path, task.history.spec)
        return {
            "spec": str(spec_path),
            "theta": str(self._blobs.path(theta_root)),
            "shards": [str(self._blobs.path(each)) for each in list_shard_ids(task.spec)],
        }


def list_shard_ids(spec: TaskSpec) -> list[Hash32]:
    """The content ids of a task's data shards."""
    return [shard.content_id for shard in spec.data.shards]


def get_integer(answer: Mapping[str, object], key: str) -> int:
    """An integer in the answer of a verifier worker.

    Raises:
        WorkerFailedError: There is none.
    """
    value = answer.get(key)
    if not isinstance(value, int):
        raise WorkerFailedError(f"{key} is {value!r}")
    return value
