"""Bringing a gradient to enough validators (docs/spec/rpc.md, sections 2 and 6).

A gradient that validators do not get in time costs its miner a fine, and the second one its seat.
So it is not enough that a node has taken it: that node may be a block behind, cut off, or keep it
to itself. The gradient is pushed to every node, and again after a while, until q validators hold
it: nodes name the holders, f of these may lie, and f + 1 others are to say *ok*.
One node may name holders that there are not. So whatever is said, a node that has not taken the
gradient itself is tried again until the ballot is over.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from chain.hexadecimal import to_hex
from chain.primitives import Address
from chain.training.attempt import AttemptId
from chain.training.encoding import compute_gradient_root
from chain.types.validator_set import compute_max_faulty, compute_quorum
from miner.client import FailoverClient
from miner.gradient_store import PreparedGradient
from miner.light import LightClient

RETRY_SECONDS: Final = 0.3
"""The pause between two tries. A node that is a block behind refuses a reveal as too early; it
catches up in about this."""

PUSH_AGAIN_SECONDS: Final = 2.0
"""After this time a gradient is pushed again to nodes that took it; each time twice as long."""

REST_WAIT_SECONDS: Final = 1.0
"""How long the miner waits for nodes that have not taken a gradient which enough validators are
said to hold: the next attempt may open meanwhile."""

LONGEST_REST_PAUSE_SECONDS: Final = 60.0
"""The longest pause between two tries at such nodes. It begins at RETRY_SECONDS, and doubles."""

MORE_SECONDS: Final = 20.0
"""How long q holders are waited for once f + 1 hold a gradient: some validators may be away."""

WARNING_TRIES: Final = 10
"""After so many tries in vain, the log says that validators lack the gradient."""

_log = structlog.get_logger("miner")


@dataclass(slots=True)
class _Upload:
    """How far one gradient has come in one ballot."""

    attempt_id: AttemptId
    ballot_number: int
    takers: frozenset[str] = frozenset()
    """The nodes that have taken it since it was last pushed to all."""
    holders: frozenset[Address] = frozenset()
    """The validators that hold it, as nodes say."""
    refusals: tuple[str, ...] = ()
    """What the log last said about nodes that do not take it."""
    tries: int = 0
    is_warned: bool = False
    """Whether the log has said that too few validators hold it."""
    pause_seconds: float = field(default_factory=lambda: PUSH_AGAIN_SECONDS)
    again_at: float = field(default_factory=lambda: time.monotonic() + PUSH_AGAIN_SECONDS)
    """When it is pushed to all nodes again, by the monotonic clock."""
    enough_at: float | None = None
    """When f + 1 validators were first said to hold it; None before."""
    taken: frozenset[str] = frozenset()
    """All nodes that have taken it."""
    rest_pause_seconds: float = RETRY_SECONDS
    rest_at: float = 0.0
    """When the nodes that have not taken it are tried again, by the monotonic clock."""


class RevealPusher:
    """Pushes the gradients of one miner to validators."""

    def __init__(self, client: FailoverClient, light: LightClient, miner: Address) -> None:
        self._client = client
        self._light = light
        self._miner = miner
        self._upload: _Upload | None = None

    def push(self, attempt_id: AttemptId, ballot_number: int, prepared: PreparedGradient) -> bool:
        """Push a gradient to the nodes, and return whether enough validators hold it.

        If not, the caller tries again; this waits a moment first.
        """
        upload = self._upload
        if upload is None or (upload.attempt_id, upload.ballot_number) != (
            attempt_id,
            ballot_number,
        ):
            upload = self._upload = _Upload(attempt_id, ballot_number)
        if upload.takers and time.monotonic() >= upload.again_at:
            upload.takers = frozenset()
            upload.pause_seconds *= 2
            upload.again_at = time.monotonic() + upload.pause_seconds
        query = self._build_query(attempt_id, prepared)
        takers, refusals = self._client.reveal(query, prepared.payload, upload.takers)
        upload.takers |= takers
        upload.taken |= takers
        upload.tries += 1
        validators = frozenset(self._light.validators)
        if upload.takers:
            held_by = self._client.reveal_holders(attempt_id, self._miner)
            upload.holders |= held_by & validators
        needed = compute_quorum(len(validators))
        if upload.enough_at is None and len(upload.holders) > compute_max_faulty(len(validators)):
            upload.enough_at = time.monotonic()
        is_over = (
            upload.enough_at is not None and time.monotonic() >= upload.enough_at + MORE_SECONDS
        )
        place = {"round": attempt_id.round_number, "attempt": attempt_id.attempt_number}
        if len(upload.holders) >= needed or is_over:
            _log.info("gradient revealed", **place, validators=len(upload.holders))
            upload.rest_at = time.monotonic() + upload.rest_pause_seconds
            return True
        _log_delay(upload, tuple(refusals), needed)
        time.sleep(RETRY_SECONDS)
        return False

    def push_rest(
        self,
        attempt_id: AttemptId,
        ballot_number: int,
        load: Callable[[], PreparedGradient | None],
    ) -> None:
        """Push a gradient that is held, as nodes say, to those that have not taken it themselves.

        Args:
            attempt_id: The attempt.
            ballot_number: The ballot.
            load: Loads the gradient.
        """
        upload = self._upload
        if (
            upload is None
            or (upload.attempt_id, upload.ballot_number) != (attempt_id, ballot_number)
            or time.monotonic() < upload.rest_at
            or not self._client.list_without(upload.taken)
        ):
            return
        prepared = load()
        if prepared is None:
            return
        query = self._build_query(attempt_id, prepared)
        taken, _ = self._client.reveal(query, prepared.payload, upload.taken, REST_WAIT_SECONDS)
        upload.taken |= taken
        upload.rest_pause_seconds = min(LONGEST_REST_PAUSE_SECONDS, 2 * upload.rest_pause_seconds)
        upload.rest_at = time.monotonic() + upload.rest_pause_seconds

    def _build_query(
        self, attempt_id: AttemptId, prepared: PreparedGradient
    ) -> dict[str, str | int]:
        """The query of `POST /v1/reveals` (docs/spec/rpc.md, section 6)."""
        return {
            "task": attempt_id.task_id,
            "round": attempt_id.round_number,
            "attempt": attempt_id.attempt_number,
            "miner": to_hex(self._miner),
            "units": prepared.units,
            "salt": to_hex(prepared.salt),
            "gradientRoot": to_hex(compute_gradient_root(prepared.payload)),
        }


def _log_delay(upload: _Upload, refusals: tuple[str, ...], needed: int) -> None:
    """Log why too few validators hold a gradient yet, each reason once.

    A node without a place for it is asked again at the time that it names.

    Args:
        upload: The upload.
        refusals: The answers of nodes that did not take the gradient now.
        needed: The validators that must hold it.
    """
    place = {
        "round": upload.attempt_id.round_number,
        "attempt": upload.attempt_id.attempt_number,
    }
    if refusals and refusals != upload.refusals:
        upload.refusals = refusals
        _log.warning(
            "nodes do not take the gradient; it is sent to them again",
            **place,
            takers=len(upload.takers),
            answers="; ".join(refusals),
        )
    if (
        upload.takers
        and upload.enough_at is None
        and upload.tries >= WARNING_TRIES
        and not upload.is_warned
    ):
        upload.is_warned = True
        _log.warning(
            "too few validators hold the gradient; without it they fine this miner. It is pushed "
            "again; name nodes of more operators with --rpc",
            **place,
            validators=len(upload.holders),
            needed=needed,
        )
