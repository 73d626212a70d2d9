"""What became of a miner's gradients, in plain sentences for its log.

The sentences come from receipts of nodes, which are not proven: they explain, and decide nothing.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog

from chain.amounts import format_amount
from chain.contracts.miner_seats import MAX_MISSES, MISS_WINDOW
from chain.primitives import Address
from chain.training.attempt import AttemptId
from miner.client import FailoverClient
from miner.replies import ReceiptReply
from pot_common import seats
from pot_common.rpc_replies import ClientError
from pot_common.seats import fetch_seat

REASONS_LIMIT: Final = 3
"""The most different reasons in one sentence."""

_log = structlog.get_logger("miner")


class OutOfTaskError(ClientError):
    """The account takes part in a task no more: it lost its bond, or has left."""

    def __init__(self, message: str, *, has_left: bool = False, is_displaced: bool = False) -> None:
        super().__init__(message)
        self.has_left = has_left
        """Whether the seat ended without a fault of the miner: it left, or was displaced."""
        self.is_displaced = is_displaced
        """Whether a newcomer ended the seat, so that the miner may take it again."""


class NoRoomError(ClientError):
    """Other miners do all units of a task, and no seat can be displaced."""


class OutcomeLog:
    """Logs what became of each committed gradient, once its round is settled."""

    def __init__(self, client: FailoverClient, miner: Address) -> None:
        self._client = client
        self._miner = miner
        self._awaited: AttemptId | None = None
        """The last attempt in which this miner committed, until its outcome is logged."""
        self.last: AttemptId | None = None
        """The last attempt in which this miner committed."""
        self._earned = 0
        """The pay for the accepted gradients of this run."""

    def expect(self, attempt_id: AttemptId) -> None:
        """Log the outcome of the commitment to this attempt when it is known."""
        self._awaited = self.last = attempt_id

    def report(self, now: AttemptId | None) -> None:
        """Log the outcome of the awaited attempt if the task has come to a later one.

        Args:
            now: The attempt in progress; None if the task is closed.
        """
        awaited = self._awaited
        if awaited is None or (now is not None and awaited >= now):
            return
        self._awaited = None
        place = {"round": awaited.round_number, "attempt": awaited.attempt_number}
        if now is not None and awaited.round_number == now.round_number:
            _log.warning(
                "gradient not paid: the attempt is void, and the round begins again", **place
            )
            return
        receipts = self.fetch(awaited)
        settled = next((each for each in receipts if each.accepted is not None), None)
        if settled is None:
            return
        if settled.accepted:
            self._earned += settled.pay
            _log.info(
                "gradient accepted",
                **place,
                pay=format_amount(settled.pay),
                earned=format_amount(self._earned),
            )
        else:
            reason = f"{settled.reason} ({describe_verdicts(receipts)})"
            _log.warning("gradient not paid", **place, reason=reason)

    def fetch(self, attempt_id: AttemptId) -> list[ReceiptReply]:
        """The receipts of the nodes for a round; each node knows its own validator's reason."""
        return self._client.receipts(attempt_id.task_id, attempt_id.round_number, self._miner)


def describe_verdicts(receipts: Sequence[ReceiptReply]) -> str:
    """What the validators said of a gradient, and the reasons that are known."""
    words = {each.validator: each.verdict for receipt in receipts for each in receipt.verdicts}
    reasons = {
        each.validator: each.reason
        for receipt in receipts
        for each in receipt.verdicts
        if each.reason is not None
    }
    if not words:
        return "no verdict is known"
    counted = ", ".join(
        f"{count} of {len(words)} validators said {word}"
        for word, count in sorted(Counter(words.values()).items())
    )
    known = sorted(set(reasons.values()))[:REASONS_LIMIT]
    return "; ".join([counted, *known])


def has_recent_miss(client: FailoverClient, task_id: int, miner: Address, ordinal: int) -> bool:
    """Whether a miss after an attempt would burn the whole seat bond, because of an earlier miss.

    Args:
        client: The nodes, one of which tells when the seat missed. If none does, it may be so.
        task_id: The task.
        miner: The account.
        ordinal: The attempt, counted over all rounds of the task.
    """
    try:
        seat = fetch_seat(client, task_id, miner)
    except ClientError:
        return True
    missed = [] if seat is None else [each.attempt for each in seat.losses if each.kind != "fraud"]
    return not missed or ordinal - max(missed) < MISS_WINDOW


def describe_ended_seat(
    client: FailoverClient, task_id: int, miner: Address, miss_count: int
) -> str:
    """What became of a seat that ended without a fraud: its losses, their causes, and what to do.

    Args:
        client: The nodes, one of which tells what the seat lost.
        task_id: The task.
        miner: The account.
        miss_count: The misses that are proven.
    """
    try:
        seat = fetch_seat(client, task_id, miner)
    except ClientError:
        seat = None
    told = f"the seat of this account in task {task_id} has ended; see pot miner status {task_id}"
    if seat is not None:
        told = seats.describe_ended_seat(seat)
    if miss_count < MAX_MISSES:
        return told
    return (
        f"{told}. Before it starts again, give the miner a faster machine, fewer --units, or more "
        "nodes with --rpc; before you stop it, leave"
    )


def describe_lost_bond(
    attempt_id: AttemptId | None, task_id: int, receipts: Sequence[ReceiptReply]
) -> str:
    """What was lost, why, and what to do."""
    lost = f"task {task_id}: the bonds of this account are lost"
    again = "start the miner again, which pays new bonds"
    if attempt_id is None or not any(receipt.verdicts for receipt in receipts):
        return (
            f"{lost}, because of a gradient of an earlier round, which pot_getReceipt explains. To "
            f"go on, {again}"
        )
    cure = "check this machine, or compute on another --device"
    number = attempt_id.round_number + 1
    return (
        f"{lost}, because of its gradient of round {number}, counted from 1: "
        f"{describe_verdicts(receipts)}. To go on, {cure}; {again}"
    )
