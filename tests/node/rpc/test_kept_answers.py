"""Many clients ask the node process the same question."""

import asyncio

import pytest

from chain.json_types import Json
from node.rpc.kept_answers import KEPT_SECONDS, KeptAnswers


class Node:
    """A node that answers with the number of questions so far, and a clock."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.seconds = 0.0
        self.is_down = False

    async def ask(self, method: str) -> Json:
        self.asked.append(method)
        await asyncio.sleep(0)
        if self.is_down:
            raise ConnectionError(method)
        return len(self.asked)


async def ask_all(answers: KeptAnswers, method: str, count: int) -> list[object]:
    asking = (answers.get(method) for _ in range(count))
    return await asyncio.gather(*asking, return_exceptions=True)


def test_node_is_asked_once_for_all_clients_of_a_moment() -> None:
    async def run() -> None:
        node = Node()
        answers = KeptAnswers(node.ask, clock=lambda: node.seconds)
        assert await ask_all(answers, "validators", 100) == [1] * 100
        node.seconds = 0.9 * KEPT_SECONDS
        assert await ask_all(answers, "validators", 100) == [1] * 100
        assert await answers.get("consensus_state") == 2
        node.seconds = KEPT_SECONDS
        assert await ask_all(answers, "validators", 100) == [3] * 100
        assert node.asked == ["validators", "consensus_state", "validators"]

    asyncio.run(run())


def test_failure_is_told_to_all_that_wait_and_is_not_kept() -> None:
    async def run() -> None:
        node = Node()
        answers = KeptAnswers(node.ask, clock=lambda: node.seconds)
        node.is_down = True
        found = await ask_all(answers, "validators", 3)
        assert [type(each) for each in found] == [ConnectionError] * 3
        node.is_down = False
        assert await answers.get("validators") == 2

    asyncio.run(run())


def test_client_that_leaves_takes_no_answer_from_the_others() -> None:
    async def run() -> None:
        node = Node()
        answers = KeptAnswers(node.ask, clock=lambda: node.seconds)
        leaving, staying = (asyncio.ensure_future(answers.get("validators")) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == 1
        with pytest.raises(asyncio.CancelledError):
            await leaving

    asyncio.run(run())
