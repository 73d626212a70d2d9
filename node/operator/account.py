"""The operator's account: it signs and submits this validator's transactions.

The consensus key signs consensus messages only, so votes on tasks and on validators come from an
Ethereum account of their own.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from chain.contracts.abi import ContractCall
from chain.crypto import get_address
from chain.genesis import GenesisConfig
from chain.hexadecimal import to_hex
from chain.primitives import Address, PrivateKey
from chain.types.transaction import sign_transaction
from chain.types.validator_set import ValidatorSet
from chain.validation import compute_next_base_fee
from node.mempool.intake import Pool
from node.mempool.pool import Mempool
from node.storage.block_store import BlockStore
from pot_common.errors import OperatorError

RESEND_BLOCKS: Final = 6
"""A transaction that no block includes for this long is sent again."""

PRIORITY_FEE_WEI: Final = 1_000_000_000
"""The priority fee of an operator's transaction; 0 on a network with a base fee of 0."""


@dataclass(frozen=True, slots=True)
class Operator:
    """The account that votes for this validator."""

    address: Address
    send: Callable[[ContractCall, int], Awaitable[None]]
    """Signs and submits a call with a gas limit, or raises RejectedInputError."""


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
        """Sign a call and submit it to the pool.

        Raises:
            RejectedInputError: The pool refuses it.
        """
        async with self._turn:
            base_fee = compute_next_base_fee(self._store.head(), self._config.parameters)
            tip = PRIORITY_FEE_WEI if base_fee else 0
            transaction = sign_transaction(
                self._private_key,
                chain_id=self._config.chain_id,
                nonce=self._mempool.pending_nonce(self.address),
                max_priority_fee_per_gas=tip,
                max_fee_per_gas=2 * base_fee + tip,
                gas_limit=gas_limit,
                to=call.to,
                value=0,
                data=call.data,
            )
            await self._pool.submit(transaction.raw)


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
