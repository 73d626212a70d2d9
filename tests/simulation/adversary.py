"""Validators that lie: real replicas whose outgoing messages are rewritten.

All liars of a world have the same habits and know each other's messages, so that they vote for the
same second block towards the same half of the network.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from chain.consensus.messages import (
    Message,
    MessageKind,
    NewView,
    PreparedCertificate,
    PrePrepare,
    Status,
    ViewChange,
    ViewChangeVote,
    Vote,
    compute_signing_digest,
    compute_view_change_payload,
    message_to_item,
)
from chain.primitives import (
    UINT64_MAX,
    BlockNumber,
    Hash32,
    Signature,
    ValidatorIndex,
    View,
)
from chain.types.block import Block
from node.consensus.served_blocks import list_proposed

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster, Node

HABITS = (
    "equivocate",  # a second proposal, and votes for it, to one half
    "mute",  # some kinds are withheld from some
    "mutate",  # number, view, digest or prepared view is changed (ByzzFuzz)
    "forget",  # VIEW-CHANGEs claim nothing, or the oldest certificate known
    "boast",  # VIEW-CHANGEs claim a high view with an invalid certificate
    "usurp",  # NEW-VIEWs propose a fresh block or that of the lowest certificate, against the locks
    "skip",  # no proposal in its turn
    "invalid",  # proposals that no rule allows
    "early",  # proposals from the future
    "flood",  # numbers and views up to 2^64 - 1
    "replay",  # earlier messages are sent again
    "malleate",  # signatures with high s
)
CLOCK_HABITS = (
    "past",  # proposals have their parent's timestamp, and come late
    "ahead",  # each proposal is a second after its parent
)
"""Habits that only the worlds of the family "clocks" have."""

KEPT_WORDS = 64


class Adversary:
    """Makes the messages of the liars of one world."""

    def __init__(self, cluster: "Cluster", habits: tuple[str, ...]) -> None:
        self._cluster = cluster
        self._habits = frozenset(habits)
        self._random = cluster.random
        self._second: dict[Hash32, Block] = {}
        """For the hash of an honest proposal, the block that the other half gets instead."""
        self.equivocations = 0
        self.zeal = 3
        """The number of flood messages for each receiver and lie."""
        self._certificates: list[PreparedCertificate] = []
        self._words: list[Message] = []

    def is_hidden(self, node: "Node", kind: str) -> bool:
        """Whether this node withholds its chain from others."""
        return node.is_liar and "mute" in self._habits and kind == "BLOCK"

    def rewrite(self, node: "Node", receiver: int, message: Message) -> Iterator[Message]:
        """The messages that a liar sends to `receiver` instead of `message`."""
        self._learn(message)
        if "mute" in self._habits and self._is_muted(node, receiver, message):
            return
        lie = message
        if isinstance(lie, PrePrepare | NewView):
            changed = self._rewrite_proposal(node, receiver, lie)
            if changed is None:
                return
            lie = changed
        elif isinstance(lie, Vote):
            second = self._second.get(lie.digest)
            if second is not None and self._is_other_half(receiver):
                lie = self._revote(node, lie, digest=second.hash)
        elif isinstance(lie, ViewChange):
            lie = self._rewrite_view_change(node, lie)
        if "mutate" in self._habits and self._random.random() < 0.1:
            lie = self._mutate(node, lie)
        if "malleate" in self._habits and isinstance(lie, Vote) and self._random.random() < 0.5:
            twin = self._cluster.keys.make_twin(lie.signature)
            yield replace(lie, signature=twin)
        yield lie

    def invent(self, node: "Node") -> Iterator[tuple[int, Message]]:
        """The messages that a liar sends without a cause."""
        for receiver in range(self._cluster.n):
            if receiver == node.slot:
                continue
            if "flood" in self._habits:
                for _ in range(self.zeal):
                    yield receiver, self._make_noise(node)
            if "replay" in self._habits and self._words:
                yield receiver, self._random.choice(self._words)

    # Proposals.

    def choose_timestamp(self, node: "Node", seconds: int) -> int:
        """The timestamp of a liar's own block, which the builder raises to the parent's."""
        if "past" in self._habits:
            return 0
        if "ahead" in self._habits:
            chain = node.disk.chain
            return chain[-1][0].header.timestamp + 1 if chain else seconds
        return seconds

    def count_dawdling_ms(self, node: "Node") -> int:
        """How long a liar with an old timestamp waits before it proposes."""
        if not node.is_liar or "past" not in self._habits:
            return 0
        return self._random.randrange(self._cluster.world.timing.view_timeout_base_ms)

    def _rewrite_proposal(
        self, node: "Node", receiver: int, proposal: PrePrepare | NewView
    ) -> Message | None:
        pre_prepare = proposal.pre_prepare if isinstance(proposal, NewView) else proposal
        is_new = isinstance(proposal, PrePrepare) or not proposal.prepares
        if "skip" in self._habits:
            return None
        if is_new and "invalid" in self._habits:
            header = replace(pre_prepare.block.header, gas_used=1)
            return self._repropose(node, proposal, replace(pre_prepare.block, header=header))
        if is_new and "early" in self._habits and node.head + 1 == proposal.number:
            header = replace(
                pre_prepare.block.header, timestamp=pre_prepare.block.header.timestamp + 3
            )
            return self._repropose(node, proposal, replace(pre_prepare.block, header=header))
        if "usurp" in self._habits and isinstance(proposal, NewView) and proposal.prepares:
            return self._usurp(node, proposal)
        if is_new and "equivocate" in self._habits and node.head + 1 == proposal.number:
            digest = pre_prepare.block.hash
            if digest not in self._second:
                self._second[digest] = self._cluster.build(node, seconds_later=1)
                self.equivocations += 1
            if self._is_other_half(receiver):
                return self._repropose(node, proposal, self._second[digest])
        return proposal

    def _usurp(self, node: "Node", proposal: NewView) -> Message:
        """Propose a block that the locks forbid."""
        low = min(
            (each for each in self._certificates if each.block.number == proposal.number),
            key=lambda each: each.view,
            default=None,
        )
        if low is not None and self._random.random() < 0.5:
            return replace(self._repropose(node, proposal, low.block), prepares=low.signatures)
        if node.head + 1 != proposal.number:
            return proposal
        fresh = self._cluster.build(node, seconds_later=1)
        return replace(self._repropose(node, proposal, fresh), prepares=())

    def _repropose(
        self, node: "Node", proposal: PrePrepare | NewView, block: Block
    ) -> PrePrepare | NewView:
        old = proposal.pre_prepare if isinstance(proposal, NewView) else proposal
        pre_prepare = PrePrepare(self._revote(node, old.vote, digest=block.hash), block)
        if isinstance(proposal, NewView):
            return replace(proposal, pre_prepare=pre_prepare)
        return pre_prepare

    # VIEW-CHANGEs.

    def _rewrite_view_change(self, node: "Node", message: ViewChange) -> ViewChange:
        vote = message.vote
        if "boast" in self._habits and vote.view > 0:
            block = message.certificate.block if message.certificate else self._any_block(node)
            if block is not None:
                view = View(vote.view - 1)
                prepare = self._sign_word(node, MessageKind.PREPARE, vote.number, view, block.hash)
                count = self._random.randrange(1, self._cluster.n + 1)
                own = self._cluster.sets.index_of(node.slot, vote.number)
                authors = self._random.choice((range(count), [own] * self._cluster.n))
                signatures = tuple((ValidatorIndex(author), prepare) for author in authors)
                certificate = PreparedCertificate(view, block, signatures)
                return self._reclaim(node, vote, certificate)
        if "forget" in self._habits:
            old = [
                each
                for each in self._certificates
                if each.block.number == vote.number and each.view < vote.view
            ]
            if old and self._random.random() < 0.5:
                return self._reclaim(node, vote, min(old, key=lambda each: each.view))
            return self._reclaim(node, vote, None)
        return message

    def _reclaim(
        self, node: "Node", vote: ViewChangeVote, certificate: PreparedCertificate | None
    ) -> ViewChange:
        prepared = None if certificate is None else (certificate.view, certificate.block.hash)
        payload = compute_view_change_payload(prepared)
        signature = self._sign_word(node, MessageKind.VIEW_CHANGE, vote.number, vote.view, payload)
        return ViewChange(replace(vote, prepared=prepared, signature=signature), certificate)

    # Noise.

    def _mutate(self, node: "Node", message: Message) -> Message:
        random = self._random
        match message:
            case Vote():
                other = random.choice(self._words) if self._words else message
                digest = other.digest if isinstance(other, Vote) else message.digest
                return self._revote(
                    node,
                    message,
                    number=self._nudge(message.number),
                    view=self._nudge(message.view),
                    digest=digest,
                )
            case ViewChange(vote, certificate):
                moved = replace(vote, view=View(max(1, self._nudge(vote.view))))
                return self._reclaim(node, moved, certificate)
            case NewView(pre_prepare, votes, prepares):
                moved = replace(
                    pre_prepare,
                    vote=self._revote(
                        node, pre_prepare.vote, view=self._nudge(pre_prepare.vote.view)
                    ),
                )
                return NewView(moved, votes[: random.randrange(len(votes) + 1)], prepares)
            case Status(number, view, digest, author, _):
                number = BlockNumber(self._nudge(number))
                signature = self._sign_word(node, MessageKind.STATUS, number, view, digest)
                return Status(number, view, digest, author, signature)
            case _:
                return message

    def _make_noise(self, node: "Node") -> Message:
        random = self._random
        head = node.head
        near = head + random.randrange(8)
        number = BlockNumber(random.choice((head + 1, head + 1, near, 2**63, UINT64_MAX)))
        view = View(random.choice((random.randrange(40), 2 ** random.randrange(64), UINT64_MAX)))
        digest = Hash32(random.randbytes(32))
        author = self._cluster.sets.index_of(node.slot, BlockNumber(head + 1)) or ValidatorIndex(0)
        match random.randrange(4):
            case 0:
                signature = self._sign_word(node, MessageKind.STATUS, number, view, digest)
                return Status(number, view, digest, author, signature)
            case 1:
                blank = ViewChangeVote(number, view, None, author, Signature(bytes(65)))
                return self._reclaim(node, replace(blank, view=View(max(1, view))), None)
            case _:
                kind = random.choice((MessageKind.PREPARE, MessageKind.COMMIT))
                signature = self._sign_word(node, kind, number, view, digest)
                return Vote(kind, number, view, digest, author, signature)

    # Small helpers.

    def _learn(self, message: Message) -> None:
        if len(self._words) < KEPT_WORDS:
            self._words.append(message)
        else:
            self._words[self._random.randrange(KEPT_WORDS)] = message
        certificate = message.certificate if isinstance(message, ViewChange) else None
        if certificate is not None and certificate not in self._certificates:
            self._certificates = [*self._certificates, certificate][-KEPT_WORDS:]

    def _is_muted(self, node: "Node", receiver: int, message: Message) -> bool:
        kind = int(message_to_item(message)[0])
        return (kind * 7 + receiver * 3 + node.head) % 3 == 0

    def _is_other_half(self, receiver: int) -> bool:
        return receiver % 2 == 1

    def _any_block(self, node: "Node") -> Block | None:
        return None if node.state is None else next(iter(list_proposed(node.state)), None)

    def _nudge(self, value: int) -> int:
        step = self._random.choice((-1, 0, 0, 0, 1, 1, 2**40))
        return min(UINT64_MAX, max(0, value + step))

    def _revote(self, node: "Node", vote: Vote, **changes: object) -> Vote:
        moved = replace(vote, **changes)
        signature = self._sign_word(node, moved.kind, moved.number, moved.view, moved.digest)
        return replace(moved, signature=signature)

    def _sign_word(
        self, node: "Node", kind: MessageKind, number: int, view: int, payload: Hash32
    ) -> Signature:
        digest = compute_signing_digest(
            self._cluster.domain, kind, BlockNumber(number), View(view), payload
        )
        return self._cluster.keys.signer(node.slot)(digest)
