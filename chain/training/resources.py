"""What a task takes, computed from its specification (docs/spec/training.md, sections 10 and 11).

A validator compares these numbers with its limits before it fetches anything.
"""

from collections.abc import Iterable
from math import prod
from typing import Final

from chain.contracts.miner_seats import MAX_MINERS
from chain.crypto import CHUNK_BYTES
from chain.training.architectures import count_parameters
from chain.training.encoding import count_payload_bytes
from chain.training.state import FLOAT32_BYTES, compute_layout
from chain.training.task_spec import Data, FeatureType, LabelType, TaskSpec

KEPT_STATES: Final = 2
"""A training state is kept until so many later rounds are settled, for nodes that are behind."""

KEPT_MODELS: Final = 2
"""Disk is counted for so many models of earlier rounds, to check accused gradients with. A seat
that cheats in more rounds before a late verdict is given can be fined for one of the latest."""

KEPT_ROUNDS: Final = 3
"""Disk is counted for the gradients of so many attempts: the one in progress, the one before, and
as many accused gradients of still earlier attempts as one attempt can have."""

LABEL_BYTES: Final = 8
"""The size of a label in memory."""

LEAF_BYTES: Final = 32
"""The size of the hash that is stored for each chunk of a blob."""

BLOB_FILES_BYTES: Final = 2**15
"""What the files of a blob count beside its bytes, however small it is. On the disk they take two
inodes and two blocks, some 10 KB; the rest is for the work of listing them. Without this, tasks
with many tiny shards would leave millions of files and use hardly any of the quota."""

_FEATURE_BYTES: Final = {FeatureType.FLOAT32: 4, FeatureType.UINT8: 1}
_STORED_LABEL_BYTES: Final = {LabelType.UINT8: 1, LabelType.INT64: 8}


def count_content_bytes(spec: TaskSpec) -> int:
    """The bytes of the task's initial weights and data."""
    weights = FLOAT32_BYTES * count_parameters(spec.model)
    return weights + sum(shard.byte_count for shard in spec.data.shards)


def count_closed_bytes(spec: TaskSpec) -> int:
    """The bytes that a node keeps for the task when it is closed: its content and final state."""
    parameter_count = count_parameters(spec.model)
    content = [FLOAT32_BYTES * parameter_count, *(each.byte_count for each in spec.data.shards)]
    return _count_stored([*content, *compute_layout(spec.optimizer, parameter_count)])


def count_gradients(spec: TaskSpec) -> int:
    """The most gradients of an attempt."""
    return min(spec.reward.max_units, MAX_MINERS)


def count_disk_bytes(spec: TaskSpec) -> int:
    """The most bytes that a node keeps for the task while it is open.

    They are its content, its rows as workers read them, the training states that are kept and the
    one in progress, `KEPT_MODELS` models, and the gradients of `KEPT_ROUNDS` attempts.
    """
    parameter_count = count_parameters(spec.model)
    model = FLOAT32_BYTES * parameter_count
    content = [model, *(each.byte_count for each in spec.data.shards)]
    models = KEPT_MODELS * _count_stored([model])
    states = (1 + KEPT_STATES) * _count_stored(compute_layout(spec.optimizer, parameter_count))
    gradient_count = KEPT_ROUNDS * count_gradients(spec)
    gradients = gradient_count * _count_stored([count_payload_bytes(parameter_count)])
    rows = _count_stored([count_rows_bytes(spec)])
    return _count_stored(content) + rows + states + models + gradients


def count_stored_row_bytes(data: Data) -> int:
    """The bytes of a row in the element types of the manifest: of its features and its label."""
    features = _FEATURE_BYTES[data.feature_type] * prod(data.sample_shape)
    return features + _STORED_LABEL_BYTES[data.label_type]


def count_rows_bytes(spec: TaskSpec) -> int:
    """The bytes of the task's rows in the element types of its manifest."""
    return spec.data.row_count * count_stored_row_bytes(spec.data)


def count_dataset_bytes(spec: TaskSpec) -> int:
    """The most memory that the task's rows take while a worker loads them.

    The worker unpacks one shard after another into arrays that hold all rows.
    """
    row_bytes = FLOAT32_BYTES * prod(spec.data.sample_shape) + LABEL_BYTES
    stored_row_bytes = count_stored_row_bytes(spec.data)
    # A shard is there as a file, as unpacked members, and as converted values.
    largest = max(
        shard.byte_count + shard.row_count * (stored_row_bytes + row_bytes)
        for shard in spec.data.shards
    )
    return spec.data.row_count * row_bytes + largest


def count_stored_bytes(size_bytes: int) -> int:
    """The bytes of the quota that a blob of this size takes, with the hashes of its chunks."""
    return BLOB_FILES_BYTES + size_bytes + LEAF_BYTES * max(1, -(-size_bytes // CHUNK_BYTES))


def _count_stored(sizes: Iterable[int]) -> int:
    return sum(map(count_stored_bytes, sizes))
