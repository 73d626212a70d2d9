from dataclasses import replace

import numpy as np
import pytest
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chain.crypto import content_id, keccak256, sha256
from chain.errors import InvalidGradient
from chain.primitives import Hash32
from chain.training.encoding import (
    BLOCK_VALUES,
    COMMITMENT_DOMAIN,
    EXPONENT_MAX,
    EXPONENT_MIN,
    HEADER_BYTES,
    MAX_SQUARED_NORM,
    Float32Array,
    compute_commitment,
    compute_exponents,
    compute_gradient_root,
    compute_trajectory_root,
    count_payload_bytes,
    decode_gradient,
    encode_gradient,
    quantize,
)
from tests.worlds.training import HEADER, dequantize, random_gradient

PAYLOAD = encode_gradient(HEADER, random_gradient(1, 600))
EXPONENTS = HEADER_BYTES
CODES = HEADER_BYTES + 3


def changed(position: int, value: int) -> bytes:
    payload = bytearray(PAYLOAD)
    payload[position] = value & 0xFF
    return bytes(payload)


def test_header_has_128_bytes_and_payload_one_per_value_and_block() -> None:
    assert HEADER_BYTES == 128
    assert len(PAYLOAD) == count_payload_bytes(600) == 128 + 3 + 3 * 256


def test_header_layout_is_little_endian_in_specified_order() -> None:
    assert HEADER.encode() == (
        b"GQ01\x08\x00\x01\x00"
        + (600).to_bytes(8, "little")
        + (7).to_bytes(8, "little")
        + (31_337).to_bytes(8, "little")
        + b"\x55" * 32
        + b"\x66" * 32
        + b"\x77" * 20
        + (3).to_bytes(8, "little")
        + (1).to_bytes(4, "little")
    )


@settings(max_examples=60)
@given(
    hnp.arrays(
        np.float32,
        st.integers(1, 700),
        elements=st.floats(-0.03125, 0.03125, width=32, allow_subnormal=False)
        | st.sampled_from([0.0, -0.0, 2.0**-36, 2.0**-43, 2.0**-126]),
    )
)
def test_what_is_encoded_is_canonical_and_near(values: Float32Array) -> None:
    header = replace(HEADER, parameter_count=values.size)
    payload = encode_gradient(header, values)
    decoded = decode_gradient(payload, header)
    near = dequantize(decoded, values.size)
    assert encode_gradient(header, near) == payload
    steps = np.repeat(np.ldexp(1.0, decoded.exponents.astype(np.int32)), BLOCK_VALUES)
    error = np.abs(values.astype(np.float64) - near)
    assert np.all(error <= steps[: values.size] / 2)


def test_squared_norm_is_the_exact_sum_of_the_decoded_squares() -> None:
    decoded = decode_gradient(PAYLOAD, HEADER)
    exact = sum(
        (int(code) << (int(exponent) - EXPONENT_MIN)) ** 2
        for exponent, codes in zip(decoded.exponents, decoded.codes, strict=True)
        for code in codes
    )
    assert decoded.squared_norm == exact


@pytest.mark.parametrize(
    ("maximum", "exponent"),
    [
        (0.0, EXPONENT_MIN),
        (2.0**-60, EXPONENT_MIN),
        (127.5 * 2.0**-36, -36),
        (np.nextafter(127.5 * 2.0**-36, 1), -35),
        (0.5, -7),
        (127.5 / 128, -7),
        (1.0, EXPONENT_MAX),
        (3.0, EXPONENT_MAX),
    ],
)
def test_exponent_is_the_smallest_that_does_not_saturate(maximum: float, exponent: int) -> None:
    assert compute_exponents(np.array([maximum])).tolist() == [exponent]


def test_rounding_is_half_to_even() -> None:
    values = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32) * np.float32(2.0**-20)
    exponents, codes = quantize(values)
    assert exponents.tolist() == [-20]
    assert codes[0, :6].tolist() == [127, 0, 2, 2, 0, -2]


def test_a_gradient_that_is_not_finite_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        quantize(np.array([np.nan], np.float32))


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "0 bytes instead of 899"),
        (PAYLOAD[:-1], "898 bytes"),
        (PAYLOAD + b"\0", "900 bytes"),
        (changed(0, 0), "magic"),
        (changed(4, 4), "codec"),
        (changed(5, 1), "flags"),
        (changed(6, 2), "local_steps"),
        (changed(8, 1), "parameter_count"),
        (changed(16, 8), "round"),
        (changed(24, 1), "chain_id"),
        (changed(32, 0), "theta_root"),
        (changed(64, 0), "seed"),
        (changed(96, 0), "miner"),
        (changed(116, 0), "task"),
        (changed(124, 0), "attempt"),
        (changed(EXPONENTS, EXPONENT_MIN - 1), "an exponent is out of range"),
        (changed(EXPONENTS, EXPONENT_MAX + 1), "an exponent is out of range"),
        (changed(EXPONENTS + 2, EXPONENT_MIN + 1), "exponent is not canonical"),
        (changed(CODES + 5, -128), "a code is -128"),
        (changed(CODES + 600, 1), "the padding is not zero"),
    ],
)
def test_a_payload_that_is_not_canonical_is_refused(payload: bytes, problem: str) -> None:
    with pytest.raises(InvalidGradient) as refusal:
        decode_gradient(payload, HEADER)
    assert problem in refusal.value.detail


def test_a_norm_above_two_is_refused_and_two_is_not() -> None:
    header = replace(HEADER, parameter_count=1_024)

    def payload(codes: list[int]) -> bytes:
        blocks = [[code] + [0] * 255 for code in codes]
        flat = bytes(code for block in blocks for code in block)
        return header.encode() + bytes([EXPONENT_MAX & 0xFF]) * 4 + flat

    assert decode_gradient(payload([64] * 4), header).squared_norm == 4 << 72
    with pytest.raises(InvalidGradient, match="the norm exceeds 2"):
        decode_gradient(payload([64, 64, 64, 65]), header)


@settings(max_examples=200)
@given(st.integers(HEADER_BYTES, len(PAYLOAD) - 1), st.integers(0, 255))
def test_changed_byte_is_refused_or_decodes_to_canonical_payload(position: int, value: int) -> None:
    payload = changed(position, value)
    try:
        decoded = decode_gradient(payload, HEADER)
    except InvalidGradient:
        return
    if decoded.squared_norm <= MAX_SQUARED_NORM // 4:
        assert encode_gradient(HEADER, dequantize(decoded, 600)) == payload


def test_gradient_root_is_the_content_id_of_the_payload() -> None:
    assert compute_gradient_root(PAYLOAD) == content_id(PAYLOAD)


def test_header_of_a_step_names_the_number_of_steps_and_its_own() -> None:
    of_round = replace(HEADER, local_steps=16)
    of_step = replace(of_round, step=8)
    plain = HEADER.encode()
    assert of_round.encode() == plain[:6] + b"\x10\x00" + plain[8:]
    assert of_step.encode() == plain[:6] + b"\x10\x00" + plain[8:20] + b"\x09\0\0\0" + plain[24:]
    payload = encode_gradient(of_step, random_gradient(1, 600))
    with pytest.raises(InvalidGradient, match="the header's step differs"):
        decode_gradient(payload, replace(of_step, step=7))
    with pytest.raises(InvalidGradient, match="the header's local_steps, step differs"):
        decode_gradient(payload, HEADER)


def test_trajectory_root_is_the_tree_over_the_roots_in_order() -> None:
    roots = [Hash32(bytes([number]) * 32) for number in range(3)]
    first, second, third = (sha256(b"\0" + root) for root in roots)
    expected = sha256(b"\x01" + sha256(b"\x01" + first + second) + third)
    assert compute_trajectory_root(roots) == expected
    assert compute_trajectory_root(roots[::-1]) != expected


def test_commitment_of_several_steps_has_its_own_domain_and_root() -> None:
    root, salt = compute_gradient_root(PAYLOAD), Hash32(b"\x88" * 32)
    header, trajectory = replace(HEADER, local_steps=2), Hash32(b"\x89" * 32)
    types = ["bytes32", *["uint256"] * 4, "address", *["bytes32"] * 4, "uint256"]
    domain = keccak256(b"Proof of Training: gradient commitment with trajectory, version 1")
    place = [31_337, 3, 7, 1, HEADER.miner, HEADER.theta_root]
    words = encode(types, [domain, *place, root, trajectory, salt, 4])
    assert compute_commitment(header, root, salt, 4, trajectory) == keccak256(words)
    others = [
        compute_commitment(HEADER, root, salt, 4),
        compute_commitment(header, root, salt, 4, root),
        compute_commitment(header, trajectory, salt, 4, root),
    ]
    assert len({keccak256(words), *others}) == 4


def test_commitment_binds_every_field() -> None:
    root, salt = compute_gradient_root(PAYLOAD), Hash32(b"\x88" * 32)
    types = [
        "bytes32",
        "uint256",
        "uint32",
        "uint32",
        "uint32",
        "address",
        "bytes32",
        "bytes32",
        "bytes32",
        "uint32",
    ]
    values = [COMMITMENT_DOMAIN, 31_337, 3, 7, 1, HEADER.miner, HEADER.theta_root, root, salt, 4]
    commitment = compute_commitment(HEADER, root, salt, 4)
    assert commitment == keccak256(encode(types, values))
    others = [
        compute_commitment(replace(HEADER, chain_id=1), root, salt, 4),
        compute_commitment(
            replace(HEADER, attempt_id=replace(HEADER.attempt_id, attempt_number=2)), root, salt, 4
        ),
        compute_commitment(HEADER, salt, root, 4),
        compute_commitment(HEADER, root, salt, 5),
    ]
    assert len({commitment, *others}) == 5
