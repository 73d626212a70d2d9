"""Seeds of simulated training, and tests that the checkers notice violations."""

import hashlib
import os
import subprocess
import sys

import pytest

from chain.contracts import task_registry, training_token
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.task_registry import CloseReason
from chain.training.task_checks import REFUSAL_CODES, ObjectionCode
from chain.types.validator_set import compute_max_faulty, compute_quorum
from tests.training_simulation.chain import MINERS
from tests.training_simulation.checkers import ViolationError
from tests.training_simulation.cluster import Newcomer, OtherTask, World
from tests.training_simulation.miners import HONEST
from tests.training_simulation.values import OTHER_TOKEN
from tests.training_simulation.worlds import FAMILIES, KNOWN, build, draw_world, run, simulate
from tests.worlds.contracts import SUPPLY_EACH, account


@pytest.mark.parametrize("seed", range(6))
def test_training_goes_on_and_money_is_right(seed: int) -> None:
    simulate(seed)


def test_smallest_round_pays_two_honest_miners() -> None:
    cluster = build(1, World())
    run(cluster)
    assert cluster.counts["RoundSettled"] >= 2
    assert cluster.counts["MinerFined"] == 0
    (earned,) = cluster.chain.view.rewards.values()
    assert all(earned[miner.address] > 0 for miner in cluster.miners)


def test_cheat_loses_its_bond() -> None:
    cluster = build(2, World(miners=("honest", "honest", "cheats")))
    run(cluster)
    assert cluster.counts["MinerFined"] == 1


def test_bond_survives_validators_that_are_slow() -> None:
    # They hold every gradient, and have no time to check it.
    cluster = build(1, World(check_ms=6_000, miners=(HONEST,) * 3), without=KNOWN["slow"])
    run(cluster)
    assert cluster.counts["MinerFined"] == 0


def test_bond_survives_tasks_that_waste_the_verifier() -> None:
    cluster = build(1, World(junk=6, junk_dry_run_ms=150_000))
    run(cluster)
    assert cluster.counts["MinerFined"] == 0
    _, *junk = cluster.chain.view.histories.values()
    refused = [each.close_reason for each in junk].count(CloseReason.REFUSED)
    # Each dry run takes its whole time twice, a bit more than two minutes as the junk declares
    # little, so four fit into the time for answers.
    assert [each.is_closed for each in junk] == [True] * 6
    assert refused == 4
    open_tasks = cluster.chain.contracts.read(task_registry.get_open_tasks())
    assert open_tasks == 0


def test_slots_that_junk_took_are_free_for_the_next_tasks() -> None:
    cluster = build(1, World(junk=8, junk_waves=2))
    run(cluster)
    reasons = [each.close_reason for each in cluster.chain.view.histories.values()]
    assert reasons.count(CloseReason.EXPIRED) == 2 * 8


def test_task_waits_until_the_validators_have_time_for_it() -> None:
    # The first and the fifth junk task need nearly a quarter of a worker each; the main task leaves
    # too little for both at once.
    cluster = build(1, World(junk=5))
    run(cluster)
    main, first, *_, fifth = cluster.chain.view.histories.values()
    assert not first.refusals
    assert not fifth.refusals
    assert main.closed is not None
    # Progress begins when a task becomes active, and miners take part in none of these.
    assert first.lease.progress_block < main.closed.number < fifth.lease.progress_block


def test_task_that_waits_too_long_is_refused_by_all() -> None:
    cluster = build(1, World(junk=9))
    run(cluster)
    _, *junk = cluster.chain.view.histories.values()
    busy = REFUSAL_CODES[ObjectionCode.WORKERS_BUSY]
    refused = [each for each in junk if each.close_reason is CloseReason.REFUSED]
    assert [each.task_id for each in refused] == [10]
    assert {code for _, code in refused[0].refusals} == {busy}


def test_account_is_paid_for_each_task_in_the_token_of_that_task() -> None:
    other = OtherTask("second", ((0, HONEST), (8, HONEST)), is_paid_in_pot=False)
    cluster = build(1, World(others=(other,)))
    run(cluster)
    first, second = cluster.chain.view.histories.values()
    assert (first.rounds_settled, second.rounds_settled) == (4, 4)
    account, rewards = MINERS[0], cluster.chain.view.rewards
    assert rewards[first.task_id][account] > 0
    balance = cluster.chain.contracts.tokens_of(OTHER_TOKEN, account)
    assert balance == SUPPLY_EACH + rewards[second.task_id][account]


def test_fraud_in_one_task_costs_no_seat_in_another() -> None:
    other = OtherTask("second", ((0, "cheats"), (8, HONEST), (9, HONEST)))
    cluster = build(1, World(others=(other,)))
    run(cluster)
    assert cluster.counts["MinerFined"] == 1
    first, second = cluster.chain.view.histories.values()
    assert (first.rounds_settled, second.rounds_settled) == (4, 4)
    rewards = cluster.chain.view.rewards
    assert MINERS[0] in rewards[first.task_id]
    assert MINERS[0] not in rewards[second.task_id]


def test_checks_that_take_longer_than_declared_delay_their_own_task_alone() -> None:
    slow = OtherTask(
        "second", ((8, HONEST), (9, HONEST)), check_ms=20_000, unit_milliseconds=100, starts_ms=0
    )
    cluster = build(1, World(others=(slow,), rounds=30))
    run(cluster)
    first, second = cluster.chain.view.histories.values()
    assert second.rounds_settled < 3
    assert first.rounds_settled > 6


def test_newcomer_takes_a_seat_whose_term_is_over() -> None:
    newcomer = Newcomer(HONEST, units=2, starts_ms=5_000)
    world = World(
        miners=(HONEST,) * 4,
        newcomers=(newcomer,),
        seat_attempts=3,
        rounds=40,
        compute_ms=5_000,
        block_ms=500,
        empty_block_ms=500,
        faulty_ms=140_000,
    )
    cluster = build(1, world)
    run(cluster)
    # Five miners share the units of four: one that is displaced takes its seat again, or another
    # one after it has its bonds back, as soon as a term is over.
    assert cluster.counts["seats displaced"] == 5
    assert cluster.counts["seats taken again"] == 3
    assert cluster.counts["BondWithdrawn"] == 1
    assert cluster.counts["MinerAbsent"] == 0
    (rewards,) = cluster.chain.view.rewards.values()
    assert {miner.address for miner in cluster.miners} <= set(rewards)


def test_bond_survives_validators_that_restart_late() -> None:
    cluster = build(1, World(phases=(8, 30, 8), check_ms=1_500), without=KNOWN["slow"])

    def restart_once_all_hold_a_gradient() -> None:
        if not all(validator.disk.payloads for validator in cluster.validators):
            cluster.after(100, restart_once_all_hold_a_gradient)
            return
        for validator in cluster.validators:
            validator.crash(24_000)

    cluster.after(0, restart_once_all_hold_a_gradient)
    run(cluster)
    assert cluster.counts["MinerFined"] == 0


def test_verdicts_in_the_block_on_its_way_lose_no_ballot() -> None:
    cluster = simulate(first_seed_of("flights", first=46))
    assert cluster.counts["BallotFailed"] == 0
    assert cluster.counts["RoundSettled"] == 8


def test_two_hundred_seeds_are_of_every_family() -> None:
    assert {draw_world(seed)[0] for seed in range(200)} == set(FAMILIES)


def test_replay_prints_one_line_an_event() -> None:
    lines: list[str] = []
    simulate(first_seed_of("lies"), lines.append)
    assert "seed" in lines[0]
    assert all("\n" not in line and line[:7].strip().isdigit() for line in lines)
    assert any("verdict" in line for line in lines)


TRACE_PROGRAM = (
    "import hashlib, sys\n"
    "from tests.training_simulation.worlds import simulate\n"
    "digest = hashlib.sha256()\n"
    "for seed in map(int, sys.argv[1:]):\n"
    "    simulate(seed, lambda line: digest.update(line.encode()))\n"
    "print(digest.hexdigest())\n"
)


def test_a_seed_is_one_history_whatever_the_hash_seed() -> None:
    seeds = [first_seed_of(family) for family in ("nuisances", "storm")]
    digest = hashlib.sha256()
    for seed in seeds:
        simulate(seed, lambda line: digest.update(line.encode()))
    other = subprocess.run(
        [sys.executable, "-c", TRACE_PROGRAM, *map(str, seeds)],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == digest.hexdigest()


def first_seed_of(family: str, first: int = 0) -> int:
    return next(seed for seed in range(first, 1_000) if draw_world(seed)[0] == family)


def test_checkers_notice_a_wrong_supply() -> None:
    cluster = build(3, World())
    away = training_token.transfer(TRAINING_TOKEN, account("unknown"), 1)
    cluster.chain.contracts.send(cluster.miners[0].address, away)
    with pytest.raises(ViolationError, match="money"):
        run(cluster)


@pytest.mark.parametrize("n", [4, 5, 7])
@pytest.mark.parametrize("habit", ["calls all unchecked", "calls all missing"])
def test_honest_miners_are_paid_if_few_validators_check_and_some_are_slow(
    n: int, habit: str
) -> None:
    """Liars, a fast validator and those that cannot check once ended all three ballots."""
    max_faulty = compute_max_faulty(n)
    unfit = min(max_faulty, n - compute_quorum(n))
    world = World(
        n=n,
        liars=(habit,) * max_faulty,
        unfit=unfit,
        paces=(1,) * max_faulty + (8,) * (n - 2 * max_faulty - unfit),
        check_ms=2_000,
        phases=(8, 60, 8),
        faulty_ms=200_000,
    )
    cluster = build(1, world)
    run(cluster)
    assert cluster.counts["BallotFailed"] == 0
    assert cluster.counts["AttemptVoided"] == 0
    (history,) = cluster.chain.view.histories.values()
    assert history.rounds_settled >= 2


@pytest.mark.parametrize("n", [4, 5, 7])
@pytest.mark.parametrize("habit", ["is silent", "calls all missing", "posts no result"])
def test_task_trains_if_liars_were_ready_and_honest_validators_were_not(n: int, habit: str) -> None:
    """Of the quorum that makes the task active f lie, and at most n - q others refused it."""
    max_faulty = compute_max_faulty(n)
    slow = min(max_faulty, n - compute_quorum(n))
    cluster = build(1, World(n=n, liars=(habit,) * max_faulty, slow=slow))
    run(cluster)
    (history,) = cluster.chain.view.histories.values()
    refused = [validator for validator, _ in history.refusals]
    assert sorted(refused) == sorted(each.address for each in cluster.validators if each.is_slow)
    assert history.rounds_settled >= 2
