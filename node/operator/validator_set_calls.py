"""The calls that keep the validator set contract up to date (docs/spec/contracts.md, section 8).

They record the genesis hash, report evidence, and carry out exits and this operator's own join.
The operators take turns. The due calls are derived from the head's state each time, so no restart
forgets one and no finished one is sent again.
"""

from dataclasses import dataclass
from typing import Final

import structlog
import trio

from chain.contracts import validator_set
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.validator_set import ValidatorStatus
from chain.errors import RejectedInputError
from chain.hexadecimal import to_hex
from chain.primitives import ZERO_HASH, BlockNumber
from chain.training.rounds import TURN_BLOCKS
from node.chain.contract_reader import ContractReader
from node.consensus.evidence_store import EvidenceStore
from node.operator.account import RESEND_BLOCKS, Operator
from node.storage.block_store import BlockStore

CHECK_SECONDS: Final = 2.0
"""The time between two checks; each makes a few calls of the contract, 2 ms each."""

CALL_GAS: Final = 6_000_000
"""The gas limit of a call; a change of a set of 100 validators takes half of it."""

GENESIS_HASH_BLOCKS: Final = 8_191
"""EIP-2935: after this block the contract can no longer read the genesis hash."""

BACKOFF_LIMIT: Final = 5
"""How many times the wait before sending a call again doubles at most: from 6 blocks to 192."""

_log = structlog.get_logger("node.operator")


@dataclass(slots=True)
class _Sending:
    """When a due call was first seen, and when to send it next."""

    since: BlockNumber
    next_block: BlockNumber
    attempts: int = 0


class ValidatorSetCalls:
    """Sends the due calls from one operator account."""

    def __init__(
        self,
        *,
        operator: Operator,
        contracts: ContractReader,
        store: BlockStore,
        evidence: EvidenceStore,
        evidence_blocks: int,
    ) -> None:
        self._operator = operator
        self._contracts = contracts
        self._store = store
        self._evidence = evidence
        self._evidence_blocks = evidence_blocks
        self._sendings: dict[str, _Sending] = {}

    async def run(self) -> None:
        """Send due calls until cancelled."""
        while True:
            await self.send_due()
            await trio.sleep(CHECK_SECONDS)

    async def send_due(self) -> None:
        """Send the calls that are due now, if it is this operator's turn."""
        calls = await trio.to_thread.run_sync(self._list_calls)
        head = self._store.head_number()
        self._sendings = {
            name: self._sendings.get(name) or _Sending(head, self._find_turn(head))
            for name in calls
        }
        for name, call in calls.items():
            sending = self._sendings[name]
            if head < sending.next_block:
                continue
            sending.next_block = BlockNumber(
                head + (RESEND_BLOCKS << min(sending.attempts, BACKOFF_LIMIT))
            )
            sending.attempts += 1
            refusal = await trio.to_thread.run_sync(
                self._contracts.simulate, self._operator.address, call, CALL_GAS
            )
            if refusal is not None:
                _log.info("operator call would revert", call=name, reason=refusal)
                continue
            try:
                await self._operator.send(call, CALL_GAS)
            except RejectedInputError as error:
                _log.warning("operator call refused by the pool", call=name, reason=str(error))
            else:
                _log.info("operator call sent", call=name, attempt=sending.attempts)

    def _find_turn(self, head: BlockNumber) -> BlockNumber:
        """The block from which this operator sends: TURN_BLOCKS later for each one before it."""
        place = self._store.next_validator_set().find_operator(self._operator.address)
        return BlockNumber(head + TURN_BLOCKS * (place or 0))

    def _list_calls(self) -> dict[str, ContractCall]:
        """The due calls at the head's state, by name."""
        calls = {}
        read = self._contracts.read
        head = self._store.head_number()
        if 0 < head < GENESIS_HASH_BLOCKS and read(validator_set.genesis_hash()) == ZERO_HASH:
            calls["record genesis"] = validator_set.record_genesis()
        for evidence in self._evidence.held():
            state = read(validator_set.get_validator(evidence.validator))
            if state.stake == 0 or head > evidence.number + self._evidence_blocks:
                self._evidence.remove(evidence.validator)
                continue
            calls[f"report {to_hex(evidence.validator)}"] = ContractCall(
                VALIDATOR_SET, evidence.data
            )
        if read(validator_set.next_validators()):
            return calls  # no other change is possible until the scheduled one is in force
        for validator in self._store.next_validator_set().validators:
            state = read(validator_set.get_validator(validator))
            if state.status is ValidatorStatus.EXITING:
                calls[f"remove {to_hex(validator)}"] = validator_set.remove_exiting(validator)
        own = read(validator_set.candidacy_of(self._operator.address))
        if own:
            proposal = read(validator_set.get_proposal(own))
            if proposal.votes >= proposal.needed:
                calls[f"join {own}"] = validator_set.carry_out(own)
        return calls
