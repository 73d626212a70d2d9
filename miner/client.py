"""What a miner asks of nodes, over JSON-RPC and HTTP (docs/spec/rpc.md, sections 2 and 6).

With several nodes, the first that answers is kept until it fails, lies or has no news. No node is
trusted: a blob is checked against its content id, and what decides a commitment is proven from the
genesis hash (miner/light.py). Answers without a proof are hints.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, TypeVar

import httpx
import structlog
from pydantic import TypeAdapter

from chain.crypto import CHUNK_BYTES, content_id_of_chunks, merkle_leaf
from chain.crypto import content_id as compute_content_id
from chain.hexadecimal import to_hex
from chain.json_types import Json
from chain.primitives import Address, Hash32
from chain.training.attempt import AttemptId
from miner.mirrors import Mirrors, PrivateAddressError, Resolve, limit_time, resolve_host
from miner.replies import (
    AttemptReply,
    GenesisReply,
    HoldersReply,
    ReceiptReply,
    StateProof,
    TaskReply,
    ValidatorSetChange,
)
from pot_common.atomic_file import sync_file
from pot_common.gas_offer import GasHint
from pot_common.rpc_client import (
    ChainClient,
    ContentUnavailableError,
    NodeUnreachableError,
    RpcCallError,
    describe_failure,
    exchange,
    open_http,
    send_request,
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

BUSY_REST_SECONDS: Final = 1.0
"""After this time a node without a place for a gradient is asked again, unless it names a time."""

LONGEST_BUSY_REST_SECONDS: Final = 10.0
"""The longest time that a node without a place is left alone, whatever it says."""

LIAR_REST_SECONDS: Final = 300.0
"""For this long, a node that gave a wrong answer is not asked; it may be repaired afterwards."""

TIP_LIMIT_WEI: Final = 10 * 10**9
"""The highest priority fee a unit of gas. The node suggests it, and the proposer of the block, who
may run that node, is paid it."""

UNAVAILABLE_CODE: Final = -32002
"""EIP-1474: the node process behind this RPC process does not run; another node may answer."""

FAILURES: Final = (httpx.HTTPError, ValueError, ClientError)
"""What asking a node may raise."""

Answer = TypeVar("Answer")
"""The type of what nodes are asked for."""

_log = structlog.get_logger("miner")

_TASK: Final[TypeAdapter[TaskReply | None]] = TypeAdapter(TaskReply | None)
_TASKS: Final = TypeAdapter(tuple[TaskReply, ...])
_ATTEMPT: Final[TypeAdapter[AttemptReply | None]] = TypeAdapter(AttemptReply | None)
_HOLDERS: Final[TypeAdapter[HoldersReply | None]] = TypeAdapter(HoldersReply | None)
_RECEIPT: Final[TypeAdapter[ReceiptReply | None]] = TypeAdapter(ReceiptReply | None)
_GENESIS: Final = TypeAdapter(GenesisReply)
_PROOF: Final = TypeAdapter(StateProof)
_SET_CHANGES: Final = TypeAdapter(tuple[ValidatorSetChange, ...])
_NODE_INFO: Final = TypeAdapter(NodeInfo)


class DishonestNodeError(ClientError):
    """An answer contradicts what the chain proves, or its proof proves nothing."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} is not believed: {reason}")
        self.url = url
        self.reason = reason


class FailoverClient(ChainClient):
    """One or more nodes of one network; the first that answers is kept until it fails."""

    def __init__(
        self,
        urls: Sequence[str],
        transport: httpx.BaseTransport | None = None,
        *,
        private_data_hosts: Sequence[str] = (),
        resolve: Resolve = resolve_host,
    ) -> None:
        """Make a client of nodes.

        Args:
            urls: The nodes, the preferred one first.
            transport: Sends the requests; None for the network.
            private_data_hosts: Hosts of data that may have private addresses.
            resolve: The name service for hosts of data.
        """
        super().__init__()
        assert urls
        self.on_wait, self.on_note = _log_wait, _log_note
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
        self._busy: dict[str, float] = {}
        """By URL: until when, by the monotonic clock, the node has no place for a gradient."""
        self._liars: dict[str, tuple[float, str]] = {}
        """By URL: until when the node is not asked, and why."""
        self._http = open_http(ANSWER_SECONDS, transport)
        self._mirrors = Mirrors(self._http, frozenset(private_data_hosts), resolve)

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
        self, urls: Iterable[str], ask: Callable[[str], Answer]
    ) -> dict[str, Answer | Exception]:
        """What nodes answer that are all asked at the same time.

        After the first answer the others are waited for only a few times as long as that took, so
        a node that hangs delays nothing for long. It is not asked again while it hangs.
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
        deadline: float | None = None
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
            if deadline is None and not isinstance(answer, Exception):
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

    def genesis(self) -> GenesisReply:
        """Block 0, as the node has it."""
        return read_answer(_GENESIS, self.call("pot_getGenesis"))

    def proof(self, reads: Mapping[Address, Sequence[int]], block: int | None = None) -> StateProof:
        """A proof of storage slots of contracts in the state of a block; None is the head."""
        storage: Json = {
            to_hex(address): [hex(slot) for slot in slots] for address, slots in reads.items()
        }
        reply = self.call("pot_getProof", storage, "latest" if block is None else hex(block))
        return read_answer(_PROOF, reply)

    def validator_sets(self, after: int) -> tuple[ValidatorSetChange, ...]:
        """The next validator sets that decide blocks after `after`, ascending; empty: no change."""
        return read_answer(_SET_CHANGES, self.call("pot_getValidatorSets", after))

    def list_tasks(self) -> tuple[TaskReply, ...]:
        """All tasks, by ascending id."""
        tasks: tuple[TaskReply, ...] = ()
        while True:
            page = read_answer(_TASKS, self.call("pot_listTasks", {"offset": len(tasks)}))
            if not page:
                return tasks
            tasks += page

    def task(self, task_id: int) -> TaskReply | None:
        """A task; None if there is none of that id."""
        return read_answer(_TASK, self.call("pot_getTask", task_id))

    def task_spec(self, task_id: int) -> Json:
        """The specification of a task, as JSON; the caller checks its hash."""
        task = self.call("pot_getTask", task_id)
        return task.get("spec") if isinstance(task, dict) else None

    def attempt(self, task_id: int) -> AttemptReply | None:
        """The attempt in progress; None between attempts."""
        return read_answer(_ATTEMPT, self.call("pot_getAttempt", task_id))

    # What became of a gradient.

    def reveal_holders(self, attempt_id: AttemptId, miner: Address) -> frozenset[Address]:
        """The validators that hold a gradient, according to all nodes together."""
        params = (
            *(attempt_id.task_id, attempt_id.round_number, attempt_id.attempt_number),
            to_hex(miner),
        )
        answers = self._ask_all(_HOLDERS, "pot_getRevealHolders", params)
        return frozenset(each for answer in answers for each in answer.validators)

    def receipts(self, task_id: int, round_number: int, miner: Address) -> list[ReceiptReply]:
        """The receipts of a gradient; each node knows the reason of its own validator only."""
        params = (task_id, round_number, to_hex(miner))
        return self._ask_all(_RECEIPT, "pot_getReceipt", params)

    def _ask_all(
        self, adapter: TypeAdapter[Answer | None], method: str, params: Sequence[Json]
    ) -> list[Answer]:
        """The answers of all nodes that give one."""
        found = self._ask_at_once(
            self._list_reachable(),
            lambda url: read_answer(adapter, self._call_at(url, method, params)),
        )
        return [each for each in found.values() if each and not isinstance(each, Exception)]

    # Transactions.

    def suggest_tip(self) -> int:
        """The priority fee to pay: the node's suggestion, up to TIP_LIMIT_WEI."""
        return min(TIP_LIMIT_WEI, super().suggest_tip())

    def resend(self, raw: bytes) -> None:
        """Send a transaction to every node, and prefer another one from now on."""
        for url in self._urls:
            try:
                self._call_at(url, "eth_sendRawTransaction", [to_hex(raw)])
            except (httpx.HTTPError, ValueError, RpcCallError, DishonestNodeError):
                continue  # this node does not answer, or has the transaction already
        self.rotate()

    # Blobs.

    def fetch_blob(self, content_id: Hash32, byte_count: int) -> bytes:
        """The blob of that content id and size, held in memory.

        Raises:
            ContentUnavailableError: No node has it.
        """
        for source in self._list_blob_urls(content_id):
            try:
                with self._stream(source, byte_count) as parts:
                    data = b"".join(_check_size(parts, byte_count))
            except (httpx.HTTPError, ValueError):
                continue
            if compute_content_id(data) == content_id:
                return data
        raise _unavailable(content_id)

    def fetch_file(
        self, content_id: Hash32, byte_count: int, path: Path, mirrors: Sequence[str] = ()
    ) -> None:
        """Put the blob of that content id and size at `path`, once it is complete.

        Args:
            content_id: The content id.
            byte_count: The size that the specification states.
            path: The file to write; its directory exists.
            mirrors: Further URLs under which files are named by their content id in hex.

        Raises:
            ContentUnavailableError: No node and no mirror has it.
        """
        part_path = path.with_name(path.name + ".part")
        attempts = [
            (source, self._stream(source, byte_count))
            for source in self._list_blob_urls(content_id)
        ]
        for url in mirrors:
            source = f"{url.rstrip('/')}/{content_id.hex()}"
            attempts.append((source, self._mirrors.stream(source, byte_count)))
        for source, attempt in attempts:
            try:
                with attempt as parts:
                    checked = _check_size(parts, byte_count)
                    received = _hash_file_as_it_arrives(checked, part_path)
            except PrivateAddressError as error:
                _log.warning(
                    "data not fetched from a private address", url=source, reason=str(error)
                )
                continue
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                reason = describe_failure(error).splitlines()[0]
                _log.info("data not fetched", url=source, reason=reason)
                continue
            if received == content_id:
                part_path.replace(path)
                return
        raise _unavailable(content_id)

    def _list_blob_urls(self, content_id: Hash32) -> list[str]:
        order = self._list_candidates()
        return [f"{self._urls[position]}/v1/blobs/{to_hex(content_id)}" for position in order]

    @contextmanager
    def _stream(self, source: str, byte_count: int) -> Iterator[Iterator[bytes]]:
        started = time.monotonic()
        with self._http.stream("GET", source, headers={"accept-encoding": "identity"}) as response:
            response.raise_for_status()
            yield limit_time(response.iter_bytes(), byte_count, started)

    def reveal(
        self, query: dict[str, str | int], payload: bytes, takers: frozenset[str] = frozenset()
    ) -> tuple[frozenset[str], list[str]]:
        """Upload a gradient to every node that is not in `takers`.

        A node without a place for it is left alone for as long as it says.

        Returns:
            The nodes that took it, and the answers of those that did not.
        """
        now = time.monotonic()
        found = self._ask_at_once(
            (
                url
                for url in self._list_reachable()
                if url not in takers and self._busy.get(url, 0.0) <= now
            ),
            lambda url: self._send_reveal(url, query, payload),
        )
        accepted, refusals = set(), []
        for url, response in found.items():
            if isinstance(response, Exception):
                refusals.append(f"{url}: {describe_failure(response)}")
            elif response.is_success:
                accepted.add(url)
            else:
                refusals.append(f"{url}: {response.status_code} {response.text[:200].strip()}")
                if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                    self._busy[url] = time.monotonic() + _read_retry_after(response)
        return frozenset(accepted), refusals

    def _send_reveal(self, url: str, query: dict[str, str | int], payload: bytes) -> httpx.Response:
        """Upload a gradient to one node.

        Raises:
            httpx.HTTPError: The node does not answer.
            ValueError: The answer is too large, or takes too long.
            ClientError: The node closed the connection before all was sent.
        """
        request = self._http.build_request(
            "POST", f"{url}/v1/reveals", params=query, content=payload
        )
        try:
            return send_request(self._http, request)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            # A node that refuses a gradient does not wait for its end, and its answer may be lost.
            raise ClientError(f"the upload was cut off ({describe_failure(error)})") from error


def _read_retry_after(response: httpx.Response) -> float:
    """For how many seconds a node without a place is to be left alone."""
    value = response.headers.get("retry-after", "")
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        return BUSY_REST_SECONDS
    return min(LONGEST_BUSY_REST_SECONDS, float(value))


def _check_size(parts: Iterable[bytes], byte_count: int) -> Iterator[bytes]:
    """The parts of a body that must be `byte_count` bytes long.

    Raises:
        ValueError: The body is longer or shorter.
    """
    received = 0
    for part in parts:
        received += len(part)
        if received > byte_count:
            break
        yield part
    if received != byte_count:
        raise ValueError(f"got {received} bytes instead of {byte_count}")


def _hash_file_as_it_arrives(parts: Iterable[bytes], path: Path) -> Hash32:
    """Write the parts to `path`, and return the content id of the whole."""
    leaves, pending = [], b""
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
            pending += part
            while len(pending) > CHUNK_BYTES:
                leaves.append(merkle_leaf(pending[:CHUNK_BYTES]))
                pending = pending[CHUNK_BYTES:]
        sync_file(file)
        return content_id_of_chunks(file.tell(), [*leaves, merkle_leaf(pending)])


def _describe_network(info: NodeInfo) -> str:
    return f"its network has chain id {info.chain_id}, genesis {to_hex(info.genesis_hash)}"


def _unavailable(content_id: Hash32) -> ContentUnavailableError:
    return ContentUnavailableError(
        f"no node has blob {to_hex(content_id)} complete; wait for the nodes to sync, or name "
        "another"
    )


def _log_wait(hint: GasHint) -> None:
    _log.warning(
        "a transaction waits: gas is free up to a ration, for which too many wait; with coins, "
        f"start the miner again with {hint}"
    )


def _log_note(note: str) -> None:
    _log.warning(f"of other transactions of this account: {note}")
