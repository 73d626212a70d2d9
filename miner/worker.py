"""What a miner does, round after round (docs/spec/training.md, section 10).

Register with a bond; when an attempt is open, prove it (miner/light.py), compute the gradient on
the samples that it assigns; write it down; commit to it on the chain; when the commitment phase is
over in a final block, show it to the nodes.
Whatever is committed is on the disk before, so that a miner that is killed at any moment shows
after its restart what it committed to, and is never taken for a cheat.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from chain.contracts.abi import decode_uint
from chain.contracts.addresses import FAUCET, GRADIENT_LEDGER, REWARD_DISTRIBUTOR, TRAINING_TOKEN
from chain.contracts.faucet import encode_drip
from chain.contracts.gradient_ledger import encode_commit_gradient, encode_register
from chain.contracts.reward_distributor import encode_claim
from chain.contracts.task_registry import TaskStatus
from chain.contracts.training_token import encode_approve, encode_balance_of
from chain.crypto import get_address
from chain.errors import RejectedInputError
from chain.hexadecimal import to_hex
from chain.primitives import Address, Hash32, PrivateKey, TaskId
from chain.training.architectures import count_parameters
from chain.training.attempt import AttemptId
from chain.training.attempt_description import AttemptDescription
from chain.training.encoding import (
    GradientHeader,
    compute_commitment,
    compute_gradient_root,
)
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import (
    TaskSpec,
)
from chain.training.task_spec_codec import compute_spec_hash, decode_task_spec
from miner.client import (
    Attempt,
    ClientError,
    ContentUnavailableError,
    DishonestNodeError,
    NodeClient,
    RpcError,
)
from miner.light import LightClient, ProvenAttempt
from miner.log import log_event
from pot_common.atomic_file import write_atomically

OPEN_STATUSES: Final = frozenset({"pending", "active", "paused"})
"""Of tasks that a miner can still work for."""

RETRY_SECONDS: Final = 2.0
"""Between attempts to reach nodes that do not answer."""

CONTENT_RETRY_SECONDS: Final = 0.3
"""A blob that no node has yet is being computed, or uploaded, right now."""

IDLE_SECONDS: Final = 1.0
"""Between looks for a task, and at the status of one between attempts."""

REVEAL_RETRY_SECONDS: Final = 0.3
"""A node that is a block behind refuses a reveal as early; it catches up in about this."""

REVEAL_TRIES: Final = 10
"""Of a reveal that some nodes took and others refuse; one node alone could have lied."""

PATIENCE_SECONDS: Final = 5.0
"""After so long without anything to do another node is asked: this one may keep things back. Longer
than the phases of a quick round, since a node that was not asked yet may take seconds to start."""

SALT_BYTES: Final = 32
"""Hides the gradient behind its commitment, whoever could guess it."""

UNITS_BYTES: Final = 4
"""Of the units in a commitment file."""

KEPT_ROUNDS: Final = 4
"""Gradients of older rounds are deleted: no ballot on them can follow."""


class Trainer(Protocol):
    """Computes gradients of one task."""

    def build_payload(self, header: GradientHeader, theta: bytes, samples: Sequence[int]) -> bytes:
        """The payload of the gradient at `theta` over `samples`, for the place `header`."""


TrainerFactory = Callable[[TaskSpec, Sequence[Path]], Trainer]
"""The trainer of a task whose shards lie in the given files, in order."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who mines, on which network."""

    private_key: PrivateKey
    address: Address
    chain_id: int


@dataclass(frozen=True, slots=True)
class PreparedGradient:
    """What is behind a commitment."""

    units: int
    salt: Hash32
    payload: bytes

    def encode(self) -> bytes:
        """As it lies on the disk: salt, units, payload."""
        return self.salt + self.units.to_bytes(UNITS_BYTES, "big") + self.payload


def decode_prepared(data: bytes) -> PreparedGradient:
    """What `PreparedGradient.encode` wrote."""
    start = SALT_BYTES + UNITS_BYTES
    units = int.from_bytes(data[SALT_BYTES:start], "big")
    return PreparedGradient(units, Hash32(data[:SALT_BYTES]), data[start:])


class GradientStore:
    """Prepared gradients of one task, on the disk."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def save(self, attempt: ProvenAttempt, prepared: PreparedGradient) -> None:
        """Write down what is behind the commitment of an attempt; durable on return."""
        write_atomically(self._path(attempt.round, attempt.attempt), prepared.encode())

    def load(self, attempt: Attempt | ProvenAttempt) -> PreparedGradient | None:
        """What was written down for an attempt, or None if nothing was."""
        path = self._path(attempt.round, attempt.attempt)
        return decode_prepared(path.read_bytes()) if path.exists() else None

    def prune(self, round_number: int) -> None:
        """Delete what no ballot of `round_number` or later can ask for."""
        for path in sorted(self._directory.glob("round-*-*.gradient")):
            if int(path.stem.split("-")[1]) < round_number - KEPT_ROUNDS:
                path.unlink()

    def _path(self, round_number: int, attempt: int) -> Path:
        return self._directory / f"round-{round_number}-{attempt}.gradient"


@dataclass(slots=True)
class Showing:
    """A reveal in progress."""

    place: tuple[int, int, int]
    """Round, attempt and ballot."""
    takers: frozenset[str] = frozenset()
    """Nodes that have taken the gradient."""
    tries: int = 0


Answer = TypeVar("Answer")
"""What nodes are asked for."""


class TaskWorker:
    """Mines one task."""

    def __init__(
        self,
        client: NodeClient,
        light: LightClient,
        identity: Identity,
        task: TaskId,
        spec: TaskSpec,
        trainer: Trainer,
        store: GradientStore,
    ) -> None:
        self._client = client
        self._light = light
        self._identity = identity
        self._task = task
        self._spec = spec
        self._trainer = trainer
        self._store = store
        self._proven: ProvenAttempt | None = None
        """The last attempt that was proven."""
        self._committed: tuple[int, int] | None = None
        """Round and attempt that we have done with: committed, or have no part in."""
        self._revealed: tuple[int, int, int] | None = None
        """Round, attempt and ballot in which our gradient was shown, or will not be."""
        self._showing = Showing((-1, 0, 0))

    # Money.

    def register(self, units: int) -> None:
        """Take part with `units` a round, unless we do already.

        Raises:
            ClientError: The account cannot pay the bond.
        """
        if self._light.progress(self._task, self._identity.address).registration.units > 0:
            log_event("already registered", task=self._task)
            return
        if self._light.task(self._task)[1] is TaskStatus.CLOSED:
            raise ClientError(
                f"task {self._task} is closed; `pot task list` shows those that are open"
            )
        reward = self._spec.reward
        declared = min(units, reward.max_units)
        bond = declared * reward.unit_price  # at p = 1; the ledger takes no more than its own sum
        self._fund(bond)
        self._transact(reward.token, encode_approve(GRADIENT_LEDGER, bond))
        self._transact(GRADIENT_LEDGER, encode_register(self._task, declared))
        log_event("registered", task=self._task, units=declared, bond=bond)

    def _fund(self, bond: int) -> None:
        token = self._spec.reward.token
        balance = self._token_balance(token)
        if balance < bond and token == TRAINING_TOKEN and self._client.node_info().has_faucet:
            self._transact(FAUCET, encode_drip(self._identity.address))
            balance = self._token_balance(token)
        if balance < bond:
            raise ClientError(
                f"account {to_hex(self._identity.address)} has {balance} base units of token "
                f"{to_hex(token)}, the bond of task {self._task} is {bond}: send it the difference "
                "or declare fewer --units"
            )

    def _token_balance(self, token: Address) -> int:
        reply = self._client.call_contract(token, encode_balance_of(self._identity.address))
        return decode_uint(reply)

    def claim(self) -> None:
        """Claim what the account has earned of the task and not claimed yet."""
        proof = self._client.reward_proof(self._task, self._identity.address)
        if proof.claimable == 0:
            log_event("nothing to claim", task=self._task)
            return
        self._transact(
            REWARD_DISTRIBUTOR,
            encode_claim(self._task, proof.cumulative, proof.proof),
        )
        log_event("claimed", task=self._task, amount=proof.claimable)

    def _transact(self, to: Address, data: bytes) -> None:
        identity = self._identity
        self._client.transact(identity.private_key, identity.address, identity.chain_id, to, data)

    # Work.

    def is_old(self, hint: Attempt) -> bool:
        """Whether an attempt after that one was proven: the node that tells of it is behind."""
        known = self._proven
        return known is not None and (hint.round, hint.attempt) < (known.round, known.attempt)

    def advance(self, hint: Attempt) -> bool:
        """Do what the attempt asks of us now, once; whether there was anything to do.

        Raises:
            DishonestNodeError: The chain has no such attempt.
            ClientError: No node answers, or it refused.
        """
        place = (hint.round, hint.attempt)
        if hint.phase == "commitment" and place != self._committed:
            self._commit(self._prove(hint))
            self._committed = place
            return True
        is_shown = self._revealed == (*place, hint.ballot)
        if hint.phase in ("verdict", "dispute") and not is_shown:
            prepared = self._store.load(hint)
            return prepared is not None and self._reveal(self._prove(hint), hint.ballot, prepared)
        return False

    def _prove(self, hint: Attempt) -> ProvenAttempt:
        known = self._proven
        if known is None or (known.round, known.attempt) != (hint.round, hint.attempt):
            known = self._light.prove_attempt(self._task, hint, self._client.current)
            self._proven = known
        return known

    def _commit(self, attempt: ProvenAttempt) -> None:
        assignment = self._describe(attempt).assign(attempt.participants)
        units = assignment.units_of(self._identity.address)
        if units == 0:
            log_event("no work in this attempt", round=attempt.round, attempt=attempt.attempt)
            return
        header = self._header(attempt)
        prepared = self._store.load(attempt)
        if prepared is not None and self._has_committed(attempt):
            return
        if prepared is None:
            started = time.monotonic()
            theta = self._fetch_theta(header.theta_root)
            indices = assignment.sample_indices(self._identity.address)
            payload = self._trainer.build_payload(header, theta, indices)
            prepared = PreparedGradient(units, Hash32(secrets.token_bytes(SALT_BYTES)), payload)
            self._store.save(attempt, prepared)
            seconds = round(time.monotonic() - started, 3)
            log_event("gradient", round=attempt.round, samples=len(indices), seconds=seconds)
        commitment = compute_commitment(
            header, compute_gradient_root(prepared.payload), prepared.salt, prepared.units
        )
        self._transact(
            GRADIENT_LEDGER,
            encode_commit_gradient(
                self._task, attempt.round, attempt.attempt, prepared.units, commitment
            ),
        )
        log_event(
            "committed", round=attempt.round, attempt=attempt.attempt, commitment=to_hex(commitment)
        )

    def _header(self, attempt: ProvenAttempt) -> GradientHeader:
        theta_root = attempt.model_root if attempt.round else self._spec.initial_weights
        return self._describe(attempt).build_header(self._identity.address, theta_root)

    def _describe(self, attempt: ProvenAttempt) -> AttemptDescription:
        attempt_id = AttemptId(self._task, attempt.round, attempt.attempt)
        chain_id = self._identity.chain_id
        return AttemptDescription(attempt_id, self._spec, chain_id, attempt.seed)

    def _fetch_theta(self, root: Hash32) -> bytes:
        byte_count = count_parameters(self._spec.model) * FLOAT32_BYTES
        return self._client.fetch_blob(root, byte_count)

    def _has_committed(self, attempt: ProvenAttempt) -> bool:
        """Whether a commitment of ours stands in the attempt."""
        progress = self._light.progress(self._task, self._identity.address)
        return progress.registration.committed_open_block == attempt.open_block

    def _reveal(self, attempt: ProvenAttempt, ballot: int, prepared: PreparedGradient) -> bool:
        """Show the gradient to the nodes, if it is time and we committed to it."""
        progress = self._light.progress(self._task, self._identity.address)
        floor_blocks = self._light.network.parameters.phase_floor_blocks
        if not progress.is_past_commitments(
            attempt.open_block, self._spec.phases.commit_seconds, floor_blocks
        ):
            return False
        place = (attempt.round, attempt.attempt, ballot)
        if progress.registration.committed_open_block != attempt.open_block:
            self._revealed = place  # we have no part in it
            return False
        query: dict[str, str | int] = {
            "task": self._task,
            "round": attempt.round,
            "attempt": attempt.attempt,
            "miner": to_hex(self._identity.address),
            "units": prepared.units,
            "salt": to_hex(prepared.salt),
            "gradientRoot": to_hex(compute_gradient_root(prepared.payload)),
        }
        if self._showing.place != place:
            self._showing = Showing(place)
        showing = self._showing
        takers, refusals = self._client.reveal(query, prepared.payload, showing.takers)
        showing.takers |= takers
        showing.tries += 1
        if showing.takers and (not refusals or showing.tries >= REVEAL_TRIES):
            log_event(
                "revealed", round=attempt.round, attempt=attempt.attempt, nodes=len(showing.takers)
            )
            self._revealed = place
            self._store.prune(attempt.round)
            return True
        if not showing.takers:
            log_event(
                "no node takes the gradient",
                level=logging.WARNING,
                round=attempt.round,
                answers="; ".join(refusals),
            )
        time.sleep(REVEAL_RETRY_SECONDS)
        return True


class Miner:
    """Mines one task until it closes, or one after the other."""

    def __init__(
        self,
        client: NodeClient,
        light: LightClient,
        private_key: PrivateKey,
        directory: Path,
        units: int,
        make_trainer: TrainerFactory,
        *,
        poll_seconds: float,
        claims: bool,
    ) -> None:
        self._client = client
        self._light = light
        self._identity = Identity(private_key, get_address(private_key), light.network.chain_id)
        self._directory = directory / light.network.genesis_hash.hex()[:16]
        self._units = units
        self._make_trainer = make_trainer
        self._poll_seconds = poll_seconds
        self._claims = claims
        self._finished: set[int] = set()
        self._last_work = time.monotonic()
        """When there was last something to do, or another node was asked."""

    def mine_all(self) -> None:
        """Take part in the newest open task; when it closes, in the next. Never returns."""
        log_event("looking for a task", account=to_hex(self._identity.address))
        while True:
            try:
                task = self._choose()
                if task is not None:
                    self.mine(task)
                    self._finished.add(task)
                    log_event("looking for a task", account=to_hex(self._identity.address))
            except ClientError as error:
                self._try_another(error, RETRY_SECONDS)
            time.sleep(IDLE_SECONDS)

    def _choose(self) -> TaskId | None:
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
        spec = self._insist(lambda: self._fetch_spec(task))
        shards = self._fetch_shards(spec)
        trainer = self._make_trainer(spec, shards)
        store = GradientStore(self._directory / f"task-{task}")
        worker = TaskWorker(self._client, self._light, self._identity, task, spec, trainer, store)
        self._insist(lambda: worker.register(self._units))
        log_event("mining", task=task, name=spec.name, parameters=count_parameters(spec.model))
        while self._is_open(task):
            self._follow(worker, task)
        log_event("task closed", task=task)
        if self._claims:
            worker.claim()

    def _insist(self, ask: Callable[[], Answer]) -> Answer:
        """What the first node answers that is not caught lying."""
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
        """Follow the attempts at the task's rounds until there is none."""
        try:
            while (hint := self._client.attempt(task)) is not None:
                if worker.is_old(hint):
                    self._ask_next()
                    break
                try:
                    if worker.advance(hint):
                        self._last_work = time.monotonic()
                except RpcError as error:
                    # The phase ended while we worked, or the account ran dry: the next poll tells.
                    log_event(f"refused: {error}", level=logging.WARNING, round=hint.round)
                    time.sleep(REVEAL_RETRY_SECONDS)
                if self._has_waited_long():
                    break
                time.sleep(self._poll_seconds)
        except ContentUnavailableError as error:
            self._try_another(error, CONTENT_RETRY_SECONDS)
        except ClientError as error:
            self._try_another(error, RETRY_SECONDS)
        if self._has_waited_long():
            self._ask_next()
        time.sleep(self._poll_seconds)

    def _has_waited_long(self) -> bool:
        return time.monotonic() - self._last_work > PATIENCE_SECONDS

    def _try_another(self, error: ClientError, seconds: float) -> None:
        """Go on with another node, at once if this one was caught."""
        if isinstance(error, DishonestNodeError):
            self._client.drop(error)
            return
        log_event(str(error), level=logging.WARNING)
        time.sleep(seconds)
        self._ask_next()

    def _ask_next(self) -> None:
        self._last_work = time.monotonic()
        self._client.rotate()

    def _fetch_spec(self, task: TaskId) -> TaskSpec:
        spec_hash, status = self._light.task(task)
        if status is TaskStatus.NONE:
            raise ClientError(f"there is no task {task}; `pot task list` shows those there are")
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
        """The files of the task's data, fetched unless they lie here already."""
        directory = self._directory / "data"
        directory.mkdir(parents=True, exist_ok=True)
        paths = []
        for shard in spec.data.shards:
            path = directory / f"{shard.content_id.hex()}.npz"
            if not path.exists():
                self._client.fetch_file(shard.content_id, shard.byte_count, path, spec.data.urls)
                log_event("fetched", content=to_hex(shard.content_id), bytes=shard.byte_count)
            paths.append(path)
        return tuple(paths)
