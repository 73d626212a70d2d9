"""This node's answers to peers about training: the reveals and the state parts that it holds.

Answers are read from small files. Peers may ask often, so this happens in one thread, and the
reveals of an attempt are read again only when its folder has changed.
"""

import time
from collections.abc import Sequence
from typing import Final

import trio
from cachetools import FIFOCache

from chain.primitives import Hash32
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from node.training.reveal_store import RevealStore
from node.training.state_parts import StatePartStore

ANNOUNCED_LIMIT: Final = 1_024
"""The most announcements that wait for the training host. Further ones are dropped, which is
harmless: the host asks its peers for every reveal that it lacks."""


CACHED_ATTEMPTS: Final = 16
"""Attempts whose reveals are kept in memory, at most 1 024 of 160 bytes each."""

SETTLED_NS: Final = 10**9
"""A folder that changed so recently may change again without a new time of its last change."""


class ServedTraining:
    """Answers peers from the stores (node.network.protocols.training.TrainingSource)."""

    def __init__(self, reveals: RevealStore, state_parts: StatePartStore) -> None:
        self._reveals = reveals
        self._state_parts = state_parts
        self._thread = trio.CapacityLimiter(1)
        self._cached: FIFOCache[AttemptId, tuple[int, Sequence[Reveal]]] = FIFOCache(
            CACHED_ATTEMPTS
        )
        """Reveals and the time of the last change of their folder. Only the one thread uses it."""
        self._announce, self.announced = trio.open_memory_channel[Reveal](ANNOUNCED_LIMIT)
        """The reveals that peers announced, unchecked; the training host receives them."""

    async def list_reveals(self, attempt_id: AttemptId) -> Sequence[Reveal]:
        """The reveals of an attempt that are held here."""
        return await trio.to_thread.run_sync(self._list, attempt_id, limiter=self._thread)

    def _list(self, attempt_id: AttemptId) -> Sequence[Reveal]:
        changed_ns = self._reveals.get_change_ns(attempt_id)
        if changed_ns is None:
            return ()
        known = self._cached.get(attempt_id)
        if known is not None and known[0] == changed_ns:
            return known[1]
        reveals = self._reveals.list(attempt_id)
        if time.time_ns() - changed_ns > SETTLED_NS:
            self._cached[attempt_id] = (changed_ns, reveals)
        return reveals

    async def get_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root; None if they are not known here."""
        return await trio.to_thread.run_sync(
            self._state_parts.get, state_root, limiter=self._thread
        )

    def on_announced_reveal(self, reveal: Reveal) -> None:
        """Pass a reveal that a peer announced on to the training host."""
        try:
            self._announce.send_nowait(reveal)
        except trio.WouldBlock:
            return
