"""The canonical bytes of a task's specification, and its terms (docs/spec/training.md, section 1).

The bytes are RFC 8785 JSON without floats or large numbers: ratios are parts per million or
billion, optimizer constants are float32 bit patterns, amounts are decimal strings. Decoding is
strict: what it accepts re-encodes to the same bytes, so a specification has one content id.
"""

import json
import math
import re
from dataclasses import asdict
from typing import Final, assert_never

from chain.contracts.gradient_ledger import MAX_BALLOTS
from chain.contracts.miner_seats import compute_highest_min_units, compute_least_units
from chain.contracts.task_registry import TaskResources, TaskTerms
from chain.crypto import sha256
from chain.errors import InvalidSpec, RejectionReason
from chain.hexadecimal import to_hex
from chain.json_types import Json
from chain.primitives import Address, Hash32
from chain.training.architectures import (
    MAX_ACTIVATIONS,
    MAX_FORWARD_FLOPS,
    MAX_LAYERS,
    MAX_PARAMETERS,
    MAX_WIDTH,
    Cnn,
    Mlp,
    Model,
    count_activations,
    count_forward_flops,
    count_parameters,
    input_shape,
)
from chain.training.resources import count_stored_row_bytes
from chain.training.strict_json import JsonFields, check_integer, parse_json_without_floats, refuse
from chain.training.task_checks import Objection, ObjectionCode
from chain.training.task_spec import (
    MAX_UNITS,
    PPM,
    AdamW,
    Aggregator,
    Data,
    Encoding,
    FeatureType,
    HeldOut,
    LabelType,
    Loss,
    Optimizer,
    Phases,
    Reward,
    SchedulePoint,
    Sgd,
    Shard,
    TaskSpec,
    Verification,
)

VERSION: Final = 1
"""The version of this format. A node that does not know a version refuses the task."""

MAX_SPEC_BYTES: Final = 2**14
"""16 KiB: a specification is calldata of its submission, which costs at least 16 gas a byte."""

MAX_SHARDS: Final = 96
"""The most shards. Each takes about 120 bytes, so the largest manifest fits the limit above."""

MAX_SHARD_BYTES: Final = 2**30
"""1 GiB: a verifier maps one shard into memory at a time."""

MAX_DATA_BYTES: Final = 2**34
"""16 GiB: a validator keeps the rows of all shards as one blob."""

SHARD_MARGIN: Final = 16
"""A shard may exceed its rows by one part in this many, more than compression can add, ..."""

SHARD_EXTRA_BYTES: Final = 4_096
"""... and by this, more than the headers of an npz file take. Validators store, fetch and hash all
bytes of a shard, so each byte must be of use."""

MAX_ROWS: Final = 2**32
"""The most rows of all shards together: sample indices then fit 64 bits easily."""

MAX_URLS: Final = 16
"""The most addresses to fetch shards from; more than a submitter would run."""

MAX_ROUNDS: Final = 1_000_000
"""A year of 30-second rounds. The bound keeps the sums of AdamW and momentum finite."""

MAX_SAMPLES_PER_UNIT: Final = 2**20
"""The most samples in a unit: one worker re-executes a unit within a verdict phase."""

MAX_PHASE_SECONDS: Final = 86_400
"""One day: if a phase stalls, its votes are cast again on the next day."""

MAX_ATTEMPT_SECONDS: Final = 57_600
"""16 hours. A node that joins by a snapshot follows the headers back to where the oldest attempt in
progress opened, and holds at most 2^17 of them (docs/spec/consensus.md, section 10)."""

MAX_MILLISECONDS: Final = 1000 * MAX_PHASE_SECONDS
"""Checks and evaluations run within a phase."""

MAX_RESOURCE_BYTES: Final = 2**50
"""More than any node has; JSON integers are exact below 2**53."""

MAX_SCHEDULE_POINTS: Final = 64
"""The most points of a piecewise linear learning rate."""

MAX_LEARNING_RATE_PPB: Final = 10**10
"""A rate of 10: with the largest weight decay, 0.1, the decay at most cancels theta."""

MIN_AUDIT_PPM: Final = 10_000
"""One per cent: the bond is then 199 rounds' pay, and grows as fast as the chance becomes less."""

MIN_TOLERANCE_PPB: Final = 10_000
"""Honest machines differ by up to 21 000 parts per billion in a gradient, though far less in the
distance to its cells; below this bound rounding could be taken for a lie."""

MIN_PHASE_SECONDS: Final = 4
"""Votes are late after three quarters of a phase, which must leave a second for them."""

MAX_TOLERANCE_PPB: Final = 10**7
"""0.01. Above it a miner could skip a sample unnoticed (measured from 2e-3 on)."""

MAX_AMOUNT: Final = 2**128 - 1
"""The largest price or fee: products with rounds and units stay below 2**256."""

FLOAT32_ONE: Final = 0x3F800000
"""1.0. Bit patterns of positive floats are ordered like the floats, so bounds compare integers."""

FLOAT32_TENTH: Final = 0x3DCCCCCD
"""0.1, the largest weight decay."""

FLOAT32_MIN_EPSILON: Final = 0x2B800000
"""2**-40: keeps m / epsilon, and with it theta, far from overflow."""

LABEL_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
"""The name of a task or an array: printable characters that are safe in file names."""

URL_PATTERN: Final = re.compile(r"https?://[!-~]{1,240}")
"""An absolute URL of visible ASCII. The node that fetches decides which hosts it contacts."""

AMOUNT_PATTERN: Final = re.compile(r"0|[1-9][0-9]{0,38}")
"""A decimal integer with one spelling."""


def compute_spec_hash(spec: TaskSpec) -> Hash32:
    """SHA-256 of the canonical bytes, as the contract computes it."""
    return sha256(encode_task_spec(spec))


def find_terms_objection(
    spec: TaskSpec, terms: TaskTerms, resources: TaskResources
) -> Objection | None:
    """The reason why the terms on the chain, which the fee pays for, are not those of a task."""
    if (terms, resources) == (compute_terms(spec), spec.resources):
        return None
    return Objection(
        ObjectionCode.TERMS_DIFFER, "the terms on the chain differ from the specification"
    )


def compute_terms(spec: TaskSpec) -> TaskTerms:
    """The terms with which `spec` is submitted; a node refuses a task with other terms."""
    return TaskTerms(
        spec_hash=compute_spec_hash(spec),
        token=spec.reward.token,
        unit_price=spec.reward.unit_price,
        validator_fee=spec.reward.validator_fee,
        rounds=spec.round_count,
        min_miners=spec.reward.min_miners,
        min_units=spec.reward.min_units,
        max_units=spec.reward.max_units,
        audit_ppm=spec.verification.audit_ppm,
        commit_seconds=spec.phases.commit_seconds,
        verdict_seconds=spec.phases.verdict_seconds,
        result_seconds=spec.phases.result_seconds,
    )


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
                [point.round_number, point.learning_rate_ppb] for point in spec.schedule
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
                "min_units": spec.reward.min_units,
            },
            "evaluate_every": spec.evaluate_every,
            "resources": asdict(spec.resources),
        }
    )


def _canonical_json(value: Json) -> bytes:
    # For ASCII keys and integers below 2**53 this is RFC 8785.
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
        value = parse_json_without_floats(data)
    except ValueError as error:
        raise InvalidSpec(RejectionReason.MALFORMED, f"not JSON: {error}") from error
    spec = _decode_spec(value)
    _validate_spec(spec)
    if encode_task_spec(spec) != data:
        raise InvalidSpec(RejectionReason.MALFORMED, "not canonical (RFC 8785) JSON")
    return spec


def _decode_spec(value: Json) -> TaskSpec:
    fields = JsonFields(value, "spec")
    fields.constant("version", VERSION)
    unit = fields.child("unit")
    held_out = fields.child("held_out")
    verification = fields.child("verification")
    phases = fields.child("phases")
    reward = fields.child("reward")
    resources = fields.child("resources")
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
            audit_ppm=verification.integer("audit_ppm", MIN_AUDIT_PPM, PPM),
            tolerance_ppb=verification.integer(
                "tolerance_ppb", MIN_TOLERANCE_PPB, MAX_TOLERANCE_PPB
            ),
        ),
        phases=Phases(
            commit_seconds=phases.integer("commit_seconds", MIN_PHASE_SECONDS, MAX_PHASE_SECONDS),
            verdict_seconds=phases.integer("verdict_seconds", MIN_PHASE_SECONDS, MAX_PHASE_SECONDS),
            result_seconds=phases.integer("result_seconds", MIN_PHASE_SECONDS, MAX_PHASE_SECONDS),
        ),
        reward=Reward(
            token=Address(reward.hexadecimal("token", 20)),
            unit_price=_decode_amount(reward, "unit_price"),
            validator_fee=_decode_amount(reward, "validator_fee"),
            max_units=reward.integer("max_units", 1, MAX_UNITS),
            min_miners=reward.integer("min_miners", 1, MAX_UNITS),
            min_units=reward.integer("min_units", 1, MAX_UNITS),
        ),
        evaluate_every=fields.integer("evaluate_every", 1, MAX_ROUNDS),
        resources=TaskResources(
            unit_milliseconds=resources.integer("unit_milliseconds", 1, MAX_MILLISECONDS),
            evaluation_milliseconds=resources.integer(
                "evaluation_milliseconds", 1, MAX_MILLISECONDS
            ),
            peak_bytes=resources.integer("peak_bytes", 1, MAX_RESOURCE_BYTES),
            disk_bytes=resources.integer("disk_bytes", 1, MAX_RESOURCE_BYTES),
        ),
    )
    for part in (unit, held_out, verification, phases, reward, resources, fields):
        part.finish()
    return spec


def _decode_model(fields: JsonFields) -> Model:
    architecture = fields.choice("architecture", ("mlp", "cnn"))
    fields.constant("version", 1)
    config = fields.child("config")
    fields.finish()
    model: Model
    if architecture == "mlp":
        model = Mlp(
            inputs=config.integer("inputs", 1, MAX_WIDTH),
            hidden=_decode_extents(config, "hidden", 0, MAX_LAYERS),
            classes=config.integer("classes", 2, MAX_WIDTH),
        )
    else:
        channels, height, width = _decode_extents(config, "image", 3, 3)
        model = Cnn(
            image=(channels, height, width),
            channels=_decode_extents(config, "channels", 1, MAX_LAYERS),
            classes=config.integer("classes", 2, MAX_WIDTH),
        )
    config.finish()
    return model


def _decode_data(fields: JsonFields) -> Data:
    fields.choice("format", ("npz",))
    features = fields.child("features")
    labels = fields.child("labels")
    data = Data(
        feature_name=features.matching("name", LABEL_PATTERN),
        feature_type=FeatureType(features.choice("type", tuple(FeatureType))),
        sample_shape=_decode_extents(features, "shape", 1, 4),
        label_name=labels.matching("name", LABEL_PATTERN),
        label_type=LabelType(labels.choice("type", tuple(LabelType))),
        shards=fields.items("shards", 1, MAX_SHARDS, _decode_shard),
        urls=fields.items("urls", 0, MAX_URLS, _decode_url),
    )
    for part in (features, labels, fields):
        part.finish()
    return data


def _decode_shard(value: Json, where: str) -> Shard:
    fields = JsonFields(value, where)
    shard = Shard(
        content_id=Hash32(fields.hexadecimal("content_id", 32)),
        byte_count=fields.integer("bytes", 1, MAX_SHARD_BYTES),
        row_count=fields.integer("rows", 1, MAX_ROWS),
    )
    fields.finish()
    return shard


def _decode_url(value: Json, where: str) -> str:
    if not isinstance(value, str) or not URL_PATTERN.fullmatch(value):
        refuse(where, "must be an absolute http or https URL of at most 248 characters")
    return value


def _decode_optimizer(fields: JsonFields) -> Optimizer:
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
        refuse(where, "must be [round, parts per billion]")
    return SchedulePoint(
        round_number=check_integer(value[0], 0, MAX_ROUNDS, where),
        learning_rate_ppb=check_integer(value[1], 0, MAX_LEARNING_RATE_PPB, where),
    )


def _validate_spec(spec: TaskSpec) -> None:
    """Refuse values that contradict each other or exceed a limit together."""
    if isinstance(spec.model, Cnn) and min(spec.model.image[1:]) >> len(spec.model.channels) == 0:
        refuse("spec.model.config.channels", "pools the image away; use fewer stages")
    if (parameters := count_parameters(spec.model)) > MAX_PARAMETERS:
        refuse("spec.model", f"has {parameters} parameters, the limit is {MAX_PARAMETERS}")
    if (flops := count_forward_flops(spec.model)) > MAX_FORWARD_FLOPS:
        refuse("spec.model", f"costs {flops} operations a sample, limit {MAX_FORWARD_FLOPS}")
    if (values := count_activations(spec.model)) > MAX_ACTIVATIONS:
        refuse("spec.model", f"has {values} activations a sample, limit {MAX_ACTIVATIONS}")
    shape = spec.data.sample_shape
    fits = (
        math.prod(shape) == spec.model.inputs
        if isinstance(spec.model, Mlp)
        else (shape == input_shape(spec.model))
    )
    if not fits:
        refuse("spec.data.features.shape", f"{shape} does not fit {input_shape(spec.model)}")
    _validate_shards(spec.data)
    if spec.data.row_count > MAX_ROWS:
        refuse("spec.data.shards", f"hold {spec.data.row_count} rows, the limit is {MAX_ROWS}")
    if spec.held_out.first_row + spec.held_out.row_count > spec.data.row_count:
        refuse("spec.held_out", f"ends after the last of {spec.data.row_count} rows")
    if (seconds := count_attempt_seconds(spec.phases)) > MAX_ATTEMPT_SECONDS:
        refuse(
            "spec.phases",
            f"let an attempt with {MAX_BALLOTS} ballots last {seconds} s, the limit is "
            f"{MAX_ATTEMPT_SECONDS}",
        )
    needed = spec.reward.max_units * spec.samples_per_unit
    if needed > spec.sample_count:
        refuse(
            "spec.reward.max_units",
            f"times unit.samples is {needed}, of {spec.sample_count} samples to train on",
        )
    least = compute_least_units(spec.reward.max_units)
    if spec.reward.min_miners > spec.reward.max_units // least:
        refuse("spec.reward.min_miners", f"exceeds max_units, of which a seat has at least {least}")
    highest = compute_highest_min_units(spec.reward.max_units)
    if not spec.reward.min_miners <= spec.reward.min_units <= highest:
        refuse("spec.reward.min_units", f"must be from min_miners to {highest}")
    rounds = [point.round_number for point in spec.schedule]
    if rounds[0] != 0 or any(rounds[i] >= rounds[i + 1] for i in range(len(rounds) - 1)):
        refuse("spec.learning_rate_ppb", "must start at round 0 and ascend")


def count_attempt_seconds(phases: Phases) -> int:
    """The seconds of all phases of an attempt of which every ballot fails, and of its payment."""
    ballots = MAX_BALLOTS * (phases.verdict_seconds + phases.result_seconds)
    return phases.commit_seconds + ballots + phases.result_seconds


def _validate_shards(data: Data) -> None:
    """Refuse too many rows, and files without use: the same again, and bytes that are no rows."""
    total = data.row_count * count_stored_row_bytes(data)
    if total > MAX_DATA_BYTES:
        refuse("spec.data.shards", f"hold {total} bytes of rows, the limit is {MAX_DATA_BYTES}")
    if len({shard.content_id for shard in data.shards}) < len(data.shards):
        refuse("spec.data.shards", "names a file twice")
    for index, shard in enumerate(data.shards):
        rows = shard.row_count * count_stored_row_bytes(data)
        limit = rows + rows // SHARD_MARGIN + SHARD_EXTRA_BYTES
        if shard.byte_count > limit:
            refuse(
                f"spec.data.shards[{index}].bytes",
                f"is {shard.byte_count}, and its rows take {rows}; the limit is {limit}",
            )


def _decode_amount(fields: JsonFields, key: str) -> int:
    value = int(fields.matching(key, AMOUNT_PATTERN))
    return check_integer(value, 0, MAX_AMOUNT, f"{fields.where}.{key}")


def _decode_extents(fields: JsonFields, key: str, shortest: int, longest: int) -> tuple[int, ...]:
    def decode_extent(value: Json, where: str) -> int:
        return check_integer(value, 1, MAX_WIDTH, where)

    return fields.items(key, shortest, longest, decode_extent)
