"""Accepts content of live tasks and committed gradients over HTTP (docs/spec/rpc.md, section 6).

Before the first byte of a body is read, it is decided whether the blob is needed and how long it
is.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import structlog

from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import BlockNumber, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.encoding import count_payload_bytes
from chain.training.history import get_theta_root
from chain.training.reveal import Reveal
from chain.training.task_checks import list_content
from node.ipc.client import IpcError, NodeLink
from node.rpc.errors import RpcError
from node.rpc.http import HttpError, Request, Response, json_response
from node.rpc.parameters import parse_address, parse_hash
from node.rpc.training_view import TrainingView
from node.storage.blobs import BlobQuotaError, BlobStore
from pot_common.errors import StorageError

CONTENT_PLACES: Final = 32
"""Uploads of content at the same time; each has an open file and holds one chunk in memory."""

REVEAL_PLACES: Final = 64
"""Uploads of gradients at the same time. Uploads of content never take these places."""

ADDRESS_SHARE: Final = 4
"""One IP address takes at most one part in this many of the places of a kind."""

MINER_PLACES: Final = 4
"""Uploads of one miner's gradient at the same time, one from each IP address. Others know its
reveal once it is out, and must not keep the miner from uploading it."""

KEPT_SECONDS: Final = 1.0
"""How long a slow upload keeps its place although another one has none."""

FAST_BYTES_PER_SECOND: Final = 65_536.0
"""An upload of this rate keeps its place."""

LEAST_BYTES_PER_SECOND: Final = 16_384.0
"""A slower upload is ended, so that its place is free for others."""

Value = TypeVar("Value")

_log = structlog.get_logger("node.rpc")


class Place:
    """The place of one transfer."""

    def __init__(self, address: str, subject: bytes) -> None:
        self.address = address
        self.subject = subject
        self.received_bytes = 0
        self.is_lost = False
        self._began_at = time.monotonic()
        self._timer = asyncio.timeout(None)

    def compute_rate(self) -> float:
        """The bytes a second that have arrived."""
        return self.received_bytes / max(time.monotonic() - self._began_at, KEPT_SECONDS)

    def may_be_lost(self) -> bool:
        """Whether a slow transfer has had its place for long enough to lose it."""
        is_slow = self.compute_rate() < FAST_BYTES_PER_SECOND
        return is_slow and time.monotonic() >= self._began_at + KEPT_SECONDS

    def lose(self) -> None:
        """End the transfer, because another one gets its place."""
        self.is_lost = True
        self._timer.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def keep(self) -> AsyncIterator["Place"]:
        """Transfer until the place is lost.

        Raises:
            HttpError: 503: The place was lost.
        """
        try:
            async with self._timer:
                yield self
        except TimeoutError as error:
            if not self.is_lost:
                raise
            raise HttpError(
                503, "busy", "this transfer was slow, and another one took its place"
            ) from error


class Places:
    """Transfers of one kind at the same time, limited in all, by address and by subject."""

    def __init__(self, limit: int, subject_limit: int, pair_limit: int | None = None) -> None:
        """Begin with all places free.

        Args:
            limit: The most transfers of this kind.
            subject_limit: The most transfers of the same thing.
            pair_limit: The most transfers of the same thing from one address; None for no limit.
        """
        self._limit = limit
        self._subject_limit = subject_limit
        self._pair_limit = subject_limit if pair_limit is None else pair_limit
        self._taken: list[Place] = []

    @asynccontextmanager
    async def take(self, address: str, subject: bytes) -> AsyncIterator[Place]:
        """Take a place until the transfer ends; if there is none, that of the slowest transfer.

        Args:
            address: The client's IP address.
            subject: What is transferred.

        Raises:
            HttpError: 503: There is no place, or another transfer took it later.
        """
        self._check_share(address)
        for crowd in self._list_crowds(address, subject):
            candidates = [place for place in crowd if place.may_be_lost()]
            if not candidates:
                raise _build_busy_error()
            min(candidates, key=Place.compute_rate).lose()
        with self.hold(address, subject) as place:
            async with place.keep():
                yield place

    def check(self, address: str, subject: bytes) -> None:
        """Refuse if there is no place.

        Raises:
            HttpError: 503: There is no place.
        """
        self._check_share(address)
        if any(self._list_crowds(address, subject)):
            raise _build_busy_error()

    def _check_share(self, address: str) -> None:
        of_address = sum(place.address == address for place in self._list_taken())
        if of_address >= self._limit // ADDRESS_SHARE:
            raise _build_busy_error()

    @contextmanager
    def hold(self, address: str, subject: bytes) -> Iterator[Place]:
        """Take a place that was checked for a moment ago."""
        place = Place(address, subject)
        self._taken.append(place)
        try:
            yield place
        finally:
            self._taken.remove(place)

    def _list_taken(self) -> list[Place]:
        return [place for place in self._taken if not place.is_lost]

    def _list_crowds(self, address: str, subject: bytes) -> Iterator[list[Place]]:
        """The groups of transfers of which one has to end before another one may begin."""
        alike = [place for place in self._list_taken() if place.subject == subject]
        pairs = [place for place in alike if place.address == address]
        if len(pairs) >= self._pair_limit:
            yield pairs
        alike = [place for place in alike if not place.is_lost]
        if len(alike) >= self._subject_limit:
            yield alike
        taken = self._list_taken()
        if len(taken) >= self._limit:
            yield taken


def _build_busy_error() -> HttpError:
    return HttpError(503, "busy", "too many transfers at the same time: try again later")


class Uploads:
    """Answers PUT requests with task content and POST requests with reveals."""

    def __init__(self, store: BlobStore, view: TrainingView, node: NodeLink) -> None:
        self._store = store
        self._view = view
        self._node = node
        self._content_places = Places(CONTENT_PLACES, CONTENT_PLACES // ADDRESS_SHARE)
        self._reveal_places = Places(REVEAL_PLACES, MINER_PLACES, pair_limit=1)
        self._wanted: tuple[BlockNumber, Mapping[Hash32, int]] = (BlockNumber(-1), {})

    async def put_blob(self, request: Request, content_id: Hash32) -> Response:
        """Store a blob that the specification of a live task names.

        Raises:
            HttpError: The blob is not needed, is another one, or cannot be stored.
        """
        size = self._list_wanted().get(content_id)
        if size is None:
            raise HttpError(
                404,
                "not_wanted",
                f"no live task names {to_hex(content_id)}: submit the task first",
            )
        with _answer_storage_errors():
            if not self._store.has(content_id) and not await asyncio.to_thread(
                self._store.has_room_for_content, size
            ):
                raise HttpError(507, "quota", "the node has no room for more task content")
            is_new = await self._receive(
                request, content_id, size, self._content_places, content_id
            )
        if is_new:
            await self._tell_node("blob_arrived", {})
        return json_response(
            {"contentId": to_hex(content_id), "bytes": size}, 201 if is_new else 200
        )

    async def post_reveal(self, request: Request) -> Response:
        """Store a gradient that opens a commitment of the attempt in progress.

        Raises:
            HttpError: The gradient opens no such commitment, or cannot be stored.
        """
        reveal = _parse_reveal(request)
        size, seconds = self._check_reveal(reveal)
        with _answer_storage_errors():
            is_new = await self._receive(
                request, reveal.gradient_root, size, self._reveal_places, reveal.miner, seconds
            )
            await asyncio.to_thread(self._view.reveals.put, reveal)
        # The node announces it to its peers at once, whatever else it has to do.
        await self._tell_node("reveal_arrived", {"reveal": to_hex(reveal.encode())})
        return json_response(
            {"contentId": to_hex(reveal.gradient_root), "bytes": size}, 201 if is_new else 200
        )

    def _list_wanted(self) -> Mapping[Hash32, int]:
        """The sizes in bytes of the blobs that live tasks name, by content id."""
        head = self._view.chain.store.head_number()
        if self._wanted[0] != head:
            wanted: dict[Hash32, int] = {}
            for history in self._view.index.live_tasks():
                spec = self._view.index.spec(history)
                if spec is not None:
                    wanted |= list_content(spec)
            self._wanted = (head, wanted)
        return self._wanted[1]

    def _check_reveal(self, reveal: Reveal) -> tuple[int, int]:
        """The size that the payload of a reveal must have in bytes, and the seconds it is wanted.

        Raises:
            HttpError: The reveal opens no commitment of the attempt in progress.
        """
        task_id = reveal.attempt_id.task_id
        history = self._view.index.history(task_id)
        spec = None if history is None else self._view.index.spec(history)
        if history is None or spec is None:
            raise HttpError(404, "not_found", f"there is no task {task_id}")
        attempt = history.attempt
        if attempt is None or attempt.id != reveal.attempt_id:
            raise HttpError(
                409, "wrong_round", "that attempt is not in progress (see pot_getAttempt)"
            )
        record = next((r for r in attempt.commitments if r.miner == reveal.miner), None)
        description = self._view.describe(spec, attempt)
        header = description.build_header(reveal.miner, get_theta_root(history, spec))
        if (
            record is None
            or record.units != reveal.units
            or not reveal.opens(record.commitment, header)
        ):
            raise HttpError(
                403,
                RejectionReason.NOT_COMMITTED.value,
                "this opens no commitment on the chain: check miner, salt, units and gradientRoot",
            )
        return count_payload_bytes(header.parameter_count), spec.phases.verdict_seconds

    async def _receive(
        self,
        request: Request,
        content_id: Hash32,
        size: int,
        places: Places,
        subject: bytes,
        seconds: float = math.inf,
    ) -> bool:
        """Store the body as the blob `content_id`; False if this node holds it already.

        Raises:
            HttpError: The body is another blob, or there is no room for it.
            StorageError: The disk refuses the blob.
        """
        announced = request.content_length()
        if announced is not None and announced != size:
            raise HttpError(
                422, "content_mismatch", f"the blob has {size} bytes, the body {announced}"
            )
        if self._store.renew(content_id):
            return False
        try:
            async with places.take(request.client, subject) as place:
                await self._write(request, content_id, size, seconds, place)
        except RejectedInputError as error:
            raise HttpError(422, error.reason.value, error.detail) from error
        except BlobQuotaError as error:
            raise HttpError(507, "quota", "the node has no room for this blob") from error
        return True

    async def _write(
        self, request: Request, content_id: Hash32, size: int, seconds: float, place: Place
    ) -> None:
        with await asyncio.to_thread(self._store.upload, size, content_id) as upload:
            async for part in request.chunks(
                size, least_rate=LEAST_BYTES_PER_SECOND, seconds=seconds
            ):
                await asyncio.to_thread(upload.write, part)
                place.received_bytes += len(part)
            await asyncio.to_thread(upload.finish)

    async def _tell_node(self, method: str, params: JsonObject) -> None:
        try:
            await self._node.call(method, params)
        except IpcError as error:
            # The blob is stored, so the node finds it when a job next checks for it.
            _log.warning("the node process could not be told of an uploaded blob", error=str(error))


@contextmanager
def _answer_storage_errors() -> Iterator[None]:
    """Log a disk error for the operator, and answer the client what it can do."""
    try:
        yield
    except StorageError as error:
        _log.error("uploaded blob not stored", reason=str(error))
        raise HttpError(
            500,
            "storage",
            "the node's disk refused the upload: send it to another node, or retry after the "
            "operator has freed or repaired the disk",
        ) from error


def _parse_reveal(request: Request) -> Reveal:
    query = request.query

    def take(name: str, parse: Callable[[Json], Value]) -> Value:
        try:
            return parse(query.get(name))
        except RpcError as error:
            raise HttpError(400, "malformed", f"{name}: {error.message}") from error

    return Reveal(
        attempt_id=AttemptId(
            task_id=TaskId(take("task", _parse_count)),
            round_number=take("round", _parse_count),
            attempt_number=take("attempt", _parse_count),
        ),
        miner=take("miner", parse_address),
        units=take("units", _parse_count),
        salt=take("salt", parse_hash),
        gradient_root=take("gradientRoot", parse_hash),
    )


def _parse_count(value: Json) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 9:
        raise HttpError(400, "malformed", "task, round, attempt and units are decimal numbers")
    return int(value)
