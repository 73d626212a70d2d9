"""A short run of `make chaos`: real nodes, each in processes of its own."""

from pathlib import Path

import pytest
import trio

from tests.chaos.manifest import draw_manifest
from tests.chaos.network import LinkChoice
from tests.chaos.run import Run
from tests.worlds.ports import find_base_port

SEED = 31
"""Four validators: one starts late, one is cut off, one loses all but its key, one restarts."""

CHANGING_SEED = 49
"""Four validators: a fifth joins and one of the four leaves, while one starts late, one is killed,
and the joiner loses all but its key."""

SECONDS = 75.0


# A request that is cancelled leaves a generator of httpx's unfinished; a busy machine has some.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(
    ("seed", "changes", "links"),
    [(SEED, [], LinkChoice.PROXIES), (CHANGING_SEED, ["join", "leave"], LinkChoice.AUTO)],
)
def test_nothing_is_lost_and_nothing_forks_under_faults(
    tmp_path: Path, seed: int, changes: list[str], links: LinkChoice
) -> None:
    manifest = draw_manifest(seed, SECONDS)
    report = trio.run(Run(manifest, tmp_path, find_base_port(), print, links).execute)
    assert report["violations"] == []
    assert isinstance(report["faults"], list)
    assert len(report["faults"]) >= 3
    for count in ("blocks", "acknowledged"):
        assert int(str(report[count])) > 20
    assert isinstance(report["set_changes"], list)
    assert [change["kind"] for change in report["set_changes"]] == changes
    assert isinstance(report["sets"], list)
    assert len(report["sets"]) == 1 + len(changes)
