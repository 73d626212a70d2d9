"""The void attempts of a round, found in the events of the ledger (docs/spec/rpc.md, section 2).

No row holds them: a void attempt changes nothing of the training. Yet it costs the bonds of miners
that were absent, so a miner must be able to see it.
"""

from dataclasses import dataclass, replace
from typing import Final

from chain.contracts.addresses import GRADIENT_LEDGER
from chain.contracts.gradient_ledger import (
    MAX_BALLOTS,
    AttemptOpened,
    AttemptPaid,
    AttemptVoided,
    BallotFailed,
    GradientCommitted,
)
from chain.primitives import Address, BlockNumber, TaskId
from node.rpc.chain_view import ChainView
from node.rpc.logs import find_events

ATTEMPTS_LIMIT: Final = 32
"""The most void attempts in an answer, the latest ones: each may name a thousand miners."""


@dataclass(frozen=True, slots=True)
class VoidAttempt:
    """An attempt that ended without settling its round."""

    attempt: int
    ordinal: int
    open_block: BlockNumber
    end_block: BlockNumber | None = None
    """None while it is in progress."""
    commitments: tuple[tuple[Address, int], ...] = ()
    """The miners that committed, with their units."""
    failed_ballots: int = 0
    is_paid: bool = False
    """Whether it paid accepted work, although no model came of it."""

    @property
    def reason(self) -> str:
        """Why it is void."""
        if not self.commitments:
            return "no miner committed"
        if self.is_paid:
            return "accepted work was paid, but validators agreed on no model in time"
        if self.failed_ballots == MAX_BALLOTS:
            return "three ballots in a row had no result"
        return "validators accepted no gradient"


def find_void_attempts(
    chain: ChainView, task: TaskId, round_number: int, first: BlockNumber, last: BlockNumber
) -> tuple[VoidAttempt, ...]:
    """The void attempts of a round between two blocks, in order.

    At most the last 10 000 of these blocks are searched. It decodes blocks, so call it in a thread.
    """
    topics = tuple((number.to_bytes(32, "big"),) for number in (task, round_number))
    found: list[VoidAttempt] = []
    current: VoidAttempt | None = None
    for number, event in find_events(chain, GRADIENT_LEDGER, topics, first, last):
        if isinstance(event, AttemptOpened) and _is_of(event, task, round_number):
            current = VoidAttempt(event.attempt, event.ordinal, number)
        elif current is not None:
            current, ended = _apply(current, event, task, round_number, number)
            found += [] if ended is None else [ended]
    return tuple(found[-ATTEMPTS_LIMIT:])


def _apply(
    attempt: VoidAttempt, event: object, task: TaskId, round_number: int, number: BlockNumber
) -> tuple[VoidAttempt | None, VoidAttempt | None]:
    """The attempt in progress after an event, and the one that it made void."""
    match event:
        case GradientCommitted() if _is_of(event, task, round_number):
            commitments = (*attempt.commitments, (event.miner, event.units))
            return replace(attempt, commitments=commitments), None
        case BallotFailed() if _is_of(event, task, round_number):
            return replace(attempt, failed_ballots=attempt.failed_ballots + 1), None
        case AttemptPaid() if _is_of(event, task, round_number):
            return replace(attempt, is_paid=True), None
        case AttemptVoided() if _is_of(event, task, round_number):
            return None, replace(attempt, end_block=number)
        case _:
            return attempt, None


def _is_of(
    event: AttemptOpened | GradientCommitted | BallotFailed | AttemptPaid | AttemptVoided,
    task: TaskId,
    round_number: int,
) -> bool:
    return (event.task_id, event.round) == (task, round_number)
