"""Verdicts on gradients (docs/spec/training.md, section 5); decisions.py combines them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import chain
from typing import Final

from chain.errors import InvalidMessage, RejectionReason

VERDICTS_PER_BYTE: Final = 2
"""Each verdict takes four bits; the first takes the less significant half of its byte."""

CHEAT_FACTOR: Final = 10
"""Ten times the tolerance proves a cheat: honest machines stay far below the tolerance."""


class Verdict(IntEnum):
    """A validator's judgement of one gradient, as a vote holds it."""

    OK = 0
    """The gradient was re-executed and is within the tolerance."""
    BAD = 1
    """The gradient breaks the tolerance or the exponent rule; it is not paid."""
    CHEAT = 2
    """The gradient breaks ten times one of them; it costs the bond if enough validators agree."""
    MISSING = 3
    """Late in the phase, the validator holds no well-formed payload that opens the commitment."""
    UNCHECKED = 4
    """Late in the phase, the validator holds the payload, but has not checked it. This never counts
    against the miner."""


class ExponentRule(StrEnum):
    """How the exponents of a payload compare with those of the re-executed gradient."""

    KEPT = "kept"
    BROKEN = "broken"
    BROKEN_TENFOLD = "broken_tenfold"
    """Broken even with ten times the slack."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of re-executing a gradient.

    Attributes:
        distance_ppb: The cell distance E in parts per billion, rounded up.
        exponents: Whether the exponent rule is kept.
        noise_ppb: The task's numerical noise for these samples; 0 if it was not measured, because
            nothing depends on it.
    """

    distance_ppb: int
    exponents: ExponentRule
    noise_ppb: int = 0


def compute_verdict(measurement: Measurement, tolerance_ppb: int) -> Verdict:
    """The verdict on a re-executed gradient.

    It is *cheat* only if numerical noise cannot explain the difference: the miner loses its bond.
    """
    distance, noise = measurement.distance_ppb, measurement.noise_ppb
    is_broken = measurement.exponents is ExponentRule.BROKEN_TENFOLD
    is_quiet = CHEAT_FACTOR * noise <= tolerance_ppb
    if distance > CHEAT_FACTOR * (tolerance_ppb + noise) or (is_broken and is_quiet):
        return Verdict.CHEAT
    if distance > tolerance_ppb or measurement.exponents is not ExponentRule.KEPT:
        return Verdict.BAD
    return Verdict.OK


_PAIRS: Final = {second << 4 | first: (first, second) for first in Verdict for second in Verdict}
"""The two verdicts of each byte. A vote on 1 024 commitments is decoded for each of 100 validators
where an attempt ends, so a verdict must cost no arithmetic."""

_KNOWN_BYTES: Final = frozenset(_PAIRS)


def encode_verdicts(verdicts: Sequence[Verdict]) -> bytes:
    """The bytes of a vote: four bits a verdict, the first in the low half of a byte, padding 0."""
    data = bytearray(-(-len(verdicts) // VERDICTS_PER_BYTE))
    for i, verdict in enumerate(verdicts):
        data[i // VERDICTS_PER_BYTE] |= verdict << (4 * (i % VERDICTS_PER_BYTE))
    return bytes(data)


def decode_verdicts(data: bytes, commitment_count: int) -> tuple[Verdict, ...]:
    """The verdicts of a vote on `commitment_count` commitments.

    Raises:
        InvalidMessage: MALFORMED: the length does not fit the count, a verdict is unknown, or the
            padding is not 0.
    """
    if len(data) != -(-commitment_count // VERDICTS_PER_BYTE):
        raise InvalidMessage(
            RejectionReason.MALFORMED, f"{len(data)} bytes for {commitment_count} verdicts"
        )
    if not _KNOWN_BYTES.issuperset(data):
        raise InvalidMessage(RejectionReason.MALFORMED, f"a verdict of {data.hex()} is unknown")
    verdicts = tuple(chain.from_iterable(map(_PAIRS.__getitem__, data)))
    if verdicts[commitment_count:] not in ((), (Verdict.OK,)):
        raise InvalidMessage(RejectionReason.MALFORMED, "the padding of the verdicts is not 0")
    return verdicts[:commitment_count]


def list_by_commitment(
    votes: Sequence[Sequence[Verdict]], commitment_count: int
) -> tuple[tuple[Verdict, ...], ...]:
    """The verdicts on each commitment, in the order of the votes."""
    return tuple(zip(*votes, strict=True)) if votes else ((),) * commitment_count
