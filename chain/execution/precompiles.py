"""Prague's precompiled contracts, by address (docs/spec/state-transition.md, section 8).

py-evm computes several of them in Python, too slowly for their gas. Here they run in native
libraries at Prague's gas, so that a block full of them stays above the lowest accepted execution
speed: BLS12-381 in arkworks, BLAKE2 in Rust and MODEXP in GMP. No library with wheels supports
BN254; chain.execution.bn254 implements it on GMP.

Deviations from stock py-evm, where it is wrong or unbounded:
    MODEXP with an empty base is 0 to the power of the exponent, not always 0.
    The trusted setup of the point evaluation is loaded once, not for every call.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import blake2b
import ckzg
from eth.abc import ComputationAPI
from eth.exceptions import VMError
from eth.precompiles.bls12_381 import constants as bls_gas
from eth.precompiles.point_evaluation import TRUSTED_SETUP_PATH
from eth.vm.forks.prague.computation import PRAGUE_PRECOMPILES
from gmpy2 import mpz, powmod
from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from chain.execution import bn254
from chain.primitives import Address

Precompile = Callable[[ComputationAPI], object]
"""Charges gas, reads the message's data, and sets the output or raises a VMError."""

GAS_POINT_EVALUATION: Final = 50_000
"""EIP-4844."""

GAS_MODEXP_LEAST: Final = 200
"""EIP-2565."""

BLAKE2F_BYTES: Final = 213
"""EIP-152: rounds, state, message, counters and final flag."""

GAS_BN254_ADD: Final = 150
"""EIP-1108."""

GAS_BN254_MULTIPLY: Final = 6_000
"""EIP-1108."""

GAS_BN254_PAIRING_BASE: Final = 45_000
"""EIP-1108: the base price of a pairing check."""

GAS_BN254_PAIRING_PAIR: Final = 34_000
"""EIP-1108: the price of every pair."""

GAS_PAIRING_BASE: Final = 37_700
"""EIP-2537: the base price of a BLS12-381 pairing check."""

GAS_PAIRING_PAIR: Final = 32_600
"""EIP-2537: the price of every pair."""

POINT_EVALUATION_OUTPUT: Final = (4096).to_bytes(32, "big") + bytes.fromhex(
    "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001"
)
"""EIP-4844: the number of field elements in a blob, and the order of the field."""

_TRUE: Final = (1).to_bytes(32, "big")
_FALSE: Final = bytes(32)


def _modexp(computation: ComputationAPI) -> None:
    data: bytes = computation.msg.data_as_bytes

    def read(start: int, length: int) -> bytes:
        # Bytes past the end count as zero. Long input is padded only after its gas was charged.
        return data[start : start + length].ljust(length, b"\0")

    base_length, exponent_length, modulus_length = (
        int.from_bytes(read(start, 32), "big") for start in (0, 32, 64)
    )
    head_length = min(32, exponent_length)
    head = int.from_bytes(read(96 + base_length, head_length), "big")
    iterations = max(1, max(0, head.bit_length() - 1) + 8 * (exponent_length - head_length))
    words = (max(base_length, modulus_length) + 7) // 8
    computation.consume_gas(max(GAS_MODEXP_LEAST, words**2 * iterations // 3), reason="MODEXP")
    if modulus_length == 0:
        computation.output = b""
        return
    base = int.from_bytes(read(96, base_length), "big")
    exponent = int.from_bytes(read(96 + base_length, exponent_length), "big")
    modulus = int.from_bytes(read(96 + base_length + exponent_length, modulus_length), "big")
    # GMP, because Python's own pow is slow for a long exponent and a short modulus.
    result = int(powmod(base, exponent, modulus)) if modulus else 0
    computation.output = result.to_bytes(modulus_length, "big")


def _blake2f(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    if len(data) != BLAKE2F_BYTES or data[-1] > 1:
        raise VMError("BLAKE2: not 213 bytes, or a final flag above 1")
    computation.consume_gas(int.from_bytes(data[:4], "big"), reason="BLAKE2 rounds")
    computation.output = bytes(blake2b.decode_and_compress(data))


def run_precompile(precompile: Precompile, computation: ComputationAPI) -> None:
    """Run a precompile; a panic of a library in Rust counts as a refusal of the input.

    Raises:
        VMError: The precompile refuses its input or runs out of gas.
    """
    try:
        precompile(computation)
    except BaseException as error:
        # Each library in Rust has an exception class of its own for this, with no common base.
        if type(error).__name__ != "PanicException":
            raise
        raise VMError(f"panic: {error}") from None


@lru_cache(maxsize=1)
def load_trusted_setup() -> object:
    """The points of the KZG ceremony. Loading takes seconds, so a node does it once, at start."""
    return ckzg.load_trusted_setup(TRUSTED_SETUP_PATH, 0)


def _point_evaluation(computation: ComputationAPI) -> None:
    computation.consume_gas(GAS_POINT_EVALUATION, reason="point evaluation")
    data = computation.msg.data_as_bytes
    if len(data) != 192:
        raise VMError("point evaluation: not 192 bytes")
    versioned_hash, z, y = data[:32], data[32:64], data[64:96]
    commitment, proof = data[96:144], data[144:]
    if versioned_hash != b"\x01" + hashlib.sha256(commitment).digest()[1:]:
        raise VMError("point evaluation: another commitment's hash")
    try:
        is_right = ckzg.verify_kzg_proof(commitment, z, y, proof, load_trusted_setup())
    except RuntimeError as error:
        raise VMError("point evaluation: not field elements or points") from error
    if not is_right:
        raise VMError("point evaluation: the proof is wrong")
    computation.output = POINT_EVALUATION_OUTPUT


def _bn254_word(data: bytes, index: int) -> mpz:
    """The index-th word as a coordinate; bytes past the end count as zero."""
    value = mpz.from_bytes(data[32 * index : 32 * index + 32].ljust(32, b"\0"), "big")
    if value >= bn254.P:
        raise VMError("BN254: a coordinate above the modulus")
    return value


def _bn254_g1(data: bytes, index: int) -> bn254.G1:
    x, y = _bn254_word(data, index), _bn254_word(data, index + 1)
    if x == 0 and y == 0:
        return None
    if not bn254.is_on_curve(x, y):
        raise VMError("BN254: not on the curve")
    return x, y


def _bn254_g2(data: bytes, index: int) -> bn254.G2:
    # EIP-197 puts the coefficient of i first.
    x1, x0, y1, y0 = (_bn254_word(data, index + k) for k in range(4))
    x, y = (x0, x1), (y0, y1)
    if not (x0 or x1 or y0 or y1):
        return None
    if not bn254.is_on_twist(x, y) or not bn254.is_in_subgroup((x, y)):
        raise VMError("BN254: not a point of G2")
    return x, y


def _bn254_output(point: bn254.G1) -> bytes:
    return bytes(64) if point is None else b"".join(int(c).to_bytes(32, "big") for c in point)


def _bn254_add(computation: ComputationAPI) -> None:
    computation.consume_gas(GAS_BN254_ADD, reason="BN254 addition")
    data = computation.msg.data_as_bytes
    total = bn254.add_g1(_bn254_g1(data, 0), _bn254_g1(data, 2))
    computation.output = _bn254_output(total)


def _bn254_multiply(computation: ComputationAPI) -> None:
    computation.consume_gas(GAS_BN254_MULTIPLY, reason="BN254 multiplication")
    data = computation.msg.data_as_bytes
    scalar = int.from_bytes(data[64:96].ljust(32, b"\0"), "big")
    computation.output = _bn254_output(bn254.multiply_g1(_bn254_g1(data, 0), scalar))


def _bn254_pairing(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    if len(data) % 192:
        raise VMError("BN254: not a multiple of 192 bytes")
    count = len(data) // 192
    computation.consume_gas(
        GAS_BN254_PAIRING_BASE + count * GAS_BN254_PAIRING_PAIR, reason="BN254 pairing"
    )
    pairs = [(_bn254_g1(data, 6 * k), _bn254_g2(data, 6 * k + 2)) for k in range(count)]
    computation.output = _TRUE if bn254.is_pairing_product_one(pairs) else _FALSE


def _field(data: bytes) -> bytes:
    """The 48 significant bytes of a 64-byte coordinate."""
    if any(data[:16]):
        raise VMError("BLS12-381: a coordinate above the modulus")
    return data[16:]


def _g1(data: bytes, *, check_subgroup: bool) -> G1Point:
    encoded = _field(data[:64]) + _field(data[64:128])
    decode = G1Point.from_xy_bytes_be if check_subgroup else G1Point.from_xy_bytes_unchecked_be
    try:
        return decode(encoded)
    except ValueError as error:
        raise VMError("BLS12-381: not a point of G1") from error


def _g2(data: bytes, *, check_subgroup: bool) -> G2Point:
    encoded = b"".join(_field(data[start : start + 64]) for start in range(0, 256, 64))
    decode = G2Point.from_xy_bytes_be if check_subgroup else G2Point.from_xy_bytes_unchecked_be
    try:
        return decode(encoded)
    except ValueError as error:
        raise VMError("BLS12-381: not a point of G2") from error


def _pad_coordinates(encoded: bytes) -> bytes:
    return b"".join(bytes(16) + encoded[start : start + 48] for start in range(0, len(encoded), 48))


def _count(data: bytes, size: int) -> int:
    """The number of parts of `size` bytes, which must be whole; there must be one at least."""
    if not data or len(data) % size:
        raise VMError(f"BLS12-381: not a multiple of {size} bytes")
    return len(data) // size


def _slices(data: bytes, size: int) -> list[bytes]:
    """The parts of `size` bytes; to be called when they are paid for, because there may be many."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def _require_length(data: bytes, length: int) -> None:
    if len(data) != length:
        raise VMError(f"BLS12-381: not {length} bytes")


def _g1_add(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    _require_length(data, 256)
    computation.consume_gas(bls_gas.BLS12_G1_ADD_GAS, reason="G1 addition")
    total = _g1(data[:128], check_subgroup=False) + _g1(data[128:], check_subgroup=False)
    computation.output = _pad_coordinates(total.to_xy_bytes_be())


def _g2_add(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    _require_length(data, 512)
    computation.consume_gas(bls_gas.BLS12_G2_ADD_GAS, reason="G2 addition")
    total = _g2(data[:256], check_subgroup=False) + _g2(data[256:], check_subgroup=False)
    computation.output = _pad_coordinates(total.to_xy_bytes_be())


def _msm_gas(count: int, gas: int, discounts: list[int], least_discount: int) -> int:
    discount = discounts[count - 1] if count <= len(discounts) else least_discount
    return count * gas * discount // 1000


def _g1_msm(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    computation.consume_gas(
        _msm_gas(
            _count(data, 160),
            bls_gas.BLS12_G1_MSM_GAS,
            bls_gas.G1_MSM_DISCOUNTS,
            bls_gas.G1_MSM_MAX_DISCOUNT,
        ),
        reason="G1 multi-scalar multiplication",
    )
    pairs = _slices(data, 160)
    points = [_g1(pair[:128], check_subgroup=True) for pair in pairs]
    scalars = [Scalar.from_be_bytes_mod_order(pair[128:]) for pair in pairs]
    total = G1Point.multiexp_unchecked(points, scalars)
    computation.output = _pad_coordinates(total.to_xy_bytes_be())


def _g2_msm(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    computation.consume_gas(
        _msm_gas(
            _count(data, 288),
            bls_gas.BLS12_G2_MSM_GAS,
            bls_gas.G2_MSM_DISCOUNTS,
            bls_gas.G2_MSM_MAX_DISCOUNT,
        ),
        reason="G2 multi-scalar multiplication",
    )
    pairs = _slices(data, 288)
    points = [_g2(pair[:256], check_subgroup=True) for pair in pairs]
    scalars = [Scalar.from_be_bytes_mod_order(pair[256:]) for pair in pairs]
    total = G2Point.multiexp_unchecked(points, scalars)
    computation.output = _pad_coordinates(total.to_xy_bytes_be())


def _pairing_check(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    count = _count(data, 384)
    computation.consume_gas(GAS_PAIRING_BASE + GAS_PAIRING_PAIR * count, reason="pairing")
    pairs = _slices(data, 384)
    g1_points = [_g1(pair[:128], check_subgroup=True) for pair in pairs]
    g2_points = [_g2(pair[128:], check_subgroup=True) for pair in pairs]
    computation.output = _TRUE if GT.pairing_check(g1_points, g2_points) else _FALSE


def _map_to_g1(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    _require_length(data, 64)
    computation.consume_gas(bls_gas.BLS12_MAP_FP_G1_GAS, reason="map to G1")
    try:
        point = G1Point.map_from_fp_be(_field(data))
    except ValueError as error:
        raise VMError("BLS12-381: a coordinate above the modulus") from error
    computation.output = _pad_coordinates(point.to_xy_bytes_be())


def _map_to_g2(computation: ComputationAPI) -> None:
    data = computation.msg.data_as_bytes
    _require_length(data, 128)
    computation.consume_gas(bls_gas.BLS12_MAP_FP2_G2_GAS, reason="map to G2")
    try:
        point = G2Point.map_from_fp2_be(_field(data[:64]) + _field(data[64:]))
    except ValueError as error:
        raise VMError("BLS12-381: a coordinate above the modulus") from error
    computation.output = _pad_coordinates(point.to_xy_bytes_be())


def _at(number: int) -> Address:
    return Address(number.to_bytes(20, "big"))


PRECOMPILES: Final[Mapping[Address, Precompile]] = {
    **{Address(address): precompile for address, precompile in PRAGUE_PRECOMPILES.items()},
    _at(0x05): _modexp,
    _at(0x06): _bn254_add,
    _at(0x07): _bn254_multiply,
    _at(0x08): _bn254_pairing,
    _at(0x09): _blake2f,
    _at(0x0A): _point_evaluation,
    _at(0x0B): _g1_add,
    _at(0x0C): _g1_msm,
    _at(0x0D): _g2_add,
    _at(0x0E): _g2_msm,
    _at(0x0F): _pairing_check,
    _at(0x10): _map_to_g1,
    _at(0x11): _map_to_g2,
}
"""The precompiled contracts by address, 0x01 to 0x11."""
