"""The consensus host: serves the PBFT core (docs/spec/consensus.md, section 5).

One task performs the effects of one transition in order, before the next input. What takes long
(executing, fetching) runs beside it and comes back as an input.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, assert_never

import structlog
import trio

from chain.consensus import pbft
from chain.consensus.certificates import verify_message
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
from chain.consensus.evidence import build_evidence
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
from chain.consensus.message_log import add_early_message
from chain.consensus.messages import (
    Committed,
    Message,
    NewView,
    PrePrepare,
    SigningDomain,
    ViewChange,
    decode_message,
    encode_message,
    get_pre_prepare,
)
from chain.consensus.primary_order import ACTIVITY_WINDOW_TURNS, compute_primary_order
from chain.errors import InvalidBlock, InvalidMessage, RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, Hash32, ValidatorIndex
from chain.types.block import Block
from chain.validation import validate_fresh_proposal
from node.chain.executor import Executor, Refusal
from node.chain.finalizer import Finalizer, NewHead
from node.clock import Clock
from node.consensus.evidence_store import EvidenceStore
from node.consensus.proven_heads import ProvenHeads
from node.consensus.signer import ConsensusSigner
from node.consensus.watch import ConsensusWatch
from node.mempool.pool import Mempool
from node.metrics.registry import NodeMetrics
from node.network.requests import BlockPeers
from node.network.stream import UnreachablePeerError
from node.storage.block_store import BlockStore
from pot_common.errors import OperatorError

if TYPE_CHECKING:
    # The stubs that py-libp2p's dependency installs hide trio's own types from the checker.
    from trio_typing import TaskStatus

RESEND_INTERVAL_MS: Final = 1_000
"""Between two repetitions of what may have been lost: a few hundred bytes a second each."""

INPUT_LIMIT: Final = 1_024
"""Inputs waiting for the core; past it the streams of peers wait."""

FRESHNESS_POLL_SECONDS: Final = 0.02
"""How often a proposal that came early is looked at again."""

GATHER_SECONDS: Final = 0.05
"""From the first transaction held to the choice of a block's; less than a hop of a slow link."""

PACE_TOLERANCE_MS: Final = 50
"""A proposal may come so much before the interval is over by our clock: clocks and links differ."""

_log = structlog.get_logger("node.consensus")


class ConsensusNetwork(Protocol):
    """What consensus asks of the network."""

    def broadcast_consensus(self, payload: bytes) -> None:
        """Queue a message for every other validator."""

    def send_consensus(self, validator: Address, payload: bytes) -> None:
        """Queue a message for one validator."""

    def announce_transactions(self, hashes: Sequence[Hash32]) -> None:
        """Tell peers of transactions that we hold."""


@dataclass(frozen=True, slots=True)
class _Received:
    """A validator's message on its way to the core; the sender's index is of the number then."""

    sender: Address
    message: Message
    is_verified: bool


class ConsensusHost:
    """Runs the replica of this node at the number after its head."""

    def __init__(
        self,
        *,
        domain: SigningDomain,
        parameters: ChainParameters,
        signer: ConsensusSigner | None,
        store: BlockStore,
        executor: Executor,
        finalizer: Finalizer,
        mempool: Mempool,
        network: ConsensusNetwork,
        peers: BlockPeers,
        clock: Clock,
        evidence: EvidenceStore,
        metrics: NodeMetrics | None = None,
    ) -> None:
        self.metrics = metrics or NodeMetrics()
        self.watch = ConsensusWatch(self.metrics, clock, store.head)
        self.is_member = False
        """Whether the key of this node is a validator's at the number being decided."""
        self._domain = domain
        self._parameters = parameters
        self._signer = signer
        self._store = store
        self._executor = executor
        self._finalizer = finalizer
        self._mempool = mempool
        self._network = network
        self._peers = peers
        self._clock = clock
        self._evidence = evidence
        self._timing = Timing(
            min_block_interval_ms=parameters.min_block_interval_ms,
            empty_block_interval_ms=parameters.empty_block_interval_ms,
            view_timeout_base_ms=parameters.view_timeout_base_ms,
            view_timeout_cap_ms=parameters.view_timeout_cap_ms,
            resend_interval_ms=RESEND_INTERVAL_MS,
        )
        self._proven_heads = ProvenHeads(store, executor, peers)
        self._state: pbft.ReplicaState | None = None
        self._send_input, self._inputs = trio.open_memory_channel[Input | _Received | None](
            INPUT_LIMIT
        )
        self._new_number: NewNumber | None = None
        """Beside the queue, which peers can fill: this one input must not be lost."""
        self._timers: dict[Timer, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._proposed_at = trio.current_time()
        """When the block being decided was first seen, or else the head. Like every duration here
        it is measured on trio's clock, which nobody sets."""
        self._parent_proposed_at = self._proposed_at
        self._transaction_held_at: float | None = None
        """Since when the pool has had something for a block; None: it has nothing, or had when this
        host began."""

    # What others ask and tell.

    @property
    def state(self) -> pbft.ReplicaState | None:
        """The replica; None before it started."""
        return self._state

    @property
    def first_signable(self) -> BlockNumber | None:
        """The lowest number that this validator may vote on; None: none, or not known yet."""
        return None if self._signer is None else self._signer.first_signable

    @property
    def is_signing(self) -> bool:
        """Whether this node votes on the number being decided."""
        return (
            self.is_member
            and self._signer is not None
            and self._signer.may_sign(BlockNumber(self._store.head_number() + 1))
        )

    @property
    def signing_failure(self) -> str | None:
        """Why this validator signs nothing more until it is started again; None: it does."""
        return None if self._signer is None else self._signer.failure

    @property
    def known_heads(self) -> frozenset[Address]:
        """The validators that have proven their heads to one without a guard, which waits."""
        return self._proven_heads.known

    @property
    def waiting_inputs(self) -> int:
        """Inputs that wait for the replica."""
        return self._send_input.statistics().current_buffer_used

    async def handle_message(self, sender: Address, payload: bytes) -> None:
        """Take one frame of a validator's consensus stream.

        Raises:
            RejectedInputError: it breaks the rules; the network holds the peer to them.
        """
        message = decode_message(payload)
        if self._state is None or sender not in self._validators:
            return
        ahead = message.number - self._state.config.number
        if ahead == 0:
            verify_message(message, self._domain, self._validators, self._executor.recover)
            self.watch.on_message(sender, message)
        else:
            self.watch.on_other_message(sender, message)
        block = _get_block(message)
        if block is not None and ahead >= 0:
            if ahead > 0 and not self._would_hold(sender, message):
                return
            await trio.to_thread.run_sync(self._executor.validate_body, block)
        # Another number may begin while it waits in the queue: looked at again when it is taken.
        await self._send_input.send(_Received(sender, message, ahead == 0))

    def _would_hold(self, sender: Address, message: Message) -> bool:
        """Whether the core will hold a message of a later number, by what it holds now."""
        assert self._state is not None
        index = ValidatorIndex(self._validators.index(sender))
        number, early = self._state.config.number, self._state.early
        return add_early_message(early, number, index, message) is not early

    def on_transaction(self) -> None:
        """The pool took a transaction that can be included."""
        if self._transaction_held_at is None:
            self._transaction_held_at = trio.current_time()
        if self._state is not None and not self._state.has_transaction:
            self._post(TransactionHeld())

    def find_block(self, block_hash: Hash32) -> Block | None:
        """A block of the number being decided that is held here."""
        state = self._state
        if state is None:
            return None
        proposals = () if state.proposal is None else (get_pre_prepare(state.proposal).block,)
        prepared = () if state.prepared is None else (state.prepared.block,)
        candidates = (*state.blocks, *proposals, *prepared)
        return next((block for block in candidates if block.hash == block_hash), None)

    # Running.

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Decide numbers until cancelled.

        Raises:
            OperatorError: the network finalized what this node finds invalid.
            StorageError: the finalized chain cannot be written.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._find_first_signable()
            await self._begin()
            async for event in self._inputs:
                if self._new_number is not None:
                    new_number, self._new_number = self._new_number, None
                    await self._apply(new_number)
                checked = self._check(event) if isinstance(event, _Received) else event
                if checked is not None:
                    await self._apply(checked)

    async def _apply(self, event: Input) -> None:
        before = self._state
        assert before is not None
        transition = pbft.apply(before, event, self._get_sign())
        self.watch.on_transition(event, before, transition.state, transition.effects)
        await self._perform(transition)

    @property
    def _validators(self) -> tuple[Address, ...]:
        """Of the number being decided: indices mean these."""
        assert self._state is not None
        return self._state.config.validators

    def _check(self, given: "_Received") -> MessageReceived | None:
        """The input that a message makes, verified if its number has begun.

        None if it is bad, or its sender is no validator of the number that has begun meanwhile.
        """
        assert self._state is not None
        if given.sender not in self._validators:
            return None
        if not given.is_verified and given.message.number == self._state.config.number:
            try:
                verify_message(
                    given.message, self._domain, self._validators, self._executor.recover
                )
            except InvalidMessage as error:
                self._report(given.sender, error)
                return None
        index = ValidatorIndex(self._validators.index(given.sender))
        return MessageReceived(index, given.message)

    async def _find_first_signable(self) -> None:
        """Rule S8: know what may have been signed before anything is."""
        signer = self._signer
        if signer is None:
            return
        certified_head = self._store.head_number()
        if await trio.to_thread.run_sync(signer.load_guard) is None:
            certified_head = await self._proven_heads.wait_for_quorum(signer.address)
        head = self._store.head_number()
        first = await trio.to_thread.run_sync(signer.start, head, certified_head)
        if first > head + 1:
            _log.warning(
                "nothing is signed before a later block",
                first_signable=first,
                reason="the guard or the write-ahead log of this key was lost",
            )

    async def _begin(self) -> None:
        """Start at the number after the head, or where the log left off."""
        async with self._finalizer.lock:  # sync moves the head too: not while it is read here
            config = self._make_config()
            if config.own_index is None:
                transition = pbft.start(config)
            else:
                assert self._signer is not None
                records = self._signer.load_records(config.number)
                transition = pbft.restore(config, records, self._signer.sign)
            self._state = transition.state
        self.watch.on_number(transition.state)
        await self._perform(transition)

    def _make_config(self) -> NumberConfig:
        head = self._store.head()
        number = BlockNumber(head.number + 1)
        validators = self._store.validator_set(number).validators
        window = ACTIVITY_WINDOW_TURNS * len(validators) + 2
        coinbases = self._store.coinbases(BlockNumber(max(1, number - window)), head.number)
        signer = self._signer
        is_member = signer is not None and signer.address in validators
        if is_member != self.is_member:
            _log.info("this node decides" if is_member else "this node follows", number=number)
        self.is_member = is_member
        return NumberConfig(
            number=number,
            parent_hash=head.hash,
            validators=validators,
            primary_order=compute_primary_order(number, validators, coinbases),
            own_index=None if signer is None else signer.get_index(number, validators),
            domain=self._domain,
            timing=self._timing,
            proposal_age_ms=int(1000 * (trio.current_time() - self._parent_proposed_at)),
            has_transaction=self._mempool.counts()[0] > 0,
        )

    def _get_sign(self) -> pbft.Sign | None:
        return None if self._signer is None else self._signer.sign

    def _post(self, event: "Input | _Received") -> None:
        """Give the core an input from a task of ours; dropped only when hopelessly behind."""
        try:
            self._send_input.send_nowait(event)
        except trio.WouldBlock:
            self.metrics.dropped_inputs.inc()
            _log.error("input dropped", kind=type(event).__name__)

    # Effects.

    async def _perform(self, transition: pbft.Transition) -> None:
        self._state = transition.state
        for effect in transition.effects:
            if isinstance(effect, Persist):
                if not await self._persist(effect):
                    await self._stop_signing()
                    return
            elif isinstance(effect, Finalize):
                await self._finalizer.finalize(effect.block, effect.certificate)
            else:
                self._perform_one(effect)

    def _perform_one(self, effect: Effect) -> None:
        assert self._nursery is not None
        match effect:
            case Broadcast(message):
                self._network.broadcast_consensus(encode_message(message))
            case Send(receiver, message):
                self._network.send_consensus(self._validators[receiver], encode_message(message))
            case SendCertificate(receiver, number):
                self._send_certificate(receiver, number)
            case ValidateBlock(block, fresh):
                self._proposed_at = trio.current_time()
                self._nursery.start_soon(self._validate, block, fresh)
            case BuildBlock():
                self._nursery.start_soon(self._build, effect)
            case SetTimer():
                self._set_timer(effect)
            case FetchBlock(digest, validators):
                authors = {self._validators[index] for index in validators}
                self._nursery.start_soon(self._fetch, digest, authors)
            case ForwardTransactions():
                self._network.announce_transactions(self._mempool.hashes())
            case Redeliver(sender, message):
                self._post(_Received(self._validators[sender], message, is_verified=False))
            case ReportRejection(sender, reason, detail):
                self._report(self._validators[sender], InvalidMessage(reason, detail))
            case ReportEvidence(first, second):
                author = self._validators[first.author]
                _log.error("validator equivocates", author=author, first=first, second=second)
                evidence = build_evidence(first, second, author, self._domain.version)
                self._nursery.start_soon(trio.to_thread.run_sync, self._evidence.add, evidence)
            case Halt(block):
                raise OperatorError(
                    f"a quorum finalized block {block.number} ({to_hex(block.hash)}), which this "
                    "node finds invalid: stop, and compare this program's version and genesis "
                    "with the other validators'"
                )
            case Persist() | Finalize():
                raise AssertionError("performed in order, by the caller")
            case _:
                assert_never(effect)

    async def _persist(self, effect: Persist) -> bool:
        """Log, then guard; False if the vote must not be sent."""
        assert self._signer is not None
        return await trio.to_thread.run_sync(self._signer.persist, effect)

    async def _stop_signing(self) -> None:
        """Go on as a follower: nothing of the dropped vote was sent."""
        assert self._state is not None
        await self._perform(pbft.start(replace(self._state.config, own_index=None)))

    def _send_certificate(self, receiver: ValidatorIndex, number: BlockNumber) -> None:
        header, certificate = self._store.header(number), self._store.certificate(number)
        if header is not None and certificate is not None:
            message = Committed(number, header.hash, certificate)
            self._network.send_consensus(self._validators[receiver], encode_message(message))

    def _set_timer(self, effect: SetTimer) -> None:
        assert self._nursery is not None
        running = self._timers.pop(effect.timer, None)
        if running is not None:
            running.cancel()
        scope = self._timers[effect.timer] = trio.CancelScope()
        self._nursery.start_soon(self._run_timer, effect, scope)

    async def _run_timer(self, effect: SetTimer, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(effect.delay_ms / 1000)
            await self._send_input.send(TimerExpired(effect.timer, effect.number, effect.view))

    async def _validate(self, block: Block, fresh: bool) -> None:
        if block.number != self._store.head_number() + 1:
            return
        outcome = await self._executor.execute(block)
        is_valid = not isinstance(outcome, Refusal)
        is_fresh = fresh and is_valid and self._is_fresh(block)
        await self._send_input.send(BlockValidated(block.hash, is_valid, is_fresh))
        if not fresh or is_fresh or not is_valid:
            return
        # It came early: held, and accepted when its time has come.
        while block.number == self._store.head_number() + 1:
            await trio.sleep(FRESHNESS_POLL_SECONDS)
            if self._is_fresh(block):
                await self._send_input.send(
                    BlockValidated(block.hash, is_valid=True, is_fresh=True)
                )
                return

    def _is_fresh(self, block: Block) -> bool:
        age_ms = 1000 * (trio.current_time() - self._parent_proposed_at)
        if age_ms < self._parameters.min_block_interval_ms - PACE_TOLERANCE_MS:
            return False
        # A quorum accepted the head's time: where our clock is behind that, it is wrong.
        now_ms = max(self._clock.now_ms(), self._store.head().timestamp * 1000)
        try:
            validate_fresh_proposal(block.header, block.header.coinbase, now_ms)
        except InvalidBlock:
            return False
        return True

    async def _build(self, effect: BuildBlock) -> None:
        head = self._store.head()
        if effect.number != head.number + 1:
            return
        assert self._signer is not None
        # Votes and commitments come in bursts: whoever is a moment later is in the same block.
        if self._transaction_held_at is not None:
            await trio.sleep_until(self._transaction_held_at + GATHER_SECONDS)
        built = await self._executor.build(
            head,
            lambda: self._mempool.candidates(head.base_fee_per_gas),
            self._signer.address,
            self._store.certificate(head.number),
        )
        for dropped in built.dropped:
            is_temporary = dropped.error.reason in _TEMPORARY_REASONS
            self._mempool.drop(dropped.transaction.hash, ban=not is_temporary)
        if built.stopped_at is not None:
            _log.warning("transaction exceeds the time budget", hash=to_hex(built.stopped_at.hash))
            self._mempool.drop(built.stopped_at.hash, ban=True)
        self._proposed_at = trio.current_time()
        await self._send_input.send(BlockBuilt(effect.number, effect.view, built.block))

    async def _fetch(self, digest: Hash32, wanted: set[Address]) -> None:
        for peer in self._peers.peers():
            if peer.validator not in wanted:
                continue
            try:
                block = await self._peers.request_block_by_hash(peer.peer_id, digest)
            except (UnreachablePeerError, RejectedInputError):
                continue
            if block is None or block.hash != digest:
                continue
            try:
                await trio.to_thread.run_sync(self._executor.validate_body, block)
            except RejectedInputError as error:
                self._peers.report_fault(peer.peer_id, error)
                continue
            await self._send_input.send(BlockFetched(block))
            return

    def _report(self, sender: Address, error: InvalidMessage) -> None:
        _log.warning("rejected", validator=sender, reason=str(error))
        for peer in self._peers.peers():
            if peer.validator == sender:
                self._peers.report_fault(peer.peer_id, error)

    # Finality.

    def on_new_head(self, head: NewHead) -> None:
        """Take note that a number is over; the next one begins with `begin_next`."""
        if self._mempool.counts()[0] == 0:
            self._transaction_held_at = None
        self._parent_proposed_at = self._proposed_at
        if head.is_snapshot:
            return
        committed = None if self._state is None else self._state.committed
        is_synced = committed is None or committed.digest != head.block.hash
        validators = self._store.validator_set(head.block.number).validators
        self.watch.on_finalized(head.block, head.certificate, validators, is_synced=is_synced)

    def begin_next(self, _head: NewHead) -> None:
        """Tell the replica of the number after the head, once everything else knows of the head."""
        if self._state is not None:
            self._new_number = NewNumber(self._make_config())
            with suppress(trio.WouldBlock):  # what waits there wakes the loop as well
                self._send_input.send_nowait(None)


_TEMPORARY_REASONS: Final = frozenset(
    {RejectionReason.NONCE_TOO_HIGH, RejectionReason.FEE_TOO_LOW, RejectionReason.GAS_LIMIT}
)
"""A dropped transaction may come back when these have changed."""


def _get_block(message: Message) -> Block | None:
    """The block that a message brings, if it brings one."""
    match message:
        case PrePrepare():
            return message.block
        case NewView():
            return message.pre_prepare.block
        case ViewChange():
            return None if message.certificate is None else message.certificate.block
        case _:
            return None
