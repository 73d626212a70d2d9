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


def compute_logit_gradient(loss: Loss, logits: Tensor, labels: Tensor, factors: Tensor) -> Tensor:
    """The gradient (B, classes) of each sample's loss by its logits.

    Args:
        loss: The loss of one sample.
        logits: (B, classes).
        labels: (B,).
        factors: (B, classes): each probability of a class is multiplied by its factor.
    """
    match loss:
        case Loss.CROSS_ENTROPY:
            hits = functional.one_hot(labels, logits.shape[1])
            return functional.softmax(logits, dim=1) * factors - hits
        case _:
            assert_never(loss)
