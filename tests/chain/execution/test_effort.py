"""A transaction pays for the time of its execution, if its gas does not."""

import tracemalloc
from functools import lru_cache

import pytest

from chain.execution import effort
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import CallRequest
from chain.execution.code_analysis import (
    CACHED_CODE_BYTES,
    CODE_CACHE_SIZE,
    CodeAnalysis,
    analyze_code,
    analyze_contract_code,
)
from chain.execution.effort import (
    CODE_TICKS_A_KIB,
    DATA_BYTES_A_TICK,
    OPCODE_TICKS,
    PRECOMPILE_BASE_TICKS,
    PRECOMPILE_TICKS,
    EffortExceededError,
    EffortMeter,
)
from chain.execution.evm import call, estimate_gas
from chain.execution.precompiles import PRECOMPILES
from chain.genesis import GenesisAccount
from chain.primitives import Address
from chain.state.world_state import get_account, get_storage
from tests.worlds.chain import ALICE, BOB, Chain, genesis_config, sign

SLOW = Address(b"\x99" * 20)
CALLER = Address(b"\x98" * 20)
BALANCE = 0x31
GAS_PER_TICK = 1_000
"""Far above the default, so that few opcodes are much effort."""

READ_TEN_TIMES = "303150" * 10
"""ADDRESS, BALANCE and POP: 31 opcodes with the STOP at the end."""
TICKS = 31 + 10 * OPCODE_TICKS[BALANCE] + 10 * OPCODE_TICKS[0x30] + OPCODE_TICKS[0]


def chain_with(slow: str, caller: str = "", *, gas_per_tick: int = GAS_PER_TICK) -> Chain:
    alloc = {
        SLOW: GenesisAccount(nonce=1, code=bytes.fromhex(slow)),
        CALLER: GenesisAccount(nonce=1, code=bytes.fromhex(caller)),
    }
    return Chain(genesis_config(alloc, gas_per_tick=gas_per_tick))


def run(chain: Chain, gas: int, to: Address = SLOW) -> tuple[int, int]:
    """The status and the gas used of a transaction; building and importing agree."""
    built = chain.build([sign(ALICE, 0, to, gas=gas)])
    assert chain.apply(built.block) == built.result
    (receipt,) = built.result.receipts
    return receipt.status, receipt.cumulative_gas_used


def test_transaction_pays_for_its_effort_if_that_is_more_than_its_gas() -> None:
    chain = chain_with(READ_TEN_TIMES)
    code_ticks = len(READ_TEN_TIMES) // 2 * CODE_TICKS_A_KIB // 1024
    effort = (TICKS + code_ticks) * GAS_PER_TICK
    assert run(chain, effort) == (1, effort)
    assert run(chain, 10_000_000) == (1, effort)
    assert run(chain_with(READ_TEN_TIMES, gas_per_tick=1), 100_000) == (1, 21_000 + 10 * 104)
    assert run(chain_with(READ_TEN_TIMES, gas_per_tick=0), 100_000) == (1, 21_000 + 10 * 104)


def test_gas_limit_below_the_effort_fails_the_transaction_and_is_all_paid() -> None:
    chain = chain_with("60015f55" + READ_TEN_TIMES)
    effort = run(chain, 10_000_000)[1]
    assert run(chain, effort - 1) == (0, effort - 1)
    built = chain.build([sign(ALICE, 0, SLOW, value=1, gas=effort - 1), sign(BOB, 0, SLOW)])
    state_root = built.block.header.state_root
    database = {**chain.database, **built.result.delta}
    assert get_storage(database, state_root, SLOW, 0) == 0
    slow = get_account(database, state_root, SLOW)
    assert slow is not None
    assert slow.balance == 0


def test_a_caller_cannot_go_on_after_a_callee_used_up_the_effort() -> None:
    # The callee loops for ever on little gas; the caller would store 1 after the call.
    caller = "5f5f5f5f5f73" + SLOW.hex() + "61fffff150" + "60015f55"
    endless = "5b3031505f56"
    assert run(chain_with(endless, caller, gas_per_tick=0), 200_000, CALLER)[0] == 1
    assert run(chain_with(endless, caller), 200_000, CALLER) == (0, 200_000)


def test_an_estimate_covers_the_effort_and_less_gas_fails() -> None:
    chain = chain_with(READ_TEN_TIMES)
    effort = run(chain, 10_000_000)[1]
    environment = BlockEnvironment.after(
        chain.head, chain.config, coinbase=CALLER, timestamp=chain.head.timestamp
    )
    root = chain.head.state_root
    assert estimate_gas(chain.database, root, environment, CallRequest(to=SLOW)) == effort
    result = call(chain.database, root, environment, CallRequest(to=SLOW, gas_limit=effort - 1))
    assert (result.is_success, result.is_revert, result.gas_used) == (False, False, effort - 1)
    assert result.error.startswith("OutOfGas")


def test_the_jump_analysis_of_a_code_counts_once_a_transaction() -> None:
    meter = EffortMeter(2 * CODE_TICKS_A_KIB - 1)
    meter.analyze(bytes(1024), is_init_code=False)
    meter.analyze(bytes(1024), is_init_code=True)
    assert meter.ticks == CODE_TICKS_A_KIB
    with pytest.raises(EffortExceededError):
        meter.analyze(b"\x01" * 1024, is_init_code=False)


def test_no_code_is_analyzed_more_often_than_a_transaction_pays_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    analyzed: list[bytes] = []

    def analyze(code: bytes) -> CodeAnalysis:
        analyzed.append(code)
        return analyze_code(code)

    monkeypatch.setattr(effort, "analyze_code", analyze)
    monkeypatch.setattr(effort, "analyze_contract_code", lru_cache(maxsize=2)(analyze))
    # The caller goes over three contracts, one more than the cache holds, and over the same init
    # code, four times.
    callees = {
        Address(bytes([0x77] * 19 + [n])): GenesisAccount(nonce=1, code=bytes([n, 0]))
        for n in (0x3A, 0x3D, 0x34)
    }
    cycle = "".join("5f5f5f5f73" + address.hex() + "5afa50" for address in callees)
    body = (cycle + "6130005f52" + "6002601e5ff050") * 4
    alloc = {CALLER: GenesisAccount(nonce=1, code=bytes.fromhex(body)), **callees}
    run(Chain(genesis_config(alloc)), 10_000_000, CALLER)
    codes = [bytes.fromhex(body), *(account.code for account in callees.values()), b"\x30\x00"]
    assert sorted(analyzed) == sorted(codes * 2)  # once to build and once to import


def test_analyses_that_outlive_transactions_take_few_bytes() -> None:
    analyze_contract_code.cache_clear()
    tracemalloc.start()
    for number in range(CODE_CACHE_SIZE + 32):
        # PUSH32 makes the analysis quick.
        code = number.to_bytes(4, "big").ljust(CACHED_CODE_BYTES, b"\x7f")
        EffortMeter(10**9).analyze(code, is_init_code=False)
        if number >= CODE_CACHE_SIZE:
            EffortMeter(10**9).analyze(code[::-1], is_init_code=True)
            EffortMeter(10**9).analyze(code + code, is_init_code=False)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert analyze_contract_code.cache_info().misses == CODE_CACHE_SIZE + 32
    assert held_bytes < 19 * 2**20


def test_copied_call_data_is_effort() -> None:
    # CALL with so many bytes of memory, which were allocated before.
    size = 64 * DATA_BYTES_A_TICK
    expand = "5f63" + (size - 32).to_bytes(4, "big").hex() + "52"

    def pay(data_bytes: int) -> int:
        body = "5f5f63" + data_bytes.to_bytes(4, "big").hex() + "5f5f73" + SLOW.hex() + "5af1"
        return run(chain_with("", expand + body), 10_000_000, CALLER)[1]

    assert pay(size) - pay(0) == 64 * GAS_PER_TICK


def test_effort_of_a_precompile_follows_from_its_gas() -> None:
    # STATICCALL of ECRECOVER, which charges 3000 gas for any data.
    body = "5f5f5f5f60015afa50"
    once, twice = (
        run(chain_with("", body * count), 10_000_000, CALLER)[1] // GAS_PER_TICK for count in (1, 2)
    )
    ticks = PRECOMPILE_BASE_TICKS + 3 * PRECOMPILE_TICKS[Address(bytes(19) + b"\x01")]
    size = len(body) // 2
    code_ticks = 2 * size * CODE_TICKS_A_KIB // 1024 - size * CODE_TICKS_A_KIB // 1024
    others = 8 + OPCODE_TICKS[0xFA] + code_ticks
    assert twice - once == ticks + others


def test_every_precompile_has_an_effort() -> None:
    assert PRECOMPILE_TICKS.keys() == PRECOMPILES.keys()
