from dataclasses import replace

from chain.training.architectures import Mlp
from chain.training.resources import count_content_bytes, count_dataset_bytes, count_disk_bytes
from chain.training.task_spec import FeatureType, Sgd
from tests.worlds.training import SPEC

MODEL = Mlp(inputs=64, hidden=(1_000,), classes=10)
"""75 010 parameters: 300 040 bytes in two chunks."""


def test_disk_of_a_task_is_content_rows_three_states_and_three_rounds() -> None:
    spec = replace(
        SPEC, model=MODEL, optimizer=Sgd(0), reward=replace(SPEC.reward, max_units=5_000)
    )
    theta, payload = 300_040, 128 + 294 * 257
    content = theta + 64 + (5_000 + 32) + (4_000 + 32)
    states = 3 * (theta + 64)
    gradients = 3 * 1_024 * (payload + 32)
    assert count_content_bytes(spec) == theta + 9_000
    rows = 100 * (4 * 64 + 1) + 32
    models = 2 * (theta + 64)
    assert count_disk_bytes(spec) == content + rows + states + models + gradients


def test_rows_take_memory_for_all_and_for_the_largest_shard_again() -> None:
    in_memory = 4 * 64 + 8
    assert count_dataset_bytes(SPEC) == 100 * in_memory + 5_000 + 60 * (4 * 64 + 1 + in_memory)
    data = replace(SPEC.data, feature_type=FeatureType.UINT8)
    then = count_dataset_bytes(replace(SPEC, data=data))
    assert then == 100 * in_memory + 5_000 + 60 * (64 + 1 + in_memory)
