"""Inputs for the precompiles: valid ones, and ways to break them."""

from collections.abc import Callable, Sequence
from random import Random

BN254_P = 0x30644E72E131A029B85045B68181585D97816A916871CA8D3C208C16D87CFD47
BN254_G1 = (1, 2)
BN254_G1_NEGATED = (1, BN254_P - 2)
BN254_G2 = (
    0x198E9393920D483A7260BFB731FB5D25F1AA493335A9E71297E485B7AEF312C2,
    0x1800DEEF121F1E76426A00665E5C4479674322D4F75EDADD46DEBD5CD992F6ED,
    0x090689D0585FF075EC9E99AD690C3395BC4B313370B38EF355ACDADCD122975B,
    0x12C85EA5DB8C6DEB4AAB71808DCB408FE3D1E7690C43D37B4CE6CC0166FA7DAA,
)
BN254_OFF_SUBGROUP = (
    # On the twist, with x = i + 2 of the field extension's form of EIP-197; not of the right order.
    0x1800DEEF121F1E76426A00665E5C4479674322D4F75EDADD46DEBD5CD992F6ED,
    0x198E9393920D483A7260BFB731FB5D25F1AA493335A9E71297E485B7AEF312C2,
    0x090689D0585FF075EC9E99AD690C3395BC4B313370B38EF355ACDADCD122975B,
    0x12C85EA5DB8C6DEB4AAB71808DCB408FE3D1E7690C43D37B4CE6CC0166FA7DAA,
)

BLS_P = int(
    "1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab",
    16,
)
BLS_G1 = (
    int(
        "17f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac58"
        "6c55e83ff97a1aeffb3af00adb22c6bb",
        16,
    ),
    int(
        "08b3f481e3aaa0f1a09e30ed741d8ae4fcf5e095d5d00af600db18cb2c04b3ed"
        "d03cc744a2888ae40caa232946c5e7e1",
        16,
    ),
)
BLS_G2 = (
    int(
        "024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d177"
        "0bac0326a805bbefd48056c8c121bdb8",
        16,
    ),
    int(
        "13e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049"
        "334cf11213945d57e5ac7d055d042b7e",
        16,
    ),
    int(
        "0ce5d527727d6e118cc9cdc6da2e351aadfd9baa8cbdd3a76d429a695160d12c"
        "923ac9cc3baca289e193548608b82801",
        16,
    ),
    int(
        "0606c4a02ea734cc32acd2b02bc28b99cb3e287e85a763af267492ab572e99ab"
        "3f370d275cec1da1aaa9075ff05f79be",
        16,
    ),
)
BLS_ON_CURVE_OFF_SUBGROUP = (0, 2)
"""(0, 2) satisfies y^2 = x^3 + 4, but is not in the subgroup."""

CHEAP = (1, 2, 3, 4, 5, 6, 7, 9, 0x0B, 0x0C, 0x0D, 0x10)
SLOW = (8, 0x0A, 0x0E, 0x0F, 0x11)
"""The second implementation takes tenths of a second for one valid input of these."""


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(32, "big") for value in values)


def coordinates(*values: int) -> bytes:
    """BLS12-381's coordinates, each in 64 bytes."""
    return b"".join(value.to_bytes(64, "big") for value in values)


def modexp(random: Random) -> bytes:
    lengths = [random.choice((0, 1, 2, 7, 8, 31, 32, 33, 64)) for _ in range(3)]
    if random.random() < 0.15:
        lengths[random.randrange(3)] = random.choice((1024, 2**32, 2**64, 2**256 - 1))
    body = b"".join(random_bytes(random, min(length, 64)) for length in lengths)
    return words(*lengths) + body


def random_bytes(random: Random, length: int) -> bytes:
    match random.randrange(4):
        case 0:
            return bytes(length)
        case 1:
            return b"\xff" * length
        case 2:
            return bytes(max(0, length - 1)) + b"\x01"[: min(1, length)]
        case _:
            return random.randbytes(length)


def valid_input(random: Random, number: int) -> bytes:
    """An input that the precompile accepts, as far as one is known."""
    scalar = random.choice((0, 1, 2, 7, 2**255 - 19, 2**256 - 1))
    g1 = random.choice((words(0, 0), words(*BN254_G1), words(*BN254_G1_NEGATED)))
    bls_g1 = random.choice((coordinates(0, 0), coordinates(*BLS_G1)))
    bls_g2 = random.choice((coordinates(0, 0, 0, 0), coordinates(*BLS_G2)))
    makers: dict[int, Callable[[], bytes]] = {
        1: lambda: words(
            random.choice((1, 2**255, random.getrandbits(256))),
            random.choice((27, 28)),
            random.choice((1, 2**200 + 5, random.getrandbits(255))),
            random.choice((1, 2**200 + 7, random.getrandbits(255))),
        ),
        5: lambda: modexp(random),
        6: lambda: g1 + words(*BN254_G1),
        7: lambda: g1 + words(scalar),
        8: lambda: (g1 + words(*BN254_G2)) * random.choice((0, 1, 1, 2)),
        9: lambda: (
            random.choice((0, 1, 12, 300)).to_bytes(4, "big")
            + random.randbytes(208)
            + bytes([random.randrange(2)])
        ),
        0x0A: lambda: (
            bytes.fromhex("010657f37554c781402a22917dee2f75def7ab966d7b770905398eba3c444014")
            + words(random.choice((0, 5)), 0)
            + (b"\xc0" + bytes(47)) * 2
        ),
        0x0B: lambda: bls_g1 + coordinates(*BLS_G1),
        0x0C: lambda: (bls_g1 + words(scalar)) * random.choice((1, 2)),
        0x0D: lambda: bls_g2 + coordinates(*BLS_G2),
        0x0E: lambda: bls_g2 + words(scalar),
        0x0F: lambda: bls_g1 + bls_g2,
        0x10: lambda: coordinates(random.choice((0, 1, BLS_P - 1, random.getrandbits(370)))),
        0x11: lambda: coordinates(random.choice((0, 1, BLS_P - 1)), random.getrandbits(370)),
    }
    if number in makers:
        return makers[number]()
    return random.randbytes(random.choice((0, 1, 31, 32, 33, 64, 200)))


def break_input(random: Random, number: int, data: bytes) -> bytes:
    """The input with a hostile change."""
    modulus, width = (BN254_P, 32) if number <= 8 else (BLS_P, 64)
    off_curve: Sequence[bytes] = (words(1, 1), coordinates(1, 1))
    off_subgroup = (words(*BN254_OFF_SUBGROUP), coordinates(*BLS_ON_CURVE_OFF_SUBGROUP))
    is_bls = int(width == 64)
    match random.randrange(8):
        case 0:
            return data[: random.randrange(len(data) + 1)]
        case 1:
            return data + random_bytes(random, random.choice((1, 31, 32, 64)))
        case 2 if data:
            changed = bytearray(data)
            changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
            return bytes(changed)
        case 3:
            return modulus.to_bytes(width, "big") + data[width:]
        case 4:
            return off_curve[is_bls] + data[len(off_curve[is_bls]) :]
        case 5:
            return off_subgroup[is_bls] + data[len(off_subgroup[is_bls]) :]
        case 6:
            return b"\xff" * len(data)
        case _:
            return b""
