"""A small task, its gradients, and its history after any events of the contracts."""

import hashlib
import math
from dataclasses import replace

import numpy as np

from chain.contracts.events import Event
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    GradientCommitted,
    ResultKind,
    ResultPosted,
    ResultVote,
    VerdictPosted,
)
from chain.contracts.task_registry import (
    TaskActivated,
    TaskLease,
    TaskResources,
    TaskStatus,
    TaskSubmitted,
)
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.architectures import Cnn
from chain.training.attempt import AttemptId
from chain.training.encoding import Float32Array, Gradient, GradientHeader
from chain.training.history import BlockContext, TaskHistory, apply_event, build_history
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
from chain.training.task_spec_codec import encode_task_spec
from chain.types.validator_set import ValidatorSet

ADAMW = AdamW(
    beta1_bits=0x3F666666,
    beta2_bits=0x3F7FBE77,
    epsilon_bits=0x322BCC77,
    weight_decay_bits=0x3C23D70A,
)

SPEC = TaskSpec(
    name="small",
    model=Cnn(image=(1, 8, 8), channels=(2, 3), classes=10),
    initial_weights=Hash32(b"\x11" * 32),
    data=Data(
        feature_name="x",
        feature_type=FeatureType.FLOAT32,
        sample_shape=(1, 8, 8),
        label_name="y",
        label_type=LabelType.UINT8,
        shards=(Shard(Hash32(b"\x22" * 32), 5_000, 60), Shard(Hash32(b"\x33" * 32), 4_000, 40)),
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
    reward=Reward(
        token=Address(b"\x44" * 20),
        unit_price=10**18,
        validator_fee=10**17,
        max_units=8,
        min_miners=3,
        min_units=3,
    ),
    evaluate_every=1,
    resources=TaskResources(
        unit_milliseconds=100,
        evaluation_milliseconds=200,
        peak_bytes=2**30,
        disk_bytes=2**22,
    ),
)

HEADER = GradientHeader(
    attempt_id=AttemptId(TaskId(3), 7, 1),
    parameter_count=600,
    chain_id=31_337,
    theta_root=Hash32(b"\x55" * 32),
    seed=Hash32(b"\x66" * 32),
    miner=Address(b"\x77" * 20),
)


def miner_address(number: int) -> Address:
    return Address(bytes([number]) * 20)


def header_of(miner: int, parameter_count: int) -> GradientHeader:
    return replace(HEADER, miner=miner_address(miner), parameter_count=parameter_count)


def random_gradient(seed: int, size: int, norm: float = 1.0) -> Float32Array:
    """Values of many magnitudes with some zero blocks, scaled to `norm`, drawn by SHA-256."""
    stream = b"".join(hashlib.sha256(f"{seed}/{i}".encode()).digest() for i in range(size // 4 + 1))
    drawn = np.frombuffer(stream, "<i4").reshape(-1, 2)[:size]
    values = np.ldexp(drawn[:, 0].astype(np.float64), -31 - drawn[:, 1] % 30)
    values[512:768] = 0
    length = math.sqrt(math.fsum(float(value) ** 2 for value in values))
    return (values * (norm / length)).astype(np.float32)


TASK = TaskId(1)
VALIDATORS = tuple(Address(bytes([0xA0 + i]) * 20) for i in range(4))
OPERATORS = tuple(Address(bytes([0xB0 + i]) * 20) for i in range(4))
GENESIS_SET = ValidatorSet(VALIDATORS, OPERATORS)
MINERS = tuple(Address(bytes([0xC0 + i]) * 20) for i in range(3))
VOTE = ResultVote(
    Hash32(b"\x01" * 32),
    Hash32(b"\x02" * 32),
    Hash32(b"\x03" * 32),
    2,
    123,
    ResultKind.SETTLED,
    0b111,
)
SUBMITTED = TaskSubmitted(
    task_id=TASK,
    submitter=Address(b"\xdd" * 20),
    spec_hash=Hash32(b"\xee" * 32),
    budget=10**20,
    spec=encode_task_spec(SPEC),
)


LEASE = TaskLease(
    window_time=1_600_000_000,
    window_block=BlockNumber(50),
    end_time=4_000_000_000,
    end_block=BlockNumber(20_000),
    progress_time=1_002,
    progress_block=BlockNumber(2),
    lifetime_seconds=100_000,
    attempts_left=20,
    attempt_seconds=500,
    refusal_code=0,
    answer_pay=7,
    idle_seconds=2_000_000_000,
    idle_blocks=10_000,
    held_pay=28,
    held_rent=0,
)
"""What was bought for the task. Answers are over for nodes of tests, and the lifetime is not."""

OPEN_LEASE = replace(LEASE, window_time=3_000_000_000, window_block=BlockNumber(720))
"""The same while answers are accepted."""


def at(number: int) -> BlockContext:
    """The context of a block; blocks are a second apart."""
    return BlockContext(BlockNumber(number), 1_000 + number)


def opened(round_number: int = 0, attempt: int = 0) -> AttemptOpened:
    """An attempt for which three commitments are expected."""
    return AttemptOpened(TASK, round_number, attempt, round_number + attempt + 1, 3, 10**19)


def committed(index: int, units: int = 1) -> GradientCommitted:
    """The commitment of one miner in the first attempt."""
    return GradientCommitted(TASK, 0, MINERS[index], 0, index, units, Hash32(bytes([index]) * 32))


def verdict(
    validator: int, *verdicts: Verdict, timely: bool = True, ballot: int = 0
) -> VerdictPosted:
    """One validator's verdicts."""
    return VerdictPosted(
        TASK, 0, VALIDATORS[validator], 0, ballot, timely, encode_verdicts(verdicts)
    )


def result(validator: int, vote: ResultVote = VOTE, correct: int | None = None) -> ResultPosted:
    """One validator's result."""
    return ResultPosted(TASK, 0, VALIDATORS[validator], 0, 0, vote, correct, 500 + validator)


def history_after(*events: Event, start: int = 2, spec: TaskSpec = SPEC) -> TaskHistory:
    """The history of an active task after these events, each in its own block."""
    history = replace(build_history(SUBMITTED, at(1)), lease=LEASE)
    for number, event in enumerate((TaskActivated(TASK), *events), start):
        history = apply_event(
            history, event, at(number), spec=spec, validator_set=GENESIS_SET
        ).history
    return history


def pending_history() -> TaskHistory:
    """The history of a task to which validators may answer."""
    return replace(history_after(), status=TaskStatus.PENDING, lease=OPEN_LEASE)


def dequantize(gradient: Gradient, parameter_count: int) -> Float32Array:
    """The values, float32[parameter_count], that the codes stand for; exact."""
    scales = np.ldexp(np.float32(1), gradient.exponents.astype(np.int32))[:, np.newaxis]
    values = gradient.codes.astype(np.float32) * scales
    return values.reshape(-1)[:parameter_count]


def verify_reward_proof(root: Hash32, leaf: Hash32, proof: tuple[Hash32, ...]) -> bool:
    """Whether `proof` leads from `leaf` to `root`, as RewardDistributor checks it."""
    node = leaf
    for sibling in proof:
        node = keccak256(min(node, sibling) + max(node, sibling))
    return node == root
