"""Training rounds without a chain: miners, verifier and aggregation in one process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from chain.crypto import sha256
from chain.primitives import Address, Hash32, TaskId
from chain.training.acceptance import Measurement, Verdict, compute_verdict
from chain.training.aggregation import aggregate
from chain.training.architectures import count_parameters
from chain.training.assignment import assign, compute_seed
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader, decode_gradient
from chain.training.optimizer import apply_update, initial_state
from chain.training.state import TrainingState, compute_model_root
from chain.training.task_spec import compute_learning_rate_ppb
from miner.trainer import Trainer

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
        assignment = assign(
            seed,
            [(miner, 1) for miner in MINERS],
            spec.sample_count,
            spec.samples_per_unit,
            spec.reward.max_units,
        )
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
