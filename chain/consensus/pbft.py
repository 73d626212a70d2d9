"""PBFT, one instance a block number, as a pure state machine (docs/spec/consensus.md, section 5).

`apply` first records the input, then takes every step that the recorded state allows, in a fixed
order, until none is left. So no rule depends on the order in which messages arrive. Signing is
deterministic (RFC 6979), so votes are signed here; the effects first persist a vote, then send it.

Deviations from Castro and Liskov (OSDI 1999):

* There is one instance for each block number, without watermarks; a finalized block takes the
  place of a checkpoint.
* The quorum is ceil(2n/3), so every n is safe and not only 3f + 1.
* The primary sends PREPARE too, and messages carry signatures instead of authenticators.
* A NEW-VIEW carries only the highest prepared certificate. This is QBFT's rule, which has a
  machine-checked proof of safety.
* The timer of a view after 0 runs only while a quorum has asked for this view or a later one, and
  a backup that follows a NEW-VIEW sends a VIEW-CHANGE of its own. Without these two rules, capped
  timeouts can get stuck.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, assert_never

from chain.consensus.certificates import validate_quorum
from chain.consensus.effects import (
    Broadcast,
    BuildBlock,
    Effect,
    FetchBlock,
    Finalize,
    ForwardTransactions,
    Halt,
    Persist,
    Redeliver,
    ReportEvidence,
    ReportRejection,
    Send,
    SendCertificate,
    SetTimer,
    ValidateBlock,
)
from chain.consensus.inputs import (
    BlockBuilt,
    BlockFetched,
    BlockValidated,
    Input,
    MessageReceived,
    NewNumber,
    NumberConfig,
    Timer,
    TimerExpired,
    Timing,
    TransactionHeld,
)
from chain.consensus.message_log import (
    EarlyMessage,
    EarlyMessages,
    MessageLog,
    add_early_message,
)
from chain.consensus.messages import (
    Committed,
    Message,
    MessageKind,
    NewView,
    PreparedCertificate,
    PrePrepare,
    Proposal,
    Status,
    ViewChange,
    ViewChangeVote,
    Vote,
    compute_signing_digest,
    compute_view_change_payload,
    get_pre_prepare,
)
from chain.consensus.records import (
    CommitRecord,
    PrepareRecord,
    Record,
    ViewChangeRecord,
    compute_intent,
)
from chain.consensus.view_change import (
    choose_reproposal,
    validate_new_view,
    validate_view_change,
)
from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import ZERO_HASH, Hash32, Signature, ValidatorIndex, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.validator_set import compute_max_faulty, compute_quorum

Sign = Callable[[Hash32], Signature]
"""Signs a digest with the consensus key; must be deterministic."""

FIRST_VIEW: Final = View(0)
"""The view in which every number begins."""

MAX_TIMEOUT_SHIFT: Final = 20
"""Limit of the exponent of a timeout. 2^20 times the base exceeds every cap."""

MAX_KEPT_BLOCKS: Final = 4
"""Blocks of earlier proposals that are kept, because a quorum may still turn out to commit one."""

MAX_KEPT_VALIDITIES: Final = 8
"""Digests of which the validity is remembered; for others the host is asked again."""


@dataclass(frozen=True, slots=True)
class BlockValidity:
    """What is known of a block's validity."""

    is_valid: bool | None = None
    """None until the host answers."""
    is_fresh: bool = False
    is_fresh_asked: bool = False


class ViewTimer(Enum):
    """Whether, and for how long, the timer of the view runs; it only moves down this list."""

    STOPPED = "stopped"
    SHORT = "short"
    """The base timeout in every view: too few validators are in this view for its primary to
    succeed, so a long wait would be useless."""
    LONG = "long"
    """The base timeout doubled with every view, up to the cap."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """The state of a replica at one block number."""

    config: NumberConfig
    view: View = FIRST_VIEW
    log: MessageLog = field(default_factory=MessageLog)
    proposal: Proposal | None = None
    """The justified proposal of this view, not known to be invalid; None if none was received."""
    own_prepare: Vote | None = None
    """Our PREPARE in this view; None until we accept the proposal."""
    own_commit: Vote | None = None
    """Our COMMIT in this view; None until the proposal is prepared."""
    own_view_change: ViewChange | None = None
    """Our VIEW-CHANGE to this view; None in view 0."""
    prepared: PreparedCertificate | None = None
    """The highest prepared certificate that we hold for this number; None if nothing is
    prepared."""
    committed: Committed | None = None
    """The block and view that a quorum has committed; None before that."""
    is_decided: bool = False
    """Whether `Finalize` or `Halt` was issued, so nothing more happens at this number."""
    built: Block | None = None
    """The block that we built in this view; None if we built none."""
    is_build_asked: bool = False
    is_fetch_asked: bool = False
    has_transaction: bool = False
    elapsed: frozenset[Timer] = frozenset()
    """The pace timers that ran out."""
    view_timer: ViewTimer = ViewTimer.STOPPED
    blocks: tuple[Block, ...] = ()
    """Blocks of earlier proposals and fetched blocks, newest last."""
    validities: Mapping[Hash32, BlockValidity] = field(default_factory=dict)
    answered: frozenset[ValidatorIndex] = frozenset()
    """The validators that we answered since the last RESEND. Each gets one answer in that time,
    because an answer costs more than a question."""
    early: EarlyMessages = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """A new state, and what the host has to do, in order."""

    state: ReplicaState
    effects: tuple[Effect, ...] = ()


def start(config: NumberConfig) -> Transition:
    """The first transition of a replica with an empty log."""
    step = _Step(ReplicaState(config, has_transaction=config.has_transaction), None)
    step.start_timers()
    return step.finish()


def restore(config: NumberConfig, records: Sequence[Record], sign: Sign) -> Transition:
    """The first transition of a replica that restarts with `records` in its log.

    Its effects send the latest votes again, byte for byte. Records of other numbers are skipped.
    """
    step = _Step(ReplicaState(config, has_transaction=config.has_transaction), sign)
    for record in records:
        if record.number == config.number:
            step.replay(record)
    step.start_timers()
    step.resend_votes()
    return step.finish()


def apply(state: ReplicaState, event: Input, sign: Sign | None) -> Transition:
    """The transition of a replica on an input.

    Args:
        state: The replica.
        event: What happened.
        sign: Signs a digest with the consensus key; None only if `own_index` is None.
    """
    step = _Step(state, sign)
    step.record(event)
    return step.finish()


def compute_timeout_ms(timing: Timing, view: View, view_timer: ViewTimer) -> int:
    """The timeout of `view`, in milliseconds; it cannot overflow, whatever the view is."""
    assert view_timer is not ViewTimer.STOPPED
    if view_timer is ViewTimer.SHORT:
        return timing.view_timeout_base_ms
    grown = timing.view_timeout_base_ms << min(view, MAX_TIMEOUT_SHIFT)
    return min(timing.view_timeout_cap_ms, grown)


class _Step:
    """One transition while it is computed: the state so far, and the effects so far."""

    def __init__(self, state: ReplicaState, sign: Sign | None) -> None:
        self.state = state
        self.effects: list[Effect] = []
        self._sign = sign

    # Recording.

    def record(self, event: Input) -> None:
        """Record the input in the state, without deciding anything."""
        if isinstance(event, NewNumber):
            self._on_new_number(event.config)
        elif isinstance(event, MessageReceived):
            self._on_message(event.sender, event.message)
        elif not self.state.is_decided:
            match event:
                case TimerExpired():
                    self._on_timer(event)
                case TransactionHeld():
                    self._update(has_transaction=True)
                case BlockBuilt(number, view, block):
                    if (number, view) == (self._config.number, self.state.view):
                        self._update(built=block)
                        self._set_validity(block.hash, BlockValidity(True, True, True))
                case BlockValidated():
                    self._on_validated(event)
                case BlockFetched(block):
                    committed = self.state.committed
                    if committed is not None and block.hash == committed.digest:
                        self._keep_block(block)
                case _:
                    assert_never(event)

    def _on_new_number(self, config: NumberConfig) -> None:
        old = self.state
        assert config.number > old.config.number
        self.state = ReplicaState(config, has_transaction=config.has_transaction)
        self.start_timers()
        kept: list[EarlyMessage] = []
        for early in old.early:
            # The validator set may have changed, and with it the meaning of every index.
            address = old.config.validators[early.sender]
            if early.message.number < config.number or address not in config.validators:
                continue
            sender = ValidatorIndex(config.validators.index(address))
            if early.message.number == config.number:
                self.effects.append(Redeliver(sender, early.message))
            else:
                kept.append(EarlyMessage(sender, early.message))
        self._update(early=tuple(kept))

    def _on_message(self, sender: ValidatorIndex, message: Message) -> None:
        if message.number > self._config.number:
            early = add_early_message(self.state.early, self._config.number, sender, message)
            self._update(early=early)
            return
        if message.number < self._config.number:
            if isinstance(message, ViewChange | Status) and self._may_answer(sender):
                self.effects.append(SendCertificate(sender, message.number))
            return
        if self.state.is_decided:
            return
        try:
            match message:
                case Vote():
                    self._add_vote(message)
                case PrePrepare():
                    self._on_pre_prepare(message)
                case NewView():
                    self._on_new_view(message)
                case ViewChange():
                    self._on_view_change(message)
                case Status():
                    self._on_status(sender, message)
                case Committed(_, _, certificate):
                    validate_quorum(
                        certificate.signatures, self._n, RejectionReason.BAD_CERTIFICATE
                    )
                    if self.state.committed is None:
                        self._update(committed=message)
                    self._add_commits(message)
                case _:
                    assert_never(message)
        except InvalidMessage as error:
            self.effects.append(ReportRejection(sender, error.reason, error.detail))

    def _add_vote(self, vote: Vote) -> bool:
        """Record a vote; False if its author already has one for another block."""
        held = self.state.log.get_vote(vote.kind, vote.author, vote.view)
        if held is not None and held.digest != vote.digest:
            self.effects.append(ReportEvidence(held, vote))
            return False
        if held is None:
            self._set_log(self.state.log.add_vote(vote), vote.author)
        return True

    def _add_commits(self, message: Committed) -> None:
        """Record the votes in a certificate: one of them may contradict a vote that we hold."""
        view, digest = message.certificate.view, message.digest
        for author, signature in message.certificate.signatures:
            commit = MessageKind.COMMIT
            self._add_vote(Vote(commit, message.number, view, digest, author, signature))

    def _set_log(self, log: MessageLog, author: ValidatorIndex) -> None:
        """Adopt the log with a new message of `author`, and report it if it denies its COMMIT."""
        if log is self.state.log:
            return
        is_known = self.state.log.find_lost_lock(author) is not None
        self._update(log=log)
        evidence = log.find_lost_lock(author)
        if evidence is not None and not is_known:
            self.effects.append(ReportEvidence(*evidence))

    def _on_pre_prepare(self, message: PrePrepare) -> None:
        self._check_proposal(message, is_fresh=True)
        if message.vote.view != 0:
            raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "a view without NEW-VIEW")
        if not self._add_vote(message.vote):
            return
        if self.state.view == 0 and self.state.proposal is None and not self._is_follower:
            self._update(proposal=message)
        else:
            self._keep_block(message.block)

    def _on_new_view(self, message: NewView) -> None:
        pre_prepare = message.pre_prepare
        view = pre_prepare.vote.view
        # Nothing is verified or asked for a message that cannot be used any more.
        if view < self.state.view or (view == self.state.view and self.state.proposal is not None):
            self._add_vote(pre_prepare.vote)
            return
        validate_new_view(message, self._n)
        self._check_proposal(pre_prepare, is_fresh=not message.prepares)
        if not self._add_vote(pre_prepare.vote):
            return
        if self._is_follower:
            self._keep_block(pre_prepare.block)
            return
        for vote in message.view_changes:
            if vote.author != self._config.own_index:
                self._set_log(self.state.log.add_view_change_vote(vote), vote.author)
        if view > self.state.view:
            self._enter_view(view)
        self._update(proposal=message)

    def _on_view_change(self, message: ViewChange) -> None:
        if message.vote.author == self._config.own_index:
            return
        validate_view_change(message, self._n)
        self._set_log(self.state.log.add_view_change(message), message.vote.author)

    def _on_status(self, sender: ValidatorIndex, status: Status) -> None:
        state = self.state
        if status.view != state.view or state.proposal is None or not self._may_answer(sender):
            return
        digest = get_pre_prepare(state.proposal).vote.digest
        # If the sender holds another proposal of this view, ours proves that its author signed two.
        is_other = status.digest not in (ZERO_HASH, digest)
        if is_other or (status.digest == ZERO_HASH and self._is_primary):
            self.effects.append(Send(sender, state.proposal))
        for vote in (state.own_prepare, state.own_commit):
            if vote is not None:
                self.effects.append(Send(sender, vote))

    def _on_validated(self, event: BlockValidated) -> None:
        held = self.state.validities.get(event.digest)
        if held is not None:
            is_fresh = held.is_fresh or (event.is_valid and event.is_fresh)
            self._set_validity(
                event.digest, replace(held, is_valid=event.is_valid, is_fresh=is_fresh)
            )

    def _on_timer(self, event: TimerExpired) -> None:
        state = self.state
        if event.number != self._config.number:
            return
        match event.timer:
            case Timer.VIEW:
                is_running = state.view_timer is not ViewTimer.STOPPED
                if event.view == state.view and is_running and state.committed is None:
                    self._enter_view(View(state.view + 1))
            case Timer.RESEND:
                self._update(answered=frozenset(), is_fetch_asked=False)
                self._broadcast_status()
                if state.own_view_change is not None:
                    self.effects.append(Broadcast(state.own_view_change))
                self._set_timer(Timer.RESEND, self._config.timing.resend_interval_ms)
            case _:
                self._update(elapsed=state.elapsed | {event.timer})

    # Advancing.

    def finish(self) -> Transition:
        """Take every step that the record allows."""
        while not self.state.is_decided and self._advance_once():
            pass
        if not self.state.is_decided:
            self._advance_view_timer()
        return Transition(self.state, tuple(self.effects))

    def _advance_once(self) -> bool:
        if self._advance_committed():
            return True
        if self.state.committed is not None or self._is_follower:
            return False
        return (
            self._advance_jump()
            or self._advance_proposal()
            or self._advance_prepare()
            or self._advance_commit()
        )

    def _advance_committed(self) -> bool:
        """Upon COMMITs of a quorum for one block in one view, in any view of ours: it is final."""
        committed = self.state.committed
        if committed is None:
            found = self.state.log.find_quorum(MessageKind.COMMIT, compute_quorum(self._n))
            if found is None:
                return False
            view, digest = found
            signatures = self.state.log.get_signatures(MessageKind.COMMIT, view, digest)
            certificate = CommitCertificate(view, signatures)
            self._update(committed=Committed(self._config.number, digest, certificate))
            return True
        block = self._find_block(committed.digest)
        if block is None:
            if not self.state.is_fetch_asked:
                authors = [author for author, _ in committed.certificate.signatures]
                asked = tuple(authors[: compute_max_faulty(self._n) + 2])
                self._update(is_fetch_asked=True)
                self.effects.append(FetchBlock(committed.digest, asked))
            return False
        is_valid = self._ask(block, fresh=False).is_valid
        if is_valid is None:
            return False
        effect = Finalize if is_valid else Halt
        self._update(is_decided=True)
        self.effects.append(effect(block, committed.certificate))
        return True

    def _advance_jump(self) -> bool:
        """Upon VIEW-CHANGEs to later views from f + 1: one is honest, so join the lowest."""
        # `finish` repeats this step, so it ends at the (f + 1)th highest view.
        views = self.state.log.get_views_from(View(self.state.view + 1))
        needed = compute_max_faulty(self._n) + 1
        if len(views) < needed:
            return False
        self._enter_view(views[-needed])
        return True

    def _advance_proposal(self) -> bool:
        """Upon being primary, and a quorum of VIEW-CHANGEs unless it is view 0: propose."""
        state = self.state
        if state.proposal is not None or not self._is_primary:
            return False
        if state.view == 0:
            return self._is_build_due() and self._propose_fresh(())
        complete = [
            ViewChange(held.vote, held.certificate)
            for held in state.log.get_view_changes(state.view)
            if held.is_complete
        ]
        if len(complete) < compute_quorum(self._n):
            return False
        votes = tuple(view_change.vote for view_change in complete)
        certificate = choose_reproposal(complete)
        if certificate is None:
            return self._propose_fresh(votes)
        # We send and log our PREPARE together with the proposal, so the block must be valid first.
        if not self._ask(certificate.block, fresh=False).is_valid:
            return False
        pre_prepare = self._make_pre_prepare(certificate.block)
        self._propose(NewView(pre_prepare, votes, certificate.signatures))
        return True

    def _propose_fresh(self, votes: tuple[ViewChangeVote, ...]) -> bool:
        if self.state.built is None:
            if not self.state.is_build_asked:
                self._update(is_build_asked=True)
                self.effects.append(BuildBlock(self._config.number, self.state.view))
            return False
        pre_prepare = self._make_pre_prepare(self.state.built)
        self._propose(NewView(pre_prepare, votes, ()) if votes else pre_prepare)
        return True

    def _make_pre_prepare(self, block: Block) -> PrePrepare:
        return PrePrepare(self._make_vote(MessageKind.PRE_PREPARE, block.hash), block)

    def _propose(self, proposal: Proposal) -> None:
        self._update(proposal=proposal)
        self._add_vote(get_pre_prepare(proposal).vote)
        self._cast_prepare(proposal, Broadcast(proposal))

    def _advance_prepare(self) -> bool:
        """Upon a justified and valid proposal, and a fresh one if it is new: send PREPARE."""
        proposal = self.state.proposal
        if proposal is None or self.state.own_prepare is not None:
            return False
        is_new = isinstance(proposal, PrePrepare) or not proposal.prepares
        validity = self._ask(get_pre_prepare(proposal).block, fresh=is_new)
        if not validity.is_valid or (is_new and not validity.is_fresh):
            return False
        self._cast_prepare(proposal)
        return True

    def _cast_prepare(self, proposal: Proposal, *before: Broadcast) -> None:
        prepare = self._make_vote(MessageKind.PREPARE, get_pre_prepare(proposal).vote.digest)
        self._persist(PrepareRecord(proposal, prepare))
        self._update(own_prepare=prepare)
        self._add_vote(prepare)
        self.effects += [*before, Broadcast(prepare)]

    def _advance_commit(self) -> bool:
        """Upon PREPAREs of a quorum for the accepted proposal: keep them, and send COMMIT."""
        state = self.state
        if state.proposal is None or state.own_prepare is None or state.own_commit is not None:
            return False
        block = get_pre_prepare(state.proposal).block
        quorum = compute_quorum(self._n)
        prepares = state.log.get_signatures(MessageKind.PREPARE, state.view, block.hash)[:quorum]
        if len(prepares) < quorum:
            return False
        commit = self._make_vote(MessageKind.COMMIT, block.hash)
        self._persist(CommitRecord(commit, prepares))
        self._update(own_commit=commit, prepared=PreparedCertificate(state.view, block, prepares))
        self._add_vote(commit)
        self.effects.append(Broadcast(commit))
        return True

    def _enter_view(self, view: View) -> None:
        """Leave the current view for good; send VIEW-CHANGE with what was prepared (S3, S4)."""
        assert view > self.state.view
        assert self._config.own_index is not None
        if self.state.proposal is not None:
            self._keep_block(get_pre_prepare(self.state.proposal).block)
        certificate = self.state.prepared
        prepared = None if certificate is None else (certificate.view, certificate.block.hash)
        signature = self._make_signature(
            MessageKind.VIEW_CHANGE, view, compute_view_change_payload(prepared)
        )
        vote = ViewChangeVote(
            self._config.number, view, prepared, self._config.own_index, signature
        )
        self._persist(ViewChangeRecord(vote))
        self._set_view(ViewChange(vote, certificate))
        self.effects.append(Broadcast(ViewChange(vote, certificate)))

    def _set_view(self, view_change: ViewChange) -> None:
        self._update(
            view=view_change.vote.view,
            log=self.state.log.add_view_change(view_change),
            own_view_change=view_change,
            proposal=None,
            own_prepare=None,
            own_commit=None,
            built=None,
            is_build_asked=False,
            view_timer=ViewTimer.STOPPED,
        )

    def _advance_view_timer(self) -> None:
        """Start or lengthen the timer of the view; it is never stopped or shortened."""
        wanted = self._compute_view_timer()
        order = list(ViewTimer)
        if order.index(wanted) <= order.index(self.state.view_timer):
            return
        if self.state.view == 0 and self.state.has_transaction and not self._is_primary:
            self.effects.append(ForwardTransactions(self._config.get_primary(View(0))))
        self._update(view_timer=wanted)
        timeout_ms = compute_timeout_ms(self._config.timing, self.state.view, wanted)
        self._set_timer(Timer.VIEW, timeout_ms)

    def _compute_view_timer(self) -> ViewTimer:
        state = self.state
        if self._is_follower or state.committed is not None:
            return ViewTimer.STOPPED
        is_accepted = state.own_prepare is not None
        if state.view == 0:
            # Like a waiting transaction, an accepted block is a reason to expect the primary to
            # act.
            is_awaited = state.has_transaction or is_accepted
            is_started = Timer.VIEW_LATEST in state.elapsed or (
                Timer.VIEW_EARLIEST in state.elapsed and is_awaited
            )
            return ViewTimer.LONG if is_started else ViewTimer.STOPPED
        quorum = compute_quorum(self._n)
        if len(state.log.get_views_from(state.view)) < quorum:
            return ViewTimer.STOPPED
        is_usable = is_accepted or len(state.log.get_view_changes(state.view)) >= quorum
        return ViewTimer.LONG if is_usable else ViewTimer.SHORT

    # Restoring.

    def replay(self, record: Record) -> None:
        """Apply a record of our own log, unchecked: it was checked before it was written."""
        match record:
            case PrepareRecord(proposal, prepare):
                self._update(
                    view=prepare.view, proposal=proposal, own_prepare=prepare, own_commit=None
                )
                self._add_vote(get_pre_prepare(proposal).vote)
                self._add_vote(prepare)
            case CommitRecord(commit, prepares):
                assert self.state.proposal is not None
                block = get_pre_prepare(self.state.proposal).block
                prepared = PreparedCertificate(commit.view, block, prepares)
                self._update(own_commit=commit, prepared=prepared)
                self._add_vote(commit)
            case ViewChangeRecord(vote):
                if self.state.proposal is not None:
                    self._keep_block(get_pre_prepare(self.state.proposal).block)
                certificate = self.state.prepared if vote.prepared is not None else None
                self._set_view(ViewChange(vote, certificate))
            case _:
                assert_never(record)

    def resend_votes(self) -> None:
        """Send the latest votes again, byte for byte, and a STATUS to learn what happened since."""
        state = self.state
        proposal = state.proposal if self._is_primary else None
        for message in (state.own_view_change, proposal, state.own_prepare, state.own_commit):
            if message is not None:
                self.effects.append(Broadcast(message))
        self._broadcast_status()

    def start_timers(self) -> None:
        """Set the timers that begin with the block number."""
        timing, age_ms = self._config.timing, self._config.proposal_age_ms
        self._set_timer(Timer.RESEND, timing.resend_interval_ms)
        if self._is_follower:
            return
        if self._config.get_primary(View(0)) == self._config.own_index:
            # Block intervals count from the parent's proposal, the view's timeout from its commit:
            # now.
            earliest, latest = timing.min_block_interval_ms, timing.empty_block_interval_ms
            self._set_timer(Timer.BUILD_EARLIEST, max(0, earliest - age_ms))
            self._set_timer(Timer.BUILD_LATEST, max(0, latest - age_ms))
        self._set_timer(Timer.VIEW_EARLIEST, timing.min_block_interval_ms)
        self._set_timer(Timer.VIEW_LATEST, timing.empty_block_interval_ms)

    # Small helpers.

    @property
    def _config(self) -> NumberConfig:
        return self.state.config

    @property
    def _n(self) -> int:
        return len(self._config.validators)

    @property
    def _is_follower(self) -> bool:
        return self._config.own_index is None

    @property
    def _is_primary(self) -> bool:
        return self._config.get_primary(self.state.view) == self._config.own_index

    def _update(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]  # names are fields

    def _check_proposal(self, pre_prepare: PrePrepare, *, is_fresh: bool) -> None:
        vote, block = pre_prepare.vote, pre_prepare.block
        if vote.author != self._config.get_primary(vote.view):
            raise InvalidMessage(RejectionReason.WRONG_PRIMARY, f"of view {vote.view}")
        if (block.number, block.hash) != (vote.number, vote.digest):
            raise InvalidMessage(RejectionReason.HEADER_FIELD, "number")
        if block.header.parent_hash != self._config.parent_hash:
            raise InvalidMessage(RejectionReason.UNKNOWN_PARENT, block.header.parent_hash.hex())
        if is_fresh and block.header.coinbase != self._config.validators[vote.author]:
            raise InvalidMessage(RejectionReason.HEADER_FIELD, "coinbase is not the primary")

    def _is_build_due(self) -> bool:
        elapsed = self.state.elapsed
        return Timer.BUILD_LATEST in elapsed or (
            Timer.BUILD_EARLIEST in elapsed and self.state.has_transaction
        )

    def _ask(self, block: Block, *, fresh: bool) -> BlockValidity:
        """What is known of a block's validity; asks the host for the rest."""
        held = self.state.validities.get(block.hash)
        if held is None or (fresh and not held.is_fresh_asked):
            held = replace(held or BlockValidity(), is_fresh_asked=fresh)
            self._set_validity(block.hash, held)
            # A view that lasts longer allows a slower primary, so that one is always quick enough.
            age_limit_ms = compute_timeout_ms(self._config.timing, self.state.view, ViewTimer.LONG)
            self.effects.append(ValidateBlock(block, age_limit_ms if fresh else None))
        return held

    def _set_validity(self, digest: Hash32, validity: BlockValidity) -> None:
        others = [item for item in self.state.validities.items() if item[0] != digest]
        self._update(validities=dict([*others, (digest, validity)][-MAX_KEPT_VALIDITIES:]))

    def _keep_block(self, block: Block) -> None:
        others = [kept for kept in self.state.blocks if kept.hash != block.hash]
        self._update(blocks=(*others, block)[-MAX_KEPT_BLOCKS:])

    def _find_block(self, digest: Hash32) -> Block | None:
        state = self.state
        held = [*state.blocks]
        if state.proposal is not None:
            held.append(get_pre_prepare(state.proposal).block)
        certificates = [held.certificate for held in state.log.view_changes.values()]
        held += [each.block for each in (state.prepared, *certificates) if each is not None]
        return next((block for block in held if block.hash == digest), None)

    def _may_answer(self, receiver: ValidatorIndex) -> bool:
        if receiver in self.state.answered:
            return False
        self._update(answered=self.state.answered | {receiver})
        return True

    def _broadcast_status(self) -> None:
        own_index = self._config.own_index
        if own_index is None:
            return
        proposal = self.state.proposal
        digest = ZERO_HASH if proposal is None else get_pre_prepare(proposal).vote.digest
        signature = self._make_signature(MessageKind.STATUS, self.state.view, digest)
        self.effects.append(
            Broadcast(Status(self._config.number, self.state.view, digest, own_index, signature))
        )

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        self.effects.append(SetTimer(timer, self._config.number, self.state.view, delay_ms))

    def _persist(self, record: Record) -> None:
        certificate = self.state.prepared
        prepared = None if certificate is None else (certificate.view, certificate.block.hash)
        self.effects.append(Persist(record, compute_intent(record, prepared)))

    def _make_vote(self, kind: MessageKind, digest: Hash32) -> Vote:
        assert self._config.own_index is not None
        signature = self._make_signature(kind, self.state.view, digest)
        return Vote(
            kind,
            self._config.number,
            self.state.view,
            digest,
            self._config.own_index,
            signature,
        )

    def _make_signature(self, kind: MessageKind, view: View, payload: Hash32) -> Signature:
        assert self._sign is not None
        return self._sign(
            compute_signing_digest(self._config.domain, kind, self._config.number, view, payload)
        )
