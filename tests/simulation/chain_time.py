"""The time of blocks in a simulation: liars move it no further than the specification says.

It is checked with arithmetic of its own (docs/spec/state-transition.md, section 3).
"""

from chain.consensus.inputs import Timing
from chain.consensus.messages import NewView, get_pre_prepare
from chain.consensus.pbft import ReplicaState
from chain.primitives import Hash32
from chain.types.block import Block
from tests.simulation.executions import GENESIS_SECONDS


class ChainTime:
    """Compares timestamps of blocks with true time, from which honest clocks differ a little."""

    def __init__(self, timing: Timing, skew_ms: int) -> None:
        self.refused_count = 0
        self._timing = timing
        self._skew_ms = skew_ms
        self._begun_ms: dict[Hash32, int] = {}
        """The time at which an honest primary began to build a block, by its hash."""

    def on_build(self, now_ms: int, block: Block) -> None:
        """Note that an honest primary begins to build this block."""
        self._begun_ms[block.hash] = now_ms

    def on_final(self, now_ms: int, block: Block) -> None:
        """Check that no block is more than a second ahead of all honest clocks."""
        ahead_ms = self._compute_ahead_ms(now_ms, block)
        assert ahead_ms <= self._skew_ms + 1_000, (
            f"time: block {block.number} is {ahead_ms} ms ahead of true time"
        )

    def on_step(self, name: str, now_ms: int, state: ReplicaState) -> None:
        """Check that a proposal that arrived now is not too old for an honest node's PREPARE."""
        proposal = state.proposal
        assert proposal is not None
        if isinstance(proposal, NewView) and proposal.prepares:
            return
        behind_ms = -self._compute_ahead_ms(now_ms, get_pre_prepare(proposal).block)
        limit_ms = self._compute_age_limit_ms(state.view) + self._skew_ms + 2_000
        assert behind_ms < limit_ms, (
            f"time: {name} prepares {state.config.number}/{state.view} "
            f"from {behind_ms} ms before it came"
        )

    def on_old(self, name: str, now_ms: int, block: Block, view: int) -> None:
        """Check that the proposal that a node refuses as too old is no honest one of this view."""
        self.refused_count += 1
        begun_ms = self._begun_ms.get(block.hash)
        assert begun_ms is None or now_ms - begun_ms > self._compute_age_limit_ms(view), (
            f"time: {name} refuses the honest block {block.number} of view {view}, "
            f"{now_ms - begun_ms} ms old"
        )

    def _compute_ahead_ms(self, now_ms: int, block: Block) -> int:
        return (block.header.timestamp - GENESIS_SECONDS) * 1_000 - now_ms

    def _compute_age_limit_ms(self, view: int) -> int:
        timing = self._timing
        return min(timing.view_timeout_cap_ms, timing.view_timeout_base_ms * 2 ** min(view, 20))
