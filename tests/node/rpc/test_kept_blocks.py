"""The decoded blocks that the RPC service keeps."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from chain.primitives import BlockNumber
from node.rpc.chain_view import CACHED_BLOCKS, CACHED_GAS, ChainView
from tests.worlds.chain import Chain


@pytest.mark.parametrize(
    ("gas_used", "kept"), [(0, CACHED_BLOCKS), (30_000_000, CACHED_GAS // 30_000_000)]
)
def test_blocks_that_used_more_gas_are_kept_in_smaller_number(gas_used: int, kept: int) -> None:
    block = Chain().build(()).block
    block = replace(block, header=replace(block.header, gas_used=gas_used))
    store: Any = SimpleNamespace(
        head_number=lambda: 1_000, block=lambda _number: block, receipts=lambda _number: ()
    )
    view = ChainView(store, {})
    seen = [weakref.ref(view.executed(BlockNumber(number))) for number in range(100)]
    gc.collect()
    assert [reference() is not None for reference in seen] == [False] * (100 - kept) + [True] * kept
    assert view.executed(BlockNumber(99)) is seen[-1]()
    assert view.executed(BlockNumber(1_001)) is None
