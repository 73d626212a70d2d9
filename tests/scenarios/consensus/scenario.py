"""The language of the transcripts in this folder: commands, and the messages that follow.

A transcript is blocks of `> command` lines with the effects of the replicas below each, one a line.
Rewriting regenerates everything below a `>` up to the next blank line. Commands:

    new N                 N validators; validator i is the primary of view i mod N
    build I               the pace is over at I and a transaction is held
    timeout I             the timer of the view of I ran out
    deliver [A->B] [KIND] deliver queued messages, oldest first, and what they cause; all if no
                          pair is named, only those of KIND if one is named
    drop [A->B] [KIND]    lose queued messages
    lie I KIND A V [to B] I signs PREPARE or COMMIT for block A in view V, beside its replica
    crash I               I loses its memory and restarts from its log
    forget I              I loses its memory, log and guard, and starts anew (no honest node does)
    resend I              the time to repeat status and VIEW-CHANGE has come for I
    status                one line a replica: view, lock, final block
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from chain.consensus.effects import BuildBlock, ReportEvidence, SetTimer
from chain.consensus.guard import GuardState
from chain.consensus.inputs import (
    BlockBuilt,
    BlockFetched,
    BlockValidated,
    Input,
    Timer,
    TimerExpired,
    TransactionHeld,
)
from chain.consensus.messages import (
    Committed,
    Message,
    MessageKind,
    NewView,
    PrePrepare,
    Status,
    ViewChange,
    Vote,
    message_to_item,
)
from chain.consensus.pbft import ReplicaState, Transition
from chain.errors import InvalidMessage
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.consensus.performer import Performer, Received, run_inline
from node.consensus.signer import ConsensusSigner
from tests.worlds.replica import (
    config_of,
    make_block,
    token_recover,
    token_signer,
    validators_of,
    vote,
)
from tests.worlds.signer_disk import MemoryGuard, MemoryLog

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class Guard(MemoryGuard):
    """The guard of one replica; a vote is durable when it is written."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def save(self, state: GuardState) -> None:
        super().save(state)
        self._say(f"persists {state.step.name} view {state.view}")


class Replica:
    """A validator with its disk; its process may crash and restart."""

    def __init__(self, scenario: "Scenario", index: int) -> None:
        self.index = index
        self.answers: list[Input] = []
        """The answers to the requests of the replica's last transition."""
        self._scenario = scenario
        self.lose_disk()

    def lose_disk(self) -> None:
        self._guard = Guard(self._say)
        self._log = MemoryLog()

    def start(self) -> Transition:
        """Start the replica from its disk."""
        validators = self._scenario.validators
        signer = ConsensusSigner(
            validators[self.index], token_signer(self.index), self._guard, self._log
        )
        signer.start(BlockNumber(0), BlockNumber(0))
        self.performer = Performer(self, signer, token_recover(validators))
        own_index = signer.get_index(BlockNumber(1), validators)
        config = replace(config_of(self.index, n=len(validators)), own_index=own_index)
        return self.performer.restore(config)

    def count_records(self) -> int:
        return len(self._log.records())

    @property
    def state(self) -> ReplicaState:
        assert self.performer.state is not None
        return self.performer.state

    def _say(self, line: str) -> None:
        self._scenario.say(f"  {self.index} {line}")

    # The environment of the effects.

    async def run_blocking(
        self, function: Callable[[_Argument], _Result], argument: _Argument
    ) -> _Result:
        return function(argument)

    async def finalize(self, block: Block, certificate: CommitCertificate) -> None:
        authors = " ".join(str(author) for author, _ in certificate.signatures)
        name = self._scenario.name_of(block.hash)
        self._say(f"finalizes {name} view {certificate.view} signed by {authors}")

    def on_transition(self, event: Input, before: ReplicaState, transition: Transition) -> None:
        pass

    def broadcast(self, message: Message) -> None:
        self._say(f"sends {self._scenario.describe(message)}")
        for receiver in range(len(self._scenario.replicas)):
            if receiver != self.index:
                self._scenario.queue.append((self.index, receiver, message))

    def send(self, validator: Address, message: Message) -> None:
        receiver = self._scenario.index_of(validator)
        self._say(f"answers {receiver} with {self._scenario.describe(message)}")
        self._scenario.queue.append((self.index, receiver, message))

    def find_committed(self, number: BlockNumber) -> Committed | None:
        return None  # a transcript has number 1 only

    def validate(self, block: Block, age_limit_ms: int | None) -> None:
        fresh = "" if age_limit_ms is None else " fresh"
        self._say(f"validates {self._scenario.name_of(block.hash)}{fresh}")
        self.answers.append(BlockValidated(block.hash, is_valid=True, is_fresh=True))

    def build(self, asked: BuildBlock) -> None:
        name, block = self._scenario.build(self.index)
        self._say(f"builds {name}")
        self.answers.append(BlockBuilt(asked.number, asked.view, block))

    def fetch(self, digest: Hash32, validators: Sequence[Address]) -> None:
        asked = " ".join(str(self._scenario.index_of(each)) for each in validators)
        name = self._scenario.name_of(digest)
        self._say(f"fetches {name} from {asked}")
        self.answers.append(BlockFetched(self._scenario.blocks[name]))

    def set_timer(self, timer: SetTimer) -> None:
        if timer.timer is Timer.VIEW:
            self._say(f"times view {timer.view}: {timer.delay_ms} ms")

    def forward_transactions(self, primary: Address) -> None:
        pass

    def receive_again(self, given: Received) -> None:
        raise AssertionError("number 1 is the only one")

    def report_rejection(self, sender: Address, error: InvalidMessage) -> None:
        self._say(f"refuses {self._scenario.index_of(sender)}: {error.reason}: {error.detail}")

    def report_evidence(self, evidence: ReportEvidence, author: Address) -> None:
        self._say(f"has evidence against {self._scenario.index_of(author)}")


@dataclass
class Scenario:
    """The replicas of one transcript, the queued messages, and the lines so far."""

    replicas: list[Replica] = field(default_factory=list)
    queue: list[tuple[int, int, Message]] = field(default_factory=list)
    names: dict[Hash32, str] = field(default_factory=dict)
    blocks: dict[str, Block] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    validators: tuple[Address, ...] = ()

    def perform(self, line: str) -> list[str]:
        """The lines of one command: the command itself and its effects."""
        self.lines = []
        command, *words = line.split()
        match command:
            case "new":
                self._start(int(words[0]))
            case "build":
                self._give(int(words[0]), TransactionHeld())
                self._give(int(words[0]), self._expired(int(words[0]), Timer.BUILD_EARLIEST))
                self._give(int(words[0]), self._expired(int(words[0]), Timer.VIEW_EARLIEST))
            case "timeout":
                self._give(int(words[0]), self._expired(int(words[0]), Timer.VIEW))
            case "resend":
                self._give(int(words[0]), self._expired(int(words[0]), Timer.RESEND))
            case "deliver":
                while chosen := self._choose(words):
                    self._deliver(chosen[0])
                    if words:
                        for entry in chosen[1:]:
                            self._deliver(entry)
                        break
            case "drop":
                for entry in self._choose(words):
                    self.queue.remove(entry)
                    self.say(f"{entry[0]}->{entry[1]} lost {self.describe(entry[2])}")
            case "lie":
                self._lie(words)
            case "forget":
                self.replicas[int(words[0])].lose_disk()
                self._crash(self.replicas[int(words[0])])
            case "crash":
                self._crash(self.replicas[int(words[0])])
            case "status":
                for replica in self.replicas:
                    self.say(self._describe_state(replica))
            case _:
                raise ValueError(f"unknown command: {line}")
        return self.lines

    def _start(self, n: int) -> None:
        self.validators = validators_of(n)
        self.replicas = [Replica(self, index) for index in range(n)]
        for replica in self.replicas:
            replica.start()  # the first timers and status messages are left out
        self.say(f"{n} replicas")

    def _crash(self, replica: Replica) -> None:
        transition = replica.start()
        self.say(f"{replica.index} restarts with {replica.count_records()} records")
        self._run(replica, replica.performer.perform(transition))

    def _lie(self, words: list[str]) -> None:
        author, kind, name, view, *rest = words
        message = vote(MessageKind[kind], int(author), self.blocks[name], view=int(view))
        receivers = [int(rest[1])] if rest else range(len(self.replicas))
        for receiver in receivers:
            if receiver != int(author):
                self.queue.append((int(author), receiver, message))

    def _choose(self, words: list[str]) -> list[tuple[int, int, Message]]:
        pairs = [word for word in words if "->" in word]
        kinds = [word for word in words if "->" not in word]
        return [
            entry
            for entry in self.queue
            if (not pairs or any(_matches(pair, entry) for pair in pairs))
            and (not kinds or _kind_of(entry[2]) in kinds)
        ]

    def _deliver(self, entry: tuple[int, int, Message]) -> None:
        self.queue.remove(entry)
        sender, receiver, message = entry
        self.say(f"{sender}->{receiver} {self.describe(message)}")
        performer = self.replicas[receiver].performer
        given = performer.receive(self.validators[sender], message)
        assert given is not None
        event = performer.check(given)
        assert event is not None
        self._give(receiver, event)

    def _expired(self, index: int, timer: Timer) -> TimerExpired:
        state = self.replicas[index].state
        return TimerExpired(timer, state.config.number, state.view)

    def _give(self, index: int, event: Input) -> None:
        replica = self.replicas[index]
        self._run(replica, replica.performer.apply(event))

    def _run(self, replica: Replica, work: Coroutine[object, object, None]) -> None:
        """Perform a transition, then give the replica the answers to its requests."""
        run_inline(work)
        answers, replica.answers = replica.answers, []
        for answer in answers:
            self._give(replica.index, answer)

    def build(self, index: int) -> tuple[str, Block]:
        """The next block with its name."""
        name = "ABCDEFGH"[len(self.names)]
        block = make_block(len(self.names), coinbase=index)
        self.names[block.hash] = name
        self.blocks[name] = block
        return name, block

    def index_of(self, validator: Address) -> int:
        return self.validators.index(validator)

    def _describe_state(self, replica: Replica) -> str:
        state = replica.state
        lock = "none"
        if state.prepared is not None:
            lock = f"{self.name_of(state.prepared.block.hash)} view {state.prepared.view}"
        final = self.name_of(state.committed.digest) if state.committed else "none"
        return f"{replica.index} view {state.view} lock {lock} final {final}"

    def describe(self, message: Message) -> str:
        match message:
            case Vote(kind, _, view, digest):
                return f"{kind.name} {self.name_of(digest)} view {view}"
            case PrePrepare(signed, _):
                return f"PRE_PREPARE {self.name_of(signed.digest)} view {signed.view}"
            case NewView(pre_prepare, view_changes, prepares):
                signed = pre_prepare.vote
                authors = " ".join(str(each.author) for each in view_changes)
                lock = " with PREPAREs" if prepares else ""
                name = self.name_of(signed.digest)
                return f"NEW_VIEW {name} view {signed.view} for {authors}{lock}"
            case ViewChange(change, _):
                lock = "nothing"
                if change.prepared is not None:
                    lock = f"{self.name_of(change.prepared[1])} view {change.prepared[0]}"
                return f"VIEW_CHANGE view {change.view} prepared {lock}"
            case Status(_, view, digest):
                return f"STATUS view {view} holds {self.name_of(digest)}"
            case Committed(_, digest, _):
                return f"COMMITTED {self.name_of(digest)}"

    def name_of(self, digest: Hash32) -> str:
        return self.names.get(digest, "nothing")

    def say(self, line: str) -> None:
        self.lines.append(line)


def replay(text: str) -> str:
    """The transcript with the effects that its commands have now."""
    scenario = Scenario()
    written: list[str] = []
    is_output = False
    for line in text.splitlines():
        if line.startswith("> "):
            written += [line, *scenario.perform(line[2:])]
            is_output = True
        elif not line:
            written.append(line)
            is_output = False
        elif not is_output:
            written.append(line)
    return "\n".join(written) + "\n"


def _kind_of(message: Message) -> str:
    return message_to_item(message)[0].name


def _matches(pair: str, entry: tuple[int, int, Message]) -> bool:
    sender, receiver = pair.split("->")
    return sender in ("*", str(entry[0])) and receiver in ("*", str(entry[1]))
