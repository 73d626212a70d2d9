"""Transactions of a miner, whose effect is proven (docs/spec/rpc.md, section 9).

A receipt is the word of a node. What a transaction was to do is therefore read in a proven state
afterwards: only that tells whether it succeeded.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts import ledger_storage
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import MINER_SEATS, REWARD_DISTRIBUTOR
from chain.contracts.ledger_storage import ReadSlot, StoredSeat
from chain.primitives import Address, PrivateKey, TaskId
from miner.client import FailoverClient
from miner.light import LightClient
from miner.nodes import DishonestNodeError
from pot_common.rpc_client import RevertedError
from pot_common.rpc_replies import ClientError

PROOF_TRIES: Final = 10
"""How often the state after a transaction is asked for: some nodes may be a few blocks behind."""

PROOF_RETRY_SECONDS: Final = 0.3
"""The pause between two tries; a node that is a block behind catches up in about this."""


@dataclass(frozen=True, slots=True)
class MinerIdentity:
    """The account that mines, and the chain it mines on."""

    private_key: PrivateKey
    address: Address
    chain_id: int


@dataclass(frozen=True, slots=True)
class Effect:
    """What a transaction changes in the state, once it has succeeded."""

    reads: Mapping[Address, Sequence[int]]
    """The slots that show it."""
    is_seen: Callable[[ReadSlot], bool]
    """Whether these slots show it."""


def change_of_seat(task: TaskId, miner: Address, is_seen: Callable[[StoredSeat], bool]) -> Effect:
    """The effect of a transaction on the sender's seat in a task."""
    reads = {MINER_SEATS: ledger_storage.list_seat_slots(task, miner)}
    return Effect(reads, lambda read: is_seen(ledger_storage.read_seat(read, task, miner)))


def claim_of(task: TaskId, account: Address, cumulative: int) -> Effect:
    """The effect of a claim of what an account has earned in a task so far."""
    slot = ledger_storage.find_claimed_slot(task, account)
    return Effect(
        {REWARD_DISTRIBUTOR: (slot,)}, lambda read: read(REWARD_DISTRIBUTOR, slot) >= cumulative
    )


class Transactor:
    """Sends the transactions of one account to all nodes, and proves that they succeeded."""

    def __init__(self, client: FailoverClient, light: LightClient, identity: MinerIdentity) -> None:
        self._client = client
        self._light = light
        self._identity = identity

    def transact(self, call: ContractCall, effect: Effect | None = None) -> None:
        """Have a call included in a block, and prove its effect.

        Args:
            call: The call.
            effect: What it changes. Without one, the chain only proves that it is in a block.

        Raises:
            RevertedError: It is in a block and without effect.
            RpcCallError: It would revert, or the nodes refused it.
            ClientError: It is in no block, or no node answers.
        """
        identity = self._identity
        try:
            self._client.transact(identity.private_key, call, chain_id=identity.chain_id)
        except RevertedError:
            if effect is None or not self._is_proven(effect):
                raise
            return
        if effect is not None and not self._is_proven(effect):
            # Another node is asked next, because this one's receipt may be false.
            self._client.rotate()
            raise RevertedError(
                "a transaction is in a block, and the state does not show that it succeeded"
            )

    def _is_proven(self, effect: Effect) -> bool:
        """Whether the state shows an effect, at the highest block that was proven or later.

        Raises:
            ClientError: No node proves the state of such a block.
        """
        highest = self._light.highest
        for _ in range(PROOF_TRIES):
            try:
                header, state = self._light.read(effect.reads)
            except DishonestNodeError as error:
                self._client.drop(error)
                continue
            if header.number >= highest:
                return effect.is_seen(state.get_storage)
            self._client.rotate()
            time.sleep(PROOF_RETRY_SECONDS)
        raise ClientError(f"no node proves the state of block {highest} yet")
