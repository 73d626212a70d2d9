"""Collects the facts for the diagnosis from the node's objects (docs/operator-guide.md, 11)."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import trio

from chain.consensus.messages import MessageKind, PrePrepare, get_pre_prepare
from chain.consensus.pbft import ReplicaState
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, ValidatorIndex, View
from chain.types.validator_set import ValidatorSet, compute_max_faulty, compute_quorum
from node.clock import Clock
from node.consensus.host import ConsensusHost
from node.health.diagnosis import NodeHealth, Step, ValidatorStatus
from node.mempool.pool import Mempool
from node.network.peers import PeerInfo
from node.network.requests import ConnectedPeers
from node.storage.block_store import BlockStore
from node.sync.block_sync import BlockSync

DUE_MARGIN_SECONDS: Final = 2.0
"""Time allowed for executing and storing a block, besides the network's intervals."""


class HealthReader:
    """Reads the health. Call it at least once a second: absences are measured from call to call."""

    def __init__(
        self,
        *,
        parameters: ChainParameters,
        validator: Address | None,
        names: Mapping[Address, str],
        data_dir: Path,
        clock: Clock,
        store: BlockStore,
        consensus: ConsensusHost,
        peers: ConnectedPeers,
        sync: BlockSync,
        mempool: Mempool,
    ) -> None:
        self._due_seconds = DUE_MARGIN_SECONDS + (
            (parameters.empty_block_interval_ms + 2 * parameters.view_timeout_base_ms) / 1000
        )
        self._validator = validator
        self._names = names
        self._data_dir = data_dir
        self._clock = clock
        self._store = store
        self._consensus = consensus
        self._peers = peers
        self._sync = sync
        self._mempool = mempool
        self._started_at = trio.current_time()
        self._connected_at: dict[Address, float] = {}

    def read(self) -> NodeHealth:
        """The health of the node now."""
        state, head = self._consensus.state, self._store.head_number()
        peers = self._peers.peers()
        validator_set = self._store.next_validator_set()
        validators = validator_set.validators if state is None else state.config.validators
        step, answered = self._find_step(state)
        view = View(0) if state is None else _find_view(state)
        return NodeHealth(
            number=BlockNumber(head + 1),
            view=view,
            step=step,
            validators=self._read_validators(validators, validator_set, peers),
            quorum=compute_quorum(len(validators)),
            primary=None if state is None else validators[state.config.get_primary(view)],
            answered=answered,
            head_age_seconds=self._consensus.watch.seconds_since_head(),
            due_seconds=self._due_seconds,
            best_known=self._sync.best_known(),
            peer_count=len(peers),
            uptime_seconds=trio.current_time() - self._started_at,
            is_validator=self._validator in validators,
            first_signable=self._consensus.first_signable,
            signing_failure=self._consensus.signing_failure,
            held_seconds=None if state is None else self._find_held_seconds(state),
            late_seconds=None if state is None else self._find_late_seconds(state),
            disk_free_bytes=shutil.disk_usage(self._data_dir).free,
            free_gas_seconds=self._mempool.free_gas_seconds,
            suggested_price_wei=self._mempool.suggest_price(),
        )

    def _read_validators(
        self,
        validators: tuple[Address, ...],
        validator_set: ValidatorSet,
        peers: tuple[PeerInfo, ...],
    ) -> tuple[ValidatorStatus, ...]:
        now, watch = trio.current_time(), self._consensus.watch
        connected = {peer.validator for peer in peers}
        operators = dict(zip(validator_set.validators, validator_set.operators, strict=True))
        found = []
        for address in validators:
            if address in connected:
                self._connected_at[address] = now
            seen_at = self._connected_at.get(address)
            record = watch.get_record(address)
            is_self = address == self._validator
            found.append(
                ValidatorStatus(
                    address=address,
                    operator=operators.get(address, address),
                    name=self._names.get(address),
                    is_self=is_self,
                    is_connected=is_self or address in connected,
                    absent_seconds=(
                        None if address in connected or seen_at is None else now - seen_at
                    ),
                    silent_seconds=None if record.heard_at is None else now - record.heard_at,
                    voted_number=record.voted_number,
                    clock_offset_seconds=record.clock_offset_seconds,
                )
            )
        return tuple(found)

    def _find_step(self, state: ReplicaState | None) -> tuple[Step, frozenset[Address]]:
        """The step that the replica waits for, and the validators that have done it."""
        if self._validator is None or (
            state is not None and self._validator not in state.config.validators
        ):
            return Step.CERTIFICATE, frozenset()
        if state is None:
            return Step.HEADS, self._consensus.known_heads | {self._validator}
        if state.is_decided:
            return Step.STORED, frozenset()
        if state.committed is not None:
            return (Step.BLOCK if state.is_fetch_asked else Step.VERDICT), frozenset()
        if state.config.own_index is None:
            return _find_followed_step(state)
        if state.own_commit is not None:
            return Step.COMMITS, _list_voters(state, MessageKind.COMMIT)
        if state.own_prepare is not None:
            return Step.PREPARES, _list_voters(state, MessageKind.PREPARE)
        if state.proposal is not None:
            return self._judge_proposal(state), frozenset()
        return _find_awaited_proposal(state)

    def _judge_proposal(self, state: ReplicaState) -> Step:
        assert state.proposal is not None
        verdict = state.validities.get(get_pre_prepare(state.proposal).block.hash)
        if verdict is None or verdict.is_valid is None:
            return Step.VERDICT
        if not verdict.is_valid:
            return Step.REFUSED
        if self._find_late_seconds(state) is not None:
            return Step.TOO_OLD
        return Step.VERDICT if self._find_held_seconds(state) is None else Step.HELD

    def _find_held_seconds(self, state: ReplicaState) -> float | None:
        """Seconds by which a fresh proposal is ahead of our clock; None if it is not ahead."""
        proposal = state.proposal
        if proposal is None or not (isinstance(proposal, PrePrepare) or not proposal.prepares):
            return None
        timestamp = get_pre_prepare(proposal).block.header.timestamp
        ahead = timestamp - self._clock.now_ms() / 1000
        return ahead if ahead > 1 else None

    def _find_late_seconds(self, state: ReplicaState) -> float | None:
        """Seconds by which a proposal that is too old was behind our clock; None if it is not."""
        if state.proposal is None:
            return None
        return self._consensus.find_lateness(get_pre_prepare(state.proposal).block.hash)


def _find_view(state: ReplicaState) -> View:
    """The replica's view; for a follower, the view that f + 1 validators have reached."""
    if state.config.own_index is not None:
        return state.view
    views = state.log.get_views_from(View(0))
    needed = compute_max_faulty(len(state.config.validators)) + 1
    return views[-needed] if len(views) >= needed else View(0)


def _list_voters(state: ReplicaState, kind: MessageKind) -> frozenset[Address]:
    """The validators of which we hold a vote of that kind for the proposal."""
    assert state.proposal is not None
    digest = get_pre_prepare(state.proposal).block.hash
    signatures = state.log.get_signatures(kind, state.view, digest)
    return _name(state, (author for author, _ in signatures))


def _find_awaited_proposal(state: ReplicaState) -> tuple[Step, frozenset[Address]]:
    validators = state.config.validators
    if state.view > 0:
        changed = [
            author
            for author, held in state.log.view_changes.items()
            if held.vote.view >= state.view
        ]
        if len(changed) < compute_quorum(len(validators)):
            return Step.VIEW_CHANGES, _name(state, changed)
    if state.config.get_primary(state.view) == state.config.own_index:
        return Step.OWN_PROPOSAL, frozenset()
    return (Step.NEW_VIEW if state.view > 0 else Step.PROPOSAL), frozenset()


def _find_followed_step(state: ReplicaState) -> tuple[Step, frozenset[Address]]:
    """The step that the others wait for, for a validator that must not sign itself."""
    view = _find_view(state)
    for kind, step in ((MessageKind.COMMIT, Step.COMMITS), (MessageKind.PREPARE, Step.PREPARES)):
        voters = [
            author
            for (held_kind, author), votes in state.log.votes.items()
            if held_kind is kind and any(vote.view == view for vote in votes)
        ]
        if voters:
            return step, _name(state, voters)
    changed = [author for author, held in state.log.view_changes.items() if held.vote.view >= view]
    if view > 0 and len(changed) < compute_quorum(len(state.config.validators)):
        return Step.VIEW_CHANGES, _name(state, changed)
    return (Step.NEW_VIEW if view > 0 else Step.PROPOSAL), frozenset()


def _name(state: ReplicaState, authors: Iterable[ValidatorIndex]) -> frozenset[Address]:
    return frozenset(state.config.validators[author] for author in authors)
