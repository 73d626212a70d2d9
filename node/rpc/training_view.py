"""Tasks and rounds as chain, contracts and this node's files tell of them (docs/spec/rpc.md, 2)."""

from dataclasses import dataclass
from pathlib import Path

from chain.primitives import Address, Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.assignment import Assignment, assign, compute_seed
from chain.training.encoding import GradientHeader
from chain.training.history import Attempt, TaskHistory
from chain.training.task_spec import TaskSpec
from chain.validation import compute_mix_hash
from node.chain.training_index import TrainingIndex, get_theta_root
from node.rpc.chain_view import ChainView
from node.rpc.ledger import LedgerView
from node.training.reveal_store import RevealStore


@dataclass(frozen=True, slots=True)
class TrainingView:
    """Everything that a question about training may need."""

    chain: ChainView
    chain_id: int
    index: TrainingIndex
    ledger: LedgerView
    reveals: RevealStore
    checks_directory: Path
    """Where the training host keeps what it measured."""

    def seed(self, task_id: TaskId, attempt: Attempt) -> Hash32:
        """The attempt's seed; it follows from the block that opened the attempt."""
        header = self.chain.store.header(attempt.open_block)
        assert header is not None, "an attempt opens in a final block"
        mix_hash = compute_mix_hash(header)
        return compute_seed(mix_hash, task_id, attempt.id.round_number, attempt.id.attempt_number)

    async def assignment(self, task_id: TaskId, spec: TaskSpec, attempt: Attempt) -> Assignment:
        """Who works on what."""
        seed = self.seed(task_id, attempt)
        miners = await self.ledger.participants(task_id, attempt.open_block)
        return assign(seed, miners, spec.sample_count, spec.samples_per_unit, spec.reward.max_units)

    def gradient_header(
        self, history: TaskHistory, spec: TaskSpec, attempt: Attempt, miner: Address
    ) -> GradientHeader:
        """What a payload of the attempt in progress starts with."""
        seed = self.seed(history.task_id, attempt)
        return GradientHeader(
            parameter_count=count_parameters(spec.model),
            round_number=attempt.id.round_number,
            chain_id=self.chain_id,
            theta_root=get_theta_root(history, spec),
            seed=seed,
            miner=miner,
            task=history.task_id,
            attempt=attempt.id.attempt_number,
        )


def build_index(chain: ChainView) -> TrainingIndex:
    """The index for reading: rows are folded by the node process, with each block."""
    return TrainingIndex(chain.store)
