"""A test that this machine computes the protocol's numbers (docs/spec/training.md, section 7).

It compares decoding, aggregation and every optimizer with known answers. A node runs it at start: a
validator that computes other bits would vote for roots that no other validator finds.
"""

from collections.abc import Iterator
from itertools import count, islice
from typing import Final

from chain.crypto import sha256
from chain.primitives import Address, Hash32, TaskId
from chain.training.aggregation import aggregate
from chain.training.attempt import AttemptId
from chain.training.encoding import (
    BLOCK_VALUES,
    EXPONENT_MIN,
    Gradient,
    GradientHeader,
    count_blocks,
    decode_gradient,
)
from chain.training.optimizer import apply_update, initial_state
from chain.training.task_spec import (
    AdamW,
    Aggregator,
    Optimizer,
    Sgd,
)

PARAMETER_COUNT: Final = 5_000
"""Twenty blocks, the last one partly padding: vectorized loops and their tails both run."""

ROUND_COUNT: Final = 3
"""Enough rounds for every state tensor to be read after it was written."""

GRADIENT_COUNT: Final = 5
"""Enough gradients for the median to clip some of them."""

OPTIMIZERS: Final[tuple[Optimizer, ...]] = (
    Sgd(momentum_bits=0),
    Sgd(momentum_bits=0x3F666666),
    AdamW(
        beta1_bits=0x3F666666,
        beta2_bits=0x3F7FBE77,
        epsilon_bits=0x322BCC77,
        weight_decay_bits=0x3C23D70A,
    ),
)
"""Momentum 0.9; betas 0.9 and 0.999, epsilon 1e-8, weight decay 0.01."""

EXPECTED: Final = "ed287f3274a39ec818f03b77188705ed5a5c4d9e79b03bd4e1530119df357de4"
"""SHA-256 over the states after every aggregator, optimizer and round, in that order."""


class WrongNumbersError(Exception):
    """This machine's arithmetic is not the protocol's; it must not validate."""


def run_self_test() -> None:
    """Compare what this machine computes with the known answers.

    Raises:
        WrongNumbersError: A bit differs.
    """
    if (digest := compute_self_test_digest()) != EXPECTED:
        message = (
            f"self-test of the training arithmetic gave {digest[:16]} instead of {EXPECTED[:16]}: "
            "this machine, or this build of numpy, rounds differently; reinstall numpy from its "
            "official wheel and unset variables that change its floating-point mode"
        )
        raise WrongNumbersError(message)


def compute_self_test_digest() -> str:
    """The hash, in hex, of everything that the test computes."""
    states = []
    for aggregator in Aggregator:
        for optimizer in OPTIMIZERS:
            state = initial_state(optimizer, _build_theta())
            for round_number in range(ROUND_COUNT):
                gradients = [
                    (miner + 1, _build_gradient(round_number, miner))
                    for miner in range(GRADIENT_COUNT)
                ]
                mean = aggregate(aggregator, PARAMETER_COUNT, gradients)
                state = apply_update(optimizer, 20_000_000 + round_number, state, mean)
                states.append(b"".join(state.parts))
    return sha256(b"".join(states)).hex()


def _stream(label: str) -> Iterator[int]:
    """An endless stream of bytes that depends on `label` alone."""
    for i in count():
        yield from sha256(f"{label} {i}".encode())


def _build_theta() -> bytes:
    """Finite float32 patterns of both signs with magnitudes from 2**-8 to just below 1."""
    stream = _stream("theta")
    values = bytearray()
    for _ in range(PARAMETER_COUNT):
        low, middle, high, sign = islice(stream, 4)
        exponent = 119 + high % 8
        pattern = (sign & 1) << 31 | exponent << 23 | (high >> 3) << 16 | middle << 8 | low
        values += pattern.to_bytes(4, "little")
    return bytes(values)


def _build_gradient(round_number: int, miner: int) -> Gradient:
    """A canonical payload with every exponent, zero blocks, and norms that differ by miner."""
    header = GradientHeader(
        attempt_id=AttemptId(TaskId(1), round_number, attempt_number=0),
        parameter_count=PARAMETER_COUNT,
        chain_id=1,
        theta_root=Hash32(bytes(32)),
        seed=Hash32(bytes(32)),
        miner=Address(bytes(20)),
    )
    stream = _stream(f"gradient {round_number} {miner}")
    exponents, codes = bytearray(), bytearray()
    for block in range(count_blocks(PARAMETER_COUNT)):
        block_codes = [code - 256 if code > 128 else code % 128 for code in islice(stream, 256)]
        block_codes[0] = 127
        if block % 7 == 6:
            block_codes = [0] * BLOCK_VALUES
        used = min(BLOCK_VALUES, PARAMETER_COUNT - block * BLOCK_VALUES)
        block_codes[used:] = [0] * (BLOCK_VALUES - used)
        exponent = EXPONENT_MIN if block % 7 == 6 else EXPONENT_MIN + (5 * block + miner) % 26
        exponents.append(exponent & 0xFF)
        codes += bytes(code & 0xFF for code in block_codes)
    return decode_gradient(header.encode() + bytes(exponents) + bytes(codes), header)
