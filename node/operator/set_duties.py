"""What an operator's node owes the validator set, in turn (docs/spec/contracts.md, section 8).

The genesis hash recorded, evidence reported, exits and the own join carried out. Each is asked
again at every look at the head's state, so no restart forgets one and nobody sends what is done.
"""

from dataclasses import dataclass
from typing import Final

import structlog
import trio

from chain.contracts.abi import decode_addresses, decode_hash, decode_uint
from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.validator_set import (
    ValidatorStatus,
    decode_proposal,
    encode_candidacy_of,
    encode_carry_out,
    encode_genesis_hash,
    encode_get_proposal,
    encode_next_validators,
    encode_record_genesis,
    encode_remove_exiting,
)
from chain.errors import RejectedInputError
from chain.hexadecimal import to_hex
from chain.primitives import ZERO_HASH, BlockNumber
from chain.training.rounds import TURN_BLOCKS
from node.chain.contract_reader import LedgerReader
from node.consensus.evidence_store import EvidenceStore
from node.operator.account import RESEND_BLOCKS, Operator
from node.storage.block_store import BlockStore

LOOK_SECONDS: Final = 2.0
"""Between two looks: a few calls of the contract, 2 ms each."""

CALL_GAS: Final = 6_000_000
"""A change of a set of 100 takes half of it."""

GENESIS_HASH_BLOCKS: Final = 8_191
"""EIP-2935: past this block the contract cannot read the genesis hash any more."""

BACKOFF_LIMIT: Final = 5
"""Resending doubles its interval so often at most: 6 blocks to 192."""

_log = structlog.get_logger("node.set_duties")


@dataclass(slots=True)
class _Sending:
    """A call that is due."""

    since: BlockNumber
    next_block: BlockNumber
    attempts: int = 0


class SetDuties:
    """Sends what the validator set waits for from one operator account."""

    def __init__(
        self,
        *,
        operator: Operator,
        ledger: LedgerReader,
        store: BlockStore,
        evidence: EvidenceStore,
        evidence_blocks: int,
    ) -> None:
        self._operator = operator
        self._ledger = ledger
        self._store = store
        self._evidence = evidence
        self._evidence_blocks = evidence_blocks
        self._sendings: dict[str, _Sending] = {}

    async def run(self) -> None:
        """Look, and send, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Send what is due now and whose turn is ours."""
        calls = await trio.to_thread.run_sync(self._list_calls)
        head = self._store.head_number()
        self._sendings = {
            name: self._sendings.get(name) or _Sending(head, self._find_turn(head))
            for name in calls
        }
        for name, data in calls.items():
            sending = self._sendings[name]
            if head < sending.next_block:
                continue
            sending.next_block = BlockNumber(
                head + (RESEND_BLOCKS << min(sending.attempts, BACKOFF_LIMIT))
            )
            sending.attempts += 1
            refusal = await trio.to_thread.run_sync(
                self._ledger.simulate, self._operator.address, VALIDATOR_SET, data, CALL_GAS
            )
            if refusal is not None:
                _log.info("not sent", call=name, reason=refusal)
                continue
            try:
                await self._operator.send(VALIDATOR_SET, data, CALL_GAS)
            except RejectedInputError as error:
                _log.warning("not sent", call=name, reason=str(error))
            else:
                _log.info("sent", call=name, attempt=sending.attempts)

    def _find_turn(self, head: BlockNumber) -> BlockNumber:
        """From which block on it is ours to send: operators go one after the other."""
        place = self._store.next_validator_set().find_operator(self._operator.address)
        return BlockNumber(head + TURN_BLOCKS * (place or 0))

    def _list_calls(self) -> dict[str, bytes]:
        """What the head's state asks for, by name."""
        calls = {}
        ask = self._ledger.ask_validator_set
        head = self._store.head_number()
        if 0 < head < GENESIS_HASH_BLOCKS and decode_hash(ask(encode_genesis_hash())) == ZERO_HASH:
            calls["record genesis"] = encode_record_genesis()
        for evidence in self._evidence.held():
            state = self._ledger.validator(evidence.validator)
            if state.stake == 0 or head > evidence.number + self._evidence_blocks:
                self._evidence.remove(evidence.validator)
                continue
            calls[f"report {to_hex(evidence.validator)}"] = evidence.data
        if decode_addresses(ask(encode_next_validators())):
            return calls  # no other change is possible before that one is in force
        for validator in self._store.next_validator_set().validators:
            if self._ledger.validator(validator).status is ValidatorStatus.EXITING:
                remove = encode_remove_exiting(validator)
                calls[f"remove {to_hex(validator)}"] = remove
        own = decode_uint(ask(encode_candidacy_of(self._operator.address)))
        if own:
            proposal = decode_proposal(ask(encode_get_proposal(own)))
            if proposal.votes >= self._store.next_validator_set().quorum:
                calls[f"join {own}"] = encode_carry_out(own)
        return calls
