"""A crash at every fsync and send boundary (C1), which tears a write in progress.

Validator 0 is dead, so number 1 goes through a view change and needs all other validators: one that
crashes must come back with all that it promised.
"""

import pytest

from tests.simulation.cluster import Cluster, World
from tests.simulation.histories import scatter

WORLD = World(views=(None, 0, 0, 0), faulty_ms=2_500)
STRIDE = 16


def run_with_crash(name: str, boundary: int) -> Cluster:
    cluster = Cluster(7, WORLD)
    scatter(cluster)
    cluster.crash_at = name, boundary
    cluster.run_faulty()
    cluster.heal()
    cluster.run_to_block(1, 20_000)
    return cluster


def count_boundaries(name: str) -> int:
    return run_with_crash(name, 0).boundaries[name]


@pytest.mark.parametrize("name", ["1", "2"])
def test_every_sixteenth_boundary_may_be_the_last_before_a_crash(name: str) -> None:
    # 1 is the primary of view 1, 2 a backup.
    boundaries = count_boundaries(name)
    assert boundaries > 60
    for boundary in range(1, boundaries + 1, STRIDE):
        assert run_with_crash(name, boundary).counts["crashes"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", ["1", "2"])
def test_every_boundary_may_be_the_last_before_a_crash(name: str) -> None:
    for boundary in range(1, count_boundaries(name) + 1):
        assert run_with_crash(name, boundary).counts["crashes"] == 1
