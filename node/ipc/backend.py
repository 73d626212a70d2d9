"""The answers of the node process to its RPC processes (docs/spec/rpc.md, section 7)."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from chain.consensus.messages import MessageKind, get_pre_prepare
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from node.consensus.host import ConsensusHost
from node.health.diagnosis import ValidatorStatus, describe, diagnose
from node.health.reader import HealthReader
from node.mempool.intake import Pool
from node.mempool.pool import Mempool
from node.network.network import Network
from node.storage.block_store import BlockStore
from node.sync.block_sync import BlockSync

PROPOSED_WINDOW: Final = 1_000
"""Number of latest blocks in which `pot_validators` counts each validator's proposals."""


class Backend:
    """Answers from the objects of the node; no method blocks the node's thread."""

    def __init__(
        self,
        *,
        pool: Pool,
        mempool: Mempool,
        network: Network,
        consensus: ConsensusHost,
        sync: BlockSync,
        store: BlockStore,
        validator: Address | None,
        health: HealthReader,
        wake_training: Callable[[], None],
        take_reveal: Callable[[Reveal], None],
        describe_readiness: Callable[[TaskId], JsonObject],
        find_disk_objection: Callable[[TaskId], str | None],
        find_holders: Callable[[AttemptId, Address], Awaitable[Sequence[Address]]],
    ) -> None:
        self._pool = pool
        self._mempool = mempool
        self._network = network
        self._consensus = consensus
        self._sync = sync
        self._store = store
        self._validator = validator
        self._health = health
        self._wake_training = wake_training
        self._take_reveal = take_reveal
        self._describe_readiness = describe_readiness
        self._find_disk_objection = find_disk_objection
        self._find_holders = find_holders
        self._proposed: tuple[BlockNumber, Mapping[Address, int]] = (BlockNumber(0), {})

    async def submit_transaction(self, raw: bytes) -> Hash32:
        """Put a signed transaction into the mempool, announce it, and return its hash.

        Raises:
            RejectedInputError: The transaction is malformed, or the mempool refuses it.
        """
        return await self._pool.submit(raw)

    def get_pending_nonce(self, address: Address) -> int | None:
        """The next nonce of an account, after its consecutive transactions in the mempool."""
        return self._mempool.pending_nonce(address)

    def get_pooled_transaction(self, transaction_hash: Hash32) -> bytes | None:
        """An encoded transaction; None if the mempool does not hold it."""
        return self._pool.get_raw(transaction_hash)

    def list_waiting(self, address: Address) -> tuple[list[Hash32], list[Hash32]]:
        """The hashes of an account's transactions in the mempool, without and behind a nonce gap.

        Both are in the order of their nonces.
        """
        pending, queued = self._mempool.pending(address), self._mempool.queued(address)
        return [each.hash for each in pending], [each.hash for each in queued]

    def get_pool_counts(self) -> tuple[int, int]:
        """The numbers of transactions in the mempool without and behind a nonce gap."""
        return self._mempool.counts()

    def get_gas_price(self) -> int:
        """What to offer for a unit of gas, in wei, so as not to wait with free transactions."""
        return self._mempool.suggest_price()

    def get_node_info(self) -> JsonObject:
        """The part of `pot_nodeInfo` that is not on the chain."""
        return {
            "peerId": self._network.peer_id,
            "listen": list(self._network.listen_addresses()),
            "validator": None if self._validator is None else to_hex(self._validator),
            "role": "validator" if self._consensus.is_member else "follower",
            "isSigning": self._consensus.is_signing,
        }

    def get_validators(self) -> Json:
        """The result of `pot_validators`: the validator set, and the peers that represent it."""
        head = self._store.head_number()
        proposed = self._count_proposed(head)
        sessions = {peer.validator: peer for peer in self._network.peers()}
        rows: list[Json] = []
        validator_set = self._store.next_validator_set()
        pairs = zip(validator_set.validators, validator_set.operators, strict=True)
        for index, (validator, operator) in enumerate(pairs):
            is_self = validator == self._validator
            peer = sessions.get(validator)
            peer_id = None if peer is None else peer.peer_id
            if is_self:
                peer_id = self._network.peer_id
            seen = head if is_self else (None if peer is None else peer.head.number)
            rows.append(
                {
                    "index": index,
                    "address": to_hex(validator),
                    "operator": to_hex(operator),
                    "peerId": peer_id,
                    "connected": is_self or peer is not None,
                    "lastSeenNumber": seen,
                    "blocksProposed": proposed.get(validator, 0),
                }
            )
        return rows

    def _count_proposed(self, head: BlockNumber) -> Mapping[Address, int]:
        """The latest blocks of each validator, counted once for each head.

        Any client may ask often, and the count takes 2 ms of the thread in which consensus runs.
        """
        if self._proposed[0] != head:
            first = BlockNumber(max(1, head - PROPOSED_WINDOW + 1))
            self._proposed = (head, Counter(self._store.coinbases(first, head)))
        return self._proposed[1]

    def get_consensus_state(self) -> JsonObject:
        """The result of `pot_consensusState`: the replica's position and what delays it."""
        health = self._health.read()
        state = self._consensus.state
        answered: JsonObject = {"prepares": [], "commits": []}
        if state is not None and state.proposal is not None:
            digest = get_pre_prepare(state.proposal).block.hash
            for name, kind in (
                ("prepares", MessageKind.PREPARE),
                ("commits", MessageKind.COMMIT),
            ):
                signatures = state.log.get_signatures(kind, state.view, digest)
                answered[name] = [
                    to_hex(state.config.validators[author]) for author, _ in signatures
                ]
        findings = diagnose(health)
        return {
            "number": health.number,
            "view": health.view,
            "primary": None if health.primary is None else to_hex(health.primary),
            "phase": health.step.name.lower(),
            "quorum": health.quorum,
            **answered,
            "missing": [
                to_hex(validator.address)
                for validator in health.validators
                if validator.address not in health.answered
            ],
            "validators": [_encode_validator(validator) for validator in health.validators],
            "failedViews": self._consensus.watch.failed_views,
            "lastBlockSeconds": round(health.head_age_seconds, 3),
            "overdueSeconds": round(health.overdue_seconds, 3),
            "behind": max(0, health.best_known - health.head),
            "summary": findings[0].text if findings else describe(health),
            "findings": [dict(finding.to_json()) for finding in findings],
        }

    def get_sync_state(self) -> JsonObject:
        """The number of connected peers, and the highest block that this node or they have."""
        return {"peers": len(self._network.peers()), "best": self._sync.best_known()}

    def on_blob(self) -> None:
        """Wake the training host, because an RPC process stored a blob that a job may wait for."""
        self._wake_training()

    def on_reveal(self, reveal: Reveal) -> None:
        """Tell the training host of a reveal that an RPC process stored with its gradient."""
        self._take_reveal(reveal)

    def get_readiness(self, task_id: TaskId) -> JsonObject:
        """The result of `pot_getReadiness`: this node's answer to a task."""
        validator = None if self._validator is None else to_hex(self._validator)
        return {"validator": validator, **self._describe_readiness(task_id)}

    def find_disk_objection(self, task_id: TaskId) -> str | None:
        """Why a task was promised no disk by this node; None if it was."""
        return self._find_disk_objection(task_id)

    async def find_reveal_holders(self, attempt_id: AttemptId, miner: Address) -> Json:
        """The validators that hold a miner's gradient, by ascending address."""
        return [to_hex(each) for each in await self._find_holders(attempt_id, miner)]


def _encode_validator(validator: ValidatorStatus) -> JsonObject:
    def rounded(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds, 1)

    return {
        "address": to_hex(validator.address),
        "operator": to_hex(validator.operator),
        "name": validator.name,
        "isSelf": validator.is_self,
        "connected": validator.is_connected,
        "absentSeconds": rounded(validator.absent_seconds),
        "silentSeconds": rounded(validator.silent_seconds),
        "votedNumber": validator.voted_number,
        "clockOffsetSeconds": rounded(validator.clock_offset_seconds),
    }
