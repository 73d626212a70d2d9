"""JSON-RPC 2.0: from the body of a request to the body of a response (docs/spec/rpc.md, section 1).

This module is independent of HTTP and of the methods.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Final

import structlog

from chain.json_types import Json, JsonObject
from node.ipc.turns import SharedTurns
from node.rpc.errors import ErrorCode, RpcError
from node.rpc.held_bytes import Holding, NoRoomError
from node.rpc.metrics import UNKNOWN_METHOD, RpcMetrics
from node.rpc.parameters import Parameters
from pot_common.json_text import dump_json, parse_json

BATCH_LIMIT: Final = 1_000
"""Limit of requests in a batch, as in geth; ethers sends at most 100, viem at most 1,000."""

RESPONSE_LIMIT_BYTES: Final = 25_000_000
"""Limit of all responses of a batch together, as in geth. Once they exceed it, each remaining
request gets an error."""

BATCH_LIMIT_SECONDS: Final = 30.0
"""Time limit of a batch, as in geth. After it, each remaining request gets an error."""

ID_LIMIT_CHARACTERS: Final = 1_000
"""Limit of a request's id, because each response repeats it."""

VALUES_LIMIT: Final = 100_000
"""Limit of commas, colons and opening brackets in a body. A batch of 1,000 usual requests has
20,000."""

VALUE_BYTES: Final = 100
"""The memory of a value beside its text, at most; members of objects take 78 bytes."""

WIDE_TEXT_BYTES: Final = 4
"""The memory of a character of a text that is not ASCII, at most."""

LARGE_ANSWER_BYTES: Final = 16 * 2**20
"""What counts for an answer with many values while it waits to be encoded."""

LARGE_ANSWER_VALUES: Final = 2_000
"""An answer with more values than this is encoded in a thread: it takes more than a millisecond."""

ENCODINGS: Final = 1
"""Limit of large answers that are encoded at the same time. The encoder shares one interpreter with
the event loop, so more of them would only leave less time to others."""

Method = Callable[[Parameters], Awaitable[Json]]
"""A method: from parameters to the result. It raises RpcError for an error that the client gets."""

_log = structlog.get_logger("node.rpc")


class Dispatcher:
    """Answers requests from a table of methods."""

    def __init__(self, methods: Mapping[str, Method], metrics: RpcMetrics | None = None) -> None:
        self._methods = methods
        self._metrics = metrics or RpcMetrics()
        self._encodings = SharedTurns(ENCODINGS)

    async def answer(self, body: bytes, holding: Holding) -> bytes | None:
        """The response to `body`; None if it holds only notifications.

        Args:
            body: The text of a request, or of a batch.
            holding: What the request holds in memory; here its values and its answers.

        Raises:
            NoRoomError: There is no room for the values of the request.
        """
        values = count_values(body)
        if values > VALUES_LIMIT:
            limit = f"too many values, limit {VALUES_LIMIT}: send a smaller batch"
            return dump_json(_failure(None, RpcError(ErrorCode.LIMIT_EXCEEDED, limit)))
        is_wide = not body.isascii() or b"\\u" in body
        text_bytes = len(body) * (WIDE_TEXT_BYTES if is_wide else 1)
        holding.resize(text_bytes + values * VALUE_BYTES)
        try:
            message = parse_json(body)
        except ValueError:
            return dump_json(_failure(None, RpcError(ErrorCode.PARSE, "parse error")))
        del body
        if isinstance(message, list):
            # What is no request is not kept until its turn.
            batch = [each if isinstance(each, dict) else None for each in message]
            del message
            return await self._answer_batch(batch, holding)
        response = await self._answer_one(message)
        return None if response is None else await self._encode(response, holding)

    async def _encode(self, response: JsonObject, holding: Holding) -> bytes:
        """The text of a response, or that of an error if there is no room for it."""
        before = holding.size_bytes
        try:
            if _is_large(response):
                holding.add(LARGE_ANSWER_BYTES)
                text = await self._encodings.run(dump_json, response)
                holding.resize(before + len(text))
            else:
                text = dump_json(response)
                holding.add(len(text))
        except NoRoomError as error:
            refusal = RpcError(ErrorCode.LIMIT_EXCEEDED, str(error))
            return dump_json(_failure(response["id"], refusal))
        return text

    async def _answer_batch(
        self, batch: Sequence[JsonObject | None], holding: Holding
    ) -> bytes | None:
        if not batch:
            return dump_json(_failure(None, _invalid_request("empty batch")))
        if len(batch) > BATCH_LIMIT:
            return dump_json(
                _failure(
                    None,
                    RpcError(ErrorCode.LIMIT_EXCEEDED, f"batch too large, limit {BATCH_LIMIT}"),
                )
            )
        responses: list[bytes] = []
        size, started = 0, perf_counter()
        for message in batch:
            if size > RESPONSE_LIMIT_BYTES:
                limit = f"response too large, limit {RESPONSE_LIMIT_BYTES}"
                response = _refuse_unanswered(message, limit)
            elif perf_counter() - started > BATCH_LIMIT_SECONDS:
                limit = f"batch takes too long, limit {BATCH_LIMIT_SECONDS:g} s: send a smaller one"
                response = _refuse_unanswered(message, limit)
            else:
                response = await self._answer_one(message)
            if response is not None:
                responses.append(await self._encode(response, holding))
                size += len(responses[-1])
            # Its values would stay in memory, and not be counted, while the next one is answered.
            response = None
            # A method may have waited for nothing, and other clients are to be answered, too.
            await asyncio.sleep(0)
        return b"[" + b",".join(responses) + b"]" if responses else None

    async def _answer_one(self, message: Json) -> JsonObject | None:
        if not isinstance(message, dict):
            return _failure(None, _invalid_request("a request is an object"))
        request_id = message.get("id")
        if not _is_id(request_id):
            return _failure(None, _invalid_request("id is a string, a number or null"))
        response = await self._respond(message, request_id)
        return response if "id" in message else None

    async def _respond(self, message: JsonObject, request_id: Json) -> JsonObject:
        started, outcome = perf_counter(), "ok"
        try:
            result = await self._call(message)
        except RpcError as error:
            outcome = "refused"
            return _failure(request_id, error)
        except Exception:  # noqa: BLE001 - a bug in one method must not end the service
            outcome = "failed"
            _log.exception("rpc method failed", method=message.get("method"))
            return _failure(request_id, RpcError(ErrorCode.INTERNAL, "internal error"))
        finally:
            name = message.get("method")
            known = name if isinstance(name, str) and name in self._methods else UNKNOWN_METHOD
            self._metrics.on_request(known, outcome, perf_counter() - started)
        return {"jsonrpc": "2.0", "id": request_id, "result": result}

    async def _call(self, message: JsonObject) -> Json:
        name, params = message.get("method"), message.get("params")
        if message.get("jsonrpc") != "2.0":
            raise _invalid_request('jsonrpc is not "2.0"')
        if not isinstance(name, str):
            raise _invalid_request("method is not a string")
        method = self._methods.get(name)
        if method is None:
            raise RpcError(
                ErrorCode.METHOD_NOT_FOUND,
                f"the method {name[:100]} does not exist/is not available",
            )
        if params is None:
            params = []
        if not isinstance(params, list):
            raise RpcError(ErrorCode.INVALID_PARAMS, "non-array args")
        return await method(Parameters(params))


def count_values(body: bytes) -> int:
    """The most values that a JSON text can have, counted without parsing it."""
    return sum(map(body.count, (b",", b":", b"[", b"{")))


def _is_large(answer: Json) -> bool:
    """Whether an answer has so many values that encoding takes long."""
    found: list[Json] = [answer]
    for each in found:
        if isinstance(each, dict):
            found.extend(each.values())
        elif isinstance(each, list):
            found.extend(each)
        if len(found) > LARGE_ANSWER_VALUES:
            return True
    return False


def _refuse_unanswered(message: Json, limit: str) -> JsonObject | None:
    if not isinstance(message, dict) or "id" not in message:
        return None
    request_id = message["id"]
    return _failure(
        request_id if _is_id(request_id) else None,
        RpcError(ErrorCode.LIMIT_EXCEEDED, limit),
    )


def _is_id(value: Json) -> bool:
    if isinstance(value, str):
        return len(value) <= ID_LIMIT_CHARACTERS
    if isinstance(value, float):
        return math.isfinite(value)  # 1e400 is valid JSON, but infinity is not
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _invalid_request(message: str) -> RpcError:
    return RpcError(ErrorCode.INVALID_REQUEST, f"invalid request: {message}")


def _failure(request_id: Json, error: RpcError) -> JsonObject:
    return {"jsonrpc": "2.0", "id": request_id, "error": error.to_json()}
