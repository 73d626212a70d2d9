"""The finalized chain as clients ask for it (docs/spec/rpc.md, section 2).

Under PBFT a stored block is final: `latest`, `safe` and `finalized` are one, and what was read once
may be kept.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Final

from chain.primitives import EMPTY_TRIE_ROOT, Address, BlockNumber, Hash32
from chain.state import world_state
from chain.state.world_state import ReadableDatabase
from chain.types.account import Account
from chain.types.header import Header
from chain.types.receipt import BLOOM_BYTES
from node.rpc.encoding import ExecutedBlock
from node.rpc.errors import header_not_found, history_not_held
from node.rpc.parameters import BlockSelector, BlockTag
from node.storage.block_store import BlockStore

CACHED_BLOCKS: Final = 64
"""Blocks kept decoded: what wallets ask for again and again is near the head."""


class ChainView:
    """Reads of one block store. Every method may be called from any thread."""

    def __init__(self, store: BlockStore, database: ReadableDatabase) -> None:
        self.store = store
        self.database = database
        self._executed = lru_cache(CACHED_BLOCKS)(self._load_executed)

    def head(self) -> Header:
        """The header of the last finalized block."""
        return self.store.head()

    def find_number(self, selector: BlockSelector) -> BlockNumber | None:
        """The number of the block that `selector` names; None if there is none.

        `pending` is the number of the next block, which is not there yet.

        Raises:
            RpcError: 4444: the block is below the snapshot that this node began with.
        """
        number = self._find_number(selector)
        if number:  # genesis is always held
            self.check_held(number)
        return number

    def check_held(self, number: BlockNumber) -> None:
        """Refuse what is below the snapshot that this node began with.

        Raises:
            RpcError: 4444.
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
        """The header whose state `selector` names; `pending` is the head's.

        Raises:
            RpcError: -32000: there is no such block.
        """
        number = self.find_number(BlockTag.LATEST if selector is BlockTag.PENDING else selector)
        header = None if number is None else self.store.header(number)
        if header is None:
            raise header_not_found()
        return header

    def executed(self, number: BlockNumber) -> ExecutedBlock | None:
        """The block at `number` with its receipts; None past the head."""
        return self._executed(number) if number <= self.store.head_number() else None

    def _load_executed(self, number: BlockNumber) -> ExecutedBlock:
        block, receipts = self.store.block(number), self.store.receipts(number)
        assert block is not None, "at most the head"
        assert receipts is not None, "stored with the block"
        return ExecutedBlock(block, receipts)

    def account(self, address: Address, selector: BlockSelector) -> Account:
        """The account as of a block; one without anything if there is none.

        Raises:
            RpcError: -32000: there is no such block.
        """
        state_root = self.state_header(selector).state_root
        return world_state.get_account(self.database, state_root, address) or Account()

    def code(self, address: Address, selector: BlockSelector) -> bytes:
        """The code as of a block.

        Raises:
            RpcError: -32000: there is no such block.
        """
        state_root = self.state_header(selector).state_root
        return world_state.get_code(self.database, state_root, address)

    def storage(self, address: Address, slot: int, selector: BlockSelector) -> int:
        """A storage slot as of a block.

        Raises:
            RpcError: -32000: there is no such block.
        """
        state_root = self.state_header(selector).state_root
        return world_state.get_storage(self.database, state_root, address, slot)


def build_pending_header(head: Header, base_fee_per_gas: int, timestamp: int) -> Header:
    """The header of an empty child of `head`: what is known of a block that nobody proposed yet."""
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
