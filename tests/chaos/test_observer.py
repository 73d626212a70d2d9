from tests.chaos.observer import Observations, Silence, compare_set, list_broken_silences


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
    signers = {4: [frozenset({2})], 5: [frozenset({0, 1, 3})], 8: [frozenset({2})]}
    assert list_broken_silences(silences, signers) == []
    signers[7] = [frozenset({0, 1, 3}), frozenset({0, 1, 2})]
    assert list_broken_silences(silences, signers) == ["validator 2 signed block 7: it was wiped"]


def test_lost_strange_and_doubled_elements_are_told_apart() -> None:
    assert compare_set([1, 2], [3], [2, 1, 3]) == ([], [])
    assert compare_set([1, 2], [3], [1]) == ([2], [])
    assert compare_set([1], [], [1, 9]) == ([], [9])
    assert compare_set([1, 2], [], [1, 2, 2]) == ([], [2])
