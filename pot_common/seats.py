"""A miner's seat in words, for commands and the miner's log (docs/spec/rpc.md, section 2)."""

from typing import Final

from pydantic import TypeAdapter

from chain.amounts import format_amount
from chain.contracts.addresses import TRAINING_TOKEN
from chain.hexadecimal import to_hex
from chain.primitives import Address
from pot_common.rpc_client import ChainClient
from pot_common.rpc_replies import HexAddress, Items, Reply, read_answer

MINUTE_SECONDS: Final = 60
"""Waits of two minutes or more are told in minutes, and those of two hours or more in hours."""

KINDS: Final = {
    "absence": "no commitment in",
    "miss": "no gradient that validators could get in",
    "fraud": "a gradient that validators found to be wrong in",
}
"""What a loss is for, by its kind."""


class LossReply(Reply):
    """What one attempt cost a seat, as `pot_getSeat` tells it."""

    attempt: int
    kind: str
    amount: int


class SeatReply(Reply):
    """A miner's seat in a task, as `pot_getSeat` tells it. Amounts are base units."""

    task: int
    token: HexAddress
    units: int
    bond: int
    bond_paid: int
    seat_bond: int
    seat_bond_paid: int
    misses: int
    miss_limit: int
    last_attempt: int | None
    """None while the chain has not ended the seat."""
    committed_attempt: int | None
    term_attempts: int
    ended: bool
    end_reason: str | None
    closed: bool
    owes_attempt: bool
    """Whether the seat takes part in the attempt in progress."""
    losses: Items[LossReply]
    locked_blocks: int | None
    """None while the seat goes on, or if its bonds are lost."""
    locked_seconds: int | None
    claimable: int

    @property
    def is_lost(self) -> bool:
        """Whether a fraud has taken both bonds."""
        return self.end_reason == "fraud"


_SEAT: Final[TypeAdapter[SeatReply | None]] = TypeAdapter(SeatReply | None)


def fetch_seat(client: ChainClient, task: int, miner: Address) -> SeatReply | None:
    """The seat of a miner; None if it has none, or has withdrawn its bonds.

    Raises:
        ClientError: The node does not answer.
    """
    return read_answer(_SEAT, client.call("pot_getSeat", task, to_hex(miner)))


def describe_token(seat: SeatReply) -> str:
    """The name of the token that a seat's task pays in."""
    return "POT" if seat.token == TRAINING_TOKEN else "of the task's token"


def describe_amounts(seat: SeatReply, amount: int, pot: int) -> str:
    """Parts of a seat's two bonds: one in the task's token, one in POT."""
    bond = f"{format_amount(amount)} {describe_token(seat)}"
    return f"{bond} of its bond and {format_amount(pot)} POT of its seat bond"


def describe_losses(seat: SeatReply) -> str:
    """What a seat was fined for and what it paid; empty if it paid nothing."""
    if not (seat.bond_paid or seat.seat_bond_paid):
        return ""
    reasons = [
        f"{words} attempt{'s' if len(found) > 1 else ''} {' and '.join(map(str, found))}"
        for kind, words in KINDS.items()
        if (found := [each.attempt for each in seat.losses if each.kind == kind])
    ]
    paid = describe_amounts(seat, seat.bond_paid, seat.seat_bond_paid)
    return f"it paid {paid} for {', '.join(reasons) or 'earlier misses'}"


def describe_lock(seat: SeatReply) -> str:
    """When the bonds can be taken back."""
    blocks, seconds = seat.locked_blocks, seat.locked_seconds
    if seat.is_lost:
        return "lost"
    if blocks is None or seconds is None:
        return "locked while the seat goes on"
    if blocks == 0:
        return "free"
    wait = f"{blocks} blocks (about {format_wait(seconds)})"
    return f"free {wait} after the attempt in progress" if seat.owes_attempt else f"free in {wait}"


def name_next_command(seat: SeatReply) -> str | None:
    """The next command on the way to the bonds; None if they are lost."""
    if seat.is_lost:
        return None
    return f"pot miner {'leave' if seat.locked_blocks is None else 'withdraw'} {seat.task}"


def describe_ended_seat(seat: SeatReply) -> str:
    """What became of a seat that has ended: what it lost, why, and what to do, in one line."""
    ended = f"the seat of this account in task {seat.task} has ended"
    match seat.end_reason:
        case "misses":
            head = f"{ended}, because it missed {seat.misses} attempts"
        case "fraud":
            head = f"{ended}, because of a fraud"
        case "displaced":
            head = f"{ended}, because another miner took its place"
        case "left":
            head = f"this account has left task {seat.task}"
        case _:
            head = ended
    left = describe_amounts(seat, seat.bond, seat.seat_bond)
    command = name_next_command(seat)
    parts = [
        head,
        describe_losses(seat),
        f"{left} are left",
        f"they are {describe_lock(seat)}{'' if command is None else f': {command}'}",
    ]
    return "; ".join(part for part in parts if part)


def format_wait(seconds: int) -> str:
    """A time in seconds, minutes or hours."""
    minutes = seconds // MINUTE_SECONDS
    if minutes < 2:
        return f"{seconds} s"
    hours = minutes // MINUTE_SECONDS
    return f"{minutes} min" if hours < 2 else f"{hours} h"
