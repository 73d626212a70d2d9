"""Encodes blocks, transactions and receipts as JSON (docs/spec/rpc.md, section 2).

The names are those of Ethereum's execution APIs.
"""

from dataclasses import dataclass
from functools import cached_property

from chain.crypto import keccak256
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Hash32
from chain.types.block import Block
from chain.types.header import Header
from chain.types.receipt import Log, Receipt
from chain.types.transaction import (
    DYNAMIC_FEE_TYPE,
    LEGACY_TYPE,
    SET_CODE_TYPE,
    Transaction,
    decode_transaction,
)


@dataclass(frozen=True)
class ExecutedBlock:
    """A final block with its receipts. It is immutable, so that it can be cached."""

    block: Block
    receipts: tuple[Receipt, ...]

    @cached_property
    def transaction_hashes(self) -> tuple[Hash32, ...]:
        """The hashes of the block's transactions, in order."""
        return tuple(keccak256(raw) for raw in self.block.transactions)

    @cached_property
    def _decoded(self) -> dict[int, Transaction]:
        return {}

    def transaction(self, index: int) -> Transaction:
        """The transaction at `index`; decoded only once, because recovering its sender is slow."""
        transaction = self._decoded.get(index)
        if transaction is None:
            transaction = decode_transaction(self.block.transactions[index])
            self._decoded[index] = transaction
        return transaction

    @cached_property
    def first_log_indices(self) -> tuple[int, ...]:
        """For each transaction, the position of its first log among the logs of the block."""
        indices, total = [], 0
        for receipt in self.receipts:
            indices.append(total)
            total += len(receipt.logs)
        return tuple(indices)

    def gas_used(self, index: int) -> int:
        """The gas that the transaction at `index` used."""
        before = self.receipts[index - 1].cumulative_gas_used if index else 0
        return self.receipts[index].cumulative_gas_used - before


def quantity(value: int) -> str:
    """An integer in hexadecimal, with the prefix 0x and without leading zeros."""
    return hex(value)


def encode_header(header: Header) -> JsonObject:
    """The JSON fields of a header."""
    return {
        "number": quantity(header.number),
        "hash": to_hex(header.hash),
        "parentHash": to_hex(header.parent_hash),
        "nonce": to_hex(header.nonce),
        "sha3Uncles": to_hex(header.ommers_hash),
        "logsBloom": to_hex(header.logs_bloom),
        "transactionsRoot": to_hex(header.transactions_root),
        "stateRoot": to_hex(header.state_root),
        "receiptsRoot": to_hex(header.receipts_root),
        "miner": to_hex(header.coinbase),
        "difficulty": quantity(header.difficulty),
        "extraData": to_hex(header.extra_data),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "mixHash": to_hex(header.mix_hash),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": to_hex(header.withdrawals_root),
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": to_hex(header.parent_beacon_block_root),
        "requestsHash": to_hex(header.requests_hash),
    }


def encode_block(executed: ExecutedBlock, *, full: bool) -> JsonObject:
    """A block as JSON, with whole transactions if `full`, else with their hashes."""
    block = executed.block
    transactions: list[Json] = (
        [encode_block_transaction(executed, index) for index in range(len(block.transactions))]
        if full
        else [to_hex(transaction_hash) for transaction_hash in executed.transaction_hashes]
    )
    return {
        **encode_header(block.header),
        "size": quantity(len(block.encode())),
        "transactions": transactions,
        "uncles": [],
        "withdrawals": [],
    }


def encode_block_transaction(executed: ExecutedBlock, index: int) -> JsonObject:
    """The transaction at `index` of a block, as JSON."""
    return encode_transaction(executed.transaction(index), executed, index)


def encode_transaction(
    transaction: Transaction, executed: ExecutedBlock | None = None, index: int = 0
) -> JsonObject:
    """A transaction as JSON, with its place in a block; pending if `executed` is None."""
    header = None if executed is None else executed.block.header
    price = (
        transaction.max_fee_per_gas
        if header is None
        else transaction.compute_effective_gas_price(header.base_fee_per_gas)
    )
    encoded: JsonObject = {
        "type": quantity(transaction.type),
        "hash": to_hex(transaction.hash),
        "nonce": quantity(transaction.nonce),
        "blockHash": None if header is None else to_hex(header.hash),
        "blockNumber": None if header is None else quantity(header.number),
        "transactionIndex": None if header is None else quantity(index),
        "from": to_hex(transaction.sender),
        "to": None if transaction.to is None else to_hex(transaction.to),
        "value": quantity(transaction.value),
        "gas": quantity(transaction.gas_limit),
        "gasPrice": quantity(price),
        "input": to_hex(transaction.data),
        "v": quantity(transaction.v),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
    }
    if transaction.chain_id is not None:
        encoded["chainId"] = quantity(transaction.chain_id)
    if transaction.type != LEGACY_TYPE:
        encoded["yParity"] = quantity(transaction.y_parity)
        encoded["accessList"] = [
            {"address": to_hex(address), "storageKeys": [to_hex(key) for key in keys]}
            for address, keys in transaction.access_list
        ]
    if transaction.type in (DYNAMIC_FEE_TYPE, SET_CODE_TYPE):
        encoded["maxFeePerGas"] = quantity(transaction.max_fee_per_gas)
        encoded["maxPriorityFeePerGas"] = quantity(transaction.max_priority_fee_per_gas)
    if transaction.type == SET_CODE_TYPE:
        encoded["authorizationList"] = [
            {
                "chainId": quantity(authorization.chain_id),
                "address": to_hex(authorization.address),
                "nonce": quantity(authorization.nonce),
                "yParity": quantity(authorization.y_parity),
                "r": quantity(authorization.r),
                "s": quantity(authorization.s),
            }
            for authorization in transaction.authorization_list
        ]
    return encoded


def encode_receipt(executed: ExecutedBlock, index: int) -> JsonObject:
    """The receipt of the transaction at `index`, as JSON."""
    header = executed.block.header
    transaction, receipt = executed.transaction(index), executed.receipts[index]
    created = transaction.created_address
    return {
        "type": quantity(transaction.type),
        "transactionHash": to_hex(transaction.hash),
        "transactionIndex": quantity(index),
        "blockHash": to_hex(header.hash),
        "blockNumber": quantity(header.number),
        "from": to_hex(transaction.sender),
        "to": None if transaction.to is None else to_hex(transaction.to),
        "cumulativeGasUsed": quantity(receipt.cumulative_gas_used),
        "gasUsed": quantity(executed.gas_used(index)),
        "contractAddress": None if created is None else to_hex(created),
        "logs": list(encode_logs(executed, index)),
        "logsBloom": to_hex(receipt.logs_bloom),
        "status": quantity(receipt.status),
        "effectiveGasPrice": quantity(
            transaction.compute_effective_gas_price(header.base_fee_per_gas)
        ),
    }


def encode_logs(executed: ExecutedBlock, index: int) -> list[JsonObject]:
    """The logs of the transaction at `index`, as JSON."""
    first = executed.first_log_indices[index]
    return [
        encode_log(executed, index, first + position, log)
        for position, log in enumerate(executed.receipts[index].logs)
    ]


def encode_log(executed: ExecutedBlock, index: int, log_index: int, log: Log) -> JsonObject:
    """A log of the transaction at `index`, as JSON; `log_index` is its position in the block."""
    return {
        "address": to_hex(log.address),
        "topics": [to_hex(topic) for topic in log.topics],
        "data": to_hex(log.data),
        "blockNumber": quantity(executed.block.number),
        "transactionHash": to_hex(executed.transaction_hashes[index]),
        "transactionIndex": quantity(index),
        "blockHash": to_hex(executed.block.hash),
        "logIndex": quantity(log_index),
        "removed": False,
    }
