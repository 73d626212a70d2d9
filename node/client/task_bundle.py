"""All that a submitter sends of a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from chain.primitives import Hash32
from chain.training.task_spec import TaskSpec


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the submitter wants to buy; None leaves it to the command."""

    lifetime_seconds: int | None = None
    attempts: int | None = None
    max_fee: int | None = None
    """Base units of POT."""


@dataclass(frozen=True, slots=True)
class TaskBundle:
    """A task's specification and the blobs that it names.

    Attributes:
        spec: The task.
        blobs: The initial weights and the data shards, by content id.
        is_measured: Whether the specification declares what the task takes. If not, it must be
            measured first.
        wishes: What the task file says about the fee.
    """

    spec: TaskSpec
    blobs: Mapping[Hash32, bytes]
    is_measured: bool = True
    wishes: Wishes = field(default_factory=Wishes)
