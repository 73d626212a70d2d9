"""What consensus did and who took part, for metrics, logs, diagnosis (docs/operator-guide.md).

The host tells; nothing here decides anything. Durations are trio's, which nobody sets.
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
from node.clock import Clock
from node.metrics.registry import NodeMetrics

KEPT_NUMBERS: Final = 4
"""Final numbers whose COMMITs are still counted; what is later is missed for good."""

CLOCK_READINGS: Final = 8
"""Proposals whose times are compared with ours: delay only makes a clock look later than it is, so
the greatest of them is the nearest."""

_log = structlog.get_logger("node.consensus")


@dataclass(slots=True)
class ValidatorRecord:
    """What was heard of one validator since this node started."""

    heard_at: float | None = None
    """Its last consensus message, on trio's clock; None: never."""
    voted_number: BlockNumber | None = None
    """The highest number for which it sent a PREPARE or COMMIT; None: none."""
    clock_readings: deque[float] = field(default_factory=lambda: deque(maxlen=CLOCK_READINGS))
    """Its clock minus ours in seconds, by each of its last proposals, to half a second."""

    @property
    def clock_offset_seconds(self) -> float | None:
        """Its clock minus ours; None: not known."""
        return max(self.clock_readings, default=None)


@dataclass(slots=True)
class _Steps:
    """When the steps of the number being decided happened."""

    started_at: float
    proposed_at: float | None = None
    prepared_at: float | None = None
    committed_at: float | None = None


@dataclass(slots=True)
class _Final:
    """A final number whose COMMITs still come in."""

    number: BlockNumber
    validators: tuple[Address, ...]
    heard: set[Address] = field(default_factory=set)


class ConsensusWatch:
    """Listens to one consensus host."""

    def __init__(self, metrics: NodeMetrics, clock: Clock, get_head: Callable[[], Header]) -> None:
        self.failed_views = 0
        """Views that ended without a block, of the numbers finalized since the start."""
        self._metrics = metrics
        self._clock = clock
        self._get_head = get_head
        now = trio.current_time()
        # Of a head from before the start only its own time is known.
        self._head_final_at = now - max(0.0, clock.now_ms() / 1000 - get_head().timestamp)
        self._has_seen_head = False
        """Whether the head became final while we looked."""
        self._validators: dict[Address, ValidatorRecord] = {}
        self._steps = _Steps(now)
        self._final: list[_Final] = []
        self._first_number: BlockNumber | None = None
        """The one that was being decided at the start."""
        self._proposers: set[Address] = set()
        """Who proposed at this number already."""

    def seconds_since_head(self) -> float:
        """How long ago the head became final."""
        return trio.current_time() - self._head_final_at

    def get_record(self, validator: Address) -> ValidatorRecord:
        """What was heard of a validator."""
        return self._validators.get(validator) or ValidatorRecord()

    # What the host tells.

    def on_message(self, sender: Address, message: Message) -> None:
        """A message of the number being decided came over the sender's own stream, verified."""
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
        """A message of another number came from `sender`; nothing in it is verified."""
        record = self._validators.setdefault(sender, ValidatorRecord())
        record.heard_at = trio.current_time()
        if isinstance(message, Vote) and message.number <= self._get_head().number:
            # One that is far away votes too, after the others have finished.
            record.voted_number = BlockNumber(max(record.voted_number or 0, message.number))

    def _on_proposal(self, sender: Address, record: ValidatorRecord, proposal: PrePrepare) -> None:
        """Compare clocks; a time that the parent forced upwards tells nothing."""
        header, parent = proposal.block.header, self._get_head()
        if header.number in (self._first_number, parent.number) or sender in self._proposers:
            return  # sent again, to a node that came late: as old as nobody knows
        self._proposers.add(sender)
        if header.coinbase == sender and header.timestamp > parent.timestamp:
            # Half a second: the header's time is cut to whole ones.
            offset = header.timestamp + 0.5 - self._clock.now_ms() / 1000
            record.clock_readings.append(offset)

    def on_number(self, state: ReplicaState) -> None:
        """The replica begins a number, perhaps for the first time since the start."""
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
        """The replica took an input."""
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
        """Each step of a block is timed once, from the step before it that happened here."""
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
        # Nobody verified its signature; the stream it came on is its author's own.
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
        """A block is final and stored: by our replica, or fetched from peers (`is_synced`)."""
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
        """Count whose COMMITs for the last block have not come by now, one block later."""
        if self._final:
            last = self._final[-1]
            missed = [address for address in last.validators if address not in last.heard]
            for address in missed:
                self._metrics.missed_commits.labels(to_hex(address)).inc()
            self._metrics.missing_validators.set(len(missed))
        heard = {validators[author] for author, _ in certificate.signatures}
        self._final.append(_Final(number, validators, heard))
        del self._final[:-KEPT_NUMBERS]
