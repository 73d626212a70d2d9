"""The consensus host: runs the replica of this node (docs/spec/consensus.md, section 5).

One task takes inputs from a queue and gives them to the `Performer`, which performs all effects of
one input before the next input. `NodeEnvironment` connects the effects to the rest of the node.
"""

from typing import Final

import structlog
import trio

from chain.consensus.inputs import NewNumber, NumberConfig, Timing, TransactionHeld
from chain.consensus.messages import (
    Message,
    NewView,
    PrePrepare,
    SigningDomain,
    ViewChange,
    decode_message,
)
from chain.consensus.pbft import ReplicaState
from chain.consensus.primary_order import ACTIVITY_WINDOW_TURNS, compute_primary_order
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.block import Block
from node.chain.executor import Executor
from node.chain.finalizer import Finalizer, NewHead
from node.clock import Clock
from node.consensus.environment import ConsensusNetwork, NodeEnvironment
from node.consensus.evidence_store import EvidenceStore
from node.consensus.input_queue import InputQueue
from node.consensus.performer import Performer, Received
from node.consensus.proposals import Proposals
from node.consensus.proven_heads import ProvenHeads
from node.consensus.served_blocks import ServedBlocks
from node.consensus.signer import ConsensusSigner
from node.consensus.watch import ConsensusWatch
from node.mempool.pool import Mempool
from node.metrics.registry import NodeMetrics
from node.network.requests import BlockPeers
from node.storage.block_store import BlockStore
from node.trio_types import TaskStatus

RESEND_INTERVAL_MS: Final = 1_000
"""Interval of resending STATUS and VIEW-CHANGE, which cost a few hundred bytes a second."""

_log = structlog.get_logger("node.consensus")


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
        served: ServedBlocks,
        metrics: NodeMetrics | None = None,
    ) -> None:
        metrics = metrics or NodeMetrics()
        self.watch = ConsensusWatch(metrics, clock, store.head)
        self.is_member = False
        """Whether this node's key belongs to a validator of the number being decided."""
        self._domain = domain
        self._signer = signer
        self._store = store
        self._executor = executor
        self._finalizer = finalizer
        self._served = served
        self._timing = Timing(
            min_block_interval_ms=parameters.min_block_interval_ms,
            empty_block_interval_ms=parameters.empty_block_interval_ms,
            view_timeout_base_ms=parameters.view_timeout_base_ms,
            view_timeout_cap_ms=parameters.view_timeout_cap_ms,
            resend_interval_ms=RESEND_INTERVAL_MS,
        )
        self._inputs = InputQueue(metrics)
        self._proven_heads = ProvenHeads(store, executor, peers)
        self._proposals = Proposals(
            parameters=parameters,
            coinbase=None if signer is None else signer.address,
            store=store,
            executor=executor,
            mempool=mempool,
            peers=peers,
            clock=clock,
        )
        self._environment = NodeEnvironment(
            inputs=self._inputs,
            proposals=self._proposals,
            finalizer=finalizer,
            store=store,
            mempool=mempool,
            network=network,
            peers=peers,
            evidence=evidence,
            served=served,
            watch=self.watch,
            version=domain.version,
        )
        self._performer = Performer(self._environment, signer, executor.recover)

    # For other parts of the node.

    @property
    def state(self) -> ReplicaState | None:
        """The replica; None before it started."""
        return self._performer.state

    def find_lateness(self, digest: Hash32) -> float | None:
        """Seconds by which a proposal that was refused as too old was behind our clock.

        None if it was not refused for its time.
        """
        return self._proposals.find_lateness(digest)

    @property
    def first_signable(self) -> BlockNumber | None:
        """The lowest number that this validator may vote on; None if none, or not known yet."""
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
        """The reason why this validator signs nothing until a restart; None if it still signs."""
        return None if self._signer is None else self._signer.failure

    @property
    def known_heads(self) -> frozenset[Address]:
        """The validators that have proven their heads to this node, which lost its guard."""
        return self._proven_heads.known

    @property
    def waiting_inputs(self) -> int:
        """The number of inputs in the queue."""
        return len(self._inputs)

    async def handle_message(self, sender: Address, payload: bytes) -> None:
        """Accept one frame of a validator's consensus stream.

        Raises:
            RejectedInputError: The frame breaks the rules; the network lowers the peer's score.
        """
        message = decode_message(payload)
        given = self._performer.receive(sender, message)
        if given is None or self.state is None:
            return
        if given.is_verified:
            self.watch.on_message(sender, message)
        else:
            self.watch.on_other_message(sender, message)
        block, ahead = _get_block(message), message.number - self.state.config.number
        if block is not None and ahead >= 0:
            if ahead > 0 and not self._performer.would_hold(sender, message):
                return
            await trio.to_thread.run_sync(self._executor.validate_body, block)
        # Another number may begin while the message is in the queue, so it is checked again then.
        await self._inputs.put(given)

    def on_transaction(self, _added: Hash32) -> None:
        """Note that the pool admitted a transaction."""
        self._proposals.on_transaction()
        if self.state is not None and not self.state.has_transaction:
            self._inputs.put_at_once(TransactionHeld())

    def on_new_head(self, head: NewHead) -> None:
        """Note that a block number is finished; `begin_next` starts the next one."""
        self._proposals.on_new_head()
        if head.is_snapshot:
            return
        committed = None if self.state is None else self.state.committed
        is_synced = committed is None or committed.digest != head.block.hash
        validators = self._store.validator_set(head.block.number).validators
        self.watch.on_finalized(head.block, head.certificate, validators, is_synced=is_synced)

    def begin_next(self, _head: NewHead) -> None:
        """Let the replica begin the number after the head. Call it after all other listeners."""
        if self.state is not None:
            self._inputs.put_first(NewNumber(self._make_config()))

    # Running.

    async def run(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Decide block numbers; runs until it is cancelled.

        Raises:
            OperatorError: The network finalized a block that is invalid here.
            StorageError: The finalized chain cannot be written.
        """
        async with trio.open_nursery() as nursery:
            self._environment.use(nursery)
            task_status.started()
            await self._start_signer()
            await self._begin()
            while True:
                for given in await self._inputs.take():
                    event = self._performer.check(given) if isinstance(given, Received) else given
                    if event is not None:
                        await self._performer.apply(event)

    async def _start_signer(self) -> None:
        """Find out what this key may have signed earlier, before anything is signed (rule S8)."""
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
        """Begin the number after the head, with the votes in the log."""
        async with self._finalizer.lock:  # block sync must not move the head meanwhile
            transition = self._performer.restore(self._make_config())
        self._served.replica = transition.state
        self.watch.on_number(transition.state)
        await self._performer.perform(transition)

    def _make_config(self) -> NumberConfig:
        head = self._store.head()
        number = BlockNumber(head.number + 1)
        validators = self._store.validator_set(number).validators
        window = ACTIVITY_WINDOW_TURNS * len(validators) + 2
        coinbases = self._store.coinbases(BlockNumber(max(1, number - window)), head.number)
        signer = self._signer
        is_member = signer is not None and signer.address in validators
        if is_member != self.is_member:
            _log.info(
                "joined the validator set" if is_member else "left the validator set",
                number=number,
            )
        self.is_member = is_member
        return NumberConfig(
            number=number,
            parent_hash=head.hash,
            validators=validators,
            primary_order=compute_primary_order(number, validators, coinbases),
            own_index=None if signer is None else signer.get_index(number, validators),
            domain=self._domain,
            timing=self._timing,
            proposal_age_ms=self._proposals.compute_parent_age_ms(),
            has_transaction=self._proposals.has_transaction(),
        )


def _get_block(message: Message) -> Block | None:
    """The block in a message; None if it contains none."""
    match message:
        case PrePrepare():
            return message.block
        case NewView():
            return message.pre_prepare.block
        case ViewChange():
            return None if message.certificate is None else message.certificate.block
        case _:
            return None
