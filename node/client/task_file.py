"""Turning a task file into a specification, data and weights (docs/spec/training.md, section 1).

A task file is TOML with decimal numbers. The result is a specification in integers, the data shard
and the initial weights. All of it is deterministic on every machine, so a file always gives the
same task.
"""

import difflib
import hashlib
import math
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Context, Decimal, Inexact
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from typing import Final, NoReturn, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from chain.contracts.task_registry import TaskResources
from chain.crypto import content_id
from chain.errors import InvalidSpec
from chain.hexadecimal import from_plain_hex
from chain.primitives import TOKEN_UNIT, Address
from chain.training.architectures import (
    Cnn,
    Mlp,
    Model,
    compute_layers,
    count_parameters,
    parameter_shapes,
)
from chain.training.resources import count_disk_bytes
from chain.training.task_spec import (
    PPB,
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
from chain.training.task_spec_codec import MAX_SHARD_BYTES, decode_task_spec, encode_task_spec
from node.client.task_bundle import TaskBundle, Wishes
from node.client.task_file_refusals import describe_refusal
from pot_common.errors import OperatorError

Toml: TypeAlias = "dict[str, Toml] | list[Toml] | str | int | Decimal | bool"
"""A value of a task file. Dates parse, too, and are then refused."""

Kind = TypeVar("Kind", str, int, Decimal)
"""The type of a setting."""

POT: Final = "POT"
"""The name of the network's own token in a task file."""

DIGITS_SOURCE: Final = "sklearn:digits"
"""The source of 1 797 handwritten digits of 8 x 8 pixels that come with scikit-learn."""

DIGITS_SCALE: Final = np.float32(8)
"""Half of the brightest pixel (16): features then have a standard deviation of about 0.75."""

DIGITS_CENTRE: Final = np.float32(5)
"""About the mean pixel (4.88), so that inputs are centred; eighths of integers are exact."""

SCALED_DIGITS: Final = 64
"""The precision of scaled settings: more digits than an accepted one has (31 before the point, 18
after it). The default of 28 would silently round a large price."""

NPZ_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""The date of all files in an archive, the earliest possible: equal rows then give equal bytes."""

UNMEASURED: Final = TaskResources(1, 1, 1, 1)
"""Stands for what the file does not declare, until the dry run has measured it."""

MISSPELT: Final = 0.85
"""A setting that is as close as this to a missing one is a misspelling of it; the names of two
settings are not (0.78 for min_units and max_units)."""

DRAW_BITS: Final = 24
"""The random bits of a drawn weight: as many as float32 holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A data set: features (rows, ...) as float32 or uint8, and one label a row."""

    features: NDArray[np.float32] | NDArray[np.uint8]
    labels: NDArray[np.uint8] | NDArray[np.int64]


def load_task_file(path: Path, token: Address, round_count: int | None = None) -> TaskBundle:
    """The task that a file describes.

    Raises:
        OperatorError: The file is not text, or `load_task_toml` refuses it.
        OSError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OperatorError(
            f"{path} is not text: give a task file, such as examples/digits.toml"
        ) from error
    return load_task_toml(text, path.parent, token, round_count)


def load_task_toml(
    text: str, directory: Path, token: Address, round_count: int | None = None
) -> TaskBundle:
    """The task that the file `text` describes.

    Args:
        text: TOML, such as examples/digits.toml.
        directory: The directory of relative paths in the file.
        token: The address that "POT" stands for.
        round_count: Replaces the file's `rounds`, if given.

    Raises:
        OperatorError: A setting is unknown, missing or out of its bounds, or data is unreadable.
    """
    try:
        root: Toml = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        message = f"task file: not TOML: {error}"
        raise OperatorError(message) from error
    settings = _Table(root, "")
    model, weights_seed = _read_model(settings.child("model"))
    weights = build_initial_weights(model, weights_seed)
    data, shard, held_out = _read_data(settings.child("data"), directory)
    training = settings.child("training")
    rounds = training.get("rounds", int) if round_count is None else round_count
    optimizer, schedule = _read_optimizer(settings.child("optimizer"), rounds)
    declared = _read_resources(settings.child("resources", is_optional=True))
    wishes = _read_wishes(settings.child("fee", is_optional=True))
    spec = TaskSpec(
        name=settings.get("name", str),
        model=model,
        initial_weights=content_id(weights),
        data=data,
        held_out=held_out,
        loss=Loss(training.choice("loss", Loss)),
        local_steps=training.get("local_steps", int, 1),
        samples_per_unit=training.get("samples_per_unit", int),
        round_count=rounds,
        encoding=Encoding(training.choice("encoding", Encoding)),
        aggregator=Aggregator(training.choice("aggregator", Aggregator)),
        optimizer=optimizer,
        schedule=schedule,
        verification=_read_verification(settings.child("verification")),
        phases=_read_phases(settings.child("phases")),
        reward=_read_reward(settings.child("reward"), token),
        evaluate_every=training.get("evaluate_every", int, 1),
        resources=declared or UNMEASURED,
    )
    disk_bytes = count_disk_bytes(spec)
    spec = replace(spec, resources=replace(spec.resources, disk_bytes=disk_bytes))
    if round_count is not None:
        training.get("rounds", int, 1)
    training.finish()
    settings.finish()
    blobs = {content_id(blob): blob for blob in (weights, shard)}
    return TaskBundle(_check(spec), blobs, declared is not None, wishes)


def _check(spec: TaskSpec) -> TaskSpec:
    """The specification as nodes will decode it."""
    try:
        return decode_task_spec(encode_task_spec(spec))
    except InvalidSpec as refusal:
        raise OperatorError(f"task file: {describe_refusal(refusal.detail)}") from refusal


def _read_model(table: "_Table") -> tuple[Model, str]:
    architecture = table.choice("architecture", ("mlp", "cnn"))
    seed = table.get("weights_seed", str)
    model: Model
    if architecture == "mlp":
        model = Mlp(
            inputs=table.get("inputs", int),
            hidden=table.integers("hidden"),
            classes=table.get("classes", int),
        )
    else:
        image = table.integers("image")
        if len(image) != 3:
            table.refuse("image", "must be [channels, height, width]")
        model = Cnn(
            image=(image[0], image[1], image[2]),
            channels=table.integers("channels"),
            classes=table.get("classes", int),
        )
    table.finish()
    _check_extents(model)
    return model, seed


def _check_extents(model: Model) -> None:
    # Checked before memory is allocated; decode_task_spec has the exact rules.
    if any(min(shape, default=1) < 1 for _, shape in parameter_shapes(model)):
        message = "task file: model: every width, also after pooling, must be at least 1"
        raise OperatorError(message)
    if (parameters := count_parameters(model)) * 4 > MAX_SHARD_BYTES:
        message = f"task file: model: {parameters} parameters are too many"
        raise OperatorError(message)


def _read_data(table: "_Table", directory: Path) -> tuple[Data, bytes, HeldOut]:
    source = table.get("source", str)
    rows = build_digits() if source == DIGITS_SOURCE else load_rows(directory / source)
    seed = table.get("shuffle_seed", str, "")
    if seed:
        rows = shuffle_rows(rows, seed)
    shard = encode_npz({"x": rows.features, "y": rows.labels})
    row_count, held_out = len(rows.labels), table.get("held_out", int)
    if not 0 < held_out < row_count:
        table.refuse(
            "held_out",
            f"must be from 1 to {row_count - 1}, because source has {row_count} rows and at least "
            "one is to train on",
        )
    data = Data(
        feature_name="x",
        feature_type=FeatureType(rows.features.dtype.name),
        sample_shape=rows.features.shape[1:],
        label_name="y",
        label_type=LabelType(rows.labels.dtype.name),
        shards=(Shard(content_id(shard), len(shard), row_count),),
        urls=table.strings("urls"),
    )
    table.finish()
    return data, shard, HeldOut(first_row=row_count - held_out, row_count=held_out)


def _read_optimizer(table: "_Table", rounds: int) -> tuple[Optimizer, tuple[SchedulePoint, ...]]:
    optimizer: Optimizer
    if table.choice("kind", ("sgd", "adamw")) == "sgd":
        optimizer = Sgd(momentum_bits=table.float32_bits("momentum", "0"))
    else:
        optimizer = AdamW(
            beta1_bits=table.float32_bits("beta1", "0.9"),
            beta2_bits=table.float32_bits("beta2", "0.999"),
            epsilon_bits=table.float32_bits("epsilon", "1e-8"),
            weight_decay_bits=table.float32_bits("weight_decay", "0"),
        )
    rate = table.scaled("learning_rate", PPB)
    decay = table.choice("learning_rate_decay", ("none", "linear"))
    table.finish()
    end = () if decay == "none" else (SchedulePoint(rounds, 0),)
    return optimizer, (SchedulePoint(0, rate), *end)


def _read_verification(table: "_Table") -> Verification:
    audit_ppm = table.scaled("audit_probability", PPM)
    if audit_ppm != PPM:
        table.refuse("audit_probability", "must be 1: validators check every gradient")
    verification = Verification(
        audit_ppm=audit_ppm,
        tolerance_ppb=table.scaled("tolerance", PPB),
    )
    table.finish()
    return verification


def _read_phases(table: "_Table") -> Phases:
    phases = Phases(
        commit_seconds=table.get("commit_seconds", int),
        verdict_seconds=table.get("verdict_seconds", int),
        result_seconds=table.get("result_seconds", int),
    )
    table.finish()
    return phases


def _read_reward(table: "_Table", token: Address) -> Reward:
    written = table.get("token", str, POT)
    if written != POT:
        try:
            token = Address(from_plain_hex(written))
        except ValueError:
            table.refuse("token", f'must be "{POT}" or the address of an ERC-20 contract')
    if len(token) != 20:
        table.refuse("token", "must be an address of 20 bytes")
    max_units, min_miners = table.get("max_units", int), table.get("min_miners", int)
    unit_price = table.scaled("unit_price", TOKEN_UNIT)
    if unit_price == 0:
        table.refuse("unit_price", "must be more than 0")
    reward = Reward(
        token=token,
        unit_price=unit_price,
        validator_fee=table.scaled("validator_fee", TOKEN_UNIT),
        max_units=max_units,
        min_miners=min_miners,
        # Half of the units: then at least half of a round's fee pays for work that can be done.
        min_units=table.get("min_units", int, max(-(-max_units // 2), min_miners)),
    )
    table.finish()
    return reward


def _read_resources(table: "_Table") -> TaskResources | None:
    """What the file declares, without the disk, which follows from the rest; None if nothing."""
    if table.is_empty:
        return None
    resources = TaskResources(
        unit_milliseconds=table.get("unit_milliseconds", int),
        evaluation_milliseconds=table.get("evaluation_milliseconds", int),
        peak_bytes=table.get("peak_bytes", int),
        disk_bytes=1,
    )
    table.finish()
    return resources


def _read_wishes(table: "_Table") -> Wishes:
    wishes = Wishes(
        lifetime_seconds=table.get("lifetime_seconds", int, 0) or None,
        attempts=table.get("attempts", int, 0) or None,
        max_fee=table.scaled("max_fee", TOKEN_UNIT) if table.has("max_fee") else None,
    )
    table.finish()
    return wishes


class _Table:
    """One table of a task file; each setting is read once, and `finish` refuses the rest."""

    def __init__(self, value: Toml, path: str) -> None:
        if not isinstance(value, dict):
            message = f"task file: [{path}] must be a table"
            raise OperatorError(message)
        self._settings = dict(value)
        self._path = path
        self._known: set[str] = set()
        """The settings that were asked for, of which an unknown one may be a misspelling."""

    def refuse(self, key: str, problem: str) -> NoReturn:
        message = f"task file: {f'[{self._path}] ' if self._path else ''}{key} {problem}"
        raise OperatorError(message)

    def finish(self) -> None:
        if self._settings:
            unknown = min(self._settings)
            self.refuse(unknown, f"is not a known setting{_suggest(unknown, self._known)}")

    @property
    def is_empty(self) -> bool:
        """Whether no setting is left."""
        return not self._settings

    def has(self, key: str) -> bool:
        """Whether the setting is there and was not read yet."""
        self._known.add(key)
        return key in self._settings

    def child(self, key: str, *, is_optional: bool = False) -> "_Table":
        """The table under `key`; an empty one if it is absent and optional."""
        self._known.add(key)
        return _Table(self._settings.pop(key, {}) if is_optional else self._take(key), key)

    def _take(self, key: str) -> Toml:
        self._known.add(key)
        if key not in self._settings:
            close = difflib.get_close_matches(
                key, sorted(set(self._settings) - self._known), n=1, cutoff=MISSPELT
            )
            if close:
                self.refuse(close[0], f"is not a known setting; did you mean {key}?")
            self.refuse(key, "is missing")
        return self._settings.pop(key)

    def get(self, key: str, kind: type[Kind], default: Kind | None = None) -> Kind:
        """The setting `key`; `default` if it is absent and a default is given."""
        self._known.add(key)
        if default is not None and key not in self._settings:
            return default
        value = self._take(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            names = {str: "a string", int: "an integer", Decimal: "a number"}
            self.refuse(key, f"must be {names[kind]}")
        return value

    def choice(
        self, key: str, options: "type[Aggregator | Encoding | Loss] | tuple[str, ...]"
    ) -> str:
        names = options if isinstance(options, tuple) else tuple(option.value for option in options)
        value = self.get(key, str)
        if value not in names:
            self.refuse(key, f"must be one of {', '.join(names)}")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        values = self._take(key)
        if not isinstance(values, list):
            self.refuse(key, "must be an array of integers")
        numbers = tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))
        if len(numbers) != len(values):
            self.refuse(key, "must be an array of integers")
        return numbers

    def strings(self, key: str) -> tuple[str, ...]:
        self._known.add(key)
        values = self._settings.pop(key, [])
        if not isinstance(values, list):
            self.refuse(key, "must be an array of strings")
        strings = tuple(value for value in values if isinstance(value, str))
        if len(strings) != len(values):
            self.refuse(key, "must be an array of strings")
        return strings

    def number(self, key: str, default: str | None = None) -> Decimal:
        self._known.add(key)
        if default is not None and key not in self._settings:
            return Decimal(default)
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            self.refuse(key, "must be a number")
        number = Decimal(value)
        if not number.is_finite() or number < 0 or number.adjusted() > 30:
            self.refuse(key, "must be a finite number, not negative")
        return number

    def scaled(self, key: str, scale: int) -> int:
        """A decimal number as an integer number of 1 / scale."""
        exact = Context(prec=SCALED_DIGITS, traps=[])
        scaled = exact.multiply(self.number(key), scale)
        if exact.flags[Inexact] or scaled != exact.to_integral_value(scaled):
            self.refuse(key, f"has more than {len(str(scale)) - 1} decimals")
        return int(scaled)

    def float32_bits(self, key: str, default: str) -> int:
        """The bit pattern of the float32 nearest to a decimal number."""
        packed = struct.pack("<f", float(self.number(key, default)))
        return int.from_bytes(packed, "little")


# Data.


def build_digits() -> Rows:
    """Scikit-learn's digits: float32 (1797, 1, 8, 8) from -5/8 to 11/8, and uint8 labels."""
    # Imported here, because the import takes seconds and only this source needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = digits.images.astype(np.float32)
    features = (pixels - DIGITS_CENTRE) / DIGITS_SCALE
    return Rows(features[:, np.newaxis], digits.target.astype(np.uint8))


def load_rows(path: Path) -> Rows:
    """The arrays `x` and `y` of an npz file: float or uint8 features, integer labels.

    Raises:
        OperatorError: The file does not exist, or is not such a file.
    """
    known = f'"{DIGITS_SOURCE}" or an npz file with the arrays x and y'
    if not path.is_file():
        raise OperatorError(
            f"task file: [data] source: there is no file {path}; source must be {known}"
        )
    try:
        if path.stat().st_size > MAX_SHARD_BYTES:
            message = f"task file: [data] source {path} exceeds {MAX_SHARD_BYTES} bytes"
            raise OperatorError(message)
        with np.load(path, allow_pickle=False) as arrays:
            features, labels = arrays["x"], arrays["y"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"task file: [data] source must be {known}; {path} is not: {reason}"
        raise OperatorError(message) from error
    if features.ndim < 2 or labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
        message = f"task file: [data] source {path}: y must hold one integer for each row of x"
        raise OperatorError(message)
    if features.dtype != np.uint8:
        features = features.astype(np.float32)
    return Rows(features, labels.astype(np.int64))


def shuffle_rows(rows: Rows, seed: str) -> Rows:
    """The rows by ascending SHA-256 of seed and row number: reproducible in any language."""

    def key(row: int) -> bytes:
        return hashlib.sha256(seed.encode() + row.to_bytes(8, "big")).digest()

    order = sorted(range(len(rows.labels)), key=key)
    return Rows(rows.features[order], rows.labels[order])


def encode_npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """An uncompressed npz file of `arrays`, in their order; equal arrays give equal bytes."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            member = BytesIO()
            np.lib.format.write_array(member, little, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", NPZ_DATE), member.getvalue())
    return file.getvalue()


# Initial weights.


def build_initial_weights(model: Model, seed: str) -> bytes:
    """He's uniform initialization (arXiv:1502.01852) drawn with SHA-256; biases 0.

    A weight is (2k + 1 - 2**24) / 2**24 * sqrt(6 / fan-in), rounded to float32, for 24 random bits
    k. No library's random generator takes part, so the weights can be reproduced in any language.
    """
    drawn = {
        f"{layer.name}.weight": _draw_uniform(
            f"{seed}/{layer.name}.weight",
            math.prod(layer.weight),
            math.sqrt(6 / math.prod(layer.weight[1:])),
        )
        for layer in compute_layers(model)
    }
    return b"".join(
        drawn[name] if name in drawn else bytes(4 * math.prod(shape))
        for name, shape in parameter_shapes(model)
    )


def _draw_uniform(label: str, size: int, bound: float) -> bytes:
    blocks = (hashlib.sha256(f"{label}/{i}".encode()).digest() for i in count())
    data = b"".join(islice(blocks, -(-size // 8)))
    bits = np.frombuffer(data, ">u4")[:size].astype(np.int64) >> (32 - DRAW_BITS)
    values = (2 * bits + 1 - 2**DRAW_BITS) * (bound / 2**DRAW_BITS)
    return values.astype("<f4").tobytes()


def _suggest(name: str, others: Collection[str]) -> str:
    """The end of an error about a setting: the one of the others that may be meant, if any."""
    close = difflib.get_close_matches(name, sorted(others), n=1)
    return f"; did you mean {close[0]}?" if close else ""
