"""Messages between nodes, and between the processes of a node."""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import trio

from chain import codec
from chain.consensus.messages import Committed, Message, Status, encode_message
from chain.crypto import keccak256, sign
from chain.genesis import GenesisAccount, build_alloc
from chain.json_types import JsonObject
from chain.primitives import Address, BlockNumber, Hash32, TaskId, ValidatorIndex, View
from chain.state.walk import END, START, collect_chunk
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.architectures import Mlp
from chain.training.attempt import AttemptId
from chain.training.availability import Availability, AvailabilityVote, encode_availability
from chain.training.draws import AuditRule, compute_draws
from chain.training.encoding import encode_gradient
from chain.training.model_file import encode_model_file
from chain.training.optimizer import apply_update, initial_state
from chain.training.reveal import Reveal
from chain.training.state import (
    compute_model_root,
    compute_part_ids,
    compute_state_root,
    compute_training_state_root,
)
from chain.training.task_spec import (
    Sgd,
)
from chain.training.task_spec_codec import encode_task_spec
from chain.types.receipt import combine_blooms, compute_bloom, encode_receipts
from node.ipc.client import IpcClient, IpcError
from node.ipc.server import IpcServer
from node.network.host import compute_peer_id, host_key_from_seed
from node.network.metrics import NetworkMetrics
from node.network.pieces import erasure
from node.network.pieces import links as pieces
from node.network.pieces.dissemination import Dissemination
from node.network.protocols import blobs, blocks, consensus, state, status, training
from node.network.protocols import transactions as transactions_protocol
from node.network.protocols.blobs import BlobExchange
from node.network.protocols.state import StateServer, TaskRecord
from node.network.protocols.status import NodeIdentity
from node.network.stream import FrameStream
from node.network.wire import (
    PROTOCOL_VERSION,
    AnnounceTransactions,
    BlobRequest,
    BlocksRequest,
    DisconnectReason,
    Goodbye,
    Head,
    Hello,
    Peers,
    Ping,
    Pong,
    RequestBlockByHash,
    RequestBlocks,
    RequestChunks,
    RequestHave,
    RequestHeaders,
    RequestManifest,
    RequestReceipts,
    RequestTransactions,
    TransactionBatch,
    ValidatorProof,
    encode_blob_request,
    encode_blocks_request,
    encode_certified,
    encode_first_held,
    encode_manifest,
    encode_status,
    encode_transaction_message,
)
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import BlobStore
from node.training.turns import Turn
from node.training.worker_pool import WorkerPool, WorkerSettings
from pot_common.framing import NODE_FRAMES, WORKER_ANSWERS
from tests.conformance import values
from tests.conformance.registry import Value, sample
from tests.conformance.streams import new_directory, record
from tests.conformance.values import make_address, make_bytes, make_hash, make_signature

HEAD = Head(BlockNumber(901), make_hash(110))
ADDRESSES = (
    f"/ip4/10.0.0.1/tcp/9000/p2p/12D3KooW{'B' * 44}",
    "/dns4/b.example/tcp/1/p2p/" + "C" * 46,
)


@sample("wire.protocol_ids")
def build_protocol_ids() -> Value:
    modules = (status, consensus, pieces, transactions_protocol, blocks, blobs, training, state)
    return [module.PROTOCOL_ID for module in modules]


@sample("wire.frame", "FrameStream.write_frames", "FrameStream.write_frame")
def build_frames() -> Value:
    async def talk(stream: FrameStream) -> None:
        await stream.write_frame(make_bytes(1, 300))
        await stream.write_frames([b"", b"\x01"])

    return record(talk)


@sample("wire.peer_id", "compute_peer_id")
def build_peer_id() -> Value:
    return compute_peer_id(host_key_from_seed(make_bytes(2, 32)))


# /pot/status/1


@sample("wire.status", "encode_status")
def build_status() -> Value:
    messages = {
        "hello": Hello(1, values.CHAIN_ID, make_hash(111), HEAD, make_hash(112), ADDRESSES),
        "hello_without_addresses": Hello(2, 1, make_hash(113), HEAD, make_hash(114), ()),
        "proof": ValidatorProof((make_address(115), make_signature(116))),
        "proof_without_claim": ValidatorProof(None),
        "ping": Ping(77, HEAD),
        "pong": Pong(78),
        "peers": Peers(ADDRESSES),
        "goodbye": Goodbye(DisconnectReason.MISBEHAVIOUR),
    }
    return {name: encode_status(message) for name, message in messages.items()}


@sample("wire.status.handshake", "compute_status_digest", "encode_status")
def build_handshake() -> Value:
    identity = NodeIdentity(
        values.CHAIN_ID,
        make_hash(111),
        (make_address(117), lambda digest: sign(digest, values.KEY)),
    )
    hello = Hello(
        PROTOCOL_VERSION, values.CHAIN_ID, make_hash(111), HEAD, make_hash(118), ADDRESSES
    )
    talk = partial(
        status.shake_hands,
        identity=identity,
        own_peer_id=compute_peer_id(host_key_from_seed(make_bytes(2, 32))),
        head=HEAD,
        addresses=ADDRESSES,
        nonce=make_hash(119),
    )
    return record(talk, encode_status(hello), encode_status(ValidatorProof(None)))


# /pot/consensus/1 and /pot/pieces/1


@sample(
    "wire.consensus",
    "encode_message",
    "message_to_item",
    "_vote_to_item",
    "_pre_prepare_to_item",
    "_view_change_vote_to_item",
    "_quorum_to_item",
    "Block.to_item",
    "Header.fields",
    "CommitCertificate.to_item",
)
def build_consensus() -> Value:
    number, view = BlockNumber(902), View(6)
    messages: dict[str, Message] = {
        "pre_prepare": values.PRE_PREPARE,
        "prepare": values.VOTE,
        "commit": values.COMMIT,
        "view_change": values.VIEW_CHANGE,
        "view_change_without_certificate": values.EMPTY_VIEW_CHANGE,
        "new_view": values.NEW_VIEW,
        "new_view_without_certificate": values.EMPTY_NEW_VIEW,
        "status": Status(number, view, make_hash(120), ValidatorIndex(9), make_signature(121)),
        "committed": Committed(number, make_hash(122), values.CERTIFICATE),
    }
    return {name: encode_message(message) for name, message in messages.items()}


@sample("wire.pieces", "encode", "encode_piece")
def build_pieces() -> Value:
    validators = tuple(make_address(130 + index) for index in range(9))
    dissemination = Dissemination(validators[4])
    dissemination.set_validators(validators)
    return {
        "frames": [[address, piece] for address, piece in dissemination.cut(make_bytes(5, 70_001))],
        "erasure_code": erasure.encode(make_bytes(6, 1_001), 5, 13),
    }


# /pot/transactions/1


@sample("wire.transactions", "encode_transaction_message")
def build_transaction_messages() -> Value:
    messages = {
        "announce": AnnounceTransactions((make_hash(140), make_hash(141))),
        "request": RequestTransactions((make_hash(142),)),
        "batch": TransactionBatch(tuple(values.TRANSACTIONS.values())),
        "empty_batch": TransactionBatch(()),
    }
    return {name: encode_transaction_message(message) for name, message in messages.items()}


# /pot/blocks/1


class Chain:
    """The chain of a node that joined by snapshot and holds block 900 only."""

    def encoded_block(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        return (values.BLOCK.encode(), values.CERTIFICATE.encode()) if number == 900 else None

    def encoded_header(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        return (values.HEADER.encode(), b"") if number == 900 else None

    def encoded_receipts(self, number: BlockNumber) -> bytes | None:
        return encode_receipts(values.RECEIPTS) if number == 900 else None

    def first_held(self) -> BlockNumber:
        return BlockNumber(899)

    def find_block(self, block_hash: Hash32) -> bytes | None:
        return values.BLOCK.encode() if block_hash == make_hash(150) else None


@sample(
    "wire.blocks",
    "encode_blocks_request",
    "encode_certified",
    "encode_first_held",
    "Block.encode",
    "Header.encode",
    "encode_receipts",
)
def build_blocks() -> Value:
    requests: dict[str, BlocksRequest] = {
        "request_blocks": RequestBlocks(BlockNumber(900), 17),
        "request_headers": RequestHeaders(BlockNumber(900), 18),
        "request_by_hash": RequestBlockByHash(make_hash(150)),
        "request_receipts": RequestReceipts((BlockNumber(900), BlockNumber(77))),
    }
    served = [
        *requests.values(),
        RequestBlocks(BlockNumber(3), 4),
        RequestBlockByHash(make_hash(151)),
    ]
    serve = partial(blocks.serve, source=Chain(), metrics=NetworkMetrics())
    return {
        **{name: encode_blocks_request(request) for name, request in requests.items()},
        "certified": encode_certified(make_bytes(8, 90), make_bytes(9, 80)),
        "first_held": encode_first_held(BlockNumber(70_000)),
        "answers": record(serve, *map(encode_blocks_request, served)),
    }


# /pot/blobs/1


@sample("wire.blobs", "encode_blob_request", "encode_manifest")
def build_blobs() -> Value:
    requests: dict[str, BlobRequest] = {
        "request_have": RequestHave(make_hash(160)),
        "request_manifest": RequestManifest(make_hash(161)),
        "request_chunks": RequestChunks(make_hash(162), 3, 15),
    }
    with new_directory() as directory:
        store = BlobStore(directory / "blobs", quota_bytes=2**22)
        held = store.put(make_bytes(10, 2**18 + 5))
        served = (
            *(RequestHave(held), RequestManifest(held), RequestChunks(held, 0, 3)),
            *(RequestHave(make_hash(163)), RequestManifest(make_hash(163))),
        )
        exchange = BlobExchange(store, NetworkMetrics())
        serve = partial(exchange.serve, validator=None)
        answers = record(serve, *map(encode_blob_request, served))
    manifest = BlobManifest(2**18 + 7, (make_hash(164), make_hash(165)))
    return {
        **{name: encode_blob_request(request) for name, request in requests.items()},
        "manifest": encode_manifest(manifest),
        "answers": answers,
    }


# /pot/training/1


class Training:
    """The training stores with one reveal and the parts of one state."""

    async def list_reveals(self, attempt_id: AttemptId) -> Sequence[Reveal]:
        return [values.REVEAL] if attempt_id == values.ATTEMPT else []

    async def get_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        return (make_hash(171), make_hash(172)) if state_root == make_hash(170) else None

    def on_announced_reveal(self, reveal: Reveal) -> None:
        assert reveal == values.REVEAL


@sample(
    "wire.training",
    "request_reveals",
    "request_state_parts",
    "announce_reveal",
    "serve",
    "_encode_reveals",
    "Reveal.to_item",
)
def build_training() -> Value:
    requests = {
        "request_reveals": record(lambda s: training.request_reveals(s, values.ATTEMPT)),
        "request_state_parts": record(lambda s: training.request_state_parts(s, make_hash(170))),
        "announce_reveal": record(lambda s: training.announce_reveal(s, values.REVEAL)),
    }
    served = [data[4:] for data in requests.values()]
    served.insert(2, codec.encode([1, make_hash(173)]))
    source = Training()
    serve = partial(training.serve, source=source, on_announced=source.on_announced_reveal)
    return {**requests, "answers": record(serve, *served)}


# /pot/state/1


class State:
    """A small state with one task."""

    def __init__(self) -> None:
        accounts = {
            make_address(180 + index): GenesisAccount(
                balance=index + 1,
                nonce=index,
                code=b"\x60" * index,
                storage={index: 2**200 + index},
            )
            for index in range(20)
        }
        self.root, self.nodes = build_alloc(accounts)

    def state_chunk(
        self, number: BlockNumber, start: bytes, end: bytes, limit_bytes: int
    ) -> tuple[bytes, ...] | None:
        if number != 900:
            return None
        return collect_chunk(self.nodes.get, self.root, start, end, limit_bytes)

    def state_nodes(self, hashes: Sequence[Hash32], limit_bytes: int) -> tuple[bytes, ...]:
        return tuple(self.nodes.get(each, b"") for each in hashes)

    def task_records(
        self, number: BlockNumber, first: TaskId, count: int, after: bytes, accounts_limit: int
    ) -> tuple[TaskRecord, ...] | None:
        rewards = ((Address(make_bytes(1, 20)), 7), (Address(make_bytes(2, 20)), 2**200))
        records = (TaskRecord(b"{}", rewards[len(after) // 20 :]), TaskRecord(b"", (), False))
        return records[:count] if number == 900 else None


@sample(
    "wire.state",
    "request_chunk",
    "request_nodes",
    "request_records",
    "StateServer._answer",
    "_record_to_item",
)
def build_state() -> Value:
    source = State()
    number, first = BlockNumber(900), TaskId(4)
    wanted = [source.root, make_hash(190)]
    requests = {
        "request_chunk": record(lambda s: state.request_chunk(s, number, source.root, START, END)),
        "request_part": record(
            lambda s: state.request_chunk(s, number, source.root, b"\x03", b"\x05")
        ),
        "request_nodes": record(lambda s: state.request_nodes(s, wanted)),
        "request_records": record(lambda s: state.request_records(s, number, first, 2, b"")),
        "request_more": record(
            lambda s: state.request_records(s, number, first, 2, make_bytes(1, 20))
        ),
    }
    served = [
        *(data[4:] for data in requests.values()),
        codec.encode([0, 901, START, END]),
    ]
    return {**requests, "answers": record(StateServer(source).serve, *served)}


# Values that several of these carry.


@sample("format.header", "Header.encode", "Header.fields")
def build_header() -> Value:
    return values.HEADER.encode()


@sample("format.block", "Block.encode", "Block.to_item")
def build_block() -> Value:
    return {
        "with_parent_certificate": values.BLOCK.encode(),
        "first": values.FIRST_BLOCK.encode(),
    }


@sample("format.certificate", "CommitCertificate.encode", "CommitCertificate.to_item")
def build_certificate() -> Value:
    return values.CERTIFICATE.encode()


@sample("format.receipts", "Receipt.encode", "encode_receipts", "compute_bloom", "combine_blooms")
def build_receipts() -> Value:
    return {
        "typed": values.RECEIPTS[0].encode(),
        "legacy": values.RECEIPTS[1].encode(),
        "of_a_block": encode_receipts(values.RECEIPTS),
        "bloom": compute_bloom(values.LOGS),
        "combined_bloom": combine_blooms([make_bytes(1, 256), make_bytes(2, 256)]),
    }


@sample(
    "format.task_spec",
    "encode_task_spec",
    "_canonical_json",
    "_model_to_json",
    "_data_to_json",
    "_optimizer_to_json",
    "to_hex",
)
def build_task_spec() -> Value:
    other = replace(values.SPEC, model=Mlp(64, (5, 6), 10), optimizer=Sgd(0x3F666666))
    return {
        "cnn_adamw": encode_task_spec(values.SPEC),
        "mlp_sgd": encode_task_spec(other),
    }


@sample("format.gradient", "encode_gradient", "GradientHeader.encode")
def build_gradient() -> Value:
    size = values.GRADIENT_HEADER.parameter_count
    gradient = (np.arange(size, dtype=np.float32) - 150) / np.float32(4096)
    return {
        "header": values.GRADIENT_HEADER.encode(),
        "payload": encode_gradient(values.GRADIENT_HEADER, gradient),
    }


@sample("format.verdicts", "encode_verdicts")
def build_verdicts() -> Value:
    return encode_verdicts(
        [Verdict.CHEAT, Verdict.OK, Verdict.BAD, Verdict.MISSING, Verdict.BAD, Verdict.CHEAT]
    )


@sample("format.availability", "encode_availability", "_compute_value")
def build_availability() -> Value:
    """The first votes of a validator, which contain its draws and the steps that these name."""
    one_step = AuditRule(audit_ppm=300_000, local_steps=1, audit_steps=1, honest_votes=2)
    rules = {
        "one_step": one_step,
        "named_steps": replace(one_step, local_steps=40, audit_steps=2),
        "everything": AuditRule(10**6, 3, 3, 4),
    }
    words = tuple(Availability(index % 3) for index in range(31))
    votes = {
        name: AvailabilityVote(words, compute_draws(make_hash(49), make_hash(50), 31, rule))
        for name, rule in rules.items()
    }
    return {name: encode_availability(vote, rules[name]) for name, vote in votes.items()}


@sample(
    "format.training_state",
    "compute_model_root",
    "compute_part_ids",
    "compute_state_root",
    "compute_training_state_root",
    "encode_model_file",
)
def build_training_state() -> Value:
    theta = ((np.arange(47, dtype=np.float32) + 1) / np.float32(64)).tobytes()
    mean = (np.arange(47, dtype=np.float32) - 23) / np.float32(128)
    found = {}
    for name, optimizer in (
        ("sgd", Sgd(0)),
        ("sgd_with_momentum", Sgd(0x3F666666)),
        ("adamw", values.ADAMW),
    ):
        before = initial_state(optimizer, theta)
        after = apply_update(optimizer, 20_000_001, before, mean)
        found[name] = [
            b"".join(before.parts),
            b"".join(after.parts),
            compute_part_ids(after),
            compute_model_root(after),
            compute_state_root(compute_part_ids(after)),
            compute_training_state_root(after),
        ]
    model = Mlp(4, (5,), 3)
    found["model_file"] = [encode_model_file(model, make_bytes(11, 4 * (4 * 5 + 5 + 5 * 3 + 3)))]
    return found


# Between the processes of one node.


class Backend:
    """A node that knows one transaction and one account."""

    async def submit_transaction(self, raw: bytes) -> Hash32:
        return keccak256(raw)

    def get_pending_nonce(self, address: Address) -> int | None:
        return 12 if address == make_address(200) else None

    def get_pooled_transaction(self, transaction_hash: Hash32) -> bytes | None:
        return b"\x02\x03" if transaction_hash == make_hash(201) else None

    def get_pool_counts(self) -> tuple[int, int]:
        return 13, 14

    def get_gas_price(self) -> int:
        return 21

    def get_node_info(self) -> dict[str, object]:
        return {"peerId": "é"}

    def get_validators(self) -> list[object]:
        return [{"connected": True}]

    def get_consensus_state(self) -> dict[str, object]:
        return {"view": 15}

    def get_sync_state(self) -> dict[str, object]:
        return {"peers": 16, "best": 17}

    def on_blob(self) -> None:
        pass


@sample("ipc", "dump_json", "FrameFormat.encode")
def build_ipc() -> Value:
    parameters: list[tuple[str, JsonObject]] = [
        ("submit_transaction", {"raw": "0x0203"}),
        ("pending_nonce", {"address": "0x" + make_address(200).hex()}),
        ("pending_nonce", {"address": "0x" + make_address(203).hex()}),
        ("pooled_transaction", {"hash": "0x" + make_hash(201).hex()}),
        ("pooled_transaction", {"hash": "0x" + make_hash(204).hex()}),
        ("pool_counts", {}),
        ("node_info", {}),
        ("validators", {}),
        ("consensus_state", {}),
        ("sync_state", {}),
        ("blob_arrived", {}),
        ("unknown", {}),
    ]
    requests = [
        {"id": at, "method": method, "params": params}
        for at, (method, params) in enumerate(parameters)
    ]
    with new_directory() as directory:
        return {
            "request": asyncio.run(record_ipc_client(directory / "client")),
            "answers": trio.run(record_ipc_server, directory / "server", requests),
        }


async def record_ipc_client(path: Path) -> bytes:
    """The bytes that a client sends; it gets no answers."""
    received = asyncio.get_running_loop().create_future()
    connected = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        data = await reader.readexactly(4)
        data += await reader.readexactly(int.from_bytes(data, "big"))
        writer.close()
        received.set_result(data)

    server = await asyncio.start_unix_server(listen, path)
    client = IpcClient(path)
    running = asyncio.create_task(client.run())
    await connected.wait()
    with suppress(IpcError):
        await client.call("unknown", {"process": 19, "text": "é", "none": None, "half": 0.5})
    running.cancel()
    server.close()
    return await received


async def record_ipc_server(path: Path, requests: Sequence[JsonObject]) -> list[bytes]:
    """The bytes that a server sends: a new head, then an answer to each request."""
    server = IpcServer(Backend())
    frames = []
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, path))
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            server.announce_head(BlockNumber(905), make_hash(205))
            frames.append(await receive_frame(stream))
            for request in requests:
                await stream.send_all(NODE_FRAMES.encode(request))
                frames.append(await receive_frame(stream))
        nursery.cancel_scope.cancel()
    return frames


async def receive_frame(stream: trio.SocketStream) -> bytes:
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        data += await stream.receive_some(2**16)
    return data


ECHO = (
    "import json, sys\n"
    "size = int.from_bytes(sys.stdin.buffer.read(4), 'big')\n"
    "data = json.dumps({'frame': sys.stdin.buffer.read(size).hex()}).encode()\n"
    "sys.stdout.buffer.write(len(data).to_bytes(4, 'big') + data)\n"
    "sys.stdout.buffer.flush()\n"
)
"""A verifier worker that returns the question, if the frame is correct."""


@sample("verifier.request", "WorkerPool.ask", "FrameFormat.encode")
def build_verifier_request() -> Value:
    verifier = WorkerPool(WorkerSettings(("unused",)))
    members = {"spec": "a/spec", "shards": ["b", "c"], "header": {"round": 7, "seed": "00ff"}}

    async def ask() -> str:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", ECHO], stdin=-1, stdout=-1
        )
        verifier._idle.append((process, Turn()))
        answer = await verifier.ask("verify", members, Turn())
        await verifier.aclose()
        return str(answer["frame"])

    frame = bytes.fromhex(trio.run(ask))
    assert json.loads(frame)["kind"] == "verify"
    return frame


@sample("verifier.answer", "FrameFormat.encode")
def build_verifier_answer() -> Value:
    return WORKER_ANSWERS.encode({"id": 7, "distance_ppb": 8, "exponents": "kept", "detail": "é"})
