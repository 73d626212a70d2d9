"""This node's answers to peers about training: the reveals and the state parts that it holds."""

from collections.abc import Sequence
from typing import Final

import trio

from chain.primitives import Hash32
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from node.training.reveal_store import RevealStore
from node.training.state_parts import StatePartStore

ANNOUNCED_LIMIT: Final = 1_024
"""The most announcements that wait for the training host. Further ones are dropped, which is
harmless: the host asks its peers for every reveal that it lacks."""


class ServedTraining:
    """Answers peers from the stores (node.network.protocols.training.TrainingSource)."""

    def __init__(self, reveals: RevealStore, state_parts: StatePartStore) -> None:
        self._reveals = reveals
        self._state_parts = state_parts
        self._announce, self.announced = trio.open_memory_channel[Reveal](ANNOUNCED_LIMIT)
        """The reveals that peers announced, unchecked; the training host receives them."""

    def list_reveals(self, attempt_id: AttemptId) -> Sequence[Reveal]:
        """The reveals of an attempt that are held here."""
        return self._reveals.list(attempt_id)

    def get_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root; None if they are not known here."""
        return self._state_parts.get(state_root)

    def on_announced_reveal(self, reveal: Reveal) -> None:
        """Pass a reveal that a peer announced on to the training host."""
        try:
            self._announce.send_nowait(reveal)
        except trio.WouldBlock:
            return
