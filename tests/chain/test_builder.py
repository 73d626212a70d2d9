from chain.builder import BODY_LIMIT_BYTES
from chain.crypto import get_address
from chain.errors import RejectionReason
from chain.types.block import BLOCK_LIMIT_BYTES, decode_block
from tests.worlds.chain import ALICE, BOB, CAROL, VALIDATORS, Chain, sign

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


def test_building_stops_when_told_to() -> None:
    transactions = [sign(ALICE, nonce, RECIPIENT) for nonce in range(5)]
    asked = iter([False, False, True])
    built = Chain().build(transactions, should_stop=lambda: next(asked))
    assert built.result.transactions == tuple(transactions[:2])
    assert built.stopped_at is None


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
