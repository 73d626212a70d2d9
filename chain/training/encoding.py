"""The payload: a gradient as bytes (docs/spec/training.md, section 4).

Format GQ8, version 1, has a header of 128 bytes that binds the payload to its attempt and miner,
one signed exponent for each block of 256 values, and one signed code for each value:
value = code * 2**exponent. Scales are powers of two,
so decoding, scaling and summing are exact on every machine.
A payload is canonical: decode_gradient accepts only what quantize would have written.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from eth_abi.abi import encode
from numpy.typing import NDArray

from chain.crypto import content_id, keccak256, merkle_leaf, merkle_root
from chain.errors import InvalidGradient, RejectionReason
from chain.primitives import Address, Hash32
from chain.training.attempt import AttemptId

Float32Array = NDArray[np.float32]
"""Parameters or a gradient, flat, in manifest order."""

Float64Array = NDArray[np.float64]
"""The type in which tolerances are computed; none of these values is hashed."""

Int8Array = NDArray[np.int8]
"""Exponents or codes."""

BLOCK_VALUES: Final = 256
"""How many values share an exponent: exponents take 0.4 % of the bytes, the error is 1.3e-2."""

BLOCKS_AT_ONCE: Final = 4_096
"""The blocks that are computed with at a time: all values of a large model would need gigabytes for
what lies between a gradient and its codes."""

EXPONENT_MIN: Final = -36
"""The exponent of a block of zeros, and the least of any block: smaller steps do not matter in a
gradient of norm 1."""

EXPONENT_MAX: Final = -6
"""The exponent of a block that holds 1.0, the largest value of a gradient of norm 1."""

CODE_MAX: Final = 127
"""Codes are symmetric: -128 is invalid."""

CODE_MIN_OF_LARGEST: Final = 64
"""The least value of a block's largest code, unless the exponent is EXPONENT_MIN."""

SATURATION: Final = 127.5
"""From this block maximum on, in steps, rounding would give 128; the exponent is then increased."""

MAX_SQUARED_NORM: Final = 4 << (2 * -EXPONENT_MIN)
"""Norm 2, squared, in units of 2**EXPONENT_MIN: a miner clips to norm 1, and rounding at most
doubles a value."""

MAGIC: Final = b"GQ01"
"""The first bytes of every payload: gradient, quantized, format 1."""

CODEC_INT8: Final = 8
"""The number of bits of a code."""

HEADER: Final = struct.Struct("<4sBBHQIIQ32s32s20sQI")
"""Magic, codec, flags, local steps, parameters, round, step, chain id, theta root, seed, miner,
task, attempt."""

HEADER_BYTES: Final = HEADER.size
"""The length of the header, 128."""

COMMITMENT_DOMAIN: Final = keccak256(b"Proof of Training: gradient commitment, version 1")
"""The first word of a commitment: no other hash of the protocol can be taken for one."""

TRAJECTORY_COMMITMENT_DOMAIN: Final = keccak256(
    b"Proof of Training: gradient commitment with trajectory, version 1"
)
"""The first word of a commitment that covers a trajectory root, too: it has a word more, so none
can be read as the other."""


@dataclass(frozen=True, slots=True)
class GradientHeader:
    """The attempt, the model and the miner that a gradient belongs to.

    A node builds the header from the chain and compares all of its bytes.

    Attributes:
        attempt_id: The attempt.
        parameter_count: d, the number of values without padding.
        chain_id: EIP-155's.
        theta_root: The model root of the parameters at which the gradient was taken.
        seed: The attempt's seed, which determines the samples.
        miner: The miner that computed the gradient.
        local_steps: H, the optimizer steps of a miner in one round.
        step: The 0-based step of the gradient in this payload; None for that of a whole round.
            A round of one step has no other payload.
    """

    attempt_id: AttemptId
    parameter_count: int
    chain_id: int
    theta_root: Hash32
    seed: Hash32
    miner: Address
    local_steps: int = 1
    step: int | None = None

    def encode(self) -> bytes:
        """The 128 bytes that start the payload."""
        return HEADER.pack(
            MAGIC,
            CODEC_INT8,
            0,
            self.local_steps,
            self.parameter_count,
            self.attempt_id.round_number,
            0 if self.step is None else self.step + 1,
            self.chain_id,
            self.theta_root,
            self.seed,
            self.miner,
            self.attempt_id.task_id,
            self.attempt_id.attempt_number,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """A decoded gradient.

    Attributes:
        exponents: int8[blocks].
        codes: int8[blocks, 256], the last block padded with zeros.
        squared_norm: The exact squared norm of the decoded values, in units of
            2**(2 * EXPONENT_MIN).
    """

    exponents: Int8Array
    codes: Int8Array
    squared_norm: int


def count_blocks(parameter_count: int) -> int:
    """The number of blocks needed for that many values."""
    return -(-parameter_count // BLOCK_VALUES)


def count_payload_bytes(parameter_count: int) -> int:
    """The exact length of a payload."""
    return HEADER_BYTES + count_blocks(parameter_count) * (1 + BLOCK_VALUES)


def compute_exponents(maxima: Float64Array) -> NDArray[np.int32]:
    """The exponent of each block, given the largest absolute value `maxima`[block] in it.

    All operations are exact: frexp reads the bits, ldexp writes them.
    """
    _, exponents = np.frexp(maxima)
    exponents = exponents.astype(np.int32) - 7
    exponents += maxima > SATURATION * np.ldexp(1.0, exponents)
    exponents[maxima == 0] = EXPONENT_MIN
    return np.clip(exponents, EXPONENT_MIN, EXPONENT_MAX).astype(np.int32)


def pad_blocks(values: Float32Array) -> Float32Array:
    """`values`, float32[d], as float32[blocks, 256], zeros after the last."""
    padding = count_blocks(values.size) * BLOCK_VALUES - values.size
    return np.pad(values, (0, padding)).reshape(-1, BLOCK_VALUES)


def quantize(gradient: Float32Array) -> tuple[Int8Array, Int8Array]:
    """Exponents int8[blocks] and codes int8[blocks, 256] of `gradient`, float32[d].

    The caller has clipped the gradient to norm 1; all its values are finite.
    """
    block_count = count_blocks(gradient.size)
    exponents = np.empty(block_count, np.int8)
    codes = np.empty((block_count, BLOCK_VALUES), np.int8)
    for first in range(0, block_count, BLOCKS_AT_ONCE):
        some = slice(first, first + BLOCKS_AT_ONCE)
        values = gradient[first * BLOCK_VALUES : (first + BLOCKS_AT_ONCE) * BLOCK_VALUES]
        blocks = pad_blocks(values)
        maxima = np.abs(blocks).max(axis=1)
        assert np.all(maxima <= 1.0), "clip the gradient to norm 1 first"  # NaN fails this as well
        found = compute_exponents(maxima.astype(np.float64))
        scales = np.ldexp(np.float32(1), -found)[:, np.newaxis]
        exponents[some] = found
        codes[some] = np.clip(np.rint(blocks * scales), -CODE_MAX, CODE_MAX)
    return exponents, codes


def encode_gradient(header: GradientHeader, gradient: Float32Array) -> bytes:
    """The payload of `gradient`, float32[header.parameter_count], clipped to norm 1."""
    assert gradient.shape == (header.parameter_count,)
    exponents, codes = quantize(gradient)
    return header.encode() + exponents.tobytes() + codes.tobytes()


def decode_gradient(payload: bytes, expected: GradientHeader) -> Gradient:
    """The gradient in `payload`; its header must be `expected`.

    Raises:
        InvalidGradient: The length or the header is wrong, a code or an exponent is not canonical,
            or the norm exceeds 2.
    """
    size = count_payload_bytes(expected.parameter_count)
    if len(payload) != size:
        raise InvalidGradient(
            RejectionReason.BAD_GRADIENT, f"{len(payload)} bytes instead of {size}"
        )
    validate_header(payload[:HEADER_BYTES], expected)
    block_count = count_blocks(expected.parameter_count)
    exponents = np.frombuffer(payload, np.int8, block_count, HEADER_BYTES)
    flat = np.frombuffer(payload, np.int8, -1, HEADER_BYTES + block_count)
    codes = flat.reshape(-1, BLOCK_VALUES)
    gradient = decode_blocks(exponents, codes, expected.parameter_count)
    validate_norm(gradient.squared_norm)
    return gradient


def decode_blocks(exponents: Int8Array, codes: Int8Array, parameter_count: int) -> Gradient:
    """A gradient, or a part of one, that must be in canonical form.

    Args:
        exponents: int8[blocks].
        codes: int8[blocks, 256].
        parameter_count: The number of values in these blocks; what follows is padding.

    Raises:
        InvalidGradient: A code or an exponent is not canonical.
    """
    _validate_codes(exponents, codes, parameter_count)
    return from_codes(exponents, codes)


def validate_norm(squared_norm: int) -> None:
    """Refuse a gradient with this squared norm, in units of 2**(2 * EXPONENT_MIN).

    Raises:
        InvalidGradient: The norm exceeds 2.
    """
    if squared_norm > MAX_SQUARED_NORM:
        raise InvalidGradient(RejectionReason.BAD_GRADIENT, "the norm exceeds 2")


def validate_header(start: bytes, expected: GradientHeader) -> None:
    """Refuse a payload that starts with other bytes than the expected header.

    Raises:
        InvalidGradient: The header differs.
    """
    if start != expected.encode():
        raise InvalidGradient(RejectionReason.BAD_GRADIENT, _describe_header(start, expected))


def from_codes(exponents: Int8Array, codes: Int8Array) -> Gradient:
    """The gradient of canonical `exponents` int8[blocks] and `codes` int8[blocks, 256]."""
    squares = np.empty(len(exponents), np.int64)
    for first in range(0, len(exponents), BLOCKS_AT_ONCE):
        some = slice(first, first + BLOCKS_AT_ONCE)
        squares[some] = np.square(codes[some], dtype=np.int32).sum(axis=1)
    # Summed by exponent first, so that Python's integers see at most 31 terms.
    norm = sum(
        int(squares[exponents == exponent].sum()) << (2 * (exponent - EXPONENT_MIN))
        for exponent in range(EXPONENT_MIN, EXPONENT_MAX + 1)
    )
    return Gradient(exponents, codes, norm)


def _validate_codes(exponents: Int8Array, codes: Int8Array, parameter_count: int) -> None:
    if np.any(exponents < EXPONENT_MIN) or np.any(exponents > EXPONENT_MAX):
        raise InvalidGradient(RejectionReason.BAD_GRADIENT, "an exponent is out of range")
    if np.any(codes == -CODE_MAX - 1):
        raise InvalidGradient(RejectionReason.BAD_GRADIENT, "a code is -128")
    if np.any(codes.reshape(-1)[parameter_count:]):
        raise InvalidGradient(RejectionReason.BAD_GRADIENT, "the padding is not zero")
    largest = np.abs(codes).max(axis=1)
    if np.any((largest < CODE_MIN_OF_LARGEST) & (exponents > EXPONENT_MIN)):
        raise InvalidGradient(RejectionReason.BAD_GRADIENT, "a block's exponent is not canonical")


def _describe_header(start: bytes, expected: GradientHeader) -> str:
    names = (
        *("magic", "codec", "flags", "local_steps", "parameter_count", "round", "step"),
        *("chain_id", "theta_root", "seed", "miner", "task", "attempt"),
    )
    got = HEADER.unpack_from(start)
    wanted = HEADER.unpack(expected.encode())
    differing = [name for name, x, y in zip(names, got, wanted, strict=True) if x != y]
    return f"the header's {', '.join(differing)} differs"


def compute_gradient_root(payload: bytes) -> Hash32:
    """The content id of a payload; the commitment binds it."""
    return content_id(payload)


def compute_trajectory_root(step_roots: Sequence[Hash32]) -> Hash32:
    """The root of RFC 6962's tree over the gradient roots of all steps of a round, in order."""
    return merkle_root([merkle_leaf(root) for root in step_roots])


def compute_commitment(
    header: GradientHeader,
    gradient_root: Hash32,
    salt: Hash32,
    units: int,
    trajectory_root: Hash32 | None = None,
) -> Hash32:
    """The commitment that a miner posts on the chain before it reveals its gradient.

    keccak256(abi.encode(DOMAIN, chainId, task, round, attempt, miner, thetaRoot, gradientRoot,
    salt, units)); with a trajectory root, which follows the gradient root, under a domain of its
    own.

    Args:
        header: The header of the gradient's payload.
        gradient_root: The content id of the payload.
        salt: The random bytes that keep the gradient from being guessed.
        units: The units of the miner in this attempt.
        trajectory_root: The root over the gradients of all steps; None in a round of one step, for
            which the gradient root says the same.
    """
    assert (trajectory_root is None) == (header.local_steps == 1)
    roots = [gradient_root] if trajectory_root is None else [gradient_root, trajectory_root]
    types = ["bytes32", "uint256", "uint256", "uint256", "uint256", "address", "bytes32"]
    words = encode(
        [*types, *["bytes32"] * len(roots), "bytes32", "uint256"],
        [
            COMMITMENT_DOMAIN if trajectory_root is None else TRAJECTORY_COMMITMENT_DOMAIN,
            header.chain_id,
            header.attempt_id.task_id,
            header.attempt_id.round_number,
            header.attempt_id.attempt_number,
            header.miner,
            header.theta_root,
            *roots,
            salt,
            units,
        ],
    )
    return keccak256(words)
