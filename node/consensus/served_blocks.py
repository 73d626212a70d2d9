"""The blocks that this node serves to peers: final blocks, and proposals of the current number."""

from chain.consensus.messages import get_pre_prepare
from chain.consensus.pbft import ReplicaState
from chain.primitives import BlockNumber, Hash32
from chain.types.block import Block
from node.storage.block_store import BlockStore


class ServedBlocks:
    """Finds the blocks that peers request, in the stored chain and in the replica."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.replica: ReplicaState | None = None
        """The latest state of the replica. Consensus sets it; None before consensus starts."""

    def encoded_block(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        """A final block and its certificate, as they are stored; None if they are not held."""
        return self._store.encoded_block(number)

    def encoded_header(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        """A final header and its block's certificate, as stored; None if they are not held."""
        return self._store.encoded_header(number)

    def encoded_receipts(self, number: BlockNumber) -> bytes | None:
        """The receipts of a final block, as stored; None if they are not held."""
        return self._store.encoded_receipts(number)

    def first_held(self) -> BlockNumber:
        """The lowest block number from which on whole blocks are held."""
        return self._store.first_held()

    def find_block(self, block_hash: Hash32) -> bytes | None:
        """The encoded block with that hash, final or proposed; None if it is not held."""
        number = self._store.number_of(block_hash)
        if number is not None:
            pair = self._store.encoded_block(number)
            return None if pair is None else pair[0]
        block = None if self.replica is None else find_proposed(self.replica, block_hash)
        return None if block is None else block.encode()


def find_proposed(replica: ReplicaState, block_hash: Hash32) -> Block | None:
    """The block with that hash among those that a replica holds for its number; None if absent."""
    return next((block for block in list_proposed(replica) if block.hash == block_hash), None)


def list_proposed(replica: ReplicaState) -> list[Block]:
    """The blocks that a replica holds for the number that it decides."""
    proposals = () if replica.proposal is None else (get_pre_prepare(replica.proposal).block,)
    prepared = () if replica.prepared is None else (replica.prepared.block,)
    return [*replica.blocks, *proposals, *prepared]
