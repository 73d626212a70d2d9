"""Which accounts may delegate to code while transactions wait (docs/spec/wire.md, section 5).

Anyone may empty a delegated account, if its code lets them. So many transactions of it that wait
can become worthless through one that is paid.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from chain.errors import InvalidTransaction, RejectionReason
from chain.primitives import Address
from chain.types.transaction import Transaction, recover_authority
from node.mempool.entries import Queue
from node.mempool.policy import HeadRules

AUTHORIZATIONS_LIMIT: Final = 16
"""The most authorizations of a transaction in the pool: to recover their signers takes 0.1 ms each.
"""


class PendingAuthorizations:
    """Counts the waiting authorizations of each account.

    Args:
        rules: The chain's rules and accounts at the head.
    """

    def __init__(self, rules: HeadRules) -> None:
        self._rules = rules
        self._counts: Counter[Address] = Counter()

    def recover(self, transaction: Transaction) -> tuple[Address, ...]:
        """The accounts that a transaction may make delegate, now or later.

        An authorization of another chain or with an old nonce does not count: anyone may repeat it.

        Raises:
            InvalidTransaction: TOO_MANY_AUTHORIZATIONS.
        """
        if len(transaction.authorization_list) > AUTHORIZATIONS_LIMIT:
            raise InvalidTransaction(
                RejectionReason.TOO_MANY_AUTHORIZATIONS,
                f"{len(transaction.authorization_list)}, limit {AUTHORIZATIONS_LIMIT}",
            )
        authorities: dict[Address, None] = {}
        for each in transaction.authorization_list:
            if each.chain_id not in (0, transaction.chain_id):
                continue
            authority = recover_authority(each)
            if authority is not None and each.nonce >= self._rules.nonce(authority):
                authorities[authority] = None
        return tuple(authorities)

    def check(
        self, transaction: Transaction, queue: Queue, queues: Mapping[Address, Queue]
    ) -> tuple[Address, ...]:
        """Refuse a second transaction of an account that may delegate; the new authorities.

        Args:
            transaction: A transaction that may enter the pool.
            queue: The queue of its sender.
            queues: The queues of all senders.

        Raises:
            InvalidTransaction: DELEGATED_ACCOUNT or TOO_MANY_AUTHORIZATIONS.
        """
        sender = transaction.sender
        others_count = len(queue.entries.keys() - {transaction.nonce})
        is_next = transaction.nonce == queue.nonce and not others_count
        if not is_next and self.may_delegate(sender):
            raise InvalidTransaction(RejectionReason.DELEGATED_ACCOUNT, "it may delegate to code")
        authorities = self.recover(transaction)
        for authority in authorities:
            held = queues.get(authority)
            if authority == sender:
                count = others_count + 1
            else:
                count = 0 if held is None else len(held.entries)
            if count > 1:
                raise InvalidTransaction(
                    RejectionReason.DELEGATED_ACCOUNT, "authority already has transactions"
                )
        return authorities

    def may_delegate(self, account: Address) -> bool:
        """Whether an account delegates, or does after a waiting transaction."""
        return account in self._counts or self._rules.is_delegated(account)

    def add(self, authorities: Iterable[Address]) -> None:
        """Count the authorizations of a transaction that enters the pool."""
        self._counts.update(authorities)

    def remove(self, authorities: Iterable[Address]) -> None:
        """Count those of a transaction that leaves the pool no longer."""
        for authority in authorities:
            self._counts[authority] -= 1
            if not self._counts[authority]:
                del self._counts[authority]
