"""The blobs that jobs need: fetched, read, and checked before anybody is blamed.

docs/spec/training.md, section 10.
"""

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
from node.training.verifier import VerifierFailedError
from node.training.work import ServedTask, TrainingPeers, UnavailableError
from pot_common.atomic_file import write_atomically


class Content:
    """Blobs of this node and, where it lacks one, of its peers."""

    def __init__(self, blobs: BlobStore, peers: TrainingPeers, directory: Path) -> None:
        self._blobs = blobs
        self._peers = peers
        self._directory = directory

    async def ensure(self, content_id: Hash32, size_limit: int) -> None:
        """Have the blob here.

        Raises:
            UnavailableError: no peer gave it.
        """
        if self._blobs.renew(content_id):
            return
        if not await self._peers.fetch_blob(content_id, size_limit):
            raise UnavailableError(f"blob {content_id.hex()[:16]} is not to be had")

    async def ensure_shards(self, spec: TaskSpec) -> None:
        """Have the task's data here.

        Raises:
            UnavailableError: no peer gave it.
        """
        for shard in spec.data.shards:
            await self.ensure(shard.content_id, shard.byte_count)

    async def read(self, content_id: Hash32) -> bytes:
        """The bytes of a blob; damaged ones are deleted, to be fetched again.

        Raises:
            UnavailableError: it is not here, or the disk changed it.
        """
        try:
            with self._blobs.open(content_id) as file:
                data = await trio.to_thread.run_sync(file.read)
        except KeyError as error:
            raise UnavailableError(f"blob {content_id.hex()[:16]} is not here") from error
        if await trio.to_thread.run_sync(compute_content_id, data) != content_id:
            self._blobs.delete(content_id)
            raise UnavailableError(f"blob {content_id.hex()[:16]} was damaged on our disk")
        return data

    def get_size(self, content_id: Hash32) -> int:
        """The length of a blob in bytes.

        Raises:
            UnavailableError: it is not here.
        """
        try:
            return self._blobs.size_bytes(content_id)
        except KeyError as error:
            raise UnavailableError(f"blob {content_id.hex()[:16]} is not here") from error

    async def check_intact(self, content_ids: Sequence[Hash32]) -> None:
        """Before anybody is blamed: the disk may have changed what was judged.

        Raises:
            UnavailableError: it has; the blob was deleted, and is fetched again.
        """
        for content_id in content_ids:
            await self.read(content_id)

    def get_inputs(self, task: ServedTask, theta_root: Hash32) -> JsonObject:
        """What every question to a verifier worker names."""
        spec_path = self._directory / f"{task.task_id}.spec.json"
        if not spec_path.exists():
            write_atomically(spec_path, task.history.spec)
        return {
            "spec": str(spec_path),
            "theta": str(self._blobs.path(theta_root)),
            "shards": [str(self._blobs.path(each)) for each in list_shard_ids(task.spec)],
        }


def list_shard_ids(spec: TaskSpec) -> list[Hash32]:
    """The content ids of a task's data."""
    return [shard.content_id for shard in spec.data.shards]


def get_integer(answer: Mapping[str, object], key: str) -> int:
    """A number that a verifier worker answered.

    Raises:
        VerifierFailedError: it is none.
    """
    value = answer.get(key)
    if not isinstance(value, int):
        raise VerifierFailedError(f"{key} is {value!r}")
    return value
