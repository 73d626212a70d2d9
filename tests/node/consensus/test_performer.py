"""The performer does the host's duties (docs/spec/consensus.md, sections 5 and 8)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from chain.consensus import pbft
from chain.consensus.effects import (
    Broadcast,
    BuildBlock,
    FetchBlock,
    Finalize,
    ForwardTransactions,
    Halt,
    Redeliver,
    ReportEvidence,
    ReportRejection,
    Send,
    SendCertificate,
    SetTimer,
    ValidateBlock,
)
from chain.consensus.guard import GuardState
from chain.consensus.inputs import MessageReceived, NewNumber, NumberConfig, Timer, TransactionHeld
from chain.consensus.messages import Committed, Message
from chain.consensus.pbft import Transition
from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import BlockNumber, Signature, ValidatorIndex, View
from node.consensus.guard_file import GuardFile
from node.consensus.performer import Performer, Received, run_inline
from node.consensus.signer import ConsensusSigner
from node.consensus.wal import WriteAheadLog, read_records
from pot_common.errors import OperatorError, StorageError
from tests.worlds.replica import (
    BLOCK_A,
    BLOCK_B,
    certificate,
    config_of,
    pre_prepare,
    prepare,
    token_recover,
    token_signer,
    valid,
    validators_of,
)

FOUR = validators_of(4)
ONE = BlockNumber(1)
TIMER = SetTimer(Timer.VIEW, ONE, View(0), 500)
BUILD = BuildBlock(ONE, View(0))
COMMITTED = Committed(ONE, BLOCK_A.hash, certificate())
EVIDENCE = ReportEvidence(prepare(3), prepare(3, BLOCK_B))


@dataclass
class RecordingEnvironment:
    """Writes down what reaches it."""

    calls: list[tuple[object, ...]] = field(default_factory=list)
    stored: dict[BlockNumber, Committed] = field(default_factory=dict)

    async def run_blocking(self, function, argument):
        self.calls.append(("blocking", argument))
        return function(argument)

    async def finalize(self, block, certificate) -> None:
        self.calls.append(("finalize", block, certificate))

    def on_transition(self, event, before, transition) -> None:
        self.calls.append(("transition", event))

    def broadcast(self, message: Message) -> None:
        self.calls.append(("broadcast", message))

    def send(self, validator, message: Message) -> None:
        self.calls.append(("send", validator, message))

    def find_committed(self, number: BlockNumber) -> Committed | None:
        return self.stored.get(number)

    def validate(self, block, age_limit_ms) -> None:
        self.calls.append(("validate", block, age_limit_ms))

    def build(self, asked) -> None:
        self.calls.append(("build", asked))

    def fetch(self, digest, validators) -> None:
        self.calls.append(("fetch", digest, validators))

    def set_timer(self, timer) -> None:
        self.calls.append(("timer", timer))

    def forward_transactions(self, primary) -> None:
        self.calls.append(("forward", primary))

    def receive_again(self, given) -> None:
        self.calls.append(("again", given))

    def report_rejection(self, sender, error) -> None:
        self.calls.append(("reject", sender, error.reason))

    def report_evidence(self, evidence, author) -> None:
        self.calls.append(("evidence", evidence, author))

    def names(self) -> list[object]:
        return [call[0] for call in self.calls]


class Life:
    """One process of validator 1, on real files."""

    def __init__(self, directory: Path, guard_class: type[GuardFile] = GuardFile) -> None:
        self.directory = directory
        self.environment = RecordingEnvironment()
        guard = guard_class(directory / "guard", fsync=lambda _descriptor: None)
        log = WriteAheadLog(directory / "wal", fsync=lambda _descriptor: None)
        self.signer = ConsensusSigner(FOUR[1], token_signer(1), guard, log)
        self.signer.start(BlockNumber(0), BlockNumber(0))
        self.performer = Performer(self.environment, self.signer, token_recover(FOUR))

    def begin(self, config: NumberConfig | None = None) -> None:
        run_inline(self.performer.perform(self.performer.restore(config or config_of(1))))
        self.environment.calls.clear()

    def perform(self, *effects) -> list[tuple[object, ...]]:
        """What effects lead to; the state stays."""
        state = self.performer.state
        assert state is not None
        run_inline(self.performer.perform(Transition(state, effects)))
        return self.environment.calls

    def apply(self, event) -> None:
        run_inline(self.performer.apply(event))

    def accept(self) -> None:
        """Receive a valid proposal, and so send a PREPARE."""
        self.apply(MessageReceived(ValidatorIndex(0), pre_prepare()))
        self.apply(valid())


def test_each_effect_reaches_the_environment_in_order_by_address(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.begin()
    vote = prepare(1)
    life.environment.stored[ONE] = COMMITTED
    indices = (ValidatorIndex(0), ValidatorIndex(2))
    calls = life.perform(
        Broadcast(vote),
        Send(ValidatorIndex(2), vote),
        SendCertificate(ValidatorIndex(3), ONE),
        ValidateBlock(BLOCK_A, 2_000),
        BUILD,
        TIMER,
        Finalize(BLOCK_A, certificate()),
        FetchBlock(BLOCK_A.hash, indices),
        ForwardTransactions(ValidatorIndex(0)),
        Redeliver(ValidatorIndex(3), vote),
        ReportRejection(ValidatorIndex(2), RejectionReason.MALFORMED, ""),
        EVIDENCE,
    )
    assert calls == [
        ("broadcast", vote),
        ("send", FOUR[2], vote),
        ("send", FOUR[3], COMMITTED),
        ("validate", BLOCK_A, 2_000),
        ("build", BUILD),
        ("timer", TIMER),
        ("finalize", BLOCK_A, certificate()),
        ("fetch", BLOCK_A.hash, [FOUR[0], FOUR[2]]),
        ("forward", FOUR[0]),
        ("again", Received(FOUR[3], vote, is_verified=False)),
        ("reject", FOUR[2], RejectionReason.MALFORMED),
        ("evidence", EVIDENCE, FOUR[3]),
    ]


def test_certificate_that_is_not_stored_is_not_sent(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.begin()
    assert life.perform(SendCertificate(ValidatorIndex(3), ONE)) == []


def test_vote_is_durable_before_it_is_sent(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.begin()
    logged: list[int] = []
    broadcast = life.environment.broadcast

    def count_records(message: Message) -> None:
        logged.append(len(read_records(tmp_path / "wal")))
        broadcast(message)

    life.environment.broadcast = count_records  # type: ignore[method-assign]  # counts first
    life.accept()
    assert logged == [1]
    guard = GuardFile(tmp_path / "guard").load()
    assert guard is not None
    assert str(guard) == "PREPARE 1/0"


class FullDiskGuard(GuardFile):
    """A guard whose disk is full once it knows a vote."""

    def save(self, state: GuardState) -> None:
        if state.number > 0:
            raise StorageError("No space left on device")
        super().save(state)


def test_vote_that_is_not_durable_is_not_sent_and_ends_the_voting(tmp_path: Path) -> None:
    life = Life(tmp_path, FullDiskGuard)
    life.begin()
    life.accept()
    assert "broadcast" not in life.environment.names()
    assert life.performer.state is not None
    assert life.performer.state.config == replace(config_of(1), own_index=None)
    assert life.signer.failure == "No space left on device"
    # From here on it follows: it says nothing, whatever happens.
    life.environment.calls.clear()
    life.apply(TransactionHeld())
    life.apply(MessageReceived(ValidatorIndex(0), pre_prepare()))
    assert not {"broadcast", "send", "blocking"} & set(life.environment.names())


def test_restart_sends_the_votes_of_the_log_again(tmp_path: Path) -> None:
    before = Life(tmp_path)
    before.begin()
    before.accept()
    (sent,) = [call for call in before.environment.calls if call[0] == "broadcast"]

    after = Life(tmp_path)
    run_inline(after.performer.perform(after.performer.restore(config_of(1))))
    assert sent in after.environment.calls
    assert "blocking" not in after.environment.names(), "nothing new is written"


def test_block_that_a_quorum_made_final_and_is_invalid_here_stops_the_node(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.begin()
    with pytest.raises(OperatorError, match="finds invalid"):
        life.perform(Halt(BLOCK_A, certificate()), TIMER)
    assert life.environment.calls == []


def forge(author: int) -> Message:
    return replace(prepare(author), signature=Signature(bytes(65)))


def test_message_of_the_current_number_is_verified_when_it_comes(tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert life.performer.receive(FOUR[2], prepare(2)) is None, "no replica runs yet"
    life.begin()
    assert life.performer.receive(b"\x01" * 20, prepare(2)) is None, "no validator"
    assert life.performer.receive(FOUR[2], prepare(2)) == Received(FOUR[2], prepare(2), True)
    with pytest.raises(InvalidMessage):
        life.performer.receive(FOUR[2], forge(2))


def test_message_of_a_later_number_is_verified_once_that_number_begins(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.begin()
    forged = replace(forge(2), number=BlockNumber(2))
    given = life.performer.receive(FOUR[2], forged)
    assert given == Received(FOUR[2], forged, is_verified=False)
    assert life.performer.check(given) == MessageReceived(ValidatorIndex(2), forged)
    life.apply(NewNumber(config_of(1, number=2)))
    assert life.performer.check(given) is None
    assert ("reject", FOUR[2], RejectionReason.BAD_SIGNATURE) in life.environment.calls


def test_message_that_came_early_comes_again_unverified(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.begin()
    forged = replace(forge(2), number=BlockNumber(2))
    life.apply(MessageReceived(ValidatorIndex(2), forged))
    life.apply(NewNumber(config_of(1, number=2)))
    assert ("again", Received(FOUR[2], forged, is_verified=False)) in life.environment.calls


def test_sender_is_known_by_its_index_of_the_number_that_has_begun(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.begin(replace(config_of(0), validators=FOUR[1:], own_index=ValidatorIndex(0)))
    message = prepare(2, number=3)
    given = Received(FOUR[2], message, is_verified=False)
    assert life.performer.check(given) == MessageReceived(ValidatorIndex(1), message)
    assert life.performer.check(replace(given, sender=FOUR[0])) is None


def test_follower_needs_no_key() -> None:
    environment = RecordingEnvironment()
    performer = Performer(environment, None, token_recover(FOUR))
    run_inline(performer.perform(performer.restore(config_of(None))))
    run_inline(performer.apply(TransactionHeld()))
    assert (
        performer.state
        == pbft.apply(pbft.start(config_of(None)).state, TransactionHeld(), None).state
    )


class Wait:
    """Something that an event loop would have to end."""

    def __await__(self) -> Iterator[None]:
        yield


def test_run_inline_refuses_an_environment_that_waits() -> None:
    async def wait() -> None:
        await Wait()

    with pytest.raises(AssertionError, match="waits"):
        run_inline(wait())
