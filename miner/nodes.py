"""The nodes that a miner asks: which one, and for how long not (docs/spec/rpc.md, section 9).

The first that answers is kept until it fails, lies or has no news.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, TypeVar

import httpx
import structlog
from pydantic import TypeAdapter

from chain.hexadecimal import to_hex
from chain.json_types import Json
from chain.primitives import Hash32
from pot_common.http_exchange import describe_failure, exchange, open_http
from pot_common.rpc_client import (
    ChainClient,
    NodeUnreachableError,
    RpcCallError,
)
from pot_common.rpc_replies import ClientError, NodeInfo, read_answer

ANSWER_SECONDS: Final = 20.0
"""The longest silence in an answer: a busy node starts its call workers, then executes a call for
seconds."""

UNREACHABLE_REST_SECONDS: Final = 30.0
"""For this long, a node that did not answer is asked only if no other is left. Each further failure
doubles it: a node that hangs costs `ANSWER_SECONDS` each time that it is tried again."""

LONGEST_REST_SECONDS: Final = 480.0
"""The longest rest of a node that did not answer."""

STRAGGLER_SECONDS: Final = 1.0
"""The least time that other nodes have after the first answer, when all are asked at once."""

STRAGGLER_FACTOR: Final = 3
"""Other nodes have so many times as long as the first that answered, if that is more."""

LIAR_REST_SECONDS: Final = 300.0
"""For this long, a node that gave a wrong answer is not asked; it may be repaired afterwards."""

UNAVAILABLE_CODE: Final = -32002
"""EIP-1474: the node process behind this RPC process does not run; another node may answer."""

FAILURES: Final = (httpx.HTTPError, ValueError, ClientError)
"""What asking a node may raise."""

Answer = TypeVar("Answer")
"""The type of what nodes are asked for."""

_log = structlog.get_logger("miner")

_NODE_INFO: Final = TypeAdapter(NodeInfo)


class DishonestNodeError(ClientError):
    """An answer contradicts what the chain proves, or its proof proves nothing."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} is not believed: {reason}")
        self.url = url
        self.reason = reason


class NodePool(ChainClient):
    """One or more nodes of one network; the first that answers is kept until it fails."""

    def __init__(
        self,
        urls: Sequence[str],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Make a pool of nodes.

        Args:
            urls: The nodes, the preferred one first.
            transport: Sends the requests; None for the network.
        """
        super().__init__()
        assert urls
        self._urls = [url.rstrip("/") for url in urls]
        self._current = 0
        self._network: tuple[int, Hash32] | None = None
        self._recognized: set[str] = set()
        """Nodes that have named this network since they last failed."""
        self._unreachable: dict[str, tuple[float, float]] = {}
        """By URL: until when, by the monotonic clock, other nodes are preferred, and how long that
        rest is in seconds."""
        self._waiting_for: set[str] = set()
        """Nodes that have not answered yet when all were asked at once."""
        self._liars: dict[str, tuple[float, str]] = {}
        """By URL: until when the node is not asked, and why."""
        self._http = open_http(ANSWER_SECONDS, transport)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Choosing a node.

    @property
    def current(self) -> str:
        """The URL of the node that answered last."""
        return self._urls[self._current]

    def rotate(self) -> None:
        """Prefer the next node from now on: the current one has no news."""
        self._current = (self._current + 1) % len(self._urls)

    def prefer(self, url: str) -> None:
        """Ask the node at `url` first from now on."""
        self._current = self._urls.index(url)

    def drop(self, error: DishonestNodeError) -> None:
        """Do not ask the node that `error` names for a while."""
        _log.warning(str(error), seconds=LIAR_REST_SECONDS)
        self._liars[error.url] = (time.monotonic() + LIAR_REST_SECONDS, error.reason)

    def _list_candidates(self) -> list[int]:
        """Positions of the nodes to ask, the preferred one first."""
        now, count = time.monotonic(), len(self._urls)
        positions = [(self._current + offset) % count for offset in range(count)]
        honest = [at for at in positions if self._liars.get(self._urls[at], (0.0, ""))[0] <= now]
        return sorted(honest, key=lambda at: not self._is_reachable(self._urls[at]))

    def _list_reachable(self) -> list[str]:
        """The nodes to ask when all are asked; those that rest only if there are no others."""
        candidates = [self._urls[position] for position in self._list_candidates()]
        return [each for each in candidates if self._is_reachable(each)] or candidates

    def _is_reachable(self, url: str) -> bool:
        return self._unreachable.get(url, (0.0, 0.0))[0] <= time.monotonic()

    def _put_off(self, url: str) -> None:
        """Prefer other nodes for a while, because this one did not answer."""
        _, last = self._unreachable.get(url, (0.0, 0.0))
        rest = min(LONGEST_REST_SECONDS, 2 * last or UNREACHABLE_REST_SECONDS)
        self._unreachable[url] = (time.monotonic() + rest, rest)

    def _ask_at_once(
        self, urls: Iterable[str], ask: Callable[[str], Answer], wait_seconds: float | None = None
    ) -> dict[str, Answer | Exception]:
        """What nodes answer that are all asked at the same time.

        After the first answer the others are waited for only a few times as long as that took, so
        a node that hangs delays nothing for long. It is not asked again while it hangs.

        Args:
            urls: The nodes.
            ask: Asks one of them.
            wait_seconds: The longest time to wait for a first answer; None waits for it.
        """
        waiting = [url for url in urls if url not in self._waiting_for]
        self._waiting_for.update(waiting)
        answers: SimpleQueue[tuple[str, Answer | Exception]] = SimpleQueue()

        def ask_one(url: str) -> None:
            answer: Answer | Exception
            try:
                answer = ask(url)
                self._unreachable.pop(url, None)
            except Exception as error:  # noqa: BLE001 - raised again where it is awaited
                if isinstance(error, httpx.HTTPError):
                    self._put_off(url)
                answer = error
            self._waiting_for.discard(url)
            answers.put((url, answer))

        begin = time.monotonic()
        for url in waiting:
            # The process can end while a node hangs.
            Thread(target=ask_one, args=(url,), daemon=True).start()
        found: dict[str, Answer | Exception] = {}
        deadline = None if wait_seconds is None else begin + wait_seconds
        is_answered = False
        while len(found) < len(waiting):
            now = time.monotonic()
            try:
                url, answer = answers.get(
                    timeout=None if deadline is None else max(0.0, deadline - now)
                )
            except Empty:
                break
            if isinstance(answer, Exception) and not isinstance(answer, FAILURES):
                raise answer
            found[url] = answer
            if not is_answered and not isinstance(answer, Exception):
                is_answered = True
                first_seconds = time.monotonic() - begin
                deadline = time.monotonic() + max(
                    STRAGGLER_SECONDS, STRAGGLER_FACTOR * first_seconds
                )
        return found

    # JSON-RPC.

    def call(self, method: str, *params: Json) -> Json:
        """The result of a JSON-RPC method at the first node that answers.

        Raises:
            RpcCallError: The node answered with an error.
            NodeUnreachableError: No node answers.
        """
        failures = []
        for position in self._list_candidates():
            url = self._urls[position]
            try:
                result = self._call_at(url, method, params)
            except (httpx.HTTPError, ValueError) as error:
                failures.append(f"{url} ({describe_failure(error)})")
                self._put_off(url)
                continue
            except DishonestNodeError as error:
                self.drop(error)
                continue
            except RpcCallError as error:
                if error.code != UNAVAILABLE_CODE:
                    self._current = position
                    raise
                failures.append(f"{url} ({error})")
                continue
            self._current = position
            self._unreachable.pop(url, None)
            return result
        failures += [
            f"{url} (not believed: {reason})"
            for url, (until, reason) in self._liars.items()
            if until > time.monotonic()
        ]
        raise NodeUnreachableError(
            f"no node answers: {', '.join(failures)}; is one running, and is --rpc right?"
        )

    def _call_at(self, url: str, method: str, params: Sequence[Json]) -> Json:
        """The result at one node, after a check that the node is on the required network.

        Raises:
            httpx.HTTPError, ValueError: The node does not answer.
            RpcCallError: The node answered with an error.
            DishonestNodeError: The node is on another network.
        """
        if self._network is not None and url not in self._recognized:
            answer = exchange(self._http, url, "pot_nodeInfo", ())
            try:
                info = read_answer(_NODE_INFO, answer)
            except ClientError as error:
                raise ValueError(str(error)) from error
            if (info.chain_id, info.genesis_hash) != self._network:
                raise DishonestNodeError(url, _describe_network(info))
            self._recognized.add(url)
        try:
            return exchange(self._http, url, method, params)
        except httpx.HTTPError:
            self._recognized.discard(url)
            raise

    def require_network(self, chain_id: int, genesis_hash: Hash32) -> None:
        """Ask only nodes of this network from now on.

        Raises:
            ClientError: A node that answers is on another network.
        """
        self._network = (chain_id, genesis_hash)
        for url in self._urls:
            try:
                self._call_at(url, "eth_chainId", ())
            except (httpx.HTTPError, ValueError, RpcCallError):
                continue
            except DishonestNodeError as error:
                raise ClientError(
                    f"{url} is on another network ({error.reason}); name nodes of one network "
                    "with --rpc"
                ) from error


def _describe_network(info: NodeInfo) -> str:
    return f"its network has chain id {info.chain_id}, genesis {to_hex(info.genesis_hash)}"
