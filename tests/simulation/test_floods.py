"""Liars that flood the network, with numbers and views up to 2^64 - 1 (D7)."""

from tests.simulation.checkers import compute_memory_bound, measure_memory
from tests.simulation.cluster import Cluster, World

FLOOD = ("flood", "replay", "mutate")


def run_flood(n: int, faulty_ms: int) -> Cluster:
    cluster = Cluster(11, World(n=n, liars=(n - 1) // 3, habits=FLOOD, faulty_ms=faulty_ms))
    cluster.adversary.zeal = 40
    cluster.run_faulty()
    return cluster


def test_memory_stays_below_its_bound_however_long_the_flood() -> None:
    short, long = run_flood(4, 1_000), run_flood(4, 6_000)
    assert long.counts["messages"] > 3 * short.counts["messages"]
    for cluster in (short, long):
        for node in cluster.honest:
            assert node.state is not None
            assert measure_memory(node.state) <= compute_memory_bound(4)


def test_chain_grows_and_recovers_under_a_flood() -> None:
    cluster = run_flood(7, 2_000)
    cluster.heal()
    cluster.run_to_block(2, 30_000)
    assert cluster.counts["messages"] > 2_000
