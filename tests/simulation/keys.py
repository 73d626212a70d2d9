"""The keys of a world: fast tokens, or secp256k1."""

from collections.abc import Callable
from functools import cache

from chain import crypto
from chain.consensus.certificates import Recover
from chain.consensus.messages import MessageKind, SigningDomain, compute_signing_digest
from chain.consensus.pbft import Sign
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32, PrivateKey, Signature, View
from tests.worlds.replica import token_recover, token_signer, validators_of


class Keys:
    """The validators of one world and their keys; recovers the signer of a signature."""

    def __init__(self, n: int, *, is_real: bool) -> None:
        self.is_real = is_real
        self.validators: tuple[Address, ...]
        self.recover: Recover
        if is_real:
            keys = sorted(make_keys(n), key=crypto.get_address)
            self.validators = tuple(crypto.get_address(key) for key in keys)
            self._signers: list[Sign] = [make_signer(key) for key in keys]
            self.recover = cache(crypto.recover)
        else:
            self.validators = validators_of(n)
            self._signers = [token_signer(index) for index in range(n)]
            self.recover = token_recover(self.validators)

    def signer(self, index: int) -> Sign:
        """The function that signs a digest as that validator."""
        return self._signers[index]

    def make_twin(self, signature: Signature) -> Signature:
        """The high-s signature of the same digest and key, which no honest validator makes."""
        if not self.is_real:
            return Signature(signature[:-1] + b"\x01")
        high_s = crypto.SECP256K1_ORDER - int.from_bytes(signature[32:64], "big")
        parity = bytes([1 - signature[64]])
        return Signature(signature[:32] + high_s.to_bytes(32, "big") + parity)

    def is_canonical(self, signature: Signature) -> bool:
        """Whether it is the only valid signature of its author for its digest (low s)."""
        if not self.is_real:
            return signature[-1] == 0
        return int.from_bytes(signature[32:64], "big") <= crypto.SECP256K1_ORDER // 2


@cache
def make_keys(n: int) -> tuple[PrivateKey, ...]:
    return tuple(PrivateKey(keccak256(b"validator %d" % index)) for index in range(n))


def make_signer(key: PrivateKey) -> Sign:
    def sign(digest: Hash32) -> Signature:
        return crypto.sign(digest, key)

    return sign


@cache
def make_digester(
    domain: SigningDomain,
) -> Callable[[MessageKind, BlockNumber, View, Hash32], Hash32]:
    """The function `compute_signing_digest` for one domain."""

    def compute(kind: MessageKind, number: BlockNumber, view: View, payload: Hash32) -> Hash32:
        return compute_signing_digest(domain, kind, number, view, payload)

    return compute
