"""Announced reveals of commitments that are not known yet."""

from dataclasses import replace

from chain.primitives import Hash32
from node.training.reveal_hints import RevealHints
from tests.worlds.training_node import ATTEMPT, REVEALS


def test_all_reveals_of_a_miner_are_given_once_the_oldest_first() -> None:
    hints = RevealHints()
    lie = replace(REVEALS[0], gradient_root=Hash32(b"\x66" * 32))
    for reveal in (lie, REVEALS[0], REVEALS[1], lie):
        hints.note(reveal)
    assert hints.pop(ATTEMPT, REVEALS[0].miner) == [lie, REVEALS[0]]
    assert hints.pop(ATTEMPT, REVEALS[0].miner) == []
    assert len(hints) == 1


def test_oldest_reveal_is_forgotten_for_a_further_one() -> None:
    hints = RevealHints(limit=2)
    for reveal in REVEALS[:3]:
        hints.note(reveal)
    assert [hints.pop(ATTEMPT, each.miner) for each in REVEALS[:3]] == [
        [],
        [REVEALS[1]],
        [REVEALS[2]],
    ]
