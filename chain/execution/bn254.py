"""BN254 (alt_bn128) for EIP-196 and EIP-197 (docs/spec/state-transition.md, section 8).

No native library with wheels supports this curve, and field classes in Python take 30 times as
long as the gas price allows. Here, a product of two elements of the field of degree 12 is one
product of two large integers in GMP.

    Fp     integers modulo P
    Fp2    pairs (a, b) = a + b i, with i^2 = -1
    Fp12   12 coefficients over Fp of 1, w, ..., w^11, with w^6 = 9 + i

The twist is y^2 = x^3 + 3 / (9 + i); its point (x, y) stands for (x w^2, y w^3) on the curve
y^2 = x^3 + 3. The pairing is the optimal ate pairing (Vercauteren 2008), and the addition chain of
its final exponentiation that of Scott et al. (2009).
"""

from collections.abc import Sequence
from typing import Final

from gmpy2 import invert, mpz, pack, unpack

P: Final = mpz(21888242871839275222246405745257275088696311157297823662689037894645226208583)
"""The modulus of the base field."""

ORDER: Final = mpz(21888242871839275222246405745257275088548364400416034343698204186575808495617)
"""The number of points of the curve, a prime."""

X: Final = 4965661367192848881
"""The parameter of the family of curves; P and ORDER are polynomials of it."""

Fp2 = tuple[mpz, mpz]
"""a + b i."""
Fp12 = list[mpz]
"""12 coefficients, of the powers of w."""
G1 = tuple[mpz, mpz] | None
"""Affine coordinates on the curve; None is the point at infinity."""
G2 = tuple[Fp2, Fp2] | None
"""Affine coordinates on the twist; None is the point at infinity."""

_SLOT_BITS: Final = 512
"""Bits for one coefficient: a sum of 12 products of numbers below P fits, as 12 P^2 < 2^512."""

_XI: Final[Fp2] = (mpz(9), mpz(1))
_TWO: Final[Fp2] = (mpz(2), mpz(0))
_THREE: Final[Fp2] = (mpz(3), mpz(0))
_ONE: Final[Fp12] = [mpz(1), *[mpz(0)] * 11]


# The curve.


def is_on_curve(x: mpz, y: mpz) -> bool:
    """Whether (x, y) is on y^2 = x^3 + 3."""
    return bool((y * y - x * x * x - 3) % P == 0)


def add_g1(first: G1, second: G1) -> G1:
    """The sum of two points of the curve."""
    if first is None or second is None:
        return first or second
    (x1, y1), (x2, y2) = first, second
    if x1 != x2:
        slope = (y2 - y1) * invert(x2 - x1, P)
    elif (y1 + y2) % P:
        slope = 3 * x1 * x1 * invert(2 * y1, P)
    else:
        return None
    x3 = (slope * slope - x1 - x2) % P
    return x3, (slope * (x1 - x3) - y1) % P


def multiply_g1(point: G1, scalar: int) -> G1:
    """`point` added to itself `scalar` times."""
    total: G1 = None
    for bit in f"{scalar % ORDER:b}":
        total = add_g1(total, total)
        if bit == "1":
            total = add_g1(total, point)
    return total


# The twist.


def _add2(a: Fp2, b: Fp2) -> Fp2:
    return (a[0] + b[0]) % P, (a[1] + b[1]) % P


def _subtract2(a: Fp2, b: Fp2) -> Fp2:
    return (a[0] - b[0]) % P, (a[1] - b[1]) % P


def _multiply2(a: Fp2, b: Fp2) -> Fp2:
    return (a[0] * b[0] - a[1] * b[1]) % P, (a[0] * b[1] + a[1] * b[0]) % P


def _invert2(a: Fp2) -> Fp2:
    inverse = invert(a[0] * a[0] + a[1] * a[1], P)
    return a[0] * inverse % P, -a[1] * inverse % P


def _conjugate2(a: Fp2) -> Fp2:
    return a[0], -a[1] % P


def _power2(a: Fp2, exponent: int) -> Fp2:
    result: Fp2 = (mpz(1), mpz(0))
    for bit in f"{exponent:b}":
        result = _multiply2(result, result)
        if bit == "1":
            result = _multiply2(result, a)
    return result


_TWIST_B: Final = _multiply2(_THREE, _invert2(_XI))
_GAMMAS: Final = tuple(_power2(_XI, j * (int(P) - 1) // 6) for j in range(6))
"""gamma_j, such that the Frobenius map takes w^j to w^(j P) = gamma_j w^j."""


def is_on_twist(x: Fp2, y: Fp2) -> bool:
    """Whether (x, y) is on y^2 = x^3 + 3 / (9 + i)."""
    return _multiply2(y, y) == _add2(_multiply2(x, _multiply2(x, x)), _TWIST_B)


def _compute_slope(first: tuple[Fp2, Fp2], second: tuple[Fp2, Fp2]) -> Fp2 | None:
    """The slope of the line (or tangent) through two points of the twist; None if vertical."""
    (x1, y1), (x2, y2) = first, second
    if x1 != x2:
        return _multiply2(_subtract2(y2, y1), _invert2(_subtract2(x2, x1)))
    if y1 != y2 or y1 == (0, 0):
        return None
    rise = _multiply2(_THREE, _multiply2(x1, x1))
    return _multiply2(rise, _invert2(_multiply2(_TWO, y1)))


def _follow(slope: Fp2, first: tuple[Fp2, Fp2], second: tuple[Fp2, Fp2]) -> tuple[Fp2, Fp2]:
    """The sum of two points of the twist, given the slope of the line through them."""
    x3 = _subtract2(_subtract2(_multiply2(slope, slope), first[0]), second[0])
    return x3, _subtract2(_multiply2(slope, _subtract2(first[0], x3)), first[1])


def is_in_subgroup(point: tuple[Fp2, Fp2]) -> bool:
    """Whether a point of the twist has order ORDER; the twist has other points, too."""
    total: G2 = None
    for bit in f"{ORDER:b}":
        for addend in (total, point if bit == "1" else None):
            if addend is None:
                continue
            if total is None:
                total = addend
                continue
            slope = _compute_slope(total, addend)
            total = None if slope is None else _follow(slope, total, addend)
    return total is None


# The field of the pairing's values.


def _multiply12(a: Fp12, b: Fp12) -> Fp12:
    terms = unpack(pack(a, _SLOT_BITS) * pack(b, _SLOT_BITS), _SLOT_BITS)
    terms += [mpz(0)] * (23 - len(terms))
    for k in range(22, 11, -1):
        # (w^6 - 9)^2 = -1, so w^12 = 18 w^6 - 82.
        high = terms[k]
        terms[k - 6] += 18 * high
        terms[k - 12] -= 82 * high
    return [term % P for term in terms[:12]]


def _to_pairs(a: Fp12) -> list[Fp2]:
    """The coefficients over Fp2 of 1, w, ..., w^5: b w^(j+6) = 9 b w^j + b i w^j."""
    return [((a[j] + 9 * a[j + 6]) % P, a[j + 6]) for j in range(6)]


def _from_pairs(pairs: Sequence[Fp2]) -> Fp12:
    return [(a - 9 * b) % P for a, b in pairs] + [b for _, b in pairs]


def _conjugate12(a: Fp12) -> Fp12:
    """a^(P^6): w becomes -w."""
    return [-value % P if j % 2 else value for j, value in enumerate(a)]


def _frobenius(a: Fp12, times: int = 1) -> Fp12:
    """a^(P^times)."""
    pairs = _to_pairs(a)
    for _ in range(times):
        pairs = [
            _multiply2(_conjugate2(pair), gamma) for pair, gamma in zip(pairs, _GAMMAS, strict=True)
        ]
    return _from_pairs(pairs)


def _invert12(a: Fp12) -> Fp12:
    """1 / a, through the norm to the field of even powers of w."""
    conjugate = _conjugate12(a)
    # The norm is c0 + c1 v + c2 v^2 with v = w^2 and v^3 = 9 + i.
    c0, _, c1, _, c2, _ = _to_pairs(_multiply12(a, conjugate))
    t0 = _subtract2(_multiply2(c0, c0), _multiply2(_XI, _multiply2(c1, c2)))
    t1 = _subtract2(_multiply2(_XI, _multiply2(c2, c2)), _multiply2(c0, c1))
    t2 = _subtract2(_multiply2(c1, c1), _multiply2(c0, c2))
    crossed = _add2(_multiply2(c2, t1), _multiply2(c1, t2))
    scale = _invert2(_add2(_multiply2(c0, t0), _multiply2(_XI, crossed)))
    zero = (mpz(0), mpz(0))
    inverse: list[Fp2] = []
    for t in (t0, t1, t2):
        inverse += [_multiply2(t, scale), zero]
    return _multiply12(conjugate, _from_pairs(inverse))


def _power_x(a: Fp12) -> Fp12:
    result = a
    for bit in bin(X)[3:]:
        result = _multiply12(result, result)
        if bit == "1":
            result = _multiply12(result, a)
    return result


# The pairing.


def _line(slope: Fp2, through: tuple[Fp2, Fp2], at: tuple[mpz, mpz]) -> Fp12:
    """The value, at a point of the curve, of the line with a slope through a point of the twist.

    In the coordinates of the curve the slope is `slope` w, so the value is
    y - slope x w + (slope through_x - through_y) w^3.
    """
    x, y = at
    a, b = slope
    c, d = _subtract2(_multiply2(slope, through[0]), through[1])
    zero = mpz(0)
    # a + b i is (a - 9 b) + b w^6.
    return [
        *(y, (9 * b - a) * x % P, zero, (c - 9 * d) % P, zero, zero),
        *(zero, -b * x % P, zero, d, zero, zero),
    ]


def _miller_loop(pairs: Sequence[tuple[tuple[mpz, mpz], tuple[Fp2, Fp2]]]) -> Fp12:
    """The product of the pairs' ate pairings, before the final exponentiation."""
    value = _ONE
    sums = [q for _, q in pairs]

    def step(index: int, addend: tuple[Fp2, Fp2]) -> None:
        nonlocal value
        slope = _compute_slope(sums[index], addend)
        assert slope is not None, "multiples below the prime order differ"
        value = _multiply12(value, _line(slope, sums[index], pairs[index][0]))
        sums[index] = _follow(slope, sums[index], addend)

    for bit in bin(6 * X + 2)[3:]:
        value = _multiply12(value, value)
        for index, (_, q) in enumerate(pairs):
            step(index, sums[index])
            if bit == "1":
                step(index, q)
    for index, (_, q) in enumerate(pairs):
        once = _map_frobenius(q)
        twice = _map_frobenius(once)
        step(index, once)
        step(index, (twice[0], _subtract2((mpz(0), mpz(0)), twice[1])))
    return value


def _map_frobenius(point: tuple[Fp2, Fp2]) -> tuple[Fp2, Fp2]:
    """The point of the twist that represents the P-th powers of the coordinates."""
    x, y = point
    return _multiply2(_conjugate2(x), _GAMMAS[2]), _multiply2(_conjugate2(y), _GAMMAS[3])


def _exponentiate(value: Fp12) -> Fp12:
    """value^((P^12 - 1) / ORDER)."""
    value = _multiply12(_conjugate12(value), _invert12(value))
    value = _multiply12(_frobenius(value, 2), value)
    # From here on an inverse is a conjugate.
    x1 = _power_x(value)
    x2 = _power_x(x1)
    x3 = _power_x(x2)
    y0 = _multiply12(_multiply12(_frobenius(value), _frobenius(value, 2)), _frobenius(value, 3))
    y1 = _conjugate12(value)
    y2 = _frobenius(x2, 2)
    y3 = _conjugate12(_frobenius(x1))
    y4 = _conjugate12(_multiply12(x1, _frobenius(x2)))
    y5 = _conjugate12(x2)
    y6 = _conjugate12(_multiply12(x3, _frobenius(x3)))
    # y0 y1^2 y2^6 y3^12 y4^18 y5^30 y6^36
    t0 = _multiply12(_multiply12(_multiply12(y6, y6), y4), y5)
    t1 = _multiply12(_multiply12(y3, y5), t0)
    t0 = _multiply12(t0, y2)
    t1 = _multiply12(_multiply12(t1, t1), t0)
    t1 = _multiply12(t1, t1)
    t0 = _multiply12(t1, y1)
    t1 = _multiply12(t1, y0)
    return _multiply12(_multiply12(t0, t0), t1)


def is_pairing_product_one(pairs: Sequence[tuple[G1, G2]]) -> bool:
    """Whether the product of the pairings of `pairs`, all of prime order, is one."""
    finite = [(p, q) for p, q in pairs if p is not None and q is not None]
    return _exponentiate(_miller_loop(finite)) == _ONE
