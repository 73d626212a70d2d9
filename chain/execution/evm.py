"""The only module that uses py-evm's machine, at Prague rules (docs/spec/state-transition.md, 5).

py-evm provides the opcodes, their gas, and message calls. The account state, the run loop, the
validity of transactions (chain.validation) and receipts are our own.

Deviations from stock py-evm, where it is wrong or unbounded:
    BLOCKHASH reads EIP-2935's contract, so an execution needs nothing but a state root.
    Cheap opcodes and jumps run in chain.execution.run_loop. py-evm's take longer than their gas
    allows, and its search for jump destinations exceeds Python's recursion limit.
    The outermost message is the one without a parent. py-evm compares the sender with the origin,
    which is wrong since EIP-7702.
    Gas used is the gas paid for. py-evm's receipts limit the refund by a gas figure that includes
    EIP-7623's floor.
    A finished call hands its logs, refund and destroyed accounts to its caller. py-evm keeps all
    calls of a transaction and collects from them, in time quadratic in the depth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self, TypeVar

from eth._utils.address import generate_contract_address
from eth.abc import (
    ComputationAPI,
    MessageAPI,
    SignedTransactionAPI,
    StateAPI,
    TransactionContextAPI,
)
from eth.constants import CREATE_CONTRACT_ADDRESS
from eth.exceptions import InsufficientFunds, Revert, VMError
from eth.vm.code_stream import CodeStream
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.forks.prague.state import PragueState, PragueTransactionExecutor
from eth.vm.forks.prague.transactions import Authorization as EngineAuthorization
from eth.vm.memory import Memory
from eth.vm.message import Message
from eth.vm.opcode_values import SELFDESTRUCT
from eth.vm.stack import Stack

from chain.errors import InvalidTransaction, RejectionReason
from chain.execution.call_values import AccountOverride, CallRequest, CallResult
from chain.execution.gas import compute_floor_gas, compute_intrinsic_gas
from chain.execution.precompiles import PRECOMPILES
from chain.execution.run_loop import ExecutionStoppedError, run_code
from chain.genesis import HISTORY_STORAGE_ADDRESS, GenesisAccount, GenesisConfig, build_alloc
from chain.hexadecimal import to_hex
from chain.primitives import ZERO_ADDRESS, ZERO_HASH, Address, BlockNumber, Hash32
from chain.state.trie import MissingTrieNodeError
from chain.state.world_state import ReadableDatabase, StateDelta, WorldState
from chain.types.header import Header
from chain.types.receipt import Log
from chain.types.transaction import AccessList, Authorization, Transaction
from chain.validation import compute_mix_hash, compute_next_base_fee

HISTORY_SERVE_WINDOW: Final = 8191
"""EIP-2935: the number of block hashes that its contract keeps."""

BLOCK_HASH_WINDOW: Final = 256
"""The number of blocks that the BLOCKHASH opcode can look back."""

MAX_REFUND_QUOTIENT: Final = 5
"""EIP-3529: at most a fifth of the gas used is refunded."""

ESTIMATE_TOLERANCE: Final = 64
"""A gas estimate exceeds the least sufficient gas by at most a 64th, as in geth; this saves
runs."""

CONSTRUCTOR_GAS: Final = 2**34
"""Gas of a constructor in genesis; no account pays for it, so it is ample."""


@dataclass(frozen=True, slots=True)
class BlockEnvironment:
    """The properties of the block that opcodes can read."""

    chain_id: int
    number: BlockNumber
    timestamp: int
    """Seconds since the Unix epoch."""
    coinbase: Address
    gas_limit: int
    base_fee_per_gas: int
    """Wei."""
    mix_hash: Hash32

    @classmethod
    def of(cls, header: Header, chain_id: int) -> Self:
        """The environment of the block with that header."""
        return cls(
            chain_id=chain_id,
            number=header.number,
            timestamp=header.timestamp,
            coinbase=header.coinbase,
            gas_limit=header.gas_limit,
            base_fee_per_gas=header.base_fee_per_gas,
            mix_hash=header.mix_hash,
        )

    @classmethod
    def after(
        cls, parent: Header, config: GenesisConfig, *, coinbase: Address, timestamp: int
    ) -> Self:
        """The environment of a block on top of `parent`.

        Args:
            parent: The header that the block extends.
            config: The network's.
            coinbase: The primary that proposes the block.
            timestamp: Seconds; raised to the parent's if it is below.
        """
        return cls(
            chain_id=config.chain_id,
            number=BlockNumber(parent.number + 1),
            timestamp=max(timestamp, parent.timestamp),
            coinbase=coinbase,
            gas_limit=config.gas_limit,
            base_fee_per_gas=compute_next_base_fee(parent, config),
            mix_hash=compute_mix_hash(parent),
        )


@dataclass(frozen=True, slots=True)
class TransactionOutcome:
    """The outcome of one executed transaction."""

    is_success: bool
    gas_used: int
    """The gas that was paid for, after refunds."""
    logs: tuple[Log, ...]


def never_stop() -> bool:
    """A `should_stop` without a time budget."""
    return False


class BlockExecution:
    """Executes the transactions of one block in turn, on top of its parent's state."""

    def __init__(
        self,
        database: ReadableDatabase,
        parent: Header,
        environment: BlockEnvironment,
        should_stop: Callable[[], bool] = never_stop,
    ) -> None:
        self.environment = environment
        self.world = WorldState(database, parent.state_root)
        self._state = _State(self.world, environment, should_stop)
        # EIP-2935: this is what the system call at the start of a block does.
        self.world.set_storage(
            HISTORY_STORAGE_ADDRESS,
            parent.number % HISTORY_SERVE_WINDOW,
            int.from_bytes(parent.hash, "big"),
        )
        self.world.lock_changes()

    def run(self, transaction: Transaction) -> TransactionOutcome:
        """Execute a transaction that `chain.validation.validate_transaction` has accepted.

        On an exception the state is unchanged.

        Raises:
            InvalidTransaction: BAD_TRANSACTION if py-evm refuses the transaction.
            ExecutionStoppedError: `should_stop` returned true.
        """
        base_fee = self.environment.base_fee_per_gas
        gas_price = transaction.compute_effective_gas_price(base_fee)
        return self._run(
            _EngineTransaction(
                sender=transaction.sender,
                to=transaction.to,
                value=transaction.value,
                data=transaction.data,
                gas=transaction.gas_limit,
                gas_price=gas_price,
                tip=gas_price - base_fee,
                accesses=transaction.access_list,
                authorizations=transaction.authorization_list,
            )
        )

    def _run(self, transaction: "_EngineTransaction") -> TransactionOutcome:
        computation = _execute(self.world, self._state, transaction)
        return TransactionOutcome(
            computation.is_success, _gas_used(transaction, computation), _logs(computation)
        )

    def finish(self) -> tuple[Hash32, StateDelta]:
        """The state root after the transactions so far, and the new database entries below it.

        Raises:
            MissingTrieNodeError: Part of the parent's state is not in the database.
        """
        return self.world.compute_delta()


def call(
    database: ReadableDatabase,
    state_root: Hash32,
    environment: BlockEnvironment,
    request: CallRequest,
    overrides: Mapping[Address, AccountOverride] | None = None,
    should_stop: Callable[[], bool] = never_stop,
) -> CallResult:
    """The result of a call on top of `state_root`. Its changes are thrown away.

    Raises:
        InvalidTransaction: INTRINSIC_GAS or INSUFFICIENT_FUNDS, or BAD_TRANSACTION from py-evm.
        MissingTrieNodeError: The state is not in the database.
        ExecutionStoppedError: `should_stop` returned true.
    """
    world = WorldState(database, state_root)
    for address, override in sorted((overrides or {}).items()):
        _override(world, address, override)
    world.lock_changes()
    gas_limit = environment.gas_limit if request.gas_limit is None else request.gas_limit
    is_free = request.gas_price == 0
    transaction = _EngineTransaction(
        sender=request.sender,
        to=request.to,
        value=request.value,
        data=request.data,
        gas=gas_limit,
        gas_price=request.gas_price,
        tip=0 if is_free else max(0, request.gas_price - environment.base_fee_per_gas),
        accesses=request.access_list,
        authorizations=request.authorization_list,
    )
    if gas_limit < max(transaction.intrinsic_gas, compute_floor_gas(request.data)):
        raise InvalidTransaction(
            RejectionReason.INTRINSIC_GAS, f"{gas_limit}, needs {transaction.intrinsic_gas}"
        )
    needed = request.value + gas_limit * request.gas_price
    if world.get_balance(request.sender) < needed:
        raise InvalidTransaction(
            RejectionReason.INSUFFICIENT_FUNDS,
            f"balance {world.get_balance(request.sender)}, needs {needed}",
        )
    if is_free:
        environment = replace(environment, base_fee_per_gas=0)
    computation = _execute(world, _State(world, environment, should_stop), transaction)
    error = None if computation.is_success else computation.error
    return CallResult(
        is_success=error is None,
        is_revert=isinstance(error, Revert),
        output=bytes(computation.output),
        gas_used=_gas_used(transaction, computation),
        logs=_logs(computation),
        error="" if error is None else f"{type(error).__name__}: {error}",
    )


def estimate_gas(
    database: ReadableDatabase,
    state_root: Hash32,
    environment: BlockEnvironment,
    request: CallRequest,
    overrides: Mapping[Address, AccountOverride] | None = None,
    should_stop: Callable[[], bool] = never_stop,
) -> int | CallResult:
    """A gas limit with which the call succeeds; the failing result if there is none.

    The limits tried are at most `request.gas_limit` (or the block's), and, if the call has a gas
    price, at most what the sender can pay for.

    Raises:
        InvalidTransaction: As for `call`.
        MissingTrieNodeError: The state is not in the database.
        ExecutionStoppedError: `should_stop` returned true.
    """

    def attempt(gas_limit: int) -> CallResult:
        attempted = replace(request, gas_limit=gas_limit)
        return call(database, state_root, environment, attempted, overrides, should_stop)

    high = environment.gas_limit if request.gas_limit is None else request.gas_limit
    if request.gas_price:
        override = (overrides or {}).get(request.sender, AccountOverride())
        balance = override.balance
        if balance is None:
            balance = WorldState(database, state_root).get_balance(request.sender)
        high = min(high, max(0, balance - request.value) // request.gas_price)
    result = attempt(high)
    if not result.is_success:
        return result
    floor = max(
        compute_floor_gas(request.data),
        compute_intrinsic_gas(
            request.to, request.data, request.access_list, len(request.authorization_list)
        ),
    )
    low = max(result.gas_used, floor)
    if attempt(low).is_success:
        return low
    while high - low > 1 and high - low > high // ESTIMATE_TOLERANCE:
        # The gas used is mostly nearly enough, so try a little more than that first.
        middle = min((low + high) // 2, low + low // 16 + 1)
        if attempt(middle).is_success:
            high = middle
        else:
            low = middle
    return high


def run_constructor(
    init_code: bytes,
    address: Address,
    *,
    chain_id: int,
    timestamp: int = 0,
    creator: Address = ZERO_ADDRESS,
    alloc: Mapping[Address, GenesisAccount] | None = None,
) -> GenesisAccount:
    """The account after running the constructor `init_code` at `address`, for genesis.

    The constructor can read the other accounts of `alloc`, but must not change them.

    Raises:
        ValueError: The constructor fails, or changes another account.
    """
    state_root, database = build_alloc(alloc or {})
    world = WorldState(database, state_root)
    environment = BlockEnvironment(
        chain_id=chain_id,
        number=BlockNumber(0),
        timestamp=timestamp,
        coinbase=ZERO_ADDRESS,
        gas_limit=CONSTRUCTOR_GAS,
        base_fee_per_gas=0,
        mix_hash=ZERO_HASH,
    )
    state = _State(world, environment, never_stop)
    message = Message(
        gas=CONSTRUCTOR_GAS,
        to=CREATE_CONTRACT_ADDRESS,
        sender=creator,
        value=0,
        data=b"",
        code=init_code,
        create_address=address,
    )
    context = CancunTransactionContext(gas_price=0, origin=creator)
    computation = _Computation.apply_create_message(state, message, context)
    if computation.is_error:
        raise ValueError(f"the constructor at {to_hex(address)} fails: {computation.error!r}")
    changed = world.list_changed()
    if changed != (address,):
        raise ValueError(f"the constructor at {to_hex(address)} changes other accounts: {changed}")
    account = world.get_account(address)
    assert account is not None, "the creation succeeded"
    return GenesisAccount(
        balance=account.balance,
        nonce=account.nonce,
        code=world.get_code(address),
        storage=world.get_written_storage(address),
    )


def _override(world: WorldState, address: Address, override: AccountOverride) -> None:
    if override.balance is not None:
        world.set_balance(address, override.balance)
    if override.nonce is not None:
        world.set_nonce(address, override.nonce)
    if override.code is not None:
        world.set_code(address, override.code)
    if override.storage is not None:
        world.delete_storage(address)
    for slot, value in sorted({**(override.storage or {}), **override.storage_changes}.items()):
        world.set_storage(address, slot, value)


class _EngineTransaction:
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
        self.authorization_list = tuple(
            EngineAuthorization(
                entry.chain_id, entry.address, entry.nonce, entry.y_parity, entry.r, entry.s
            )
            for entry in authorizations
        )


def _execute(world: WorldState, state: "_State", transaction: _EngineTransaction) -> ComputationAPI:
    world.lock_changes()
    try:
        return state.apply_transaction(transaction)
    except (MissingTrieNodeError, ExecutionStoppedError, MemoryError, RecursionError):
        # Not a fault of the transaction: the state is missing here, and other nodes may have it.
        world.discard(0)
        raise
    except Exception as error:
        # On odd input py-evm also raises exceptions of other kinds; none of them may stop the node.
        world.discard(0)
        raise InvalidTransaction(RejectionReason.BAD_TRANSACTION, repr(error)) from error


def _gas_used(transaction: _EngineTransaction, computation: ComputationAPI) -> int:
    """The gas to pay for: after refunds (EIP-3529), but at least the floor (EIP-7623)."""
    spent = transaction.gas - computation.get_gas_remaining()
    refund = computation.msg.refund + (computation.kept_refund if computation.is_success else 0)
    refund = min(refund, spent // MAX_REFUND_QUOTIENT)
    return max(int(spent - refund), compute_floor_gas(transaction.data))


def _logs(computation: ComputationAPI) -> tuple[Log, ...]:
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


_Entry = TypeVar("_Entry")


def _merge(first: list[_Entry], second: list[_Entry]) -> list[_Entry]:
    """The elements of both lists, unordered. The longer one is extended, so little is copied."""
    short, long = sorted((first, second), key=len)
    long.extend(short)
    return long


class _Computation(PragueComputation):
    """The execution of a message.

    Creating it is a large part of the cost of a CALL, so it omits py-evm's checks and logging.
    """

    # py-evm's SELFDESTRUCT issues a deprecation warning. If the interpreter turned warnings into
    # errors, this node would compute another result than the network.
    opcodes: ClassVar = {
        **PragueComputation.opcodes,
        SELFDESTRUCT: PragueComputation.opcodes[SELFDESTRUCT].__wrapped__,
    }
    _precompiles: ClassVar = dict(PRECOMPILES)

    def __init__(
        self, state: StateAPI, message: MessageAPI, transaction_context: TransactionContextAPI
    ) -> None:
        self.state = state
        self.msg = message
        self.transaction_context = transaction_context
        self.code = CodeStream(message.code)
        self._absorbed_refund = 0
        self.accounts_to_delete: list[Address] = []
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
        self._log_entries = _merge(self._log_entries, child.log_entries)
        self.accounts_to_delete = _merge(self.accounts_to_delete, child.accounts_to_delete)

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
        computation = cls(state, message, transaction_context)
        computation.contracts_created = (
            [] if parent_computation is None else parent_computation.contracts_created
        )
        if message.is_create:
            computation.contracts_created.append(message.storage_address)
        precompile = cls._precompiles.get(message.code_address)
        try:
            if precompile is None:
                run_code(computation, message.code, cls.opcodes, state.should_stop)
            elif not message.is_delegation:
                precompile(computation)
        except VMError as error:
            # The traceback would keep every frame of the call in memory.
            computation.error = error.with_traceback(None)
            if computation.should_burn_gas:
                computation.get_gas_meter().gas_remaining = 0
            if computation.should_erase_return_data:
                computation.return_data = b""
        return computation


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

    def finalize_computation(
        self, transaction: _EngineTransaction, computation: ComputationAPI
    ) -> ComputationAPI:
        """Refund unused gas, pay the coinbase, and delete destroyed and empty accounts."""
        state = self.vm_state
        gas_used = _gas_used(transaction, computation)
        left = transaction.gas - gas_used
        state.delta_balance(transaction.sender, left * transaction.gas_price)
        state.delta_balance(state.coinbase, gas_used * transaction.tip)
        if computation.is_success:
            for address in sorted(set(computation.accounts_to_delete)):
                state.delete_account(address)
        state.delete_touched_empty()
        return computation


class _State(PragueState):
    """py-evm's view of the world state and the block."""

    computation_class = _Computation
    transaction_executor_class = _Executor

    def __init__(
        self,
        world: WorldState,
        environment: BlockEnvironment,
        should_stop: Callable[[], bool],
    ) -> None:
        self._account_db = self.world = world
        self.should_stop = should_stop
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

    def snapshot(self) -> int:
        return self.world.record()

    def revert(self, snapshot: int) -> None:
        self.world.discard(snapshot)

    def commit(self, snapshot: int) -> None:
        self.world.commit(snapshot)

    def get_transient_storage(self, address: Address, slot: int) -> bytes:
        return self.world.get_transient_storage(address, slot)

    def set_transient_storage(self, address: Address, slot: int, value: bytes) -> None:
        self.world.set_transient_storage(address, slot, value)

    def clear_transient_storage(self) -> None:
        """Do nothing: `WorldState.lock_changes` clears it when the next transaction begins."""

    def delete_touched_empty(self) -> None:
        """Delete the accounts that the transaction left empty (EIP-161)."""
        self.world.delete_touched_empty()

    def get_transaction_context(self, transaction: _EngineTransaction) -> TransactionContextAPI:
        return CancunTransactionContext(gas_price=transaction.gas_price, origin=transaction.sender)

    def get_ancestor_hash(self, block_number: int) -> Hash32:
        """The hash for the BLOCKHASH opcode, read from EIP-2935's contract."""
        if not 0 < self.block_number - block_number <= BLOCK_HASH_WINDOW or block_number < 0:
            return ZERO_HASH
        slot = block_number % HISTORY_SERVE_WINDOW
        value = self.world.get_storage(HISTORY_STORAGE_ADDRESS, slot)
        return Hash32(value.to_bytes(32, "big"))
