from dataclasses import replace

from chain.primitives import Hash32
from chain.training.architectures import Mlp
from chain.training.resources import (
    BLOB_FILES_BYTES,
    count_closed_bytes,
    count_content_bytes,
    count_dataset_bytes,
    count_disk_bytes,
)
from chain.training.task_spec import FeatureType, Sgd, Shard
from tests.worlds.training import SPEC

MODEL = Mlp(inputs=64, hidden=(1_000,), classes=10)
"""75 010 parameters: 300 040 bytes in two chunks."""


def test_disk_of_a_task_is_content_rows_three_states_and_three_rounds() -> None:
    spec = replace(
        SPEC, model=MODEL, optimizer=Sgd(0), reward=replace(SPEC.reward, max_units=5_000)
    )
    theta, payload = 300_040, 128 + 294 * 257
    files = BLOB_FILES_BYTES
    content = theta + 64 + (5_000 + 32) + (4_000 + 32) + 3 * files
    states = 3 * (theta + 64 + files)
    gradients = 3 * 1_024 * (payload + 32 + files)
    assert count_content_bytes(spec) == theta + 9_000
    rows = 100 * (4 * 64 + 1) + 32 + files
    models = 2 * (theta + 64 + files)
    assert count_disk_bytes(spec) == content + rows + states + models + gradients
    assert count_closed_bytes(spec) == content + states // 3


def test_tiny_shards_take_at_least_what_their_files_take() -> None:
    shards = tuple(Shard(Hash32(i.to_bytes(32, "big")), 300, 1) for i in range(96))
    spec = replace(SPEC, data=replace(SPEC.data, shards=shards))
    assert count_content_bytes(spec) < 2**16
    assert count_closed_bytes(spec) > 97 * 2**15
    assert count_disk_bytes(spec) > count_closed_bytes(spec)


def test_rows_take_memory_for_all_and_for_the_largest_shard_again() -> None:
    in_memory = 4 * 64 + 8
    assert count_dataset_bytes(SPEC) == 100 * in_memory + 5_000 + 60 * (4 * 64 + 1 + in_memory)
    data = replace(SPEC.data, feature_type=FeatureType.UINT8)
    then = count_dataset_bytes(replace(SPEC, data=data))
    assert then == 100 * in_memory + 5_000 + 60 * (64 + 1 + in_memory)
