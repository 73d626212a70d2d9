"""JSON-RPC with a short time limit: under faults a client asks the next node instead of waiting."""

from typing import Final

import httpx
import trio

from chain.json_types import Json

TIMEOUT_SECONDS: Final = 5.0
"""The time limit of an answer; a paused node gives none."""

ATTEMPTS: Final = 6
"""The attempts of `insist`, which take half a minute to a minute."""


class NoAnswer(Exception):
    """The node is down, too slow, or refused; the request may have taken effect."""


class Refused(NoAnswer):
    """The node answered with an error."""


class Rpc:
    """The JSON-RPC of one node."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.AsyncClient(timeout=TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(self, method: str, *params: Json) -> Json:
        """The result of a method.

        Raises:
            NoAnswer: The node did not answer.
        """
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            with trio.fail_after(2 * TIMEOUT_SECONDS):
                body = (await self._http.post(self._url, json=request)).json()
        except (httpx.HTTPError, ValueError, trio.TooSlowError) as error:
            raise NoAnswer(repr(error)) from error
        if "error" in body:
            raise Refused(str(body["error"].get("message")))
        return body["result"]

    async def insist(self, method: str, *params: Json) -> Json:
        """The result of a method, requested again if there is no answer; for use without faults.

        Raises:
            NoAnswer: The node did not answer, or it refused.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return await self.call(method, *params)
            except Refused:
                raise
            except NoAnswer:
                await trio.sleep(TIMEOUT_SECONDS)
        return await self.call(method, *params)

    async def head(self) -> int:
        """The number of the last final block."""
        return int(str(await self.call("eth_blockNumber")), 16)

    async def block_hash(self, number: int) -> str | None:
        """The hash of a block; None if it is not there yet."""
        block = await self.call("eth_getBlockByNumber", hex(number), False)
        return str(block["hash"]) if isinstance(block, dict) else None
