"""Executing transactions and calls (docs/spec/state-transition.md, section 5).

This module and chain.execution.engine are the only users of py-evm's machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from eth.constants import CREATE_CONTRACT_ADDRESS
from eth.exceptions import Revert
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.message import Message

from chain.amounts import format_amount
from chain.errors import InvalidTransaction, RejectionReason
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import AccountOverride, CallRequest, CallResult
from chain.execution.engine import (
    HISTORY_SERVE_WINDOW,
    Computation,
    EngineState,
    EngineTransaction,
    collect_logs,
    execute,
)
from chain.execution.gas import compute_floor_gas, compute_intrinsic_gas
from chain.genesis import HISTORY_STORAGE_ADDRESS, GenesisAccount, build_alloc
from chain.hexadecimal import to_hex
from chain.primitives import ZERO_ADDRESS, ZERO_HASH, Address, BlockNumber, Hash32
from chain.state.world_state import ReadableDatabase, StateDelta, WorldState
from chain.types.header import Header
from chain.types.receipt import Log
from chain.types.transaction import Transaction

ESTIMATE_TOLERANCE: Final = 64
"""A gas estimate exceeds the least sufficient gas by at most a 64th, as in geth; this saves
runs."""

CONSTRUCTOR_GAS: Final = 2**34
"""Gas of a constructor in genesis; no account pays for it, so it is ample."""


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
        self._state = EngineState(self.world, environment, should_stop)
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
            ExecutionStoppedError: `should_stop` returned true.
        """
        base_fee = self.environment.base_fee_per_gas
        gas_price = transaction.compute_effective_gas_price(base_fee)
        return self._run(
            EngineTransaction(
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

    def _run(self, transaction: "EngineTransaction") -> TransactionOutcome:
        computation = execute(self.world, self._state, transaction)
        return TransactionOutcome(
            computation.is_success,
            computation.gas_used,
            collect_logs(computation),
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
        InvalidTransaction: INTRINSIC_GAS or INSUFFICIENT_FUNDS.
        MissingTrieNodeError: The state is not in the database.
        ExecutionStoppedError: `should_stop` returned true.
    """
    world = WorldState(database, state_root)
    for address, override in sorted((overrides or {}).items()):
        _override(world, address, override)
    world.lock_changes()
    gas_limit = environment.gas_limit if request.gas_limit is None else request.gas_limit
    is_free = request.gas_price == 0
    transaction = EngineTransaction(
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
            f"{format_amount(world.get_balance(request.sender))} coins, needs "
            f"{format_amount(needed)}",
        )
    if is_free:
        environment = replace(environment, base_fee_per_gas=0)
    computation = execute(world, EngineState(world, environment, should_stop), transaction)
    error = None if computation.is_success else computation.error
    return CallResult(
        is_success=error is None,
        is_revert=isinstance(error, Revert),
        output=bytes(computation.output),
        gas_used=computation.gas_used,
        logs=collect_logs(computation),
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
        # The gas used is usually almost enough, so try a little more than that first.
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
    state = EngineState(world, environment, never_stop)
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
    computation = Computation.apply_create_message(state, message, context)
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
