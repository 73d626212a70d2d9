"""Tasks and gradients of the simulation: small values whose nature the world knows.

Training is faked. A gradient is a random root; the distance that re-execution would measure is kept
beside it. A training state is the hash of the state before it and of the gradients that went into
it, so validators that accept another set of gradients compute another root.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.task_registry import Purchase, TaskResources
from chain.crypto import keccak256, sha256
from chain.primitives import Address, Hash32
from chain.training.acceptance import ExponentRule, Measurement
from chain.training.attempt import AttemptId
from chain.training.task_spec import Phases, TaskSpec
from tests.training_simulation.formats import CHEAT_FACTOR, compute_attempt_seconds
from tests.worlds.contracts import POT, account
from tests.worlds.training import SPEC as SMALL

MAIN_SPEC: Final = replace(
    SMALL,
    name="main",
    round_count=4,
    phases=Phases(commit_seconds=8, verdict_seconds=12, result_seconds=8),
    reward=replace(
        SMALL.reward,
        token=TRAINING_TOKEN,
        unit_price=POT,
        validator_fee=10 * POT + 3,
        max_units=8,
        min_miners=2,
        min_units=2,
    ),
    resources=TaskResources(
        unit_milliseconds=200,
        evaluation_milliseconds=1_000,
        peak_bytes=2**29,
        disk_bytes=2**24,
    ),
)
"""The task that honest miners train."""

OTHER_TOKEN: Final = account("another token")
"""A second token, in which a task may pay its miners."""


def compute_round_cost(spec: TaskSpec) -> int:
    """The escrow that an attempt at a round reserves."""
    return spec.reward.max_units * spec.reward.unit_price + spec.reward.validator_fee


ROUND_COST: Final = compute_round_cost(MAIN_SPEC)
"""That of the main task."""

TOLERANCE: Final = MAIN_SPEC.verification.tolerance_ppb


@cache
def junk_spec(number: int) -> TaskSpec:
    """A task that no miner trains: it is as cheap as the rules allow.

    Every fourth one has nearly a quarter of a worker's time promised, and never uses it.
    """
    reward = replace(
        MAIN_SPEC.reward, unit_price=1, validator_fee=0, max_units=1, min_miners=1, min_units=1
    )
    unit_milliseconds = 240 * MAIN_SPEC.phases.verdict_seconds if number % 4 == 0 else 1
    resources = TaskResources(unit_milliseconds, 1, 1, 2**24)
    return replace(MAIN_SPEC, name=f"junk {number}", reward=reward, resources=resources)


def compute_junk_purchase(n: int, floor: int, empty_block_ms: int) -> Purchase:
    """What is bought for such a task: about the least that is sold to it."""
    longest = compute_attempt_seconds(junk_spec(0), n, floor, empty_block_ms)
    return Purchase(lifetime_seconds=max(600, longest), attempts=1)


@dataclass(frozen=True)
class Cost:
    """What a task costs a validator, in milliseconds of its verifier worker."""

    dry_run_ms: int
    check_ms: int


@dataclass(frozen=True)
class Payload:
    """A gradient as the world knows it."""

    root: Hash32
    miner: Address
    attempt_id: AttemptId
    distance_ppb: int
    """The distance that the machine of an average validator measures."""
    spread_ppb: int = 0
    """How far the machines of two honest validators may be from that."""
    is_malformed: bool = False

    @property
    def is_honest(self) -> bool:
        """Whether every honest validator that checks it says ok."""
        return self.distance_ppb + self.spread_ppb <= TOLERANCE and not self.is_malformed

    @property
    def may_be_called_cheat(self) -> bool:
        """Whether some honest validator may find a proof of cheating in it."""
        return self.distance_ppb + self.spread_ppb > CHEAT_FACTOR * TOLERANCE

    def measure(self, validator: Address) -> Measurement:
        """The result of a validator's re-execution; machines differ within the spread."""
        noise = int.from_bytes(sha256(self.root + validator)[:8], "big")
        shift = noise % (2 * self.spread_ppb + 1) - self.spread_ppb
        return Measurement(max(0, self.distance_ppb + shift), ExponentRule.KEPT)


def compute_initial_state(spec: TaskSpec) -> Hash32:
    """The root of the training state before the first round."""
    return keccak256(b"state" + spec.initial_weights)


def compute_next_state(state_root: Hash32, accepted: Sequence[tuple[int, Hash32]]) -> Hash32:
    """The root of the state after a round with these units and gradients, in any order."""
    if not accepted:
        return state_root
    parts = sorted(units.to_bytes(4, "big") + root for units, root in accepted)
    return keccak256(state_root + b"".join(parts))


def compute_model_root(state_root: Hash32) -> Hash32:
    """The root of the model in a training state."""
    return keccak256(b"model" + state_root)
