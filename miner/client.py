"""What a miner asks of nodes, over JSON-RPC and HTTP (docs/spec/rpc.md, sections 2 and 6).

Of several nodes, the first that answers is kept until it fails. The miner believes its nodes about
the chain (run one, or name one you trust first) but no bytes: a blob is what its content id says,
wherever it came from.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from chain.crypto import CHUNK_BYTES, content_id, merkle_leaf, merkle_root
from chain.execution.system_contracts import decode_error
from chain.primitives import Address, Hash32, PrivateKey
from chain.types.transaction import sign_transaction

Reply = TypeVar("Reply")
"""What an answer is read as."""

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""A decoded JSON value."""

CONNECT_SECONDS: Final = 3.0
"""A node that does not accept within this is passed over."""

ANSWER_SECONDS: Final = 20.0
"""The longest silence in an answer: a busy node executes a call for seconds."""

RECEIPT_POLL_SECONDS: Final = 0.1
"""Half of the shortest block interval."""

REBROADCAST_SECONDS: Final = 5.0
"""After so long without a receipt the transaction is sent again, to every node: the one that took
it may have died before it told its peers."""

GAS_MARGIN: Final = 300_000
"""Added to an estimate: by the time it runs, the transaction may be the one that ends a phase."""


UNAVAILABLE_CODE: Final = -32002
"""EIP-1474: the node behind the RPC process is gone; another one may do."""


def _from_hex(value: object) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError("expected 0x and hex digits")
    return bytes.fromhex(value[2:])


HexAddress = Annotated[Address, BeforeValidator(_from_hex)]
"""20 bytes, as JSON-RPC writes them."""

HexHash = Annotated[Hash32, BeforeValidator(_from_hex)]
"""32 bytes, as JSON-RPC writes them."""


class ClientError(Exception):
    """What a node could not do for us; one line, for people."""


class NodesUnreachableError(ClientError):
    """None of the nodes answers."""


class RpcError(ClientError):
    """A node answered with an error; `code` is JSON-RPC's or EIP-1474's, 3 is a revert."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ContentUnavailableError(ClientError):
    """No node has the blob, or what they have does not hash to its name."""


class _Reply(BaseModel):
    """An object of JSON-RPC: camel-case keys, unknown ones ignored (newer nodes say more)."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


class SystemContracts(_Reply):
    """Addresses of the predeployed contracts."""

    token: HexAddress
    task_registry: HexAddress
    gradient_ledger: HexAddress
    reward_distributor: HexAddress
    faucet: HexAddress | None = None
    """Only on development networks."""


class NodeInfo(_Reply):
    """pot_nodeInfo."""

    chain_id: int
    genesis_hash: HexHash
    system_contracts: SystemContracts


class Task(_Reply):
    """pot_getTask, or an entry of pot_listTasks: what a miner needs of it."""

    id: int
    status: str
    """pending, active, paused or closed."""
    spec_hash: HexHash


class Attempt(_Reply):
    """pot_getAttempt: the attempt in progress at a task's round."""

    round: int
    attempt: int
    ballot: int
    phase: str
    open_block: int
    seed: HexHash
    """None until the block after the opening one is final."""
    participants: tuple[tuple[HexAddress, int], ...]
    """Miners with their declared units, by ascending address."""
    theta_root: HexHash


class RewardProof(_Reply):
    """pot_getRewardProof."""

    cumulative: int
    claimable: int
    proof: tuple[HexHash, ...]


class TransactionReceipt(_Reply):
    """What a miner reads of eth_getTransactionReceipt."""

    status: Annotated[int, BeforeValidator(lambda value: int(str(value), 16))]
    block_number: Annotated[int, BeforeValidator(lambda value: int(str(value), 16))]


_NODE_INFO: Final = TypeAdapter(NodeInfo)
_TASK: Final[TypeAdapter[Task | None]] = TypeAdapter(Task | None)
_TASKS: Final = TypeAdapter(tuple[Task, ...])
_ATTEMPT: Final[TypeAdapter[Attempt | None]] = TypeAdapter(Attempt | None)
_REWARD_PROOF: Final = TypeAdapter(RewardProof)
_RECEIPT: Final[TypeAdapter[TransactionReceipt | None]] = TypeAdapter(TransactionReceipt | None)


class NodeClient:
    """One or more nodes of one network; the first that answers is kept until it fails."""

    def __init__(self, urls: Sequence[str], transport: httpx.BaseTransport | None = None) -> None:
        assert urls
        self._urls = [url.rstrip("/") for url in urls]
        self._current = 0
        self._http = httpx.Client(
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS), transport=transport
        )

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    # JSON-RPC.

    def call(self, method: str, *params: Json) -> Json:
        """The result of a JSON-RPC method at the first node that answers.

        Raises:
            RpcError: The node refused the call.
            NodesUnreachableError: No node answered.
        """
        failures = []
        for offset in range(len(self._urls)):
            position = (self._current + offset) % len(self._urls)
            try:
                result = self._call_at(self._urls[position], method, params)
            except (httpx.HTTPError, ValueError) as error:
                failures.append(f"{self._urls[position]} ({_describe(error)})")
                continue
            except RpcError as error:
                if error.code != UNAVAILABLE_CODE:
                    raise
                failures.append(f"{self._urls[position]} ({error})")
                continue
            self._current = position
            return result
        raise NodesUnreachableError(
            f"no node answers: {', '.join(failures)}; is one running, and is --rpc right?"
        )

    def _call_at(self, url: str, method: str, params: Sequence[Json]) -> Json:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        response = self._http.post(url, json=request)
        response.raise_for_status()
        body = response.json()
        if not isinstance(body, dict):
            raise ValueError("the answer is not a JSON-RPC response")
        error = body.get("error")
        if isinstance(error, dict):
            raise _build_rpc_error(error)
        result: Json = body.get("result")
        return result

    def node_info(self) -> NodeInfo:
        """The network that the node belongs to."""
        return _read(_NODE_INFO, self.call("pot_nodeInfo"))

    def require_one_network(self) -> NodeInfo:
        """The network of the nodes that answer.

        Raises:
            ClientError: Two of them belong to different networks, or none answers.
        """
        info = self.node_info()
        for url in self._urls:
            try:
                other = _read(_NODE_INFO, self._call_at(url, "pot_nodeInfo", ()))
            except (httpx.HTTPError, ValueError):
                continue
            if other.genesis_hash != info.genesis_hash:
                raise ClientError(
                    f"{url} is on another network (genesis 0x{other.genesis_hash.hex()} instead of "
                    f"0x{info.genesis_hash.hex()}); name nodes of one network with --rpc"
                )
        return info

    def list_tasks(self) -> tuple[Task, ...]:
        """All tasks, by ascending id."""
        tasks: tuple[Task, ...] = ()
        while True:
            page = _read(_TASKS, self.call("pot_listTasks", {"offset": len(tasks)}))
            if not page:
                return tasks
            tasks += page

    def task(self, task_id: int) -> Task | None:
        """The task, or None if there is none of that id."""
        return _read(_TASK, self.call("pot_getTask", task_id))

    def task_spec(self, task_id: int) -> Json:
        """The specification of a task, as JSON; the caller checks its hash."""
        task = self.call("pot_getTask", task_id)
        return task.get("spec") if isinstance(task, dict) else None

    def attempt(self, task_id: int) -> Attempt | None:
        """The attempt in progress, or None between attempts."""
        return _read(_ATTEMPT, self.call("pot_getAttempt", task_id))

    def reward_proof(self, task_id: int, account: Address) -> RewardProof:
        """What an account has earned of a task, with the proof for the distributor."""
        reply = self.call("pot_getRewardProof", task_id, to_hex(account))
        return _read(_REWARD_PROOF, reply)

    def balance(self, account: Address) -> int:
        """Of the native coin, in wei."""
        return _read_quantity(self.call("eth_getBalance", to_hex(account), "latest"))

    def call_contract(self, to: Address, data: bytes) -> bytes:
        """What a view function returns at the head."""
        reply = self.call("eth_call", {"to": to_hex(to), "data": to_hex(data)}, "latest")
        return _from_hex(reply)

    # Transactions.

    def transact(
        self, private_key: PrivateKey, sender: Address, chain_id: int, to: Address, data: bytes
    ) -> TransactionReceipt:
        """Sign and send a call of a contract, and wait until it is final.

        Raises:
            RpcError: The call would revert, or the node refused the transaction.
            ClientError: The transaction was executed and reverted.
        """
        request: Json = {"from": to_hex(sender), "to": to_hex(to), "data": to_hex(data)}
        estimate = _read_quantity(self.call("eth_estimateGas", request))
        nonce = _read_quantity(self.call("eth_getTransactionCount", to_hex(sender), "pending"))
        max_fee, tip = self._fees()
        transaction = sign_transaction(
            private_key,
            chain_id=chain_id,
            nonce=nonce,
            max_fee_per_gas=max_fee,
            max_priority_fee_per_gas=tip,
            gas_limit=estimate + GAS_MARGIN,
            to=to,
            data=data,
        )
        raw, name = to_hex(transaction.raw), to_hex(transaction.hash)
        self.call("eth_sendRawTransaction", raw)
        receipt = self._await_receipt(raw, name)
        if receipt.status != 1:
            raise ClientError(f"transaction {name} reverted in block {receipt.block_number}")
        return receipt

    def _fees(self) -> tuple[int, int]:
        block = self.call("eth_getBlockByNumber", "latest", False)
        base_fee = _read_quantity(block.get("baseFeePerGas")) if isinstance(block, dict) else 0
        tip = _read_quantity(self.call("eth_maxPriorityFeePerGas"))
        return 2 * base_fee + tip, tip

    def _await_receipt(self, raw: str, name: str) -> TransactionReceipt:
        sent = time.monotonic()
        while True:
            receipt = _read(_RECEIPT, self.call("eth_getTransactionReceipt", name))
            if receipt is not None:
                return receipt
            if time.monotonic() - sent > REBROADCAST_SECONDS:
                sent = time.monotonic()
                self._broadcast(raw)
            time.sleep(RECEIPT_POLL_SECONDS)

    def _broadcast(self, raw: str) -> None:
        for url in self._urls:
            try:
                self._call_at(url, "eth_sendRawTransaction", [raw])
            except (httpx.HTTPError, ValueError, RpcError):
                continue  # unreachable, or it knows the transaction: another has it

    # Blobs.

    def fetch_blob(self, name: Hash32, byte_count: int) -> bytes:
        """The blob of that content id and size, held in memory.

        Raises:
            ContentUnavailableError: No node has it.
        """
        for source in self._blob_sources(name):
            try:
                with self._stream(source, byte_count) as parts:
                    data = b"".join(parts)
            except (httpx.HTTPError, ValueError):
                continue
            if content_id(data) == name:
                return data
        raise ContentUnavailableError(_unavailable(name))

    def fetch_file(
        self, name: Hash32, byte_count: int, path: Path, mirrors: Sequence[str] = ()
    ) -> None:
        """Put the blob of that content id and size at `path`; nothing is there until it is whole.

        Args:
            name: The content id.
            byte_count: What the specification says.
            path: Where to; its directory exists.
            mirrors: Further URLs under which files are named by their content id in hex.

        Raises:
            ContentUnavailableError: Nobody has it.
        """
        part_path = path.with_name(path.name + ".part")
        sources = [
            *self._blob_sources(name),
            *(f"{url.rstrip('/')}/{name.hex()}" for url in mirrors),
        ]
        for source in sources:
            try:
                with self._stream(source, byte_count) as parts:
                    received = _hash_file_as_it_arrives(parts, part_path)
            except (httpx.HTTPError, ValueError):
                continue
            if received == name:
                part_path.replace(path)
                return
        raise ContentUnavailableError(_unavailable(name))

    def _blob_sources(self, name: Hash32) -> list[str]:
        order = self._urls[self._current :] + self._urls[: self._current]
        return [f"{url}/v1/blobs/{to_hex(name)}" for url in order]

    @contextmanager
    def _stream(self, source: str, byte_count: int) -> Iterator[Iterator[bytes]]:
        with self._http.stream("GET", source, headers={"accept-encoding": "identity"}) as response:
            response.raise_for_status()
            yield _bounded(response.iter_bytes(), byte_count)

    def reveal(self, query: dict[str, str | int], payload: bytes) -> tuple[int, list[str]]:
        """Upload a gradient payload to every node.

        Returns:
            How many nodes took it, and what the others said.
        """
        accepted, refusals = 0, []
        for url in self._urls:
            try:
                response = self._http.post(f"{url}/v1/reveals", params=query, content=payload)
            except httpx.HTTPError as error:
                refusals.append(f"{url}: {_describe(error)}")
                continue
            if response.is_success:
                accepted += 1
            else:
                refusals.append(f"{url}: {response.status_code} {response.text[:200].strip()}")
        return accepted, refusals


def _build_rpc_error(error: dict[str, Json]) -> RpcError:
    code, data = error.get("code"), error.get("data")
    revert = decode_error(_from_hex(data)) if isinstance(data, str) else None
    message = str(error.get("message", "unknown error")) if revert is None else str(revert)
    return RpcError(code if isinstance(code, int) else 0, message)


def _read(adapter: TypeAdapter[Reply], value: Json) -> Reply:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ClientError(
            f"a node's answer is not understood ({where}: {problem['msg']}); is it too old?"
        ) from error


def _read_quantity(value: Json) -> int:
    try:
        return int(str(value), 16)
    except ValueError as error:
        raise ClientError(
            f"a node's answer is not understood ({value!r} is no quantity); is it too old?"
        ) from error


def _bounded(parts: Iterable[bytes], byte_count: int) -> Iterator[bytes]:
    """The parts of a body that must be `byte_count` bytes long; ValueError if it is not."""
    received = 0
    for part in parts:
        received += len(part)
        if received > byte_count:
            break
        yield part
    if received != byte_count:
        raise ValueError(f"got {received} bytes instead of {byte_count}")


def _hash_file_as_it_arrives(parts: Iterable[bytes], path: Path) -> Hash32:
    """Write the parts to `path`; the content id of the whole."""
    leaves, pending = [], b""
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
            pending += part
            while len(pending) > CHUNK_BYTES:
                leaves.append(merkle_leaf(pending[:CHUNK_BYTES]))
                pending = pending[CHUNK_BYTES:]
        file.flush()
        os.fsync(file.fileno())
    return merkle_root([*leaves, merkle_leaf(pending)])


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def _unavailable(name: Hash32) -> str:
    return f"no node has blob {to_hex(name)} whole; wait for the nodes to sync, or name another"


def to_hex(data: bytes) -> str:
    """As JSON-RPC writes bytes."""
    return "0x" + data.hex()
