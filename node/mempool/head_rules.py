"""Checks transactions for the mempool at the head (docs/spec/state-transition.md, section 4)."""

from functools import partial
from typing import Final

from chain.contracts import ledger_storage
from chain.contracts.abi import SELECTOR_BYTES, WORD_BYTES, ContractCall
from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.calls import CallKind, decode_task_id, identify_call
from chain.errors import InvalidTransaction, RejectionReason
from chain.genesis import GenesisConfig
from chain.primitives import Address, TaskId
from chain.state.world_state import WorldState, get_storage
from chain.types.transaction import Transaction
from chain.validation import (
    compute_next_base_fee,
    is_delegation,
    validate_outline,
    validate_transaction,
)
from node.chain.contract_reader import ContractReader, Examination
from node.mempool.examination import ExaminationGas
from node.mempool.policy import Priority, Subject
from node.storage.block_store import BlockStore
from node.storage.database import Database
from pot_common.gas_offer import COMMITMENT_GAS_LIMIT

OPERATOR_GAS_LIMIT: Final = 9_000_000
"""The most gas of an operator's call with priority. To impose the fines of sixteen frauds that 100
validators accuse of takes 6.7 million, a change of a set of 100 validators 3 million."""

OPERATOR_DATA_LIMIT_BYTES: Final = 16_384
"""The most call data of an operator's call with priority: sixteen fines with their proofs need less
than 12 000 bytes."""

LEAST_COMMITMENT_GAS: Final = 200_000
"""The least gas limit of a commitment with priority: one takes 155 000 if it is the last, and two
misses of its miner are charged with it. So the ledger refuses none because of its gas."""

COMMITMENT_DATA_LIMIT_BYTES: Final = 512
"""The most call data of a commitment with priority: it needs less than half of it."""

COMMITMENT_WORDS: Final = 5
"""The task, the round, the attempt, the units and the commitment."""


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
        self._commitments: tuple[bytes, dict[tuple[TaskId, Address], bool]] = (b"", {})
        """At a state root, the miners whose commitments the ledger executed in a task, and whether
        it accepted them. They take part in an attempt, so seats bound their number."""
        self._examination = ExaminationGas()

    def validate_outline(self, raw: bytes) -> None:
        """Refuse an encoded transaction that is not worth decoding.

        Raises:
            InvalidTransaction: The gas limit cannot pay for the data and the lists.
        """
        validate_outline(raw, self._config)

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
                base_fee_per_gas=self.base_fee(),
                gas_available=head.gas_limit,
            )
        except InvalidTransaction as error:
            is_early = error.reason is RejectionReason.NONCE_TOO_HIGH
            if not is_early or transaction.nonce == 2**64 - 1:
                raise

    def nonce(self, sender: Address) -> int:
        """The next nonce of an account."""
        return self._view().get_nonce(sender)

    def base_fee(self) -> int:
        """The base fee of the next block, in wei for a unit of gas."""
        return compute_next_base_fee(self._store.head(), self._config.parameters)

    def balance(self, sender: Address) -> int:
        """The balance of an account, in wei."""
        return self._view().get_balance(sender)

    def is_delegated(self, account: Address) -> bool:
        """Whether an account delegates to code (EIP-7702)."""
        return is_delegation(self._view().get_code(account))

    def find_subject(self, transaction: Transaction) -> Subject | None:
        """The subject of a vote or duty of an operator, or of a commitment of a miner.

        None for any other call, for one that sends coins, for one with more gas, data or lists than
        it can need, and for a commitment with less gas than it may need, or of an account that
        takes part neither in the attempt in progress nor in the next.
        """
        kind, beginning = identify_call(transaction.to, transaction.data)
        has_lists = transaction.access_list or transaction.authorization_list
        if beginning is None or transaction.value or has_lists:
            return None
        task_id = decode_task_id(transaction.data)
        is_allowed, priority = False, Priority.OPERATOR_VOTE
        match kind:
            case CallKind.OPERATOR_VOTE | CallKind.OPERATOR_DUTY:
                is_allowed = (
                    transaction.gas_limit <= OPERATOR_GAS_LIMIT
                    and len(transaction.data) <= OPERATOR_DATA_LIMIT_BYTES
                    and self._is_operator(transaction.sender)
                )
            case CallKind.COMMITMENT if task_id is not None:
                priority = Priority.COMMITMENT
                is_allowed = (
                    LEAST_COMMITMENT_GAS <= transaction.gas_limit <= COMMITMENT_GAS_LIMIT
                    and len(transaction.data) <= COMMITMENT_DATA_LIMIT_BYTES
                    and ledger_storage.may_commit(self._read_slot(), task_id, transaction.sender)
                )
            case CallKind.COMMITMENT | CallKind.OTHER:
                pass
        if not is_allowed:
            return None
        if task_id is None or transaction.to == VALIDATOR_SET:
            task_id = TaskId(0)
        has_argument = len(beginning) > len(VALIDATOR_SET) + SELECTOR_BYTES
        has_common_turn = transaction.to == VALIDATOR_SET and has_argument
        return Subject(task_id, priority, beginning, has_common_turn)

    def classify(self, transaction: Transaction) -> Priority:
        """The priority of a transaction that has a subject.

        The call is executed on the head's state: the contracts alone know what they expect in
        this phase, and from which sender. A call that they refuse has no priority, so a sender
        cannot repeat it. Commitments that are not due are found in the ledger's storage, which
        takes a tenth of the time. So of commitments, only those of the attempt's participants are
        executed, and one of each at a head: whether one is due does not depend on the gradient.
        """
        if not self.is_examinable(transaction):
            return Priority.ORDINARY
        kind, _ = identify_call(transaction.to, transaction.data)
        if kind is not CallKind.COMMITMENT:
            examined = self._examine(transaction)
            is_accepted = examined.refusal is None
            gas = examined.gas_used
            self._begin_examination().count(transaction.sender, gas, is_accepted=is_accepted)
            return Priority.OPERATOR_VOTE if is_accepted else Priority.ORDINARY
        task_id = decode_task_id(transaction.data)
        assert task_id is not None, "such a commitment is not examinable"
        known, miner = self._list_commitments(), (task_id, transaction.sender)
        if miner not in known:
            known[miner] = self._examine(transaction).refusal is None
        return Priority.COMMITMENT if known[miner] else Priority.ORDINARY

    def is_examinable(self, transaction: Transaction) -> bool:
        """Whether the contracts may accept a transaction that has a subject.

        Not if the ledger's storage shows that a commitment is not due, or if the operator owes too
        much gas.
        """
        kind, _ = identify_call(transaction.to, transaction.data)
        if kind is not CallKind.COMMITMENT:
            return self._begin_examination().may_examine(transaction.sender, transaction.gas_limit)
        task_id = decode_task_id(transaction.data)
        return task_id is not None and self._is_expected(task_id, transaction)

    def _examine(self, transaction: Transaction) -> Examination:
        assert transaction.to is not None
        call = ContractCall(transaction.to, transaction.data)
        return self._contracts.examine(transaction.sender, call, transaction.gas_limit)

    def _begin_examination(self) -> ExaminationGas:
        operator_count = len(self._store.next_validator_set().operators)
        self._examination.begin_block(self._store.head_number(), operator_count)
        return self._examination

    def _list_commitments(self) -> dict[tuple[TaskId, Address], bool]:
        state_root = self._store.head().state_root
        if self._commitments[0] != state_root:
            self._commitments = (state_root, {})
        return self._commitments[1]

    def _is_expected(self, task_id: TaskId, transaction: Transaction) -> bool:
        arguments = transaction.data[SELECTOR_BYTES:]
        words = [arguments[at : at + WORD_BYTES] for at in range(0, len(arguments), WORD_BYTES)]
        if len(arguments) < COMMITMENT_WORDS * WORD_BYTES:
            return False
        round_number, attempt_number, units = (int.from_bytes(each, "big") for each in words[1:4])
        place = (round_number, attempt_number, units)
        moment = self._contracts.next_moment()
        return ledger_storage.is_commitment_expected(
            self._read_slot(), task_id, transaction.sender, place, moment
        )

    def _read_slot(self) -> ledger_storage.ReadSlot:
        # Read without the cache of `_view`, which the senders of commitments could make grow.
        return partial(get_storage, self._database, self._store.head().state_root)

    def _is_operator(self, account: Address) -> bool:
        return account in self._store.next_validator_set().operators

    def _view(self) -> WorldState:
        state_root = self._store.head().state_root
        if self._world is None or self._world[0] != state_root:
            self._world = (state_root, WorldState(self._database, state_root))
        return self._world[1]
