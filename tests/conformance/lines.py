"""All lines: those of the samples and those of the simulated worlds."""

from functools import cache

from tests.conformance import (  # noqa: F401 - each registers its samples
    calls,
    digests,
    files,
    storage,
    wire,
)
from tests.conformance.registry import Outcome, collect_lines, compute_line, run_all
from tests.conformance.simulations import list_seeds, name_line, record_seed


@cache
def run_samples() -> dict[str, Outcome]:
    """The result of every sample by its name; the samples run once."""
    return run_all()


def compute_sample_lines() -> dict[str, str]:
    return collect_lines(run_samples().values())


def compute_seed_line(seed: int) -> str:
    return compute_line(record_seed(seed))


def compute_all() -> dict[str, str]:
    """Every line, by its name."""
    worlds = {name_line(seed): compute_seed_line(seed) for seed in list_seeds()}
    return {**compute_sample_lines(), **worlds}
