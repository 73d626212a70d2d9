"""A short `make fuzz`: every target with a fixed seed, for a second or two."""

import random

import pytest

from tests.fuzz.decoders import Target, build_targets
from tests.fuzz.memory import MemoryWatch, resident_mib
from tests.fuzz.mutate import mutate


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    return build_targets(tmp_path_factory.mktemp("fuzz"))


def test_every_target_takes_its_own_seeds(targets: list[Target]) -> None:
    for target in targets:
        if target.name != "manifest":  # its leaves are no Merkle tree with a known root
            for seed in target.seeds:
                target.run(seed)


def test_changed_inputs_are_refused_with_a_reason(targets: list[Target]) -> None:
    source = random.Random(7)
    refused = 0
    for target in targets:
        for _ in range(60):
            try:
                target.run(mutate(source, target.seeds))
            except target.refusals:
                refused += 1
    assert refused > 20 * len(targets)


def test_memory_that_grows_fails_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = MemoryWatch("test", seconds=0)
    watch.tick("nothing")
    assert watch.is_over()
    watch.finish()
    grown = resident_mib() + 100
    monkeypatch.setattr("tests.fuzz.memory.resident_mib", lambda: grown)
    with pytest.raises(AssertionError, match="memory grew by"):
        watch.finish()
