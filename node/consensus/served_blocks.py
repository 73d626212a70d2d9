"""The blocks that this node serves to peers: finalized ones, and those being decided."""

from chain.consensus.messages import get_pre_prepare
from chain.consensus.pbft import ReplicaState
from chain.primitives import BlockNumber, Hash32
from chain.types.block import Block
from node.storage.block_store import BlockStore


class ServedBlocks:
    """The finalized chain and the blocks being decided, as peers are served."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.replica: ReplicaState | None = None
        """The latest state of the replica, which consensus puts here; None before it starts."""

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
        """The lowest number of which the whole block is held."""
        return self._store.first_held()

    def find_block(self, block_hash: Hash32) -> bytes | None:
        """A block by its hash, final or being decided; None if it is not held."""
        number = self._store.number_of(block_hash)
        if number is not None:
            pair = self._store.encoded_block(number)
            return None if pair is None else pair[0]
        block = None if self.replica is None else find_proposed(self.replica, block_hash)
        return None if block is None else block.encode()


def find_proposed(replica: ReplicaState, block_hash: Hash32) -> Block | None:
    """A block of the number being decided that a replica holds; None if it holds no such block."""
    return next((block for block in list_proposed(replica) if block.hash == block_hash), None)


def list_proposed(replica: ReplicaState) -> list[Block]:
    """The blocks of the number being decided that a replica holds."""
    proposals = () if replica.proposal is None else (get_pre_prepare(replica.proposal).block,)
    prepared = () if replica.prepared is None else (replica.prepared.block,)
    return [*replica.blocks, *proposals, *prepared]
