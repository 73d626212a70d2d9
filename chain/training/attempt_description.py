"""What an attempt asks of its miners (docs/spec/training.md, sections 3 and 4).

All of it follows from the chain and the task's specification, so validators, miners, the RPC
process and `pot task verify` compute it here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chain.primitives import Address, Hash32
from chain.training.architectures import count_parameters
from chain.training.assignment import Assignment, assign, compute_seed
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader
from chain.training.task_spec import (
    TaskSpec,
)


@dataclass(frozen=True, slots=True)
class AttemptDescription:
    """An attempt with everything that its assignment and its gradients' headers depend on."""

    attempt_id: AttemptId
    spec: TaskSpec
    chain_id: int
    seed: Hash32

    def assign(self, participants: Sequence[tuple[Address, int]]) -> Assignment:
        """The samples of each miner.

        Args:
            participants: The address and the declared units of each miner that takes part.
        """
        spec = self.spec
        return assign(self.seed, participants, spec.sample_count, spec.samples_per_unit)

    def build_header(self, miner: Address, theta_root: Hash32) -> GradientHeader:
        """The header with which the payload of a miner's gradient must start.

        Args:
            miner: The miner that computed the gradient.
            theta_root: The model root that the round starts from.
        """
        return GradientHeader(
            attempt_id=self.attempt_id,
            parameter_count=count_parameters(self.spec.model),
            chain_id=self.chain_id,
            theta_root=theta_root,
            seed=self.seed,
            miner=miner,
            local_steps=self.spec.local_steps,
        )


def describe_attempt(
    attempt_id: AttemptId, spec: TaskSpec, *, chain_id: int, mix_hash: Hash32
) -> AttemptDescription:
    """The description of an attempt.

    Args:
        attempt_id: The attempt.
        spec: The specification of its task.
        chain_id: EIP-155's.
        mix_hash: The mix hash of the block after the one that opened the attempt.
    """
    return AttemptDescription(attempt_id, spec, chain_id, compute_seed(mix_hash, attempt_id))
