"""The methods that Ethereum's wallets and libraries call (docs/spec/rpc.md, section 2)."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from chain.crypto import keccak256
from chain.execution.call_values import AccountOverride, CallRequest
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.header import Header
from chain.types.transaction import decode_transaction
from node.ipc.client import IpcError, IpcRefusedError, NodeLink
from node.ipc.turns import SharedTurns
from node.rpc import parameters
from node.rpc.call_objects import parse_call, parse_overrides
from node.rpc.calls import CallExecutor
from node.rpc.chain_view import ChainView, build_pending_header
from node.rpc.dispatch import Method
from node.rpc.encoding import (
    encode_block,
    encode_block_transaction,
    encode_header,
    encode_receipt,
    encode_transaction,
    quantity,
)
from node.rpc.errors import ErrorCode, RpcError, build_rejection
from node.rpc.fees import HISTORY_LIMIT, FeeOracle, parse_percentiles
from node.rpc.logs import find_logs
from node.rpc.parameters import BlockTag, Parameters, parse_address, parse_block, parse_hash

SLOW_READS: Final = 2
"""Limit of reads of many blocks at the same time. Others wait, so that threads remain for short
requests."""

BLOCK_READS: Final = 2
"""Limit of blocks, receipts and transactions that are decoded and shown at the same time. A receipt
with 40 000 logs takes up to 1.2 s, and the question has 100 bytes."""

SYNC_TOLERANCE_BLOCKS: Final = 2
"""A node that is at most this far behind its best peer does not report that it syncs, because
blocks need time to arrive."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _AskedCall:
    """The parsed parameters of `eth_call` and `eth_estimateGas`."""

    header: Header
    call: CallRequest
    overrides: Mapping[Address, AccountOverride]
    is_pending: bool


class EthMethods:
    """The methods `eth_`, `net_`, `web3_`, `txpool_` and `rpc_modules`."""

    def __init__(
        self,
        *,
        chain: ChainView,
        chain_id: int,
        client_version: str,
        node: NodeLink,
        fees: FeeOracle,
        calls: CallExecutor,
    ) -> None:
        self._chain = chain
        self._chain_id = chain_id
        self._client_version = client_version
        self._node = node
        self._fees = fees
        self._calls = calls
        self._slow_reads = SharedTurns(SLOW_READS)
        self._block_reads = SharedTurns(BLOCK_READS)

    def table(self) -> Mapping[str, Method]:
        """The methods by name."""
        return {
            "eth_accounts": self._accounts,
            "eth_blockNumber": self._block_number,
            "eth_call": self._call,
            "eth_chainId": self._get_chain_id,
            "eth_estimateGas": self._estimate_gas,
            "eth_feeHistory": self._fee_history,
            "eth_gasPrice": self._gas_price,
            "eth_getBalance": self._get_balance,
            "eth_getBlockByHash": self._get_block_by_hash,
            "eth_getBlockByNumber": self._get_block_by_number,
            "eth_getBlockReceipts": self._get_block_receipts,
            "eth_getBlockTransactionCountByHash": self._count_by_hash,
            "eth_getBlockTransactionCountByNumber": self._count_by_number,
            "eth_getCode": self._get_code,
            "eth_getLogs": self._get_logs,
            "eth_getRawTransactionByBlockHashAndIndex": self._get_raw_by_block_hash,
            "eth_getRawTransactionByBlockNumberAndIndex": self._get_raw_by_block_number,
            "eth_getRawTransactionByHash": self._get_raw_transaction,
            "eth_getStorageAt": self._get_storage_at,
            "eth_getTransactionByBlockHashAndIndex": self._get_by_block_hash,
            "eth_getTransactionByBlockNumberAndIndex": self._get_by_block_number,
            "eth_getTransactionByHash": self._get_transaction,
            "eth_getTransactionCount": self._get_transaction_count,
            "eth_getTransactionReceipt": self._get_receipt,
            "eth_getUncleByBlockHashAndIndex": self._uncle_by_hash,
            "eth_getUncleByBlockNumberAndIndex": self._uncle_by_number,
            "eth_getUncleCountByBlockHash": self._uncle_count_by_hash,
            "eth_getUncleCountByBlockNumber": self._uncle_count_by_number,
            "eth_maxPriorityFeePerGas": self._max_priority_fee,
            "eth_sendRawTransaction": self._send_raw_transaction,
            "eth_syncing": self._syncing,
            "net_listening": self._listening,
            "net_peerCount": self._peer_count,
            "net_version": self._net_version,
            "rpc_modules": self._modules,
            "txpool_contentFrom": self._pool_content,
            "txpool_status": self._pool_status,
            "web3_clientVersion": self._get_client_version,
            "web3_sha3": self._sha3,
        }

    async def _slow(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._slow_reads.run(function, *args, **kwargs)

    async def _read(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._block_reads.run(function, *args, **kwargs)

    async def _ask_node(self, method: str, params: JsonObject | None = None) -> Json:
        try:
            return await self._node.call(method, params)
        except IpcError as error:
            raise RpcError(ErrorCode.UNAVAILABLE, str(error)) from error

    # Constants of the chain.

    async def _accounts(self, params: Parameters) -> Json:
        params.end()
        return []

    async def _get_chain_id(self, params: Parameters) -> Json:
        params.end()
        return quantity(self._chain_id)

    async def _net_version(self, params: Parameters) -> Json:
        params.end()
        return str(self._chain_id)

    async def _get_client_version(self, params: Parameters) -> Json:
        params.end()
        return self._client_version

    async def _modules(self, params: Parameters) -> Json:
        params.end()
        return dict.fromkeys(("eth", "net", "pot", "rpc", "txpool", "web3"), "1.0")

    async def _sha3(self, params: Parameters) -> Json:
        value = params.required("data", parameters.parse_data)
        params.end()
        return to_hex(keccak256(value))

    # The node.

    async def _syncing(self, params: Parameters) -> Json:
        params.end()
        state = await self._ask_node("sync_state")
        best = state.get("best") if isinstance(state, dict) else None
        head = self._chain.store.head_number()
        if not isinstance(best, int) or best <= head + SYNC_TOLERANCE_BLOCKS:
            return False
        return {
            "startingBlock": quantity(0),
            "currentBlock": quantity(head),
            "highestBlock": quantity(best),
        }

    async def _listening(self, params: Parameters) -> Json:
        params.end()
        return self._node.is_connected

    async def _peer_count(self, params: Parameters) -> Json:
        params.end()
        state = await self._ask_node("sync_state")
        peers = state.get("peers") if isinstance(state, dict) else None
        return quantity(peers if isinstance(peers, int) else 0)

    async def _pool_status(self, params: Parameters) -> Json:
        params.end()
        counts = await self._ask_node("pool_counts")
        assert isinstance(counts, dict)
        return {name: quantity(count) for name, count in counts.items() if isinstance(count, int)}

    async def _pool_content(self, params: Parameters) -> Json:
        address = params.required("address", parse_address)
        params.end()
        waiting = await self._ask_node("waiting_transactions", {"address": to_hex(address)})
        assert isinstance(waiting, dict)
        content: JsonObject = {}
        for kind, names in waiting.items():
            assert isinstance(names, list)
            found = [await self._pooled(parse_hash(name)) for name in names]
            # Decoding takes 0.1 ms for each, and up to 8 ms with long lists.
            content[kind] = await self._slow(_show_pooled, found)
        return content

    # State.

    async def _get_balance(self, params: Parameters) -> Json:
        address = params.required("address", parse_address)
        block = params.optional("block", parse_block, BlockTag.LATEST)
        params.end()
        return quantity(self._chain.account(address, block).balance)

    async def _get_transaction_count(self, params: Parameters) -> Json:
        address = params.required("address", parse_address)
        block = params.optional("block", parse_block, BlockTag.LATEST)
        params.end()
        nonce = self._chain.account(address, block).nonce
        if block is BlockTag.PENDING:
            pending = await self._ask_node("pending_nonce", {"address": to_hex(address)})
            if isinstance(pending, int):
                nonce = max(nonce, pending)
        return quantity(nonce)

    async def _get_code(self, params: Parameters) -> Json:
        address = params.required("address", parse_address)
        block = params.optional("block", parse_block, BlockTag.LATEST)
        params.end()
        return to_hex(self._chain.code(address, block))

    async def _get_storage_at(self, params: Parameters) -> Json:
        address = params.required("address", parse_address)
        slot = params.required("slot", parameters.parse_slot)
        block = params.optional("block", parse_block, BlockTag.LATEST)
        params.end()
        return to_hex(self._chain.storage(address, slot, block).to_bytes(32, "big"))

    async def _call(self, params: Parameters) -> Json:
        asked = await self._read_call(params, BlockTag.LATEST)
        return to_hex(
            await self._calls.call(
                asked.header, asked.call, asked.overrides, is_pending=asked.is_pending
            )
        )

    async def _estimate_gas(self, params: Parameters) -> Json:
        # A transaction that is sent now gets into the next block, where a new phase may begin.
        asked = await self._read_call(params, BlockTag.PENDING)
        return quantity(
            await self._calls.estimate_gas(
                asked.header, asked.call, asked.overrides, is_pending=asked.is_pending
            )
        )

    async def _read_call(self, params: Parameters, default_block: BlockTag) -> _AskedCall:
        call = params.required("transaction", parameters.parse_object)
        block = params.optional("block", parse_block, default_block)
        overrides = params.optional("state override", parameters.parse_object, None) or {}
        params.end()
        header = self._chain.state_header(block)
        is_pending = block is BlockTag.PENDING
        base_fee = self._fees.compute_base_fee(header) if is_pending else header.base_fee_per_gas

        def parse() -> _AskedCall:
            return _AskedCall(
                header, parse_call(call, base_fee), parse_overrides(overrides), is_pending
            )

        # Parsing the largest body takes half a second, so it is done in a thread. A call without
        # lists takes 0.01 ms.
        is_large = bool(overrides or call.get("accessList"))
        return await self._slow(parse) if is_large else parse()

    # Fees.

    async def _gas_price(self, params: Parameters) -> Json:
        params.end()
        price = self._fees.next_base_fee() + await self._slow(self._fees.suggest_tip)
        return quantity(max(price, await self._ask_price()))

    async def _max_priority_fee(self, params: Parameters) -> Json:
        params.end()
        tip = await self._slow(self._fees.suggest_tip)
        return quantity(max(tip, await self._ask_price() - self._fees.next_base_fee()))

    async def _fee_history(self, params: Parameters) -> Json:
        count = params.required(
            "blockCount",
            lambda value: parameters.parse_integer(value, low=0, high=2**64 - 1),
        )
        newest = params.required("newestBlock", parse_block)
        percentiles = params.optional("rewardPercentiles", parse_percentiles, None)
        params.end()
        price = await self._ask_price() if percentiles else 0
        limited = min(count, HISTORY_LIMIT)
        return await self._slow(self._fees.history, limited, newest, percentiles, price)

    async def _ask_price(self) -> int:
        """The node's gas price, in wei, while free transactions have to wait; else 0."""
        try:
            price = await self._node.call("gas_price")
        except IpcError:
            return 0  # as without a node: the chain alone suggests a price
        return price if isinstance(price, int) else 0

    # Blocks.

    async def _block_number(self, params: Parameters) -> Json:
        params.end()
        return quantity(self._chain.store.head_number())

    async def _get_block_by_number(self, params: Parameters) -> Json:
        block = params.required("block", parse_block)
        full = params.optional("full", parameters.parse_bool, default=False)
        params.end()
        if block is BlockTag.PENDING:
            return self._pending_block()
        return await self._read(self._encode_block, self._chain.find_number(block), full=full)

    async def _get_block_by_hash(self, params: Parameters) -> Json:
        block_hash = params.required("hash", parse_hash)
        full = params.optional("full", parameters.parse_bool, default=False)
        params.end()
        number = self._chain.find_number(block_hash)
        return await self._read(self._encode_block, number, full=full)

    def _encode_block(self, number: BlockNumber | None, *, full: bool) -> Json:
        executed = None if number is None else self._chain.executed(number)
        return None if executed is None else encode_block(executed, full=full)

    def _pending_block(self) -> Json:
        header = build_pending_header(
            self._chain.head(), self._fees.next_base_fee(), int(time.time())
        )
        return {
            **encode_header(header),
            "hash": None,
            "nonce": None,
            "miner": None,
            "size": quantity(len(header.encode())),
            "transactions": [],
            "uncles": [],
            "withdrawals": [],
        }

    async def _get_block_receipts(self, params: Parameters) -> Json:
        number = self._chain.find_number(params.required("block", parse_block))
        params.end()
        return await self._read(self._show_receipts, number)

    def _show_receipts(self, number: BlockNumber | None) -> Json:
        executed = None if number is None else self._chain.executed(number)
        if executed is None:
            return None
        return [encode_receipt(executed, index) for index in range(len(executed.receipts))]

    async def _count_by_hash(self, params: Parameters) -> Json:
        number = self._chain.find_number(params.required("hash", parse_hash))
        params.end()
        return await self._read(self._count, number)

    async def _count_by_number(self, params: Parameters) -> Json:
        number = self._chain.find_number(params.required("block", parse_block))
        params.end()
        return await self._read(self._count, number)

    def _count(self, number: BlockNumber | None) -> Json:
        executed = None if number is None else self._chain.executed(number)
        return None if executed is None else quantity(len(executed.receipts))

    async def _uncle_count_by_hash(self, params: Parameters) -> Json:
        number = self._chain.find_number(params.required("hash", parse_hash))
        params.end()
        return None if number is None else quantity(0)

    async def _uncle_count_by_number(self, params: Parameters) -> Json:
        number = self._chain.find_number(params.required("block", parse_block))
        params.end()
        return None if number is None else quantity(0)

    async def _uncle_by_hash(self, params: Parameters) -> Json:
        params.required("hash", parse_hash)
        params.required("index", parameters.parse_quantity)
        params.end()
        return None

    async def _uncle_by_number(self, params: Parameters) -> Json:
        params.required("block", parse_block)
        params.required("index", parameters.parse_quantity)
        params.end()
        return None

    async def _get_logs(self, params: Parameters) -> Json:
        log_filter = params.required("filter", parameters.parse_filter)
        params.end()
        return list(await self._slow(find_logs, self._chain, log_filter))

    # Transactions.

    async def _send_raw_transaction(self, params: Parameters) -> Json:
        # Only the length is checked here. Decoding takes 0.1 ms, nearly all of it for the
        # signature, and up to 8 ms with long lists. Doing it here, too, would not protect the
        # node, because an attacker can sign junk.
        raw = params.required("data", parameters.parse_data)
        params.end()
        try:
            answer = await self._ask_node("submit_transaction", {"raw": to_hex(raw)})
        except IpcRefusedError as error:
            raise build_rejection(error.reason, error.message) from error
        assert isinstance(answer, dict)
        return answer["hash"]

    async def _pooled(self, transaction_hash: Hash32) -> bytes | None:
        try:
            raw = await self._node.call("pooled_transaction", {"hash": to_hex(transaction_hash)})
        except IpcError:
            return None  # without the node, only final transactions are known
        return parameters.parse_data(raw) if raw is not None else None

    async def _get_transaction(self, params: Parameters) -> Json:
        transaction_hash = params.required("hash", parse_hash)
        params.end()
        location = self._chain.store.transaction_location(transaction_hash)
        if location is None:
            raw = await self._pooled(transaction_hash)
            return None if raw is None else await self._read(_show_transaction, raw)
        return await self._read(self._encode_at, location[0], location[1])

    async def _get_raw_transaction(self, params: Parameters) -> Json:
        transaction_hash = params.required("hash", parse_hash)
        params.end()
        location = self._chain.store.transaction_location(transaction_hash)
        if location is None:
            raw = await self._pooled(transaction_hash)
            return None if raw is None else to_hex(raw)
        return await self._read(self._raw_at, location[0], location[1])

    async def _get_receipt(self, params: Parameters) -> Json:
        transaction_hash = params.required("hash", parse_hash)
        params.end()
        location = self._chain.store.transaction_location(transaction_hash)
        if location is None:
            return None
        return await self._read(self._show_receipt, location[0], location[1])

    def _show_receipt(self, number: BlockNumber, index: int) -> Json:
        executed = self._chain.executed(number)
        return None if executed is None else encode_receipt(executed, index)

    async def _get_by_block_hash(self, params: Parameters) -> Json:
        return await self._read(self._encode_at, *self._read_place(params, parse_hash))

    async def _get_by_block_number(self, params: Parameters) -> Json:
        return await self._read(self._encode_at, *self._read_place(params, parse_block))

    async def _get_raw_by_block_hash(self, params: Parameters) -> Json:
        return await self._read(self._raw_at, *self._read_place(params, parse_hash))

    async def _get_raw_by_block_number(self, params: Parameters) -> Json:
        return await self._read(self._raw_at, *self._read_place(params, parse_block))

    def _read_place(
        self, params: Parameters, parse: Callable[[Json], parameters.BlockSelector]
    ) -> tuple[BlockNumber | None, int]:
        number = self._chain.find_number(params.required("block", parse))
        index = params.required("index", parameters.parse_uint64)
        params.end()
        return number, index

    def _encode_at(self, number: BlockNumber | None, index: int) -> Json:
        executed = None if number is None else self._chain.executed(number)
        if executed is None or index >= len(executed.receipts):
            return None
        return encode_block_transaction(executed, index)

    def _raw_at(self, number: BlockNumber | None, index: int) -> Json:
        executed = None if number is None else self._chain.executed(number)
        if executed is None or index >= len(executed.receipts):
            return None
        return to_hex(executed.block.transactions[index])


def _show_transaction(raw: bytes) -> Json:
    return encode_transaction(decode_transaction(raw))


def _show_pooled(raws: Sequence[bytes | None]) -> JsonObject:
    """Transactions of an account by their nonce; one that left the mempool meanwhile is None."""
    transactions = [decode_transaction(raw) for raw in raws if raw is not None]
    return {str(each.nonce): encode_transaction(each) for each in transactions}
