"""The transactions of an account that wait for a block, as a later command sees them."""

from dataclasses import dataclass

from chain.contracts.abi import ContractCall
from chain.contracts.calls import name_call
from chain.crypto import get_address
from chain.primitives import Address, PrivateKey
from chain.types.transaction import DYNAMIC_FEE_TYPE, Transaction, sign_transaction
from pot_common.gas_offer import GasOffer


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that signs transactions for one chain."""

    private_key: PrivateKey
    chain_id: int

    @property
    def account(self) -> Address:
        """The account of the key."""
        return get_address(self.private_key)

    def has_signed(self, transaction: Transaction) -> bool:
        """Whether this account signed a transaction for this chain."""
        return (transaction.sender, transaction.chain_id) == (self.account, self.chain_id)

    def sign(
        self, call: ContractCall, value: int, gas_limit: int, nonce: int, offer: GasOffer
    ) -> Transaction:
        """A transaction that makes a call and pays an offer."""
        return sign_transaction(
            self.private_key,
            chain_id=self.chain_id,
            nonce=nonce,
            max_fee_per_gas=offer.max_fee,
            max_priority_fee_per_gas=offer.tip,
            gas_limit=gas_limit,
            to=call.to,
            value=value,
            data=call.data,
        )

    def raise_price(self, transaction: Transaction, offer: GasOffer) -> Transaction | None:
        """The same transaction for another offer.

        None if it is of a type that this project does not sign, or creates a contract.
        """
        if transaction.type != DYNAMIC_FEE_TYPE or transaction.access_list:
            return None
        if transaction.to is None:
            return None
        call = ContractCall(transaction.to, transaction.data)
        limit, nonce = transaction.gas_limit, transaction.nonce
        return self.sign(call, transaction.value, limit, nonce, offer)


def is_same_call(transaction: Transaction, call: ContractCall, value: int) -> bool:
    """Whether a transaction makes this call and sends this value."""
    return (transaction.to, transaction.data, transaction.value) == (call.to, call.data, value)


def describe_waiting(transaction: Transaction) -> str:
    """A transaction in a few words, such as `cancelTask (nonce 4)`."""
    return f"{name_call(transaction.to, transaction.data)} (nonce {transaction.nonce})"
