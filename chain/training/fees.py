"""The price of the validators' time and disk (docs/spec/contracts.md, section 4.1).

The contract decides; this is the same arithmetic for nodes, which promise their workers' time to
tasks and say what it costs.
"""

from typing import Final

from chain.contracts.gradient_ledger import MAX_BALLOTS
from chain.contracts.task_registry import Purchase
from chain.training.task_spec import TaskSpec

PROMISED_SHARE: Final = 2
"""All tasks together are promised the workers' time divided by this. The rest is for what arrives
late, and for opening tasks: at most half of a piece of work goes to that."""

KEPT_SECONDS: Final = 86_400
"""A fee pays for a task's disk until so long after the task is closed. Nodes keep its content as
long; what they keep longer gives way to other tasks."""

MICROSECONDS: Final = 1_000_000
"""The microseconds of a second."""


def compute_promised_ppm(spec: TaskSpec) -> int:
    """The part of one worker's time that every validator promises to a task while it is open.

    In millionths, so more than 1 000 000 if the task takes several workers. It follows from the
    declared times: all checks of a round in the verdict phase, or an evaluation in the result
    phase, whichever takes the larger part of its phase.
    """
    declared, phases = spec.resources, spec.phases
    checks = 1_000 * spec.reward.max_units * declared.unit_milliseconds
    evaluation = 1_000 * declared.evaluation_milliseconds
    return max(-(-checks // phases.verdict_seconds), -(-evaluation // phases.result_seconds))


def compute_promised_time(spec: TaskSpec, lifetime_seconds: int) -> int:
    """The worker's time that a validator promises to a task for a lifetime, in microseconds."""
    return compute_promised_ppm(spec) * lifetime_seconds


def compute_attempts_time(spec: TaskSpec, attempts: int) -> int:
    """The worker's time that attempts may use at a validator, in microseconds.

    Gradients are checked once in an attempt, but each ballot may end in another model to evaluate.
    """
    declared = spec.resources
    checks = spec.reward.max_units * declared.unit_milliseconds
    return 1_000 * attempts * (checks + MAX_BALLOTS * declared.evaluation_milliseconds)


def compute_computation_fee(
    spec: TaskSpec, purchase: Purchase, *, validator_count: int, second_price: int
) -> int:
    """The part of a fee for the validators' time, used or promised, whichever is more.

    Buying in two parts never costs less than buying all at once, because the larger of two sums is
    at most the sum of the larger ones.

    Args:
        spec: The task's specification.
        purchase: The lifetime and the attempts.
        validator_count: The number of validators.
        second_price: The price of a second of one validator's worker, in base units of POT.
    """
    microseconds = max(
        compute_promised_time(spec, purchase.lifetime_seconds),
        compute_attempts_time(spec, purchase.attempts),
    )
    return compute_time_fee(
        microseconds, validator_count=validator_count, second_price=second_price
    )


def compute_time_fee(microseconds: int, *, validator_count: int, second_price: int) -> int:
    """The price of that much time of one worker of each validator, rounded up."""
    return -(-validator_count * second_price * microseconds // MICROSECONDS)
