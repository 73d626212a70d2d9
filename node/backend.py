"""What the node process answers its RPC processes (docs/spec/rpc.md, section 7)."""

from collections.abc import Callable
from typing import Final

import trio

from chain.consensus import pbft
from chain.consensus.messages import MessageKind, get_pre_prepare
from chain.consensus.quorum import compute_quorum
from chain.primitives import Address, BlockNumber, Hash32
from chain.training.history import Committee
from chain.types.transaction import decode_transaction
from node.clock import Clock
from node.consensus_host import ConsensusHost
from node.ipc.framing import JsonObject, JsonValue
from node.mempool import Mempool
from node.network.network import Network
from node.storage.block_store import BlockStore
from node.sync.block_sync import BlockSync

PROPOSED_WINDOW: Final = 1_000
"""Blocks over which proposals are counted for `pot_validators`."""


class Pool:
    """The mempool as network and RPC see it: raw bytes in, announcements out."""

    def __init__(self, mempool: Mempool) -> None:
        self._mempool = mempool
        self._announce: Callable[[tuple[Hash32, ...]], None] = lambda hashes: None
        self._on_added: Callable[[], None] = lambda: None

    def connect(
        self, announce: Callable[[tuple[Hash32, ...]], None], on_added: Callable[[], None]
    ) -> None:
        """Say whom to tell of an admitted transaction: the peers, and consensus."""
        self._announce, self._on_added = announce, on_added

    def contains(self, transaction_hash: Hash32) -> bool:
        """Whether it is held, or was refused for good."""
        return transaction_hash in self._mempool

    def get_raw(self, transaction_hash: Hash32) -> bytes | None:
        """The signed transaction, or None if it is not held."""
        transaction = self._mempool.get(transaction_hash)
        return None if transaction is None else transaction.raw

    def hashes(self) -> tuple[Hash32, ...]:
        """All that is held."""
        return self._mempool.hashes()

    async def submit(self, raw: bytes) -> None:
        """Admit a signed transaction.

        Raises:
            RejectedInputError: why not.
        """
        await trio.lowlevel.checkpoint()
        transaction = decode_transaction(raw)
        self._mempool.add(transaction)
        self._announce((transaction.hash,))
        self._on_added()


class Backend:
    """Answers from the node's own objects; nothing here blocks."""

    def __init__(
        self,
        *,
        pool: Pool,
        mempool: Mempool,
        network: Network,
        consensus: ConsensusHost,
        sync: BlockSync,
        store: BlockStore,
        committee: Committee,
        validator: Address | None,
        clock: Clock,
        wake_training: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._mempool = mempool
        self._network = network
        self._consensus = consensus
        self._sync = sync
        self._store = store
        self._committee = committee
        self._validator = validator
        self._clock = clock
        self._wake_training = wake_training

    async def submit_transaction(self, raw: bytes) -> Hash32:
        """Put a signed transaction into the pool and announce it; its hash.

        Raises:
            RejectedInputError: why it was refused.
        """
        await self._pool.submit(raw)
        return decode_transaction(raw).hash

    def get_pending_nonce(self, address: Address) -> int | None:
        """The nonce after the account's consecutive pooled transactions."""
        return self._mempool.pending_nonce(address)

    def get_pooled_transaction(self, transaction_hash: Hash32) -> bytes | None:
        """The raw transaction, or None if the pool does not hold it."""
        return self._pool.get_raw(transaction_hash)

    def get_pool_counts(self) -> tuple[int, int]:
        """How many transactions are includable now, and how many wait for a nonce."""
        return self._mempool.counts()

    def get_pool_content(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Raw transactions: those includable now, and those that wait for a nonce."""
        content = self._mempool.content().values()
        return (
            tuple(each.raw for pending, _ in content for each in pending),
            tuple(each.raw for _, queued in content for each in queued),
        )

    def get_node_info(self) -> JsonObject:
        """What `pot_nodeInfo` adds to the chain."""
        return {
            "peerId": self._network.peer_id,
            "listen": list(self._network.listen_addresses()),
            "validator": None if self._validator is None else "0x" + self._validator.hex(),
            "role": "follower" if self._validator is None else "validator",
            "isSigning": self._consensus.is_signing,
        }

    def get_validators(self) -> JsonValue:
        """What `pot_validators` shows."""
        head = self._store.head_number()
        first = BlockNumber(max(1, head - PROPOSED_WINDOW + 1))
        coinbases = self._store.coinbases(first, head)
        sessions = {peer.validator: peer for peer in self._network.peers()}
        rows: list[JsonValue] = []
        pairs = zip(self._committee.validators, self._committee.operators, strict=True)
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
                    "address": "0x" + validator.hex(),
                    "operator": "0x" + operator.hex(),
                    "peerId": peer_id,
                    "connected": is_self or peer is not None,
                    "lastSeenNumber": seen,
                    "blocksProposed": coinbases.count(validator),
                }
            )
        return rows

    def get_consensus_state(self) -> JsonObject:
        """What `pot_consensusState` shows: where this replica is, and whom it waits for."""
        state = self._consensus.state
        head = self._store.head()
        seconds = max(0.0, self._clock.now_ms() / 1000 - head.timestamp)
        if state is None:
            return {"number": head.number + 1, "phase": "waiting for validators' heads"}
        validators = self._committee.validators
        config = state.config
        primary = config.primary_order[state.view % len(validators)]
        digest = None if state.proposal is None else get_pre_prepare(state.proposal).block.hash
        prepares, commits = (
            []
            if digest is None
            else [author for author, _ in state.log.get_signatures(kind, state.view, digest)]
            for kind in (MessageKind.PREPARE, MessageKind.COMMIT)
        )
        return {
            "number": config.number,
            "view": state.view,
            "primary": "0x" + validators[primary].hex(),
            "phase": _describe_phase(state),
            "quorum": compute_quorum(len(validators)),
            "prepares": ["0x" + validators[index].hex() for index in prepares],
            "commits": ["0x" + validators[index].hex() for index in commits],
            "viewChanges": self._consensus.view_changes,
            "missing": [
                "0x" + validator.hex()
                for index, validator in enumerate(validators)
                if index not in commits
            ],
            "lastBlockSeconds": round(seconds, 3),
        }

    def get_sync_state(self) -> JsonObject:
        """Connected peers and the highest head among them."""
        return {"peers": len(self._network.peers()), "best": self._sync.best_known()}

    async def blob_arrived(self, content_id: Hash32, kind: str) -> None:
        """A blob was stored by the RPC process: somebody may be waiting for it."""
        del content_id, kind
        await trio.lowlevel.checkpoint()
        self._wake_training()


def _describe_phase(state: pbft.ReplicaState) -> str:
    if state.is_decided:
        return "decided"
    if state.own_commit is not None:
        return "prepared"
    if state.own_prepare is not None:
        return "pre-prepared"
    return "view-change" if state.own_view_change is not None else "waiting for a proposal"
