"""The draws of a validator in a task that audits a sample (docs/spec/training.md, section 5).

A validator draws from a secret of its own, so no miner can know before the verdicts what will be
audited, and no validator can be kept from auditing. The chance r of a draw is such that among any
q votes, f of them by liars, the q - f honest ones draw a commitment with probability p at least.
r is irrational for most p, so it occurs only in ceil(r * total), which is exact in integers.
"""

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from chain.primitives import Hash32
from chain.training.task_spec import PPM

SECRET_BYTES: Final = 32
"""The length of an audit secret: as many random bits as a draw compares."""

DRAW_BITS: Final = 256
"""The bits of a value that decides a draw: r is rounded up to a multiple of 2**-256."""

DRAW_DOMAIN: Final = b"POT draws v1\x00\x00\x00\x00"
"""Separates the values that decide whether a commitment is drawn."""

STEP_DOMAIN: Final = b"POT steps v1\x00\x00\x00\x00"
"""Separates the values that decide which steps of a drawn commitment are named."""

SPARE_DRAWS: Final = 2
"""The draws that a vote may hold above twice their expected number: a small round must leave room
for chance, and a large one bounds the work that a liar can make for the others."""


@dataclass(frozen=True, slots=True)
class AuditRule:
    """How a task is audited by the validator set that was in force when an attempt opened.

    Attributes:
        audit_ppm: p, the least chance that a commitment is audited, in parts per million.
        local_steps: H, the steps of a miner in one round.
        audit_steps: k, the steps that a draw names; at most H.
        honest_votes: q - f, the fewest honest votes with which a phase can end.
    """

    audit_ppm: int
    local_steps: int
    audit_steps: int
    honest_votes: int


@dataclass(frozen=True, slots=True)
class Draw:
    """A commitment that is to be audited, and the steps of it that are to be re-executed."""

    index: int
    """The commitment, counted from 0 in the order of the chain."""
    steps: tuple[int, ...]
    """In ascending order, counted from 0; all H of them if draws name every step."""


def compute_expected_draws(total: int, rule: AuditRule) -> int:
    """The number of draws that a validator makes of `total` commitments on average, rounded up.

    This is ceil(r * total) with r = 1 - (1 - p)**(1 / (q - f)): what is left out is the largest u
    with (u / total)**(q - f) <= 1 - p.
    """
    assert 0 < rule.audit_ppm <= PPM
    limit = (PPM - rule.audit_ppm) * total**rule.honest_votes
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        if PPM * middle**rule.honest_votes <= limit:
            low = middle
        else:
            high = middle - 1
    return total - low


def compute_draw_limit(commitment_count: int, rule: AuditRule) -> int:
    """The most draws that a vote on so many commitments may hold; all at p = 1."""
    twice_expected = compute_expected_draws(2 * commitment_count, rule)
    return min(commitment_count, twice_expected + SPARE_DRAWS)


def compute_draws(
    secret: bytes, seed: Hash32, commitment_count: int, rule: AuditRule
) -> tuple[Draw, ...]:
    """The draws of a validator in an attempt, by ascending index.

    They are the same in every ballot and after a restart, so a validator that is asked again does
    not reveal further draws. If chance gives more than the limit, those with the smallest values
    stay.

    Args:
        secret: The validator's audit secret, SECRET_BYTES long.
        seed: The attempt's seed. It differs for every task, round, attempt and chain.
        commitment_count: The number of commitments of the attempt.
        rule: How the task is audited.
    """
    assert len(secret) == SECRET_BYTES
    threshold = compute_expected_draws(1 << DRAW_BITS, rule)
    values = [
        (_compute_value(secret, DRAW_DOMAIN, seed, index), index)
        for index in range(commitment_count)
    ]
    drawn = sorted(each for each in values if each[0] < threshold)
    kept = drawn[: compute_draw_limit(commitment_count, rule)]
    return tuple(
        Draw(index, _name_steps(secret, seed, index, rule))
        for index in sorted(index for _, index in kept)
    )


def _name_steps(secret: bytes, seed: Hash32, index: int, rule: AuditRule) -> tuple[int, ...]:
    """The k steps with the smallest values; every set of k steps is equally likely."""
    steps = range(rule.local_steps)
    if rule.audit_steps == rule.local_steps:
        return tuple(steps)
    ordered = sorted(steps, key=lambda step: _compute_value(secret, STEP_DOMAIN, seed, index, step))
    return tuple(sorted(ordered[: rule.audit_steps]))


def _compute_value(secret: bytes, domain: bytes, seed: Hash32, *numbers: int) -> int:
    """HMAC-SHA256 of domain, seed and big-endian u32 numbers, as an integer below 2**256."""
    message = domain + seed + b"".join(number.to_bytes(4, "big") for number in numbers)
    return int.from_bytes(hmac.digest(secret, message, "sha256"), "big")


def collect_draws(votes: Iterable[Sequence[Draw]]) -> tuple[Draw, ...]:
    """What is to be audited: the union of the draws of all votes, by ascending index.

    Args:
        votes: The draws of each timely vote in any ballot of the attempt so far: what was drawn
            once stays to be audited.
    """
    steps: dict[int, set[int]] = {}
    for draws in votes:
        for draw in draws:
            steps.setdefault(draw.index, set()).update(draw.steps)
    return tuple(Draw(index, tuple(sorted(named))) for index, named in sorted(steps.items()))
