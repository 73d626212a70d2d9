"""The environment of the node's replica: the network, the stored chain, timers and tasks.

Slow work, such as executing a block, fetching one or waiting for a timer, runs in tasks of its own.
Its result comes back through the queue of inputs.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog
import trio

from chain.consensus.effects import BuildBlock, ReportEvidence, SetTimer
from chain.consensus.evidence import build_evidence
from chain.consensus.inputs import Input, Timer, TimerExpired
from chain.consensus.messages import Committed, Message, encode_message
from chain.consensus.pbft import ReplicaState, Transition
from chain.errors import InvalidMessage
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.chain.finalizer import Finalizer
from node.consensus.evidence_store import EvidenceStore
from node.consensus.input_queue import InputQueue
from node.consensus.performer import Received
from node.consensus.proposals import Proposals
from node.consensus.served_blocks import ServedBlocks
from node.consensus.watch import ConsensusWatch
from node.mempool.pool import Mempool
from node.network.requests import BlockPeers
from node.storage.block_store import BlockStore

_log = structlog.get_logger("node.consensus")

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class ConsensusNetwork(Protocol):
    """The functions of the network that consensus uses."""

    def broadcast_consensus(self, payload: bytes) -> None:
        """Queue a message for every other validator."""

    def send_consensus(self, validator: Address, payload: bytes) -> None:
        """Queue a message for one validator."""

    def announce_transactions(self, hashes: Sequence[Hash32]) -> None:
        """Announce transactions of our pool to all peers."""


class NodeEnvironment:
    """Connects the effects of this node's replica to the network, the chain and the clock."""

    def __init__(
        self,
        *,
        inputs: InputQueue,
        proposals: Proposals,
        finalizer: Finalizer,
        store: BlockStore,
        mempool: Mempool,
        network: ConsensusNetwork,
        peers: BlockPeers,
        evidence: EvidenceStore,
        served: ServedBlocks,
        watch: ConsensusWatch,
        version: int,
    ) -> None:
        self._inputs = inputs
        self._proposals = proposals
        self._finalizer = finalizer
        self._store = store
        self._mempool = mempool
        self._network = network
        self._peers = peers
        self._evidence = evidence
        self._served = served
        self._watch = watch
        self._version = version
        self._timers: dict[Timer, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    def use(self, nursery: trio.Nursery) -> None:
        """Set the nursery that runs the tasks; call this before any effect is performed."""
        self._nursery = nursery

    def _start(self, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(task, *arguments)

    # The disk and the chain.

    async def run_blocking(
        self, function: Callable[[_Argument], _Result], argument: _Argument
    ) -> _Result:
        """Run a blocking call in a thread, and wait for its result."""
        return await trio.to_thread.run_sync(function, argument)

    async def finalize(self, block: Block, certificate: CommitCertificate) -> None:
        """Make a certified block final; does nothing if block sync has already done so."""
        await self._finalizer.finalize(block, certificate)

    def find_committed(self, number: BlockNumber) -> Committed | None:
        """The stored certificate of a final number; None if it is not stored."""
        header, certificate = self._store.header(number), self._store.certificate(number)
        if header is None or certificate is None:
            return None
        return Committed(number, header.hash, certificate)

    def on_transition(self, event: Input, before: ReplicaState, transition: Transition) -> None:
        """Serve the blocks of the new state to peers, and record the transition for metrics."""
        self._served.replica = transition.state
        self._watch.on_transition(event, before, transition.state, transition.effects)

    # The network.

    def broadcast(self, message: Message) -> None:
        """Queue a message for every other validator."""
        self._network.broadcast_consensus(encode_message(message))

    def send(self, validator: Address, message: Message) -> None:
        """Queue a message for one validator."""
        self._network.send_consensus(validator, encode_message(message))

    def forward_transactions(self, primary: Address) -> None:
        """Announce all pooled transactions to all peers, the primary among them."""
        self._network.announce_transactions(self._mempool.hashes())

    def report_rejection(self, sender: Address, error: InvalidMessage) -> None:
        """Lower the score of the peer that is this validator."""
        _log.warning("consensus message rejected", validator=sender, reason=str(error))
        for peer in self._peers.peers():
            if peer.validator == sender:
                self._peers.report_fault(peer.peer_id, error)

    def report_evidence(self, evidence: ReportEvidence, author: Address) -> None:
        """Store the evidence; the operator's account later reports it to the contract."""
        first, second = evidence.first, evidence.second
        _log.error("validator equivocates", author=author, first=first, second=second)
        built = build_evidence(first, second, author, self._version)
        self._start(trio.to_thread.run_sync, self._evidence.add, built)

    # Slow work, in tasks.

    def receive_again(self, given: Received) -> None:
        """Put a message into the queue again."""
        self._inputs.put_at_once(given)

    def validate(self, block: Block, age_limit_ms: int | None) -> None:
        """Start a task that executes a block and answers with its validity."""
        self._proposals.on_proposal()
        oldest = self._proposals.compute_oldest_timestamp(age_limit_ms)
        self._start(self._validate, block, oldest)

    async def _validate(self, block: Block, oldest: int | None) -> None:
        answer = await self._proposals.validate(block, oldest=oldest)
        if answer is None:
            return
        await self._inputs.put(answer)
        if oldest is not None and answer.is_valid and not answer.is_fresh:
            await self._answer(self._proposals.wait_until_fresh, block, oldest)

    def build(self, asked: BuildBlock) -> None:
        """Start a task that builds a block and answers with it."""
        self._start(self._answer, self._proposals.build, asked)

    def fetch(self, digest: Hash32, validators: Sequence[Address]) -> None:
        """Start a task that fetches a block from one of the validators."""
        self._start(self._answer, self._proposals.fetch, digest, validators)

    async def _answer(
        self, ask: Callable[..., Awaitable[Input | None]], *arguments: object
    ) -> None:
        answer = await ask(*arguments)
        if answer is not None:
            await self._inputs.put(answer)

    def set_timer(self, timer: SetTimer) -> None:
        """Start a task that waits for the timer. A later setting of the same timer cancels it."""
        running = self._timers.pop(timer.timer, None)
        if running is not None:
            running.cancel()
        scope = self._timers[timer.timer] = trio.CancelScope()
        self._start(self._run_timer, timer, scope)

    async def _run_timer(self, timer: SetTimer, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(timer.delay_ms / 1000)
            await self._inputs.put(TimerExpired(timer.timer, timer.number, timer.view))
