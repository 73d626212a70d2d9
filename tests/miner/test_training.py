"""The numbers of a whole task: learning, verification of every gradient, and lies."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chain.crypto import sha256
from chain.primitives import Address, Hash32, TaskId
from chain.training.acceptance import ExponentRule, Measurement, Verdict, compute_verdict
from chain.training.aggregation import aggregate
from chain.training.architectures import count_parameters
from chain.training.assignment import assign, compute_seed
from chain.training.attempt import AttemptId
from chain.training.encoding import (
    GradientHeader,
    decode_gradient,
    encode_gradient,
    from_codes,
    pad_blocks,
)
from chain.training.optimizer import apply_update, initial_state
from chain.training.state import TrainingState, compute_model_root
from chain.training.task_spec import compute_learning_rate_ppb
from miner.data import Dataset
from miner.devices import open_device
from miner.gradient import clip
from miner.measurement import measure
from miner.model import load_parameters
from miner.noise import CHECK_TRIALS
from miner.trainer import Trainer, open_task
from node.client.task_bundle import TaskBundle
from node.client.task_file import load_task_toml
from tests.miner.crafted import compute_gradient

DIGITS = Path("examples/digits.toml")
TOKEN = Address(b"\x44" * 20)
TASK = TaskId(1)
CHAIN_ID = 31_337
MINERS = tuple(Address(bytes([number]) * 20) for number in (1, 2, 3))


@dataclass(frozen=True)
class SimulatedRound:
    """The inputs and the results of one round."""

    theta: bytes
    headers: tuple[GradientHeader, ...]
    indices: tuple[tuple[int, ...], ...]
    payloads: tuple[bytes, ...]
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    state: TrainingState


Work = Callable[[Trainer, GradientHeader, bytes, Sequence[int]], bytes]
"""Makes a miner's payload from trainer, header, theta and sample indices."""


def honest(trainer: Trainer, header: GradientHeader, theta: bytes, indices: Sequence[int]) -> bytes:
    return trainer.build_payload(header, theta, indices)


def simulate(
    trainer: Trainer,
    initial_weights: bytes,
    chain_seed: int,
    verifier: Trainer | None = None,
    work: dict[Address, Work] | None = None,
) -> Iterator[SimulatedRound]:
    """All rounds of the task in order; without a verifier every payload is accepted."""
    spec = trainer.spec
    size = count_parameters(spec.model)
    state = initial_state(spec.optimizer, initial_weights)
    for number in range(spec.round_count):
        mix_hash = Hash32(sha256(f"block {chain_seed} {number}".encode()))
        attempt_id = AttemptId(TASK, number, 0)
        seed = compute_seed(mix_hash, attempt_id)
        participants = [(miner, 1) for miner in MINERS]
        assignment = assign(seed, participants, spec.sample_count, spec.samples_per_unit)
        theta = state.theta
        headers = tuple(
            GradientHeader(attempt_id, size, CHAIN_ID, compute_model_root(state), seed, miner)
            for miner in MINERS
        )
        indices = tuple(assignment.sample_indices(miner) for miner in MINERS)
        payloads = tuple(
            (work or {}).get(header.miner, honest)(trainer, header, theta, samples)
            for header, samples in zip(headers, indices, strict=True)
        )
        measurements: tuple[Measurement, ...] = ()
        verdicts = (Verdict.OK,) * len(MINERS)
        if verifier is not None:
            measurements = tuple(
                verifier.verify_payload(payload, header, theta, samples)
                for payload, header, samples in zip(payloads, headers, indices, strict=True)
            )
            verdicts = tuple(
                compute_verdict(measurement, spec.verification.tolerance_ppb)
                for measurement in measurements
            )
        accepted = [
            (assignment.units_of(header.miner), decode_gradient(payload, header))
            for header, payload, verdict in zip(headers, payloads, verdicts, strict=True)
            if verdict is Verdict.OK
        ]
        if accepted:
            mean = aggregate(spec.aggregator, size, accepted)
            state = apply_update(
                spec.optimizer, compute_learning_rate_ppb(spec, number), state, mean
            )
        yield SimulatedRound(theta, headers, indices, payloads, measurements, verdicts, state)


@pytest.fixture(scope="module")
def bundle() -> TaskBundle:
    return load_task_toml(DIGITS.read_text(), DIGITS.parent, TOKEN)


def open_digits(bundle: TaskBundle, device: str = "cpu") -> Trainer:
    shards = [bundle.blobs[shard.content_id] for shard in bundle.spec.data.shards]
    return open_task(bundle.spec, shards, open_device(device))


@pytest.fixture(scope="module")
def trainer(bundle: TaskBundle) -> Trainer:
    return open_digits(bundle)


@pytest.fixture(scope="module")
def rounds(bundle: TaskBundle, trainer: Trainer) -> list[SimulatedRound]:
    """Every round of the digits task, each payload re-executed by a verifier of its own."""
    weights = bundle.blobs[bundle.spec.initial_weights]
    return list(simulate(trainer, weights, 1, verifier=open_digits(bundle)))


def test_three_miners_learn_the_digits(
    bundle: TaskBundle, trainer: Trainer, rounds: list[SimulatedRound]
) -> None:
    before = trainer.evaluate(bundle.blobs[bundle.spec.initial_weights])
    after = trainer.evaluate(rounds[-1].state.theta)
    assert len(rounds) == bundle.spec.round_count == 36
    assert before.correct_count <= 0.2 * before.row_count
    assert after.correct_count >= 0.95 * after.row_count
    assert after.loss_millinats < 250 < before.loss_millinats


def test_every_honest_gradient_is_within_the_tolerance(rounds: list[SimulatedRound]) -> None:
    for simulated in rounds:
        assert simulated.verdicts == (Verdict.OK,) * 3
        assert all(m.distance_ppb <= 10_000 for m in simulated.measurements)
        assert all(m.exponents is ExponentRule.KEPT for m in simulated.measurements)


def test_order_precision_and_batching_stay_far_below_the_tolerance(
    bundle: TaskBundle, trainer: Trainer, rounds: list[SimulatedRound]
) -> None:
    double = open_digits(bundle)
    double.module.double()
    features, labels = double.dataset.take(np.arange(double.spec.data.row_count))
    double = replace(double, dataset=Dataset(features.double(), labels))
    for simulated in rounds[::5]:
        gradient = decode_gradient(simulated.payloads[0], simulated.headers[0])
        for other in (
            trainer.compute_gradient(simulated.theta, simulated.indices[0][::-1]),
            double.compute_gradient(simulated.theta, simulated.indices[0]).astype(np.float32),
            clip(_one_by_one(trainer, simulated)),
        ):
            measurement = measure(gradient, other)
            assert measurement.exponents is ExponentRule.KEPT
            assert measurement.distance_ppb <= 20_000


def _one_by_one(trainer: Trainer, simulated: SimulatedRound) -> np.ndarray:
    """The unclipped gradient as a mean over parts of 8 samples."""
    load_parameters(trainer.module, simulated.theta)
    rows = np.array([trainer.spec.row_of_sample(i) for i in simulated.indices[0]])
    parts = [
        compute_gradient(trainer.module, trainer.spec.loss, *trainer.dataset.take(part), 8)
        for part in np.split(rows, range(8, len(rows), 8))
    ]
    mean: np.ndarray = np.mean(parts, axis=0, dtype=np.float32)
    return mean


# Lies. Each takes what an honest miner has and gives the payload that it sends instead.


def _encode_clipped(header: GradientHeader, values: np.ndarray) -> bytes:
    return encode_gradient(header, clip(values.astype(np.float32)))


def _lie_about(name: str, trainer: Trainer, rounds: list[SimulatedRound], number: int) -> bytes:
    simulated = rounds[number]
    header, theta, mine = simulated.headers[0], simulated.theta, simulated.indices[0]
    truth = trainer.compute_gradient(theta, mine)
    generator = np.random.Generator(np.random.PCG64(number))
    match name:
        case "another miner's samples":
            return honest(trainer, header, theta, simulated.indices[1])
        case "half of the samples":
            return honest(trainer, header, theta, mine[:64])
        case "one sample skipped":
            return honest(trainer, header, theta, mine[:-1])
        case "the theta of the round before":
            return honest(trainer, header, rounds[number - 1].theta, mine)
        case "halved":
            return _encode_clipped(header, truth / 2)
        case "sign flipped":
            return _encode_clipped(header, -truth)
        case "zero":
            return _encode_clipped(header, truth * 0)
        case "noise":
            return _encode_clipped(header, generator.standard_normal(truth.size))
        case "a tenth of noise":
            noise = generator.standard_normal(truth.size)
            scale = 0.1 * np.linalg.norm(truth) / np.linalg.norm(noise)
            return _encode_clipped(header, truth + noise * scale)
        case "a replayed payload":
            return header.encode() + rounds[number - 1].payloads[0][128:]
        case _:
            raise AssertionError(name)


@pytest.mark.parametrize(
    "lie",
    [
        "another miner's samples",
        "half of the samples",
        "one sample skipped",
        "the theta of the round before",
        "halved",
        "sign flipped",
        "zero",
        "noise",
        "a tenth of noise",
        "a replayed payload",
    ],
)
def test_each_kind_of_lie_is_judged_a_cheat(
    lie: str, trainer: Trainer, rounds: list[SimulatedRound]
) -> None:
    for number in (1, 12, 30):
        simulated = rounds[number]
        measurement = trainer.verify_payload(
            _lie_about(lie, trainer, rounds, number),
            simulated.headers[0],
            simulated.theta,
            simulated.indices[0],
        )
        noise_ppb = max(
            trainer.measure_noise_ppb(
                simulated.theta, simulated.indices[0], CHECK_TRIALS, bytes([number])
            )
        )
        verdict = compute_verdict(replace(measurement, noise_ppb=noise_ppb), 100_000)
        # One sample that the model has learned hardly moves the mean: it is bad at least.
        assert verdict is Verdict.CHEAT or (lie, verdict) == ("one sample skipped", Verdict.BAD)


def test_coarser_exponent_is_detected(trainer: Trainer, rounds: list[SimulatedRound]) -> None:
    """Without the exponent rule, codes on a coarser grid would have distance 0."""
    for simulated in rounds[::9]:
        reference = trainer.compute_gradient(simulated.theta, simulated.indices[0])
        fine = decode_gradient(simulated.payloads[0], simulated.headers[0])
        exponents = (fine.exponents + 2).astype(np.int8)
        steps = np.ldexp(1.0, exponents.astype(np.int32))[:, np.newaxis]
        codes = np.rint(pad_blocks(reference) / steps).astype(np.int8)
        coarse = from_codes(exponents, codes)
        measurement = measure(coarse, reference)
        assert measurement.distance_ppb == 0
        assert compute_verdict(measurement, 100_000) is Verdict.CHEAT


def test_dishonest_miner_does_not_harm_the_training(bundle: TaskBundle, trainer: Trainer) -> None:
    def flip(
        trainer: Trainer, header: GradientHeader, theta: bytes, indices: Sequence[int]
    ) -> bytes:
        return _encode_clipped(header, -trainer.compute_gradient(theta, indices))

    weights = bundle.blobs[bundle.spec.initial_weights]
    rounds = list(simulate(trainer, weights, 2, trainer, {MINERS[1]: flip}))
    assert {simulated.verdicts for simulated in rounds} == {(Verdict.OK, Verdict.CHEAT, Verdict.OK)}
    assert trainer.evaluate(rounds[-1].state.theta).correct_count >= 0.94 * 360


def test_digits_bundle_has_the_recorded_content_ids(bundle: TaskBundle) -> None:
    """Another value here means that a submitter elsewhere would submit another task."""
    assert sha256(b"".join(bundle.blobs.values())).hex() == (
        "351783b7d282a3c1931892aed81063e07f04d1695134d54f3036eb1f609625d0"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees_with_the_cpu(bundle: TaskBundle, rounds: list[SimulatedRound]) -> None:
    gpu = open_digits(bundle, "cuda")
    for simulated in rounds[::3]:
        measurement = gpu.verify_payload(
            simulated.payloads[0], simulated.headers[0], simulated.theta, simulated.indices[0]
        )
        assert compute_verdict(measurement, 100_000) is Verdict.OK
