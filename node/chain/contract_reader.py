"""Reads the system contracts at the head or after a final block (docs/spec/contracts.md, 3)."""

from dataclasses import dataclass
from typing import TypeVar

from chain.contracts import gradient_ledger
from chain.contracts.abi import ContractCall, ContractView
from chain.contracts.errors import decode_error
from chain.contracts.ledger_storage import read_participants
from chain.contracts.state_reader import StateReader
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import CallRequest
from chain.execution.evm import call
from chain.genesis import GenesisConfig
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.state.world_state import get_storage
from chain.types.header import Header
from chain.validation import compute_mix_hash
from node.chain.phase_cache import PhaseCache, TaskPhase
from node.clock import Clock
from node.storage.block_store import BlockStore
from node.storage.database import Database

T = TypeVar("T")
"""The type of an answer."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a call would do in the next block."""

    refusal: str | None
    """The reason why it would fail; None if it would succeed."""
    gas_used: int


class ContractReader:
    """Answers views of the system contracts, and simulates calls."""

    def __init__(
        self, store: BlockStore, database: Database, config: GenesisConfig, clock: Clock
    ) -> None:
        self._store = store
        self._database = database
        self._config = config
        self._clock = clock
        self._phases = PhaseCache()

    def head_number(self) -> BlockNumber:
        """The number of the head."""
        return self._store.head_number()

    def read(self, view: ContractView[T], block_number: BlockNumber | None = None) -> T:
        """The answer of a view.

        Args:
            view: The view.
            block_number: The final block after which it is read; None to read it as in the next
                block, on top of the head.

        Raises:
            InvalidAnswerError: The contract failed, or its answer has other types.
            MissingTrieNodeError: The block's state is not in the database.
        """
        if block_number is None:
            head = self._store.head()
            environment = self._build_next_environment(head)
            return StateReader(self._database, head.state_root, environment).read(view)
        header = self._store.header(block_number)
        assert header is not None, "asked of final blocks only"
        return StateReader.at(self._database, header, self._config.chain_id).read(view)

    def phase(self, task_id: TaskId) -> TaskPhase:
        """The phase of a task in the next block, and its deadline."""
        moment = (self._store.head_number(), self._clock.now_ms() // 1000)
        phase = self._phases.find(task_id, moment)
        if phase is None:
            phase = (
                self.read(gradient_ledger.phase(task_id)),
                self.read(gradient_ledger.deadline(task_id)),
            )
            self._phases.keep(task_id, moment, phase)
        return phase

    def participants(
        self, task_id: TaskId, open_block: BlockNumber, ordinal: int
    ) -> tuple[tuple[Address, int], ...]:
        """The miners of an attempt that opened in `open_block` and their units, by address.

        They are read from storage slots: the view of the contract takes half a second for 1 024
        seats, in the thread of consensus.
        """
        header = self._store.header(open_block)
        assert header is not None, "asked of final blocks only"

        def read(contract: Address, slot: int) -> int:
            return get_storage(self._database, header.state_root, contract, slot)

        return read_participants(read, task_id, ordinal)

    def mix_hash_after(self, number: BlockNumber) -> Hash32:
        """The mix hash of the child of a final block, which depends only on the block."""
        header = self._store.header(number)
        assert header is not None, "asked of final blocks only"
        return compute_mix_hash(header)

    def simulate(self, sender: Address, wanted: ContractCall, gas_limit: int) -> str | None:
        """The reason why a call would fail in the next block; None if it would succeed."""
        return self.examine(sender, wanted, gas_limit).refusal

    def examine(self, sender: Address, wanted: ContractCall, gas_limit: int) -> Examination:
        """What a call would do in the next block."""
        head = self._store.head()
        request = CallRequest(to=wanted.to, data=wanted.data, sender=sender, gas_limit=gas_limit)
        result = call(self._database, head.state_root, self._build_next_environment(head), request)
        if result.is_success:
            return Examination(None, result.gas_used)
        error = decode_error(result.output)
        return Examination(result.error if error is None else error.name, result.gas_used)

    def next_moment(self) -> tuple[BlockNumber, int]:
        """The number and the timestamp of the next block, as calls read them now."""
        environment = self._build_next_environment(self._store.head())
        return environment.number, environment.timestamp

    def _build_next_environment(self, head: Header) -> BlockEnvironment:
        now = self._clock.now_ms() // 1000
        return BlockEnvironment.after(head, self._config, coinbase=head.coinbase, timestamp=now)
