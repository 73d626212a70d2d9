"""How many units this machine computes in time, measured before a bond is paid.

A seat owes the same units in every attempt, so a miner that takes more than it can compute within
the commitment phase misses attempts until its bonds are gone (docs/spec/training.md, 10.2).
"""

import secrets
import time
from collections.abc import Callable
from typing import Final

from chain.crypto import content_id
from chain.primitives import Address, Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader
from chain.training.task_checks import compute_work_milliseconds
from chain.training.task_spec import TaskSpec
from miner.builder import PayloadBuilder
from pot_common.rpc_replies import ClientError
from pot_common.samples import compute_samples

LEAST_SECONDS: Final = 1e-3
"""A shorter measured time counts as this, so that no division is by 0."""


class UnitTrial:
    """Computes gradients of one task that go nowhere, to see how long they take."""

    def __init__(self, task: TaskId, spec: TaskSpec, builder: PayloadBuilder) -> None:
        self._task = task
        self._spec = spec
        self._builder = builder

    def count_units(self, wanted: int, fetch_theta: Callable[[], bytes]) -> int:
        """The units, at most `wanted`, that fit into the commitment phase with the model.

        At least half of the phase is for blocks, and for times when the machine is slower. One unit
        is computed first, which also warms the machine up, and then as many as may fit.

        Args:
            wanted: The units that the operator allows.
            fetch_theta: Fetches the model of the task's next round.

        Raises:
            ClientError: Not even one unit fits, or it does not fit into the memory.
        """
        started = time.monotonic()
        theta = fetch_theta()
        model_seconds = time.monotonic() - started
        seconds = self._spec.phases.commit_seconds
        allowed = compute_work_milliseconds(seconds) / 1_000
        left = allowed - model_seconds
        units = min(wanted, max(1, int(left / self._measure(1, theta))))
        measured = self._measure(units, theta)
        if measured <= left:
            return units
        units = int(units * left / measured)
        if units < 1:
            raise ClientError(
                f"task {self._task} could cost you the bond: this machine takes "
                f"{model_seconds:.1f} s to fetch the model and {measured:.1f} s to compute, and "
                f"commit_seconds {seconds} leaves {allowed:.1f} s for both; take another task, or "
                "compute on another --device or with more --threads"
            )
        return units

    def _measure(self, units: int, theta: bytes) -> float:
        """The seconds that this machine takes to compute so many units.

        The samples are drawn at random, so that the task's author cannot prepare easy ones.
        """
        spec = self._spec
        header = GradientHeader(
            attempt_id=AttemptId(self._task, 0, 0),
            parameter_count=count_parameters(spec.model),
            chain_id=0,
            theta_root=content_id(theta),
            seed=Hash32(secrets.token_bytes(32)),
            miner=Address(bytes(20)),
        )
        count = units * spec.samples_per_unit
        started = time.monotonic()
        samples = compute_samples(header.seed, spec.sample_count, 0, count).tolist()
        try:
            self._builder.build_payload(header, theta, samples)
        except (MemoryError, RuntimeError) as error:
            # torch raises RuntimeError if a device has too little memory.
            raise ClientError(
                f"task {self._task} cannot be computed on this machine: {error}"
            ) from error
        return max(time.monotonic() - started, LEAST_SECONDS)
