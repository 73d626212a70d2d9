"""The routes of the HTTP port (docs/spec/rpc.md, section 4).

POST / is JSON-RPC. /liveness and /readiness tell supervisors and load balancers the state of the
node. /v1 is for blobs.
"""

from typing import Final, Protocol

from node.ipc.client import IpcError, NodeLink
from node.ipc.turns import CLIENT
from node.rpc.chain_view import ChainView
from node.rpc.dispatch import Dispatcher
from node.rpc.http import HttpError, Request, Response, json_response

JSON_TYPES: Final = frozenset(
    {"application/json", "application/json-rpc", "application/jsonrequest"}
)
"""The accepted content types, as in geth. A form on a foreign web page can send none of them, and a
script there can do so only after a preflight request, which `AccessRules` answers."""

DEFAULT_MIN_PEERS: Final = 1
"""Peers that a ready node needs by default, as in besu: a node without peers gets no blocks."""

DEFAULT_MAX_BLOCKS_BEHIND: Final = 2
"""Blocks that a ready node may be behind its peers by default, as in besu."""


class Resource(Protocol):
    """A handler of the requests below a path."""

    async def __call__(self, request: Request) -> Response:
        """The response to `request`.

        Raises:
            HttpError: The request is refused.
        """
        ...


class RpcService:
    """Answers all requests of the HTTP port."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        chain: ChainView,
        node: NodeLink,
        blobs: Resource,
        body_limit_bytes: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._chain = chain
        self._node = node
        self._blobs = blobs
        self._body_limit_bytes = body_limit_bytes

    async def __call__(self, request: Request) -> Response:
        """The response to `request`.

        Raises:
            HttpError: The request is refused.
        """
        CLIENT.set(request.client)
        if request.path.startswith("/v1/"):
            return await self._blobs(request)
        match request.method, request.path:
            case "POST", "/":
                return await self._answer_rpc(request)
            case (("GET" | "HEAD"), "/liveness"):
                return json_response({"status": "UP"})
            case (("GET" | "HEAD"), "/readiness"):
                return await self._answer_readiness(request)
            case _, ("/" | "/liveness" | "/readiness"):
                raise HttpError(
                    405, "method_not_allowed", "use POST for /, GET for /liveness and /readiness"
                )
            case _:
                raise HttpError(404, "not_found", f"there is no resource {request.path[:200]}")

    async def _answer_rpc(self, request: Request) -> Response:
        if request.content_type not in JSON_TYPES:
            raise HttpError(
                415, "content_type", "invalid content type, only application/json is supported"
            )
        # The body is kept by no name here, because its values take its place in memory.
        answer = await request.finish(
            self._dispatcher.answer(await request.body(self._body_limit_bytes), request.holding)
        )
        return Response(204) if answer is None else Response(200, answer)

    async def _answer_readiness(self, request: Request) -> Response:
        min_peers = _count(request, "minPeers", DEFAULT_MIN_PEERS)
        max_behind = _count(request, "maxBlocksBehind", DEFAULT_MAX_BLOCKS_BEHIND)
        head = self._chain.store.head_number()
        try:
            state = await self._node.call("sync_state")
        except IpcError as error:
            return json_response({"status": "DOWN", "head": head, "reason": str(error)}, 503)
        assert isinstance(state, dict)
        peers, best = state.get("peers"), state.get("best")
        assert isinstance(peers, int)
        assert isinstance(best, int)
        is_ready = peers >= min_peers and best - head <= max_behind
        return json_response(
            {"status": "UP" if is_ready else "DOWN", "head": head, "best": best, "peers": peers},
            200 if is_ready else 503,
        )


def _count(request: Request, name: str, default: int) -> int:
    value = request.query.get(name)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise HttpError(400, "malformed", f"{name} is not a number")
    return int(value)
