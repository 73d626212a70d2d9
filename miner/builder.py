"""What computes gradients for a miner, so that its loop needs no torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from chain.training.encoding import GradientHeader
from chain.training.task_spec import TaskSpec


class PayloadBuilder(Protocol):
    """Computes gradients of one task."""

    def build_payload(self, header: GradientHeader, theta: bytes, samples: Sequence[int]) -> bytes:
        """The encoded gradient at `theta` over `samples`, for the place that `header` names."""


OpenTask = Callable[[TaskSpec, Sequence[Path]], PayloadBuilder]
"""Opens a task with its shards in the given files, in order."""
