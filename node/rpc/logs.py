"""Finding logs: blooms first, then receipts of the blocks that are left (docs/spec/rpc.md, 2)."""

import time
from typing import Final

from chain.json_types import JsonObject
from chain.primitives import BlockNumber
from node.rpc.chain_view import ChainView
from node.rpc.encoding import ExecutedBlock, encode_log
from node.rpc.errors import ErrorCode, RpcError, header_not_found, invalid_params
from node.rpc.parameters import BlockTag, LogFilter

BLOCK_RANGE_LIMIT: Final = 10_000
"""Blocks of one query; what public Ethereum services allow, so indexers page by it."""

RESULT_LIMIT: Final = 10_000
"""Logs of one answer."""

SECONDS_LIMIT: Final = 10.0
"""Of one query."""


def find_logs(chain: ChainView, log_filter: LogFilter) -> list[JsonObject]:
    """The logs that `log_filter` asks for, in chain order. Slow: call it from a worker thread.

    Raises:
        RpcError: -32000: no such block; -32602: the range is reversed; -32005: too much.
    """
    deadline = time.monotonic() + SECONDS_LIMIT
    found: list[JsonObject] = []
    for number in _candidates(chain, log_filter):
        executed = chain.executed(number)
        if executed is None:
            continue
        found += _matching_logs(executed, log_filter)
        if len(found) > RESULT_LIMIT:
            raise RpcError(
                ErrorCode.LIMIT_EXCEEDED, f"query returned more than {RESULT_LIMIT} results"
            )
        if time.monotonic() > deadline:
            raise RpcError(ErrorCode.LIMIT_EXCEEDED, "query timeout exceeded: ask for fewer blocks")
    return found


def _candidates(chain: ChainView, log_filter: LogFilter) -> tuple[BlockNumber, ...]:
    if log_filter.block_hash is not None:
        number = chain.find_number(log_filter.block_hash)
        if number is None:
            raise header_not_found()
        return (number,)
    first, last = _bound(chain, log_filter.from_block), _bound(chain, log_filter.to_block)
    if first > last:
        raise invalid_params("invalid block range params: fromBlock is after toBlock")
    chain.check_held(first)
    last = min(last, chain.store.head_number())
    if last - first >= BLOCK_RANGE_LIMIT:
        raise RpcError(ErrorCode.LIMIT_EXCEEDED, f"exceed maximum block range: {BLOCK_RANGE_LIMIT}")
    return chain.store.block_numbers_with_logs(
        first, last, (log_filter.addresses, *log_filter.topics)
    )


def _bound(chain: ChainView, selector: BlockTag | BlockNumber) -> BlockNumber:
    # A range may reach past the head: what is not there yet has no logs.
    if isinstance(selector, int):
        return selector
    number = chain.find_number(BlockTag.LATEST if selector is BlockTag.PENDING else selector)
    assert number is not None, "a tag always names a block"
    return number


def _matching_logs(executed: ExecutedBlock, log_filter: LogFilter) -> list[JsonObject]:
    return [
        encode_log(executed, index, executed.first_log_indices[index] + position, log)
        for index, receipt in enumerate(executed.receipts)
        for position, log in enumerate(receipt.logs)
        if log_filter.matches(log.address, log.topics)
    ]
