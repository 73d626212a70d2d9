"""Clients of the register and of the set: they try each node until one tells the outcome.

A write is a transaction, and its receipt is the answer. A node that is behind would answer a read
from an older final block. Therefore a reader names a block: at least the highest that any client
knew of when the read began. So reads are linearizable if there is one chain, which is what the
histories are checked for.
"""

import itertools
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import trio

from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json
from chain.primitives import Address, PrivateKey
from chain.types.transaction import Transaction, sign_transaction
from tests.chaos.contracts import REGISTER, SET, decode_words, encode_words
from tests.chaos.history import Operation
from tests.chaos.rpc import NoAnswer, Rpc

POLL_SECONDS: Final = 0.2
"""The pause between two requests for a receipt, about the time of a block."""

RESEND_SECONDS: Final = 3.0
"""After this time without a receipt, the transaction is sent to another node as well."""

THINK_SECONDS: Final = (0.1, 0.6)
"""The pause between two operations of a client."""

GAS: Final = 200_000
"""Enough for three new storage slots and the call."""

REGISTER_VALUES: Final = 5
"""Few values, so that some swaps succeed."""

Call = Operation[object]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A transaction whose receipt a client has received."""

    transaction_hash: str
    block_number: int
    block_hash: str


class Recorder:
    """The operations and answers of all clients, and the highest block that any client knows of."""

    def __init__(self) -> None:
        self.register: list[Call] = []
        self.set: list[Call] = []
        self.acknowledged: list[Acknowledged] = []
        self.seen_block = 0
        self.is_over = False
        """Set at the end: no client begins another operation."""

    def see(self, number: int) -> None:
        """Note that a client learnt of a block."""
        self.seen_block = max(self.seen_block, number)


class Client:
    """A client with one account: one operation at a time, on any node."""

    def __init__(
        self,
        index: int,
        private_key: PrivateKey,
        chain_id: int,
        nodes: Sequence[Rpc],
        recorder: Recorder,
    ) -> None:
        self._index = index
        self._private_key = private_key
        self._chain_id = chain_id
        self._nodes = nodes
        self._recorder = recorder
        self._nonce = 0
        self._node = index % len(nodes)

    async def use_register(self, source: random.Random) -> None:
        """Read, write and swap until it is over."""
        last = 0
        while not self._recorder.is_over:
            value = source.randrange(REGISTER_VALUES)
            match source.choice(("read", "write", "cas", "cas")):
                case "read":
                    call = await self._read(REGISTER, self._recorder.register)
                    last = call.result if isinstance(call.result, int) else last
                case "write":
                    await self._write(REGISTER, self._recorder.register, ("write", value))
                case _:
                    action = ("cas", last, value)
                    await self._write(REGISTER, self._recorder.register, action)
            await trio.sleep(source.uniform(*THINK_SECONDS))

    async def use_set(self, source: random.Random) -> None:
        """Add elements of our own, and read, until it is over."""
        for count in itertools.count():
            if self._recorder.is_over:
                return
            if source.random() < 0.25:
                await self._read(SET, self._recorder.set)
            else:
                element = 1_000_000 * (self._index + 1) + count
                await self._write(SET, self._recorder.set, ("add", element))
            await trio.sleep(source.uniform(*THINK_SECONDS))

    async def _write(
        self, contract: Address, history: list[Call], action: tuple[object, ...]
    ) -> None:
        words = [word for word in action if isinstance(word, int)]
        transaction = sign_transaction(
            self._private_key,
            chain_id=self._chain_id,
            nonce=self._nonce,
            max_priority_fee_per_gas=0,
            max_fee_per_gas=0,
            gas_limit=GAS,
            to=contract,
            value=0,
            data=encode_words(*words),
        )
        self._nonce += 1
        place = len(history)
        history.append(Operation(self._index, action, trio.current_time()))
        receipt = await self._settle(transaction)
        number = int(str(receipt["blockNumber"]), 16)
        self._recorder.see(number)
        self._recorder.acknowledged.append(
            Acknowledged(to_hex(transaction.hash), number, str(receipt["blockHash"]))
        )
        is_done = receipt["status"] == "0x1"
        result = is_done if action[0] == "cas" else None
        assert is_done or action[0] == "cas", f"{action} failed"
        history[place] = replace(history[place], completed=trio.current_time(), result=result)

    async def _settle(self, transaction: Transaction) -> dict[str, Json]:
        """Send a transaction until there is a receipt; return that.

        The same bytes are sent each time, so the nonce lets it take effect only once.
        """
        while True:
            # Known, already executed, or not accepted: the receipt decides.
            with suppress(NoAnswer):
                await self._nodes[self._node].call(
                    "eth_sendRawTransaction", to_hex(transaction.raw)
                )
            with trio.move_on_after(RESEND_SECONDS):
                while True:
                    try:
                        receipt = await self._nodes[self._node].call(
                            "eth_getTransactionReceipt", to_hex(transaction.hash)
                        )
                    except NoAnswer:
                        break
                    if isinstance(receipt, dict):
                        return receipt
                    await trio.sleep(POLL_SECONDS)
            await self._turn()

    async def _read(self, contract: Address, history: list[Call]) -> Call:
        floor = self._recorder.seen_block
        place = len(history)
        history.append(Operation(self._index, ("read",), trio.current_time()))
        while True:
            try:
                number = await self._nodes[self._node].head()
                if number >= floor:
                    words = await read_words(self._nodes[self._node], contract, number)
                    break
            except NoAnswer:
                pass
            await self._turn()
        self._recorder.see(number)
        result = words[0] if contract == REGISTER else frozenset(words[1:])
        history[place] = replace(history[place], completed=trio.current_time(), result=result)
        return history[place]

    async def _turn(self) -> None:
        """Ask the next node from now on."""
        self._node = (self._node + 1) % len(self._nodes)
        await trio.sleep(POLL_SECONDS)


async def read_words(node: Rpc, contract: Address, number: int) -> tuple[int, ...]:
    """The answer of a contract at a block.

    Raises:
        NoAnswer: The node did not answer.
    """
    reply = await node.call("eth_call", {"to": to_hex(contract)}, hex(number))
    return decode_words(from_hex(reply))
