"""Gradients compete for places; content needs none, since each chunk shows whether it is right."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from chain.contracts import task_registry
from chain.contracts.abi import ContractView
from chain.contracts.task_registry import TaskResources
from chain.crypto import CHUNK_BYTES, content_id
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.assignment import compute_seed
from chain.training.attempt import AttemptId
from chain.training.attempt_description import AttemptDescription
from chain.training.attempt_records import Attempt
from chain.training.encoding import compute_commitment
from chain.training.history import TaskHistory
from chain.training.resources import count_disk_bytes, count_stored_bytes
from chain.training.reveal import Reveal
from chain.training.task_spec import Shard, TaskSpec
from chain.training.task_spec_codec import compute_terms
from node.ipc.client import IpcError
from node.rpc import http
from node.rpc.held_bytes import HeldBytes, NoRoomError
from node.rpc.http import HttpError, Message, Request, Response
from node.rpc.upload_places import KEPT_SECONDS
from node.rpc.uploads import Uploads
from node.storage.blob_files import BlobDiskError, ContentUpload
from node.storage.blobs import BlobStore
from node.training.reveal_store import RevealStore
from tests.worlds.blobs import build_upload_body
from tests.worlds.clock import FakeClock
from tests.worlds.training import TASK
from tests.worlds.training_node import (
    CHAIN_ID,
    PAYLOADS,
    REVEALS,
    SALT,
    SEED_BLOCK_HASH,
    SHARDS,
    SPEC,
    encode_answer,
    header_of,
    judging,
)

P = ParamSpec("P")
T = TypeVar("T")
LARGE = b"\1" * CHUNK_BYTES + b"\2" * CHUNK_BYTES + b"the rest"
LARGE_BODY = build_upload_body(LARGE)
HASHES_BYTES = len(LARGE_BODY) - len(LARGE)
OTHER_ATTEMPT = AttemptId(TaskId(2), 0, 0)
OTHER_REVEALS = tuple(
    Reveal(OTHER_ATTEMPT, Address(bytes([number]) * 20), 1, SALT, Hash32(bytes([number]) * 32))
    for number in range(1, 17)
)
"""The reveals of sixteen miners of another task; their gradients are never sent to the end."""


def other_task() -> TaskHistory:
    """A task with sixteen commitments in its attempt in progress."""
    history = judging().histories[TASK]
    assert history.attempt is not None
    records = tuple(
        replace(
            history.attempt.commitments[0],
            miner=reveal.miner,
            commitment=compute_commitment(
                replace(
                    header_of(reveal.miner),
                    attempt_id=OTHER_ATTEMPT,
                    seed=compute_seed(SEED_BLOCK_HASH, OTHER_ATTEMPT),
                ),
                reveal.gradient_root,
                SALT,
                1,
            ),
        )
        for reveal in OTHER_REVEALS
    )
    attempt = replace(history.attempt, id=OTHER_ATTEMPT, commitments=records)
    return replace(history, task_id=OTHER_ATTEMPT.task_id, attempt=attempt)


@dataclass
class FakeTraining:
    """What uploads read of the chain: a task with three commitments, and one with sixteen."""

    reveals: RevealStore
    specs: dict[TaskId, TaskSpec] = field(default_factory=dict)
    """The specifications of tasks that have another than SPEC."""
    is_closed: bool = False
    """Whether both tasks are closed."""
    paid: dict[TaskId, TaskResources] = field(default_factory=dict)
    """The resources on the chain of tasks that have others than their specifications."""

    @property
    def chain(self) -> "FakeTraining":
        return self

    store = index = contracts = chain

    def head_number(self) -> BlockNumber:
        return BlockNumber(101 if self.is_closed else 100)

    def live_tasks(self) -> Iterator[TaskHistory]:
        if not self.is_closed:
            yield judging().histories[TASK]
            yield other_task()

    def history(self, task_id: TaskId) -> TaskHistory | None:
        return next((each for each in self.live_tasks() if each.task_id == task_id), None)

    def spec(self, history: TaskHistory) -> TaskSpec:
        return self.specs.get(history.task_id, SPEC)

    async def read(self, view: ContractView[T]) -> T:
        task_id = TaskId(int.from_bytes(view.data[-32:], "big"))
        spec = self.specs.get(task_id, SPEC)
        if view == task_registry.get_resources(task_id):
            paid = self.paid.get(task_id, spec.resources)
            return view.decode(encode_answer("getResources", paid))
        assert view == task_registry.get_terms(task_id)
        return view.decode(encode_answer("getTerms", compute_terms(spec)))

    def describe(self, spec: TaskSpec, attempt: Attempt) -> AttemptDescription:
        seed = compute_seed(SEED_BLOCK_HASH, attempt.id)
        return AttemptDescription(attempt.id, spec, CHAIN_ID, seed)


class FakeNode:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_reachable = True
        self.objection: str | None = None
        """Why it promises no disk to any task."""

    async def call(self, method: str, _params: Mapping[str, object] | None = None) -> str | None:
        if method != "disk_objection":
            self.calls.append(method)
        if not self.is_reachable:
            raise IpcError("the node process is not reachable")
        return self.objection if method == "disk_objection" else None


class Client:
    """A client that sends the first bytes of its body, and the others only when it is told to."""

    def __init__(
        self, path: str, body: bytes, address: str = "192.0.2.1", first_bytes: int = 1
    ) -> None:
        self.go_on = asyncio.Event()
        self._is_awaited = asyncio.Event()
        self._parts = [body[:first_bytes], body[first_bytes:]]
        scope: Message = {
            "method": "PUT",
            "path": path,
            "headers": [(b"content-length", str(len(body)).encode())],
            "query_string": path.partition("?")[2].encode(),
            "client": (address, 50_000),
        }
        self.request = Request(scope, self._receive, HeldBytes().open(address))

    async def _receive(self) -> Message:
        if len(self._parts) == 1:
            self._is_awaited.set()
            await self.go_on.wait()
        part = self._parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts)}

    def cut_short(self) -> None:
        """Send only the first bytes."""
        del self._parts[1:]
        self.go_on.set()

    async def stall(self, upload: "asyncio.Task[Response]") -> None:
        """Wait until the node waits for the last part of the body, or has refused the upload."""
        awaited = asyncio.create_task(self._is_awaited.wait())
        await asyncio.wait((awaited, upload), return_when=asyncio.FIRST_COMPLETED)
        awaited.cancel()


@asynccontextmanager
async def stalled(
    begin: Callable[[Request], Coroutine[None, None, Response]], *clients: Client
) -> AsyncIterator[list["asyncio.Task[Response]"]]:
    """Uploads that have come as far as they do; they end with the context."""
    tasks = [asyncio.create_task(begin(each.request)) for each in clients]
    for client, task in zip(clients, tasks, strict=True):
        await client.stall(task)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reveal_by(index: int, address: str = "192.0.2.1") -> Client:
    return reveal_of(REVEALS[index], PAYLOADS[index], address)


def reveal_of(reveal: Reveal, payload: bytes, address: str) -> Client:
    query = (
        f"task={reveal.attempt_id.task_id}&round=0&attempt=0&miner=0x{reveal.miner.hex()}"
        f"&units={reveal.units}&salt=0x{reveal.salt.hex()}"
        f"&gradientRoot=0x{reveal.gradient_root.hex()}"
    )
    return Client(f"/v1/reveals?{query}", payload, address)


def shard_from(address: str) -> Client:
    return content_from(address, build_upload_body(SHARDS[0]))


def content_from(address: str, body: bytes, first_bytes: int = 1) -> Client:
    return Client("/v1/blobs/x", body, address, first_bytes)


def name_large_shard(training: FakeTraining) -> None:
    """Let both tasks name a shard of three chunks."""
    shard = Shard(content_id(LARGE), len(LARGE), 50)
    spec = replace(SPEC, data=replace(SPEC.data, shards=(shard, *SPEC.data.shards[1:])))
    spec = replace(spec, resources=replace(spec.resources, disk_bytes=count_disk_bytes(spec)))
    training.specs = {TASK: spec, OTHER_ATTEMPT.task_id: spec}


def shard_id() -> Hash32:
    return SPEC.data.shards[0].content_id


@pytest.fixture
def training(tmp_path: Path) -> FakeTraining:
    return FakeTraining(RevealStore(tmp_path / "reveals"))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", quota_bytes=2**26)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def uploads(store: BlobStore, training: FakeTraining, node: FakeNode, clock: FakeClock) -> Uploads:
    return Uploads(store, training, node, clock)


def put_shard(uploads: Uploads) -> Callable[[Request], Coroutine[None, None, Response]]:
    return lambda request: uploads.put_blob(request, shard_id())


def put_large(uploads: Uploads) -> Callable[[Request], Coroutine[None, None, Response]]:
    return lambda request: uploads.put_blob(request, content_id(LARGE))


async def get_status(upload: Awaitable[Response]) -> int:
    try:
        return (await upload).status
    except HttpError as error:
        return error.status


def test_stalled_uploads_of_content_take_no_place_of_a_reveal(uploads: Uploads) -> None:
    async def run() -> list[int]:
        shards = [shard_from(f"192.0.2.{number}") for number in range(100)]
        honest = reveal_by(0)
        honest.go_on.set()
        async with stalled(put_shard(uploads), *shards):
            return await gather_statuses(uploads, honest)

    assert asyncio.run(run()) == [201]


def test_senders_of_other_bytes_keep_no_content_out(
    uploads: Uploads, training: FakeTraining
) -> None:
    name_large_shard(training)

    async def run() -> int:
        begun = HASHES_BYTES + CHUNK_BYTES - 1
        others = [
            content_from("198.51.100.7", bytes(len(LARGE_BODY)), HASHES_BYTES - 1),
            content_from("198.51.100.7", LARGE_BODY[:HASHES_BYTES] + bytes(len(LARGE)), begun),
            content_from("198.51.100.7", LARGE_BODY, begun + 1),
        ]
        honest = content_from("203.0.113.1", LARGE_BODY)
        honest.go_on.set()
        async with stalled(put_large(uploads), *(others[number % 3] for number in range(40))):
            return (await uploads.put_blob(honest.request, content_id(LARGE))).status

    assert asyncio.run(run()) == 201


@pytest.mark.parametrize(
    ("body", "first_bytes", "message"),
    [
        (bytes(HASHES_BYTES) + LARGE, HASHES_BYTES, "does not begin with the hashes"),
        (LARGE_BODY[:HASHES_BYTES] + bytes(len(LARGE)), HASHES_BYTES + CHUNK_BYTES, "chunk 0"),
        (
            LARGE_BODY[: HASHES_BYTES + CHUNK_BYTES] + bytes(len(LARGE) - CHUNK_BYTES),
            HASHES_BYTES + 2 * CHUNK_BYTES,
            "chunk 1",
        ),
    ],
)
def test_other_bytes_end_an_upload_of_content_as_soon_as_they_arrive(
    uploads: Uploads,
    store: BlobStore,
    training: FakeTraining,
    body: bytes,
    first_bytes: int,
    message: str,
) -> None:
    name_large_shard(training)
    client = content_from("192.0.2.1", body, first_bytes)
    with pytest.raises(HttpError, match=message) as refused:
        asyncio.run(uploads.put_blob(client.request, content_id(LARGE)))
    assert (refused.value.status, refused.value.reason) == (422, "content_mismatch")
    assert store.used_bytes() == 0


def test_senders_of_one_blob_share_the_room_for_it(
    uploads: Uploads, store: BlobStore, training: FakeTraining
) -> None:
    name_large_shard(training)

    async def run() -> list[int]:
        used = []
        first_bytes = HASHES_BYTES + CHUNK_BYTES
        for sent in (first_bytes - 1, first_bytes):
            senders = [content_from(f"192.0.2.{number}", LARGE_BODY, sent) for number in range(40)]
            async with stalled(put_large(uploads), *senders):
                used.append(store.used_bytes())
        return [*used, store.used_bytes()]

    # Room is kept from the first right chunk on, until the last sender has left.
    assert asyncio.run(run()) == [0, count_stored_bytes(len(LARGE)), 0]


def test_hashes_of_chunks_count_as_held_until_they_are_verified(
    uploads: Uploads, training: FakeTraining
) -> None:
    name_large_shard(training)

    async def run() -> list[int]:
        counts = []
        for sent in (HASHES_BYTES - 1, HASHES_BYTES + 1):
            client = content_from("192.0.2.1", LARGE_BODY, sent)
            async with stalled(put_large(uploads), client):
                deadline = time.monotonic() + 20
                # A thread verifies them.
                while sent > HASHES_BYTES and client.request.holding.size_bytes:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.01)
                counts.append(client.request.holding.size_bytes)
        return counts

    assert asyncio.run(run()) == [HASHES_BYTES - 1, 0]


def test_hashes_of_chunks_for_which_there_is_no_room_are_refused(
    uploads: Uploads, training: FakeTraining
) -> None:
    name_large_shard(training)
    client = content_from("192.0.2.1", LARGE_BODY, HASHES_BYTES - 1)
    client.request.holding = HeldBytes(HASHES_BYTES - 2).open("192.0.2.1")
    with pytest.raises(NoRoomError):
        asyncio.run(uploads.put_blob(client.request, content_id(LARGE)))


def test_slow_sender_of_content_ends_when_another_one_was_faster(
    uploads: Uploads, node: FakeNode, training: FakeTraining
) -> None:
    name_large_shard(training)

    async def run() -> list[int]:
        slow = content_from("192.0.2.1", LARGE_BODY, HASHES_BYTES + CHUNK_BYTES)
        fast = content_from("192.0.2.2", LARGE_BODY)
        fast.go_on.set()
        async with stalled(put_large(uploads), slow) as tasks:
            status = (await uploads.put_blob(fast.request, content_id(LARGE))).status
            slow.go_on.set()
            return [status, await get_status(tasks[0])]

    assert asyncio.run(run()) == [201, 200]
    assert node.calls == ["blob_arrived"]


def test_content_that_the_disk_refused_or_lost_is_taken_again(
    uploads: Uploads,
    store: BlobStore,
    training: FakeTraining,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name_large_shard(training)
    finish = ContentUpload.finish
    faults: list[Exception] = [BlobDiskError("disk full")]

    def finish_or_fail(self: ContentUpload) -> Hash32:
        if faults:
            raise faults.pop()
        return finish(self)

    monkeypatch.setattr(ContentUpload, "finish", finish_or_fail)

    async def send() -> int:
        client = content_from("192.0.2.2", LARGE_BODY)
        client.go_on.set()
        return await get_status(uploads.put_blob(client.request, content_id(LARGE)))

    async def run() -> list[int]:
        # Its file is neither used again after a fault, nor taken for the blob once that is gone.
        slow = content_from("192.0.2.1", LARGE_BODY, HASHES_BYTES + CHUNK_BYTES)
        async with stalled(put_large(uploads), slow):
            statuses = [await send(), await send()]
            store.delete(content_id(LARGE))
            return [*statuses, await send()]

    assert asyncio.run(run()) == [500, 201, 201]
    with store.open(content_id(LARGE)) as file:
        assert file.read() == LARGE
    assert store.used_bytes() == count_stored_bytes(len(LARGE))


def test_content_without_an_announced_length_is_refused(uploads: Uploads) -> None:
    client = shard_from("192.0.2.1")
    client.request.headers = {}
    assert asyncio.run(get_status(uploads.put_blob(client.request, shard_id()))) == 411


def test_content_that_ends_early_is_refused(uploads: Uploads, store: BlobStore) -> None:
    client = shard_from("192.0.2.1")
    client.cut_short()
    assert asyncio.run(get_status(uploads.put_blob(client.request, shard_id()))) == 400
    assert store.used_bytes() == 0


def test_uploads_of_another_task_take_no_place_of_a_reveal(uploads: Uploads) -> None:
    async def run() -> list[int]:
        # Sixteen seats of one unit, each from four addresses, as long as they are fast enough.
        others = [
            reveal_of(reveal, PAYLOADS[0], f"198.51.100.{number}")
            for reveal in OTHER_REVEALS
            for number in range(4)
        ]
        honest = [reveal_by(index, "203.0.113.7") for index in range(3)]
        for each in honest:
            each.go_on.set()
        async with stalled(uploads.post_reveal, *others):
            return await gather_statuses(uploads, *honest)

    assert asyncio.run(run()) == [201, 201, 201]


def test_content_is_accepted_although_another_task_lies_about_its_size(
    uploads: Uploads, training: FakeTraining
) -> None:
    first, second = SPEC.data.shards
    lies = {TASK: (replace(first, byte_count=1), second)}
    lies[OTHER_ATTEMPT.task_id] = (first, replace(second, byte_count=1))
    for task_id, shards in lies.items():
        training.specs[task_id] = replace(SPEC, data=replace(SPEC.data, shards=shards))
    for shard, body in zip(SPEC.data.shards, SHARDS, strict=True):
        upload = content_from("192.0.2.1", build_upload_body(body))
        upload.go_on.set()
        assert asyncio.run(uploads.put_blob(upload.request, shard.content_id)).status == 201


def test_content_of_a_task_that_pays_for_less_disk_is_refused(
    uploads: Uploads, training: FakeTraining
) -> None:
    unpaid = replace(SPEC, resources=replace(SPEC.resources, disk_bytes=1))
    training.specs = {TASK: unpaid, OTHER_ATTEMPT.task_id: unpaid}
    with pytest.raises(HttpError, match=r"takes no part in task 1: .*declares 1") as refused:
        asyncio.run(uploads.put_blob(shard_from("192.0.2.1").request, shard_id()))
    assert (refused.value.status, refused.value.reason) == (403, "task_refused")


def test_content_of_a_task_whose_terms_pay_for_less_disk_is_refused(
    uploads: Uploads, training: FakeTraining
) -> None:
    unpaid = replace(SPEC.resources, disk_bytes=1)
    training.paid = {TASK: unpaid, OTHER_ATTEMPT.task_id: unpaid}
    with pytest.raises(HttpError, match=r"takes no part in task 1: the terms .*differ") as refused:
        asyncio.run(uploads.put_blob(shard_from("192.0.2.1").request, shard_id()))
    assert (refused.value.status, refused.value.reason) == (403, "task_refused")


@pytest.mark.parametrize("kind", ["content", "gradient"])
def test_upload_that_is_cancelled_while_it_begins_reserves_nothing(
    uploads: Uploads, store: BlobStore, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(begin: Callable[P, T]) -> Callable[P, T]:
        def begin_slowly(*args: P.args, **kwargs: P.kwargs) -> T:
            begun.set()
            go_on.wait(10)
            return begin(*args, **kwargs)

        return begin_slowly

    monkeypatch.setattr(store, "upload", slow(store.upload))
    monkeypatch.setattr(store, "receive_content", slow(store.receive_content))

    async def run() -> None:
        client = shard_from("192.0.2.1") if kind == "content" else reveal_by(0)
        client.go_on.set()
        send = put_shard(uploads) if kind == "content" else uploads.post_reveal
        upload = asyncio.create_task(send(client.request))
        assert await asyncio.to_thread(begun.wait, 10)
        upload.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await upload

    asyncio.run(run())
    assert store.used_bytes() == 0


def test_upload_of_content_ends_when_its_task_is_closed(
    uploads: Uploads, training: FakeTraining
) -> None:
    async def run() -> int:
        client = shard_from("192.0.2.1")
        async with stalled(put_shard(uploads), client) as tasks:
            training.is_closed = True
            client.go_on.set()
            return await get_status(tasks[0])

    assert asyncio.run(run()) == 404


async def gather_statuses(uploads: Uploads, *clients: Client) -> list[int]:
    """Upload reveals side by side, and return their statuses in order."""
    posts = (uploads.post_reveal(each.request) for each in clients)
    return await asyncio.gather(*map(get_status, posts))


def test_slow_upload_loses_its_place(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "GRACE_SECONDS", 0.1)
    assert asyncio.run(gather_statuses(uploads, reveal_by(0))) == [408]


def test_upload_that_outlasts_its_phase_is_ended(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = replace(SPEC.phases, verdict_seconds=0)
    monkeypatch.setattr(FakeTraining, "spec", lambda *_: replace(SPEC, phases=phases))
    assert asyncio.run(gather_statuses(uploads, reveal_by(0))) == [408]


def test_others_cannot_keep_a_miner_from_uploading_its_gradient(uploads: Uploads) -> None:
    async def run() -> tuple[list[bool], int, list[int]]:
        copies = [reveal_by(0, f"192.0.2.{number}") for number in range(5)]
        other = reveal_by(1)
        other.go_on.set()
        async with stalled(uploads.post_reveal, *copies) as tasks:
            statuses = await gather_statuses(uploads, other)
            return [each.done() for each in tasks], await get_status(tasks[4]), statuses

    are_over, fifth, other = asyncio.run(run())
    assert are_over == [False, False, False, False, True], "four places for one miner's gradient"
    assert (fifth, other) == (503, [201])


def test_slow_uploads_by_others_lose_their_places_to_the_miner(
    uploads: Uploads, clock: FakeClock
) -> None:
    async def run() -> tuple[list[int], list[int]]:
        slow = [reveal_by(0, f"192.0.2.{number}") for number in range(4)]
        own = reveal_by(0, "192.0.2.9")
        own.go_on.set()
        async with stalled(uploads.post_reveal, *slow) as tasks:
            clock.now += KEPT_SECONDS
            statuses = await gather_statuses(uploads, own)
            for client in slow:
                client.go_on.set()
            return await asyncio.gather(*map(get_status, tasks)), statuses

    lost, own = asyncio.run(run())
    assert own == [201]
    assert lost.count(503) == 1


def test_one_address_has_one_place_for_a_gradient(uploads: Uploads, clock: FakeClock) -> None:
    async def run() -> tuple[list[int], list[int]]:
        again = reveal_by(0)
        again.go_on.set()
        async with stalled(uploads.post_reveal, reveal_by(0), reveal_by(0)) as tasks:
            clock.now += KEPT_SECONDS
            statuses = await gather_statuses(uploads, again)
            return statuses, await asyncio.gather(*map(get_status, tasks))

    again, lost = asyncio.run(run())
    assert again == [201], "a client that comes again replaces its stalled upload"
    assert lost == [503, 503]


def repeated(index: int, address: str = "198.51.100.7") -> Client:
    """A known reveal, sent again without a body."""
    client = reveal_by(index, address)
    client.request.headers = {}
    client.cut_short()
    return client


def test_known_reveal_that_is_repeated_costs_nothing(
    uploads: Uploads, training: FakeTraining, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reveal_by(0)
    first.go_on.set()
    assert asyncio.run(gather_statuses(uploads, first)) == [201]

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is written, and no thread is used")

    for name in ("os.fsync", "os.replace", "asyncio.to_thread"):
        monkeypatch.setattr(name, refuse)
    statuses = asyncio.run(gather_statuses(uploads, *(repeated(0) for _ in range(20))))
    assert statuses == [200] * 20
    assert node.calls == ["reveal_arrived"]
    assert training.reveals.list(REVEALS[0].attempt_id) == (REVEALS[0],)


def test_reveal_of_which_the_node_was_not_told_is_told_when_repeated(
    uploads: Uploads, node: FakeNode
) -> None:
    first = reveal_by(0)
    first.go_on.set()
    node.is_reachable = False
    assert asyncio.run(gather_statuses(uploads, first)) == [201]
    node.is_reachable = True
    assert asyncio.run(gather_statuses(uploads, repeated(0))) == [200]
    assert asyncio.run(gather_statuses(uploads, repeated(0))) == [200]
    assert node.calls == ["reveal_arrived", "reveal_arrived"]


def test_gradient_of_a_task_without_promise_leaves_the_promised_share_free(
    tmp_path: Path, training: FakeTraining, node: FakeNode
) -> None:
    stored = count_stored_bytes(len(PAYLOADS[0]))
    small = BlobStore(tmp_path / "small", quota_bytes=2 * stored - 2)
    uploads = Uploads(small, training, node)

    async def send(index: int) -> Response:
        client = reveal_by(index)
        client.go_on.set()
        return await uploads.post_reveal(client.request)

    node.objection = "the task takes too much disk"
    with pytest.raises(HttpError) as refused:
        asyncio.run(send(0))
    assert (refused.value.status, refused.value.reason) == (507, "quota")
    assert refused.value.message == (
        "the node has promised no room to task 1: the task takes too much disk"
    )
    assert small.used_bytes() == 0
    node.objection = None
    assert asyncio.run(send(0)).status == 201
    # Room that is promised to no task is for all.
    large = BlobStore(tmp_path / "large", quota_bytes=2 * stored)
    uploads = Uploads(large, training, node)
    node.objection = "the task waits for room"
    assert asyncio.run(send(0)).status == 201
    with pytest.raises(HttpError, match="the task waits for room"):
        asyncio.run(send(1))


def test_unknown_reveal_of_a_held_gradient_needs_a_place(
    uploads: Uploads, store: BlobStore
) -> None:
    async def run() -> tuple[list[int], list[int]]:
        copies = [reveal_by(0, f"192.0.2.{number}") for number in range(4)]
        async with stalled(uploads.post_reveal, *copies):
            store.put(PAYLOADS[0])
            refused = await gather_statuses(uploads, repeated(0))
        return refused, await gather_statuses(uploads, repeated(0))

    assert asyncio.run(run()) == ([503], [200])


def test_reveal_that_names_a_held_blob_of_another_length_is_refused(
    uploads: Uploads, store: BlobStore, training: FakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = store.put(b"rows of another submitter")
    os.utime(store.path(shard), (1, 1))
    named = replace(OTHER_REVEALS[0], gradient_root=shard)
    monkeypatch.setattr(f"{__name__}.OTHER_REVEALS", (named,))

    with pytest.raises(HttpError) as refusal:
        asyncio.run(uploads.post_reveal(reveal_of(named, PAYLOADS[0], "192.0.2.1").request))
    assert (refusal.value.status, refusal.value.reason) == (422, "content_mismatch")
    assert training.reveals.list(OTHER_ATTEMPT) == ()
    assert store.path(shard).stat().st_mtime == 1


def test_live_tasks_are_read_once_for_a_block_outside_of_the_event_loop(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    live_tasks = FakeTraining.live_tasks

    def note_thread(self: FakeTraining) -> Iterator[TaskHistory]:
        threads.append(threading.current_thread() is threading.main_thread())
        return live_tasks(self)

    monkeypatch.setattr(FakeTraining, "live_tasks", note_thread)
    monkeypatch.setattr(FakeTraining, "history", lambda *_: other_task())
    clients = [shard_from(f"192.0.2.{number}") for number in range(3)]
    for each in clients:
        each.go_on.set()

    async def run() -> None:
        await asyncio.gather(*(uploads.put_blob(each.request, shard_id()) for each in clients))

    asyncio.run(run())
    assert threads == [False]
