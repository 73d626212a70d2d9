"""The training state and its roots (docs/spec/training.md, section 8).

The state is theta and the optimizer's tensors, each as canonical little-endian bytes. Its root is
the tree over their content ids, theta first, so that the model root is one step below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from chain.crypto import content_id, merkle_leaf, merkle_root
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Hash32
from chain.training.architectures import count_parameters
from chain.training.task_spec import (
    AdamW,
    Optimizer,
    Sgd,
    TaskSpec,
)

FLOAT32_BYTES: Final = 4
"""The size of a value: IEEE 754 binary32, little-endian, everywhere in the protocol."""

MAX_PARTS: Final = 16
"""The most tensors of one training state; no optimizer keeps that many."""

ADAMW_POWERS_BYTES: Final = 8
"""The size of the running products beta1**t and beta2**t."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The parameters and the optimizer's state after a settled round.

    Attributes:
        theta: The parameters, float32, in manifest order, unpadded.
        tensors: The optimizer's state: none for plain SGD; the velocity for SGD with momentum;
            first moment, second moment and the two powers of beta for AdamW.
    """

    theta: bytes
    tensors: tuple[bytes, ...]

    @property
    def parts(self) -> tuple[bytes, ...]:
        """Theta and every further tensor, in the order of the tree."""
        return (self.theta, *self.tensors)


def compute_layout(optimizer: Optimizer, parameter_count: int) -> tuple[int, ...]:
    """The length in bytes of every part of a state, theta first."""
    size = parameter_count * FLOAT32_BYTES
    match optimizer:
        case Sgd(momentum_bits):
            return (size, size) if momentum_bits else (size,)
        case AdamW():
            return (size, size, size, ADAMW_POWERS_BYTES)
        case _:
            assert_never(optimizer)


def compute_model_root(state: TrainingState) -> Hash32:
    """The content id of theta."""
    return content_id(state.theta)


def compute_part_ids(state: TrainingState) -> tuple[Hash32, ...]:
    """The content ids of all parts; a node that joins late fetches the parts by them."""
    return tuple(content_id(part) for part in state.parts)


def compute_state_root(part_ids: Sequence[Hash32]) -> Hash32:
    """The root of RFC 6962's tree over the content ids."""
    return merkle_root([merkle_leaf(part_id) for part_id in part_ids])


def compute_training_state_root(state: TrainingState) -> Hash32:
    """The root that validators post with a result."""
    return compute_state_root(compute_part_ids(state))


def build_training_state(parts: Sequence[bytes], spec: TaskSpec, root: Hash32) -> TrainingState:
    """The state with the root `root`, from its parts.

    Raises:
        RejectedInputError: The number or length of the parts differs from the specification, or the
            root is not `root`.
    """
    layout = compute_layout(spec.optimizer, count_parameters(spec.model))
    if tuple(len(part) for part in parts) != layout:
        raise RejectedInputError(
            RejectionReason.CONTENT_MISMATCH, f"the parts of the state are not {layout} bytes long"
        )
    state = TrainingState(theta=bytes(parts[0]), tensors=tuple(bytes(part) for part in parts[1:]))
    if compute_training_state_root(state) != root:
        raise RejectedInputError(
            RejectionReason.CONTENT_MISMATCH, f"the state is not the one of root {root.hex()}"
        )
    return state
