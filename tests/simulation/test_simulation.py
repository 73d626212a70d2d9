"""Seeds of simulated networks, and proof that the checkers see what they are there for."""

import hashlib
import os
import subprocess
import sys
from random import Random

import pytest

from chain.consensus import pbft
from tests.simulation.cluster import Cluster, Faults, simulate


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_ten_networks_agree_and_recover(first: int) -> None:
    for seed in range(first, first + 10):
        simulate(seed)


@pytest.mark.slow
def test_many_networks_agree_and_recover() -> None:
    for seed in range(10_000, 10_500):
        simulate(seed)


def ignore(line: str) -> None:
    del line


def violation_of(seed: int, faults: Faults) -> str:
    """What a checker said about eight seconds of four validators; empty if nothing."""
    try:
        Cluster(seed, 4, faults, ignore).run_faulty(8_000)
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("n", "limit_ms"), [(4, 60_000), (5, 60_000), (7, 60_000)])
def test_healthy_network_finalizes_in_view_0(n: int, limit_ms: int) -> None:
    lines: list[str] = []
    cluster = Cluster(1, n, Faults(), lines.append)
    cluster.heal()
    cluster.run_to_liveness(more_blocks=20, limit_ms=limit_ms)
    assert all(line.endswith("view 0") for line in lines if " final " in line)


def test_dead_validator_costs_a_view_change_only_while_it_is_in_the_window() -> None:
    # B11: it waits at the end of the order, and is asked again at a probe.
    lines: list[str] = []
    cluster = Cluster(2, 5, Faults(dead=1), lines.append)
    cluster.heal()
    cluster.run_to_liveness(more_blocks=200, limit_ms=200_000)
    late = {
        int(line.split()[3]) for line in lines if " final " in line and not line.endswith("view 0")
    }
    assert late
    assert len(late) <= 20


def test_more_than_f_down_stalls_and_recovers_within_a_capped_timeout() -> None:
    # B8 (quorum#1664) and besu#7642: f + 1 are cut off for a minute, then come back.
    cluster = Cluster(3, 4, Faults(), ignore)
    cluster.run_until(3_000)
    heads = {node.head for node in cluster.nodes}
    names = [node.name for node in cluster.nodes]
    cut = {names[0], names[1]}
    cluster.links_down = frozenset(
        (a, b) for a in names for b in names if a != b and (a in cut or b in cut)
    )
    cluster.run_until(63_000)
    assert {node.head for node in cluster.nodes} <= {max(heads), max(heads) + 1}
    assert max(node.state.view for node in cluster.nodes if node.state) <= 2
    cluster.heal()
    assert cluster.run_to_liveness(more_blocks=1, limit_ms=20_000) <= 2 * 3_000


@pytest.mark.parametrize(
    "views", [(10, 9, 6, 10), (100, 6, 6, None), (3, 2, 1, 0, None), (1, 0, 0, 0)]
)
def test_diverged_views_converge(views: tuple[int | None, ...]) -> None:
    # B9 (besu#7642): no restart of everybody is needed.
    cluster = Cluster(4, len(views), Faults(), ignore)
    cluster.diverge(views)
    cluster.heal()
    cluster.run_to_liveness(more_blocks=2, limit_ms=60_000)


def test_random_views_converge() -> None:
    for seed in range(40):
        random = Random(seed)
        n = random.choice((4, 5, 7))
        top = random.choice((3, 12, 40))
        views: list[int | None] = [random.randrange(top) for _ in range(n)]
        views[random.randrange(n)] = random.choice((None, 0, top))
        cluster = Cluster(seed, n, Faults(), ignore)
        cluster.diverge(views)
        cluster.heal()
        cluster.run_to_liveness(more_blocks=1, limit_ms=60_000)


def test_two_twins_of_four_fork() -> None:
    # D2, the positive control: with more than f liars the checker must see a fork.
    assert any("fork at" in violation_of(seed, Faults(twins=2)) for seed in range(40))


def test_one_twin_is_caught_and_harmless() -> None:
    evidence = 0
    for seed in range(5):
        cluster = Cluster(seed, 4, Faults(twins=1), ignore)
        cluster.run_faulty(8_000)
        cluster.heal()
        cluster.run_to_liveness(more_blocks=3, limit_ms=60_000)
        evidence += cluster.checkers.evidence
    assert evidence > 0


def test_checker_sees_a_replica_that_forgets_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    # The proof assumes no amnesia: without replay somebody says two things, or the guard refuses.
    restore = pbft.restore
    monkeypatch.setattr(pbft, "restore", lambda config, records, sign: restore(config, (), sign))
    faults = Faults(crash=0.02, loss=0.1)
    assert any(violation_of(seed, faults) for seed in range(20))


TRACE_PROGRAM = (
    "import hashlib\n"
    "from tests.simulation.cluster import simulate\n"
    "digest = hashlib.sha256()\n"
    "simulate(5, lambda line: digest.update(line.encode()))\n"
    "print(digest.hexdigest())\n"
)


def test_a_seed_is_one_history_whatever_the_hash_seed() -> None:
    digest = hashlib.sha256()
    simulate(5, lambda line: digest.update(line.encode()))
    other = subprocess.run(
        [sys.executable, "-c", TRACE_PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == digest.hexdigest()
