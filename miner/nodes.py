"""The nodes that a miner asks: which one, and for how long not (docs/spec/rpc.md, section 9).

The first that answers is kept until it fails, lies, is slow or has no news. While it is slow, the
next one is asked beside it.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
"""The time that a node has for an answer: a busy one starts its call workers, then executes a call
for seconds."""

SLOW_SECONDS: Final = 1.0
"""A node that has not answered for so long, or sends too little of a blob, gets another one beside
it. A commitment takes about eight answers one after the other, and must be there within seconds in
a short phase; a node that is not overloaded answers in a tenth of a second."""

ASKED_LIMIT: Final = 8
"""The most nodes that wait for one answer to the same question: seven slow ones cannot keep a miner
from the eighth, and a question to many slow nodes does not load all of them."""

REFUSAL_SECONDS: Final = 3.0
"""An error, or the answer that there is no such thing, may be the word of a node that lies. Other
nodes that were asked already, because they are slow, have so long to answer better."""

REST_SECONDS: Final = 30.0
"""For this long, a node that did not answer, or was slow, is asked after the others. Each further
time doubles it, since each costs the miner `SLOW_SECONDS`."""

LONGEST_REST_SECONDS: Final = 480.0
"""The longest rest of a node."""

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


class _Rests:
    """The nodes that are asked after the others for a while."""

    def __init__(self) -> None:
        self._by_url: dict[str, tuple[float, float]] = {}
        """Until when, by the monotonic clock, and how long that rest is in seconds."""

    def begin(self, url: str) -> None:
        """Let a node rest, for twice as long as the last time unless that was ended."""
        _, last = self._by_url.get(url, (0.0, 0.0))
        seconds = min(LONGEST_REST_SECONDS, 2 * last or REST_SECONDS)
        self._by_url[url] = (time.monotonic() + seconds, seconds)

    def end(self, url: str) -> None:
        """Forget the rests of a node."""
        self._by_url.pop(url, None)

    def interrupt(self, url: str) -> None:
        """Ask a node again now; its next rest is twice as long nevertheless."""
        _, seconds = self._by_url.get(url, (0.0, 0.0))
        self._by_url[url] = (0.0, seconds)

    def has(self, url: str) -> bool:
        """Whether a node rests."""
        return self._by_url.get(url, (0.0, 0.0))[0] > time.monotonic()


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
        self._unreachable = _Rests()
        """Nodes that did not answer."""
        self._slow = _Rests()
        """Nodes that answered late. They still get transactions and gradients at once, so that a
        fast node which keeps these to itself does not take the place of an honest slow one."""
        self._waiting_for: set[tuple[str, str]] = set()
        """Nodes that have not answered yet, each with what it was asked. A node that hangs is not
        asked the same again, so that the threads that wait for it stay few."""
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
        """Prefer the next node from now on, also a slow one: the current one has no news."""
        self._current = (self._current + 1) % len(self._urls)
        self._slow.interrupt(self.current)

    def prefer(self, url: str) -> None:
        """Ask the node at `url` first from now on."""
        self._current = self._urls.index(url)

    def drop(self, error: DishonestNodeError) -> None:
        """Do not ask the node that `error` names for a while."""
        _log.warning(str(error), seconds=LIAR_REST_SECONDS)
        self._liars[error.url] = (time.monotonic() + LIAR_REST_SECONDS, error.reason)

    def _list_candidates(self) -> list[str]:
        """The nodes to ask, the preferred one first, and those last that did not answer."""
        now = time.monotonic()
        urls = self._urls[self._current :] + self._urls[: self._current]
        honest = [each for each in urls if self._liars.get(each, (0.0, ""))[0] <= now]
        return sorted(honest, key=lambda each: (self._unreachable.has(each), self._slow.has(each)))

    def _list_reachable(self) -> list[str]:
        """The nodes to ask when all are asked; those that did not answer only if all did not."""
        candidates = self._list_candidates()
        return [each for each in candidates if not self._unreachable.has(each)] or candidates

    def _note_pace(self, url: str, seconds: float) -> None:
        """Let a node rest that took so long for an answer, or end its rest if it was fast."""
        if seconds < SLOW_SECONDS:
            self._slow.end(url)
        else:
            self._slow.begin(url)

    # Asking.

    def _start(
        self,
        url: str,
        what: str,
        ask: Callable[[str], Answer],
        answers: SimpleQueue[tuple[str, Answer | BaseException]],
    ) -> None:
        """Ask one node, and put into `answers` what it says.

        The thread may go on when nobody waits for it: the process can end while a node hangs.
        """

        def ask_one() -> None:
            answer: Answer | BaseException
            try:
                answer = ask(url)
                self._unreachable.end(url)
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                if isinstance(error, (httpx.HTTPError, ValueError)):
                    self._unreachable.begin(url)
                answer = error
            self._waiting_for.discard((url, what))
            answers.put((url, answer))

        self._waiting_for.add((url, what))
        Thread(target=ask_one, daemon=True).start()

    def _ask_first(self, what: str, ask: Callable[[str], Json]) -> Json:
        """The first answer to a question: the next node is asked beside one that is slow.

        Null and errors of JSON-RPC are taken only once no other node is likely to know better.

        Args:
            what: The name of the question.
            ask: Asks a node.

        Raises:
            RpcCallError: A node answered with an error.
            NodeUnreachableError: No node answers.
        """
        answers: SimpleQueue[tuple[str, Json | BaseException]] = SimpleQueue()
        rest = self._list_candidates()
        asked: dict[str, float] = {}
        failures: list[str] = []
        denial: tuple[str, RpcCallError | None] | None = None
        now = time.monotonic()
        next_at, end_at = now, math.inf
        while (rest and denial is None) or asked:
            is_due = not asked or (now >= next_at and len(asked) < ASKED_LIMIT)
            if denial is None and is_due:
                free = [url for url in rest if (url, what) not in self._waiting_for]
                for url in free[:1] or (rest[:1] if not asked else []):
                    rest.remove(url)
                    asked[url] = now
                    self._start(url, what, ask, answers)
                next_at = now + SLOW_SECONDS
            wake_at = min(end_at, *(since + ANSWER_SECONDS for since in asked.values()))
            if denial is None and rest and len(asked) < ASKED_LIMIT:
                wake_at = min(wake_at, next_at)
            try:
                url, answer = answers.get(timeout=max(0.0, wake_at - now))
            except Empty:
                now = max(wake_at, time.monotonic())
                if now >= end_at:
                    break
                for url in [each for each, at in asked.items() if now >= at + ANSWER_SECONDS]:
                    del asked[url]
                    self._slow.begin(url)
                    failures.append(f"{url} (no complete answer in {ANSWER_SECONDS:g} s)")
                continue
            now = time.monotonic()
            if url not in asked:  # it was given up
                continue
            seconds = now - asked.pop(url)
            if isinstance(answer, DishonestNodeError):
                self.drop(answer)
            elif isinstance(answer, (httpx.HTTPError, ValueError)) or (
                isinstance(answer, RpcCallError) and answer.code == UNAVAILABLE_CODE
            ):
                failures.append(f"{url} ({describe_failure(answer)})")
            elif isinstance(answer, BaseException) and not isinstance(answer, RpcCallError):
                raise answer
            else:
                self._note_pace(url, seconds)
                if answer is not None and not isinstance(answer, RpcCallError):
                    self._take_from(url, asked, now)
                    return answer
                if denial is None:
                    denial = url, answer
                    end_at = now + REFUSAL_SECONDS
        if denial is None:
            raise self._build_unreachable(failures)
        url, error = denial
        self._take_from(url, asked, now)
        if error is not None:
            raise error
        return None

    def _take_from(self, url: str, overtaken: Mapping[str, float], now: float) -> None:
        """Prefer the node whose answer is taken, and not those that it overtook.

        Args:
            url: The node.
            overtaken: The nodes that were asked and have not answered, and since when.
            now: The time.
        """
        self._current = self._urls.index(url)
        for other, since in overtaken.items():
            if now - since >= SLOW_SECONDS:
                self._slow.begin(other)

    def _build_unreachable(self, failures: Sequence[str]) -> NodeUnreachableError:
        now = time.monotonic()
        liars = [
            f"{url} (not believed: {reason})"
            for url, (until, reason) in self._liars.items()
            if until > now
        ]
        return NodeUnreachableError(
            f"no node answers: {', '.join([*failures, *liars])}; is one running, and is --rpc "
            "right?"
        )

    def _ask_at_once(
        self,
        what: str,
        urls: Iterable[str],
        ask: Callable[[str], Answer],
        wait_seconds: float | None = ANSWER_SECONDS,
    ) -> dict[str, Answer | Exception]:
        """What nodes answer that are all asked at the same time, in the order of `urls`.

        After the first answer the others are waited for only a few times as long as that took, so
        a node that hangs delays nothing for long. It is not asked again while it hangs.

        Args:
            what: The name of the question.
            urls: The nodes.
            ask: Asks one of them.
            wait_seconds: The longest time to wait for a first answer; None waits for it.
        """
        waiting = [url for url in urls if (url, what) not in self._waiting_for]
        answers: SimpleQueue[tuple[str, Answer | BaseException]] = SimpleQueue()
        begin = time.monotonic()
        for url in waiting:
            self._start(url, what, ask, answers)
        found: dict[str, Answer | Exception] = {}
        deadline = None if wait_seconds is None else begin + wait_seconds
        is_answered = is_refused = False
        while len(found) < len(waiting):
            now = time.monotonic()
            try:
                url, answer = answers.get(
                    timeout=None if deadline is None else max(0.0, deadline - now)
                )
            except Empty:
                break
            if isinstance(answer, BaseException) and not isinstance(answer, FAILURES):
                raise answer
            found[url] = answer
            now = time.monotonic()
            if not is_answered and not isinstance(answer, Exception):
                is_answered = True
                deadline = now + max(STRAGGLER_SECONDS, STRAGGLER_FACTOR * (now - begin))
            elif isinstance(answer, RpcCallError) and not is_answered and not is_refused:
                is_refused = True
                deadline = now + REFUSAL_SECONDS
        return {url: found[url] for url in waiting if url in found}

    # JSON-RPC.

    def call(self, method: str, *params: Json) -> Json:
        """The result of a JSON-RPC method at the first node that answers.

        Raises:
            RpcCallError: The node answered with an error.
            NodeUnreachableError: No node answers.
        """
        return self._ask_first(method, lambda url: self._call_at(url, method, params))

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
        found = self._ask_at_once(
            "eth_chainId", self._urls, lambda url: self._call_at(url, "eth_chainId", ())
        )
        for url, answer in sorted(found.items()):
            if isinstance(answer, DishonestNodeError):
                raise ClientError(
                    f"{url} is on another network ({answer.reason}); name nodes of one network "
                    "with --rpc"
                ) from answer


def _describe_network(info: NodeInfo) -> str:
    return f"its network has chain id {info.chain_id}, genesis {to_hex(info.genesis_hash)}"
