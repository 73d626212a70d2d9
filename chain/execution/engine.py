"""py-evm at Prague rules, on our own state (docs/spec/state-transition.md, section 5).

py-evm provides the opcodes, their gas, and message calls. The account state, the run loop, the
validity of transactions (chain.validation) and receipts are our own.

Deviations from stock py-evm, where it is wrong or unbounded:
    BLOCKHASH reads EIP-2935's contract, so an execution needs nothing but a state root.
    Cheap opcodes and jumps run in chain.execution.run_loop. py-evm's take longer than their gas
    allows, and its search for jump destinations exceeds Python's recursion limit.
    CREATE and CREATE2 refuse too large init code first. With py-evm's, the creator goes on if it
    also lacks the balance.
    The outermost message is the one without a parent. py-evm compares the sender with the origin,
    which is wrong since EIP-7702.
    Gas used is the gas paid for. py-evm's receipts limit the refund by a gas figure that includes
    EIP-7623's floor.
    An authorization of EIP-7702 is skipped if it breaks a rule. py-evm skips it on any exception, a
    missing trie node included.
    A finished call hands its logs, refund and destroyed accounts to its caller. py-evm keeps all
    calls of a transaction and collects from them, in time quadratic in the depth.
    An exception of an opcode that py-evm did not foresee ends its call as running out of gas does,
    so that the work is paid for. py-evm lets it end the whole transaction.
"""

from collections.abc import Callable
from typing import ClassVar, Final, Self, TypeVar

from eth._utils.address import generate_contract_address
from eth.abc import (
    ComputationAPI,
    MessageAPI,
    SignedTransactionAPI,
    StateAPI,
    TransactionContextAPI,
)
from eth.constants import CREATE_CONTRACT_ADDRESS, GAS_CREATE
from eth.exceptions import InsufficientFunds, OutOfGas, VMError
from eth.vm.code_stream import CodeStream
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.forks.prague.state import PragueState, PragueTransactionExecutor
from eth.vm.forks.shanghai.logic import Create2EIP3860, CreateEIP3860
from eth.vm.logic.system import CreateOpcodeStackData
from eth.vm.memory import Memory
from eth.vm.message import Message
from eth.vm.opcode_values import CREATE, CREATE2, SELFDESTRUCT
from eth.vm.stack import Stack

from chain.execution.block_environment import BlockEnvironment
from chain.execution.effort import (
    DATA_BYTES_A_TICK,
    PRECOMPILE_BASE_TICKS,
    PRECOMPILE_TICKS,
    EffortExceededError,
    EffortMeter,
)
from chain.execution.gas import (
    GAS_AUTHORIZATION,
    GAS_AUTHORIZATION_BASE,
    compute_floor_gas,
    compute_intrinsic_gas,
)
from chain.execution.precompiles import PRECOMPILES, run_precompile
from chain.execution.run_loop import ExecutionStoppedError, run_code
from chain.genesis import HISTORY_STORAGE_ADDRESS
from chain.primitives import UINT64_MAX, ZERO_ADDRESS, ZERO_HASH, Address, Hash32
from chain.state.trie import StateReadError
from chain.state.world_state import WorldState
from chain.types.receipt import Log
from chain.types.transaction import AccessList, Authorization, recover_authority
from chain.validation import DELEGATION_PREFIX, MAX_INIT_CODE_BYTES, is_delegation

HISTORY_SERVE_WINDOW: Final = 8191
"""EIP-2935: the number of block hashes that its contract keeps."""

BLOCK_HASH_WINDOW: Final = 256
"""The number of blocks that the BLOCKHASH opcode can look back."""

MAX_REFUND_QUOTIENT: Final = 5
"""EIP-3529: at most a fifth of the gas used is refunded."""


_Entry = TypeVar("_Entry")

_NODE_FAULTS: Final = (StateReadError, ExecutionStoppedError, MemoryError, RecursionError)
"""This node lacks state, time, memory or stack depth; the transaction is not at fault."""

_UNLIMITED_TICKS: Final = 2**63


class EngineTransaction:
    """A transaction in the form that py-evm's executor expects."""

    def __init__(
        self,
        *,
        sender: Address,
        to: Address | None,
        value: int,
        data: bytes,
        gas: int,
        gas_price: int,
        tip: int,
        accesses: AccessList,
        authorizations: tuple[Authorization, ...],
    ) -> None:
        self.type_id = 4 if authorizations else 2
        self.sender = sender
        self.to = CREATE_CONTRACT_ADDRESS if to is None else to
        self.value = value
        self.data = data
        self.gas = gas
        self.gas_price = gas_price
        self.tip = tip
        self.intrinsic_gas = compute_intrinsic_gas(to, data, accesses, len(authorizations))
        self.access_list = tuple(
            (address, tuple(int.from_bytes(key, "big") for key in keys))
            for address, keys in accesses
        )
        self.authorization_list = authorizations


def execute(
    world: WorldState, state: "EngineState", transaction: EngineTransaction
) -> "Computation":
    """Execute a transaction; on an exception the state is unchanged.

    Raises:
        ExecutionStoppedError: The time budget ran out.
        MissingTrieNodeError: Part of the state is not in the database.
    """
    world.lock_changes()
    state.start_effort(transaction.gas)
    try:
        computation: Computation = state.apply_transaction(transaction)
        return computation
    except BaseException:
        world.discard(0)
        raise


def compute_gas_used(transaction: EngineTransaction, computation: ComputationAPI) -> int:
    """The gas to pay for: after refunds (EIP-3529), at least EIP-7623's floor and the effort."""
    spent = transaction.gas - computation.get_gas_remaining()
    refund = computation.msg.refund + (computation.kept_refund if computation.is_success else 0)
    refund = min(refund, spent // MAX_REFUND_QUOTIENT)
    effort: int = computation.state.compute_effort_gas()
    floor = max(compute_floor_gas(transaction.data), effort)
    return min(transaction.gas, max(int(spent - refund), floor))


def collect_logs(computation: ComputationAPI) -> tuple[Log, ...]:
    """The logs of a successful transaction in order; none of a failed one."""
    # An entry begins with its position in the transaction.
    return tuple(
        Log(
            Address(address),
            tuple(Hash32(topic.to_bytes(32, "big")) for topic in topics),
            bytes(data),
        )
        for _, address, topics, data in (
            sorted(computation.log_entries) if computation.is_success else ()
        )
    )


class _Memory(Memory):
    """Memory that gives the run loop direct access to its bytes."""

    @property
    def held(self) -> bytearray:
        """The memory's own bytes, not a copy."""
        held: bytearray = self._bytes
        return held


class _Message(Message):
    """A message that needs no validation, since its parts come from py-evm's stack."""

    def __init__(
        self,
        gas: int,
        to: Address,
        sender: Address,
        value: int,
        data: bytes,
        code: bytes,
        depth: int = 0,
        create_address: Address | None = None,
        code_address: Address | None = None,
        should_transfer_value: bool = True,
        is_static: bool = False,
        is_delegation: bool = False,
    ) -> None:
        self.gas = gas
        self.to = to
        self.sender = sender
        self.value = value
        self.data = data
        self.code = code
        self.depth = depth
        self.storage_address = create_address
        self.code_address = code_address
        self.should_transfer_value = should_transfer_value
        self.is_static = is_static
        self.is_delegation = is_delegation
        self.refund = 0


def _merge_lists(first: list[_Entry], second: list[_Entry]) -> list[_Entry]:
    """The elements of both lists, unordered. The longer one is extended, so little is copied."""
    short, long = sorted((first, second), key=len)
    long.extend(short)
    return long


def _merge_sets(first: set[_Entry], second: set[_Entry]) -> set[_Entry]:
    """The elements of both sets. The larger one is extended, so little is copied."""
    small, large = sorted((first, second), key=len)
    large.update(small)
    return large


class _Create(CreateEIP3860):
    """CREATE, and with `_Create2` the limit of init code, which decides before the balance does."""

    def get_gas_cost(self, data: CreateOpcodeStackData) -> int:
        """The gas of a creation.

        Raises:
            OutOfGas: The init code is larger than EIP-3860 allows.
        """
        _require_init_code_limit(data)
        return int(super().get_gas_cost(data))


class _Create2(Create2EIP3860):
    """CREATE2; see `_Create`."""

    def get_gas_cost(self, data: CreateOpcodeStackData) -> int:
        """The gas of a creation.

        Raises:
            OutOfGas: The init code is larger than EIP-3860 allows.
        """
        _require_init_code_limit(data)
        return int(super().get_gas_cost(data))


def _require_init_code_limit(data: CreateOpcodeStackData) -> None:
    if data.memory_length > MAX_INIT_CODE_BYTES:
        raise OutOfGas(f"init code of {data.memory_length} bytes")


class Computation(PragueComputation):
    """The execution of a message.

    Creating it is a large part of the cost of a CALL, so it omits py-evm's checks and logging.
    """

    # py-evm's SELFDESTRUCT issues a deprecation warning. If the interpreter turned warnings into
    # errors, this node would compute another result than the network.
    opcodes: ClassVar = {
        **PragueComputation.opcodes,
        SELFDESTRUCT: PragueComputation.opcodes[SELFDESTRUCT].__wrapped__,
        CREATE: _Create.configure(__name__="CREATE", mnemonic="CREATE", gas_cost=GAS_CREATE)(),
        CREATE2: _Create2.configure(__name__="CREATE2", mnemonic="CREATE2", gas_cost=GAS_CREATE)(),
    }
    _precompiles: ClassVar = dict(PRECOMPILES)
    gas_used: int
    """The gas that the transaction paid for; set on its outermost message, at the end."""

    def __init__(
        self, state: StateAPI, message: MessageAPI, transaction_context: TransactionContextAPI
    ) -> None:
        self.state = state
        self.msg = message
        self.transaction_context = transaction_context
        self.code = CodeStream(message.code)
        self._absorbed_refund = 0
        self.accounts_to_delete: set[Address] = set()
        self.beneficiaries: list[Address] = []
        self._gas_meter = self._configure_gas_meter()
        self._stack = Stack()
        self._memory = _Memory()
        self._log_entries: list[tuple[int, bytes, tuple[int, ...], bytes]] = []

    @property
    def stack_values(self) -> list[int | bytes]:
        """The stack itself, not a copy; its top is last."""
        values: list[int | bytes] = self._stack.values
        return values

    @property
    def memory(self) -> "_Memory":
        """The memory itself, not a copy."""
        return self._memory

    @property
    def log_entries(self) -> list[tuple[int, bytes, tuple[int, ...], bytes]]:
        """Position in the transaction, address, topics and data of each log; unordered."""
        return self._log_entries

    @property
    def kept_refund(self) -> int:
        """The gas refund of this call and of the successful calls below it."""
        refund: int = self._gas_meter.gas_refunded
        return refund + self._absorbed_refund

    def add_child_computation(self, child: Self) -> None:
        """Add the logs and refund of a finished inner call, and keep nothing else of it."""
        is_created = child.is_success and child.msg.is_create
        self.return_data = b"" if is_created else child.output
        if child.is_error:
            return
        self._absorbed_refund += child.kept_refund
        self._log_entries = _merge_lists(self._log_entries, child.log_entries)
        self.accounts_to_delete = _merge_sets(self.accounts_to_delete, child.accounts_to_delete)

    def register_account_for_deletion(self, _beneficiary: Address) -> None:
        """Note that this contract is deleted at the end; it may be noted more than once."""
        self.accounts_to_delete.add(self.msg.storage_address)

    def prepare_child_message(
        self,
        gas: int,
        to: Address,
        value: int,
        data: bytes,
        code: bytes,
        *,
        sender: Address | None = None,
        create_address: Address | None = None,
        code_address: Address | None = None,
        should_transfer_value: bool = True,
        is_static: bool = False,
        is_delegation: bool = False,
    ) -> MessageAPI:
        """The message of an inner call or creation."""
        if len(data) >= DATA_BYTES_A_TICK:
            self.state.effort.spend(len(data) // DATA_BYTES_A_TICK)
        return _Message(
            gas=gas,
            to=to,
            sender=self.msg.storage_address if sender is None else sender,
            value=value,
            data=data,
            code=code,
            depth=self.msg.depth + 1,
            create_address=create_address,
            code_address=code_address,
            should_transfer_value=should_transfer_value,
            is_static=is_static,
            is_delegation=is_delegation,
        )

    @classmethod
    def apply_message(
        cls,
        state: StateAPI,
        message: MessageAPI,
        transaction_context: TransactionContextAPI,
        parent_computation: ComputationAPI | None = None,
    ) -> ComputationAPI:
        """Transfer the value and run the message; undo both if it fails."""
        world: WorldState = state.world
        checkpoint = world.record()
        if message.should_transfer_value and message.value:
            balance = world.get_balance(message.sender)
            if balance < message.value:
                raise InsufficientFunds(f"{balance}, needs {message.value}")
            world.set_balance(message.sender, balance - message.value)
            received = world.get_balance(message.storage_address) + message.value
            world.set_balance(message.storage_address, received)
        world.touch_account(message.storage_address)
        computation = cls.apply_computation(state, message, transaction_context, parent_computation)
        if computation.is_error:
            world.discard(checkpoint)
        return computation

    @classmethod
    def apply_computation(
        cls,
        state: StateAPI,
        message: MessageAPI,
        transaction_context: TransactionContextAPI,
        parent_computation: ComputationAPI | None = None,
    ) -> ComputationAPI:
        """Run the message's code, or the precompile at its address."""
        precompile = cls._precompiles.get(message.code_address)
        frame = cls if precompile is None else _PrecompileCall
        computation = frame(state, message, transaction_context)
        computation.contracts_created = (
            [] if parent_computation is None else parent_computation.contracts_created
        )
        if message.is_create:
            computation.contracts_created.append(message.storage_address)
        try:
            if precompile is None and message.code:
                run_code(computation, message.code, cls.opcodes, state.effort, state.should_stop)
            elif precompile is not None and not message.is_delegation:
                run_precompile(precompile, computation)
        except (EffortExceededError, *_NODE_FAULTS):
            raise
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            fault = error if isinstance(error, VMError) else OutOfGas(f"unforeseen: {error!r}")
            # The traceback would keep every frame of the call in memory.
            computation.error = fault.with_traceback(None)
            if computation.should_burn_gas:
                computation.get_gas_meter().gas_remaining = 0
            if computation.should_erase_return_data:
                computation.return_data = b""
        return computation


class _PrecompileCall(Computation):
    """The execution of a precompile. Its effort follows from its gas, which it charges first."""

    def consume_gas(self, amount: int, reason: str) -> None:
        """Charge gas, and count the effort that it stands for."""
        super().consume_gas(amount, reason)
        rate = PRECOMPILE_TICKS[self.msg.code_address]
        self.state.effort.spend(PRECOMPILE_BASE_TICKS + amount * rate // 1000)


class _Executor(PragueTransactionExecutor):
    """Executes transactions that are known to be valid."""

    def validate_transaction(self, transaction: SignedTransactionAPI) -> None:
        """Do nothing: `chain.validation` has validated the transaction."""

    def build_evm_message(self, transaction: SignedTransactionAPI) -> MessageAPI:
        """Charge the sender for the gas, and make the outermost message."""
        state = self.vm_state
        state.delta_balance(transaction.sender, -transaction.gas * transaction.gas_price)
        nonce = state.get_nonce(transaction.sender)
        state.set_nonce(transaction.sender, nonce + 1)
        state.mark_address_warm(state.coinbase)  # EIP-3651
        refund = self.calc_message_refund(transaction)
        gas = transaction.gas - transaction.intrinsic_gas
        if transaction.to == CREATE_CONTRACT_ADDRESS:
            return Message(
                gas=gas,
                to=transaction.to,
                sender=transaction.sender,
                value=transaction.value,
                data=b"",
                code=transaction.data,
                create_address=generate_contract_address(transaction.sender, nonce),
                refund=refund,
            )
        code, delegation = self.get_code_at_address(transaction.to)
        return Message(
            gas=gas,
            to=transaction.to,
            sender=transaction.sender,
            value=transaction.value,
            data=transaction.data,
            code=code,
            is_delegation=delegation is not None,
            refund=refund,
        )

    def build_computation(
        self, message: MessageAPI, transaction: EngineTransaction
    ) -> ComputationAPI:
        """Run the message; undo it if it takes more effort than the gas limit pays for."""
        state = self.vm_state
        checkpoint = state.world.record()
        try:
            return super().build_computation(message, transaction)
        except EffortExceededError:
            state.world.discard(checkpoint)
            context = state.get_transaction_context(transaction)
            computation = Computation(state, message, context)
            computation.error = OutOfGas("the execution takes longer than the gas limit pays for")
            return computation

    def finalize_computation(
        self, transaction: EngineTransaction, computation: ComputationAPI
    ) -> ComputationAPI:
        """Refund unused gas, pay the coinbase, and delete destroyed and empty accounts."""
        state = self.vm_state
        computation.gas_used = gas_used = compute_gas_used(transaction, computation)
        left = transaction.gas - gas_used
        state.delta_balance(transaction.sender, left * transaction.gas_price)
        state.delta_balance(state.coinbase, gas_used * transaction.tip)
        if computation.is_success:
            for address in sorted(computation.accounts_to_delete):
                state.delete_account(address)
        state.delete_touched_empty()
        return computation


class EngineState(PragueState):
    """py-evm's view of the world state and the block."""

    computation_class = Computation
    transaction_executor_class = _Executor

    def __init__(
        self,
        world: WorldState,
        environment: BlockEnvironment,
        should_stop: Callable[[], bool],
    ) -> None:
        self._account_db = self.world = world
        self.should_stop = should_stop
        self._gas_per_tick = environment.gas_per_tick
        self.effort = EffortMeter(_UNLIMITED_TICKS)
        self.execution_context = ExecutionContext(
            coinbase=environment.coinbase,
            timestamp=environment.timestamp,
            block_number=environment.number,
            difficulty=0,
            mix_hash=environment.mix_hash,
            gas_limit=environment.gas_limit,
            prev_hashes=(),
            chain_id=environment.chain_id,
            base_fee_per_gas=environment.base_fee_per_gas,
            excess_blob_gas=0,
        )

    def start_effort(self, gas_limit: int) -> None:
        """Begin to count the effort of a transaction with that gas limit."""
        is_priced = self._gas_per_tick > 0
        self.effort = EffortMeter(
            gas_limit // self._gas_per_tick if is_priced else _UNLIMITED_TICKS
        )

    def compute_effort_gas(self) -> int:
        """The gas that pays for the effort since `start_effort`."""
        return self.effort.ticks * self._gas_per_tick

    def snapshot(self) -> int:
        """A checkpoint of the world state."""
        return self.world.record()

    def revert(self, snapshot: int) -> None:
        """Undo all changes since a checkpoint."""
        self.world.discard(snapshot)

    def commit(self, snapshot: int) -> None:
        """Keep the changes since a checkpoint."""
        self.world.commit(snapshot)

    def get_transient_storage(self, address: Address, slot: int) -> bytes:
        """The transient value of a slot (EIP-1153)."""
        return self.world.get_transient_storage(address, slot)

    def set_transient_storage(self, address: Address, slot: int, value: bytes) -> None:
        """Set the transient value of a slot (EIP-1153)."""
        self.world.set_transient_storage(address, slot, value)

    def clear_transient_storage(self) -> None:
        """Do nothing: `WorldState.lock_changes` clears it when the next transaction begins."""

    def delete_touched_empty(self) -> None:
        """Delete the accounts that the transaction left empty (EIP-161)."""
        self.world.delete_touched_empty()

    def get_transaction_context(self, transaction: EngineTransaction) -> TransactionContextAPI:
        """The properties of the transaction that opcodes can read."""
        return CancunTransactionContext(gas_price=transaction.gas_price, origin=transaction.sender)

    def process_set_code_authorizations(self, transaction: EngineTransaction) -> int:
        """Carry out the valid authorizations (EIP-7702), and return the gas to refund for them."""
        return sum(self._authorize(entry) for entry in transaction.authorization_list)

    def _authorize(self, entry: Authorization) -> int:
        if entry.chain_id not in (0, self.execution_context.chain_id) or entry.nonce == UINT64_MAX:
            return 0
        authority = recover_authority(entry)
        if authority is None:
            return 0
        world = self.world
        world.mark_address_warm(authority)
        code = world.get_code(authority)
        if (code and not is_delegation(code)) or world.get_nonce(authority) != entry.nonce:
            return 0
        refund = (
            GAS_AUTHORIZATION - GAS_AUTHORIZATION_BASE if world.account_exists(authority) else 0
        )
        is_reset = entry.address == ZERO_ADDRESS
        world.set_code(authority, b"" if is_reset else DELEGATION_PREFIX + entry.address)
        world.increment_nonce(authority)
        return refund

    def get_ancestor_hash(self, block_number: int) -> Hash32:
        """The hash for the BLOCKHASH opcode, read from EIP-2935's contract."""
        if not 0 < self.block_number - block_number <= BLOCK_HASH_WINDOW or block_number < 0:
            return ZERO_HASH
        slot = block_number % HISTORY_SERVE_WINDOW
        value = self.world.get_storage(HISTORY_STORAGE_ADDRESS, slot)
        return Hash32(value.to_bytes(32, "big"))
