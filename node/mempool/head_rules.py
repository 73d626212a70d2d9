"""Checks transactions for the mempool at the head (docs/spec/state-transition.md, section 4)."""

from chain.contracts import gradient_ledger
from chain.contracts.calls import CallKind, classify_call, decode_task_id
from chain.errors import InvalidTransaction, RejectionReason
from chain.genesis import GenesisConfig
from chain.primitives import Address, TaskId
from chain.state.world_state import WorldState
from chain.types.transaction import Transaction
from chain.validation import compute_next_base_fee, validate_transaction
from node.chain.contract_reader import ContractReader
from node.mempool.pool import Priority
from node.storage.block_store import BlockStore
from node.storage.database import Database


class HeadRules:
    """The rules of the mempool, applied to the state of the latest final block."""

    def __init__(
        self,
        *,
        store: BlockStore,
        database: Database,
        config: GenesisConfig,
        contracts: ContractReader,
    ) -> None:
        self._store = store
        self._database = database
        self._config = config
        self._contracts = contracts
        self._world: tuple[bytes, WorldState] | None = None

    def validate(self, transaction: Transaction) -> None:
        """Accept a transaction that could be included once its nonce is due.

        Raises:
            InvalidTransaction: The transaction could never be included at the head.
        """
        head = self._store.head()
        try:
            validate_transaction(
                transaction,
                self._view(),
                self._config,
                base_fee_per_gas=compute_next_base_fee(head, self._config),
                gas_available=head.gas_limit,
            )
        except InvalidTransaction as error:
            is_early = error.reason is RejectionReason.NONCE_TOO_HIGH
            if not is_early or transaction.nonce == 2**64 - 1:
                raise

    def nonce(self, sender: Address) -> int:
        """The next nonce of an account."""
        return self._view().get_nonce(sender)

    def balance(self, sender: Address) -> int:
        """The balance of an account, in wei."""
        return self._view().get_balance(sender)

    def classify(self, transaction: Transaction) -> Priority:
        """The priority of a transaction.

        Only calls by operators of the validator set and by registered miners have a higher one.
        """
        match classify_call(transaction.to, transaction.data):
            case CallKind.OPERATOR_VOTE if self._is_operator(transaction.sender):
                return Priority.OPERATOR_VOTE
            case CallKind.COMMITMENT:
                task_id = decode_task_id(transaction.data)
                if task_id is not None and self._is_miner(task_id, transaction.sender):
                    return Priority.COMMITMENT
            case CallKind.OPERATOR_VOTE | CallKind.OTHER:
                pass
        return Priority.ORDINARY

    def _is_miner(self, task_id: TaskId, account: Address) -> bool:
        return self._contracts.read(gradient_ledger.get_miner(task_id, account)).units > 0

    def _is_operator(self, account: Address) -> bool:
        return account in self._store.next_validator_set().operators

    def _view(self) -> WorldState:
        state_root = self._store.head().state_root
        if self._world is None or self._world[0] != state_root:
            self._world = (state_root, WorldState(self._database, state_root))
        return self._world[1]
