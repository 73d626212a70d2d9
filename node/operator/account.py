"""The operator's account: it signs and submits this validator's transactions.

The consensus key signs consensus messages only, so votes on tasks and on validators come from an
Ethereum account of their own. A call waits for all earlier ones of the account, so what waits is
replaced with a higher fee when the base fee has risen, or when the call is sent again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from chain.contracts.abi import ContractCall
from chain.contracts.calls import CallKind, identify_call
from chain.crypto import get_address
from chain.errors import RejectedInputError
from chain.genesis import GenesisConfig
from chain.hexadecimal import to_hex
from chain.primitives import Address, PrivateKey
from chain.types.transaction import Transaction, sign_transaction
from chain.types.validator_set import ValidatorSet
from chain.validation import compute_next_base_fee
from node.mempool.intake import Pool
from node.mempool.pool import Mempool
from node.storage.block_store import BlockStore
from pot_common.errors import OperatorError
from pot_common.gas_offer import GasOffer

RESEND_BLOCKS: Final = 6
"""A transaction that no block includes for this long is sent again."""

PRIORITY_FEE_WEI: Final = 1_000_000_000
"""The priority fee of an operator's transaction; 0 on a network with a base fee of 0. Votes need no
high one: they go before what others send."""

_log = structlog.get_logger("node.operator")


@dataclass(frozen=True, slots=True)
class Operator:
    """The account that votes for this validator."""

    address: Address
    send: Callable[[ContractCall, int], Awaitable[None]]
    """Signs and submits a call with a gas limit, or raises RejectedInputError. A call that waits
    for a block already is not sent twice."""


class OperatorAccount:
    """Signs the operator's calls with nonces in order."""

    def __init__(
        self,
        private_key: PrivateKey,
        config: GenesisConfig,
        store: BlockStore,
        pool: Pool,
        mempool: Mempool,
    ) -> None:
        self.address = get_address(private_key)
        self._private_key = private_key
        self._config = config
        self._store = store
        self._pool = pool
        self._mempool = mempool
        self._turn = trio.Lock()

    async def send(self, call: ContractCall, gas_limit: int) -> None:
        """Sign a call and submit it to the pool; raise the fees of calls that wait before it.

        A call on the subject of one that waits takes its place with a higher fee, as long as that
        may be raised. After that, and where gas is free, an equal call goes on waiting, and another
        call takes its place only if the contracts would refuse the one that waits.

        Raises:
            RejectedInputError: The pool refuses the call.
        """
        async with self._turn:
            offer = self._compute_offer()
            pending = self._mempool.pending(self.address)
            held = next((each for each in pending if _is_same_subject(each, call)), None)
            if held is None:
                nonce = self._mempool.pending_nonce(self.address)
                await self._submit(call, gas_limit, nonce, offer)
            elif offer.is_above(held) or offer.may_raise_tip(held):
                await self._replace(held, call, gas_limit, offer)
            elif call.data != held.data:
                await self._submit(call, gas_limit, held.nonce, offer)
            # The new call was submitted first, because the pool asks the contracts about few calls
            # of a sender in a block.
            for each in pending:
                if each is not held and _is_from_node(each) and offer.is_above(each):
                    assert each.to is not None
                    await self._replace(
                        each, ContractCall(each.to, each.data), each.gas_limit, offer
                    )

    def _compute_offer(self) -> GasOffer:
        """What a new call pays: it can be included while the base fee doubles."""
        base_fee = compute_next_base_fee(self._store.head(), self._config.parameters)
        tip = PRIORITY_FEE_WEI if base_fee else 0
        return GasOffer(2 * base_fee + tip, tip)

    async def _replace(
        self, held: Transaction, call: ContractCall, gas_limit: int, offer: GasOffer
    ) -> None:
        """Replace a transaction in the pool.

        If the pool refuses, for example for a low balance, the old one goes on waiting.
        """
        try:
            await self._submit(call, gas_limit, held.nonce, offer.raise_above(held))
        except RejectedInputError as error:
            _log.warning(
                "fee of an operator's call not raised", nonce=held.nonce, reason=str(error)
            )

    async def _submit(
        self, call: ContractCall, gas_limit: int, nonce: int, offer: GasOffer
    ) -> None:
        transaction = sign_transaction(
            self._private_key,
            chain_id=self._config.chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=offer.tip,
            max_fee_per_gas=offer.max_fee,
            gas_limit=gas_limit,
            to=call.to,
            value=0,
            data=call.data,
        )
        await self._pool.submit(transaction.raw)


def _is_from_node(transaction: Transaction) -> bool:
    """Whether a transaction is a vote or duty, which the node sends, not the operator."""
    kind, _ = identify_call(transaction.to, transaction.data)
    return kind in (CallKind.OPERATOR_VOTE, CallKind.OPERATOR_DUTY) and not transaction.value


def _is_same_subject(held: Transaction, call: ContractCall) -> bool:
    if (held.to, held.data) == (call.to, call.data):
        return True
    _, subject = identify_call(call.to, call.data)
    return subject is not None and identify_call(held.to, held.data)[1] == subject


def check_operator(
    account: OperatorAccount, validator: Address | None, validator_set: ValidatorSet
) -> Operator:
    """The account as the operator of this node's validator.

    Raises:
        OperatorError: There is no validator, or its operator is another account.
    """
    if validator is None:
        raise OperatorError("operator.key_file is set without consensus.key_file: set both or none")
    if validator in validator_set.validators:
        expected = validator_set.operators[validator_set.validators.index(validator)]
        if expected != account.address:
            raise OperatorError(
                f"operator.key_file holds {to_hex(account.address)}, but the operator of this "
                f"validator is {to_hex(expected)}: set it to that account's key"
            )
    return Operator(account.address, account.send)
