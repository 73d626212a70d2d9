"""Observes consensus for metrics, logs and diagnosis (docs/operator-guide.md).

The consensus host reports events to it; it has no influence on them. Durations use trio's monotonic
clock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from chain.consensus.effects import Effect, ReportEvidence, ReportRejection
from chain.consensus.inputs import Input, MessageReceived, TimerExpired
from chain.consensus.messages import Message, MessageKind, NewView, PrePrepare, Vote
from chain.consensus.pbft import ReplicaState
from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.validation import CLOCK_TOLERANCE_SECONDS
from node.clock import Clock
from node.metrics.registry import NodeMetrics

KEPT_NUMBERS: Final = 4
"""Final block numbers for which late COMMITs are still counted; later ones count as missed."""

CLOCK_READINGS: Final = 8
"""Readings of a validator's clock that are kept, one a proposal. Network delay can only make a
clock look slow, so the greatest reading is the most exact."""

_log = structlog.get_logger("node.consensus")


@dataclass(slots=True)
class ValidatorRecord:
    """What this node observed of one validator since its start."""

    heard_at: float | None = None
    """The time of its last consensus message, on trio's clock; None if there was none."""
    voted_number: BlockNumber | None = None
    """The highest number for which it sent a PREPARE or COMMIT; None if it sent none."""
    clock_readings: deque[float] = field(default_factory=lambda: deque(maxlen=CLOCK_READINGS))
    """Its clock minus ours in seconds, from each of its last proposals, exact to half a second."""

    @property
    def clock_offset_seconds(self) -> float | None:
        """Its clock minus ours in seconds; None if it is not known."""
        return max(self.clock_readings, default=None)


@dataclass(slots=True)
class _Steps:
    """The times of the steps of the number being decided."""

    started_at: float
    proposed_at: float | None = None
    prepared_at: float | None = None
    committed_at: float | None = None


@dataclass(slots=True)
class _Final:
    """A final number for which COMMITs still arrive."""

    number: BlockNumber
    validators: tuple[Address, ...]
    heard: set[Address] = field(default_factory=set)


class ConsensusWatch:
    """Observes one consensus host."""

    def __init__(self, metrics: NodeMetrics, clock: Clock, get_head: Callable[[], Header]) -> None:
        self.failed_views = 0
        """Number of views that ended without a block, in blocks finalized since the start."""
        self._metrics = metrics
        self._clock = clock
        self._get_head = get_head
        now = trio.current_time()
        # For a head from before the start, only its timestamp is known.
        self._head_final_at = now - max(0.0, clock.now_ms() / 1000 - get_head().timestamp)
        self._has_seen_head = False
        """Whether the head became final while this process was running."""
        self._validators: dict[Address, ValidatorRecord] = {}
        self._steps = _Steps(now)
        self._final: list[_Final] = []
        self._first_number: BlockNumber | None = None
        """The number that was being decided at the start."""
        self._proposers: set[Address] = set()
        """The validators that have proposed at this number."""

    def seconds_since_head(self) -> float:
        """Seconds since the head became final."""
        return trio.current_time() - self._head_final_at

    def get_record(self, validator: Address) -> ValidatorRecord:
        """The record of a validator; a new one if there was none."""
        return self._validators.get(validator) or ValidatorRecord()

    # Events that the host reports.

    def on_message(self, sender: Address, message: Message) -> None:
        """Record a verified message of the number being decided, from the sender's own stream."""
        record = self._validators.setdefault(sender, ValidatorRecord())
        record.heard_at = trio.current_time()
        match message:
            case Vote(kind=MessageKind.PREPARE | MessageKind.COMMIT, number=number):
                record.voted_number = number
            case PrePrepare():
                self._on_proposal(sender, record, message)
            case NewView(pre_prepare=pre_prepare):
                self._on_proposal(sender, record, pre_prepare)
            case _:
                pass

    def on_other_message(self, sender: Address, message: Message) -> None:
        """Record an unverified message of another number."""
        record = self._validators.setdefault(sender, ValidatorRecord())
        record.heard_at = trio.current_time()
        if isinstance(message, Vote) and message.number <= self._get_head().number:
            # A distant validator votes too, but its votes arrive after the number is decided.
            record.voted_number = BlockNumber(max(record.voted_number or 0, message.number))

    def _on_proposal(self, sender: Address, record: ValidatorRecord, proposal: PrePrepare) -> None:
        """Compare clocks. A timestamp that was raised to the parent's only bounds a slow clock."""
        header, parent = proposal.block.header, self._get_head()
        if header.number in (self._first_number, parent.number) or sender in self._proposers:
            return  # a resend of unknown age says nothing about its author's clock
        self._proposers.add(sender)
        if header.coinbase != sender:
            return
        # Add half a second, because the timestamp was cut to whole seconds.
        offset = header.timestamp + 0.5 - self._clock.now_ms() / 1000
        if header.timestamp > parent.timestamp or offset < -CLOCK_TOLERANCE_SECONDS:
            record.clock_readings.append(offset)

    def on_number(self, state: ReplicaState) -> None:
        """Record that the replica begins a number."""
        self._steps = _Steps(trio.current_time())
        if self._first_number is None:
            self._first_number = state.config.number
        self._proposers.clear()
        members = set(state.config.validators)
        for gone in [address for address in self._validators if address not in members]:
            del self._validators[gone]
            self._forget_labels(to_hex(gone))

    def _forget_labels(self, label: str) -> None:
        metrics = self._metrics
        for family in (
            metrics.missed_commits,
            metrics.late_commits,
            metrics.silent_seconds,
            metrics.clock_offset,
            metrics.equivocations,
        ):
            family.remove(label)

    def on_transition(
        self, event: Input, before: ReplicaState, after: ReplicaState, effects: Sequence[Effect]
    ) -> None:
        """Record a transition of the replica."""
        if after.config.number != before.config.number:
            self.on_number(after)
        else:
            self._observe_steps(after)
            if after.view > before.view:
                self._on_view(event, after)
        if isinstance(event, MessageReceived):
            self._count_late_commit(event, before)
        for effect in effects:
            match effect:
                case ReportEvidence(first):
                    author = after.config.validators[first.author]
                    self._metrics.equivocations.labels(to_hex(author)).inc()
                case ReportRejection(_, reason):
                    self._metrics.rejected_messages.labels(reason.value).inc()
                case _:
                    pass

    def _observe_steps(self, state: ReplicaState) -> None:
        """Measure each step of a block once, from the preceding step that happened here."""
        steps, now = self._steps, trio.current_time()
        observe = self._metrics.step_seconds
        if steps.proposed_at is None and state.proposal is not None:
            steps.proposed_at = now
            observe.labels("propose").observe(now - steps.started_at)
        if steps.prepared_at is None and state.own_commit is not None:
            steps.prepared_at = now
            observe.labels("prepare").observe(now - (steps.proposed_at or steps.started_at))
        if steps.committed_at is None and state.committed is not None:
            steps.committed_at = now
            if steps.proposed_at is not None:
                observe.labels("decide").observe(now - steps.proposed_at)
            if steps.prepared_at is not None:
                observe.labels("commit").observe(now - steps.prepared_at)

    def _on_view(self, event: Input, state: ReplicaState) -> None:
        match event:
            case TimerExpired():
                cause = "timeout"
            case MessageReceived(message=NewView()):
                cause = "new_view"
            case _:
                cause = "jump"
        self._metrics.view_changes.labels(cause).inc()
        _log.warning(
            "view entered",
            number=state.config.number,
            view=state.view,
            cause=cause,
            primary=state.config.validators[state.config.get_primary(state.view)],
        )

    def _count_late_commit(self, event: MessageReceived, state: ReplicaState) -> None:
        # The message's signature is not verified, but the message came on its author's own stream.
        message = event.message
        if (
            not isinstance(message, Vote)
            or message.kind is not MessageKind.COMMIT
            or message.author != event.sender
        ):
            return
        author = state.config.validators[event.sender]
        for final in self._final:
            if final.number == message.number and author not in final.heard:
                final.heard.add(author)
                self._metrics.late_commits.labels(to_hex(author)).inc()

    def on_finalized(
        self,
        block: Block,
        certificate: CommitCertificate,
        validators: tuple[Address, ...],
        *,
        is_synced: bool,
    ) -> None:
        """Record a final block, decided by our replica or fetched from peers (`is_synced`)."""
        now = trio.current_time()
        metrics, header = self._metrics, block.header
        seconds = self.seconds_since_head()
        self._head_final_at = now
        metrics.blocks.inc()
        metrics.transactions.inc(len(block.transactions))
        metrics.gas.inc(header.gas_used)
        metrics.failed_views.inc(certificate.view)
        self.failed_views += certificate.view
        metrics.block_transactions.observe(len(block.transactions))
        metrics.block_gas.observe(header.gas_used)
        log = _log.debug if is_synced else _log.info
        log(
            "block finalized",
            number=block.number,
            hash=block.hash,
            view=certificate.view,
            transactions=len(block.transactions),
            gas=header.gas_used,
            seconds=round(seconds, 3),
        )
        if is_synced:
            self._final.clear()
            return
        if self._has_seen_head:
            metrics.block_interval.observe(seconds)
        self._has_seen_head = True
        if self._steps.committed_at is not None:
            metrics.step_seconds.labels("finalize").observe(now - self._steps.committed_at)
        self._close_votes(block.number, certificate, validators)

    def _close_votes(
        self, number: BlockNumber, certificate: CommitCertificate, validators: tuple[Address, ...]
    ) -> None:
        """Count the validators without a COMMIT for the last block, one block later."""
        if self._final:
            last = self._final[-1]
            missed = [address for address in last.validators if address not in last.heard]
            for address in missed:
                self._metrics.missed_commits.labels(to_hex(address)).inc()
            self._metrics.missing_validators.set(len(missed))
        heard = {validators[author] for author, _ in certificate.signatures}
        self._final.append(_Final(number, validators, heard))
        del self._final[:-KEPT_NUMBERS]
