"""Finds logs (docs/spec/rpc.md, section 2).

The blooms of headers rule out most blocks; only the receipts of the others are read.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Final

from chain.contracts.events import Event, decode_event
from chain.json_types import JsonObject
from chain.primitives import Address, BlockNumber
from node.rpc.chain_view import ChainView
from node.rpc.encoding import ExecutedBlock, encode_log
from node.rpc.errors import ErrorCode, RpcError, header_not_found, invalid_params
from node.rpc.parameters import BlockTag, LogFilter

BLOCK_RANGE_LIMIT: Final = 10_000
"""Limit of blocks in a query. Public Ethereum services have the same limit, so indexers split their
queries accordingly."""

RESULT_LIMIT: Final = 10_000
"""Limit of logs in an answer."""

SECONDS_LIMIT: Final = 10.0
"""Time limit of a query."""


def find_logs(chain: ChainView, log_filter: LogFilter) -> list[JsonObject]:
    """The logs that match a filter, in the order of the chain.

    This is slow, so call it in a thread.

    Raises:
        RpcError: -32000: There is no such block. -32602: The range is reversed. -32005: The query
            exceeds a limit. 4444: This node does not hold the first block.
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


def find_events(
    chain: ChainView,
    contract: Address,
    topics: Sequence[Sequence[bytes]],
    first: BlockNumber,
    last: BlockNumber,
) -> Iterator[tuple[BlockNumber, Event]]:
    """The events of a system contract between two blocks, each with its block.

    At most the last 10 000 of these blocks are searched, and only those that this node holds. This
    is slow, so call it in a thread.

    Args:
        chain: The chain.
        contract: The contract.
        topics: Groups of words of 32 bytes; the indexed arguments of the events have one of each.
        first: The first block.
        last: The last block, at most the head.
    """
    first = BlockNumber(max(first, chain.store.first_held(), last - BLOCK_RANGE_LIMIT + 1))
    groups = ((contract,), *topics)
    for number in chain.store.block_numbers_with_logs(first, last, groups):
        executed = chain.executed(number)
        assert executed is not None, "at most the head"
        for log in (each for receipt in executed.receipts for each in receipt.logs):
            if log.address == contract and all(
                any(word in log.topics for word in group) for group in topics
            ):
                event = decode_event(log)
                if event is not None:
                    yield number, event


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
    # A range may end above the head; blocks that do not exist yet have no logs.
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
