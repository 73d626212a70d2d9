"""The signer guard: what a validator's key may still sign (docs/spec/consensus.md, section 8).

The guard is stored beside the key and not with the write-ahead log, so it survives when the data
directory is lost or restored from an old backup.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chain import codec
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import ZERO_HASH, BlockNumber, Hash32, View

LOST_GUARD_MARGIN: Final = 2
"""A validator that lost its guard signs nothing up to the certified head + 2. The lost guard may
have voted at head + 1, and the head may have grown by one while we asked for it."""

GUARD_LIMIT_BYTES: Final = 128
"""Three u64, a step and two hashes with their prefixes take at most 100 bytes."""


class Step(IntEnum):
    """The votes of one view, in the only order in which they may be cast."""

    VIEW_CHANGE = 1
    """Entering the view (no vote of an earlier view follows)."""
    PREPARE = 2
    """Accepting a proposal. The primary takes this step when it proposes."""
    COMMIT = 3


@dataclass(frozen=True, slots=True)
class GuardState:
    """The latest vote that was cast; as an intent, the vote that is about to be cast.

    The message, the log record and the guard file of a vote are all made from one such value, so
    they cannot disagree.
    """

    number: BlockNumber
    view: View
    step: Step
    digest: Hash32
    """The voted block's hash, or the payload of a VIEW-CHANGE."""
    prepared: tuple[View, Hash32] | None
    """The lock: view and digest of the highest prepared certificate of this number, after the
    vote. None: nothing was prepared."""

    @property
    def position(self) -> tuple[BlockNumber, View, Step]:
        """The vote's place in the order in which a validator casts its votes."""
        return self.number, self.view, self.step

    def __str__(self) -> str:
        lock = "" if self.prepared is None else f" locked {self.prepared[0]}"
        return f"{self.step.name} {self.number}/{self.view}{lock}"

    def encode(self) -> bytes:
        """RLP [number, view, step, digest, [] or [prepared view, prepared digest]]."""
        prepared: list[codec.Encodable] = [] if self.prepared is None else list(self.prepared)
        return codec.encode([self.number, self.view, int(self.step), self.digest, prepared])


def permits(guard: GuardState | None, intent: GuardState) -> bool:
    """Whether `intent` may be signed after `guard` (rules S2, S3 and S4).

    A vote must have a later position than the guard, or be exactly the guard's vote again. Within
    one number the prepared view never decreases; within one view PREPARE and COMMIT must name the
    same block.
    """
    if guard is None or intent.number > guard.number:
        return True
    if intent.position == guard.position:
        return intent == guard
    if intent.position < guard.position:
        return False
    if _lock_view(intent) < _lock_view(guard):
        return False
    is_same_view = intent.view == guard.view and guard.step is Step.PREPARE
    return intent.digest == guard.digest if is_same_view else True


def compute_first_signable(
    guard: GuardState | None,
    latest_logged: GuardState | None,
    head: BlockNumber,
    certified_head: BlockNumber,
) -> BlockNumber:
    """The lowest number that a starting node may vote on (rule S8).

    Args:
        guard: The guard file's content; None if there is no file.
        latest_logged: The latest vote that the log holds; None if it holds none.
        head: The number of our own final head.
        certified_head: The highest certified head among a quorum of validators, ours included.
    """
    if guard is None:
        if certified_head == 0 and latest_logged is None:
            return BlockNumber(1)
        return BlockNumber(certified_head + LOST_GUARD_MARGIN + 1)
    # The log is truncated up to the head. Above the head it must reach as far as the guard does.
    is_lost = guard.number > head and (
        latest_logged is None
        or latest_logged.position < guard.position
        or (latest_logged.position == guard.position and latest_logged != guard)
    )
    return BlockNumber(guard.number + 1) if is_lost else BlockNumber(head + 1)


def build_floor_guard(first_signable: BlockNumber) -> GuardState:
    """The guard that a node without a guard file writes at once, before it waits or votes.

    From then on a missing guard file always means that it was lost. Otherwise a crash between the
    first record and the first guard would look like a loss, and every restart would wait again.
    """
    return GuardState(BlockNumber(first_signable - 1), View(0), Step.VIEW_CHANGE, ZERO_HASH, None)


def decode_guard(data: bytes) -> GuardState:
    """The guard that `data` encodes.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    item = codec.decode(data, limit_bytes=GUARD_LIMIT_BYTES)
    number, view, step_item, digest, prepared_item = codec.as_list(item, length=5)
    prepared: tuple[View, Hash32] | None = None
    if prepared_item != []:
        prepared_view, prepared_digest = codec.as_list(prepared_item, length=2)
        prepared = (
            View(codec.as_uint(prepared_view, bits=64)),
            Hash32(codec.as_bytes(prepared_digest, length=32)),
        )
    step = codec.as_uint(step_item, bits=8)
    if step not in [member.value for member in Step]:
        raise RejectedInputError(RejectionReason.MALFORMED, f"step {step}")
    return GuardState(
        number=BlockNumber(codec.as_uint(number, bits=64)),
        view=View(codec.as_uint(view, bits=64)),
        step=Step(step),
        digest=Hash32(codec.as_bytes(digest, length=32)),
        prepared=prepared,
    )


def _lock_view(state: GuardState) -> int:
    return -1 if state.prepared is None else state.prepared[0]
