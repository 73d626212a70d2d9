"""How much gas of operators' refused calls a node executes."""

from chain.primitives import Address, BlockNumber
from node.mempool.examination import (
    ACCEPTED_GAS_AT_ONCE,
    LARGE_CALL_GAS,
    OWED_GAS_LIMIT,
    REFUSED_GAS_A_BLOCK,
    REFUSED_GAS_AT_ONCE,
    ExaminationGas,
)

LIAR, HONEST = Address(b"\x01" * 20), Address(b"\x02" * 20)
OPERATORS = 4
VOTE, FINES = LARGE_CALL_GAS, 9_000_000


def begun() -> ExaminationGas:
    given = ExaminationGas()
    given.begin_block(BlockNumber(10), OPERATORS)
    return given


def test_operator_that_owes_much_is_examined_after_blocks_have_paid_it_off() -> None:
    given = begun()
    given.count(LIAR, OWED_GAS_LIMIT - 1, is_accepted=False)
    assert given.may_examine(LIAR, VOTE)
    given.count(LIAR, REFUSED_GAS_A_BLOCK, is_accepted=False)
    # Each operator's part of a block is a quarter, so it takes as many blocks and one.
    for number in range(10, 10 + OPERATORS):
        given.begin_block(BlockNumber(number), OPERATORS)
        assert (given.may_examine(LIAR, VOTE), given.may_examine(HONEST, VOTE)) == (False, True)
    given.begin_block(BlockNumber(10 + OPERATORS), OPERATORS)
    assert given.may_examine(LIAR, VOTE)


def test_call_that_waits_refused_keeps_no_vote_from_being_examined() -> None:
    given = begun()
    for number in range(11, 1_011):
        given.begin_block(BlockNumber(number), 100)
        assert given.may_examine(HONEST, VOTE)
        given.count(HONEST, 50_000, is_accepted=False)


def test_refused_calls_of_all_operators_are_bounded_in_a_block() -> None:
    given = begun()
    given.count(LIAR, REFUSED_GAS_AT_ONCE, is_accepted=False)
    assert not given.may_examine(HONEST, VOTE)
    given.begin_block(BlockNumber(11), OPERATORS)
    assert given.may_examine(HONEST, VOTE)


def test_accepted_calls_are_bounded_in_a_block_and_owed_by_none() -> None:
    given = begun()
    given.count(HONEST, ACCEPTED_GAS_AT_ONCE - 1, is_accepted=True)
    assert given.may_examine(HONEST, VOTE)
    given.count(HONEST, 1, is_accepted=True)
    assert (given.may_examine(HONEST, VOTE), given.may_examine(LIAR, VOTE)) == (False, True)
    given.begin_block(BlockNumber(11), OPERATORS)
    assert given.may_examine(HONEST, VOTE)


def test_fines_leave_examinations_to_the_votes_of_their_operator() -> None:
    given = begun()
    given.count(HONEST, 6_700_000, is_accepted=True)
    assert (given.may_examine(HONEST, FINES), given.may_examine(HONEST, VOTE)) == (False, True)
    assert given.may_examine(LIAR, FINES)


def test_average_of_a_long_time_is_the_rate_for_any_number_of_liars() -> None:
    liars = [Address(bytes([each]) * 20) for each in range(10)]
    given, spent, blocks = begun(), 0, 1_000
    for number in range(11, 11 + blocks):
        given.begin_block(BlockNumber(number), 31)
        for liar in liars:
            while given.may_examine(liar, VOTE):
                given.count(liar, 9_000_000, is_accepted=False)
                spent += 9_000_000
    first = len(liars) * (OWED_GAS_LIMIT + 9_000_000)
    assert spent <= first + blocks * REFUSED_GAS_A_BLOCK * len(liars) // 31
    assert spent >= blocks * REFUSED_GAS_A_BLOCK * len(liars) // 31 // 2
