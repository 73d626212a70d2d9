"""The values that the samples encode, written by hand so that no two fields are equal."""

from dataclasses import replace

import rlp
from eth_abi.abi import encode as abi_encode

from chain.consensus.messages import (
    MessageKind,
    NewView,
    PreparedCertificate,
    PrePrepare,
    SigningDomain,
    ViewChange,
    ViewChangeVote,
    Vote,
)
from chain.contracts.events import EVENT_LAYOUTS
from chain.contracts.task_registry import TaskResources
from chain.crypto import keccak256, sign
from chain.primitives import (
    Address,
    BlockNumber,
    Hash32,
    PrivateKey,
    Signature,
    TaskId,
    ValidatorIndex,
    View,
)
from chain.training.architectures import Cnn
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader
from chain.training.reveal import Reveal
from chain.training.task_spec import (
    AdamW,
    Aggregator,
    Data,
    Encoding,
    FeatureType,
    HeldOut,
    LabelType,
    Loss,
    Phases,
    Reward,
    SchedulePoint,
    Shard,
    TaskSpec,
    Verification,
)
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.receipt import Log, Receipt, build_receipt
from chain.types.validator_set import ValidatorSet


def make_bytes(tag: int, length: int) -> bytes:
    """Bytes that differ from their neighbours and from those of other tags."""
    return bytes((tag * 7 + 11 * position + 1) % 256 for position in range(length))


def make_hash(tag: int) -> Hash32:
    return Hash32(make_bytes(tag, 32))


def make_address(tag: int) -> Address:
    return Address(make_bytes(tag, 20))


def make_signature(tag: int) -> Signature:
    return Signature(make_bytes(tag, 64) + bytes([tag % 2]))


KEY = PrivateKey(make_bytes(3, 32))
OTHER_KEY = PrivateKey(make_bytes(4, 32))
CHAIN_ID = 7_368_564
TASK = TaskId(258)


def sign_raw(kind: int, fields: list[object], key: PrivateKey = KEY) -> bytes:
    """A typed transaction of unsigned fields, in its EIP-2718 encoding."""
    prefix = bytes([kind])
    signature = sign(keccak256(prefix + rlp.encode(fields)), key)
    r, s = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
    return prefix + rlp.encode([*fields, signature[64], r, s])


def sign_legacy(fields: list[object], chain_id: int | None) -> bytes:
    """A legacy transaction, with or without EIP-155."""
    extra: list[object] = [] if chain_id is None else [chain_id, b"", b""]
    signature = sign(keccak256(rlp.encode([*fields, *extra])), KEY)
    base = 27 if chain_id is None else 35 + 2 * chain_id
    r, s = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
    return rlp.encode([*fields, base + signature[64], r, s])


ACCESS_LIST = [[make_address(30), [make_hash(31), make_hash(32)]], [make_address(33), []]]
AUTHORIZATIONS = [
    [CHAIN_ID, make_address(34), 19, 1, 2**250 + 5, 2**249 + 3],
    [0, make_address(35), 20, 0, 2**248 + 7, 2**247 + 9],
]
TRANSACTIONS = {
    "type_0": sign_legacy([5, 10**9, 50_000, make_address(36), 1_234, b"\x01\x02"], CHAIN_ID),
    "type_0_without_chain_id": sign_legacy([6, 10**9 + 1, 50_001, b"", 0, b"\x60\x00"], None),
    "type_1": sign_raw(
        1, [CHAIN_ID, 7, 10**9 + 2, 50_002, make_address(37), 1_235, b"\x03", ACCESS_LIST]
    ),
    "type_2": sign_raw(
        2, [CHAIN_ID, 8, 3, 10**9 + 4, 50_003, make_address(38), 1_236, b"\x04", ACCESS_LIST]
    ),
    "type_2_creation": sign_raw(2, [CHAIN_ID, 9, 4, 10**9 + 5, 50_004, b"", 0, b"\x05" * 60, []]),
    "type_4": sign_raw(
        4,
        [
            *(CHAIN_ID, 10, 5, 10**9 + 6, 50_005, make_address(39), 1_237, b"\x06"),
            *(ACCESS_LIST, AUTHORIZATIONS),
        ],
        OTHER_KEY,
    ),
}

HEADER = Header(
    parent_hash=make_hash(1),
    ommers_hash=make_hash(2),
    coinbase=make_address(3),
    state_root=make_hash(4),
    transactions_root=make_hash(5),
    receipts_root=make_hash(6),
    logs_bloom=make_bytes(7, 256),
    difficulty=8,
    number=BlockNumber(900),
    gas_limit=30_000_000,
    gas_used=123_456,
    timestamp=1_700_000_011,
    extra_data=make_bytes(12, 32),
    mix_hash=make_hash(13),
    nonce=make_bytes(14, 8),
    base_fee_per_gas=10**9 + 15,
    withdrawals_root=make_hash(16),
    blob_gas_used=131_072,
    excess_blob_gas=262_144,
    parent_beacon_block_root=make_hash(19),
    requests_hash=make_hash(20),
)
CERTIFICATE = CommitCertificate(
    View(3),
    tuple((ValidatorIndex(index), make_signature(40 + index)) for index in (0, 2, 300)),
)
OTHER_CERTIFICATE = CommitCertificate(View(0), ((ValidatorIndex(1), make_signature(49)),))
BLOCK = Block(HEADER, (TRANSACTIONS["type_2"], TRANSACTIONS["type_0"]), CERTIFICATE)
FIRST_BLOCK = Block(replace(HEADER, number=BlockNumber(1)), (), None)

LOGS = (
    Log(make_address(50), (make_hash(51), make_hash(52)), b"\x07\x08\x09"),
    Log(make_address(53), (), b""),
)
RECEIPTS = (
    build_receipt(2, 1, 21_000, LOGS),
    build_receipt(0, 0, 42_001, ()),
)

DOMAIN = SigningDomain(CHAIN_ID, make_hash(60), 5)
VOTE = Vote(
    MessageKind.PREPARE,
    BlockNumber(900),
    View(2),
    BLOCK.hash,
    ValidatorIndex(6),
    make_signature(61),
)
COMMIT = replace(VOTE, kind=MessageKind.COMMIT, view=View(4), signature=make_signature(62))
PRE_PREPARE = PrePrepare(
    replace(VOTE, kind=MessageKind.PRE_PREPARE, view=View(0), signature=make_signature(63)), BLOCK
)
LATER_PRE_PREPARE = replace(PRE_PREPARE, vote=replace(PRE_PREPARE.vote, view=View(5)))
QUORUM = tuple((ValidatorIndex(index), make_signature(70 + index)) for index in (1, 3, 257))
VIEW_CHANGE_VOTE = ViewChangeVote(
    BlockNumber(900), View(5), (View(2), BLOCK.hash), ValidatorIndex(7), make_signature(64)
)
EMPTY_VIEW_CHANGE_VOTE = replace(
    VIEW_CHANGE_VOTE, prepared=None, author=ValidatorIndex(8), signature=make_signature(65)
)
VIEW_CHANGE = ViewChange(VIEW_CHANGE_VOTE, PreparedCertificate(View(2), BLOCK, QUORUM))
EMPTY_VIEW_CHANGE = ViewChange(EMPTY_VIEW_CHANGE_VOTE, None)
NEW_VIEW = NewView(LATER_PRE_PREPARE, (VIEW_CHANGE_VOTE, EMPTY_VIEW_CHANGE_VOTE), QUORUM)
EMPTY_NEW_VIEW = NewView(LATER_PRE_PREPARE, (EMPTY_VIEW_CHANGE_VOTE,), ())

GENESIS_SET = ValidatorSet(
    tuple(make_address(80 + index) for index in range(4)),
    tuple(make_address(90 + index) for index in range(4)),
)
NEXT_SET = ValidatorSet(GENESIS_SET.validators[1:], GENESIS_SET.operators[1:])

ATTEMPT = AttemptId(TASK, 7, 9)
GRADIENT_HEADER = GradientHeader(
    attempt_id=ATTEMPT,
    parameter_count=300,
    chain_id=CHAIN_ID,
    theta_root=make_hash(100),
    seed=make_hash(101),
    miner=make_address(102),
)
REVEAL = Reveal(ATTEMPT, make_address(102), 11, make_hash(103), make_hash(104))
ADAMW = AdamW(0x3F666666, 0x3F7FBE77, 0x322BCC77, 0x3C23D70A)
SPEC = TaskSpec(
    name="small",
    model=Cnn(image=(1, 8, 8), channels=(2, 3), classes=10),
    initial_weights=make_hash(105),
    data=Data(
        feature_name="x",
        feature_type=FeatureType.FLOAT32,
        sample_shape=(1, 8, 8),
        label_name="y",
        label_type=LabelType.UINT8,
        shards=(Shard(make_hash(106), 5_000, 60), Shard(make_hash(107), 4_000, 40)),
        urls=("https://example.org/shards",),
    ),
    held_out=HeldOut(first_row=50, row_count=20),
    loss=Loss.CROSS_ENTROPY,
    local_steps=1,
    samples_per_unit=8,
    round_count=10,
    encoding=Encoding.INT8,
    aggregator=Aggregator.CLIP_MEAN,
    optimizer=ADAMW,
    schedule=(SchedulePoint(0, 20_000_000), SchedulePoint(9, 2_000_000)),
    verification=Verification(audit_ppm=1_000_000, tolerance_ppb=100_000),
    phases=Phases(commit_seconds=10, verdict_seconds=20, result_seconds=30),
    reward=Reward(make_address(108), 10**18, 10**17 + 1, 8, 3, 4),
    evaluate_every=1,
    resources=TaskResources(
        unit_milliseconds=61, evaluation_milliseconds=62, peak_bytes=2**30 + 63, disk_bytes=2**34
    ),
)


def build_log(name: str, *values: object) -> Log:
    """The log of a system contract's event."""
    (layout,) = (each for each in EVENT_LAYOUTS if each.kind.__name__ == name)
    kinds = layout.inputs
    topics = [abi_encode([kinds[at]], [values[at]]) for at in layout.indexed]
    others = [at for at in range(len(kinds)) if at not in layout.indexed]
    data = abi_encode([kinds[at] for at in others], [values[at] for at in others])
    return Log(layout.contract, (layout.topic, *map(Hash32, topics)), data)


def build_task_receipt(*logs: Log) -> Receipt:
    return build_receipt(2, 1, 100_000, logs)
