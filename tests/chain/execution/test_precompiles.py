"""Native precompiles against py-evm's own, in output, gas and failure."""

import hashlib
import random
from types import SimpleNamespace

import pytest
from eth.exceptions import VMError
from eth.vm.forks.prague.computation import PRAGUE_PRECOMPILES
from eth.vm.gas_meter import GasMeter
from py_ecc.optimized_bls12_381 import G1, G2, curve_order, field_modulus, multiply, normalize
from py_ecc.optimized_bn128 import G1 as BN_G1
from py_ecc.optimized_bn128 import G2 as BN_G2
from py_ecc.optimized_bn128 import curve_order as bn_order
from py_ecc.optimized_bn128 import field_modulus as bn_modulus
from py_ecc.optimized_bn128 import multiply as bn_multiply
from py_ecc.optimized_bn128 import neg as bn_neg
from py_ecc.optimized_bn128 import normalize as bn_normalize

from chain.execution import precompiles
from chain.execution.precompiles import PRECOMPILES, run_precompile


def run(table: dict, number: int, data: bytes, gas: int = 10**9) -> tuple:
    """The output and gas, or the fact that it failed."""
    meter = GasMeter(gas)
    computation = SimpleNamespace(
        msg=SimpleNamespace(data=data, data_as_bytes=data),
        consume_gas=lambda amount, reason="": meter.consume_gas(amount, reason),
        output=b"",
        logger=SimpleNamespace(show_debug2=False),
    )
    try:
        table[number.to_bytes(20, "big")](computation)
    except VMError:
        return ("failed",)
    return computation.output, gas - meter.gas_remaining


def coordinates(point: tuple, size: int) -> bytes:
    values = []
    for coordinate in normalize(point) if size == 64 else bn_normalize(point):
        parts = getattr(coordinate, "coeffs", (coordinate,))
        # EIP-2537 puts c0 first, EIP-197 c1.
        values += [int(part) for part in (parts if size == 64 else reversed(parts))]
    return b"".join(value.to_bytes(size, "big") for value in values)


def bls_g1(scalar: int) -> bytes:
    return coordinates(multiply(G1, scalar), 64) if scalar % curve_order else bytes(128)


def bls_g2(scalar: int) -> bytes:
    return coordinates(multiply(G2, scalar), 64) if scalar % curve_order else bytes(256)


def bn_g1(scalar: int) -> bytes:
    return coordinates(bn_multiply(BN_G1, scalar), 32) if scalar % bn_order else bytes(64)


def bn_g2(scalar: int) -> bytes:
    return coordinates(bn_multiply(BN_G2, scalar), 32) if scalar % bn_order else bytes(128)


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


RANDOM = random.Random(7)
BIG = RANDOM.getrandbits(256)
# On the curve y^2 = x^3 + 4, but not in the subgroup of prime order.
OFF_SUBGROUP_Y = pow(68, (field_modulus + 1) // 4, field_modulus)
OFF_SUBGROUP = (4).to_bytes(64, "big") + OFF_SUBGROUP_Y.to_bytes(64, "big")


def modexp(base: bytes, exponent: bytes, modulus: bytes) -> bytes:
    return word(len(base)) + word(len(exponent)) + word(len(modulus)) + base + exponent + modulus


CASES = {
    "G1 add": (0x0B, bls_g1(3) + bls_g1(5)),
    "G1 add off the subgroup": (0x0B, OFF_SUBGROUP + bls_g1(5)),
    "G1 add infinity": (0x0B, bls_g1(0) + bls_g1(5)),
    "G1 add opposite": (0x0B, bls_g1(5) + bls_g1(-5 % curve_order)),
    "G1 double": (0x0B, bls_g1(5) * 2),
    "G1 add off the curve": (0x0B, bls_g1(3) + word(0) + word(1) + word(0) + word(1)),
    "G1 add above the modulus": (
        0x0B,
        bls_g1(3) + field_modulus.to_bytes(64, "big") + bytes(64),
    ),
    "G1 add padding not zero": (0x0B, b"\x01" + bls_g1(3)[1:] + bls_g1(5)),
    "G1 add short": (0x0B, bls_g1(3)),
    "G1 msm": (0x0C, bls_g1(3) + word(BIG) + bls_g1(9) + word(2**256 - 1)),
    "G1 msm one by zero": (0x0C, bls_g1(3) + word(0)),
    "G1 msm infinity": (0x0C, bls_g1(0) + word(7)),
    "G1 msm off the subgroup": (0x0C, OFF_SUBGROUP + word(1)),
    "G1 msm empty": (0x0C, b""),
    "G2 add": (0x0D, bls_g2(3) + bls_g2(5)),
    "G2 add infinity": (0x0D, bls_g2(0) + bls_g2(0)),
    "G2 add off the curve": (0x0D, bls_g2(3) + b"\x00" * 63 + b"\x01" + bytes(192)),
    "G2 msm": (0x0E, bls_g2(3) + word(BIG) + bls_g2(9) + word(curve_order)),
    "pairing that holds": (
        0x0F,
        bls_g1(6) + bls_g2(5) + bls_g1(-30 % curve_order) + bls_g2(1),
    ),
    "pairing that does not": (0x0F, bls_g1(6) + bls_g2(5)),
    "pairing with infinity": (0x0F, bls_g1(0) + bls_g2(5)),
    "pairing empty": (0x0F, b""),
    "pairing off the subgroup": (0x0F, OFF_SUBGROUP + bls_g2(1)),
    "map to G1": (0x10, (BIG % field_modulus).to_bytes(64, "big")),
    "map zero to G1": (0x10, bytes(64)),
    "map the modulus to G1": (0x10, field_modulus.to_bytes(64, "big")),
    "map to G2": (0x11, word(0) + word(BIG) + word(0) + word(BIG >> 3)),
    "map above to G2": (0x11, bytes(64) + field_modulus.to_bytes(64, "big")),
    "BN add": (0x06, bn_g1(3) + bn_g1(5)),
    "BN add short": (0x06, bn_g1(3)),
    "BN add long": (0x06, bn_g1(3) + bn_g1(5) + b"\xff"),
    "BN add nothing": (0x06, b""),
    "BN double": (0x06, bn_g1(3) * 2),
    "BN add opposite": (0x06, bn_g1(3) + bn_g1(-3 % bn_order)),
    "BN add off the curve": (0x06, bn_g1(3) + word(1) + word(1)),
    "BN add above the modulus": (0x06, bn_g1(3) + word(bn_modulus) + word(0)),
    "BN multiply": (0x07, bn_g1(3) + word(BIG)),
    "BN multiply by the largest": (0x07, bn_g1(3) + word(2**256 - 1)),
    "BN multiply by the order": (0x07, bn_g1(3) + word(bn_order)),
    "BN multiply by zero": (0x07, bn_g1(3) + word(0)),
    "BN multiply infinity": (0x07, bytes(64) + word(5)),
    "BN multiply off the curve": (0x07, word(1) + word(3) + word(5)),
    "BN pairing of nothing": (0x08, b""),
    "BN pairing that holds": (
        0x08,
        bn_g1(6) + bn_g2(5) + coordinates(bn_neg(bn_multiply(BN_G1, 30)), 32) + bn_g2(1),
    ),
    "BN pairing that does not": (0x08, bn_g1(6) + bn_g2(5)),
    "BN pairing with infinities": (0x08, bn_g1(0) + bn_g2(5) + bn_g1(4) + bn_g2(0)),
    "BN pairing off the twist": (0x08, bn_g1(1) + word(1) + word(2) + word(3) + word(4)),
    "BN pairing above the modulus": (0x08, bn_g1(1) + word(bn_modulus) + bytes(96)),
    "BN pairing short": (0x08, bn_g1(1)),
    "BLAKE2 of EIP-152": (0x09, b"\0\0\0\x0c" + bytes(range(208)) + b"\1"),
    "BLAKE2 not final": (0x09, b"\0\0\0\x01" + bytes(range(208)) + b"\0"),
    "BLAKE2 no rounds": (0x09, bytes(212) + b"\1"),
    "BLAKE2 bad flag": (0x09, bytes(212) + b"\2"),
    "BLAKE2 short": (0x09, bytes(212)),
    "BLAKE2 too many rounds to pay": (0x09, b"\xff" * 4 + bytes(209)),
    "modexp even modulus": (0x05, modexp(b"\x09" * 20, b"\x07" * 20, b"\xfb" * 19 + b"\x10")),
    "modexp modulus one": (0x05, modexp(b"\x09", b"\x00", b"\x01")),
    "modexp": (0x05, modexp(b"\x03", b"\xff\xfe", b"\x00\xfb")),
    "modexp long exponent": (0x05, modexp(b"\x03" * 40, b"\x01" * 33, b"\xfb" * 40)),
    "modexp modulus zero": (0x05, modexp(b"\x03", b"\x02", b"\x00\x00")),
    "modexp no modulus": (0x05, modexp(b"\x03", b"\x02", b"")),
    "modexp nothing": (0x05, b""),
    "modexp cut short": (0x05, modexp(b"\x03" * 8, b"\x02" * 8, b"\x07" * 8)[:-12]),
    "modexp too large to pay": (0x05, word(2**255) + word(1) + word(2**200)),
    "modexp huge exponent of nothing": (0x05, word(0) + word(2**64) + word(0)),
}


@pytest.mark.parametrize("name", CASES)
def test_output_gas_and_failure_are_py_evms(name: str) -> None:
    number, data = CASES[name]
    assert run(PRECOMPILES, number, data) == run(PRAGUE_PRECOMPILES, number, data)


def test_the_point_off_the_subgroup_is_on_the_curve() -> None:
    assert len(run(PRECOMPILES, 0x0B, OFF_SUBGROUP + bls_g1(5))) == 2
    assert run(PRECOMPILES, 0x0C, OFF_SUBGROUP + word(1)) == ("failed",)


def test_every_prague_precompile_has_its_address() -> None:
    assert sorted(PRECOMPILES) == [number.to_bytes(20, "big") for number in range(1, 0x12)]


def test_zero_to_the_zero_is_one_also_with_an_empty_base() -> None:
    assert run(PRECOMPILES, 0x05, modexp(b"", b"", b"\x07"))[0] == b"\x01"
    assert run(PRECOMPILES, 0x05, modexp(b"", b"\x01", b"\x07"))[0] == b"\x00"


def test_kzg_proof_of_zero_is_accepted_and_a_changed_one_refused() -> None:
    infinity = b"\xc0" + bytes(47)
    versioned = b"\x01" + hashlib.sha256(infinity).digest()[1:]
    right = versioned + word(5) + word(0) + infinity + infinity
    output, gas = run(PRECOMPILES, 0x0A, right)
    assert (output[:32], gas) == (word(4096), 50_000)
    assert int.from_bytes(output[32:], "big") == curve_order
    for wrong in (
        versioned + word(5) + word(1) + infinity + infinity,
        b"\x02" + right[1:],
        right[:-1],
        versioned + b"\xff" * 32 + word(0) + infinity + infinity,
    ):
        assert run(PRECOMPILES, 0x0A, wrong) == ("failed",)


@pytest.mark.parametrize("number", [0x08, 0x0C, 0x0E, 0x0F])
def test_long_input_is_not_taken_apart_before_it_is_paid_for(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("work before the charge")

    for name in ("_slices", "_bn254_g1", "_g1"):
        monkeypatch.setattr(precompiles, name, refuse)
    data = bytes(2**7 * 3**2 * 5)  # a multiple of every length
    assert run(PRECOMPILES, number, data, gas=0) == ("failed",)


def test_a_panic_of_a_native_library_refuses_the_input() -> None:
    class PanicException(BaseException):
        """What a library in Rust raises on a panic."""

    def panic(_computation: object) -> None:
        raise PanicException("index out of bounds")

    def interrupt(_computation: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(VMError, match="index out of bounds"):
        run_precompile(panic, SimpleNamespace())
    with pytest.raises(KeyboardInterrupt):
        run_precompile(interrupt, SimpleNamespace())
