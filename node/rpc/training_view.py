"""The data behind the `pot_` methods for tasks and rounds (docs/spec/rpc.md, section 2)."""

from dataclasses import dataclass
from pathlib import Path

from chain.training.attempt_description import AttemptDescription, describe_attempt
from chain.training.attempt_records import Attempt
from chain.training.task_spec import (
    TaskSpec,
)
from chain.validation import compute_mix_hash
from node.chain.training_index import TrainingIndex
from node.rpc.call_worker_reader import CallWorkerReader
from node.rpc.chain_view import ChainView
from node.training.reveal_store import RevealStore


@dataclass(frozen=True, slots=True)
class TrainingView:
    """Reads what RPC shows about training: from the chain, the contracts and this node's files."""

    chain: ChainView
    chain_id: int
    index: TrainingIndex
    contracts: CallWorkerReader
    reveals: RevealStore
    checks_directory: Path
    """The directory with the results of this node's gradient checks."""

    def describe(self, spec: TaskSpec, attempt: Attempt) -> AttemptDescription:
        """The description of an attempt."""
        header = self.chain.store.header(attempt.open_block)
        assert header is not None, "an attempt opens in a final block"
        mix_hash = compute_mix_hash(header)
        return describe_attempt(attempt.id, spec, chain_id=self.chain_id, mix_hash=mix_hash)


def build_index(chain: ChainView) -> TrainingIndex:
    """The training index for reading; the node process writes its rows with each block."""
    return TrainingIndex(chain.store)
