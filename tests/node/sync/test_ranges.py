"""The plan of a download fetches every block in bounded memory, whatever peers do."""

from hypothesis import given, settings
from hypothesis import strategies as st

from chain.primitives import BlockNumber
from node.network.stream import PeerId
from node.sync.ranges import (
    ASKED_LIMIT,
    PATIENCE_SECONDS,
    RANGE_BLOCKS,
    RANGES_LIMIT,
    Batch,
    BlockRange,
    RangePlan,
)
from tests.worlds import values

GOAL = 5 * RANGE_BLOCKS + 7
LINKS = values.chain_of(GOAL, state_nodes=0)
ANN, BEN, CID = PeerId("ann"), PeerId("ben"), PeerId("cid")


def batch(peer_id: PeerId, first: int, last: int) -> Batch:
    return Batch(peer_id, tuple((link.block, link.certificate) for link in LINKS[first - 1 : last]))


def number(value: int) -> BlockNumber:
    return BlockNumber(value)


def span(first: int, last: int) -> BlockRange:
    return BlockRange(number(first), number(last))


@settings(max_examples=40)
@given(st.data())
def test_every_block_arrives_and_memory_is_bounded_whatever_peers_do(data: st.DataObject) -> None:
    plan, head, now = RangePlan(number(1)), 0, 0.0
    out: list[tuple[PeerId, BlockRange]] = []
    heads = {ANN: GOAL, BEN: data.draw(st.integers(0, GOAL)), CID: data.draw(st.integers(0, GOAL))}
    for _ in range(5_000):
        if head == GOAL:
            break
        now += data.draw(st.sampled_from([0.01, PATIENCE_SECONDS]))
        for peer in heads:
            if all(peer != busy for busy, _ in out):
                asked = plan.take(peer, number(heads[peer]), number(head), now)
                if asked is not None:
                    assert asked.last <= heads[peer]
                    out.append((peer, asked))
        # Requests to the slower peers are still open, one for each, and no longer needed.
        assert len(plan._flights) + len(plan._ready) <= RANGES_LIMIT + 1
        if out:
            peer, asked = out.pop(data.draw(st.integers(0, len(out) - 1)))
            # Ann is honest; the others fail or answer with too little.
            fails = peer != ANN and data.draw(st.booleans())
            if not fails:
                shortest = asked.first if peer != ANN else asked.last
                last = data.draw(st.integers(shortest, asked.last))
                plan.put(asked, batch(peer, asked.first, last))
            plan.give_back(asked, peer)
        while (got := plan.pop_next(number(head))) is not None:
            assert got.range.first <= head + 1
            head = max(head, got.range.last)
        if data.draw(st.integers(0, 9)) == 0:
            head = min(
                GOAL, head + data.draw(st.integers(0, 3))
            )  # consensus finalizes the block first
    assert head == GOAL


def test_late_range_is_requested_elsewhere_and_slower_peers_are_named() -> None:
    plan = RangePlan(number(1))
    goal = number(RANGE_BLOCKS)
    first = plan.take(ANN, goal, number(0), 0)
    assert first == span(1, RANGE_BLOCKS)
    assert plan.take(BEN, goal, number(0), PATIENCE_SECONDS - 0.1) is None
    assert plan.take(ANN, goal, number(0), PATIENCE_SECONDS) is None, "it has been asked"
    assert plan.take(BEN, goal, number(0), PATIENCE_SECONDS) == first
    assert plan.take(CID, goal, number(0), PATIENCE_SECONDS) == first
    others = [plan.take(PeerId(f"p{i}"), goal, number(0), PATIENCE_SECONDS) for i in range(3)]
    assert others == [first, None, None], f"no more than {ASKED_LIMIT} that are not late"
    assert plan.put(first, batch(CID, 1, RANGE_BLOCKS)) == [ANN], "Ben was asked at the same time"
    assert plan.put(first, batch(ANN, 1, RANGE_BLOCKS)) is None, "too late"
    assert plan.pop_next(number(0)) == batch(CID, 1, RANGE_BLOCKS)
    assert plan.pop_next(number(0)) is None


def test_next_block_to_execute_is_requested_even_without_room() -> None:
    plan, far = RangePlan(number(1)), number(10**6)
    taken = [plan.take(PeerId(f"p{i}"), far, number(0), 0) for i in range(RANGES_LIMIT)]
    assert taken[-1] == span((RANGES_LIMIT - 1) * RANGE_BLOCKS + 1, RANGES_LIMIT * RANGE_BLOCKS)
    assert plan.take(ANN, far, number(0), 0) is None
    plan.put(taken[1], batch(PeerId("p1"), RANGE_BLOCKS + 1, RANGE_BLOCKS + 1))
    assert plan.take(ANN, far, number(0), 0) is None, "what the short answer left is not urgent"
    plan.give_back(taken[0], PeerId("p0"))
    assert plan.take(ANN, far, number(0), 0) == taken[0]


def test_no_range_above_a_peers_head_is_requested_from_it() -> None:
    plan = RangePlan(number(1))
    assert plan.take(ANN, number(2**63), number(0), 0) == span(1, RANGE_BLOCKS)
    plan.give_back(span(1, RANGE_BLOCKS), ANN)
    assert plan.take(BEN, number(10), number(0), 0) == span(1, 10)
    assert plan.take(CID, number(10), number(0), 0) is None
    assert plan.take(CID, number(12), number(0), 0) == span(11, 12)


def test_peer_gets_its_part_of_a_late_range_that_others_claimed() -> None:
    plan = RangePlan(number(1))
    claimed = plan.take(ANN, number(1_000), number(0), 0)
    assert claimed == span(1, RANGE_BLOCKS)
    assert plan.take(BEN, number(3), number(0), PATIENCE_SECONDS - 0.1) is None
    assert plan.take(BEN, number(3), number(0), PATIENCE_SECONDS) == span(1, 3)
    assert plan.put(span(1, 3), batch(BEN, 1, 3)) == []
    assert plan.pop_next(number(0)) == batch(BEN, 1, 3)
    assert plan.take(BEN, number(4), number(3), PATIENCE_SECONDS) == span(4, 4), "at once"


def test_peers_that_are_late_leave_room_for_another() -> None:
    plan, goal = RangePlan(number(1)), number(RANGE_BLOCKS)
    first = plan.take(ANN, goal, number(0), 0)
    others = [
        plan.take(PeerId(f"p{i}"), goal, number(0), PATIENCE_SECONDS) for i in range(ASKED_LIMIT)
    ]
    assert others == [first] * ASKED_LIMIT
    assert plan.take(BEN, goal, number(0), PATIENCE_SECONDS + 1) is None
    assert plan.take(BEN, goal, number(0), 2 * PATIENCE_SECONDS) == first


def test_no_block_below_the_least_is_requested() -> None:
    plan, far, least = RangePlan(number(1)), number(10**6), number(2)
    assert plan.take(ANN, far, number(0), 0, least) is None
    assert plan.take(BEN, far, number(0), 0) == span(1, RANGE_BLOCKS)
    assert plan.take(ANN, far, number(0), 0, least) == span(RANGE_BLOCKS + 1, 2 * RANGE_BLOCKS)
    assert plan.take(CID, number(RANGE_BLOCKS), number(0), 9, least) is None, "though it is late"


def test_answer_to_an_earlier_request_of_a_reopened_range_is_not_needed() -> None:
    plan, goal = RangePlan(number(1)), number(4)
    first = plan.take(ANN, goal, number(0), 0)
    assert [plan.take(each, goal, number(0), PATIENCE_SECONDS) for each in (BEN, CID)] == [
        first,
        first,
    ]
    assert plan.put(first, batch(BEN, 1, 4)) == [ANN]
    plan.pop_next(number(0))
    plan.reopen(first)  # a certificate of Ben's was false
    other = PeerId("other")
    assert plan.take(other, goal, number(0), PATIENCE_SECONDS + 1) == first
    assert plan.put(first, batch(CID, 1, 4)) is None
    plan.give_back(first, CID)
    assert plan.put(first, batch(other, 1, 4)) == []
