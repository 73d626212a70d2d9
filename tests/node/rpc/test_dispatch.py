"""The rules of JSON-RPC 2.0."""

import asyncio
import itertools
import json
import sys
import threading
import tracemalloc
import weakref

import pytest

from chain.json_types import Json
from node.rpc import dispatch
from node.rpc.dispatch import (
    BATCH_LIMIT,
    LARGE_ANSWER_VALUES,
    VALUES_LIMIT,
    Dispatcher,
    count_values,
)
from node.rpc.errors import ErrorCode, RpcError
from node.rpc.held_bytes import HeldBytes, NoRoomError
from node.rpc.metrics import RpcMetrics
from node.rpc.parameters import Parameters
from pot_common.json_text import dump_json


async def echo(params: Parameters) -> Json:
    return params.optional("value", lambda value: value, None)


async def refuse(_params: Parameters) -> Json:
    raise RpcError(ErrorCode.REVERTED, "execution reverted", "0x01")


async def crash(_params: Parameters) -> Json:
    raise ZeroDivisionError


DISPATCHER = Dispatcher({"echo": echo, "refuse": refuse, "crash": crash})


def answer(body: bytes | object) -> object:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = asyncio.run(DISPATCHER.answer(raw, HeldBytes().open("")))
    return None if reply is None else json.loads(reply)


def request(method: object, request_id: object = 1, **members: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, **members}


def failure(code: int, message: str, request_id: object = None) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


def success(result: object, request_id: object = 1) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def test_result_has_the_id_of_the_request() -> None:
    for request_id in (1, "a", None, 1.5, 0, ""):
        assert answer(request("echo", request_id, params=["x"])) == success("x", request_id)


def test_error_has_code_message_and_data() -> None:
    assert answer(request("refuse")) == {
        "jsonrpc": "2.0",
        "id": 1,
        "error": {"code": 3, "message": "execution reverted", "data": "0x01"},
    }


def test_deep_nesting_is_an_error_even_with_a_high_recursion_limit() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # importing py-evm raises it, too
    try:
        assert answer(b"[" * VALUES_LIMIT) == failure(-32700, "parse error")
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"{'a':1}", b"[1,", b"NaN", b"[" * 100_000])
def test_body_that_is_not_json_is_a_parse_error(body: bytes) -> None:
    assert answer(body) == failure(-32700, "parse error")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (1, "a request is an object"),
        ([], "empty batch"),
        (request("echo", {}), "id is a string, a number or null"),
        (request("echo", "x" * 1001), "id is a string, a number or null"),
        (b'{"jsonrpc": "2.0", "id": 1e400, "method": "echo"}', "id is a string, a number or null"),
        (request("echo", True), "id is a string, a number or null"),
    ],
)
def test_json_that_is_no_request_is_an_invalid_request(body: object, message: str) -> None:
    assert answer(body) == failure(-32600, f"invalid request: {message}")


def test_request_with_wrong_members_keeps_its_id() -> None:
    assert answer({"id": 7, "method": "echo"}) == failure(
        -32600, 'invalid request: jsonrpc is not "2.0"', 7
    )
    assert answer(request(5)) == failure(-32600, "invalid request: method is not a string", 1)
    assert answer(request("echo", params={"a": 1})) == failure(-32602, "non-array args", 1)


def test_error_for_unknown_method_contains_its_name() -> None:
    assert answer(request("eth_mining")) == failure(
        -32601, "the method eth_mining does not exist/is not available", 1
    )


def test_bug_in_a_method_is_an_internal_error_without_details() -> None:
    assert answer(request("crash")) == failure(-32603, "internal error", 1)


def test_notification_is_not_answered() -> None:
    assert answer({"jsonrpc": "2.0", "method": "echo"}) is None
    assert answer([{"jsonrpc": "2.0", "method": "echo"}]) is None


def test_batch_is_answered_in_order_and_each_request_fails_alone() -> None:
    batch = [
        request("echo", 1, params=["a"]),
        1,
        {"jsonrpc": "2.0", "method": "echo"},
        request("missing", "b"),
        request("echo", 2),
    ]
    assert answer(batch) == [
        success("a", 1),
        failure(-32600, "invalid request: a request is an object"),
        failure(-32601, "the method missing does not exist/is not available", "b"),
        success(None, 2),
    ]


def test_number_of_requests_in_a_batch_is_bounded() -> None:
    assert len(answer([request("echo")] * BATCH_LIMIT)) == BATCH_LIMIT
    assert answer([request("echo")] * (BATCH_LIMIT + 1)) == failure(
        -32005, "batch too large, limit 1000"
    )


def test_total_size_of_a_batch_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "RESPONSE_LIMIT_BYTES", 100)
    answers = answer([request("echo", each, params=["x" * 60]) for each in range(3)])
    assert answers == [
        success("x" * 60, 0),
        success("x" * 60, 1),
        failure(-32005, "response too large, limit 100", 2),
    ]


def test_time_of_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=11)  # each reading of the clock
    monkeypatch.setattr(dispatch, "perf_counter", lambda: next(seconds))
    answers = answer([request("echo", each) for each in range(3)])
    late = "batch takes too long, limit 30 s: send a smaller one"
    assert answers == [success(None, 0), failure(-32005, late, 1), failure(-32005, late, 2)]


def test_requests_are_counted_by_known_method_and_result() -> None:
    metrics = RpcMetrics()
    dispatcher = Dispatcher({"echo": echo, "refuse": refuse, "crash": crash}, metrics)
    batch = [request(name) for name in ("echo", "echo", "refuse", "crash", "evil-1", 7)]
    asyncio.run(dispatcher.answer(json.dumps(batch).encode(), HeldBytes().open("")))
    samples = {
        (sample.labels["method"], sample.labels["result"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "pot_rpc_requests_total"
    }
    assert samples == {
        ("echo", "ok"): 2,
        ("refuse", "refused"): 1,
        ("crash", "failed"): 1,
        ("unknown", "refused"): 2,
    }
    seconds = metrics.registry.get_sample_value("pot_rpc_request_seconds_count", {"method": "echo"})
    assert seconds == 2


def test_answer_of_a_batch_is_counted_before_others_run() -> None:
    """Each of many batches had a finished answer that did not count: 2.8 GB instead of 256 MiB."""
    held, counts = HeldBytes(), []

    async def show(_params: Parameters) -> Json:
        counts.append(held.total)
        return "x" * 10_000

    async def run() -> None:
        dispatcher = Dispatcher({"show": show})
        batch = json.dumps([request("show")]).encode()
        await asyncio.gather(*(dispatcher.answer(batch, held.open("")) for _ in range(4)))

    asyncio.run(run())
    assert all(count >= 10_000 * index for index, count in enumerate(counts))


def test_values_of_an_answer_are_freed_before_the_next_request_of_a_batch() -> None:
    """96 batches kept one large answer each, which did not count: 3.8 GB."""

    class Values(list[Json]):
        """A list to which a weak reference is possible."""

    shown: list[weakref.ref[Values]] = []

    async def show(_params: Parameters) -> Json:
        # The thread that encoded the last one frees it at about the time when this one is asked.
        for _ in range(1_000):
            if all(each() is None for each in shown):
                break
            await asyncio.sleep(0.01)
        assert all(each() is None for each in shown)
        values = Values([0] * 2 * LARGE_ANSWER_VALUES)
        shown.append(weakref.ref(values))
        return values

    dispatcher = Dispatcher({"show": show})
    batch = json.dumps([request("show")] * 3).encode()
    answered = asyncio.run(dispatcher.answer(batch, HeldBytes().open("")))
    assert answered is not None
    assert all("result" in each for each in json.loads(answered))


def test_clients_are_answered_between_the_requests_of_a_batch() -> None:
    order: list[str] = []

    async def note(_params: Parameters) -> Json:
        order.append("batch")
        return None

    async def run() -> None:
        dispatcher = Dispatcher({"note": note})
        batch = json.dumps([request("note")] * 10).encode()
        answering = asyncio.create_task(dispatcher.answer(batch, HeldBytes().open("")))
        while not answering.done():
            await asyncio.sleep(0)
            order.append("other client")

    asyncio.run(run())
    assert "other client" in order[: order.index("batch") + 2]


@pytest.mark.parametrize(
    ("result", "is_in_thread"), [([0] * LARGE_ANSWER_VALUES, True), ([[0]] * 10, False)]
)
def test_large_answer_is_encoded_outside_of_the_event_loop(
    result: Json, is_in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []

    def note_thread(value: Json) -> bytes:
        threads.append(threading.current_thread() is not threading.main_thread())
        return dump_json(value)

    async def give(_params: Parameters) -> Json:
        return result

    monkeypatch.setattr(dispatch, "dump_json", note_thread)
    dispatcher = Dispatcher({"give": give})
    reply = asyncio.run(
        dispatcher.answer(json.dumps(request("give")).encode(), HeldBytes().open(""))
    )
    assert (json.loads(reply or b""), threads) == (success(result), [is_in_thread])


class Waiting:
    """A method that waits, and the bytes that its request holds meanwhile."""

    def __init__(self, held: HeldBytes) -> None:
        self.held = held
        self.seen: list[int] = []

    async def wait(self, _params: Parameters) -> Json:
        self.seen.append(self.held.total)
        return "x" * 1_000


def hold(body: bytes, limit_bytes: int) -> tuple[object, list[int], int]:
    """The answer to a body, what it held during each call, and what its answer holds."""
    held = HeldBytes(limit_bytes)
    waiting = Waiting(held)
    dispatcher = Dispatcher({"wait": waiting.wait})
    reply = asyncio.run(dispatcher.answer(body, held.open("client")))
    return json.loads(reply or b"null"), waiting.seen, held.total


def test_body_of_small_values_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "parse_json", lambda _: pytest.fail("parsed"))
    body = json.dumps([request("echo"), [{}] * 1_000_000]).encode()
    assert answer(body) == failure(-32005, "too many values, limit 100000: send a smaller batch")


def test_batch_of_the_most_usual_requests_has_few_values() -> None:
    call = {"to": "0x" + "11" * 20, "data": "0x" + "22" * 100, "value": "0x0", "gas": "0x1"}
    batch = [request("eth_call", params=[call, "latest"])] * BATCH_LIMIT
    assert count_values(json.dumps(batch).encode()) < VALUES_LIMIT / 5


def test_values_are_held_as_bytes_of_memory_until_the_answer() -> None:
    junk: list[object] = [{}] * 5_000
    body = json.dumps([request("wait"), junk], separators=(",", ":")).encode()
    _, (during,), _ = hold(body, 2**20)
    tracemalloc.start()
    values = json.loads(body)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert during >= size, values[1][0]
    with pytest.raises(NoRoomError):
        hold(body, during - 1)


def test_wide_text_counts_for_what_it_takes_in_memory() -> None:
    body = json.dumps(request("wait", params=["a" * 10_000 + "\U0001f600"])).encode()
    _, (during,), _ = hold(body, 2**20)
    assert during > 40_000


def test_answers_that_find_no_room_are_errors() -> None:
    body = json.dumps([request("wait", each) for each in range(5)]).encode()
    answers, seen, _ = hold(body, 2**20)
    per_answer = seen[1] - seen[0]
    assert per_answer > 1_000
    answers, _, total = hold(body, seen[0] + 2 * per_answer)
    assert isinstance(answers, list)
    assert ["error" in each for each in answers] == [False, False, True, True, True]
    assert {each["error"]["code"] for each in answers[2:]} == {-32005}
    assert total <= seen[0] + 2 * per_answer
