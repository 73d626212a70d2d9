"""Promises of a network to its users: self-healing, pace with a dead validator, fair turns.

The figures are in docs/spec/consensus.md, section 11.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from chain.consensus.inputs import Timing
from chain.consensus.primary_order import compute_primary_order
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, ValidatorIndex
from chain.types.validator_set import compute_max_faulty
from node.node import BUILD_SECONDS
from tests.simulation.cluster import Cluster, Node, World
from tests.worlds.replica import validators_of

PARAMETERS = ChainParameters()
LAN = World(
    timing=Timing(
        min_block_interval_ms=200,
        empty_block_interval_ms=200,
        view_timeout_base_ms=1_000,
        view_timeout_cap_ms=10_000,
        resend_interval_ms=1_000,
    ),
    min_delay_ms=1,
    max_delay_ms=5,
)


def count_blocks(world: World, seconds: int) -> int:
    cluster = Cluster(1, world)
    cluster.heal()
    cluster.run_until(5_000)
    before = cluster.honest[0].head
    cluster.run_until(5_000 + seconds * 1_000)
    return cluster.honest[0].head - before


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_one_dead_of_five_costs_less_than_a_tenth_of_the_blocks() -> None:
    healthy = count_blocks(replace(LAN, n=5), 120)
    ailing = count_blocks(replace(LAN, n=5, dead=1), 120)
    print(f"n 5, one dead: {ailing} of {healthy} blocks in 120 s")
    assert ailing >= 0.9 * healthy


@pytest.mark.parametrize(
    ("gas", "view"),
    [
        # The builder begins no candidate after a second.
        (PARAMETERS.execution_gas_per_second * int(BUILD_SECONDS), 0),
        (PARAMETERS.transaction_gas_limit, 2),
        (30_000_000, 3),
    ],
    ids=["ordinary", "slowest transaction", "slowest block"],
)
def test_blocks_that_execute_slower_than_the_base_timeout_are_made(gas: int, view: int) -> None:
    execution_ms = 1_000 * gas // PARAMETERS.execution_gas_per_second
    timing = Timing(
        min_block_interval_ms=PARAMETERS.min_block_interval_ms,
        empty_block_interval_ms=PARAMETERS.min_block_interval_ms,
        view_timeout_base_ms=PARAMETERS.view_timeout_base_ms,
        view_timeout_cap_ms=PARAMETERS.view_timeout_cap_ms,
        resend_interval_ms=1_000,
    )
    world = replace(LAN, timing=timing, max_delay_ms=50, execution_ms=execution_ms)
    cluster = Cluster(1, world)
    cluster.heal()
    run_until_head(cluster, cluster.honest, 4)
    seconds = cluster.now_ms / 4_000
    print(f"{execution_ms} ms of execution: {seconds:.1f} s a block, in view {view}")
    views = [certificate.view for _, certificate in cluster.honest[0].disk.chain]
    assert views[:4] == [view] * 4
    assert seconds < {0: 2.5, 2: 13, 3: 26}[view]


def blocks_until_back(n: int, seed: int) -> int:
    """The number of blocks until a validator that was away proposes one."""
    cluster = Cluster(seed, replace(LAN, n=n))
    cluster.heal()
    away = cluster.nodes[seed % n]
    cluster.cut_off({away.name})
    others = [node for node in cluster.nodes if node is not away]
    run_until_head(cluster, others, 5 * n)
    cluster.heal()
    gone_through = others[0].head
    own = cluster.validators[away.slot]
    for more in range(1, 32 * n + 1):
        run_until_head(cluster, others, gone_through + more)
        if others[0].disk.chain[gone_through + more - 1][0].header.coinbase == own:
            return more
    return 32 * n + 1


def run_until_head(cluster: Cluster, nodes: Sequence[Node], head: int) -> None:
    cluster.run_until(10**9, lambda: all(node.head >= head for node in nodes))


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(("n", "seed"), [(4, 0), (4, 3), (5, 1), (7, 2)])
def test_recovered_validator_proposes_again_within_32_n_blocks(n: int, seed: int) -> None:
    blocks = blocks_until_back(n, seed)
    print(f"n {n}: proposes again after {blocks} blocks")
    assert blocks <= 32 * n


Strategy = Callable[[int, tuple[ValidatorIndex, ...], Sequence[Address]], bool]
"""Decides whether a liar proposes at this number, from the order and the coinbases so far."""


def measure_shares(n: int, liars: frozenset[int], proposes: Strategy, blocks: int) -> Counter[int]:
    """The shares of the blocks in a healthy network whose liars may skip their turns.

    There are no messages here: each view goes to the next in the order until one proposes.
    """
    validators = validators_of(n)
    coinbases: list[Address] = []
    shares: Counter[int] = Counter()
    for number in range(1, blocks + 1):
        order = compute_primary_order(BlockNumber(number), validators, coinbases)
        chosen = next(
            index for index in order if index not in liars or proposes(int(index), order, coinbases)
        )
        coinbases = [*coinbases, validators[chosen]][-(4 * n + 2) :]
        shares[int(chosen)] += 1
    return shares


def draw_strategies(n: int, liars: frozenset[int]) -> dict[str, Strategy]:
    """Strategies for skipping turns, which may depend on the order."""
    validators = validators_of(n)
    random = Random(n)

    def after_liar(
        index: int, order: tuple[ValidatorIndex, ...], coinbases: Sequence[Address]
    ) -> bool:
        del index, order
        return bool(coinbases) and validators.index(coinbases[-1]) in liars

    def before_liar(
        index: int, order: tuple[ValidatorIndex, ...], coinbases: Sequence[Address]
    ) -> bool:
        del coinbases
        return int(order[(order.index(ValidatorIndex(index)) + 1) % n]) in liars

    def last_moment(
        index: int, order: tuple[ValidatorIndex, ...], coinbases: Sequence[Address]
    ) -> bool:
        # Propose just often enough to stay in the window.
        del order
        return validators[index] not in coinbases[-(4 * n - n) :]

    def half(index: int, order: tuple[ValidatorIndex, ...], coinbases: Sequence[Address]) -> bool:
        del index, order, coinbases
        return random.random() < 0.5

    return {
        "always": lambda index, order, coinbases: True,
        "after a liar": after_liar,
        "before a liar": before_liar,
        "last moment": last_moment,
        "half of the turns": half,
    }


@pytest.mark.parametrize("n", [4, 7, pytest.param(10, marks=pytest.mark.slow)])
def test_skipping_turns_does_not_raise_a_validators_share_of_blocks(n: int) -> None:
    faulty = compute_max_faulty(n)
    random = Random(n)
    worst, blocks = 0.0, 200 * n
    for _ in range(2):
        liars = frozenset(random.sample(range(n), faulty))
        for proposes in draw_strategies(n, liars).values():
            shares = measure_shares(n, liars, proposes, blocks)
            worst = max(worst, sum(shares[index] for index in liars) / blocks)
    print(f"n {n}: liars' share {worst:.3f}, of {faulty / n:.3f}")
    assert worst <= faulty / n + 0.02
