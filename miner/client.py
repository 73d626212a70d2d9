"""What a miner asks of nodes, over JSON-RPC and HTTP (docs/spec/rpc.md, sections 2 and 6).

Of several nodes, the first that answers is kept until it fails, lies or has no news. No node is
believed: a blob is what its content id says, wherever it came from, and what decides a commitment
is proven from the genesis hash (miner/light.py). What is asked for here without a proof are hints.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeVar

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from chain.contracts.errors import decode_error
from chain.contracts.reverts import describe_revert
from chain.crypto import CHUNK_BYTES, content_id, merkle_leaf, merkle_root
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json
from chain.primitives import Address, Hash32, PrivateKey
from chain.types.transaction import sign_transaction
from miner.log import log_event

Reply = TypeVar("Reply")
"""What an answer is read as."""

CONNECT_SECONDS: Final = 3.0
"""A node that does not accept within this is passed over."""

ANSWER_SECONDS: Final = 20.0
"""The longest silence in an answer: a busy node starts its call workers, then executes a call for
seconds. A frozen node costs it once."""

UNREACHABLE_REST_SECONDS: Final = 30.0
"""A node that did not answer is for so long asked only if no other is left."""

LIAR_REST_SECONDS: Final = 300.0
"""A node that was caught is not asked at all for so long; after that it may have been repaired."""

RECEIPT_POLL_SECONDS: Final = 0.1
"""Half of the shortest block interval."""

REBROADCAST_SECONDS: Final = 5.0
"""After so long without a receipt the transaction is sent again, to every node: the one that took
it may have died before it told its peers."""

FINAL_SECONDS: Final = 120.0
"""A transaction that is not final after this has a nonce, or a fee, that does not fit."""

GAS_MARGIN: Final = 300_000
"""Added to an estimate: by the time it runs, the transaction may be the one that ends a phase."""

TIP_LIMIT_WEI: Final = 10 * 10**9
"""A unit of gas. The tip is a node's word, and whoever proposes the block is paid it."""


UNAVAILABLE_CODE: Final = -32002
"""EIP-1474: the node behind the RPC process is gone; another one may do."""


HexBytes = Annotated[bytes, BeforeValidator(from_hex)]
"""Bytes, as JSON-RPC writes them."""

HexAddress = Annotated[Address, BeforeValidator(from_hex)]
"""20 bytes, as JSON-RPC writes them."""

HexHash = Annotated[Hash32, BeforeValidator(from_hex)]
"""32 bytes, as JSON-RPC writes them."""


class ClientError(Exception):
    """What a node could not do for us; one line, for people."""


class NodesUnreachableError(ClientError):
    """None of the nodes answers."""


class DishonestNodeError(ClientError):
    """What a node says is contradicted by what the chain proves, or proves nothing."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} is not believed: {reason}")
        self.url = url
        self.reason = reason


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


class NodeInfo(_Reply):
    """pot_nodeInfo."""

    chain_id: int
    genesis_hash: HexHash
    system_contracts: dict[str, HexAddress | None]
    """A hint: what is sent goes to the addresses that every network has."""

    @property
    def has_faucet(self) -> bool:
        """Whether it is a development network."""
        return self.system_contracts.get("faucet") is not None


class Task(_Reply):
    """pot_getTask, or an entry of pot_listTasks: what a miner needs of it."""

    id: int
    status: str
    """pending, active, paused or closed."""
    spec_hash: HexHash


class Attempt(_Reply):
    """pot_getAttempt: the attempt in progress at a task's round, as a node has it: hints."""

    round: int
    attempt: int
    ballot: int
    phase: str
    open_block: int
    participants: tuple[tuple[HexAddress, int], ...]
    """Miners with their declared units, by ascending address."""


class Genesis(_Reply):
    """pot_getGenesis: the encoded header of block 0, and the parameters that it commits to."""

    header: HexBytes
    parameters: HexBytes


class Proof(_Reply):
    """pot_getProof: an encoded header, what makes it final, and nodes of its state."""

    header: HexBytes
    certificate: HexBytes | None
    """None for block 0."""
    nodes: tuple[HexBytes, ...]


class ValidatorSetChange(_Reply):
    """An entry of pot_getValidatorSets: a claim, to be proven."""

    first_block: int
    """The first that the set decides."""
    validators: tuple[HexAddress, ...]


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
_GENESIS: Final = TypeAdapter(Genesis)
_PROOF: Final = TypeAdapter(Proof)
_SET_CHANGES: Final = TypeAdapter(tuple[ValidatorSetChange, ...])
_REWARD_PROOF: Final = TypeAdapter(RewardProof)
_RECEIPT: Final[TypeAdapter[TransactionReceipt | None]] = TypeAdapter(TransactionReceipt | None)


class NodeClient:
    """One or more nodes of one network; the first that answers is kept until it fails."""

    def __init__(self, urls: Sequence[str], transport: httpx.BaseTransport | None = None) -> None:
        assert urls
        self._urls = [url.rstrip("/") for url in urls]
        self._current = 0
        self._network: tuple[int, Hash32] | None = None
        self._recognized: set[str] = set()
        """Nodes that have said that they are of that network, since they last failed."""
        self._unreachable: dict[str, float] = {}
        """Until when, by the monotonic clock, others are preferred."""
        self._liars: dict[str, tuple[float, str]] = {}
        """Until when they are not asked, and why."""
        self._http = httpx.Client(
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS), transport=transport
        )

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    # Nodes.

    @property
    def current(self) -> str:
        """The node that answered last."""
        return self._urls[self._current]

    def rotate(self) -> None:
        """Prefer the next node from now on: the current one has no news."""
        self._current = (self._current + 1) % len(self._urls)

    def prefer(self, url: str) -> None:
        """Ask that node first from now on."""
        self._current = self._urls.index(url)

    def drop(self, error: DishonestNodeError) -> None:
        """Ask that node nothing for a while."""
        log_event(str(error), level=logging.WARNING, seconds=LIAR_REST_SECONDS)
        self._liars[error.url] = (time.monotonic() + LIAR_REST_SECONDS, error.reason)

    def _list_candidates(self) -> list[int]:
        """Positions of the nodes to ask, the preferred one first."""
        now, count = time.monotonic(), len(self._urls)
        positions = [(self._current + offset) % count for offset in range(count)]
        honest = [at for at in positions if self._liars.get(self._urls[at], (0.0, ""))[0] <= now]
        return sorted(honest, key=lambda at: not self._is_reachable(self._urls[at]))

    def _is_reachable(self, url: str) -> bool:
        return self._unreachable.get(url, 0.0) <= time.monotonic()

    # JSON-RPC.

    def call(self, method: str, *params: Json) -> Json:
        """The result of a JSON-RPC method at the first node that answers.

        Raises:
            RpcError: The node refused the call.
            NodesUnreachableError: No node answered.
        """
        failures = []
        for position in self._list_candidates():
            url = self._urls[position]
            try:
                result = self._call_at(url, method, params)
            except (httpx.HTTPError, ValueError) as error:
                failures.append(f"{url} ({_describe(error)})")
                self._unreachable[url] = time.monotonic() + UNREACHABLE_REST_SECONDS
                continue
            except DishonestNodeError as error:
                self.drop(error)
                continue
            except RpcError as error:
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
        raise NodesUnreachableError(
            f"no node answers: {', '.join(failures)}; is one running, and is --rpc right?"
        )

    def _call_at(self, url: str, method: str, params: Sequence[Json]) -> Json:
        """The result at one node, which is of our network.

        Raises:
            httpx.HTTPError, ValueError: It does not answer.
            RpcError: It refused the call.
            DishonestNodeError: It is of another network.
        """
        if self._network is not None and url not in self._recognized:
            info = _read(_NODE_INFO, self._post(url, "pot_nodeInfo", ()))
            if (info.chain_id, info.genesis_hash) != self._network:
                raise DishonestNodeError(url, _describe_network(info))
            self._recognized.add(url)
        try:
            return self._post(url, method, params)
        except httpx.HTTPError:
            self._recognized.discard(url)
            raise

    def _post(self, url: str, method: str, params: Sequence[Json]) -> Json:
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

    def require_network(self, chain_id: int, genesis_hash: Hash32) -> None:
        """Ask only nodes of this network from now on.

        Raises:
            ClientError: One that answers is of another network.
        """
        self._network = (chain_id, genesis_hash)
        for url in self._urls:
            try:
                self._call_at(url, "eth_chainId", ())
            except (httpx.HTTPError, ValueError, RpcError):
                continue
            except DishonestNodeError as error:
                raise ClientError(
                    f"{url} is on another network ({error.reason}); name nodes of one network "
                    "with --rpc"
                ) from error

    def node_info(self) -> NodeInfo:
        """The network that the node belongs to."""
        return _read(_NODE_INFO, self.call("pot_nodeInfo"))

    def genesis(self) -> Genesis:
        """What the node says block 0 is."""
        return _read(_GENESIS, self.call("pot_getGenesis"))

    def proof(self, reads: Mapping[Address, Sequence[int]], block: int | None = None) -> Proof:
        """Storage slots of contracts in the state of a block, the head's if none is given."""
        storage: Json = {
            to_hex(address): [hex(slot) for slot in slots] for address, slots in reads.items()
        }
        reply = self.call("pot_getProof", storage, "latest" if block is None else hex(block))
        return _read(_PROOF, reply)

    def validator_sets(self, after: int) -> tuple[ValidatorSetChange, ...]:
        """The next sets that decide from a block after `after` on, ascending; none: no change."""
        return _read(_SET_CHANGES, self.call("pot_getValidatorSets", after))

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
        return from_hex(reply)

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
        tip = min(TIP_LIMIT_WEI, _read_quantity(self.call("eth_maxPriorityFeePerGas")))
        return 2 * base_fee + tip, tip

    def _await_receipt(self, raw: str, name: str) -> TransactionReceipt:
        started = sent = time.monotonic()
        while time.monotonic() - started < FINAL_SECONDS:
            receipt = _read(_RECEIPT, self.call("eth_getTransactionReceipt", name))
            if receipt is not None:
                return receipt
            if time.monotonic() - sent > REBROADCAST_SECONDS:
                sent = time.monotonic()
                self._broadcast(raw)
                self.rotate()
            time.sleep(RECEIPT_POLL_SECONDS)
        raise ClientError(
            f"transaction {name} is in no block after {FINAL_SECONDS:.0f} s; does the network make "
            "blocks?"
        )

    def _broadcast(self, raw: str) -> None:
        for url in self._urls:
            try:
                self._call_at(url, "eth_sendRawTransaction", [raw])
            except (httpx.HTTPError, ValueError, RpcError, DishonestNodeError):
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
        order = self._list_candidates()
        return [f"{self._urls[position]}/v1/blobs/{to_hex(name)}" for position in order]

    @contextmanager
    def _stream(self, source: str, byte_count: int) -> Iterator[Iterator[bytes]]:
        with self._http.stream("GET", source, headers={"accept-encoding": "identity"}) as response:
            response.raise_for_status()
            yield _bounded(response.iter_bytes(), byte_count)

    def reveal(
        self, query: dict[str, str | int], payload: bytes, takers: frozenset[str] = frozenset()
    ) -> tuple[frozenset[str], list[str]]:
        """Upload a gradient payload to every node but `takers`.

        Returns:
            The nodes that took it, and what the others said.
        """
        accepted, refusals = set(), []
        candidates = [self._urls[position] for position in self._list_candidates()]
        for url in [each for each in candidates if self._is_reachable(each)] or candidates:
            if url in takers:
                continue
            try:
                response = self._http.post(f"{url}/v1/reveals", params=query, content=payload)
            except httpx.HTTPError as error:
                self._unreachable[url] = time.monotonic() + UNREACHABLE_REST_SECONDS
                refusals.append(f"{url}: {_describe(error)}")
                continue
            if response.is_success:
                accepted.add(url)
            else:
                refusals.append(f"{url}: {response.status_code} {response.text[:200].strip()}")
        return frozenset(accepted), refusals


def _build_rpc_error(error: dict[str, Json]) -> RpcError:
    code, data = error.get("code"), error.get("data")
    revert = decode_error(from_hex(data)) if isinstance(data, str) else None
    message = (
        str(error.get("message", "unknown error")) if revert is None else describe_revert(revert)
    )
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


def _describe_network(info: NodeInfo) -> str:
    return f"its network has chain id {info.chain_id}, genesis {to_hex(info.genesis_hash)}"


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def _unavailable(name: Hash32) -> str:
    return f"no node has blob {to_hex(name)} whole; wait for the nodes to sync, or name another"
