"""Worlds in which the rules break a property today; each goes green with its mend.

The mend takes the mark off, and the property out of `worlds.KNOWN`.
"""

from tests.training_simulation.checkers import ESCROW_SHARES, PROGRESS, ViolationError
from tests.training_simulation.cluster import Cluster, World
from tests.training_simulation.worlds import build, run

ALL = frozenset({ESCROW_SHARES, PROGRESS})


def build_for(name: str, world: World) -> Cluster:
    """A cluster in which only one of the broken properties is checked."""
    return build(1, world, without=ALL - {name})


def run_for(name: str, cluster: Cluster) -> None:
    """Run a cluster in which nothing but the property `name` may break."""
    try:
        run(cluster)
    except ViolationError as error:
        if error.name != name:
            raise RuntimeError(f"another property broke: {error}") from error
        raise


def test_no_share_is_paid_where_no_unit_is_accepted() -> None:
    run_for(ESCROW_SHARES, build_for(ESCROW_SHARES, World(miners=("withholds", "withholds"))))


def test_withheld_gradient_stalls_no_task() -> None:
    run_for(
        PROGRESS,
        build_for(
            PROGRESS,
            World(floor=4, faulty_ms=20_000, miners=("honest", "honest", "withholds")),
        ),
    )
