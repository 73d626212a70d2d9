"""A training task's specification, canonical bytes and terms (docs/spec/training.md, section 1).

The bytes are RFC 8785 JSON without floats or large numbers: ratios are parts per million or
billion, optimizer constants are float32 bit patterns, amounts are decimal strings. Decoding is
strict: what it accepts re-encodes to the same bytes, so a specification has one content id.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn, TypeVar, assert_never

from chain.contracts.task_registry import TaskTerms
from chain.crypto import content_id
from chain.errors import InvalidSpec, RejectionReason
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json
from chain.primitives import Address, Hash32
from chain.training.architectures import (
    MAX_FORWARD_FLOPS,
    MAX_LAYERS,
    MAX_PARAMETERS,
    MAX_WIDTH,
    Cnn,
    Mlp,
    Model,
    Shape,
    count_forward_flops,
    count_parameters,
    input_shape,
)

Item = TypeVar("Item")
"""What the elements of a JSON array are decoded to."""

VERSION: Final = 1
"""Of this format. A node that does not know a version refuses the task."""

MAX_SPEC_BYTES: Final = 2**14
"""16 KiB: a specification travels in the calldata of its submission, at 16 gas a byte or more."""

MAX_SHARDS: Final = 96
"""About 120 bytes each, so the largest manifest still fits into a specification."""

MAX_SHARD_BYTES: Final = 2**30
"""1 GiB: a verifier maps one shard at a time."""

MAX_ROWS: Final = 2**32
"""Of all shards together: keeps sample indices in 64 bits with room."""

MAX_URLS: Final = 16
"""Places to fetch shards from; more than a submitter would run."""

MAX_ROUNDS: Final = 1_000_000
"""A year of 30-second rounds; keeps AdamW's and momentum's sums finite."""

MAX_UNITS: Final = 65_536
"""Of one round: the aggregate's |A| < 2**61 then fits int64 (section 6)."""

MAX_SAMPLES_PER_UNIT: Final = 2**20
"""A unit is re-executed by one worker within a verdict phase."""

MAX_PHASE_SECONDS: Final = 86_400
"""One day: a stalled phase is voted again on the next one."""

MAX_SCHEDULE_POINTS: Final = 64
"""Of a piecewise linear learning rate."""

MAX_LEARNING_RATE_PPB: Final = 10**10
"""10: with the largest weight decay, 0.1, no update can more than cancel theta."""

MAX_TOLERANCE_PPB: Final = 10**7
"""0.01: above, one skipped sample passes (measured from 2e-3 on)."""

MAX_AMOUNT: Final = 2**128 - 1
"""Of a price or a fee: products with rounds and units stay below 2**256."""

PPM: Final = 10**6
"""One, in parts per million."""

FLOAT32_ONE: Final = 0x3F800000
"""1.0. Bit patterns of positive floats are ordered like the floats, so bounds are integers."""

FLOAT32_TENTH: Final = 0x3DCCCCCD
"""0.1, the largest weight decay."""

FLOAT32_MIN_EPSILON: Final = 0x2B800000
"""2**-40: keeps m / epsilon, and with it theta, far from overflow."""

LABEL_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
"""Of a task's and an array's name: printable everywhere, a file name nowhere special."""

URL_PATTERN: Final = re.compile(r"https?://[!-~]{1,240}")
"""Absolute, visible ASCII. Who may be contacted is the fetching node's rule, not the format's."""

AMOUNT_PATTERN: Final = re.compile(r"0|[1-9][0-9]{0,38}")
"""A decimal integer with one spelling."""


class FeatureType(StrEnum):
    """How features are stored."""

    FLOAT32 = "float32"
    UINT8 = "uint8"
    """Stands for value / 255."""


class LabelType(StrEnum):
    """How class labels are stored."""

    UINT8 = "uint8"
    INT64 = "int64"


class Loss(StrEnum):
    """What a gradient is the gradient of."""

    CROSS_ENTROPY = "cross_entropy"


class Encoding(StrEnum):
    """How a gradient travels (section 4)."""

    INT8 = "int8"


class Aggregator(StrEnum):
    """How accepted gradients become one (section 6)."""

    MEAN = "mean"
    CLIP_MEAN = "clip_mean"


@dataclass(frozen=True, slots=True)
class Shard:
    """One content-addressed file of rows."""

    content_id: Hash32
    byte_count: int
    row_count: int


@dataclass(frozen=True, slots=True)
class Data:
    """The data manifest: npz files whose rows, shard after shard, are the task's rows.

    Attributes:
        feature_name: Name of the feature array in each file.
        feature_type: Its element type.
        sample_shape: Its shape without the first extent, the rows.
        label_name: Name of the label array, one integer a row.
        label_type: Its element type.
        shards: In row order.
        urls: A shard is fetched from `<url>/<content id in hex>`; blobs on nodes need none.
    """

    feature_name: str
    feature_type: FeatureType
    sample_shape: Shape
    label_name: str
    label_type: LabelType
    shards: tuple[Shard, ...]
    urls: tuple[str, ...]

    @property
    def row_count(self) -> int:
        """Rows of all shards together."""
        return sum(shard.row_count for shard in self.shards)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The evaluation split: rows first_row to first_row + row_count - 1 are never trained on."""

    first_row: int
    row_count: int


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent, with Nesterov's momentum if `momentum_bits` is not 0."""

    momentum_bits: int


@dataclass(frozen=True, slots=True)
class AdamW:
    """AdamW (arXiv:1711.05101); every constant is a float32 bit pattern."""

    beta1_bits: int
    beta2_bits: int
    epsilon_bits: int
    weight_decay_bits: int


Optimizer = Sgd | AdamW
"""Every server optimizer that a task can name."""


@dataclass(frozen=True, slots=True)
class SchedulePoint:
    """The learning rate, in parts per billion, from a 0-based round on."""

    round_index: int
    learning_rate_ppb: int


@dataclass(frozen=True, slots=True)
class Verification:
    """The verification profile.

    Attributes:
        audit_ppm: p, the chance that an honest validator re-executes a given gradient.
        tolerance_ppb: T, the largest cell distance of an honest gradient.
    """

    audit_ppm: int
    tolerance_ppb: int


@dataclass(frozen=True, slots=True)
class Phases:
    """The longest each phase of a round lasts."""

    commit_seconds: int
    verdict_seconds: int
    result_seconds: int


@dataclass(frozen=True, slots=True)
class Reward:
    """Who is paid what.

    Attributes:
        token: The ERC-20 contract of escrow, bonds and payouts.
        unit_price: Base units of the token for one accepted unit.
        validator_fee: Base units of the token a round for all validators together.
        max_units: Units of one round at most.
        min_miners: Registered miners without which no attempt at a round opens.
    """

    token: Address
    unit_price: int
    validator_fee: int
    max_units: int
    min_miners: int


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A training task, whole.

    Attributes:
        name: For people.
        model: Architecture and its configuration.
        initial_weights: Content id of theta at round 0, as little-endian float32.
        data: The manifest.
        held_out: The rows of the evaluation split.
        loss: Of a sample; a gradient is of its mean over a miner's samples.
        local_steps: H, optimizer steps of a miner in one round.
        samples_per_unit: Samples that make one unit of work.
        round_count: Settled rounds until the task is done.
        encoding: Of gradients.
        aggregator: Of gradients.
        optimizer: Turns the aggregate into the next theta.
        schedule: Its learning rate, piecewise linear.
        verification: p and T.
        phases: Lengths.
        reward: Payment and participation.
        evaluate_every: Validators evaluate the held-out split every that many rounds.
    """

    name: str
    model: Model
    initial_weights: Hash32
    data: Data
    held_out: HeldOut
    loss: Loss
    local_steps: int
    samples_per_unit: int
    round_count: int
    encoding: Encoding
    aggregator: Aggregator
    optimizer: Optimizer
    schedule: tuple[SchedulePoint, ...]
    verification: Verification
    phases: Phases
    reward: Reward
    evaluate_every: int

    @property
    def sample_count(self) -> int:
        """Rows that are trained on."""
        return self.data.row_count - self.held_out.row_count

    def row_of_sample(self, sample_index: int) -> int:
        """The row of a sample: samples are the rows in order, the held-out ones skipped."""
        assert 0 <= sample_index < self.sample_count
        skipped = self.held_out.row_count if sample_index >= self.held_out.first_row else 0
        return sample_index + skipped


def compute_spec_hash(spec: TaskSpec) -> Hash32:
    """The content id of the canonical bytes; within one chunk that is SHA-256(0x00 || bytes)."""
    return content_id(encode_task_spec(spec))


def terms(spec: TaskSpec) -> TaskTerms:
    """The terms under which `spec` is submitted; a node refuses a task whose terms differ."""
    return TaskTerms(
        spec_hash=compute_spec_hash(spec),
        token=spec.reward.token,
        unit_price=spec.reward.unit_price,
        validator_fee=spec.reward.validator_fee,
        rounds=spec.round_count,
        min_miners=spec.reward.min_miners,
        max_units=spec.reward.max_units,
        audit_ppm=spec.verification.audit_ppm,
        commit_seconds=spec.phases.commit_seconds,
        verdict_seconds=spec.phases.verdict_seconds,
        result_seconds=spec.phases.result_seconds,
    )


def learning_rate_ppb(spec: TaskSpec, round_index: int) -> int:
    """The rate of a 0-based round: linear between points, floored, constant after the last."""
    before = max(
        (point for point in spec.schedule if point.round_index <= round_index),
        key=lambda point: point.round_index,
    )
    after = [point for point in spec.schedule if point.round_index > round_index]
    if not after:
        return before.learning_rate_ppb
    rise = after[0].learning_rate_ppb - before.learning_rate_ppb
    run = after[0].round_index - before.round_index
    return before.learning_rate_ppb + rise * (round_index - before.round_index) // run


# Encoding.


def encode_task_spec(spec: TaskSpec) -> bytes:
    """The canonical bytes of `spec`."""
    return _canonical_json(
        {
            "version": VERSION,
            "name": spec.name,
            "model": _model_to_json(spec.model),
            "initial_weights": to_hex(spec.initial_weights),
            "data": _data_to_json(spec.data),
            "held_out": {
                "first_row": spec.held_out.first_row,
                "rows": spec.held_out.row_count,
            },
            "loss": spec.loss.value,
            "local_steps": spec.local_steps,
            "unit": {"samples": spec.samples_per_unit},
            "rounds": spec.round_count,
            "encoding": spec.encoding.value,
            "aggregator": spec.aggregator.value,
            "optimizer": _optimizer_to_json(spec.optimizer),
            "learning_rate_ppb": [
                [point.round_index, point.learning_rate_ppb] for point in spec.schedule
            ],
            "verification": {
                "audit_ppm": spec.verification.audit_ppm,
                "tolerance_ppb": spec.verification.tolerance_ppb,
            },
            "phases": {
                "commit_seconds": spec.phases.commit_seconds,
                "verdict_seconds": spec.phases.verdict_seconds,
                "result_seconds": spec.phases.result_seconds,
            },
            "reward": {
                "token": to_hex(spec.reward.token),
                "unit_price": str(spec.reward.unit_price),
                "validator_fee": str(spec.reward.validator_fee),
                "max_units": spec.reward.max_units,
                "min_miners": spec.reward.min_miners,
            },
            "evaluate_every": spec.evaluate_every,
        }
    )


def _canonical_json(value: Json) -> bytes:
    # Keys are ASCII and numbers are integers below 2**53, where this is RFC 8785.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _model_to_json(model: Model) -> Json:
    match model:
        case Mlp():
            config: Json = {
                "inputs": model.inputs,
                "hidden": list(model.hidden),
                "classes": model.classes,
            }
            return {"architecture": "mlp", "version": 1, "config": config}
        case Cnn():
            config = {
                "image": list(model.image),
                "channels": list(model.channels),
                "classes": model.classes,
            }
            return {"architecture": "cnn", "version": 1, "config": config}
        case _:
            assert_never(model)


def _data_to_json(data: Data) -> Json:
    return {
        "format": "npz",
        "features": {
            "name": data.feature_name,
            "type": data.feature_type.value,
            "shape": list(data.sample_shape),
        },
        "labels": {"name": data.label_name, "type": data.label_type.value},
        "shards": [
            {
                "content_id": to_hex(shard.content_id),
                "bytes": shard.byte_count,
                "rows": shard.row_count,
            }
            for shard in data.shards
        ],
        "urls": list(data.urls),
    }


def _optimizer_to_json(optimizer: Optimizer) -> Json:
    match optimizer:
        case Sgd():
            return {"kind": "sgd", "momentum": optimizer.momentum_bits}
        case AdamW():
            return {
                "kind": "adamw",
                "beta1": optimizer.beta1_bits,
                "beta2": optimizer.beta2_bits,
                "epsilon": optimizer.epsilon_bits,
                "weight_decay": optimizer.weight_decay_bits,
            }
        case _:
            assert_never(optimizer)


# Decoding. `where` is the path of the value, for the message.


def decode_task_spec(data: bytes) -> TaskSpec:
    """The task that `data` specifies.

    Raises:
        InvalidSpec: The bytes are not canonical, a key is unknown or missing, a value is out of
            its bounds, or two values contradict each other.
    """
    if len(data) > MAX_SPEC_BYTES:
        raise InvalidSpec(
            RejectionReason.TOO_LARGE, f"{len(data)} bytes, the limit is {MAX_SPEC_BYTES}"
        )
    try:
        value: Json = json.loads(
            data.decode(),
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
            parse_int=_parse_integer,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(RejectionReason.MALFORMED, f"not JSON: {error}") from error
    spec = _decode_spec(value)
    _validate_spec(spec)
    if encode_task_spec(spec) != data:
        raise InvalidSpec(RejectionReason.MALFORMED, "not canonical (RFC 8785) JSON")
    return spec


def _decode_spec(value: Json) -> TaskSpec:
    fields = _Fields(value, "spec")
    fields.constant("version", VERSION)
    unit = fields.child("unit")
    held_out = fields.child("held_out")
    verification = fields.child("verification")
    phases = fields.child("phases")
    reward = fields.child("reward")
    spec = TaskSpec(
        name=fields.matching("name", LABEL_PATTERN),
        model=_decode_model(fields.child("model")),
        initial_weights=Hash32(fields.hexadecimal("initial_weights", 32)),
        data=_decode_data(fields.child("data")),
        held_out=HeldOut(
            first_row=held_out.integer("first_row", 0, MAX_ROWS),
            row_count=held_out.integer("rows", 1, MAX_ROWS),
        ),
        loss=Loss(fields.choice("loss", tuple(Loss))),
        local_steps=fields.integer("local_steps", 1, 1),
        samples_per_unit=unit.integer("samples", 1, MAX_SAMPLES_PER_UNIT),
        round_count=fields.integer("rounds", 1, MAX_ROUNDS),
        encoding=Encoding(fields.choice("encoding", tuple(Encoding))),
        aggregator=Aggregator(fields.choice("aggregator", tuple(Aggregator))),
        optimizer=_decode_optimizer(fields.child("optimizer")),
        schedule=fields.items("learning_rate_ppb", 1, MAX_SCHEDULE_POINTS, _decode_point),
        verification=Verification(
            audit_ppm=verification.integer("audit_ppm", 1, PPM),
            tolerance_ppb=verification.integer("tolerance_ppb", 1, MAX_TOLERANCE_PPB),
        ),
        phases=Phases(
            commit_seconds=phases.integer("commit_seconds", 1, MAX_PHASE_SECONDS),
            verdict_seconds=phases.integer("verdict_seconds", 1, MAX_PHASE_SECONDS),
            result_seconds=phases.integer("result_seconds", 1, MAX_PHASE_SECONDS),
        ),
        reward=Reward(
            token=Address(reward.hexadecimal("token", 20)),
            unit_price=reward.amount("unit_price"),
            validator_fee=reward.amount("validator_fee"),
            max_units=reward.integer("max_units", 1, MAX_UNITS),
            min_miners=reward.integer("min_miners", 1, MAX_UNITS),
        ),
        evaluate_every=fields.integer("evaluate_every", 1, MAX_ROUNDS),
    )
    for part in (unit, held_out, verification, phases, reward, fields):
        part.finish()
    return spec


def _decode_model(fields: "_Fields") -> Model:
    architecture = fields.choice("architecture", ("mlp", "cnn"))
    fields.constant("version", 1)
    config = fields.child("config")
    fields.finish()
    model: Model
    if architecture == "mlp":
        model = Mlp(
            inputs=config.integer("inputs", 1, MAX_WIDTH),
            hidden=config.extents("hidden", 0, MAX_LAYERS),
            classes=config.integer("classes", 2, MAX_WIDTH),
        )
    else:
        channels, height, width = config.extents("image", 3, 3)
        model = Cnn(
            image=(channels, height, width),
            channels=config.extents("channels", 1, MAX_LAYERS),
            classes=config.integer("classes", 2, MAX_WIDTH),
        )
    config.finish()
    return model


def _decode_data(fields: "_Fields") -> Data:
    fields.choice("format", ("npz",))
    features = fields.child("features")
    labels = fields.child("labels")
    data = Data(
        feature_name=features.matching("name", LABEL_PATTERN),
        feature_type=FeatureType(features.choice("type", tuple(FeatureType))),
        sample_shape=features.extents("shape", 1, 4),
        label_name=labels.matching("name", LABEL_PATTERN),
        label_type=LabelType(labels.choice("type", tuple(LabelType))),
        shards=fields.items("shards", 1, MAX_SHARDS, _decode_shard),
        urls=fields.items("urls", 0, MAX_URLS, _decode_url),
    )
    for part in (features, labels, fields):
        part.finish()
    return data


def _decode_shard(value: Json, where: str) -> Shard:
    fields = _Fields(value, where)
    shard = Shard(
        content_id=Hash32(fields.hexadecimal("content_id", 32)),
        byte_count=fields.integer("bytes", 1, MAX_SHARD_BYTES),
        row_count=fields.integer("rows", 1, MAX_ROWS),
    )
    fields.finish()
    return shard


def _decode_url(value: Json, where: str) -> str:
    if not isinstance(value, str) or not URL_PATTERN.fullmatch(value):
        _refuse(where, "must be an absolute http or https URL of at most 248 characters")
    return value


def _decode_optimizer(fields: "_Fields") -> Optimizer:
    kind = fields.choice("kind", ("sgd", "adamw"))
    optimizer: Optimizer
    if kind == "sgd":
        optimizer = Sgd(momentum_bits=fields.integer("momentum", 0, FLOAT32_ONE - 1))
    else:
        optimizer = AdamW(
            beta1_bits=fields.integer("beta1", 0, FLOAT32_ONE - 1),
            beta2_bits=fields.integer("beta2", 0, FLOAT32_ONE - 1),
            epsilon_bits=fields.integer("epsilon", FLOAT32_MIN_EPSILON, FLOAT32_ONE),
            weight_decay_bits=fields.integer("weight_decay", 0, FLOAT32_TENTH),
        )
    fields.finish()
    return optimizer


def _decode_point(value: Json, where: str) -> SchedulePoint:
    if not isinstance(value, list) or len(value) != 2:
        _refuse(where, "must be [round, parts per billion]")
    return SchedulePoint(
        round_index=_check_integer(value[0], 0, MAX_ROUNDS, where),
        learning_rate_ppb=_check_integer(value[1], 0, MAX_LEARNING_RATE_PPB, where),
    )


def _validate_spec(spec: TaskSpec) -> None:
    """What no single field shows."""
    if isinstance(spec.model, Cnn) and min(spec.model.image[1:]) >> len(spec.model.channels) == 0:
        _refuse("spec.model.config.channels", "pools the image away; use fewer stages")
    if (parameters := count_parameters(spec.model)) > MAX_PARAMETERS:
        _refuse("spec.model", f"has {parameters} parameters, the limit is {MAX_PARAMETERS}")
    if (flops := count_forward_flops(spec.model)) > MAX_FORWARD_FLOPS:
        _refuse("spec.model", f"costs {flops} operations a sample, limit {MAX_FORWARD_FLOPS}")
    shape = spec.data.sample_shape
    fits = (
        math.prod(shape) == spec.model.inputs
        if isinstance(spec.model, Mlp)
        else (shape == input_shape(spec.model))
    )
    if not fits:
        _refuse("spec.data.features.shape", f"{shape} does not fit {input_shape(spec.model)}")
    if spec.data.row_count > MAX_ROWS:
        _refuse("spec.data.shards", f"hold {spec.data.row_count} rows, the limit is {MAX_ROWS}")
    if spec.held_out.first_row + spec.held_out.row_count > spec.data.row_count:
        _refuse("spec.held_out", f"ends after the last of {spec.data.row_count} rows")
    if spec.sample_count < spec.samples_per_unit:
        _refuse("spec.unit.samples", f"exceeds the {spec.sample_count} samples to train on")
    if spec.reward.min_miners > spec.reward.max_units:
        _refuse("spec.reward.min_miners", "exceeds max_units, so some would have no work")
    rounds = [point.round_index for point in spec.schedule]
    if rounds[0] != 0 or any(rounds[i] >= rounds[i + 1] for i in range(len(rounds) - 1)):
        _refuse("spec.learning_rate_ppb", "must start at round 0 and ascend")


class _Fields:
    """The members of one JSON object, each to be read once; `finish` refuses what is left."""

    def __init__(self, value: Json, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(where, "must be an object")
        self._members = dict(value)
        self._where = where

    def take(self, key: str) -> Json:
        if key not in self._members:
            _refuse(f"{self._where}.{key}", "is missing")
        return self._members.pop(key)

    def finish(self) -> None:
        if self._members:
            _refuse(f"{self._where}.{min(self._members)[:64]}", "is not a known key")

    def child(self, key: str) -> "_Fields":
        return _Fields(self.take(key), f"{self._where}.{key}")

    def integer(self, key: str, low: int, high: int) -> int:
        return _check_integer(self.take(key), low, high, f"{self._where}.{key}")

    def constant(self, key: str, expected: int) -> None:
        self.integer(key, expected, expected)

    def choice(self, key: str, options: tuple[str, ...]) -> str:
        value = self.take(key)
        if not isinstance(value, str) or value not in options:
            _refuse(f"{self._where}.{key}", f"must be one of {', '.join(options)}")
        return value

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            _refuse(f"{self._where}.{key}", f"must match {pattern.pattern}")
        return value

    def hexadecimal(self, key: str, byte_count: int) -> bytes:
        value = self.take(key)
        if not isinstance(value, str) or not re.fullmatch(f"0x[0-9a-f]{{{2 * byte_count}}}", value):
            _refuse(f"{self._where}.{key}", f"must be 0x and {byte_count} lower-case hex bytes")
        return from_hex(value)

    def amount(self, key: str) -> int:
        value = int(self.matching(key, AMOUNT_PATTERN))
        return _check_integer(value, 0, MAX_AMOUNT, f"{self._where}.{key}")

    def extents(self, key: str, shortest: int, longest: int) -> tuple[int, ...]:
        def extent(value: Json, where: str) -> int:
            return _check_integer(value, 1, MAX_WIDTH, where)

        return self.items(key, shortest, longest, extent)

    def items(
        self, key: str, shortest: int, longest: int, decode: Callable[[Json, str], Item]
    ) -> tuple[Item, ...]:
        value, where = self.take(key), f"{self._where}.{key}"
        if not isinstance(value, list) or not shortest <= len(value) <= longest:
            _refuse(where, f"must be an array of {shortest} to {longest} elements")
        return tuple(decode(item, f"{where}[{i}]") for i, item in enumerate(value))


def _check_integer(value: Json, low: int, high: int, where: str) -> int:
    # bool is an int to isinstance, and true is not 1.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _refuse(where, f"must be an integer from {low} to {high}")
    return value


def _parse_integer(text: str) -> int:
    if len(text) > 20:
        _refuse_number(text)
    return int(text)


def _refuse_number(text: str) -> NoReturn:
    message = f"the number {text[:24]} is not a small integer"
    raise ValueError(message)


def _refuse(where: str, problem: str) -> NoReturn:
    raise InvalidSpec(RejectionReason.BAD_SPEC, f"{where} {problem}")
