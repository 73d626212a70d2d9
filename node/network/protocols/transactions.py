"""/pot/tx/1: announced by hash, fetched when unknown (docs/spec/wire.md, section 5).

One stream each way: who opens it announces and serves, who accepts it asks. A hash that is being
fetched from one peer is not asked of another until that peer had its time.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import trio

from chain.crypto import keccak256
from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import Hash32
from node.network.budget import TokenBucket
from node.network.metrics import NetworkMetrics
from node.network.stream import FrameStream, StreamClosedError, UnreachablePeerError
from node.network.wire import (
    HASHES_LIMIT,
    TRANSACTION_FRAME_LIMIT_BYTES,
    TRANSACTION_REQUEST_LIMIT,
    TRANSACTIONS_LIMIT_BYTES,
    AnnounceTransactions,
    RequestTransactions,
    TransactionBatch,
    TransactionMessage,
    decode_transaction_message,
    encode_transaction_message,
)

PROTOCOL_ID: Final = "/pot/tx/1"
"""Opened by the side that announces."""

QUEUE_LIMIT: Final = 16_384
"""Hashes waiting to be announced to a peer: two full mempools."""

KNOWN_LIMIT: Final = 32_768
"""Hashes a peer is known to hold, so that they are not announced back: 4 MiB a peer."""

REOPEN_SECONDS: Final = 1.0
"""The wait after a stream that ended, before the next."""

FETCH_SECONDS: Final = 2.0
"""How long an answer may take before another peer that announced the same is asked."""

WANTED_LIMIT: Final = 8_192
"""Announced and unknown hashes remembered of one peer; the rest comes with blocks."""

HASHES_PER_SECOND: Final = 5_000.0
"""Announced hashes a peer may send; more waits, by flow control."""

FAULTS: Final = frozenset(
    {RejectionReason.MALFORMED, RejectionReason.BAD_SIGNATURE, RejectionReason.WRONG_CHAIN}
)
"""What no honest node ever holds. Other refusals may be a matter of who is a block ahead."""

OpenStream = Callable[[str], Awaitable[FrameStream]]
"""Opens a stream of a protocol to one fixed peer; raises UnreachablePeerError."""


class TransactionPool(Protocol):
    """The mempool, as the network sees it."""

    def contains(self, transaction_hash: Hash32) -> bool:
        """Whether it is held, or was refused since the last block: it is not fetched."""

    def get_raw(self, transaction_hash: Hash32) -> bytes | None:
        """The signed transaction, or None if it is not held."""

    def hashes(self) -> Sequence[Hash32]:
        """All that is held."""

    async def submit(self, raw: bytes) -> Hash32:
        """Admit a transaction and announce it to every peer; its hash.

        Raises:
            RejectedInputError: Why it was refused.
        """


class AnnouncementQueue:
    """Hashes to announce to one peer, and those that it already knows."""

    def __init__(self, metrics: NetworkMetrics) -> None:
        self._metrics = metrics
        self._waiting: dict[Hash32, None] = {}
        self._known: dict[Hash32, None] = {}
        self._filled = trio.Event()

    def put(self, hashes: Iterable[Hash32]) -> None:
        """Announce these that the peer does not know; never waits."""
        for transaction_hash in hashes:
            if transaction_hash in self._known:
                continue
            if len(self._waiting) >= QUEUE_LIMIT:
                self._metrics.announcements_dropped += 1
                continue
            self._waiting[transaction_hash] = None
        if self._waiting:
            self._filled.set()

    def add_known(self, hashes: Iterable[Hash32]) -> None:
        """The peer has these: it announced or got them."""
        for transaction_hash in hashes:
            self._waiting.pop(transaction_hash, None)
            self._known[transaction_hash] = None
        while len(self._known) > KNOWN_LIMIT:
            del self._known[next(iter(self._known))]

    async def take(self) -> tuple[Hash32, ...]:
        """The next announcement, at least one hash; the peer knows them now."""
        while not self._waiting:
            self._filled = trio.Event()
            await self._filled.wait()
        hashes = tuple(list(self._waiting)[:HASHES_LIMIT])
        self.add_known(hashes)
        return hashes


class TransactionExchange:
    """Announcements to and fetches from every peer."""

    def __init__(self, pool: TransactionPool, metrics: NetworkMetrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._queues: dict[str, AnnouncementQueue] = {}
        self._fetching: dict[Hash32, float] = {}
        """Until when a hash is being fetched from somebody; so long, nobody else is asked."""

    def announce(self, hashes: Iterable[Hash32]) -> None:
        """Tell every peer of transactions that are held; never waits."""
        listed = tuple(hashes)
        for queue in self._queues.values():
            queue.put(listed)

    async def run_outbound(
        self,
        peer_id: str,
        open_stream: OpenStream,
        on_fault: Callable[[RejectedInputError], None],
    ) -> None:
        """Announce and serve to a peer, for as long as its session lasts.

        Args:
            peer_id: the peer.
            open_stream: opens a stream to it.
            on_fault: told of a request that breaks the rules.
        """
        queue = AnnouncementQueue(self._metrics)
        self._queues[peer_id] = queue
        try:
            while True:
                queue.put(self._pool.hashes())
                try:
                    await self._announce_and_serve(queue, await open_stream(PROTOCOL_ID))
                except RejectedInputError as error:
                    on_fault(error)
                    await trio.sleep(REOPEN_SECONDS)
                except (StreamClosedError, UnreachablePeerError):
                    await trio.sleep(REOPEN_SECONDS)
        finally:
            if self._queues.get(peer_id) is queue:
                del self._queues[peer_id]

    async def _announce_and_serve(self, queue: AnnouncementQueue, stream: FrameStream) -> None:
        fault: StreamClosedError | RejectedInputError | None = None
        async with trio.open_nursery() as nursery:

            async def announce() -> None:
                nonlocal fault
                try:
                    while True:
                        message = AnnounceTransactions(await queue.take())
                        await stream.write_frame(encode_transaction_message(message))
                        self._metrics.transactions_announced += len(message.hashes)
                except StreamClosedError as error:
                    fault = error
                    nursery.cancel_scope.cancel()

            nursery.start_soon(announce)
            try:
                while True:
                    await self._answer(stream)
            except (StreamClosedError, RejectedInputError) as error:
                fault = error
            finally:
                with trio.CancelScope(shield=True):
                    await stream.reset()
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault

    async def _answer(self, stream: FrameStream) -> None:
        message = decode_transaction_message(await stream.read_frame(TRANSACTION_FRAME_LIMIT_BYTES))
        if not isinstance(message, RequestTransactions):
            raise InvalidMessage(RejectionReason.MALFORMED, "only requests belong here")
        found: list[bytes] = []
        room = TRANSACTIONS_LIMIT_BYTES
        for transaction_hash in message.hashes:
            raw = self._pool.get_raw(transaction_hash)
            if raw is not None and len(raw) <= room:
                room -= len(raw)
                found.append(raw)
        await stream.write_frame(encode_transaction_message(TransactionBatch(tuple(found))))
        self._metrics.transactions_served += len(found)

    async def serve(self, stream: FrameStream, shared: TokenBucket | None = None) -> None:
        """Fetch what a peer announces and we do not hold.

        Args:
            stream: the peer's.
            shared: a budget of transactions that it shares with others, unless it is a validator.

        Raises:
            InvalidMessage: a message that breaks the rules, or was not asked for.
            RejectedInputError: a transaction that no honest node holds.
            StreamClosedError: the peer left.
        """
        await _Fetcher(stream, self, shared).run()

    def add_known(self, peer_id: str, hashes: Iterable[Hash32]) -> None:
        """A peer holds these; do not announce them to it."""
        if queue := self._queues.get(peer_id):
            queue.add_known(hashes)

    def claim(self, wanted: dict[Hash32, None]) -> tuple[Hash32, ...]:
        """Take from `wanted` what is unknown and nobody else is being asked for."""
        now = trio.current_time()
        chosen: list[Hash32] = []
        for transaction_hash in list(wanted):
            if self._pool.contains(transaction_hash):
                del wanted[transaction_hash]
            elif self._fetching.get(transaction_hash, 0.0) <= now:
                del wanted[transaction_hash]
                chosen.append(transaction_hash)
                if len(chosen) == TRANSACTION_REQUEST_LIMIT:
                    break
        deadline = now + FETCH_SECONDS
        self._fetching.update(dict.fromkeys(chosen, deadline))
        return tuple(chosen)

    def release(self, hashes: Iterable[Hash32]) -> None:
        """These have come, or will not come from whom they were asked of."""
        for transaction_hash in hashes:
            self._fetching.pop(transaction_hash, None)

    async def accept(self, raw: bytes) -> None:
        """Hand a fetched transaction to the pool, which announces it if it admits it.

        Raises:
            RejectedInputError: it is one that no honest node holds.
        """
        self._metrics.transactions_received += 1
        try:
            await self._pool.submit(raw)
        except RejectedInputError as error:
            if error.reason in FAULTS:
                raise


class _Fetcher:
    """The asking side of one stream: one request at a time, announcements in between."""

    def __init__(
        self, stream: FrameStream, exchange: TransactionExchange, shared: TokenBucket | None
    ) -> None:
        self._stream = stream
        self._shared = shared
        self._exchange = exchange
        self._wanted: dict[Hash32, None] = {}
        self._asked: tuple[Hash32, ...] = ()
        self._budget = TokenBucket(per_second=HASHES_PER_SECOND, burst=4 * HASHES_PER_SECOND)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._retry)
                fault = await self._listen()
                nursery.cancel_scope.cancel()
            raise fault
        finally:
            self._exchange.release(self._asked)

    async def _listen(self) -> StreamClosedError | RejectedInputError:
        """Handle messages until one cannot be; why not."""
        while True:
            try:
                frame = await self._stream.read_frame(TRANSACTION_FRAME_LIMIT_BYTES)
                await self._handle(decode_transaction_message(frame))
                await self._ask()
            except (StreamClosedError, RejectedInputError) as error:
                return error

    async def _handle(self, message: TransactionMessage) -> None:
        match message:
            case AnnounceTransactions(hashes):
                await self._budget.take(len(hashes))
                self._exchange.add_known(self._stream.peer_id, hashes)
                room = WANTED_LIMIT - len(self._wanted)
                self._wanted.update(dict.fromkeys(hashes[:room]))
            case TransactionBatch(transactions):
                await self._accept(transactions)
            case RequestTransactions():
                raise InvalidMessage(RejectionReason.MALFORMED, "only answers belong here")

    async def _accept(self, transactions: tuple[bytes, ...]) -> None:
        asked = set(self._asked)
        if not asked or not asked.issuperset(keccak256(raw) for raw in transactions):
            raise InvalidMessage(RejectionReason.CONTENT_MISMATCH, "not what was asked for")
        try:
            for raw in transactions:
                await self._exchange.accept(raw)
        finally:
            self._exchange.release(self._asked)
            self._asked = ()
        if self._shared:
            await self._shared.take(len(transactions))

    async def _ask(self) -> None:
        if not self._asked and (hashes := self._exchange.claim(self._wanted)):
            self._asked = hashes
            message = encode_transaction_message(RequestTransactions(hashes))
            await self._stream.write_frame(message)

    async def _retry(self) -> None:
        # What another peer was asked for and did not send.
        while True:
            await trio.sleep(FETCH_SECONDS / 2)
            try:
                await self._ask()
            except StreamClosedError:
                return  # the listener notices too
