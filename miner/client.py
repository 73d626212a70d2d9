"""What a miner asks of nodes, over JSON-RPC and HTTP (docs/spec/rpc.md, sections 2 and 6).

miner/nodes.py chooses the node. No node is trusted: a blob is checked against its content id, and
what decides a commitment is proven from the genesis hash (miner/light.py). Answers without a proof
are hints.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import structlog
from pydantic import TypeAdapter

from chain.contracts.addresses import GRADIENT_LEDGER
from chain.crypto import CHUNK_BYTES, content_id_of_chunks, merkle_leaf, sha256
from chain.crypto import content_id as compute_content_id
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, Hash32
from chain.training.attempt import AttemptId
from chain.types.header import Header
from chain.types.transaction import Transaction
from miner.blob_download import BlobDownload
from miner.mirrors import (
    MIN_BYTES_PER_SECOND,
    Mirrors,
    PrivateAddressError,
    Resolve,
    limit_time,
    resolve_host,
)
from miner.nodes import FAILURES, Answer, DishonestNodeError, NodePool
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
from pot_common.gas_offer import COMMITMENT_GAS_LIMIT, GasHint
from pot_common.http_exchange import describe_failure, send_request
from pot_common.rpc_client import (
    GAS_MARGIN,
    AccountView,
    ContentUnavailableError,
    NodeUnreachableError,
    RpcCallError,
)
from pot_common.rpc_replies import ClientError, Items, read_answer, read_quantity

BUSY_REST_SECONDS: Final = 1.0
"""After this time a node without a place for a gradient is asked again, unless it names a time."""

LONGEST_BUSY_REST_SECONDS: Final = 10.0
"""The longest time that a node without a place is left alone, whatever it says."""

RECEIPT_LEAD_BLOCKS: Final = 16
"""A receipt may be of a block so far ahead of a proof of another node. One of a later block is a
lie: nodes that are further behind are not believed."""

TIP_LIMIT_WEI: Final = 10 * 10**9
"""The highest priority fee a unit of gas. The node suggests it, and the proposer of the block, who
may run that node, is paid it."""

_log = structlog.get_logger("miner")

_TASK: Final[TypeAdapter[TaskReply | None]] = TypeAdapter(TaskReply | None)
_TASKS: Final = TypeAdapter(Items[TaskReply])
_ATTEMPT: Final[TypeAdapter[AttemptReply | None]] = TypeAdapter(AttemptReply | None)
_HOLDERS: Final[TypeAdapter[HoldersReply | None]] = TypeAdapter(HoldersReply | None)
_RECEIPT: Final[TypeAdapter[ReceiptReply | None]] = TypeAdapter(ReceiptReply | None)
_GENESIS: Final = TypeAdapter(GenesisReply)
_PROOF: Final = TypeAdapter(StateProof)
_SET_CHANGES: Final = TypeAdapter(Items[ValidatorSetChange])


class FailoverClient(NodePool):
    """What a miner asks of one or more nodes of one network."""

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
        super().__init__(urls, transport)
        self.on_wait, self.on_note = _log_wait, _log_note
        self._busy: dict[str, float] = {}
        """By URL: until when, by the monotonic clock, the node has no place for a gradient."""
        self._mirrors = Mirrors(self._http, frozenset(private_data_hosts), resolve)
        self.prove_account: Callable[[Address], tuple[Header, int]] | None = None
        """Proves a final header and an account's nonce after it; None before the network is known.
        Without it, nonces and receipts of nodes are believed."""
        self._nonces: dict[Address, int] = {}
        """The highest nonce that was proven, by account."""

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

    def list_tasks(self, count: int) -> tuple[TaskReply, ...]:
        """All tasks as nodes tell them, by ascending id.

        Args:
            count: The number of tasks that is proven; a node may list more, without an end.
        """
        tasks: tuple[TaskReply, ...] = ()
        while len(tasks) < count:
            page = read_answer(_TASKS, self.call("pot_listTasks", {"offset": len(tasks)}))
            if not page:
                break
            tasks += page
        return tuple(each for each in tasks if 0 < each.id <= count)

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

    def list_without(self, takers: frozenset[str]) -> list[str]:
        """The nodes that are asked at all, and are not in `takers`."""
        return sorted(set(self._list_candidates()) - takers)

    def receipts(self, task_id: int, round_number: int, miner: Address) -> list[ReceiptReply]:
        """The receipts of a gradient; each node knows the reason of its own validator only."""
        params = (task_id, round_number, to_hex(miner))
        return self._ask_all(_RECEIPT, "pot_getReceipt", params)

    def _ask_all(
        self, adapter: TypeAdapter[Answer | None], method: str, params: Sequence[Json]
    ) -> list[Answer]:
        """The answers of all nodes that give one."""
        found = self._ask_at_once(
            method,
            self._list_reachable(),
            lambda url: read_answer(adapter, self._call_at(url, method, params)),
        )
        return [each for each in found.values() if each and not isinstance(each, Exception)]

    # Transactions.

    def suggest_tip(self) -> int:
        """The priority fee to pay: the node's suggestion, up to TIP_LIMIT_WEI."""
        return min(TIP_LIMIT_WEI, super().suggest_tip())

    def estimate_gas(self, request: JsonObject) -> int:
        """The gas that a transaction needs: from another node if the first one says it reverts.

        It is the word of one node. With the gas that a lying node names, a commitment would have no
        priority, and could miss its phase; so nothing above the limit for that is believed.

        Raises:
            RpcCallError: All nodes say that it would revert.
        """
        estimate = self._estimate_gas(request)
        if request.get("to") == to_hex(GRADIENT_LEDGER):
            return min(estimate, COMMITMENT_GAS_LIMIT - GAS_MARGIN)
        return estimate

    def _estimate_gas(self, request: JsonObject) -> int:
        try:
            return super().estimate_gas(request)
        except RpcCallError as error:
            refused_by, refusal = self.current, error
        others = [url for url in self._list_reachable() if url != refused_by]
        found = self._ask_at_once(
            "second estimate",
            others,
            lambda url: read_quantity(self._call_at(url, "eth_estimateGas", [request])),
        )
        estimates = [each for each in found.values() if isinstance(each, int)]
        if not estimates:
            raise refusal
        return max(estimates)

    def send_raw(self, raw: bytes) -> None:
        """Send a transaction to every node, since one may keep it to itself.

        Raises:
            RpcCallError: No node takes it.
            NodeUnreachableError: No node answers.
        """
        if len(self._urls) == 1:
            super().send_raw(raw)
            return
        found = self._ask_at_once(
            f"transaction {sha256(raw).hex()}",
            self._list_reachable(),
            lambda url: self._call_at(url, "eth_sendRawTransaction", [to_hex(raw)]),
        )
        refusals: dict[str, RpcCallError] = {}
        failures: list[str] = []
        for url, answer in found.items():
            if isinstance(answer, DishonestNodeError):
                self.drop(answer)
            elif isinstance(answer, RpcCallError):
                refusals[url] = answer
            elif isinstance(answer, Exception):
                failures.append(f"{url} ({describe_failure(answer)})")
            else:
                return
        if refusals:
            raise refusals.get(self.current) or next(iter(refusals.values()))
        failures += [f"{url} (no answer yet)" for url in self._urls if url not in found]
        raise NodeUnreachableError(f"no node takes a transaction: {', '.join(failures)}")

    def resend(self, raw: bytes) -> None:
        """Send a transaction to every node, and prefer another one from now on."""
        with suppress(RpcCallError, NodeUnreachableError):  # or the nodes have it already
            self.send_raw(raw)
        self.rotate()

    def read_account(self, account: Address) -> AccountView:
        """What the account's next transaction depends on, from a proof if there can be one."""
        if self.prove_account is None:
            return super().read_account(account)
        header, first = self._get_proven_account(account)
        # A node may be a block behind another one; no nonce becomes less.
        first = self._nonces[account] = max(first, self._nonces.get(account, 0))
        pending = max(first, self.get_nonce(account, "pending"))
        return AccountView(header.number, header.base_fee_per_gas, first, pending)

    def find_next_nonce(self, view: AccountView, waiting: Sequence[Transaction]) -> int:
        """The nonce after the transactions that wait, of which each is proven by its signature.

        A nonce behind a gap would keep a transaction out of all blocks.
        """
        if self.prove_account is None:
            return super().find_next_nonce(view, waiting)
        following = view.first
        for each in waiting:
            if each.nonce == following:
                following += 1
        return following

    def find_receipt(self, account: Address, transaction: Transaction) -> JsonObject | None:
        """The receipt of a transaction that is proven to be in a block, or one in its place.

        A node with a receipt for a transaction that the account did not send is not asked again.
        """
        if self.prove_account is None:
            return super().find_receipt(account, transaction)
        try:
            receipt = super().find_receipt(account, transaction)
        except RpcCallError:
            if len(self._urls) == 1:
                raise
            self.rotate()
            return None
        if receipt is None:
            return None
        source = self.current
        header, count = self._get_proven_account(account)
        if count > transaction.nonce:
            return receipt
        block = read_quantity(receipt.get("blockNumber"))
        if not header.number < block <= header.number + RECEIPT_LEAD_BLOCKS:
            name = to_hex(transaction.hash)
            self.drop(
                DishonestNodeError(
                    source,
                    f"it has transaction {name} in block {block}, and the account has not sent it "
                    f"by block {header.number}",
                )
            )
        return None

    def _get_proven_account(self, account: Address) -> tuple[Header, int]:
        """A final header and the account's nonce after it, from a node that proves them.

        Raises:
            ClientError: No node does.
        """
        assert self.prove_account is not None
        while True:
            try:
                return self.prove_account(account)
            except DishonestNodeError as error:
                self.drop(error)

    # Blobs.

    def fetch_blob(
        self, content_id: Hash32, byte_count: int, within_seconds: float = math.inf
    ) -> bytes:
        """The blob of that content id and size, held in memory.

        While a node sends too slowly, the next one is asked beside it. A node that breaks off or is
        too slow is put off, and one that sends other bytes is dropped.

        Args:
            content_id: The content id.
            byte_count: The size.
            within_seconds: A node that would take longer is too slow, and so is one that sends less
                than MIN_BYTES_PER_SECOND.

        Raises:
            ContentUnavailableError: No node has it.
        """

        @contextmanager
        def open_stream(url: str) -> Iterator[Iterator[bytes]]:
            self._waiting_for.add((url, "blob"))
            try:
                with self._stream(f"{url}/v1/blobs/{to_hex(content_id)}", byte_count) as parts:
                    yield _check_size(parts, byte_count)
            finally:
                self._waiting_for.discard((url, "blob"))

        candidates = self._list_candidates()
        free = [url for url in candidates if (url, "blob") not in self._waiting_for]
        least_rate = max(MIN_BYTES_PER_SECOND, byte_count / within_seconds)
        download = BlobDownload(free or candidates, open_stream, byte_count, least_rate)
        with closing(download.receive()) as answers:
            for url, answer in answers:
                if isinstance(answer, bytes):
                    if compute_content_id(answer) == content_id:
                        for slow in download.overtaken:
                            self._slow.begin(slow)
                        return answer
                    if len(self._urls) > 1:
                        self.drop(DishonestNodeError(url, "it sends other bytes for a blob"))
                elif not isinstance(answer, FAILURES):
                    raise answer
                elif not isinstance(answer, httpx.HTTPStatusError):
                    self._unreachable.begin(url)
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
        return [f"{url}/v1/blobs/{to_hex(content_id)}" for url in self._list_candidates()]

    @contextmanager
    def _stream(self, source: str, byte_count: int) -> Iterator[Iterator[bytes]]:
        started = time.monotonic()
        with self._http.stream("GET", source, headers={"accept-encoding": "identity"}) as response:
            response.raise_for_status()
            yield limit_time(response.iter_bytes(), byte_count, started)

    def reveal(
        self,
        query: dict[str, str | int],
        payload: bytes,
        takers: frozenset[str] = frozenset(),
        wait_seconds: float | None = None,
    ) -> tuple[frozenset[str], list[str]]:
        """Upload a gradient to every node that is not in `takers`.

        A node without a place for it is left alone for as long as it says. With `wait_seconds`, an
        upload that takes longer goes on by itself.

        Returns:
            The nodes that took it, and the answers of those that did not.
        """
        now = time.monotonic()
        found = self._ask_at_once(
            "reveal",
            (
                url
                for url in self._list_reachable()
                if url not in takers and self._busy.get(url, 0.0) <= now
            ),
            lambda url: self._send_reveal(url, query, payload),
            wait_seconds,
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
