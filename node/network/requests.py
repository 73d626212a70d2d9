"""Requests to peers, one method for each (docs/spec/wire.md, sections 6 to 9)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import trio

from chain.errors import RejectedInputError
from chain.primitives import BlockNumber, Hash32, TaskId
from chain.state.walk import VerifiedChunk
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.receipt import Receipt
from node.network.peers import PeerInfo
from node.network.protocols import blob_fetch, blobs, blocks, state, training
from node.network.protocols.blobs import BlobExchange
from node.network.protocols.state import TaskRecord
from node.network.sessions import Sessions
from node.network.stream import FrameStream, PeerId, StreamClosedError, UnreachablePeerError
from node.network.wire import MAX_BLOB_BYTES

REQUEST_SECONDS: Final = 30.0
"""How long an answer, of at most 8 MiB, may take."""

_Answer = TypeVar("_Answer")


class ConnectedPeers(Protocol):
    """The peers of a node, and reports of their faults."""

    def peers(self) -> tuple[PeerInfo, ...]:
        """The peers that have a session, by peer id."""

    def report_fault(self, peer_id: PeerId, error: RejectedInputError) -> None:
        """Lower the score of a peer that sent well-formed but wrong data, such as a bad block."""


class BlockPeers(ConnectedPeers, Protocol):
    """Peers that can be asked for blocks."""

    async def request_blocks(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        """See PeerRequests."""

    async def request_block_by_hash(self, peer_id: PeerId, block_hash: Hash32) -> Block | None:
        """See PeerRequests."""

    async def request_headers(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Header, CommitCertificate | None], ...]:
        """See PeerRequests."""


class SnapshotPeers(BlockPeers, Protocol):
    """Peers that can be asked for all parts of a snapshot."""

    async def request_receipts(
        self, peer_id: PeerId, numbers: Sequence[BlockNumber]
    ) -> tuple[tuple[Receipt, ...], ...]:
        """See PeerRequests."""

    async def request_state_chunk(
        self, peer_id: PeerId, number: BlockNumber, state_root: Hash32, start: bytes, end: bytes
    ) -> VerifiedChunk | None:
        """See PeerRequests."""

    async def request_state_nodes(
        self, peer_id: PeerId, hashes: Sequence[Hash32]
    ) -> dict[bytes, bytes]:
        """See PeerRequests."""

    async def request_task_records(
        self, peer_id: PeerId, number: BlockNumber, first: TaskId, count: int, after: bytes
    ) -> tuple[TaskRecord, ...] | None:
        """See PeerRequests."""


class PeerRequests:
    """Asks peers that have a session.

    Every request to one peer raises:
        UnreachablePeerError: There is no connection, no answer in time, or the stream ended.
        RejectedInputError: The answer breaks the rules; the peer has been penalized.
    """

    def __init__(self, sessions: Sessions, blob_exchange: BlobExchange) -> None:
        self._sessions = sessions
        self._blobs = blob_exchange
        self.slow_peers = blob_exchange.slow_peers

    def list_preferred(self) -> tuple[PeerId, ...]:
        """The peers that have a session, validators first and slow ones last."""
        return self.slow_peers.sort(self._sessions.list_preferred())

    def peers(self) -> tuple[PeerInfo, ...]:
        """The peers that have a session, by peer id."""
        return self._sessions.peers()

    def report_fault(self, peer_id: PeerId, error: RejectedInputError) -> None:
        """Lower the score of a peer that sent well-formed but wrong data, such as a bad block."""
        self._sessions.report_fault(peer_id, error)

    async def request_blocks(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        """Blocks from `first_number` on, each with its certificate; fewer if there are no more."""
        return await self._ask(
            peer_id,
            blocks.PROTOCOL_ID,
            lambda stream: blocks.request_blocks(stream, first_number, count),
        )

    async def request_block_by_hash(self, peer_id: PeerId, block_hash: Hash32) -> Block | None:
        """A block that the peer holds, finalized or not; None if it does not hold it."""
        return await self._ask(
            peer_id,
            blocks.PROTOCOL_ID,
            lambda stream: blocks.request_block_by_hash(stream, block_hash),
        )

    async def request_headers(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Header, CommitCertificate | None], ...]:
        """Headers from `first_number` on, each with its certificate if the peer holds that."""
        return await self._ask(
            peer_id,
            blocks.PROTOCOL_ID,
            lambda stream: blocks.request_headers(stream, first_number, count),
        )

    async def request_receipts(
        self, peer_id: PeerId, numbers: Sequence[BlockNumber]
    ) -> tuple[tuple[Receipt, ...], ...]:
        """The receipts of these blocks, unverified; only of the first ones if not all fit."""
        return await self._ask(
            peer_id, blocks.PROTOCOL_ID, lambda stream: blocks.request_receipts(stream, numbers)
        )

    async def request_state_chunk(
        self, peer_id: PeerId, number: BlockNumber, state_root: Hash32, start: bytes, end: bytes
    ) -> VerifiedChunk | None:
        """A verified part of the state after a block; None if the peer does not hold the state.

        It begins at `start`, and ends before `end` or where the chunk is full.
        """
        return await self._ask(
            peer_id,
            state.PROTOCOL_ID,
            lambda stream: state.request_chunk(stream, number, state_root, start, end),
        )

    async def request_state_nodes(
        self, peer_id: PeerId, hashes: Sequence[Hash32]
    ) -> dict[bytes, bytes]:
        """The trie nodes and contract code with these hashes that the peer holds, by hash."""
        return await self._ask(
            peer_id, state.PROTOCOL_ID, lambda stream: state.request_nodes(stream, hashes)
        )

    async def request_task_records(
        self, peer_id: PeerId, number: BlockNumber, first: TaskId, count: int, after: bytes
    ) -> tuple[TaskRecord, ...] | None:
        """The records of some tasks as of a block, unverified; None if the peer has none.

        Of the first task they have accounts above `after` only, an address or empty; the last one
        may be incomplete.
        """
        return await self._ask(
            peer_id,
            state.PROTOCOL_ID,
            lambda stream: state.request_records(stream, number, first, count, after),
        )

    async def request_reveals(self, peer_id: PeerId, attempt_id: AttemptId) -> tuple[Reveal, ...]:
        """The reveals of an attempt that the peer holds, unverified."""
        return await self._ask(
            peer_id,
            training.PROTOCOL_ID,
            lambda stream: training.request_reveals(stream, attempt_id),
        )

    async def request_state_parts(self, peer_id: PeerId, root: Hash32) -> tuple[Hash32, ...]:
        """The content ids below a training state root, unverified; empty if the peer knows none."""
        return await self._ask(
            peer_id,
            training.PROTOCOL_ID,
            lambda stream: training.request_state_parts(stream, root),
        )

    async def announce_reveal(self, peer_id: PeerId, reveal: Reveal) -> None:
        """Tell the peer of a reveal that this node holds together with its gradient."""
        await self._ask(
            peer_id, training.PROTOCOL_ID, lambda stream: training.announce_reveal(stream, reveal)
        )

    async def has_blob(self, peer_id: PeerId, content_id: Hash32) -> bool:
        """Whether the peer says that it holds the complete blob; False if it does not answer."""
        try:
            return await self._ask(
                peer_id,
                blobs.PROTOCOL_ID,
                lambda stream: blob_fetch.request_have(stream, content_id),
            )
        except (UnreachablePeerError, RejectedInputError):
            return False

    async def fetch_blob(
        self,
        content_id: Hash32,
        size_limit: int = MAX_BLOB_BYTES,
        *,
        is_urgent: bool = False,
        task_id: TaskId | None = None,
    ) -> None:
        """Fetch a blob into the blob store from any peers that hold it, unless it is there.

        Nothing is reserved or fetched of one with more than `size_limit` bytes.

        One that a live round needs is urgent: it waits for no blob of a new task. The places for
        fetches are shared among the tasks that need blobs.

        Raises:
            BlobUnavailableError: Some chunks are missing; the others are kept for the next try. Or
                the blob is too large.
            OperatorError: The disk fails, or the quota is used up.
        """
        await self._blobs.fetch(
            content_id,
            self.slow_peers.sort(self._sessions.list_preferred(content_id)),
            self._sessions.open_stream,
            self._sessions.report_fault,
            size_limit=size_limit,
            is_urgent=is_urgent,
            task_id=task_id,
        )

    async def _ask(
        self, peer_id: PeerId, protocol_id: str, ask: Callable[[FrameStream], Awaitable[_Answer]]
    ) -> _Answer:
        stream = await self._sessions.open_stream(peer_id, protocol_id)
        try:
            with trio.fail_after(REQUEST_SECONDS):
                return await ask(stream)
        except (StreamClosedError, trio.TooSlowError) as error:
            raise UnreachablePeerError(f"{peer_id} did not answer") from error
        except RejectedInputError as error:
            self._sessions.report_fault(peer_id, error)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()
