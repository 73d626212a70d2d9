"""Gradients that one lying node calls held (miner/reveals.py)."""

import json
from itertools import pairwise

import httpx
import pytest

from chain.crypto import get_address
from chain.primitives import Address, Hash32
from chain.training.attempt import AttemptId
from miner.client import FailoverClient
from miner.gradient_store import PreparedGradient
from miner.light import LightClient, fetch_network
from miner.reveals import LONGEST_REST_PAUSE_SECONDS, RevealPusher
from tests.worlds.clock import sleep_at_once
from tests.worlds.node_for_miners import TASK, FakeNode
from tests.worlds.proofs import CHAIN_ID, GENESIS, VALIDATOR_KEYS

MINER = Address(b"\x77" * 20)
ATTEMPT = AttemptId(TASK, 0, 0)
PREPARED = PreparedGradient(1, Hash32(bytes(32)), b"gradient")


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only while the miner sleeps."""
    return sleep_at_once(monkeypatch, "miner.reveals")


def pusher_of(honest: FakeNode) -> RevealPusher:
    """What pushes to `honest`, and to a node that keeps gradients and names all as holders."""
    named = ["0x" + get_address(key).hex() for key in VALIDATOR_KEYS]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "liar":
            if request.url.path == "/v1/reveals":
                return httpx.Response(201)
            call = json.loads(request.content)
            if call["method"] == "pot_getRevealHolders":
                result = {"validators": named}
                return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": result})
        return honest.handle(request)

    client = FailoverClient(["http://honest", "http://liar"], httpx.MockTransport(answer))
    light = LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))
    light.read({})
    return RevealPusher(client, light, MINER)


def test_node_that_was_busy_gets_a_gradient_that_another_calls_held(seconds: list[float]) -> None:
    honest = FakeNode(MINER, units=1, phase="verdict", busy_seconds="1")
    pusher = pusher_of(honest)
    assert pusher.push(ATTEMPT, 0, PREPARED)
    assert honest.reveals == []
    honest.busy_seconds = None
    begin = seconds[0]
    while not honest.reveals and seconds[0] < begin + 10:
        seconds[0] += 0.1
        pusher.push_rest(ATTEMPT, 0, lambda: PREPARED)
    assert [body for _, body in honest.reveals] == [b"gradient"]
    assert seconds[0] - begin < 2.5
    for _ in range(100):
        seconds[0] += 1
        pusher.push_rest(ATTEMPT, 0, lambda: PREPARED)
    assert honest.asked_reveals == 2, "whoever has it is left alone"


def test_node_that_never_takes_a_gradient_is_asked_more_and_more_seldom(
    seconds: list[float],
) -> None:
    honest = FakeNode(MINER, units=1, phase="verdict", refuses_reveals=True)
    pusher = pusher_of(honest)
    assert pusher.push(ATTEMPT, 0, PREPARED)
    times: list[float] = []
    begin = seconds[0]
    while seconds[0] < begin + 600:
        asked = honest.asked_reveals
        pusher.push_rest(ATTEMPT, 0, lambda: PREPARED)
        if honest.asked_reveals > asked:
            times.append(seconds[0] - begin)
        seconds[0] += 0.1
    pauses = [after - before for before, after in pairwise(times)]
    assert len(times) < 20
    assert max(pauses) < LONGEST_REST_PAUSE_SECONDS + 1
    assert pauses[:6] == sorted(pauses[:6])


def test_rest_of_an_earlier_ballot_is_not_pushed(seconds: list[float]) -> None:
    honest = FakeNode(MINER, units=1, phase="verdict", refuses_reveals=True)
    pusher = pusher_of(honest)
    assert pusher.push(ATTEMPT, 0, PREPARED)
    seconds[0] += 100
    pusher.push_rest(ATTEMPT, 1, lambda: PREPARED)
    pusher.push_rest(AttemptId(TASK, 0, 1), 0, lambda: PREPARED)
    assert honest.asked_reveals == 1
