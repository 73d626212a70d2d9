"""What a gradient is the gradient of (docs/spec/training.md, section 2)."""

from typing import assert_never

from torch import Tensor
from torch.nn import functional

from chain.training.task_spec import Loss


def compute_loss_sum(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over samples, in nats, of logits (B, classes) against labels (B,)."""
    match loss:
        case Loss.CROSS_ENTROPY:
            return functional.cross_entropy(logits, labels, reduction="sum")
        case _:
            assert_never(loss)
