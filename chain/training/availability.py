"""The first vote of a ballot, if a task audits a sample (docs/spec/training.md, section 5).

A validator says what it holds of each gradient, and which commitments it draws. Draws are of all
commitments, held or not: a miner could else dodge an audit by hiding its gradient.

The vote has four bits for each commitment, like a verdict, and then the steps that each draw names.
"""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final

from chain.errors import InvalidMessage, RejectionReason
from chain.training.draws import AuditRule, Draw, compute_draw_limit

WORDS_PER_BYTE: Final = 2
"""Each commitment takes four bits; the first takes the less significant half of its byte."""

WORD_MASK: Final = 3
"""The bits of four that hold what the validator has of the gradient."""

DRAWN: Final = 4
"""The bit that is set if the validator draws the commitment; the bit above it is 0."""

STEP_BYTES: Final = 2
"""The length of a step's number: the header of a payload has as many bits for H."""


class Availability(IntEnum):
    """What a validator holds of one gradient, in a task that audits a sample."""

    HELD = 0
    """The complete and well-formed payload is held."""
    UNAVAILABLE = 1
    """Late in the phase, no well-formed payload that opens the commitment is held."""
    UNCHECKED = 2
    """All bytes are held, but the validator lacked the time to check their form."""


@dataclass(frozen=True, slots=True)
class AvailabilityVote:
    """A validator's first vote in a ballot."""

    words: tuple[Availability, ...]
    """One for each commitment, in the order of the chain."""
    draws: tuple[Draw, ...]
    """By ascending index."""


def encode_availability(vote: AvailabilityVote, rule: AuditRule) -> bytes:
    """The bytes of a vote: the words of all commitments, and the named steps of each draw.

    If draws name all H steps, which includes H = 1, no steps follow.
    """
    data = bytearray(-(-len(vote.words) // WORDS_PER_BYTE))
    drawn = {draw.index for draw in vote.draws}
    for index, word in enumerate(vote.words):
        value = word | (DRAWN if index in drawn else 0)
        data[index // WORDS_PER_BYTE] |= value << (4 * (index % WORDS_PER_BYTE))
    if rule.audit_steps < rule.local_steps:
        for draw in vote.draws:
            for step in draw.steps:
                data += step.to_bytes(STEP_BYTES, "big")
    return bytes(data)


def decode_availability(data: bytes, commitment_count: int, rule: AuditRule) -> AvailabilityVote:
    """The vote on `commitment_count` commitments.

    Raises:
        InvalidMessage: MALFORMED: the length fits neither the count nor the draws, a word is
            unknown, the padding is not 0, there are more draws than allowed, or the steps of a draw
            are not in ascending order and below H.
    """
    words_bytes = -(-commitment_count // WORDS_PER_BYTE)
    if len(data) < words_bytes:
        raise _malformed(f"{len(data)} bytes for {commitment_count} words")
    values = [
        data[place // WORDS_PER_BYTE] >> (4 * (place % WORDS_PER_BYTE)) & 15
        for place in range(words_bytes * WORDS_PER_BYTE)
    ]
    if any(values[commitment_count:]):
        raise _malformed("the padding of the words is not 0")
    del values[commitment_count:]
    if any(value & ~DRAWN > Availability.UNCHECKED for value in values):
        raise _malformed("a word is unknown")
    drawn = [index for index, value in enumerate(values) if value & DRAWN]
    limit = compute_draw_limit(commitment_count, rule)
    if len(drawn) > limit:
        raise _malformed(f"{len(drawn)} draws, limit {limit}")
    named = _decode_steps(data[words_bytes:], len(drawn), rule)
    return AvailabilityVote(
        words=tuple(Availability(value & WORD_MASK) for value in values),
        draws=tuple(Draw(index, steps) for index, steps in zip(drawn, named, strict=True)),
    )


def _decode_steps(data: bytes, draw_count: int, rule: AuditRule) -> list[tuple[int, ...]]:
    """The steps of each draw."""
    if rule.audit_steps == rule.local_steps:
        if data:
            raise _malformed(f"{len(data)} bytes after the words of a vote that names no steps")
        return [tuple(range(rule.local_steps))] * draw_count
    size = rule.audit_steps * STEP_BYTES
    if len(data) != draw_count * size:
        raise _malformed(f"{len(data)} bytes for the steps of {draw_count} draws")
    found = []
    for start in range(0, len(data), size):
        steps = tuple(
            int.from_bytes(data[at : at + STEP_BYTES], "big")
            for at in range(start, start + size, STEP_BYTES)
        )
        if any(later <= step for step, later in pairwise(steps)):
            raise _malformed(f"the steps {steps} are not in ascending order")
        if steps[-1] >= rule.local_steps:
            raise _malformed(f"step {steps[-1]} of {rule.local_steps}")
        found.append(steps)
    return found


def _malformed(detail: str) -> InvalidMessage:
    return InvalidMessage(RejectionReason.MALFORMED, detail)
