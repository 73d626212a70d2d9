"""A short run of `make chaos`: real nodes, each in processes of its own."""

import os
from pathlib import Path

import pytest
import trio

from node.devnet_processes import require_free_ports
from node.errors import OperatorError
from tests.chaos.manifest import draw_manifest
from tests.chaos.run import Run

SEED = 31
"""Four validators: one starts late, one is cut off, one loses all but its key, one restarts."""

SECONDS = 75.0


def find_base_port() -> int:
    """The first of 90 ports that are free now, below those that the kernel gives away."""
    for base in range(24_000 + os.getpid() % 20 * 100, 32_000, 100):
        try:
            require_free_ports({base + offset: "a node" for offset in range(90)})
        except OperatorError:
            continue
        return base
    raise AssertionError("no free ports")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(1_200)
def test_nothing_is_lost_and_nothing_forks_under_faults(tmp_path: Path) -> None:
    manifest = draw_manifest(SEED, SECONDS)
    report = trio.run(Run(manifest, tmp_path, find_base_port(), print).execute)
    assert report["violations"] == []
    assert isinstance(report["faults"], list)
    assert len(report["faults"]) >= 3
    for count in ("blocks", "acknowledged"):
        assert int(str(report[count])) > 20
