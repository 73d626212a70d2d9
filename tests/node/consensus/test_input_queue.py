"""The queue of inputs is bounded, and a new number never waits for room in it."""

import trio
from trio.testing import wait_all_tasks_blocked

from chain.consensus.inputs import NewNumber, TransactionHeld
from node.consensus.input_queue import INPUT_LIMIT, InputQueue
from node.metrics.registry import NodeMetrics
from tests.worlds.replica import config_of, valid


async def test_inputs_are_taken_in_their_order() -> None:
    inputs = InputQueue(NodeMetrics())
    await inputs.put(TransactionHeld())
    inputs.put_at_once(valid())
    assert len(inputs) == 2
    assert await inputs.take() == [TransactionHeld()]
    assert await inputs.take() == [valid()]


async def test_new_number_comes_before_what_waits_in_a_full_queue() -> None:
    metrics = NodeMetrics()
    inputs = InputQueue(metrics)
    for _ in range(INPUT_LIMIT):
        await inputs.put(valid())
    inputs.put_at_once(TransactionHeld())
    assert metrics.registry.get_sample_value("pot_pbft_dropped_inputs_total") == 1
    inputs.put_first(NewNumber(config_of(1, number=2)))
    assert await inputs.take() == [NewNumber(config_of(1, number=2)), valid()]
    assert await inputs.take() == [valid()]


async def test_new_number_wakes_a_replica_that_waits() -> None:
    inputs = InputQueue(NodeMetrics())
    taken: list[object] = []

    async def take() -> None:
        taken.extend(await inputs.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        inputs.put_first(NewNumber(config_of(1, number=2)))
    assert taken == [NewNumber(config_of(1, number=2))]
