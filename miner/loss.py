"""The loss functions (docs/spec/training.md, section 2)."""

from typing import assert_never

from torch import Tensor
from torch.nn import functional

from chain.training.task_spec import Loss


def compute_loss_sum(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss of logits (B, classes) against labels (B,), in nats."""
    match loss:
        case Loss.CROSS_ENTROPY:
            return functional.cross_entropy(logits, labels, reduction="sum")
        case _:
            assert_never(loss)
