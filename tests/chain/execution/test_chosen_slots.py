"""Time does not depend on which slots a stranger chooses."""

import time

import pytest

from tests.worlds.chain import ALICE, Chain, sign

ONE_HASH = 2**61 - 1
"""Python's hash of all multiples of this integer is 0."""
SPREAD = 2**61 + 1

# Code that keeps a slot on the stack, and the gas of a transaction, for a few thousand slots.
OPCODES = {
    "tstore": ("80805d", 500_000),
    "tstore, tload": ("80805d805c50", 1_000_000),
    "sload": ("805450", 8_000_000),
    "sstore of the value it has": ("5f8155", 8_000_000),
}


def measure(body: str, gas: int, step: int) -> float:
    """The processor time of a block that uses ever further multiples of `step` as slots."""
    code = bytes.fromhex(f"5f5b7f{step:064x}01" + body + "600156")
    chain = Chain()
    start = time.process_time()
    built = chain.build([sign(ALICE, 0, None, data=code, gas=gas)])
    seconds = time.process_time() - start
    assert built.result.receipts[0].cumulative_gas_used == gas
    return seconds


@pytest.mark.parametrize("name", OPCODES)
def test_slots_chosen_for_their_hash_take_no_longer_than_others(name: str) -> None:
    body, gas = OPCODES[name]
    spread = min(measure(body, gas, SPREAD) for _ in range(3))
    # Compared one by one, they took 24 to 39 times as long.
    chosen = min(measure(body, gas, ONE_HASH) for _ in range(3))
    assert chosen < 5 * spread
