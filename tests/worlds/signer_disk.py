"""A guard and a log in memory, for replicas whose disks never fail."""

from collections.abc import Sequence

from chain.consensus.guard import GuardState, build_floor_guard
from chain.primitives import BlockNumber
from node.consensus.wal import WalRecord


class MemoryGuard:
    """The guard of a new validator, which may vote on number 1."""

    def __init__(self) -> None:
        self._state = build_floor_guard(BlockNumber(1))

    def load(self) -> GuardState:
        return self._state

    def save(self, state: GuardState) -> None:
        self._state = state


class MemoryLog:
    """A log that keeps what is appended."""

    def __init__(self) -> None:
        self._records: list[WalRecord] = []

    def records(self) -> Sequence[WalRecord]:
        return self._records

    def append(self, number: BlockNumber, payload: bytes) -> None:
        self._records.append(WalRecord(number, payload))

    def truncate_through(self, number: BlockNumber) -> None:
        self._records = [record for record in self._records if record.number > number]
