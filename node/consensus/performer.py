"""Performs the effects of a replica: the host's duties in chain/consensus/effects.py.

The node, the simulator, the scenarios and the benchmarks all use this class, each with an
`Environment` of its own, which stands for disk, network, chain and clock. A coroutine of this class
waits only if its environment waits, for the disk (`run_blocking`) or for the chain (`finalize`).
With an environment that never waits, `run_inline` runs it without an event loop.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, assert_never

from chain.consensus import pbft
from chain.consensus.certificates import Recover, verify_message
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
from chain.consensus.inputs import Input, MessageReceived, NumberConfig
from chain.consensus.message_log import add_early_message
from chain.consensus.messages import Committed, Message
from chain.consensus.pbft import ReplicaState, Transition
from chain.errors import InvalidMessage
from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber, Hash32, ValidatorIndex
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.consensus.signer import ConsensusSigner
from pot_common.errors import OperatorError

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Received:
    """A validator's message on its way to the replica.

    It names the sender by address, because an index changes its meaning with the validator set.
    """

    sender: Address
    message: Message
    is_verified: bool


class Environment(Protocol):
    """What a replica's effects act on: disk, network, chain and clock. Validators are addresses."""

    async def run_blocking(
        self, function: Callable[[_Argument], _Result], argument: _Argument
    ) -> _Result:
        """Run a function that waits for the disk, and return its result."""

    async def finalize(self, block: Block, certificate: CommitCertificate) -> None:
        """Make a certified block final in one durable step; the input `NewNumber` follows."""

    def on_transition(self, event: Input, before: ReplicaState, transition: Transition) -> None:
        """Note a transition, before its effects are performed."""

    def broadcast(self, message: Message) -> None:
        """Send a message to every other validator."""

    def send(self, validator: Address, message: Message) -> None:
        """Send a message to one validator."""

    def find_committed(self, number: BlockNumber) -> Committed | None:
        """The stored certificate of a final number; None if it is not stored."""

    def validate(self, block: Block, age_limit_ms: int | None) -> None:
        """Start validating a block; the input `BlockValidated` follows."""

    def build(self, asked: BuildBlock) -> None:
        """Start building a block; the input `BlockBuilt` follows."""

    def fetch(self, digest: Hash32, validators: Sequence[Address]) -> None:
        """Start fetching a block from these validators; the input `BlockFetched` may follow."""

    def set_timer(self, timer: SetTimer) -> None:
        """Set a timer, in place of its earlier setting; the input `TimerExpired` follows."""

    def forward_transactions(self, primary: Address) -> None:
        """Send the pooled transactions to the primary, or announce them."""

    def receive_again(self, given: Received) -> None:
        """Treat a message as if it had just arrived."""

    def report_rejection(self, sender: Address, error: InvalidMessage) -> None:
        """Penalize a validator for a message that no honest validator sends."""

    def report_evidence(self, evidence: ReportEvidence, author: Address) -> None:
        """Keep the evidence that a validator signed two conflicting votes."""


class Performer:
    """Runs one replica: gives it inputs, and performs its effects in order."""

    def __init__(
        self, environment: Environment, signer: ConsensusSigner | None, recover: Recover
    ) -> None:
        """Create it; `restore` begins its first block number.

        Args:
            environment: What the effects act on.
            signer: The consensus key; None for a node that does not vote.
            recover: Recovers the signer of a digest.
        """
        self.state: ReplicaState | None = None
        """The replica; None before `restore`."""
        self._environment = environment
        self._signer = signer
        self._recover = recover

    @property
    def validators(self) -> tuple[Address, ...]:
        """The validators of the number being decided, by index."""
        return self._running.config.validators

    @property
    def _running(self) -> ReplicaState:
        assert self.state is not None, "restore first"
        return self.state

    # Inputs.

    def restore(self, config: NumberConfig) -> Transition:
        """Begin a number with the votes in the log; the caller then performs the transition."""
        if config.own_index is None:
            transition = pbft.start(config)
        else:
            assert self._signer is not None
            records = self._signer.load_records(config.number)
            transition = pbft.restore(config, records, self._signer.sign)
        self.state = transition.state
        return transition

    async def apply(self, event: Input) -> None:
        """Give the replica an input, and perform the effects."""
        before = self._running
        sign = None if self._signer is None else self._signer.sign
        transition = pbft.apply(before, event, sign)
        self._environment.on_transition(event, before, transition)
        await self.perform(transition)

    def receive(self, sender: Address, message: Message) -> Received | None:
        """A validator's message, verified if it is of the number being decided.

        None if no replica is running, or the sender is not a validator of the current number.

        Raises:
            InvalidMessage: A signature in the message is wrong.
        """
        if self.state is None or sender not in self.validators:
            return None
        is_current = message.number == self.state.config.number
        if is_current:
            self._verify(message)
        return Received(sender, message, is_verified=is_current)

    def check(self, given: Received) -> MessageReceived | None:
        """The input for a received message. It is verified here if its number has begun meanwhile.

        None if it is bad, which is reported, or if its sender is not a validator any more.
        """
        if given.sender not in self.validators:
            return None
        if not given.is_verified and given.message.number == self._running.config.number:
            try:
                self._verify(given.message)
            except InvalidMessage as error:
                self._environment.report_rejection(given.sender, error)
                return None
        return MessageReceived(self._index_of(given.sender), given.message)

    def would_hold(self, sender: Address, message: Message) -> bool:
        """Whether the replica would keep a message of a later number, within its limits."""
        number, early = self._running.config.number, self._running.early
        return add_early_message(early, number, self._index_of(sender), message) is not early

    def _verify(self, message: Message) -> None:
        verify_message(message, self._running.config.domain, self.validators, self._recover)

    def _index_of(self, validator: Address) -> ValidatorIndex:
        return ValidatorIndex(self.validators.index(validator))

    # Effects.

    async def perform(self, transition: Transition) -> None:
        """Perform the effects of a transition in order. Stops before a vote that was not persisted.

        Raises:
            OperatorError: A quorum finalized a block that is invalid here.
        """
        self.state = transition.state
        for effect in transition.effects:
            match effect:
                case Persist():
                    if not await self._persist(effect):
                        await self._stop_signing()
                        return
                case Finalize(block, certificate):
                    await self._environment.finalize(block, certificate)
                case _:
                    self._perform_at_once(effect)

    async def _persist(self, vote: Persist) -> bool:
        assert self._signer is not None
        return await self._environment.run_blocking(self._signer.persist, vote)

    async def _stop_signing(self) -> None:
        """Continue without voting. The vote that was not persisted has not been sent."""
        await self.perform(pbft.start(replace(self._running.config, own_index=None)))

    def _perform_at_once(self, effect: Effect) -> None:
        environment, validators = self._environment, self.validators
        match effect:
            case Broadcast(message):
                environment.broadcast(message)
            case Send(receiver, message):
                environment.send(validators[receiver], message)
            case SendCertificate(receiver, number):
                committed = environment.find_committed(number)
                if committed is not None:
                    environment.send(validators[receiver], committed)
            case ValidateBlock(block, age_limit_ms):
                environment.validate(block, age_limit_ms)
            case BuildBlock():
                environment.build(effect)
            case FetchBlock(digest, indices):
                environment.fetch(digest, [validators[index] for index in indices])
            case SetTimer():
                environment.set_timer(effect)
            case ForwardTransactions(primary):
                environment.forward_transactions(validators[primary])
            case Redeliver(sender, message):
                # The message came before its validator set was known, so it is unverified.
                environment.receive_again(Received(validators[sender], message, is_verified=False))
            case ReportRejection(sender, reason, detail):
                environment.report_rejection(validators[sender], InvalidMessage(reason, detail))
            case ReportEvidence(first, _):
                environment.report_evidence(effect, validators[first.author])
            case Halt(block):
                raise OperatorError(
                    f"a quorum finalized block {block.number} ({to_hex(block.hash)}), which this "
                    "node finds invalid: stop, and compare this program's version and genesis "
                    "with the other validators'"
                )
            case Persist() | Finalize():
                raise AssertionError("performed by the caller, which can wait")
            case _:
                assert_never(effect)


def run_inline(coroutine: Coroutine[object, object, _Result]) -> _Result:
    """The result of a coroutine of the performer, run without an event loop.

    The environment must never wait.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _Result = done.value
        return result
    raise AssertionError("the environment waits")
