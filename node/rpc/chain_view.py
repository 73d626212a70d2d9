"""Reads blocks and states of the finalized chain for clients (docs/spec/rpc.md, section 2).

Under PBFT each stored block is final. Therefore `latest`, `safe` and `finalized` are the same
block, and decoded blocks can be cached for ever.
"""

from dataclasses import replace
from typing import Final

from chain.primitives import EMPTY_TRIE_ROOT, Address, BlockNumber, Hash32
from chain.state import world_state
from chain.state.world_state import ReadableDatabase
from chain.types.account import Account
from chain.types.header import Header
from chain.types.receipt import BLOOM_BYTES
from node.chain.row_cache import RowCache
from node.rpc.encoding import ExecutedBlock
from node.rpc.errors import header_not_found, history_not_held
from node.rpc.parameters import BlockSelector, BlockTag
from node.storage.block_store import BlockStore

CACHED_BLOCKS: Final = 64
"""Limit of cached decoded blocks: wallets read the blocks near the head again and again."""

CACHED_GAS: Final = 8 * 30_000_000
"""Limit of the gas that the cached blocks used, eight full ones with the default limits. Decoded
logs take the most bytes for their gas: those of so many blocks take 80 MB."""


def _share_of_cache(executed: ExecutedBlock) -> int:
    return max(executed.block.header.gas_used, CACHED_GAS // CACHED_BLOCKS)


class ChainView:
    """Reads one block store. All methods may be called from any thread."""

    def __init__(self, store: BlockStore, database: ReadableDatabase) -> None:
        self.store = store
        self.database = database
        self._executed: RowCache[BlockNumber, ExecutedBlock] = RowCache(CACHED_GAS, _share_of_cache)

    def head(self) -> Header:
        """The header of the last final block."""
        return self.store.head()

    def find_number(self, selector: BlockSelector) -> BlockNumber | None:
        """The number of the block that `selector` names; None if there is no such block.

        For `pending`, it is the number of the next block, which does not exist yet.

        Raises:
            RpcError: 4444: The block is below the snapshot that this node began with.
        """
        number = self._find_number(selector)
        if number:  # every node holds block 0
            self.check_held(number)
        return number

    def check_held(self, number: BlockNumber) -> None:
        """Refuse a block below the snapshot that this node began with.

        Raises:
            RpcError: 4444: The block is below the snapshot.
        """
        first_held = self.store.first_held()
        if number < first_held:
            raise history_not_held(first_held)

    def _find_number(self, selector: BlockSelector) -> BlockNumber | None:
        match selector:
            case BlockTag.EARLIEST:
                return BlockNumber(0)
            case BlockTag.PENDING:
                return BlockNumber(self.store.head_number() + 1)
            case BlockTag():
                return self.store.head_number()
            case int():
                return selector if selector <= self.store.head_number() else None
            case bytes():
                return self.store.number_of(selector)

    def state_header(self, selector: BlockSelector) -> Header:
        """The header of the block with the state that `selector` names; for `pending`, the head.

        Raises:
            RpcError: -32000: There is no such block. 4444: This node does not hold it.
        """
        number = self.find_number(BlockTag.LATEST if selector is BlockTag.PENDING else selector)
        header = None if number is None else self.store.header(number)
        if header is None:
            raise header_not_found()
        return header

    def executed(self, number: BlockNumber) -> ExecutedBlock | None:
        """The block at `number` with its receipts; None if it is above the head."""
        if number > self.store.head_number():
            return None
        executed = self._executed.get(number)
        if executed is None:
            executed = self._load_executed(number)
            self._executed.put(number, executed)
        return executed

    def _load_executed(self, number: BlockNumber) -> ExecutedBlock:
        block, receipts = self.store.block(number), self.store.receipts(number)
        assert block is not None, "at most the head"
        assert receipts is not None, "stored with the block"
        return ExecutedBlock(block, receipts)

    def account(self, address: Address, selector: BlockSelector) -> Account:
        """The account in the state of a block; an empty account if it does not exist.

        Raises:
            RpcError: -32000: There is no such block. 4444: This node does not hold it.
        """
        state_root = self.state_header(selector).state_root
        return world_state.get_account(self.database, state_root, address) or Account()

    def code(self, address: Address, selector: BlockSelector) -> bytes:
        """The code of an account in the state of a block.

        Raises:
            RpcError: -32000: There is no such block. 4444: This node does not hold it.
        """
        state_root = self.state_header(selector).state_root
        return world_state.get_code(self.database, state_root, address)

    def storage(self, address: Address, slot: int, selector: BlockSelector) -> int:
        """The value of a storage slot in the state of a block.

        Raises:
            RpcError: -32000: There is no such block. 4444: This node does not hold it.
        """
        state_root = self.state_header(selector).state_root
        return world_state.get_storage(self.database, state_root, address, slot)


def build_pending_header(head: Header, base_fee_per_gas: int, timestamp: int) -> Header:
    """The header of an empty child of `head`, which stands for the block that comes next."""
    return replace(
        head,
        parent_hash=head.hash,
        number=BlockNumber(head.number + 1),
        timestamp=max(head.timestamp, timestamp),
        base_fee_per_gas=base_fee_per_gas,
        gas_used=0,
        logs_bloom=bytes(BLOOM_BYTES),
        transactions_root=EMPTY_TRIE_ROOT,
        receipts_root=EMPTY_TRIE_ROOT,
        extra_data=b"",
        mix_hash=Hash32(bytes(32)),
    )
