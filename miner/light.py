"""Reads of the chain that are proven from the genesis hash (docs/spec/rpc.md, section 9).

A miner that commits to other work than the chain assigned to it loses its bond. Its assignment is
therefore taken from a header that a quorum of validators signed, and from Merkle proofs under that
header's state root. If an answer of a
node contradicts them, the miner logs it and does not ask that node for a while. A node can still
withhold answers, so a miner should use several nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from chain.contracts import ledger_storage
from chain.contracts.addresses import GRADIENT_LEDGER, MINER_SEATS, TASK_REGISTRY, VALIDATOR_SET
from chain.contracts.ledger_storage import AttemptState, OpeningState, StoredSeat
from chain.contracts.miner_seats import IDLE_BLOCKS
from chain.contracts.set_storage import SET_SLOTS
from chain.contracts.task_registry import TaskStatus, TaskTerms
from chain.errors import RejectedInputError
from chain.light import LightChain, TrustedNetwork, verify_network
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.state.proof import ProvenState
from chain.training.assignment import compute_seed
from chain.training.attempt import AttemptId
from chain.training.openings import Obstacle, list_obstacles
from chain.types.header import Header
from chain.validation import compute_mix_hash
from miner.client import FailoverClient
from miner.nodes import DishonestNodeError
from miner.replies import AttemptReply, StateProof
from pot_common.rpc_replies import ClientError

STALE_BLOCKS: Final = 16
"""A node with a head this far behind a proven block has stopped, or withholds blocks."""

ANY_SLOT: Final = 0
"""A proof of any slot of an account proves the account, with its nonce."""


@dataclass(frozen=True, slots=True)
class ProvenAttempt:
    """An attempt as the chain opened it: all that a gradient and its commitment depend on."""

    attempt_id: AttemptId
    ordinal: int
    """Counts all attempts of the task, from 1."""
    open_block: BlockNumber
    seed: Hash32
    participants: tuple[tuple[Address, int], ...]
    """Miners with their declared units, by ascending address."""
    model_root: Hash32
    """The model root of the last settled round; zero before the first."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a task, and of one miner in it, at a final block."""

    header: Header
    attempt: AttemptState
    seat: StoredSeat

    def is_past_commitments(self, open_block: BlockNumber, commit_seconds: int) -> bool:
        """Whether no more commitments can come to the attempt that opened in `open_block`."""
        attempt, header = self.attempt, self.header
        if header.number < open_block:
            return False
        if not attempt.is_open or attempt.open_block != open_block or attempt.verdict_block:
            return True
        return (
            header.timestamp >= attempt.open_time + commit_seconds
            and header.number >= open_block + attempt.floor_blocks
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """What a task needs to open an attempt, and one miner's seat in it, at a final block."""

    header: Header
    opening: OpeningState
    seat: StoredSeat
    ended_block: BlockNumber
    """The block in which the last attempt ended; 0 if none has ended."""

    def list_obstacles(
        self, terms: TaskTerms, parameters: ChainParameters, *, newcomer_units: int = 0
    ) -> tuple[Obstacle, ...]:
        """What the task lacks to open an attempt, if a newcomer takes a seat of so many units."""
        opening = self.opening
        if newcomer_units:
            opening = replace(
                opening,
                seat_count=opening.seat_count + 1,
                registered_units=opening.registered_units + newcomer_units,
            )
        return list_obstacles(
            opening,
            terms,
            number=self.header.number + 1,
            now=self.header.timestamp,
            empty_block_interval_ms=parameters.empty_block_interval_ms,
        )

    @property
    def is_idle(self) -> bool:
        """Whether the task has opened no attempt for so long that even a newcomer may leave."""
        quiet_since = max(self.seat.registered_block, self.ended_block)
        return not self.opening.is_open and self.header.number >= quiet_since + IDLE_BLOCKS


class LightClient:
    """Reads the chain through nodes that it does not trust."""

    def __init__(self, client: FailoverClient, network: TrustedNetwork) -> None:
        self.network = network
        self._client = client
        client.prove_account = self.prove_account
        self._chain = LightChain(network)
        self._highest = BlockNumber(0)

    def read(
        self, reads: Mapping[Address, Sequence[int]], block: BlockNumber | None = None
    ) -> tuple[Header, ProvenState]:
        """Storage slots in the state of a final block; without a block, of the node's head.

        Raises:
            DishonestNodeError: The node's proof is wrong, or its head is far behind.
            ClientError: No node answers, or the node does not keep that state.
        """
        proof = self._client.proof(reads, block)
        source = self._client.current
        header = self._verify_header(source, block, proof)
        if block is None and header.number + STALE_BLOCKS < self._highest:
            raise DishonestNodeError(
                source, f"its head is block {header.number}, block {self._highest} is final"
            )
        self._highest = max(self._highest, header.number)
        state = ProvenState(header.state_root, proof.nodes)
        try:
            for address, slots in reads.items():
                for slot in slots:
                    state.get_storage(address, slot)
        except RejectedInputError as error:
            raise DishonestNodeError(source, f"its proof of block {header.number} fails") from error
        return header, state

    def _verify_header(self, source: str, block: BlockNumber | None, proof: StateProof) -> Header:
        """The header of a proof, checked against the validators of its block."""
        certificate = proof.certificate or b""
        try:
            return self._chain.verify_header(block, proof.header, certificate)
        except RejectedInputError:
            teller = self._follow_sets(source)
        try:
            return self._chain.verify_header(block, proof.header, certificate)
        except RejectedInputError as error:
            reason = f"the block that it calls final is not ({error})"
            raise _blame(source, teller, reason) from error

    def _follow_sets(self, source: str) -> str:
        """Learn the validator sets that followed the last known one.

        Returns:
            The node that says that there are no more; `source` unless that is slow.
        """
        self._client.prefer(source)
        while True:
            changes = self._client.validator_sets(self._chain.set_since)
            teller = self._client.current
            if not changes:
                return teller
            for change in changes:
                last = BlockNumber(change.first_block - 1)
                proof = self._client.proof({VALIDATOR_SET: SET_SLOTS}, last)
                try:
                    self._chain.follow_change(
                        change.validators, proof.header, proof.certificate or b"", proof.nodes
                    )
                except RejectedInputError as error:
                    reason = (
                        f"it does not prove the validator set from block {last + 1} on ({error})"
                    )
                    raise _blame(self._client.current, teller, reason) from error

    @property
    def highest(self) -> BlockNumber:
        """The highest final block that was proven."""
        return self._highest

    def prove_account(self, account: Address) -> tuple[Header, int]:
        """The header of a final block near the head, and the account's nonce after that block.

        Raises:
            DishonestNodeError: The node cannot prove its answer.
            ClientError: No node answers.
        """
        header, state = self.read({account: (ANY_SLOT,)})
        return header, state.get_nonce(account)

    @property
    def validators(self) -> tuple[Address, ...]:
        """The validators of the block after the highest final one that was proven."""
        return self._chain.get_validators(BlockNumber(self._highest + 1))

    def prefer_highest(self, node_count: int) -> None:
        """Ask each node for its last final block, and prefer the node with the highest.

        Raises:
            NodeUnreachableError: No node answers with a final block.
        """
        best = None
        for _ in range(node_count):
            try:
                header, _state = self.read({})
            except DishonestNodeError as error:
                self._client.drop(error)
                continue
            if best is None or header.number > best[0]:
                best = header.number, self._client.current
            self._client.rotate()
        if best is not None:
            self._client.prefer(best[1])

    def prove_attempt(self, task: TaskId, hint: AttemptReply, source: str) -> ProvenAttempt:
        """The attempt of a hint, read from the state of its opening block.

        Args:
            task: The task.
            hint: An answer of a node, which may be wrong.
            source: The URL of that node.

        Raises:
            DishonestNodeError: The chain opened no such attempt in that block.
            ClientError: No node answers.
        """
        block = BlockNumber(hint.open_block)
        reads = {
            GRADIENT_LEDGER: ledger_storage.list_attempt_slots(task),
            MINER_SEATS: ledger_storage.list_participant_slots(task, hint.seats),
        }
        header, state = self.read(reads, block)
        attempt = ledger_storage.read_attempt(state.get_storage, task)
        attempt_id = AttemptId(task, attempt.round_number, attempt.attempt_number)
        if not attempt.is_open or (attempt.open_block, attempt_id) != (
            block,
            hint.get_attempt_id(task),
        ):
            raise DishonestNodeError(
                source, f"round {hint.round}, attempt {hint.attempt} did not open in block {block}"
            )
        try:
            participants = ledger_storage.read_participants(
                state.get_storage, task, attempt.ordinal
            )
        except RejectedInputError as error:
            raise DishonestNodeError(source, "its list of participants is another") from error
        if participants != hint.participants:
            raise DishonestNodeError(source, "its list of participants is another")
        return ProvenAttempt(
            attempt_id=attempt_id,
            ordinal=attempt.ordinal,
            open_block=block,
            seed=compute_seed(compute_mix_hash(header), attempt_id),
            participants=participants,
            model_root=attempt.model_root,
        )

    def progress(self, task: TaskId, miner: Address) -> Progress:
        """The state of a task, and of the miner in it, at a final block near the head.

        Raises:
            DishonestNodeError: The node cannot prove its answer.
            ClientError: No node answers.
        """
        reads = {
            GRADIENT_LEDGER: ledger_storage.list_attempt_slots(task),
            MINER_SEATS: ledger_storage.list_seat_slots(task, miner),
        }
        header, state = self.read(reads)
        return Progress(
            header,
            ledger_storage.read_attempt(state.get_storage, task),
            ledger_storage.read_seat(state.get_storage, task, miner),
        )

    def standing(self, task: TaskId, miner: Address) -> Standing:
        """What a task needs for an attempt, and the miner's seat, at a final block near the head.

        Raises:
            DishonestNodeError: The node cannot prove its answer.
            ClientError: No node answers.
        """
        reads = ledger_storage.list_opening_slots(task)
        reads[MINER_SEATS] += ledger_storage.list_seat_slots(task, miner)
        header, state = self.read(reads)
        return Standing(
            header,
            ledger_storage.read_opening(state.get_storage, task),
            ledger_storage.read_seat(state.get_storage, task, miner),
            ledger_storage.read_ended_block(state.get_storage, task),
        )

    def count_tasks(self) -> int:
        """The number of tasks, whose ids begin at 1, at a final block near the head.

        Raises:
            DishonestNodeError: The node cannot prove its answer.
            ClientError: No node answers.
        """
        slot = ledger_storage.REGISTRY_TASK_COUNT
        _, state = self.read({TASK_REGISTRY: (slot,)})
        return state.get_storage(TASK_REGISTRY, slot)

    def task(self, task: TaskId) -> tuple[Hash32, TaskStatus]:
        """The hash of a task's specification, and its status, at a final block near the head.

        Raises:
            DishonestNodeError: The node cannot prove its answer.
            ClientError: No node answers.
        """
        _, state = self.read({TASK_REGISTRY: ledger_storage.list_task_slots(task)})
        return ledger_storage.read_task(state.get_storage, task)


def _blame(source: str, teller: str, reason: str) -> ClientError:
    """The error of a proof that is wrong unless the node that told the validator sets lies.

    Args:
        source: The node that gave the proof.
        teller: The node that told the sets.
        reason: What is wrong with the proof.
    """
    if source == teller:
        return DishonestNodeError(source, reason)
    return ClientError(f"{source} or {teller} is wrong about the validators of a block: {reason}")


def fetch_network(client: FailoverClient, chain_id: int, genesis_hash: Hash32) -> TrustedNetwork:
    """The network of a trusted genesis hash, with parameters that are fetched and checked.

    Raises:
        DishonestNodeError: The node's genesis has another hash.
        ClientError: No node answers.
    """
    genesis = client.genesis()
    try:
        return verify_network(genesis_hash, chain_id, genesis.header, genesis.parameters)
    except RejectedInputError as error:
        raise DishonestNodeError(client.current, f"its genesis is another ({error})") from error
