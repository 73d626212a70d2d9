"""Joins the parts in which a peer sends a task record (docs/spec/wire.md, section 9).

A task may have paid more accounts than fit into one answer. No part can be verified alone, for the
contracts hold one hash of all accounts. So all parts of a record come from one peer, which is to
blame if they do not fit.
"""

from collections.abc import Sequence
from typing import Final

from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import TaskId
from node.network.protocols.state import TaskRecord
from node.network.stream import PeerId

PAID_ACCOUNTS_LIMIT: Final = 2**21
"""Accounts of one task. They are in memory until they are verified: 400 MB, so a lying peer cannot
fill it. For so many a validator needs 2 GB to vote for a result."""


class RecordPages:
    """The record that one peer has begun to send."""

    def __init__(self) -> None:
        self.peer_id: PeerId | None = None
        """The peer that has begun a record; None if no record is begun."""
        self._task_id = TaskId(0)
        self._record = TaskRecord(b"", (), is_complete=False)

    def get_after(self, peer_id: PeerId, task_id: TaskId) -> bytes:
        """The account after which the peer is to go on with a task; empty at the beginning."""
        if (peer_id, task_id) != (self.peer_id, self._task_id):
            return b""
        return self._record.rewards[-1][0]

    def join(
        self, peer_id: PeerId, first: TaskId, records: Sequence[TaskRecord]
    ) -> tuple[TaskRecord, ...]:
        """The complete records from `first` on, after the next answer of a peer.

        Args:
            peer_id: The peer.
            first: The first task that was asked for.
            records: The answer; at least one record, and only the last may be incomplete.

        Raises:
            RejectedInputError: CONTENT_MISMATCH: the answer does not go on where the last one
                ended, or never ends.
        """
        after = self.get_after(peer_id, first)
        begun = self._record if after else None
        self.peer_id = None
        head = records[0]
        if begun is not None:
            if (head.rewards and head.rewards[0][0] <= after) or head.spec != begun.spec:
                raise _misfit("another record than the one begun")
            head = TaskRecord(head.spec, begun.rewards + head.rewards, head.is_complete)
        joined = (head, *records[1:])
        if joined[-1].is_complete:
            return joined
        if not records[-1].rewards or len(joined[-1].rewards) > PAID_ACCOUNTS_LIMIT:
            raise _misfit("a record without end")
        self.peer_id, self._task_id = peer_id, TaskId(first + len(joined) - 1)
        self._record = joined[-1]
        return joined[:-1]


def _misfit(detail: str) -> RejectedInputError:
    return RejectedInputError(RejectionReason.CONTENT_MISMATCH, detail)
