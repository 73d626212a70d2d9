"""Accepts content of live tasks and committed gradients over HTTP (docs/spec/rpc.md, section 6).

Before the first byte of a body is read, it is decided whether the blob is needed and how long it
is. Content is verified chunk by chunk (content_uploads.py); gradients have places
(upload_places.py).
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import structlog
from cachetools import LRUCache

from chain.contracts import task_registry
from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import BlockNumber, Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.attempt import AttemptId
from chain.training.attempt_records import Attempt
from chain.training.encoding import count_payload_bytes
from chain.training.history import get_theta_root
from chain.training.reveal import Reveal
from chain.training.task_checks import (
    Objection,
    find_disk_objection,
    find_size_objection,
    list_content,
)
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import find_terms_objection
from node.ipc.client import IpcError, NodeLink
from node.ipc.turns import SharedTurns
from node.rpc.content_uploads import ContentUploads, count_body_bytes
from node.rpc.errors import RpcError
from node.rpc.http import LEAST_BYTES_PER_SECOND, HttpError, Request, Response, json_response
from node.rpc.parameters import parse_address, parse_hash
from node.rpc.training_view import TrainingView
from node.rpc.upload_places import Claim, Place, UploadPlaces, compute_own_seconds
from node.storage.blob_files import BlobUpload
from node.storage.blobs import BlobQuotaError, BlobStore
from pot_common.errors import StorageError

REVEAL_PLACES: Final = 64
"""Uploads of gradients on lent places."""

MINER_PLACES: Final = 4
"""Uploads of one miner's gradient at the same time, one from each IP address. Others know its
reveal once it is out, and must not keep the miner from uploading it."""

KNOWN_REVEALS: Final = 4_096
"""Reveals that are remembered as stored. One that is repeated later takes a place and is read from
the disk."""

CHECKED_TASKS: Final = 1_024
"""Tasks of which it is remembered whether their terms pay for them. No chain has more open ones."""

Value = TypeVar("Value")

_log = structlog.get_logger("node.rpc")


@dataclass(frozen=True, slots=True)
class WantedContent:
    """A blob that a live task names."""

    task_id: TaskId
    size_bytes: int
    """What the task says; it may be wrong, or another task may be."""
    objection: str | None
    """Why this node keeps no content of the task; None if it does. No content is taken of a task
    that does not pay for the disk that it needs."""


class Uploads:
    """Answers PUT requests with task content and POST requests with reveals."""

    def __init__(
        self,
        store: BlobStore,
        view: TrainingView,
        node: NodeLink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._view = view
        self._node = node
        self._content = ContentUploads(store)
        self._places = UploadPlaces(REVEAL_PLACES, MINER_PLACES, pair_limit=1, clock=clock)
        self._known: LRUCache[Reveal, None] = LRUCache(KNOWN_REVEALS)
        """Reveals that are stored, and that the node was told of."""
        self._terms: LRUCache[TaskId, Objection | None] = LRUCache(CHECKED_TASKS)
        """Why the terms of a task on the chain, which never change, do not pay for it."""
        self._listing = SharedTurns(1)
        self._wanted: tuple[BlockNumber, Mapping[Hash32, list[WantedContent]]] = (
            BlockNumber(-1),
            {},
        )

    async def put_blob(self, request: Request, content_id: Hash32) -> Response:
        """Store a blob that the specification of a live task names.

        Raises:
            HttpError: The blob is not needed, is another one, or cannot be stored.
        """
        named_by = (await self._find_wanted()).get(content_id, [])
        listed = [await self._check_terms(each) for each in named_by]
        wanted = [each for each in listed if each.objection is None]
        if not wanted:
            raise _build_unwanted_error(content_id, listed)
        size, is_new = await self._receive_content(request, content_id, wanted)
        if is_new:
            await self._tell_node("blob_arrived", {})
        return json_response(
            {"contentId": to_hex(content_id), "bytes": size}, 201 if is_new else 200
        )

    async def _receive_content(
        self, request: Request, content_id: Hash32, wanted: Sequence[WantedContent]
    ) -> tuple[int, bool]:
        """Store the body as a blob that tasks name, and return its length and whether it is new.

        Raises:
            HttpError: The body is another blob, or cannot be stored.
        """
        # Tasks may lie about the length of a blob. Only the true one goes with its content id.
        sizes = {count_body_bytes(each.size_bytes): each.size_bytes for each in wanted}
        announced = request.content_length()
        if announced is not None and announced not in sizes:
            named = wanted[0].size_bytes
            raise HttpError(
                422,
                "content_mismatch",
                f"the body has {announced} bytes instead of {count_body_bytes(named)}: first the "
                f"hashes of the chunks, 32 bytes each, then the {named} bytes of the blob",
            )
        with _answer_storage_errors():
            held = self._store.get_size(content_id)
            if held is not None and self._store.renew(content_id):
                return held, False
            if announced is None:
                raise HttpError(411, "length_required", "announce the length of the body")
            size = sizes[announced]
            check_wanted = partial(self._check_wanted, content_id)
            with _answer_refusals("more task content"):
                is_new = await self._content.receive(request, content_id, size, check_wanted)
        return size, is_new

    async def _check_wanted(self, content_id: Hash32) -> None:
        if content_id not in await self._find_wanted():
            raise _build_unwanted_error(content_id, [])

    async def post_reveal(self, request: Request) -> Response:
        """Store a gradient that opens a commitment of the attempt in progress.

        Raises:
            HttpError: The gradient opens no such commitment, or cannot be stored.
        """
        reveal = _parse_reveal(request)
        attempt, spec = self._check_reveal(reveal)
        seconds = spec.phases.verdict_seconds
        size = count_payload_bytes(count_parameters(spec.model))
        claim = Claim(
            (attempt.id, attempt.ballot),
            reveal.miner,
            request.client,
            size,
            own_seconds=compute_own_seconds(seconds, len(attempt.commitments)),
        )
        is_new = False
        with _answer_storage_errors():
            # Others know a reveal once it is out, and repeat it for nothing.
            if reveal not in self._known or not self._store.renew(reveal.gradient_root):
                is_new = await self._receive_reveal(request, reveal, claim, seconds)
        return json_response(
            {"contentId": to_hex(reveal.gradient_root), "bytes": size}, 201 if is_new else 200
        )

    async def _find_wanted(self) -> Mapping[Hash32, list[WantedContent]]:
        """The blobs that live tasks name, listed once for each head, in a thread."""
        if self._wanted[0] != self._view.chain.store.head_number():
            return await self._listing.run(self._list_wanted)
        return self._wanted[1]

    def _list_wanted(self) -> Mapping[Hash32, list[WantedContent]]:
        """The blobs that live tasks name, by content id."""
        head = self._view.chain.store.head_number()
        if self._wanted[0] != head:
            wanted: defaultdict[Hash32, list[WantedContent]] = defaultdict(list)
            for history in self._view.index.live_tasks():
                spec = self._view.index.spec(history)
                if spec is None:
                    continue
                found = find_size_objection(spec, self._store.quota_bytes)
                found = found or find_disk_objection(spec, self._store.promised_share_bytes)
                objection = None if found is None else found.reason
                for content_id, size in list_content(spec).items():
                    wanted[content_id].append(WantedContent(history.task_id, size, objection))
            self._wanted = (head, wanted)
        return self._wanted[1]

    async def _check_terms(self, wanted: WantedContent) -> WantedContent:
        """The same; with an objection if the terms on the chain pay for less than is declared.

        Raises:
            HttpError: 503: No call worker answers in time.
        """
        task_id = wanted.task_id
        if wanted.objection is not None:
            return wanted
        if task_id not in self._terms:
            history = self._view.index.history(task_id)
            spec = None if history is None else self._view.index.spec(history)
            if spec is None:
                return wanted
            try:
                terms = await self._view.contracts.read(task_registry.get_terms(task_id))
                resources = await self._view.contracts.read(task_registry.get_resources(task_id))
            except RpcError as error:
                raise HttpError(503, "busy", error.message, retry_after_seconds=1) from error
            self._terms[task_id] = find_terms_objection(spec, terms, resources)
        found = self._terms[task_id]
        return wanted if found is None else replace(wanted, objection=found.reason)

    def _check_reveal(self, reveal: Reveal) -> tuple[Attempt, TaskSpec]:
        """The attempt of a reveal, and its task's specification.

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
        return attempt, spec

    async def _receive_reveal(
        self, request: Request, reveal: Reveal, claim: Claim, seconds: float
    ) -> bool:
        """Store a reveal with its gradient, the body; False if this node holds that already.

        Raises:
            HttpError: The body is another blob, or there is no room for it.
            StorageError: The disk refuses the blob.
        """
        announced, size, root = request.content_length(), claim.size_bytes, reveal.gradient_root
        if announced is not None and announced != size:
            raise HttpError(
                422, "content_mismatch", f"the blob has {size} bytes, the body {announced}"
            )
        held = self._store.get_size(root)
        if held not in (None, size):
            # Content of a task, which a miner must not have deleted with its gradient.
            raise HttpError(422, "content_mismatch", f"the blob has {held} bytes instead of {size}")
        with _answer_refusals("this gradient"):
            async with self._places.take(claim) as place:
                is_new = not self._store.renew(root)
                if is_new:
                    await self._receive_gradient(request, reveal, place, seconds)
                await asyncio.to_thread(self._view.reveals.put, reveal)
        # The node announces it to its peers at once, whatever else it has to do.
        if await self._tell_node("reveal_arrived", {"reveal": to_hex(reveal.encode())}):
            self._known[reveal] = None
        return is_new

    async def _receive_gradient(
        self, request: Request, reveal: Reveal, place: Place, seconds: float
    ) -> None:
        """Store the body as a gradient; in room that no task is promised, unless its task is.

        Raises:
            HttpError: There is no such room, or the body stalls.
        """
        size, root, task_id = (
            place.claim.size_bytes,
            reveal.gradient_root,
            reveal.attempt_id.task_id,
        )
        objection = await self._find_disk_objection(task_id)
        begin = partial(self._store.upload, size, root, is_promised=objection is None)
        with _name_objection(task_id, objection):
            upload = await _begin_upload(begin)
        with upload:
            async for part in request.chunks(
                size, least_rate=LEAST_BYTES_PER_SECOND, seconds=seconds
            ):
                await asyncio.to_thread(upload.write, part)
                place.received_bytes += len(part)
            await asyncio.to_thread(upload.finish)

    async def _find_disk_objection(self, task_id: TaskId) -> str | None:
        """Why the node promises a task no disk; None if it does."""
        try:
            objection = await self._node.call("disk_objection", {"task": task_id})
        except IpcError as error:
            return str(error)
        return objection if isinstance(objection, str) else None

    async def _tell_node(self, method: str, params: JsonObject) -> bool:
        """Tell the node of an upload; False if it cannot be reached."""
        try:
            await self._node.call(method, params)
        except IpcError as error:
            # The blob is stored, so the node finds it when a job next checks for it.
            _log.warning("the node process could not be told of an uploaded blob", error=str(error))
            return False
        return True


async def _begin_upload(begin: Callable[[], BlobUpload]) -> BlobUpload:
    """Begin an upload in a thread, which goes on when the request is cancelled.

    The file that it has made by then would take its room for a day, so it is waited for.
    """
    beginning = asyncio.create_task(asyncio.to_thread(begin))
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        with suppress(BlobQuotaError, StorageError), await beginning:
            pass
        raise


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


@contextmanager
def _answer_refusals(what: str) -> Iterator[None]:
    """Tell the client that its bytes are refused, or that there is no room for `what`."""
    try:
        yield
    except RejectedInputError as error:
        raise HttpError(422, error.reason.value, error.detail) from error
    except BlobQuotaError as error:
        raise HttpError(507, "quota", f"the node has no room for {what}") from error


@contextmanager
def _name_objection(task_id: TaskId, objection: str | None) -> Iterator[None]:
    """Tell the client why the node has promised a task no room, if there is none for its bytes."""
    try:
        yield
    except BlobQuotaError as error:
        if objection is None:
            raise
        reason = f"the node has promised no room to task {task_id}: {objection}"
        raise HttpError(507, "quota", reason) from error


def _build_unwanted_error(content_id: Hash32, listed: Sequence[WantedContent]) -> HttpError:
    """The refusal of content that no open task names, or only tasks that this node refuses."""
    if listed:
        refused = listed[0]
        return HttpError(
            403,
            "task_refused",
            f"this node takes no part in task {refused.task_id}: {refused.objection}",
        )
    return HttpError(
        404,
        "not_wanted",
        f"no open task names {to_hex(content_id)}: submit the task first, or, if it is closed, see "
        "why with `pot task show`",
    )


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
