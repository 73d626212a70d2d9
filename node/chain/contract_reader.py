"""What the training host asks the system contracts, at the head (docs/spec/contracts.md)."""

from chain.contracts.abi import decode_uint
from chain.contracts.addresses import GRADIENT_LEDGER, TASK_REGISTRY, VALIDATOR_SET
from chain.contracts.errors import decode_error
from chain.contracts.gradient_ledger import (
    Phase,
    decode_deadline,
    decode_miner,
    decode_participants,
    encode_deadline,
    encode_get_miner,
    encode_participants,
    encode_phase,
)
from chain.contracts.task_registry import TaskTerms, decode_terms, encode_get_terms
from chain.contracts.validator_set import ValidatorState, decode_validator, encode_get_validator
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import CallRequest, CallResult
from chain.execution.evm import call
from chain.genesis import GenesisConfig
from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.types.header import Header
from chain.validation import compute_mix_hash
from node.clock import Clock
from node.storage.block_store import BlockStore
from node.storage.database import Database


class LedgerReader:
    """Calls of the predeployed contracts on a state of the chain."""

    def __init__(
        self, store: BlockStore, database: Database, config: GenesisConfig, clock: Clock
    ) -> None:
        self._store = store
        self._database = database
        self._config = config
        self._clock = clock
        self._phases: dict[TaskId, tuple[tuple[BlockNumber, int], tuple[Phase, int]]] = {}

    def head_number(self) -> BlockNumber:
        """The number of the head."""
        return self._store.head_number()

    def phase(self, task_id: TaskId) -> tuple[Phase, int]:
        """The phase as the next block will find it, and when it ends (seconds; 0 for never).

        Asked once a block and second: the contracts see no finer time, and a call takes 3 ms.
        """
        moment = (self._store.head_number(), self._clock.now_ms() // 1000)
        known = self._phases.get(task_id)
        if known is None or known[0] != moment:
            known = self._phases[task_id] = (moment, self._ask_phase(task_id))
        return known[1]

    def _ask_phase(self, task_id: TaskId) -> tuple[Phase, int]:
        phase = self._call(GRADIENT_LEDGER, encode_phase(task_id))
        deadline = self._call(GRADIENT_LEDGER, encode_deadline(task_id))
        return (
            Phase(decode_uint(phase)),
            decode_deadline(deadline).timestamp,
        )

    def terms(self, task_id: TaskId) -> TaskTerms:
        """The terms that the registry holds."""
        data = self._call(TASK_REGISTRY, encode_get_terms(task_id))
        return decode_terms(data)

    def participants(
        self, task_id: TaskId, open_block: BlockNumber
    ) -> tuple[tuple[Address, int], ...]:
        """Who takes part in an attempt that opened in `open_block`, by ascending address."""
        header = self._store.header(open_block)
        assert header is not None, "an attempt opens in a final block"
        data = self._call(GRADIENT_LEDGER, encode_participants(task_id), header)
        participants = decode_participants(data)
        return tuple((each.miner, each.units) for each in participants)

    def is_registered(self, task_id: TaskId, miner: Address) -> bool:
        """Whether an account is registered as a miner of a task."""
        data = self._call(GRADIENT_LEDGER, encode_get_miner(task_id, miner))
        return decode_miner(data).units > 0

    def ask_validator_set(self, data: bytes) -> bytes:
        """The answer of a view of the validator set, for the next block."""
        return self._call(VALIDATOR_SET, data)

    def validator(self, validator: Address) -> ValidatorState:
        """A validator's account; of status NONE if it never was one."""
        data = self._call(VALIDATOR_SET, encode_get_validator(validator))
        return decode_validator(data)

    def mix_hash_after(self, number: BlockNumber) -> Hash32:
        """The mix hash of the child of a final block; it follows from the block."""
        header = self._store.header(number)
        assert header is not None, "asked of final blocks only"
        return compute_mix_hash(header)

    def simulate(self, sender: Address, to: Address, data: bytes, gas_limit: int) -> str | None:
        """Why a call would fail in the next block; None if it would not."""
        head = self._store.head()
        request = CallRequest(to=to, data=data, sender=sender, gas_limit=gas_limit)
        result = call(self._database, head.state_root, self._next_environment(head), request)
        if result.is_success:
            return None
        error = decode_error(result.output)
        return result.error if error is None else error.name

    def _call(self, to: Address, data: bytes, header: Header | None = None) -> bytes:
        """The answer of a contract after `header`'s block, or for the next block at the head."""
        head = self._store.head()
        if header is None:
            environment, state_root = self._next_environment(head), head.state_root
        else:
            environment = BlockEnvironment.of(header, self._config.chain_id)
            state_root = header.state_root
        result: CallResult = call(
            self._database, state_root, environment, CallRequest(to=to, data=data)
        )
        assert result.is_success, f"a view of {to_hex(to)} failed: {result.error}"
        return result.output

    def _next_environment(self, head: Header) -> BlockEnvironment:
        now = self._clock.now_ms() // 1000
        return BlockEnvironment.after(head, self._config, coinbase=head.coinbase, timestamp=now)
