"""The head of the chain, as a quorum of validators proves it (docs/spec/consensus.md, section 8).

A validator that lost its guard must know this before it signs, because its key may have voted on
the block after that head.
"""

from typing import Final

import trio

from chain.errors import RejectedInputError
from chain.primitives import Address, BlockNumber
from chain.types.validator_set import compute_quorum
from node.chain.executor import Executor
from node.network.peers import PeerInfo
from node.network.requests import BlockPeers
from node.network.stream import UnreachablePeerError
from node.storage.block_store import BlockStore

POLL_SECONDS: Final = 0.02
"""Interval of looking for newly connected validators."""


class ProvenHeads:
    """Collects the certified heads of validators."""

    def __init__(self, store: BlockStore, executor: Executor, peers: BlockPeers) -> None:
        self.known: frozenset[Address] = frozenset()
        """The validators that have proven their heads so far."""
        self._store = store
        self._executor = executor
        self._peers = peers

    async def wait_for_quorum(self, own_address: Address) -> BlockNumber:
        """The highest certified head of a quorum of validators, ours included; waits for it."""
        heads = {own_address: self._store.head_number()}
        while True:
            # Block sync may bring another validator set meanwhile.
            validators = self._store.next_validator_set().validators
            if len(heads.keys() & set(validators)) >= compute_quorum(len(validators)):
                return BlockNumber(max([self._store.head_number(), *heads.values()]))
            for peer in self._peers.peers():
                if peer.validator in validators and peer.validator not in heads:
                    head = await self._fetch_certified_head(peer)
                    if head is not None:
                        heads[peer.validator] = head
                        self.known = frozenset(heads)
            await trio.sleep(POLL_SECONDS)

    async def _fetch_certified_head(self, peer: PeerInfo) -> BlockNumber | None:
        """The head that a validator proves with a certificate; None if it does not.

        A head that is only claimed could be so high that this validator never signs again.
        """
        number = peer.head.number
        if number <= self._store.head_number():
            return number
        try:
            certified = await self._peers.request_blocks(peer.peer_id, number, 1)
            for block, certificate in certified:
                self._executor.verify_certificate(certificate, number, block.hash)
                return number
        except UnreachablePeerError:
            pass
        except RejectedInputError as error:
            # Further ahead the validator set may be another one; block sync will bring us there.
            if number == self._store.head_number() + 1:
                self._peers.report_fault(peer.peer_id, error)
        return None
