"""A miner that lies about its gradients: the real miner with another gradient put in.

    python -m tests.tools.lying_miner MODE [arguments of `python -m miner`]

MODE is one of
    flip   the negated gradient, as an attacker sends it to make the model worse
    stale  the gradient on other samples than assigned, so the assigned work was not done
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from chain.training.encoding import GradientHeader, encode_gradient
from chain.training.task_spec import TaskSpec
from miner.__main__ import load_task_opener, main
from miner.builder import OpenTask
from miner.trainer import Trainer
from pot_common.miner_options import MinerOptions

Lie = Callable[[Trainer, GradientHeader, bytes, Sequence[int]], bytes]


def flip(trainer: Trainer, header: GradientHeader, theta: bytes, samples: Sequence[int]) -> bytes:
    return encode_gradient(header, -trainer.compute_gradient(theta, samples))


def stale(trainer: Trainer, header: GradientHeader, theta: bytes, samples: Sequence[int]) -> bytes:
    others = [(index + 1) % trainer.spec.sample_count for index in samples]
    return trainer.build_payload(header, theta, others)


LIES: dict[str, Lie] = {"flip": flip, "stale": stale}


class LyingTrainer:
    def __init__(self, honest: Trainer, lie: Lie) -> None:
        self._honest = honest
        self._lie = lie

    def build_payload(self, header: GradientHeader, theta: bytes, samples: Sequence[int]) -> bytes:
        return self._lie(self._honest, header, theta, samples)


def lie_with(lie: Lie) -> Callable[[MinerOptions], OpenTask]:
    def load(options: MinerOptions) -> OpenTask:
        open_honest = load_task_opener(options)

        def open_task(spec: TaskSpec, shards: Sequence[Path]) -> LyingTrainer:
            honest = open_honest(spec, shards)
            assert isinstance(honest, Trainer)
            return LyingTrainer(honest, lie)

        return open_task

    return load


if __name__ == "__main__":
    main(sys.argv[2:], lie_with(LIES[sys.argv[1]]))
