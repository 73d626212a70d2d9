"""Executes blocks with ethereum-execution, Ethereum's executable specification, at Prague.

    JUDGE/bin/python reference.py

It runs in an environment of its own (environment.py), so it imports nothing of this project. It
reads one JSON object a line from stdin and writes one a line to stdout, until stdin closes:

    {"world": {chain_id, alloc}}       a new chain; the answer is {"state_root"}
    {"block": {environment, candidates}}   its next block; the answer is what came of it
    {"table": true}                    how often each opcode and precompile had each outcome
"""

import json
import sys
import threading
import traceback
from collections import Counter
from functools import cache

from ethereum import trace
from ethereum.forks.prague import fork, vm
from ethereum.forks.prague.blocks import decode_receipt
from ethereum.forks.prague.bloom import logs_bloom
from ethereum.forks.prague.fork_types import Account, Address
from ethereum.forks.prague.state import State, set_account, set_storage, state_root
from ethereum.forks.prague.transactions import (
    LegacyTransaction,
    decode_transaction,
    validate_transaction,
)
from ethereum.forks.prague.trie import root
from ethereum.forks.prague.vm import interpreter
from ethereum.forks.prague.vm.exceptions import OutOfGasError
from ethereum.forks.prague.vm.precompiled_contracts import MODEXP_ADDRESS
from ethereum.forks.prague.vm.precompiled_contracts.modexp import modexp
from ethereum_rlp import rlp
from ethereum_types.bytes import Bytes, Bytes32
from ethereum_types.numeric import U64, U256, Uint

CALLS = frozenset({"CALL", "CALLCODE", "DELEGATECALL", "STATICCALL"})
CREATIONS = frozenset({"CREATE", "CREATE2"})
FAULTS = {
    "StackUnderflowError": "underflow",
    "StackOverflowError": "overflow",
    "OutOfGasError": "out of gas",
    "InvalidOpcode": "invalid",
    "InvalidJumpDestError": "bad jump",
    "WriteInStaticContext": "static",
    "OutOfBoundsRead": "out of bounds",
    "InvalidParameter": "bad input",
    "KZGProofError": "bad input",
    "Revert": "ok",
}
"""The outcomes of the table, by the names of the specification's exceptions."""

outcomes = Counter()
"""How often each opcode and precompile had each outcome."""


def watch(evm, event):
    """Count the outcome of each opcode and precompile."""
    match event:
        case trace.OpStart(op=op):
            evm.current = op.name
        case trace.OpEnd():
            name = evm.current
            outcomes[name, name_outcome(evm, name)] += 1
        case trace.PrecompileStart(address=address):
            evm.current = f"precompile {int.from_bytes(address, 'big'):#04x}"
        case trace.PrecompileEnd():
            outcomes[evm.current, "ok"] += 1
        case trace.OpException(error=error):
            kind = type(error).__name__
            name = "INVALID" if kind == "InvalidOpcode" else evm.current
            outcomes[name, FAULTS[kind]] += 1
        case _:
            pass


def name_outcome(evm, name):
    """The outcome of an opcode that did not fail."""
    if name in CALLS or name in CREATIONS:
        return "ok" if evm.stack[-1] else "inner failure"
    if name == "SELFDESTRUCT":
        is_new = evm.message.current_target in evm.accounts_to_delete
        return "deletes" if is_new else "ok"
    return "ok"


def run_modexp(evm):
    """MODEXP, whose lengths the specification adds without looking for an overflow.

    Such lengths cost more gas than there is.
    """
    try:
        modexp(evm)
    except OverflowError as error:
        raise OutOfGasError from error


def decode(raw):
    if raw[0] >= 0xC0:
        return rlp.decode_to(LegacyTransaction, Bytes(raw))
    return decode_transaction(Bytes(raw))


class World:
    """A chain: its state and the hashes of its last blocks."""

    def __init__(self, chain_id, alloc):
        self.chain_id = U64(chain_id)
        self.state = State()
        self.is_lost = False
        """Whether a block was refused, after which the state is not that of the chain."""
        self.hashes = []
        for address, account in sorted(alloc.items()):
            where = Address(bytes.fromhex(address))
            value = Account(
                nonce=Uint(account["nonce"]),
                balance=U256(int(account["balance"])),
                code=Bytes(bytes.fromhex(account["code"])),
            )
            set_account(self.state, where, value)
            for slot, content in account["storage"].items():
                key = Bytes32(int(slot).to_bytes(32, "big"))
                set_storage(self.state, where, key, U256(int(content)))

    def run(self, block):
        """Execute the candidates that were included, and check that the others are refused."""
        if self.is_lost:
            return {"is_lost": True}
        self.hashes = [*self.hashes[-255:], Bytes32(bytes.fromhex(block["parent_hash"]))]
        environment = vm.BlockEnvironment(
            chain_id=self.chain_id,
            state=self.state,
            block_gas_limit=Uint(block["gas_limit"]),
            block_hashes=self.hashes,
            coinbase=Address(bytes.fromhex(block["coinbase"])),
            number=Uint(block["number"]),
            base_fee_per_gas=Uint(block["base_fee_per_gas"]),
            time=U256(block["timestamp"]),
            prev_randao=Bytes32(bytes.fromhex(block["mix_hash"])),
            excess_blob_gas=U64(0),
            parent_beacon_block_root=Bytes32(bytes(32)),
        )
        output = vm.BlockOutput()
        fork.process_unchecked_system_transaction(
            environment, fork.HISTORY_STORAGE_ADDRESS, self.hashes[-1]
        )
        refusals = []
        index = 0
        for candidate in block["candidates"]:
            raw = bytes.fromhex(candidate["raw"])
            try:
                transaction = decode(raw)
                if candidate["included"]:
                    fork.process_transaction(environment, output, transaction, Uint(index))
                    index += 1
                else:
                    validate_transaction(transaction)
                    fork.check_transaction(environment, output, transaction)
                refusals.append("")
            except Exception as error:  # noqa: BLE001 - a refusal, or a difference to report
                refusals.append("".join(traceback.format_exception(error)[-2:]))
                if candidate["included"]:
                    self.is_lost = True
                    return {"refusals": refusals}
        receipts = [decode_receipt(output.receipts_trie._data[key]) for key in output.receipt_keys]
        return {
            "refusals": refusals,
            "state_root": state_root(self.state).hex(),
            "transactions_root": root(output.transactions_trie).hex(),
            "receipts_root": root(output.receipts_trie).hex(),
            "logs_bloom": logs_bloom(output.block_logs).hex(),
            "gas_used": int(output.block_gas_used),
            "receipts": [
                [int(receipt.succeeded), int(receipt.cumulative_gas_used)] for receipt in receipts
            ],
        }


def main():
    trace.set_evm_trace(watch)
    # The specification analyses a code anew for every call of it.
    interpreter.get_valid_jump_destinations = cache(interpreter.get_valid_jump_destinations)
    interpreter.PRE_COMPILED_CONTRACTS[MODEXP_ADDRESS] = run_modexp
    world = None
    for line in sys.stdin:
        request = json.loads(line)
        if "world" in request:
            world = World(**request["world"])
            answer = {"state_root": state_root(world.state).hex()}
        elif "block" in request:
            answer = world.run(request["block"])
        else:
            answer = {"table": [[*key, count] for key, count in sorted(outcomes.items())]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    # A call that is 1024 deep needs about twenty Python frames for each of its own.
    sys.setrecursionlimit(100_000)
    threading.stack_size(512 * 2**20)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
