"""Verdicts on gradients, and the decisions they lead to (docs/spec/training.md, section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from chain.errors import InvalidMessage, RejectionReason

VERDICTS_PER_BYTE: Final = 4
"""Each verdict takes two bits; the first takes the least significant ones."""

CHEAT_FACTOR: Final = 10
"""Ten times the tolerance proves a cheat: honest machines stay far below the tolerance."""


class Verdict(IntEnum):
    """A validator's judgement of one gradient, as a bitmap holds it."""

    OK = 0
    """The gradient is held and, if it was re-executed, within the tolerance."""
    BAD = 1
    """The gradient breaks the tolerance or the exponent rule; it is not paid."""
    CHEAT = 2
    """The gradient breaks ten times one of them; its miner is slashed if a quorum says so."""
    UNAVAILABLE = 3
    """The validator holds no well-formed blob that opens the commitment."""


class ExponentRule(StrEnum):
    """How the exponents of a payload compare with those of the re-executed gradient."""

    KEPT = "kept"
    BROKEN = "broken"
    BROKEN_TENFOLD = "broken_tenfold"
    """Broken even with ten times the slack."""


class Outcome(StrEnum):
    """The fate of a gradient."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of re-executing a gradient.

    Attributes:
        distance_ppb: The cell distance E in parts per billion, rounded up.
        exponents: Whether the exponent rule is kept.
    """

    distance_ppb: int
    exponents: ExponentRule


@dataclass(frozen=True, slots=True)
class Decision:
    """The consequences of a ballot's verdicts for one gradient."""

    outcome: Outcome
    is_slashed: bool
    """Whether a quorum said cheat."""
    is_fined: bool
    """Whether a quorum said unavailable; the miner then loses one round's pay."""


def compute_verdict(measurement: Measurement, tolerance_ppb: int) -> Verdict:
    """The verdict on a re-executed gradient."""
    distance = measurement.distance_ppb
    if (
        distance > CHEAT_FACTOR * tolerance_ppb
        or measurement.exponents is ExponentRule.BROKEN_TENFOLD
    ):
        return Verdict.CHEAT
    if distance > tolerance_ppb or measurement.exponents is ExponentRule.BROKEN:
        return Verdict.BAD
    return Verdict.OK


def decide(verdicts: Sequence[Verdict], max_faulty: int, quorum: int) -> Decision:
    """The decision on one gradient from one verdict of each validator that voted in time."""
    ok = verdicts.count(Verdict.OK)
    cheat = verdicts.count(Verdict.CHEAT)
    against = cheat + verdicts.count(Verdict.BAD)
    unavailable = verdicts.count(Verdict.UNAVAILABLE)
    if against > max_faulty:
        outcome = Outcome.REJECTED
    elif ok > max_faulty:
        outcome = Outcome.ACCEPTED
    else:
        outcome = Outcome.UNAVAILABLE
    return Decision(outcome, is_slashed=cheat >= quorum, is_fined=unavailable >= quorum)


def encode_verdicts(verdicts: Sequence[Verdict]) -> bytes:
    """The bitmap: verdict i in bits 2i and 2i + 1, least significant first, padding 0."""
    bitmap = bytearray(-(-len(verdicts) // VERDICTS_PER_BYTE))
    for i, verdict in enumerate(verdicts):
        bitmap[i // VERDICTS_PER_BYTE] |= verdict << (2 * (i % VERDICTS_PER_BYTE))
    return bytes(bitmap)


def decode_verdicts(bitmap: bytes, commitment_count: int) -> tuple[Verdict, ...]:
    """The verdicts of a bitmap over `commitment_count` commitments.

    Raises:
        InvalidMessage: MALFORMED: the length does not fit the count, or the padding is not 0.
    """
    if len(bitmap) != -(-commitment_count // VERDICTS_PER_BYTE):
        raise InvalidMessage(
            RejectionReason.MALFORMED, f"{len(bitmap)} bytes for {commitment_count} verdicts"
        )
    verdicts = tuple(
        Verdict(bitmap[i // VERDICTS_PER_BYTE] >> (2 * (i % VERDICTS_PER_BYTE)) & 3)
        for i in range(commitment_count)
    )
    if encode_verdicts(verdicts) != bitmap:
        raise InvalidMessage(RejectionReason.MALFORMED, "the padding of the verdicts is not 0")
    return verdicts
