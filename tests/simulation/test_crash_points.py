"""A crash at every fsync and send boundary (C1), which tears a write in progress.

Validator 0 is dead, so number 1 goes through a view change and needs all other validators: one that
crashes must come back with all that it promised.
"""

import pytest

from chain.consensus.records import compute_latest_intent
from tests.simulation.cluster import BOOT_MS, Cluster, World
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


def crash_between_log_and_guard(name: str) -> Cluster:
    """A cluster in which a process has just died with a vote in its log that its guard lacks."""
    for boundary in range(1, 200):
        cluster = Cluster(7, WORLD)
        scatter(cluster)
        cluster.crash_at = name, boundary
        cluster.run_until(WORLD.faulty_ms, lambda: cluster.counts["crashes"] == 1)  # noqa: B023
        (node,) = [node for node in cluster.nodes if node.name == name]
        logged, guard = compute_latest_intent(node.disk.load() or []), node.disk.guard
        if logged is not None and guard is not None and logged.position > guard.position:
            return cluster
    raise AssertionError("no such boundary")


@pytest.mark.parametrize("name", ["1", "2"])
def test_process_may_die_again_before_its_guard_is_caught_up(name: str) -> None:
    cluster = crash_between_log_and_guard(name)
    (node,) = [node for node in cluster.nodes if node.name == name]
    cluster.crash_at = name, cluster.boundaries[name] + 1
    cluster.run_until(cluster.now_ms + BOOT_MS, lambda: cluster.counts["crashes"] == 2)
    assert cluster.counts["crashes"] == 2
    assert node.state is None, "it died while its signer started"
    cluster.heal()
    cluster.run_to_block(1, 20_000)
