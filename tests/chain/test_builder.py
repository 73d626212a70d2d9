from chain.builder import BODY_LIMIT_BYTES, FreeGas
from chain.crypto import get_address
from chain.errors import RejectionReason
from chain.types.block import BLOCK_LIMIT_BYTES, decode_block
from chain.types.transaction import Transaction
from tests.worlds.chain import ALICE, BOB, CAROL, DAVE, VALIDATORS, Chain, sign

RECIPIENT = b"\x77" * 20


def test_candidates_keep_their_order() -> None:
    transactions = [sign(BOB, 0, RECIPIENT), sign(ALICE, 0, RECIPIENT), sign(BOB, 1, RECIPIENT)]
    built = Chain().build(transactions)
    assert built.result.transactions == tuple(transactions)
    assert built.block.transactions == tuple(t.raw for t in transactions)
    assert built.result.senders == tuple(map(get_address, (BOB, ALICE, BOB)))


def test_invalid_transaction_is_dropped_with_its_reason_and_others_stay() -> None:
    good = [sign(ALICE, 0, RECIPIENT), sign(CAROL, 0, RECIPIENT)]
    gap = sign(BOB, 3, RECIPIENT)
    built = Chain().build([good[0], gap, good[1], good[0]])
    assert built.result.transactions == tuple(good)
    assert [(drop.transaction, drop.error.reason) for drop in built.dropped] == [
        (gap, RejectionReason.NONCE_TOO_HIGH),
        (good[0], RejectionReason.NONCE_TOO_LOW),
    ]


def test_transaction_that_does_not_fit_the_gas_left_stays_in_the_pool() -> None:
    chain = Chain()
    loops = [sign(key, 0, None, data=b"\xfe", gas=2**24) for key in (ALICE, BOB)]
    small = sign(CAROL, 0, RECIPIENT)
    built = chain.build([*loops, small])
    assert built.result.transactions == (loops[0], small)
    assert built.dropped == ()
    assert chain.apply(built.block) == built.result


def test_later_transactions_of_a_sender_that_did_not_fit_stay_in_the_pool() -> None:
    full = sign(ALICE, 0, None, data=b"\xfe", gas=2**24)
    large, small = sign(BOB, 0, None, data=b"\xfe", gas=2**24), sign(BOB, 1, RECIPIENT)
    built = Chain().build([full, large, small])
    assert built.result.transactions == (full,)
    assert built.dropped == ()


class ScriptedBudget:
    """Allows so many candidates to begin, and stops the execution of those at given positions."""

    def __init__(self, begun: int, stopped: tuple[int, ...] = ()) -> None:
        self.begun = begun
        self.stopped = stopped
        self.position = -1

    def may_begin(self) -> bool:
        self.position += 1
        return self.position < self.begun

    def must_stop(self) -> bool:
        return self.position in self.stopped


def test_building_ends_when_no_candidate_may_begin() -> None:
    transactions = [sign(ALICE, nonce, RECIPIENT) for nonce in range(5)]
    built = Chain().build(transactions, budget=ScriptedBudget(2))
    assert built.result.transactions == tuple(transactions[:2])
    assert built.stopped == ()


def test_candidate_that_is_stopped_is_left_out_and_later_ones_are_not() -> None:
    endless = sign(ALICE, 0, None, data=bytes.fromhex("5b5f56"), gas=10_000_000)
    before, after = sign(BOB, 0, RECIPIENT), sign(CAROL, 0, RECIPIENT)
    built = Chain().build([before, endless, after], budget=ScriptedBudget(3, stopped=(1,)))
    assert built.result.transactions == (before, after)
    assert built.stopped == (endless,)
    assert built.dropped == ()
    assert built.block == Chain().build([before, after]).block


def test_later_transactions_of_a_stopped_sender_stay_in_the_pool() -> None:
    endless = sign(ALICE, 0, None, data=bytes.fromhex("5b5f56"), gas=10_000_000)
    built = Chain().build(
        [endless, sign(ALICE, 1, RECIPIENT)], budget=ScriptedBudget(2, stopped=(0,))
    )
    assert (built.stopped, built.dropped) == ((endless,), ())


def test_a_block_stays_below_its_size_limit() -> None:
    data = b"\x00" * 130_000
    gas = 21_000 + 10 * len(data)
    # A call may have this much data; init code has a lower limit.
    candidates = [sign(ALICE, nonce, RECIPIENT, data=data, gas=gas) for nonce in range(40)]
    chain = Chain()
    built = chain.build(candidates)
    encoded = built.block.encode()
    assert len(encoded) <= BLOCK_LIMIT_BYTES
    assert decode_block(encoded) == built.block
    assert BODY_LIMIT_BYTES < BLOCK_LIMIT_BYTES


def test_coinbase_and_time_are_the_primarys() -> None:
    built = Chain().build([], coinbase=VALIDATORS[2], timestamp=1_800_000_000)
    assert built.block.header.coinbase == VALIDATORS[2]
    assert built.block.header.timestamp == 1_800_000_000


BURN = {"data": b"\xfe", "gas": 1_000_000}
"""Init code that uses its whole gas limit."""


def free_gas(gas: int, *candidates: Transaction, limit: int = 10_000_000) -> tuple[FreeGas]:
    return (FreeGas(frozenset(each.hash for each in candidates), gas, limit),)


def test_free_candidates_share_their_gas_and_others_do_not() -> None:
    free = [sign(key, 0, None, **BURN) for key in (ALICE, BOB, CAROL)]
    paying = sign(DAVE, 0, None, **BURN)
    built = Chain().build([*free, paying], free_gas=free_gas(1_000_001, *free))
    assert built.result.transactions == (*free[:2], paying)
    assert built.free_gas_used == (2_000_000,)
    assert built.dropped == ()


def test_free_candidate_that_does_not_fit_keeps_no_smaller_one_out() -> None:
    first, large = sign(ALICE, 0, None, **BURN), sign(BOB, 0, None, data=b"\xfe", gas=1_500_000)
    small = sign(CAROL, 0, RECIPIENT)
    given = free_gas(1, first, large, small, limit=2_000_000)
    assert Chain().build([first, large, small], free_gas=given).result.transactions == (first,)
    given = free_gas(2_000_000, first, large, small, limit=2_000_000)
    built = Chain().build([first, large, small], free_gas=given)
    assert built.result.transactions == (first, small)
    assert built.free_gas_used == (1_021_000,)


def test_later_transactions_of_a_sender_wait_behind_its_free_one() -> None:
    free, paying = sign(ALICE, 0, RECIPIENT), sign(ALICE, 1, RECIPIENT)
    built = Chain().build([free, paying], free_gas=free_gas(0, free))
    assert (built.result.transactions, built.dropped) == ((), ())


def test_free_gas_counts_what_is_used_and_not_what_is_asked_for() -> None:
    asks = [sign(key, 0, RECIPIENT, gas=900_000) for key in (ALICE, BOB, CAROL)]
    built = Chain().build(asks, free_gas=free_gas(42_000, *asks, limit=1_000_000))
    assert built.result.transactions == tuple(asks[:2])
    assert built.free_gas_used == (42_000,)


def test_free_candidate_that_breaks_a_rule_uses_no_free_gas() -> None:
    wrong, right = sign(ALICE, 7, RECIPIENT), sign(BOB, 0, RECIPIENT)
    built = Chain().build([wrong, right], free_gas=free_gas(1, wrong, right))
    assert [each.transaction for each in built.dropped] == [wrong]
    assert built.result.transactions == (right,)
