"""The invariants after every step of a simulation; a violation is an AssertionError.

S1 to S8 are the safety rules of docs/spec/consensus.md, section 5. They are checked on the
messages, the memory and the disks of honest nodes, with separate arithmetic: a wrong quorum in the
core is noticed here.
"""

from collections import defaultdict

from chain.consensus.guard import GuardState, Step
from chain.consensus.message_log import EARLY_MESSAGES_PER_SENDER, VOTES_KEPT
from chain.consensus.messages import (
    VOTE_LIMIT_BYTES,
    Committed,
    Message,
    MessageKind,
    NewView,
    PreparedCertificate,
    PrePrepare,
    QuorumSignatures,
    ViewChange,
    ViewChangeVote,
    Vote,
    compute_view_change_payload,
)
from chain.consensus.pbft import MAX_KEPT_BLOCKS, MAX_KEPT_VALIDITIES, ReplicaState
from chain.primitives import BlockNumber, Hash32, Signature, ValidatorIndex, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from tests.simulation.keys import Keys
from tests.simulation.validator_sets import ValidatorSets

Word = tuple[MessageKind, BlockNumber, View, ValidatorIndex]

STEPS = {
    MessageKind.PRE_PREPARE: Step.PREPARE,
    MessageKind.PREPARE: Step.PREPARE,
    MessageKind.COMMIT: Step.COMMIT,
    MessageKind.VIEW_CHANGE: Step.VIEW_CHANGE,
}
SIGNATURE_BYTES = 72
"""A signature with its author, encoded."""

SIGNED_KINDS = (MessageKind.PRE_PREPARE, MessageKind.PREPARE, MessageKind.COMMIT)


class Checkers:
    """Checks S1 to S8, persist before send, bounded memory, and that no honest node is accused."""

    def __init__(self, keys: Keys, sets: ValidatorSets, honest: frozenset[int]) -> None:
        self.honest = honest
        self.final: dict[BlockNumber, Hash32] = {}
        self.evidence = 0
        self.rejections = 0
        self._keys = keys
        self._sets = sets
        self._said: dict[Word, Hash32] = {}
        self._view: dict[tuple[BlockNumber, ValidatorIndex], View] = {}
        self._lock: dict[tuple[BlockNumber, ValidatorIndex], View] = {}
        self._commits: dict[tuple[BlockNumber, View, Hash32], set[ValidatorIndex]] = defaultdict(
            set
        )
        self._decidable: dict[BlockNumber, list[tuple[View, Hash32]]] = defaultdict(list)
        self._last: dict[int, tuple[BlockNumber, View, Step]] = {}
        self._silent_through: dict[int, BlockNumber] = {}
        self._orders: dict[BlockNumber, tuple[ValidatorIndex, ...]] = {}

    # Events of honest nodes.

    def on_final(self, name: str, block: Block, certificate: CommitCertificate) -> None:
        """Check agreement, S1 of the certificate, and S7: honest entries were cast."""
        first = self.final.setdefault(block.number, block.hash)
        assert first == block.hash, f"fork at {block.number}, {name} disagrees"
        self._check_quorum(
            block.number, certificate.signatures, f"S1: certificate of {block.number} at {name}"
        )
        for author, _ in certificate.signatures:
            slot = self._slot_of(author, block.number)
            word = MessageKind.COMMIT, block.number, certificate.view, author
            assert slot not in self.honest or self._said.get(word) == block.hash, (
                f"S7: {name} counts a COMMIT that {slot} never cast"
            )

    def on_sent(self, sender: int, guard: GuardState | None, message: Message) -> None:
        """Check S2, S3, S4 and S8, also across restarts, and that the message is durable."""
        for vote in _list_votes(message):
            slot = self._slot_of(vote.author, vote.number)
            if slot != sender:
                continue  # another's proposal, sent to a node with a different one
            kind = _kind_of(vote)
            assert guard is not None, f"sent {_describe(vote)} without a guard"
            position = vote.number, vote.view, STEPS[kind]
            assert guard.position >= position, f"sent {_describe(vote)} too soon"
            silent = self._silent_through.get(slot, 0)
            assert vote.number > silent, (
                f"S8: {_describe(vote)} after a loss, silent through {silent}"
            )
            self.on_voted(vote)
        if isinstance(message, ViewChange) and message.certificate is not None:
            self._check_certificate(message.certificate, "S4: VIEW-CHANGE")

    def on_voted(self, vote: Vote | ViewChangeVote) -> None:
        """Check S2, S3 and S4 of one vote that another node may have seen."""
        kind = _kind_of(vote)
        self._say(vote)
        position = vote.number, vote.view, STEPS[kind]
        slot = self._slot_of(vote.author, vote.number)
        self._last[slot] = max(position, self._last.get(slot, position))
        place = vote.number, vote.author
        if isinstance(vote, ViewChangeVote):
            self._view[place] = max(vote.view, self._view.get(place, View(0)))
            lock = -1 if vote.prepared is None else vote.prepared[0]
            held = self._lock.get(place, -1)
            assert held >= vote.view or lock >= held, f"S4: {_describe(vote)} forgets view {held}"
        else:
            left = self._view.get(place, View(0))
            assert vote.view >= left, f"S3: {_describe(vote)} after leaving for view {left}"
        if isinstance(vote, Vote) and kind is MessageKind.COMMIT:
            self._lock[place] = max(vote.view, self._lock.get(place, View(0)))
            self._note_commit(vote)

    def on_step(self, name: str, before: ReplicaState | None, state: ReplicaState) -> None:
        """Check S5, S6, S1 of the state of a node after a transition, and its bounds."""
        if before is None or before.config is not state.config:
            number, order = state.config.number, state.config.primary_order
            assert state.config.validators == self._sets.validators(number), (
                f"S6: {name} has other validators at {number}"
            )
            assert self._orders.setdefault(number, order) == order, (
                f"S6: {name} has another order at {number}"
            )
        if state.own_prepare is not None and (
            before is None or before.own_prepare is not state.own_prepare
        ):
            self._check_justified(name, state)
        if state.prepared is not None and (before is None or before.prepared is not state.prepared):
            self._check_certificate(state.prepared, f"S1: lock of {name}")
        if before is None or before.log is not state.log:
            self._check_log(name, state)
        n = len(state.config.validators)
        assert len(state.early) <= n * (EARLY_MESSAGES_PER_SENDER + 1), f"early at {name}"
        assert len(state.blocks) <= MAX_KEPT_BLOCKS
        assert len(state.validities) <= MAX_KEPT_VALIDITIES
        assert len(state.answered) <= n

    def on_loss(self, slot: int, durable: GuardState | None) -> None:
        """Note for S8 that votes sent after `durable`, the latest one on disk, were lost."""
        last = self._last.get(slot)
        if last is not None and (durable is None or durable.position < last):
            self._silent_through[slot] = last[0]

    def on_rejection(self, sender: int, reason: str) -> None:
        """Check that no honest node refuses a message of an honest validator."""
        assert sender not in self.honest, f"honest {sender} refused: {reason}"
        self.rejections += 1

    def on_evidence(self, first: Vote, second: Vote | ViewChangeVote) -> None:
        """Check that no honest validator is accused."""
        assert first.author == second.author
        slot = self._slot_of(first.author, first.number)
        assert slot not in self.honest, f"honest {slot} accused: {first} {second}"
        self.evidence += 1

    def check_memory(self, name: str, state: ReplicaState) -> None:
        """Check the bound on the memory that others can fill in a replica."""
        bound = compute_memory_bound(len(state.config.validators))
        assert measure_memory(state) <= bound, f"memory of {name}"

    # Parts of the checks.

    def _slot_of(self, author: ValidatorIndex, number: BlockNumber) -> int:
        return self._sets.members(number)[author]

    def _quorum(self, number: BlockNumber) -> int:
        return -(-2 * len(self._sets.members(number)) // 3)

    def _say(self, vote: Vote | ViewChangeVote) -> None:
        word = _kind_of(vote), vote.number, vote.view, vote.author
        digest = (
            vote.digest if isinstance(vote, Vote) else compute_view_change_payload(vote.prepared)
        )
        assert self._said.setdefault(word, digest) == digest, f"S2: two votes {_describe(vote)}"

    def _note_commit(self, vote: Vote) -> None:
        """Note a block that these COMMITs and those of liars may have decided: no other may be."""
        authors = self._commits[vote.number, vote.view, vote.digest]
        authors.add(vote.author)
        faulty = len(set(self._sets.members(vote.number)) - self.honest)
        decision = vote.view, vote.digest
        decided = self._decidable[vote.number]
        if len(authors) + faulty >= self._quorum(vote.number) and decision not in decided:
            decided.append(decision)

    def _check_justified(self, name: str, state: ReplicaState) -> None:
        """Check S5, by its rule and by its purpose: no other block after a decision."""
        own, proposal = state.own_prepare, state.proposal
        assert own is not None
        assert proposal is not None, f"S5: {name} prepares nothing"
        for view, digest in self._decidable[own.number]:
            assert own.view <= view or own.digest == digest, (
                f"S5: {name} prepares another block at {own.number}/{own.view}, decided in {view}"
            )
        if isinstance(proposal, PrePrepare):
            assert own.view == 0, f"S5: {name} prepares without a NEW-VIEW"
            return
        votes = proposal.view_changes
        authors = {vote.author for vote in votes}
        quorum = self._quorum(own.number)
        assert len(authors) == len(votes) >= quorum, f"S5: {name}: too few VIEW-CHANGEs"
        assert all((vote.number, vote.view) == (own.number, own.view) for vote in votes), (
            f"S5: {name}: VIEW-CHANGEs of another view"
        )
        claims = [vote.prepared for vote in votes if vote.prepared is not None]
        if claims:
            assert max(claims)[1] == own.digest, f"S5: {name}: not the highest prepared block"
            self._check_quorum(own.number, proposal.prepares, f"S5: PREPAREs at {name}")

    def _check_log(self, name: str, state: ReplicaState) -> None:
        log, n = state.log, len(state.config.validators)
        assert len(log.votes) <= n * len(SIGNED_KINDS), f"votes at {name}"
        assert len(log.view_changes) <= n, f"VIEW-CHANGEs at {name}"
        most = max(map(len, log.votes.values()), default=0)
        assert most <= VOTES_KEPT, f"{most} votes of one author at {name}"
        if self._keys.is_real:
            signatures = [vote.signature for votes in log.votes.values() for vote in votes]
            assert all(map(self._keys.is_canonical, signatures)), f"S1: {name} holds a high s"

    def _check_certificate(self, certificate: PreparedCertificate, what: str) -> None:
        self._check_quorum(certificate.block.number, certificate.signatures, what)

    def _check_quorum(self, number: BlockNumber, signatures: QuorumSignatures, what: str) -> None:
        authors, quorum = {author for author, _ in signatures}, self._quorum(number)
        assert len(authors) == len(signatures) >= quorum, (
            f"{what}: {len(authors)} of {quorum} authors"
        )
        assert all(self._keys.is_canonical(Signature(each)) for _, each in signatures), (
            f"{what}: a high s"
        )


def measure_memory(state: ReplicaState) -> int:
    """The bytes of others' messages in a replica, in the encoding of the wire, without blocks."""
    log = state.log
    votes = sum(map(len, log.votes.values())) * VOTE_LIMIT_BYTES
    certificates = [held.certificate for held in log.view_changes.values()]
    signatures = sum(len(each.signatures) for each in certificates if each is not None)
    changes = len(certificates) * VOTE_LIMIT_BYTES + signatures * SIGNATURE_BYTES
    early = sum(_measure_early(held.message) for held in state.early)
    return votes + changes + early


def compute_memory_bound(n: int) -> int:
    """The most that `measure_memory` may be: a share for each of the n validators."""
    votes = len(SIGNED_KINDS) * VOTES_KEPT * VOTE_LIMIT_BYTES
    change = VOTE_LIMIT_BYTES + n * SIGNATURE_BYTES
    early = EARLY_MESSAGES_PER_SENDER * VOTE_LIMIT_BYTES + (n + 1) * VOTE_LIMIT_BYTES
    certificates = EARLY_MESSAGES_PER_SENDER * n * SIGNATURE_BYTES
    return n * (votes + change + early + certificates)


def _measure_early(message: Message) -> int:
    match message:
        case NewView(_, votes, prepares):
            return (1 + len(votes) + len(prepares)) * VOTE_LIMIT_BYTES
        case ViewChange(_, certificate):
            count = 0 if certificate is None else len(certificate.signatures)
            return VOTE_LIMIT_BYTES + count * SIGNATURE_BYTES
        case Committed(_, _, certificate):
            return VOTE_LIMIT_BYTES + len(certificate.signatures) * SIGNATURE_BYTES
        case _:
            return VOTE_LIMIT_BYTES


def _kind_of(vote: Vote | ViewChangeVote) -> MessageKind:
    return vote.kind if isinstance(vote, Vote) else MessageKind.VIEW_CHANGE


def _describe(vote: Vote | ViewChangeVote) -> str:
    return f"{_kind_of(vote).name} {vote.number}/{vote.view} of {vote.author}"


def _list_votes(message: Message) -> list[Vote | ViewChangeVote]:
    match message:
        case Vote():
            return [message]
        case PrePrepare(vote, _):
            return [vote]
        case NewView(pre_prepare, _, _):
            return [pre_prepare.vote]
        case ViewChange(vote, _):
            return [vote]
        case _:
            return []
