"""Every decoder of foreign input, which must decode it or refuse it with a reason."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.security.noise.messages import NoiseHandshakePayload

from chain import codec
from chain.consensus.guard import GuardState, Step
from chain.consensus.messages import decode_message, encode_message
from chain.consensus.records import CommitRecord, PrepareRecord, decode_record, encode_record
from chain.errors import RejectedInputError
from chain.genesis import InvalidGenesisError, parse_genesis
from chain.primitives import EMPTY_TRIE_ROOT, Address, BlockNumber, Hash32, TaskId, View
from chain.state.walk import END, START, collect_chunk
from chain.state.world_state import WorldState
from chain.training.attempt import AttemptId
from chain.training.availability import (
    Availability,
    AvailabilityVote,
    decode_availability,
    encode_availability,
)
from chain.training.draws import AuditRule, compute_draws
from chain.training.reveal import Reveal, reveal_from_item
from chain.training.task_spec_codec import decode_task_spec, encode_task_spec
from chain.types.block import decode_block
from chain.types.certificate import decode_certificate
from chain.types.header import decode_header
from chain.types.receipt import build_receipt, decode_receipts, encode_receipts
from chain.types.transaction import decode_outline, decode_transaction
from node.consensus.guard_file import GuardFile
from node.consensus.wal import WriteAheadLog
from node.network import wire
from node.network.peer_file import load_records, save_records
from node.network.protocols.state import StateServer, _decode_records, _verify_chunk
from node.network.stream import FrameStream, StreamClosedError
from node.rpc.dispatch import Dispatcher
from node.rpc.held_bytes import HeldBytes
from node.rpc.parameters import Parameters
from node.storage.blob_manifest import BlobManifest
from pot_common.errors import OperatorError
from pot_common.framing import NODE_FRAMES, FrameError, decode_body
from pot_common.json_text import parse_json
from tests.chain.types import test_transaction
from tests.worlds import replica as factory
from tests.worlds.network import ALICE, CERTIFICATE, HEAD, NoStates, build_block
from tests.worlds.stored_chain import genesis_file
from tests.worlds.training import SPEC

DIGEST = Hash32(b"\x31" * 32)
VOTE_COUNT = 9
AUDIT_RULE = AuditRule(audit_ppm=600_000, local_steps=40, audit_steps=2, honest_votes=2)
PEER = "12D3KooW" + "A" * 44
ADDRESS = f"/ip4/203.0.113.7/tcp/9000/p2p/{PEER}"


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder: its name, inputs that it accepts, and a function that runs it on any bytes."""

    name: str
    seeds: list[bytes]
    run: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = (RejectedInputError,)
    """The exceptions that it may raise; any other is a finding."""


def canonical(
    decode: Callable[[bytes], object], encode: Callable[..., bytes]
) -> Callable[[bytes], object]:
    """A decoder whose values encode to the bytes that they came from."""

    def run(data: bytes) -> None:
        assert encode(decode(data)) == data

    return run


def build_state() -> tuple[Hash32, bytes]:
    """A state root and its whole state as one chunk."""
    world = WorldState({}, EMPTY_TRIE_ROOT)
    for index in range(40):
        world.set_balance(Address(index.to_bytes(20, "big")), index + 1)
        world.set_storage(Address(index.to_bytes(20, "big")), index % 3, 7)
    root, delta = world.compute_delta()
    return root, codec.encode(list(collect_chunk(delta.get, root, START, END, 2**20)))


STATE_ROOT, STATE = build_state()


def verify_state(data: bytes) -> None:
    """Verify a chunk; assert that it is accepted only if it is the state itself."""
    _verify_chunk(data, STATE_ROOT, START, END)
    assert data == STATE


def encode_self(value: object) -> bytes:
    return value.encode()  # type: ignore[attr-defined, no-any-return]


def build_targets(directory: Path) -> list[Target]:
    """All targets; their files are in `directory`."""
    block = build_block(3, size_bytes=300)
    lock = factory.prepared()
    messages = [
        factory.prepare(1),
        factory.commit(2),
        factory.pre_prepare(),
        factory.view_change(1, 1),
        factory.view_change(1, 2, lock),
        factory.new_view(1, factory.BLOCK_A, [factory.view_change(each, 1) for each in (0, 1, 2)]),
        factory.status(1),
    ]
    receipts = (build_receipt(2, 1, 21_000, ()), build_receipt(0, 0, 50_000, ()))
    reveal = Reveal(AttemptId(TaskId(1), 2, 0), factory.validators_of(1)[0], 3, DIGEST, DIGEST)
    draws = compute_draws(DIGEST, DIGEST, VOTE_COUNT, AUDIT_RULE)
    vote = AvailabilityVote((Availability.HELD,) * VOTE_COUNT, draws)
    manifest = BlobManifest(2**18 + 5, (DIGEST, DIGEST))
    statuses = [
        wire.Hello(1, 7331, DIGEST, HEAD, DIGEST, (ADDRESS,)),
        wire.ValidatorProof(None),
        wire.ValidatorProof((factory.validators_of(1)[0], CERTIFICATE.signatures[0][1])),
        wire.Ping(5, HEAD),
        wire.Pong(5),
        wire.Peers((ADDRESS, ADDRESS)),
        wire.Goodbye(wire.DisconnectReason.SILENT),
    ]
    key = create_new_key_pair()
    identify = Identify(
        agent_version="x", protocols=["/a/1"], public_key=key.public_key.serialize()
    )
    payload = NoiseHandshakePayload(key.public_key, b"s" * 64)

    def target(name: str, run: Callable[[bytes], object], *seeds: bytes) -> Target:
        return Target(name, list(seeds), run)

    raw = [test_transaction.sign(kind) for kind in (0, 1, 2, 4)]
    certified = wire.encode_certified(block.encode(), CERTIFICATE.encode())
    return [
        target("rlp", canonical(decode_item, codec.encode), certified, raw[0]),
        target(
            "consensus message",
            canonical(decode_message, encode_message),
            *map(encode_message, messages),
        ),
        target("wal record", canonical(decode_record, encode_record), *build_records()),
        target(
            "block", canonical(decode_block, encode_self), block.encode(), factory.BLOCK_A.encode()
        ),
        target("header", canonical(decode_header, encode_self), block.header.encode()),
        target("certificate", canonical(decode_certificate, encode_self), CERTIFICATE.encode()),
        target("transaction", decode_transaction, *raw),
        target("transaction outline", decode_outline, *raw),
        target(
            "status",
            canonical(wire.decode_status, wire.encode_status),
            *map(wire.encode_status, statuses),
        ),
        target(
            "transaction messages",
            canonical(wire.decode_transaction_message, wire.encode_transaction_message),
            *map(
                wire.encode_transaction_message,
                (
                    wire.AnnounceTransactions((DIGEST, DIGEST)),
                    wire.RequestTransactions((DIGEST,)),
                    wire.TransactionBatch(tuple(raw)),
                ),
            ),
        ),
        target(
            "blocks request",
            canonical(wire.decode_blocks_request, wire.encode_blocks_request),
            wire.encode_blocks_request(wire.RequestBlocks(BlockNumber(1), 2)),
            wire.encode_blocks_request(wire.RequestBlockByHash(DIGEST)),
        ),
        target(
            "receipts request",
            canonical(wire.decode_blocks_request, wire.encode_blocks_request),
            wire.encode_blocks_request(wire.RequestReceipts((BlockNumber(1), BlockNumber(9)))),
        ),
        target("first held", wire.decode_first_held, wire.encode_first_held(BlockNumber(2**40))),
        target("receipts", canonical(decode_receipts, encode_receipts), encode_receipts(receipts)),
        target(
            "state request",
            StateServer(NoStates())._answer,
            codec.encode([0, 5, START, END]),
            codec.encode([1, [DIGEST, DIGEST]]),
            codec.encode([2, 5, 1, 16, b""]),
            codec.encode([2, 5, 1, 16, DIGEST[:20]]),
        ),
        target(
            "task records",
            lambda data: _decode_records(data, 1),
            codec.encode([[b"{}", [[DIGEST[:20], 2**255]], 1]]),
        ),
        target("state chunk", verify_state, STATE),
        target("certified", lambda data: wire.decode_certified(data), certified),
        target(
            "blob request",
            canonical(wire.decode_blob_request, wire.encode_blob_request),
            *map(
                wire.encode_blob_request,
                (
                    wire.RequestHave(DIGEST),
                    wire.RequestManifest(DIGEST),
                    wire.RequestChunks(DIGEST, 1, 2),
                ),
            ),
        ),
        target(
            "manifest",
            lambda data: wire.decode_manifest(data, manifest.content_id),
            wire.encode_manifest(manifest),
        ),
        target(
            "reveal",
            canonical(lambda data: reveal_from_item(decode_item(data)), encode_self),
            reveal.encode(),
            replace(reveal, trajectory_root=DIGEST).encode(),
        ),
        target(
            "availability vote",
            canonical(
                lambda data: decode_availability(data, VOTE_COUNT, AUDIT_RULE),
                lambda vote: encode_availability(vote, AUDIT_RULE),
            ),
            encode_availability(vote, AUDIT_RULE),
        ),
        target("task spec", canonical(decode_task_spec, encode_task_spec), encode_task_spec(SPEC)),
        Target("genesis", [genesis_file()], parse_genesis, (InvalidGenesisError,)),
        Target(
            "json", [b'{"id":1,"params":["0x1",{"a":[1,2.5,null]}]}'], parse_json, (ValueError,)
        ),
        Target(
            "ipc body",
            [NODE_FRAMES.encode({"id": 1, "method": "x", "params": {}})[4:]],
            decode_body,
            (FrameError,),
        ),
        Target(
            "rpc body",
            [
                b'{"jsonrpc":"2.0","id":1,"method":"m","params":[{"a":"0x1"},"0x10",true]}',
                b'[{"id":2}]',
            ],
            answer_rpc,
            (),
        ),
        target(
            "frame",
            read_frames,
            b"\x00\x00\x00\x03abc\x00\x00\x00\x00",
            b"\x00\x00\x00\x64" + bytes(100),
        ),
        Target(
            "wal file",
            [build_wal(directory)],
            lambda data: open_wal(directory, data),
            (OperatorError,),
        ),
        Target(
            "guard file",
            [build_guard(directory)],
            lambda data: open_guard(directory, data),
            (OperatorError,),
        ),
        Target(
            "peer file",
            [build_peer_file(directory)],
            lambda data: open_peer_file(directory, data),
            (),
        ),
        # libp2p's own decoders: any Exception of theirs ends a handshake, which is enough.
        Target(
            "noise payload", [payload.serialize()], NoiseHandshakePayload.deserialize, (Exception,)
        ),
        Target("identify", [identify.SerializeToString()], Identify.FromString, (Exception,)),
        Target("public key", [key.public_key.serialize()], deserialize_public_key, (Exception,)),
    ]


def decode_item(data: bytes) -> codec.Item:
    return codec.decode(data, limit_bytes=2**22)


def build_records() -> list[bytes]:
    proposal = factory.pre_prepare()
    commit = factory.commit(1)
    prepares = factory.quorum_of(factory.MessageKind.PREPARE, (0, 1, 2), factory.BLOCK_A)
    return [
        encode_record(PrepareRecord(proposal, factory.prepare(1))),
        encode_record(CommitRecord(commit, prepares)),
    ]


async def answer(body: bytes) -> bytes | None:
    return await Dispatcher({"m": echo}).answer(body, HeldBytes().open(""))


async def echo(parameters: Parameters) -> str:
    return str(parameters)


def answer_rpc(body: bytes) -> None:
    asyncio.run(answer(body))


class OneRead:
    """A byte stream that holds these bytes and ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self, max_bytes: int) -> bytes:
        data, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return data


def read_frames(data: bytes) -> None:
    async def read() -> None:
        stream = FrameStream(OneRead(data), ALICE)  # type: ignore[arg-type]
        try:
            while True:
                await stream.read_frame(1_000)
        except StreamClosedError:
            return

    trio.run(read)


def build_wal(directory: Path) -> bytes:
    path = directory / "seed.wal"
    log = WriteAheadLog(path, fsync=lambda _: None)
    for number in range(1, 4):
        log.append(BlockNumber(number), bytes([number]) * 40)
    log.close()
    return path.read_bytes()


def open_wal(directory: Path, data: bytes) -> None:
    path = directory / "fuzzed.wal"
    path.write_bytes(data)
    log = WriteAheadLog(path, fsync=lambda _: None)
    log.append(BlockNumber(9), b"after")
    records = log.records()
    log.close()
    log = WriteAheadLog(path, fsync=lambda _: None)
    assert log.records() == records
    log.close()


def build_guard(directory: Path) -> bytes:
    path = directory / "seed.guard"
    guard = GuardFile(path, fsync=lambda _: None)
    guard.load()
    for number in (1, 2):
        guard.save(GuardState(BlockNumber(number), View(0), Step.COMMIT, DIGEST, (View(0), DIGEST)))
    return path.read_bytes()


def open_guard(directory: Path, data: bytes) -> None:
    path = directory / "fuzzed.guard"
    path.write_bytes(data)
    GuardFile(path, fsync=lambda _: None).load()


def build_peer_file(directory: Path) -> bytes:
    path = directory / "seed.json"
    save_records(path, {PEER: (50.0, 12.0)})
    return path.read_bytes()


def open_peer_file(directory: Path, data: bytes) -> None:
    path = directory / "fuzzed.json"
    path.write_bytes(data)
    load_records(path)
