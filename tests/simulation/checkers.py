"""What must hold after every step of a simulation; a violation is an AssertionError."""

from chain.consensus.guard import GuardState, Step
from chain.consensus.messages import (
    Message,
    MessageKind,
    NewView,
    PrePrepare,
    ViewChange,
    ViewChangeVote,
    Vote,
    compute_view_change_payload,
)
from chain.primitives import BlockNumber, Hash32, ValidatorIndex, View
from chain.types.block import Block

Word = tuple[MessageKind, BlockNumber, View, ValidatorIndex]

STEPS = {
    MessageKind.PRE_PREPARE: Step.PREPARE,
    MessageKind.PREPARE: Step.PREPARE,
    MessageKind.COMMIT: Step.COMMIT,
    MessageKind.VIEW_CHANGE: Step.VIEW_CHANGE,
}


class Checkers:
    """Agreement, no double vote, durable before sent, and no honest validator accused."""

    def __init__(self, honest: frozenset[ValidatorIndex]) -> None:
        self.honest = honest
        self.final: dict[BlockNumber, Hash32] = {}
        self.evidence = 0
        self._said: dict[Word, Hash32] = {}

    def on_final(self, name: str, block: Block) -> None:
        """Agreement: one block a number."""
        first = self.final.setdefault(block.number, block.hash)
        assert first == block.hash, f"fork at {block.number}, {name} disagrees"

    def on_sent(self, guard: GuardState, message: Message) -> None:
        """No double vote, across restarts too, and nothing sent that the guard has not seen."""
        for vote in _own_votes(message):
            digest = (
                vote.digest
                if isinstance(vote, Vote)
                else compute_view_change_payload(vote.prepared)
            )
            kind = vote.kind if isinstance(vote, Vote) else MessageKind.VIEW_CHANGE
            word = kind, vote.number, vote.view, vote.author
            assert self._said.setdefault(word, digest) == digest, f"double vote {word}"
            assert guard.position >= (vote.number, vote.view, STEPS[kind]), f"sent {word} too soon"

    def on_rejection(self, sender: ValidatorIndex, reason: str) -> None:
        """No honest validator sends what an honest one refuses."""
        assert sender not in self.honest, f"honest {sender} refused: {reason}"

    def on_evidence(self, first: Vote, second: Vote | ViewChangeVote) -> None:
        """No honest validator is accused."""
        assert first.author == second.author
        assert first.author not in self.honest, f"honest {first.author} accused: {first} {second}"
        self.evidence += 1


def _own_votes(message: Message) -> list[Vote | ViewChangeVote]:
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
