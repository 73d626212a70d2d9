"""Merkle proofs of accounts and storage (docs/spec/rpc.md, section 9).

A proof is the list of the trie nodes that some reads pass through, each node once. A server with
the state records them. A client with only the state root repeats the reads on these nodes and gets
the same values, or an error if the proof is wrong.
"""

from collections.abc import Iterable, Mapping, Sequence

from chain.crypto import keccak256
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, Hash32
from chain.state import trie
from chain.state.world_state import ReadableDatabase, get_account, get_storage

StorageReads = Mapping[Address, Sequence[int]]
"""The storage slots to prove, by contract."""


class _RecordingDatabase:
    """A database that records every node that is read, in order."""

    def __init__(self, database: ReadableDatabase) -> None:
        self._database = database
        self.nodes: dict[bytes, bytes] = {}

    def get(self, key: bytes, /) -> bytes | None:
        value = self._database.get(key)
        if value is not None:
            self.nodes[key] = value
        return value


def build_state_proof(
    database: ReadableDatabase, state_root: Hash32, reads: StorageReads
) -> tuple[bytes, ...]:
    """The trie nodes that prove every slot of `reads`, including slots that were never set.

    Raises:
        MissingTrieNodeError: The state is not in the database.
    """
    recording = _RecordingDatabase(database)
    for address, slots in reads.items():
        for slot in slots:
            get_storage(recording, state_root, address, slot)
    return tuple(recording.nodes.values())


class ProvenState:
    """Contract storage under a state root, read from a proof."""

    def __init__(self, state_root: Hash32, nodes: Iterable[bytes]) -> None:
        self._state_root = state_root
        self._nodes = {bytes(keccak256(node)): node for node in nodes}

    def get_storage(self, address: Address, slot: int) -> int:
        """The value of a slot; 0 if it was never set.

        Raises:
            RejectedInputError: CONTENT_MISMATCH if the proof does not contain the way to the slot.
        """
        try:
            return get_storage(self._nodes, self._state_root, address, slot)
        except (trie.StateReadError, IndexError, ValueError) as error:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "state proof") from error

    def get_nonce(self, address: Address) -> int:
        """The number of transactions that an account has sent; 0 if it does not exist.

        Raises:
            RejectedInputError: CONTENT_MISMATCH if the proof does not contain the account.
        """
        try:
            account = get_account(self._nodes, self._state_root, address)
        except (trie.StateReadError, IndexError, ValueError) as error:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "state proof") from error
        return 0 if account is None else account.nonce
