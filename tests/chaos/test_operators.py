from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.primitives import Address
from tests.chaos.operators import has_votes, is_going, is_proposed

ALICE = Address(b"\x0a" * 20)
BOB = Address(b"\x0b" * 20)


def status(*, alice: str = "active", votes: int | None = None) -> JsonObject:
    """The output of `pot validator status`: Alice is a member, Bob has this many votes."""
    proposals: list[JsonObject] = [{"id": 1, "validator": to_hex(BOB), "votes": votes}]
    return {
        "validators": [{"validator": to_hex(ALICE), "status": alice}],
        "proposals": [] if votes is None else list(proposals),
    }


def test_a_proposal_is_made_when_it_is_open_about_that_validator() -> None:
    assert is_proposed(status(votes=0), BOB)
    assert not is_proposed(status(votes=0), ALICE)
    assert not is_proposed(status(), BOB)


def test_a_vote_is_cast_when_it_is_counted_or_the_proposal_is_closed() -> None:
    assert not has_votes(status(votes=1), BOB, 2)
    assert has_votes(status(votes=2), BOB, 2)
    assert has_votes(status(), BOB, 2)


def test_leaving_is_done_when_the_validator_is_exiting_or_no_member() -> None:
    assert not is_going(status(), ALICE)
    assert is_going(status(alice="exiting"), ALICE)
    assert is_going(status(alice="exited"), ALICE)
    assert is_going(status(), BOB)
