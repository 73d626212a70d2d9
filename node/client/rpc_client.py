"""A node's JSON-RPC and blobs, as the command line uses them (docs/spec/rpc.md).

Synchronous, one node, one line of text for whatever goes wrong.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import httpx

from chain.contracts.errors import decode_error
from chain.contracts.reverts import describe_revert
from chain.crypto import CHUNK_BYTES, content_id, get_address
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, Hash32, PrivateKey
from chain.types.receipt import Log
from chain.types.transaction import sign_transaction
from pot_common.errors import OperatorError

Progress: TypeAlias = Callable[[int], None]
"""Told how many more bytes have gone over the wire."""

CONNECT_SECONDS: Final = 3.0
"""A node that does not accept within this is not there."""

ANSWER_SECONDS: Final = 60.0
"""The longest silence: eth_call may run for seconds, and a blob is hashed before it is answered."""

RECEIPT_SECONDS: Final = 120.0
"""A transaction that is not final after this will not be soon."""

POLL_SECONDS: Final = 0.1
"""Half of the shortest block interval."""

GAS_MARGIN: Final = 300_000
"""Added to an estimate: by the time it runs, the transaction may be the one that ends a phase."""

LOG_RANGE_BLOCKS: Final = 5_000
"""Blocks asked for in one eth_getLogs; nodes bound the range."""


class BlobGoneError(OperatorError):
    """The node does not have the blob, or not any more."""


class RpcCallError(OperatorError):
    """The node answered with an error; `code` is JSON-RPC's or EIP-1474's, 3 is a revert."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class RpcClient:
    """One node."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise OperatorError(f"--rpc is {url!r}; give a URL such as http://127.0.0.1:8545")
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS), transport=transport
        )

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def call(self, method: str, *params: Json) -> Json:
        """The result of a JSON-RPC method.

        Raises:
            RpcCallError: The node refused.
            OperatorError: There is no node at the URL.
        """
        request: JsonObject = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": method,
            "params": list(params),
        }
        response = self._send("POST", self.url, body=request)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise OperatorError(f"{self.url} does not speak JSON-RPC; check --rpc")
        error = body.get("error")
        if isinstance(error, dict):
            raise _build_failure(error)
        result: Json = body.get("result")
        return result

    def call_object(self, method: str, *params: Json) -> JsonObject | None:
        """The result of a method that answers with an object, or with null for "no such thing"."""
        result = self.call(method, *params)
        if result is not None and not isinstance(result, dict):
            raise OperatorError(f"{method} of {self.url} is not understood; is the node too old?")
        return result

    def call_list(self, method: str, *params: Json) -> list[JsonObject]:
        """The result of a method that answers with a list of objects."""
        result = self.call(method, *params)
        if not isinstance(result, list):
            raise OperatorError(f"{method} of {self.url} is not understood; is the node too old?")
        return [entry for entry in result if isinstance(entry, dict)]

    def quantity(self, method: str, *params: Json) -> int:
        """The result of a method that answers with a quantity."""
        return int(str(self.call(method, *params)), 16)

    def is_ready(self) -> bool:
        """Whether a node answers at the URL."""
        try:
            self.call("eth_chainId")
        except OperatorError:
            return False
        return True

    def _send(
        self,
        method: str,
        url: str,
        *,
        body: JsonObject | None = None,
        content: Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            response = self._http.request(method, url, json=body, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise OperatorError(f"{url}: {_describe_refusal(response)}")
        return response

    def _unreachable(self, error: Exception) -> OperatorError:
        reason = str(error) or type(error).__name__
        return OperatorError(
            f"no node answers at {self.url} ({reason}); start one with `pot node run`, "
            "or name another with --rpc"
        )

    # Contracts and transactions.

    def call_contract(self, to: Address, data: bytes, block: str = "latest") -> bytes:
        """What a view function returns in a block."""
        reply = self.call("eth_call", {"to": to_hex(to), "data": to_hex(data)}, block)
        return read_bytes(reply)

    def transact(
        self, private_key: PrivateKey, to: Address, data: bytes = b"", value: int = 0
    ) -> JsonObject:
        """Sign, send, and wait until it is final; the receipt.

        Raises:
            RpcCallError: It would revert, or the node refused it.
            OperatorError: It was executed and reverted, or never included.
        """
        sender = to_hex(get_address(private_key))
        request: JsonObject = {
            "from": sender,
            "to": to_hex(to),
            "data": to_hex(data),
            "value": hex(value),
        }
        estimate = self.quantity("eth_estimateGas", request)
        block = self.call_object("eth_getBlockByNumber", "latest", False) or {}
        tip = self.quantity("eth_maxPriorityFeePerGas")
        transaction = sign_transaction(
            private_key,
            chain_id=self.quantity("eth_chainId"),
            nonce=self.quantity("eth_getTransactionCount", sender, "pending"),
            max_fee_per_gas=2 * int(str(block.get("baseFeePerGas", "0x0")), 16) + tip,
            max_priority_fee_per_gas=tip,
            gas_limit=estimate if not data else estimate + GAS_MARGIN,
            to=to,
            value=value,
            data=data,
        )
        self.call("eth_sendRawTransaction", to_hex(transaction.raw))
        receipt = self._await_receipt(to_hex(transaction.hash))
        if receipt.get("status") != "0x1":
            raise OperatorError(
                f"transaction {to_hex(transaction.hash)} reverted in block "
                f"{int(str(receipt['blockNumber']), 16)}; its gas is spent, nothing else happened"
            )
        return receipt

    def _await_receipt(self, name: str) -> JsonObject:
        deadline = time.monotonic() + RECEIPT_SECONDS
        while time.monotonic() < deadline:
            receipt = self.call_object("eth_getTransactionReceipt", name)
            if receipt is not None:
                return receipt
            time.sleep(POLL_SECONDS)
        raise OperatorError(
            f"transaction {name} is not in a block after {RECEIPT_SECONDS:.0f} s; does the network "
            "make blocks? `eth_getTransactionReceipt` will tell when it is in one"
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

    def put_blob(self, name: Hash32, data: bytes, progress: Progress) -> None:
        """Upload the blob `data`, whose content id is `name`."""

        def parts() -> Iterator[bytes]:
            for start in range(0, len(data), CHUNK_BYTES):
                part = data[start : start + CHUNK_BYTES]
                yield part
                progress(len(part))

        # Streamed, but with its length, so that a node can refuse before anything is sent.
        headers = {"content-length": str(len(data))}
        self._send("PUT", self._blob_url(name), content=parts(), headers=headers)

    def get_blob(self, name: Hash32, byte_count: int, progress: Progress | None = None) -> bytes:
        """The blob of that content id and size.

        Raises:
            BlobGoneError: The node does not have it.
            OperatorError: It cannot be had, or what it gives is something else.
        """
        data = bytearray()
        try:
            with self._http.stream("GET", self._blob_url(name)) as response:
                if not response.is_success:
                    response.read()
                    kind = BlobGoneError if response.status_code == 404 else OperatorError
                    raise kind(
                        f"{self.url} does not have blob {to_hex(name)}: "
                        f"{_describe_refusal(response)}; ask another node with --rpc"
                    )
                for part in response.iter_bytes():
                    data += part
                    if len(data) > byte_count:
                        break
                    if progress is not None:
                        progress(len(part))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if len(data) != byte_count or content_id(bytes(data)) != name:
            raise OperatorError(
                f"what {self.url} gives for blob {to_hex(name)} does not hash to that name; "
                "do not trust this node, ask another with --rpc"
            )
        return bytes(data)

    def _blob_url(self, name: Hash32) -> str:
        return f"{self.url}/v1/blobs/{to_hex(name)}"


def _build_failure(error: JsonObject) -> RpcCallError:
    data = error.get("data")
    message = str(error.get("message", "unknown error"))
    revert = decode_error(read_bytes(data)) if isinstance(data, str) else None
    if revert is not None:
        message = describe_revert(revert)
    return RpcCallError(get_integer(error, "code"), message)


def _describe_refusal(response: httpx.Response) -> str:
    try:
        body = response.json()
    except json.JSONDecodeError:
        body = None
    if isinstance(body, dict) and "message" in body:
        return f"{body['message']} (HTTP {response.status_code})"
    return f"HTTP {response.status_code}"


def read_bytes(value: Json) -> bytes:
    """The bytes that a node wrote in hex."""
    try:
        return from_hex(value)
    except ValueError as error:
        raise OperatorError(f"a node's answer is not understood: {value!r} is not hex") from error


def get_value(value: Json, *path: str) -> Json:
    """What stands at `path` of an answer, object within object; None if nothing does."""
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
