import pytest

from tests.chaos.observer import (
    STRANGER,
    Observations,
    Scheduled,
    Sets,
    Silence,
    compare_set,
    compute_sets,
    find_activation,
    find_members,
    list_broken_silences,
    list_disagreements,
    list_wrong_deciders,
)

GENESIS = frozenset(range(4))
SPARE = 5
FIVE = GENESIS | {SPARE}
SETS: Sets = ((1, GENESIS), (10, FIVE), (20, FIVE - {2}))
"""The spare joins, and validator 2 leaves."""


def observe(builder: int, *signers: frozenset[int], number: int) -> Observations:
    """Observations of one block with the signers in each node's certificate."""
    seen = Observations(started=0)
    seen.proposers[number] = builder
    for node, each in enumerate(signers):
        seen.see_certificate(node, number, each)
    return seen


def test_two_hashes_of_one_number_are_a_fork() -> None:
    seen = Observations(started=0)
    for node in range(3):
        seen.see_hash(node, 5, "0xa")
        seen.see_hash(node, 6, "0xb")
    assert seen.list_forks() == []
    seen.see_hash(3, 6, "0xc")
    assert seen.list_forks() == ["block 6: 0xb at nodes [0, 1, 2]; 0xc at nodes [3]"]


def test_a_node_that_changes_its_mind_is_a_fork() -> None:
    seen = Observations(started=0)
    seen.see_hash(0, 5, "0xa")
    seen.see_hash(0, 5, "0xb")
    assert len(seen.list_forks()) == 1


def test_a_nodes_last_block_is_remembered() -> None:
    seen = Observations(started=0)
    seen.see_hash(0, 5, "0xa")
    seen.see_hash(1, 9, "0xb")
    assert [seen.find_last(node) for node in range(3)] == [5, 9, 0]


def test_the_longest_stall_is_between_new_highest_heads() -> None:
    seen = Observations(started=10)
    for now, head in ((11, 1), (12, 2), (13, 1), (19, 2), (20, 3), (22, 3)):
        seen.see_head(head, now)
    assert (seen.highest, seen.longest_stall_seconds) == (3, 8)


def test_a_stall_that_never_ended_counts() -> None:
    seen = Observations(started=0)
    seen.see_head(1, 1)
    seen.see_head(1, 31)
    assert seen.longest_stall_seconds == 30


def test_a_signature_in_any_nodes_certificate_breaks_a_silence() -> None:
    silences = [Silence(2, 5, 7, "it was wiped")]
    seen = Observations(started=0)
    for number, signers in ((4, {2}), (5, {0, 1, 3}), (7, {0, 1, 3}), (8, {2})):
        seen.see_certificate(0, number, frozenset(signers))
    assert list_broken_silences(silences, seen) == []
    seen.see_certificate(1, 7, frozenset({0, 1, 2}))
    assert list_broken_silences(silences, seen) == ["validator 2 signed block 7: it was wiped"]


def test_observed_sets_start_at_genesis_and_include_every_change_in_force() -> None:
    scheduled = [Scheduled(10, SPARE, is_join=True), Scheduled(20, 2, is_join=False)]
    assert compute_sets(GENESIS, scheduled, last=20) == SETS
    assert compute_sets(GENESIS, scheduled, last=19) == SETS[:2]
    assert compute_sets(GENESIS, [], last=19) == SETS[:1]


def test_a_set_decides_from_its_first_block_on() -> None:
    assert [find_members(SETS, number) for number in (1, 9, 10, 19)] == [GENESIS] * 2 + [FIVE] * 2


def test_a_change_is_in_force_once_all_later_sets_have_it() -> None:
    assert find_activation(SETS, SPARE, is_join=True) == 10
    assert find_activation(SETS, 2, is_join=False) == 20
    assert find_activation(SETS[:2], 2, is_join=False) is None
    assert find_activation(SETS[:1], SPARE, is_join=True) is None
    # It joined and left again.
    sets = (*SETS[:2], (20, GENESIS))
    assert find_activation(sets, SPARE, is_join=True) is None
    assert find_activation(sets, SPARE, is_join=False) == 20


def test_nodes_with_different_sets_or_blocks_disagree() -> None:
    later: Sets = ((1, GENESIS), (11, FIVE))
    assert list_disagreements({"node 0": SETS[:2], "node 1": SETS[:2]}) == []
    assert list_disagreements({"node 0": SETS[:2], "node 1": later, "node 2": SETS[:2]}) == [
        "node 0, node 2: [0, 1, 2, 3] from block 1 on; [0, 1, 2, 3, 5] from block 10 on",
        "node 1: [0, 1, 2, 3] from block 1 on; [0, 1, 2, 3, 5] from block 11 on",
    ]


@pytest.mark.parametrize(
    ("number", "builder", "signers", "wrong"),
    [
        (9, 0, GENESIS - {3}, []),
        (10, SPARE, FIVE - {3}, []),
        (20, SPARE, FIVE - {2}, []),
        # The joiner signs too early, the leaver too late.
        (9, 0, FIVE - {3}, ["block 9 at node 0 is signed by [5], no members"]),
        (
            20,
            0,
            FIVE - {3},
            [
                "block 20 at node 0 is signed by [2], no members",
            ],
        ),
        (9, SPARE, GENESIS, ["block 9 was built by 5, no member"]),
        (20, 2, FIVE - {2}, ["block 20 was built by 2, no member"]),
        # A quorum of four is too small for five.
        (10, 0, GENESIS - {3}, ["block 10 at node 0 is signed by 3 of 5 members only"]),
        (
            9,
            0,
            frozenset({0, 1, STRANGER}),
            [
                "block 9 at node 0 is signed by [-1], no members",
                "block 9 at node 0 is signed by 2 of 4 members only",
            ],
        ),
    ],
)
def test_only_a_quorum_of_the_set_in_force_decides(
    number: int, builder: int, signers: frozenset[int], wrong: list[str]
) -> None:
    seen = observe(builder, signers, number=number)
    assert list_wrong_deciders(seen, SETS, last=20) == wrong
    assert list_wrong_deciders(seen, SETS, last=number - 1) == []


def test_certificates_of_every_node_are_checked() -> None:
    seen = observe(0, FIVE, GENESIS, FIVE - {0, 1}, number=10)
    assert list_wrong_deciders(seen, SETS, last=20) == [
        "block 10 at node 2 is signed by 3 of 5 members only"
    ]


def test_what_a_validator_signed_and_built_is_found_in_order() -> None:
    seen = Observations(started=0)
    seen.proposers.update({4: SPARE, 3: 0, 1: SPARE})
    seen.see_certificate(1, 8, FIVE)
    seen.see_certificate(0, 7, FIVE)
    seen.see_certificate(0, 9, GENESIS)
    assert seen.find_signed(SPARE) == [7, 8]
    assert seen.find_proposed(SPARE) == [1, 4]


def test_lost_unknown_and_duplicate_elements_are_distinguished() -> None:
    assert compare_set([1, 2], [3], [2, 1, 3]) == ([], [])
    assert compare_set([1, 2], [3], [1]) == ([2], [])
    assert compare_set([1], [], [1, 9]) == ([], [9])
    assert compare_set([1, 2], [], [1, 2, 2]) == ([], [2])
