"""A client of one node's JSON-RPC and blobs, for the command line (docs/spec/rpc.md).

It is synchronous, and reports every failure as one line of text.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

import httpx

from chain.crypto import CHUNK_BYTES, chunk_hashes
from chain.crypto import content_id as compute_content_id
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, Hash32
from chain.types.receipt import Log
from pot_common.errors import OperatorError
from pot_common.http_exchange import describe_failure, exchange, open_http, receive, send_request
from pot_common.json_text import parse_json
from pot_common.rpc_client import (
    ChainClient,
    ContentUnavailableError,
    NodeUnreachableError,
)
from pot_common.rpc_replies import ClientError, read_bytes

T = TypeVar("T")
"""The type of a contract's answer."""

Progress: TypeAlias = Callable[[int], None]
"""A function that is told how many more bytes were transferred."""

ANSWER_SECONDS: Final = 60.0
"""The longest wait for an answer: eth_call may run for seconds, and a node hashes an uploaded blob
before it answers."""

UPLOAD_PATIENCE_SECONDS: Final = 60.0
"""How long a node without room for a blob is asked again: a node frees disk every ten seconds."""

UPLOAD_WAIT_SECONDS: Final = 5.0
"""The longest wait between two tries, and the one if a node does not say how long to wait."""

UPLOAD_LACKS: Final = {
    503: "is too busy to check whether it may take the data",
    507: "has no room for the data until tasks are closed, or its blobs.quota_bytes is raised",
}
"""What a node lacks that answers an upload with these codes of HTTP."""

LOG_RANGE_BLOCKS: Final = 5_000
"""The range of blocks of one eth_getLogs request; nodes limit it."""


class RpcClient(ChainClient):
    """A client of one node that the operator chose and trusts."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        super().__init__()
        if not url.startswith(("http://", "https://")):
            raise OperatorError(f"--rpc is {url!r}; give a URL such as http://127.0.0.1:8545")
        self.url = url.rstrip("/")
        self._http = open_http(ANSWER_SECONDS, transport)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, *params: Json) -> Json:
        """The result of a JSON-RPC method.

        Raises:
            RpcCallError: The node answered with an error.
            ClientError: No node answers at the URL.
        """
        try:
            return exchange(self._http, self.url, method, params)
        except httpx.HTTPStatusError as error:
            raise ClientError(f"{self.url}: {_describe_refusal(error.response)}") from error
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise ClientError(f"{self.url} does not speak JSON-RPC; check --rpc") from error

    def is_ready(self) -> bool:
        """Whether a node answers at the URL."""
        try:
            self.call("eth_chainId")
        except ClientError:
            return False
        return True

    def _unreachable(self, error: Exception) -> NodeUnreachableError:
        return NodeUnreachableError(
            f"no node answers at {self.url} ({describe_failure(error)}); start one with "
            "`pot node run`, or name another with --rpc"
        )

    def logs(
        self, addresses: Sequence[Address], topics: Sequence[Json], first: int, last: int
    ) -> Iterator[JsonObject]:
        """The events of contracts in the blocks from `first` to `last`, in order."""
        for start in range(first, last + 1, LOG_RANGE_BLOCKS):
            query: JsonObject = {
                "address": [to_hex(address) for address in addresses],
                "topics": list(topics),
                "fromBlock": hex(start),
                "toBlock": hex(min(last, start + LOG_RANGE_BLOCKS - 1)),
            }
            yield from self.call_list("eth_getLogs", query)

    # Blobs.

    def put_blob(
        self,
        content_id: Hash32,
        data: bytes,
        progress: Progress,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Upload the blob `data` with the content id `content_id`.

        A node that has no room for it now is asked again for a while.

        Args:
            content_id: The content id.
            data: The blob.
            progress: Is told of the bytes sent; of less than none when they are sent again.
            note: Is told in a sentence what is waited for.

        Raises:
            ClientError: The node does not take it.
        """
        hashes = b"".join(chunk_hashes(data))
        give_up_at = time.monotonic() + UPLOAD_PATIENCE_SECONDS
        noted = None
        while True:
            try:
                response = self._send_blob(content_id, hashes, data, progress)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
                # A node that refuses a blob does not wait for its end, and its answer may be lost.
                lack, wait_seconds = f"cut the upload off ({describe_failure(error)})", 1.0
            except (httpx.HTTPError, ValueError) as error:
                raise self._unreachable(error) from error
            else:
                if response.is_success:
                    return
                if response.status_code not in UPLOAD_LACKS:
                    url = self._blob_url(content_id)
                    raise ClientError(f"{url}: {_describe_refusal(response)}")
                lack = UPLOAD_LACKS[response.status_code]
                wait_seconds = _read_retry_after(response)
            if time.monotonic() + wait_seconds > give_up_at:
                raise ClientError(
                    f"{self.url} {lack}, for {UPLOAD_PATIENCE_SECONDS:g} s; try again later, or "
                    "upload to another node with --rpc"
                )
            if lack != noted:
                note(f"{self.url} {lack}; trying again for {UPLOAD_PATIENCE_SECONDS:g} s")
                noted = lack
            time.sleep(wait_seconds)

    def _send_blob(
        self, content_id: Hash32, hashes: bytes, data: bytes, progress: Progress
    ) -> httpx.Response:
        """The node's answer to a blob, before which it gets the hashes of the blob's chunks.

        Raises:
            httpx.HTTPError: The node does not answer.
            ValueError: The answer is too large, or takes too long.
        """
        sent_bytes = 0

        def parts() -> Iterator[bytes]:
            nonlocal sent_bytes
            yield hashes
            for start in range(0, len(data), CHUNK_BYTES):
                part = data[start : start + CHUNK_BYTES]
                yield part
                sent_bytes += len(part)
                progress(len(part))

        # The length is sent first, so that a node can refuse before it receives the blob.
        headers = {"content-length": str(len(hashes) + len(data))}
        url = self._blob_url(content_id)
        is_taken = False
        try:
            request = self._http.build_request("PUT", url, content=parts(), headers=headers)
            response = send_request(self._http, request)
            is_taken = response.is_success
            return response
        finally:
            if not is_taken:
                progress(-sent_bytes)

    def get_blob(
        self, content_id: Hash32, byte_count: int, progress: Progress | None = None
    ) -> bytes:
        """The blob of that content id and size.

        Raises:
            ContentUnavailableError: The node does not have it.
            ClientError: The node does not answer, or answers with other bytes.
        """
        data = bytearray()
        try:
            with self._http.stream(
                "GET", self._blob_url(content_id), headers={"accept-encoding": "identity"}
            ) as response:
                if not response.is_success:
                    refused = receive(response, ANSWER_SECONDS)
                    kind = ContentUnavailableError if response.status_code == 404 else ClientError
                    raise kind(
                        f"{self.url} does not have blob {to_hex(content_id)}: "
                        f"{_describe_refusal(refused)}; ask another node with --rpc"
                    )
                for part in response.iter_bytes():
                    data += part
                    if len(data) > byte_count:
                        break
                    if progress is not None:
                        progress(len(part))
        except (httpx.HTTPError, ValueError) as error:
            raise self._unreachable(error) from error
        if len(data) != byte_count or compute_content_id(bytes(data)) != content_id:
            raise ClientError(
                f"what {self.url} gives for blob {to_hex(content_id)} does not hash to that name; "
                "do not trust this node, ask another with --rpc"
            )
        return bytes(data)

    def _blob_url(self, content_id: Hash32) -> str:
        return f"{self.url}/v1/blobs/{to_hex(content_id)}"


def _read_retry_after(response: httpx.Response) -> float:
    """For how many seconds a node that does not take a blob is left alone."""
    value = response.headers.get("retry-after", "")
    is_told = value.isascii() and value.isdigit() and len(value) < 10
    return min(UPLOAD_WAIT_SECONDS, max(1.0, float(value))) if is_told else UPLOAD_WAIT_SECONDS


def _describe_refusal(response: httpx.Response) -> str:
    try:
        body = parse_json(response.content)
    except ValueError:
        body = None
    if isinstance(body, dict) and "message" in body:
        return f"{body['message']} (HTTP {response.status_code})"
    return f"HTTP {response.status_code}"


def get_value(value: Json, *path: str) -> Json:
    """The value at `path` of an answer, object within object; None if there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def get_text(value: Json, *path: str) -> str:
    """The string at `path` of an answer."""
    found = get_value(value, *path)
    if not isinstance(found, str):
        raise _not_understood(path)
    return found


def get_integer(value: Json, *path: str) -> int:
    """The integer at `path` of an answer, a JSON number or (amounts) a decimal string."""
    found = get_value(value, *path)
    if isinstance(found, str) and found.isascii() and found.isdecimal():
        return int(found)
    if not isinstance(found, int) or isinstance(found, bool):
        raise _not_understood(path)
    return found


def get_objects(value: Json, *path: str) -> list[JsonObject]:
    """The list of objects at `path` of an answer."""
    found = get_value(value, *path)
    if not isinstance(found, list):
        raise _not_understood(path)
    return [entry for entry in found if isinstance(entry, dict)]


def decode_log(entry: JsonObject) -> Log:
    """An event of `eth_getLogs` or of a receipt."""
    topics = entry["topics"]
    if not isinstance(topics, list):
        raise OperatorError("the node's answer to eth_getLogs is not understood")
    return Log(
        address=Address(read_bytes(entry["address"])),
        topics=tuple(Hash32(read_bytes(topic)) for topic in topics),
        data=read_bytes(entry["data"]),
    )


def _not_understood(path: Sequence[str]) -> OperatorError:
    return OperatorError(
        f"the node's answer is not understood ({'.'.join(path)}); is it of another version?"
    )
