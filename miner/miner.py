"""The miner's loop: which task it mines, and which node it asks (docs/spec/rpc.md, section 9)."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from chain.contracts.task_registry import TaskStatus
from chain.crypto import get_address
from chain.errors import RejectedInputError
from chain.primitives import PrivateKey, TaskId
from chain.training.architectures import count_parameters
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import compute_spec_hash, decode_task_spec
from miner.client import DishonestNodeError, FailoverClient
from miner.gradient_store import GradientStore
from miner.light import LightClient
from miner.worker import MinerIdentity, OpenTask, TaskWorker
from pot_common.rpc_client import ContentUnavailableError, RpcCallError
from pot_common.rpc_replies import ClientError

OPEN_STATUSES: Final = frozenset({"pending", "active", "paused"})
"""The statuses of tasks that a miner can still work for."""

RETRY_SECONDS: Final = 2.0
"""The pause before another node is asked after an error."""

REFUSAL_RETRY_SECONDS: Final = 0.3
"""The pause after a node refused a transaction: within it, a late node takes over a block."""

CONTENT_RETRY_SECONDS: Final = 0.3
"""The pause when no node has a blob yet: it is being computed or uploaded right now."""

IDLE_SECONDS: Final = 1.0
"""Between two looks for an open task."""

PATIENCE_SECONDS: Final = 5.0
"""After so long without anything to do, another node is asked: this one may withhold news. Longer
than the phases of a quick round, because a node that was not asked yet may take seconds to start.
"""

_log = structlog.get_logger("miner")

Answer = TypeVar("Answer")
"""The type of what nodes are asked for."""


class Miner:
    """Mines one task until it closes, or one task after another.

    Args:
        client: The nodes.
        light: The chain, as proofs show it.
        private_key: The account that mines.
        directory: Where gradients and data are kept.
        units: Units of work to declare, a round.
        open_task: Opens a task for computing.
        poll_seconds: Between two questions about the attempt in progress.
        claims: Whether to claim the rewards when the task closes.
    """

    def __init__(
        self,
        client: FailoverClient,
        light: LightClient,
        private_key: PrivateKey,
        directory: Path,
        units: int,
        open_task: OpenTask,
        *,
        poll_seconds: float,
        claims: bool,
    ) -> None:
        self._client = client
        self._light = light
        self._identity = MinerIdentity(
            private_key, get_address(private_key), light.network.chain_id
        )
        self._directory = directory / light.network.genesis_hash.hex()[:16]
        self._units = units
        self._open_task = open_task
        self._poll_seconds = poll_seconds
        self._claims = claims
        self._finished: set[int] = set()
        self._last_work = time.monotonic()
        """When there was last something to do, or another node was chosen."""

    def mine_all(self) -> None:
        """Take part in the newest open task; when it closes, in the next. Never returns."""
        _log.info("looking for a task", account=self._identity.address)
        while True:
            try:
                task = self._find_task()
                if task is not None:
                    self.mine(task)
                    self._finished.add(task)
                    _log.info("looking for a task", account=self._identity.address)
            except ClientError as error:
                self._try_another(error, RETRY_SECONDS)
            time.sleep(IDLE_SECONDS)

    def _find_task(self) -> TaskId | None:
        """The newest open task that was not mined before; None if there is none."""
        open_tasks = [
            task.id
            for task in self._client.list_tasks()
            if task.status in OPEN_STATUSES and task.id not in self._finished
        ]
        return TaskId(max(open_tasks)) if open_tasks else None

    def mine(self, task: TaskId) -> None:
        """Take part in `task` until it is closed.

        Raises:
            ClientError: There is no such task, or the account cannot take part in it.
        """
        spec = self._ask_honest(lambda: self._fetch_spec(task))
        builder = self._open_task(spec, self._fetch_shards(spec))
        store = GradientStore(self._directory / f"task-{task}")
        worker = TaskWorker(self._client, self._light, self._identity, task, spec, builder, store)
        self._ask_honest(lambda: worker.register(self._units))
        _log.info(
            "mining the task", task=task, name=spec.name, parameters=count_parameters(spec.model)
        )
        while self._is_open(task):
            self._follow(worker, task)
        _log.info("task closed", task=task)
        if self._claims:
            worker.claim()

    def _ask_honest(self, ask: Callable[[], Answer]) -> Answer:
        """The first answer of a node that is not proven wrong."""
        while True:
            try:
                return ask()
            except DishonestNodeError as error:
                self._client.drop(error)

    def _is_open(self, task: TaskId) -> bool:
        try:
            return self._light.task(task)[1] is not TaskStatus.CLOSED
        except ClientError as error:
            self._try_another(error, RETRY_SECONDS)
            return True

    def _follow(self, worker: TaskWorker, task: TaskId) -> None:
        """Follow the attempts at the task's rounds until none is open, or the node fails."""
        try:
            while (hint := self._client.attempt(task)) is not None:
                if worker.is_old(hint):
                    self._choose_next_node()
                    break
                try:
                    if worker.advance(hint):
                        self._last_work = time.monotonic()
                except RpcCallError as error:
                    # The phase ended meanwhile, or the account cannot pay: the next poll tells.
                    _log.warning(f"refused: {error}", round=hint.round)
                    time.sleep(REFUSAL_RETRY_SECONDS)
                if self._has_waited_long():
                    break
                time.sleep(self._poll_seconds)
        except ContentUnavailableError as error:
            self._try_another(error, CONTENT_RETRY_SECONDS)
        except ClientError as error:
            self._try_another(error, RETRY_SECONDS)
        if self._has_waited_long():
            self._choose_next_node()
        time.sleep(self._poll_seconds)

    def _has_waited_long(self) -> bool:
        return time.monotonic() - self._last_work > PATIENCE_SECONDS

    def _try_another(self, error: ClientError, seconds: float) -> None:
        """Go on with another node: at once if this one's answer was wrong, else after a pause."""
        if isinstance(error, DishonestNodeError):
            self._client.drop(error)
            return
        _log.warning(str(error))
        time.sleep(seconds)
        self._choose_next_node()

    def _choose_next_node(self) -> None:
        self._last_work = time.monotonic()
        self._client.rotate()

    def _fetch_spec(self, task: TaskId) -> TaskSpec:
        spec_hash, status = self._light.task(task)
        if status is TaskStatus.NONE:
            raise ClientError(f"there is no task {task}; `pot task list` lists all tasks")
        spec = self._client.task_spec(task)
        encoded = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        try:
            decoded = decode_task_spec(encoded.encode())
        except RejectedInputError as error:
            raise ClientError(f"task {task} cannot be mined with this version: {error}") from error
        if compute_spec_hash(decoded) != spec_hash:
            raise DishonestNodeError(
                self._client.current,
                f"it gives another specification of task {task} than the chain has the hash of",
            )
        return decoded

    def _fetch_shards(self, spec: TaskSpec) -> tuple[Path, ...]:
        """The files of the task's data; missing ones are fetched."""
        directory = self._directory / "data"
        directory.mkdir(parents=True, exist_ok=True)
        paths = []
        for shard in spec.data.shards:
            path = directory / f"{shard.content_id.hex()}.npz"
            if not path.exists():
                self._client.fetch_file(shard.content_id, shard.byte_count, path, spec.data.urls)
                _log.info("data shard fetched", content=shard.content_id, bytes=shard.byte_count)
            paths.append(path)
        return tuple(paths)
