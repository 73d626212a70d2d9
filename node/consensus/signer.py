"""The consensus key, and what keeps it from signing two different votes."""

from dataclasses import dataclass

from chain.crypto import sign
from chain.primitives import Address, Hash32, PrivateKey, Signature
from node.consensus.guard_file import GuardFile
from node.consensus.wal import WriteAheadLog


@dataclass(frozen=True, slots=True)
class ConsensusSigner:
    """The consensus key with its guard and log: nothing else may sign with it."""

    address: Address
    private_key: PrivateKey
    guard: GuardFile
    wal: WriteAheadLog

    def sign(self, digest: Hash32) -> Signature:
        """The deterministic signature of a digest."""
        return sign(digest, self.private_key)
