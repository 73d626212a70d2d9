"""/pot/tx/1: transactions are announced by hash and fetched if unknown (docs/spec/wire.md, 5).

One stream each way: its opener announces and serves, the other side requests. A transaction that
was requested from one peer is not requested from another for FETCH_SECONDS.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import trio

from chain.crypto import keccak256
from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import Hash32
from chain.validation import FORM_REASONS
from node.network.budget import TokenBucket
from node.network.limits import compute_transaction_cost
from node.network.metrics import NetworkMetrics
from node.network.stream import (
    FrameStream,
    OpenStream,
    StreamClosedError,
    UnreachablePeerError,
)
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
"""The opener of a stream announces."""

QUEUE_LIMIT: Final = 16_384
"""Hashes queued for one peer: two full mempools."""

KNOWN_LIMIT: Final = 32_768
"""Hashes known to one peer, which are not announced to it again: 4 MiB a peer."""

REOPEN_SECONDS: Final = 1.0
"""The wait after a stream has ended until the next is opened."""

FETCH_SECONDS: Final = 2.0
"""How long an answer may take before another announcer of the same transaction is asked."""

WANTED_LIMIT: Final = 8_192
"""Announced, unknown hashes remembered of one peer; the rest comes with blocks."""

OWED_LOOKS_A_MESSAGE: Final = 128
"""The most hashes that other peers owe and that are looked at for one message. All strangers
together may send a thousand messages a second, and each look takes a microsecond."""

OWED_LOOKS_A_RETRY: Final = 2_048
"""The most that are looked at once a second, when other peers may have failed to send them."""

HASHES_PER_SECOND: Final = 5_000.0
"""Announced hashes a second that are read from one peer; flow control delays more."""


class TransactionPool(Protocol):
    """The transaction pool, as the network sees it."""

    def contains(self, transaction_hash: Hash32) -> bool:
        """Whether it is held or was refused since the last block, and so is not fetched."""

    def get_raw(self, transaction_hash: Hash32) -> bytes | None:
        """The signed transaction, or None if it is not held."""

    def hashes(self) -> Sequence[Hash32]:
        """The hashes of all transactions that are held."""

    async def submit(self, raw: bytes) -> Hash32:
        """Admit a transaction and announce it to every peer; its hash.

        Raises:
            RejectedInputError: Why it was refused.
        """


class AnnouncementQueue:
    """The hashes to announce to one peer, and those that it knows."""

    def __init__(self, metrics: NetworkMetrics) -> None:
        self._metrics = metrics
        self._waiting: dict[Hash32, None] = {}
        self._known: dict[Hash32, bool] = {}
        """Whether the peer certainly knows it. Else it was announced on the current stream only."""
        self._filled = trio.Event()

    def put(self, hashes: Iterable[Hash32]) -> None:
        """Queue those hashes that the peer does not know; never waits."""
        for transaction_hash in hashes:
            if transaction_hash in self._known:
                continue
            if len(self._waiting) >= QUEUE_LIMIT:
                self._metrics.announcements_dropped += 1
                continue
            self._waiting[transaction_hash] = None
        if self._waiting:
            self._filled.set()

    def add_known(self, hashes: Iterable[Hash32], *, is_certain: bool = True) -> None:
        """Remember that the peer knows these: it announced, received or was told of them."""
        for transaction_hash in hashes:
            self._waiting.pop(transaction_hash, None)
            self._known[transaction_hash] = is_certain or self._known.get(transaction_hash, False)
        while len(self._known) > KNOWN_LIMIT:
            del self._known[next(iter(self._known))]

    async def take(self) -> tuple[Hash32, ...]:
        """The next announcement, at least one hash; the peer counts as knowing them."""
        while not self._waiting:
            self._filled = trio.Event()
            await self._filled.wait()
        hashes = tuple(list(self._waiting)[:HASHES_LIMIT])
        self.add_known(hashes, is_certain=False)
        return hashes

    def forget_announced(self) -> None:
        """Forget what the peer was told of and did not fetch, because the stream has ended."""
        self._known = {key: True for key, is_certain in self._known.items() if is_certain}


class TransactionExchange:
    """Announces transactions to every peer, and fetches what peers announce."""

    def __init__(self, pool: TransactionPool, metrics: NetworkMetrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._queues: dict[str, AnnouncementQueue] = {}
        self._fetching: dict[Hash32, float] = {}
        """The time until which a requested hash is not requested from another peer."""

    def announce(self, hashes: Iterable[Hash32]) -> None:
        """Announce transactions of the pool to every peer; never waits."""
        listed = tuple(hashes)
        for queue in self._queues.values():
            queue.put(listed)

    async def run_outbound(
        self,
        peer_id: str,
        open_stream: OpenStream,
        on_fault: Callable[[RejectedInputError], None],
    ) -> None:
        """Announce and serve to a peer, until cancelled at the end of its session.

        Args:
            peer_id: the peer.
            open_stream: opens a stream to it.
            on_fault: is told of a request that breaks the rules.
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
                queue.forget_announced()
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
                    await self._answer(queue, stream)
            except (StreamClosedError, RejectedInputError) as error:
                fault = error
            finally:
                with trio.CancelScope(shield=True):
                    await stream.reset()
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault

    async def _answer(self, queue: AnnouncementQueue, stream: FrameStream) -> None:
        message = decode_transaction_message(await stream.read_frame(TRANSACTION_FRAME_LIMIT_BYTES))
        if not isinstance(message, RequestTransactions):
            raise InvalidMessage(RejectionReason.MALFORMED, "only requests belong here")
        found: dict[Hash32, bytes] = {}
        room = TRANSACTIONS_LIMIT_BYTES
        for transaction_hash in message.hashes:
            raw = self._pool.get_raw(transaction_hash)
            if raw is not None and len(raw) <= room:
                room -= len(raw)
                found[transaction_hash] = raw
        batch = TransactionBatch(tuple(found.values()))
        await stream.write_frame(encode_transaction_message(batch))
        queue.add_known(found)
        self._metrics.transactions_served += len(found)

    async def serve(self, stream: FrameStream, shared: TokenBucket | None = None) -> None:
        """Fetch the transactions that a peer announces and the pool does not hold.

        Args:
            stream: the stream that the peer opened.
            shared: the budget of transactions of all non-validators; None for a validator.

        Raises:
            InvalidMessage: A message breaks the rules, or was not requested.
            RejectedInputError: A transaction is one that no honest node holds.
            StreamClosedError: The peer left.
        """
        await _Fetcher(stream, self, shared).run()

    def add_known(self, peer_id: str, hashes: Iterable[Hash32]) -> None:
        """Remember that a peer knows these, so that they are not announced to it."""
        if queue := self._queues.get(peer_id):
            queue.add_known(hashes)

    def claim(self, wanted: dict[Hash32, None], owed_limit: int) -> tuple[Hash32, ...]:
        """Remove and return hashes of `wanted` to request now; known ones are removed too.

        Those that another peer owes are looked at again and again. So they go to the end, and after
        `owed_limit` of them the next call goes on.
        """
        now = trio.current_time()
        chosen: list[Hash32] = []
        owed_count = 0
        for transaction_hash in list(wanted):
            if len(chosen) == TRANSACTION_REQUEST_LIMIT or owed_count == owed_limit:
                break
            del wanted[transaction_hash]
            if self._pool.contains(transaction_hash):
                continue
            if self._fetching.get(transaction_hash, 0.0) > now:
                wanted[transaction_hash] = None
                owed_count += 1
            else:
                chosen.append(transaction_hash)
        deadline = now + FETCH_SECONDS
        self._fetching.update(dict.fromkeys(chosen, deadline))
        return tuple(chosen)

    def release(self, hashes: Iterable[Hash32]) -> None:
        """Allow other peers to be asked: these have arrived, or will not arrive."""
        for transaction_hash in hashes:
            self._fetching.pop(transaction_hash, None)

    async def accept(self, raw: bytes) -> None:
        """Hand a fetched transaction to the pool, which announces it if it admits it.

        Raises:
            RejectedInputError: It is one that no honest node holds.
        """
        self._metrics.transactions_received += 1
        try:
            await self._pool.submit(raw)
        except RejectedInputError as error:
            # Other refusals may depend on how far a node has synced.
            if error.reason in FORM_REASONS:
                raise


class _Fetcher:
    """The requesting side of one stream: one request at a time, announcements in between."""

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
        """Handle messages until one fails; the error of that one."""
        while True:
            try:
                frame = await self._stream.read_frame(TRANSACTION_FRAME_LIMIT_BYTES)
                await self._handle(decode_transaction_message(frame))
                await self._ask(OWED_LOOKS_A_MESSAGE)
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
            await self._shared.take(sum(map(compute_transaction_cost, transactions)))

    async def _ask(self, owed_limit: int) -> None:
        if not self._asked and (hashes := self._exchange.claim(self._wanted, owed_limit)):
            self._asked = hashes
            message = encode_transaction_message(RequestTransactions(hashes))
            await self._stream.write_frame(message)

    async def _retry(self) -> None:
        # Hashes that another peer was asked for and did not send become free with time.
        while True:
            await trio.sleep(FETCH_SECONDS / 2)
            try:
                await self._ask(OWED_LOOKS_A_RETRY)
            except StreamClosedError:
                return  # the listener gets the same error and ends the stream
