"""A training task's specification as a value (docs/spec/training.md, section 1).

chain/training/task_spec_codec.py encodes it and decodes it with every rule of validity.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from chain.contracts.task_registry import TaskResources
from chain.primitives import Address, Hash32
from chain.training.architectures import Model, Shape

MAX_UNITS: Final = 65_536
"""The most units of one round: the aggregate's |A| < 2**61 then fits int64 (section 6)."""

PPM: Final = 10**6
"""One, in parts per million."""

PPB: Final = 10**9
"""One, in parts per billion."""


class FeatureType(StrEnum):
    """The element type of stored features."""

    FLOAT32 = "float32"
    UINT8 = "uint8"
    """A stored value v means v / 255."""


class LabelType(StrEnum):
    """The element type of stored class labels."""

    UINT8 = "uint8"
    INT64 = "int64"


class Loss(StrEnum):
    """The loss function."""

    CROSS_ENTROPY = "cross_entropy"


class Encoding(StrEnum):
    """The encoding of gradients (section 4)."""

    INT8 = "int8"


class Aggregator(StrEnum):
    """The rule that combines accepted gradients (section 6)."""

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
        urls: Where shards can be fetched, at `<url>/<content id in hex>`; empty if nodes hold them.
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
        """The number of rows of all shards together."""
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
"""Every optimizer that a task can name."""


@dataclass(frozen=True, slots=True)
class SchedulePoint:
    """The learning rate, in parts per billion, from a 0-based round on."""

    round_number: int
    learning_rate_ppb: int


@dataclass(frozen=True, slots=True)
class Verification:
    """The verification profile.

    Attributes:
        audit_ppm: p, the least chance that validators re-execute a given gradient.
        tolerance_ppb: T, the largest cell distance of an honest gradient.
    """

    audit_ppm: int
    tolerance_ppb: int


@dataclass(frozen=True, slots=True)
class Phases:
    """The longest duration of each phase of a round."""

    commit_seconds: int
    verdict_seconds: int
    result_seconds: int


@dataclass(frozen=True, slots=True)
class Reward:
    """Payment and participation.

    Attributes:
        token: The ERC-20 contract of escrow, bonds and payouts.
        unit_price: Base units of the token for one accepted unit.
        validator_fee: Base units of the token a round for all validators together.
        max_units: The most units of one round.
        min_miners: The registered miners that an attempt needs to open.
        min_units: The units of these miners together that an attempt needs to open.
    """

    token: Address
    unit_price: int
    validator_fee: int
    max_units: int
    min_miners: int
    min_units: int


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """The specification of a training task.

    Attributes:
        name: A name for people.
        model: Architecture and its configuration.
        initial_weights: Content id of theta at round 0, as little-endian float32.
        data: The manifest.
        held_out: The rows of the evaluation split.
        loss: The loss of a sample; a gradient is that of the mean over a miner's samples.
        local_steps: H, the optimizer steps of a miner in one round.
        samples_per_unit: The number of samples in one unit of work.
        round_count: The number of settled rounds after which the task is done.
        encoding: The encoding of gradients.
        aggregator: The rule that combines gradients.
        optimizer: The optimizer that applies the combined gradient to theta.
        schedule: The optimizer's learning rate, piecewise linear.
        verification: p and T.
        phases: The durations of the phases.
        reward: Payment and participation.
        evaluate_every: Validators evaluate the held-out split every this many rounds.
        resources: The most that the task takes of one validator, which the fee pays for.
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
    resources: TaskResources

    @property
    def sample_count(self) -> int:
        """The number of rows that are trained on."""
        return self.data.row_count - self.held_out.row_count

    def row_of_sample(self, sample_index: int) -> int:
        """The row of a sample: samples are the rows in order, without the held-out ones."""
        assert 0 <= sample_index < self.sample_count
        skipped = self.held_out.row_count if sample_index >= self.held_out.first_row else 0
        return sample_index + skipped


def compute_learning_rate_ppb(spec: TaskSpec, round_number: int) -> int:
    """The rate of a round: linear between points, rounded down, constant after the last."""
    before = max(
        (point for point in spec.schedule if point.round_number <= round_number),
        key=lambda point: point.round_number,
    )
    after = [point for point in spec.schedule if point.round_number > round_number]
    if not after:
        return before.learning_rate_ppb
    rise = after[0].learning_rate_ppb - before.learning_rate_ppb
    run = after[0].round_number - before.round_number
    return before.learning_rate_ppb + rise * (round_number - before.round_number) // run
