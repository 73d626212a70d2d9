"""All that a submitter sends of a task."""

from collections.abc import Mapping
from dataclasses import dataclass

from chain.primitives import Hash32
from chain.training.task_spec import TaskSpec


@dataclass(frozen=True, slots=True)
class TaskBundle:
    """A task's specification and the blobs that it names.

    Attributes:
        spec: The task.
        blobs: The initial weights and the data shards, by content id.
    """

    spec: TaskSpec
    blobs: Mapping[Hash32, bytes]
