"""A worker process that executes calls (docs/spec/rpc.md, section 5).

    python -m node.rpc.call_worker DATABASE_DIRECTORY GAS_LIMIT

It reads requests from stdin and writes answers to stdout, one frame each. It ends when its stdin
closes, and by an alarm signal if a call exceeds its time limit inside native code.
"""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from chain.errors import InvalidTransaction, RejectionReason
from chain.execution import evm
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import AccountOverride, CallRequest, CallResult
from chain.execution.gas import GAS_TRANSACTION
from chain.execution.run_loop import ExecutionStoppedError
from chain.genesis import GenesisConfig, parse_genesis
from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.primitives import Address
from chain.state.trie import MissingTrieNodeError
from chain.types.header import Header
from node.rpc.encoding import quantity
from node.rpc.errors import ErrorCode, RpcError, build_rejection, header_not_found
from node.rpc.worker_request import CallMethod, WorkerRequest, decode_request
from node.storage.block_store import BlockStore
from node.storage.database import Database, open_database
from pot_common.framing import NODE_FRAMES

ALARM_GRACE_SECONDS: Final = 1.0
"""Time between a call's limit and the alarm. The engine checks the limit between opcodes, so only a
long precompile lets the alarm fire."""

ERROR_SELECTOR: Final = bytes.fromhex("08c379a0")
"""The selector of Solidity's Error(string), with which `require(condition, "reason")` reverts."""

PANIC_SELECTOR: Final = bytes.fromhex("4e487b71")
"""The selector of Solidity's Panic(uint256), with which a failed `assert` and arithmetic revert."""

PANIC_TEXTS: Final[Mapping[int, str]] = {
    0x00: "generic panic",
    0x01: "assert(false)",
    0x11: "arithmetic underflow or overflow",
    0x12: "division or modulo by zero",
    0x21: "enum overflow",
    0x22: "invalid encoded storage byte array accessed",
    0x31: "out-of-bounds array access; popping on an empty array",
    0x32: "out-of-bounds access of an array or bytesN",
    0x41: "out of memory",
    0x51: "uninitialized function",
}
"""geth's texts for Solidity's panic codes."""

FAILURE_TEXTS: Final[Mapping[str, str]] = {
    "OutOfGas": "out of gas",
    "InvalidInstruction": "invalid opcode",
    "InvalidJumpDestination": "invalid jump destination",
    "InsufficientStack": "stack underflow",
    "FullStack": "stack limit reached 1024",
    "StackDepthLimit": "max call depth exceeded",
    "WriteProtection": "write protection",
    "InsufficientFunds": "insufficient balance for transfer",
    "ContractCreationCollision": "contract address collision",
    "OutOfBoundsRead": "return data out of bounds",
}
"""geth's texts for failures, by py-evm's names of them."""


class CallEngine:
    """Executes calls on the states in one database."""

    def __init__(
        self, store: BlockStore, database: Database, genesis: GenesisConfig, gas_limit: int
    ) -> None:
        self._store = store
        self._database = database
        self._genesis = genesis
        self._gas_limit = gas_limit

    def answer(self, request: WorkerRequest) -> JsonObject:
        """The answer to a request: `{"result": ...}` or `{"error": ...}`."""
        try:
            return {"result": self._execute(request, time.monotonic() + request.seconds)}
        except RpcError as error:
            return {"error": error.to_json()}
        except InvalidTransaction as error:
            return {"error": build_rejection(error.reason.value, error.detail).to_json()}
        except MissingTrieNodeError as error:
            return {
                "error": RpcError(ErrorCode.INVALID_INPUT, f"missing trie node {error}").to_json()
            }
        except ExecutionStoppedError:
            message = f"execution aborted (timeout = {request.seconds:g}s)"
            return {"error": RpcError(ErrorCode.INVALID_INPUT, message).to_json()}
        except Exception as error:  # noqa: BLE001 - a stranger's input must not end the worker
            # Overrides can make a state that no chain has, such as more wei than exist. The caller
            # alone is to bear it: a worker that ends costs the next caller its start.
            traceback.print_exc()
            message = f"the call could not be executed: {str(error) or type(error).__name__}"
            return {"error": RpcError(ErrorCode.INTERNAL, message).to_json()}

    def _execute(self, request: WorkerRequest, deadline: float) -> str:
        header = self._store.header(request.block)
        if header is None:
            raise header_not_found()
        environment = BlockEnvironment.of(
            header, self._genesis.chain_id, self._genesis.parameters.gas_per_tick
        )
        if request.is_pending:
            environment = BlockEnvironment.after(
                header, self._genesis, coinbase=header.coinbase, timestamp=int(time.time())
            )
        call, overrides = request.call, request.overrides

        def should_stop() -> bool:
            return time.monotonic() > deadline

        if request.method is CallMethod.CALL:
            result = evm.call(
                self._database,
                header.state_root,
                environment,
                _cap_gas(call, self._gas_limit),
                overrides,
                should_stop,
            )
            if not result.is_success:
                raise _failure(result)
            return to_hex(result.output)
        return quantity(self._estimate_gas(header, environment, call, overrides, should_stop))

    def _estimate_gas(
        self,
        header: Header,
        environment: BlockEnvironment,
        call: CallRequest,
        overrides: Mapping[Address, AccountOverride],
        should_stop: Callable[[], bool],
    ) -> int:
        limit = min(
            self._gas_limit, header.gas_limit, self._genesis.parameters.transaction_gas_limit
        )
        call = _cap_gas(call, limit)
        state = (self._database, header.state_root, environment)
        try:
            if call.to is not None and not call.data:
                # The gas of a transfer to an account without code is known exactly.
                transfer = evm.call(*state, _cap_gas(call, GAS_TRANSACTION), overrides, should_stop)
                if transfer.is_success:
                    return transfer.gas_used
            gas = evm.estimate_gas(*state, call, overrides, should_stop)
        except InvalidTransaction as error:
            raise _estimate_failure(call, error) from error
        if isinstance(gas, int):
            return gas
        if gas.error.startswith("OutOfGas"):
            raise RpcError(
                ErrorCode.INVALID_INPUT, f"gas required exceeds allowance ({call.gas_limit})"
            )
        raise _failure(gas)


def _cap_gas(request: CallRequest, limit: int) -> CallRequest:
    """The call with a gas limit of at most `limit`."""
    given = limit if request.gas_limit is None else request.gas_limit
    return replace(request, gas_limit=min(given, limit))


def _estimate_failure(call: CallRequest, error: InvalidTransaction) -> Exception:
    # The balance limits the gas of each try. If it does not even pay for the intrinsic gas, the
    # client is told about the balance, which is the cause.
    if error.reason is RejectionReason.INTRINSIC_GAS and call.gas_price:
        return build_rejection(RejectionReason.INSUFFICIENT_FUNDS.value, "")
    return error


def _failure(result: CallResult) -> RpcError:
    if result.is_revert:
        reason = _revert_reason(result.output)
        message = "execution reverted" + (f": {reason}" if reason else "")
        return RpcError(ErrorCode.REVERTED, message, to_hex(result.output))
    name = result.error.split(":")[0]
    return RpcError(ErrorCode.INVALID_INPUT, FAILURE_TEXTS.get(name, result.error))


def _revert_reason(output: bytes) -> str | None:
    selector, arguments = output[:4], output[4:]
    try:
        if selector == ERROR_SELECTOR:
            return str(decode(["string"], arguments)[0])
        if selector == PANIC_SELECTOR:
            code = int(decode(["uint256"], arguments)[0])
            return f"panic: {PANIC_TEXTS.get(code, 'unknown panic code')} ({code:#04x})"
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return None  # a contract may revert with any bytes
    return None


def run(engine: CallEngine, stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Answer requests until `stdin` closes."""
    while (body := NODE_FRAMES.read_body(stdin)) is not None:
        request = decode_request(body)
        signal.setitimer(signal.ITIMER_REAL, request.seconds + ALARM_GRACE_SECONDS)
        answer = engine.answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        stdout.write(NODE_FRAMES.encode(answer))
        stdout.flush()


def main() -> None:
    """Answer the requests of the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; stdin closes then
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default ends the process, even in C code
    database = open_database(Path(sys.argv[1]), readonly=True)
    store = BlockStore(database)
    engine = CallEngine(store, database, parse_genesis(store.genesis_config()), int(sys.argv[2]))
    run(engine, sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
