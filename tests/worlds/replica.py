"""Replicas, blocks and messages; a signature is a token that holds author and digest in clear."""

from collections.abc import Sequence

from chain.consensus import pbft
from chain.consensus.inputs import BlockValidated, Input, MessageReceived, NumberConfig, Timing
from chain.consensus.messages import (
    Message,
    MessageKind,
    NewView,
    PreparedCertificate,
    PrePrepare,
    SigningDomain,
    Status,
    ViewChange,
    ViewChangeVote,
    Vote,
    compute_signing_digest,
    compute_view_change_payload,
)
from chain.consensus.pbft import ReplicaState, Sign, Transition
from chain.primitives import (
    ZERO_HASH,
    Address,
    BlockNumber,
    Hash32,
    Signature,
    ValidatorIndex,
    View,
)
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from tests.worlds.values import make_header

DOMAIN = SigningDomain(chain_id=1337, genesis_hash=Hash32(b"\x11" * 32), version=1)
PARENT = Hash32(b"\x22" * 32)
TIMING = Timing(
    min_block_interval_ms=200,
    empty_block_interval_ms=1_000,
    view_timeout_base_ms=1_000,
    view_timeout_cap_ms=10_000,
    resend_interval_ms=500,
)


def validators_of(n: int) -> tuple[Address, ...]:
    return tuple(Address(bytes([16 + index] * 20)) for index in range(n))


def make_block(
    tag: int = 0,
    *,
    number: int = 1,
    parent: Hash32 = PARENT,
    coinbase: int = 0,
    transactions: tuple[bytes, ...] = (),
) -> Block:
    """A block that differs from others by `tag`; `coinbase` is a validator index."""
    header = make_header(
        number, parent_hash=parent, coinbase=Address(bytes([16 + coinbase] * 20)), timestamp=tag
    )
    return Block(header, transactions, None)


BLOCK_A = make_block(1)
BLOCK_B = make_block(2)


def token_signer(author: int) -> Sign:
    def sign(digest: Hash32) -> Signature:
        return Signature(author.to_bytes(2, "big") + digest + bytes(31))

    return sign


def token_recover(validators: Sequence[Address]):
    def recover(digest: Hash32, signature: bytes) -> Address | None:
        author = int.from_bytes(signature[:2], "big")
        if signature != signature[:2] + digest + bytes(31) or author >= len(validators):
            return None
        return validators[author]

    return recover


def config_of(
    own_index: int | None = 1, *, n: int = 4, number: int = 1, has_transaction: bool = False
) -> NumberConfig:
    """A block number in which validator i has view i; by default our replica is a backup."""
    return NumberConfig(
        number=BlockNumber(number),
        parent_hash=PARENT,
        validators=validators_of(n),
        primary_order=tuple(ValidatorIndex(index) for index in range(n)),
        own_index=None if own_index is None else ValidatorIndex(own_index),
        domain=DOMAIN,
        timing=TIMING,
        has_transaction=has_transaction,
    )


def vote(
    kind: MessageKind, author: int, block: Block = BLOCK_A, *, view: int = 0, number: int = 1
) -> Vote:
    digest = compute_signing_digest(DOMAIN, kind, BlockNumber(number), View(view), block.hash)
    return Vote(
        kind,
        BlockNumber(number),
        View(view),
        block.hash,
        ValidatorIndex(author),
        token_signer(author)(digest),
    )


def prepare(author: int, block: Block = BLOCK_A, *, view: int = 0, number: int = 1) -> Vote:
    return vote(MessageKind.PREPARE, author, block, view=view, number=number)


def commit(author: int, block: Block = BLOCK_A, *, view: int = 0, number: int = 1) -> Vote:
    return vote(MessageKind.COMMIT, author, block, view=view, number=number)


def pre_prepare(
    block: Block = BLOCK_A, *, author: int = 0, view: int = 0, number: int = 1
) -> PrePrepare:
    return PrePrepare(vote(MessageKind.PRE_PREPARE, author, block, view=view, number=number), block)


def quorum_of(
    kind: MessageKind, authors: Sequence[int], block: Block = BLOCK_A, *, view: int = 0
) -> tuple[tuple[ValidatorIndex, Signature], ...]:
    return tuple(
        (ValidatorIndex(author), vote(kind, author, block, view=view).signature)
        for author in authors
    )


def prepared(
    block: Block = BLOCK_A, *, view: int = 0, authors: Sequence[int] = (0, 1, 2)
) -> PreparedCertificate:
    return PreparedCertificate(
        View(view), block, quorum_of(MessageKind.PREPARE, authors, block, view=view)
    )


def certificate(
    block: Block = BLOCK_A, *, view: int = 0, authors: Sequence[int] = (0, 1, 2)
) -> CommitCertificate:
    return CommitCertificate(View(view), quorum_of(MessageKind.COMMIT, authors, block, view=view))


def view_change(
    author: int, view: int, certificate: PreparedCertificate | None = None, *, number: int = 1
) -> ViewChange:
    lock = None if certificate is None else (certificate.view, certificate.block.hash)
    digest = compute_signing_digest(
        DOMAIN,
        MessageKind.VIEW_CHANGE,
        BlockNumber(number),
        View(view),
        compute_view_change_payload(lock),
    )
    signature = token_signer(author)(digest)
    signed = ViewChangeVote(
        BlockNumber(number), View(view), lock, ValidatorIndex(author), signature
    )
    return ViewChange(signed, certificate)


def new_view(
    view: int,
    block: Block,
    view_changes: Sequence[ViewChange],
    prepares: tuple[tuple[ValidatorIndex, Signature], ...] = (),
    *,
    author: int | None = None,
) -> NewView:
    proposer = view % 4 if author is None else author
    return NewView(
        pre_prepare(block, author=proposer, view=view),
        tuple(each.vote for each in view_changes),
        prepares,
    )


def status(author: int, *, view: int = 0, number: int = 1, digest: Hash32 = ZERO_HASH) -> Status:
    signed = compute_signing_digest(
        DOMAIN, MessageKind.STATUS, BlockNumber(number), View(view), digest
    )
    return Status(
        BlockNumber(number),
        View(view),
        digest,
        ValidatorIndex(author),
        token_signer(author)(signed),
    )


def valid(block: Block = BLOCK_A, *, fresh: bool = True) -> BlockValidated:
    return BlockValidated(block.hash, is_valid=True, is_fresh=fresh)


def received(message: Message, sender: int | None = None) -> MessageReceived:
    """The message from `sender`, or from its author."""
    if sender is None:
        match message:
            case PrePrepare(signed, _) | ViewChange(signed, _):
                sender = signed.author
            case NewView(proposal, _, _):
                sender = proposal.vote.author
            case Vote() | Status():
                sender = message.author
            case _:
                sender = 0
    return MessageReceived(ValidatorIndex(sender), message)


def apply(state: ReplicaState, event: Input | Message) -> Transition:
    """`pbft.apply` with the replica's token signer; a bare message is received from its author."""
    if isinstance(event, Message):
        event = received(event)
    own_index = state.config.own_index
    return pbft.apply(state, event, None if own_index is None else token_signer(own_index))


def run(state: ReplicaState, *events: Input | Message) -> Transition:
    """The state after all events, and the effects of the last one."""
    transition = Transition(state)
    for event in events:
        transition = apply(transition.state, event)
    return transition


def backup(own_index: int = 1, *, n: int = 4) -> ReplicaState:
    """A backup at the start of number 1."""
    return pbft.start(config_of(own_index, n=n)).state
