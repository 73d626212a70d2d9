"""JSON-RPC calls and transactions, for the command line and for miners (docs/spec/rpc.md).

Synchronous. A subclass of `ChainClient` decides which node is asked, and how far it is trusted.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final, TypeVar

from pydantic import TypeAdapter

from chain.contracts.abi import ContractCall, ContractView, InvalidAnswerError
from chain.contracts.calls import CallKind, identify_call
from chain.crypto import get_address
from chain.errors import InvalidTransaction
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, PrivateKey
from chain.types.transaction import Transaction, decode_transaction
from pot_common.gas_offer import GasHint, GasOffer
from pot_common.rpc_replies import (
    ClientError,
    NodeInfo,
    RewardProof,
    not_expected,
    not_understood,
    read_answer,
    read_bytes,
    read_quantity,
)
from pot_common.waiting import Signer, describe_waiting, is_same_call

T = TypeVar("T")
"""The type of a contract's answer."""

RECEIPT_SECONDS: Final = 120.0
"""A transaction that is not final after this will not be soon: its nonce or fee does not fit."""

POLL_SECONDS: Final = 0.1
"""Between two questions for a receipt: half of the shortest block interval."""

RESEND_SECONDS: Final = 5.0
"""Without a receipt for so long, a transaction is sent again: the node that took it may have
stopped before it told its peers."""

RAISE_BLOCKS: Final = 6
"""A transaction that is in none of so many blocks is sent again with higher fees, if there are any:
the base fee may have risen, or others pay more."""

WAITING_LIMIT: Final = 64
"""The most transactions of an account that a node lets wait; an answer with more is cut."""

LIST_SECONDS: Final = 3.0
"""The time for all of them. A node that shows many, each late, must not delay a commitment."""

GAS_MARGIN: Final = 300_000
"""Added to an estimate: by the time it runs, the transaction may be the one that ends a phase."""

REFUSED_FOR_THE_PRICE: Final = ("transaction underpriced", "txpool is full")
"""Beginnings of the errors of a transaction that a node would take for a higher price: it asks for
more gas than is included for nothing, or others offer more."""

REFUSED_FOR_FUNDS: Final = "insufficient funds"
"""Beginning of the error of a transaction that the balance cannot pay, as in geth."""

REVERT_CODE: Final = 3
"""The code of an error of JSON-RPC for a call that reverts."""

_NODE_INFO: Final = TypeAdapter(NodeInfo)
_REWARD_PROOF: Final[TypeAdapter[RewardProof | None]] = TypeAdapter(RewardProof | None)


class RpcCallError(ClientError):
    """A node answered with an error, or the chain refused a transaction.

    Attributes:
        code: The number that JSON-RPC or EIP-1474 defines; 3 is a revert.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class RevertedError(RpcCallError):
    """A transaction passed the node's estimate, and reverted in its block."""

    def __init__(self, message: str) -> None:
        super().__init__(REVERT_CODE, message)


class NodeUnreachableError(ClientError):
    """No node answers."""


class ContentUnavailableError(ClientError):
    """No node that was asked has the blob."""


@dataclass(frozen=True, slots=True)
class AccountView:
    """What a transaction of an account depends on, at the latest block."""

    number: int
    """The latest block."""
    base_fee: int
    """In wei a unit of gas."""
    first: int
    """The nonce of the account's next transaction in a block."""
    pending: int
    """The nonce after those that wait, as a node counts them."""


class ChainClient(ABC):
    """Questions and transactions to a chain, through the node that `call` asks."""

    def __init__(self) -> None:
        self._waiting: dict[Address, Transaction] = {}
        """The last transaction of an account that was in no block when its call gave up."""
        self.gas_price = 0
        """What transactions pay for a unit of gas where it is free, in wei. Where a base fee is
        due, they pay at least this."""
        self.on_wait: Callable[[GasHint], None] = lambda _hint: None
        """Called once for a transaction that waits, with what would help."""
        self.on_note: Callable[[str], None] = lambda _note: None
        """Called with a sentence about other transactions of the account that wait."""

    @abstractmethod
    def call(self, method: str, *params: Json) -> Json:
        """The result of a JSON-RPC method.

        Raises:
            RpcCallError: The node answered with an error.
            ClientError: No node answers.
        """

    def call_object(self, method: str, *params: Json) -> JsonObject | None:
        """The result of a method that answers with an object, or with null if there is none."""
        result = self.call(method, *params)
        if result is not None and not isinstance(result, dict):
            raise not_understood(f"{method} gives no object")
        return result

    def call_list(self, method: str, *params: Json) -> list[JsonObject]:
        """The result of a method that answers with a list of objects."""
        result = self.call(method, *params)
        if not isinstance(result, list):
            raise not_understood(f"{method} gives no list")
        return [entry for entry in result if isinstance(entry, dict)]

    def quantity(self, method: str, *params: Json) -> int:
        """The result of a method that answers with an integer in hex."""
        return read_quantity(self.call(method, *params))

    def node_info(self) -> NodeInfo:
        """The network of the node."""
        return read_answer(_NODE_INFO, self.call("pot_nodeInfo"))

    def reward_proof(self, task_id: int, account: Address) -> RewardProof | None:
        """What an account has earned in a task; None if there is no such task."""
        reply = self.call("pot_getRewardProof", task_id, to_hex(account))
        return read_answer(_REWARD_PROOF, reply)

    def balance(self, account: Address) -> int:
        """The native coins of an account, in wei."""
        return self.quantity("eth_getBalance", to_hex(account), "latest")

    def read(self, view: ContractView[T], block: str = "latest") -> T:
        """The answer of a view in the state of a block.

        Raises:
            RpcCallError: The contract failed, or the node refused the question.
            ClientError: There is no such contract at the address.
        """
        request: JsonObject = {"to": to_hex(view.to), "data": to_hex(view.data)}
        answer = read_bytes(self.call("eth_call", request, block))
        try:
            return view.decode(answer)
        except InvalidAnswerError as error:
            raise not_expected(to_hex(view.to), str(error) if answer else None) from error

    def transact(
        self,
        private_key: PrivateKey,
        call: ContractCall,
        value: int = 0,
        *,
        chain_id: int | None = None,
        is_repeat: bool = False,
    ) -> JsonObject:
        """Sign and send a transaction, wait until it is final, and return its receipt.

        It takes the place of an earlier one that this client sent and that is still in no block,
        since it would wait behind it. With a `gas_price` it takes the place of the same call of the
        account that waits, and other transactions before it are sent again at that price. Only a
        gradient commitment takes the place of another call, because a late one costs a bond.

        Args:
            private_key: The sender's.
            call: The receiver, and the data for it if it is a contract.
            value: Native coins that it sends, in wei.
            chain_id: The chain that it is signed for; None asks the node, which is then trusted.
            is_repeat: Whether to wait for the same call if it waits already, rather than send it
                a second time.

        Raises:
            RevertedError: It was executed and reverted.
            RpcCallError: The transaction would revert, or the node refused it.
            ClientError: It is in no block.
        """
        account = get_address(private_key)
        sender = to_hex(account)
        request: JsonObject = {
            "from": sender,
            "to": to_hex(call.to),
            "data": to_hex(call.data),
            "value": hex(value),
        }
        estimate = self.estimate_gas(request)
        signer = Signer(private_key, self.quantity("eth_chainId") if chain_id is None else chain_id)
        gas_limit = estimate + GAS_MARGIN if call.data else estimate
        sign = partial(signer.sign, call, value, gas_limit)
        number, transaction = self._send_first(signer, call, value, sign, is_repeat=is_repeat)
        self._waiting[account] = transaction
        receipt, transaction_hash = self._await_receipt(account, transaction, number, sign)
        del self._waiting[account]
        if receipt.get("status") != "0x1":
            raise RevertedError(
                f"transaction {transaction_hash} reverted in block "
                f"{read_quantity(receipt.get('blockNumber'))}; its gas is spent, nothing else "
                "happened"
            )
        return receipt

    def suggest_tip(self) -> int:
        """The priority fee to pay, in wei a unit of gas."""
        return self.quantity("eth_maxPriorityFeePerGas")

    def estimate_gas(self, request: JsonObject) -> int:
        """The gas that a transaction needs.

        Raises:
            RpcCallError: It would revert.
        """
        return self.quantity("eth_estimateGas", request)

    def send_raw(self, raw: bytes) -> None:
        """Send a signed transaction.

        Raises:
            RpcCallError: It is refused.
        """
        self.call("eth_sendRawTransaction", to_hex(raw))

    def resend(self, raw: bytes) -> None:
        """Send a transaction again that has no receipt after RESEND_SECONDS."""
        with suppress(RpcCallError):  # the node has it already
            self.send_raw(raw)

    def read_account(self, account: Address) -> AccountView:
        """What the account's next transaction depends on."""
        block = self.call_object("eth_getBlockByNumber", "latest", False) or {}
        return AccountView(
            number=read_quantity(block.get("number", "0x0")),
            base_fee=read_quantity(block.get("baseFeePerGas", "0x0")),
            first=self.get_nonce(account, "latest"),
            pending=self.get_nonce(account, "pending"),
        )

    def get_nonce(self, account: Address, block: str) -> int:
        """The nonce of an account at a block; at `pending`, with its transactions that wait."""
        return self.quantity("eth_getTransactionCount", to_hex(account), block)

    def find_next_nonce(self, view: AccountView, waiting: Sequence[Transaction]) -> int:
        """The nonce after the transactions of an account that wait.

        Args:
            view: The account.
            waiting: Those that the node shows; there may be others.
        """
        return view.pending

    def find_receipt(self, account: Address, transaction: Transaction) -> JsonObject | None:
        """The receipt of a transaction of an account; None if it is in no block."""
        return self.call_object("eth_getTransactionReceipt", to_hex(transaction.hash))

    def _compute_offer(self, base_fee: int) -> GasOffer:
        """An offer that is enough until the base fee doubles."""
        # Where gas is free, the account may have no coins to follow a suggestion.
        tip = max(self.suggest_tip() if base_fee else 0, self.gas_price - base_fee)
        return GasOffer(2 * base_fee + tip, tip)

    def _send_first(
        self,
        signer: Signer,
        call: ContractCall,
        value: int,
        sign: Callable[[int, GasOffer], Transaction],
        *,
        is_repeat: bool,
    ) -> tuple[int, Transaction]:
        """Send a call in the place of the account's transaction that waits, or as its next one.

        Returns the latest block, too.
        """
        account = signer.account
        view = self.read_account(account)
        number, first, offer = view.number, view.first, self._compute_offer(view.base_fee)
        choices: list[Transaction] = []
        waiting = self._waiting.get(account)
        if waiting is not None and first <= waiting.nonce:
            if is_same_call(waiting, call, value) and waiting.max_fee_per_gas >= offer.max_fee:
                self.resend(waiting.raw)
                return number, waiting
            if self._may_raise(offer, waiting):
                choices.append(sign(waiting.nonce, offer.raise_above(waiting)))
        others = self.list_waiting(signer) if first < view.pending else []
        pending = self.find_next_nonce(view, others)
        if identify_call(call.to, call.data)[0] is CallKind.COMMITMENT:
            choices += [sign(first, offer)] if first < view.pending else []
        elif self.gas_price or is_repeat:
            same = self._follow_same(others, call, value, offer, sign, is_repeat=is_repeat)
            before = [each for each in others if same is None or each.nonce < same.nonce]
            if self.gas_price:
                self._raise_others(signer, before, offer)
            if same is not None:
                self.resend(same.raw)
                return number, same
        for transaction in choices:
            # The earlier one may be in a block by now or pay, or the balance be too low for more.
            with suppress(RpcCallError):
                self.send_raw(transaction.raw)
                # This client's own earlier call is its caller's business.
                self._tell_place([each for each in others if each != waiting], transaction)
                return number, transaction
        if others and not self.gas_price:
            self.on_note(f"{describe_waiting(others[0])} waits before it")
        transaction = sign(pending, offer)
        self._send(transaction)
        return number, transaction

    def list_waiting(self, signer: Signer) -> list[Transaction]:
        """The transactions of an account that wait for a block, as far as the node tells.

        They are in the order of their nonces. Each is proven by the signature of the account, so no
        node can make the account sign a call again that it never made on this chain.
        """
        content: JsonObject = {}
        with suppress(RpcCallError):  # a node of an older version
            content = self.call_object("txpool_contentFrom", to_hex(signer.account)) or {}
        pending = content.get("pending")
        shown = list(pending.values()) if isinstance(pending, dict) else []
        found: dict[int, Transaction] = {}
        give_up_at = time.monotonic() + LIST_SECONDS
        for each in shown[:WAITING_LIMIT]:
            if time.monotonic() >= give_up_at:
                break
            name = each.get("hash") if isinstance(each, dict) else None
            raw = self.call("eth_getRawTransactionByHash", name)
            if raw is None:  # it is in a block by now, or was replaced
                continue
            with suppress(InvalidTransaction):
                transaction = decode_transaction(read_bytes(raw))
                if signer.has_signed(transaction):
                    found[transaction.nonce] = transaction
        return [found[nonce] for nonce in sorted(found)]

    def _follow_same(
        self,
        others: Sequence[Transaction],
        call: ContractCall,
        value: int,
        offer: GasOffer,
        sign: Callable[[int, GasOffer], Transaction],
        *,
        is_repeat: bool,
    ) -> Transaction | None:
        """The transaction to send for a call of which the same waits; None if none does."""
        same = next((each for each in others if is_same_call(each, call, value)), None)
        if same is None:
            return None
        if not self.gas_price or not offer.pays_more_than(same):
            self.on_note(f"{describe_waiting(same)} waits already, and goes on waiting")
            return same
        raised = sign(same.nonce, offer.raise_above(same))
        self._send(raised)
        self._tell_place(others, raised)
        return raised

    def _raise_others(self, signer: Signer, before: Sequence[Transaction], offer: GasOffer) -> None:
        """Send transactions again at a price, since the account's next one waits behind them.

        Raises:
            RpcCallError: The node refuses one, for example because the balance is too low.
        """
        for each in before:
            told = f"before it waits {describe_waiting(each)}"
            if not offer.pays_more_than(each):
                self.on_note(f"{told}, which pays as much")
                continue
            raised = signer.raise_price(each, offer.raise_above(each))
            if raised is None:
                self.on_note(f"{told}, whose price only its wallet can raise")
                continue
            try:
                self._send(raised)
            except RpcCallError as error:
                if not str(error).startswith("nonce too low"):  # it is in a block by now
                    raise RpcCallError(error.code, f"{told}; for its new price: {error}") from error
            else:
                self.on_note(f"{told}, which now pays the same price")

    def _tell_place(self, others: Sequence[Transaction], transaction: Transaction) -> None:
        """Tell the user which of the transactions that waited is replaced by another one."""
        for each in others:
            if each.nonce == transaction.nonce and each.hash != transaction.hash:
                is_same = (each.to, each.data, each.value) == (
                    transaction.to,
                    transaction.data,
                    transaction.value,
                )
                outcome = "" if is_same else ", which is dropped: send that again"
                self.on_note(f"it takes the place of {describe_waiting(each)}{outcome}")

    def _send(self, transaction: Transaction) -> None:
        """Send a transaction.

        Raises:
            RpcCallError: The node refuses it; with the price that would do, if that is why.
        """
        try:
            self.send_raw(transaction.raw)
        except RpcCallError as error:
            if str(error).startswith(REFUSED_FOR_FUNDS):
                raise RpcCallError(error.code, f"{error}; {self._name_coins_cure()}") from error
            if not str(error).startswith(REFUSED_FOR_THE_PRICE):
                raise
            hint = self._find_price(transaction)
            option = "--gas-price" if hint is None else str(hint)
            raise RpcCallError(error.code, f"{error}; give {option}") from error

    def _name_coins_cure(self) -> str:
        """What an account does that has too few coins for gas."""
        cure = (
            "get coins: pot wallet faucet on a development network, else from another account with "
            "pot wallet send --token coin"
        )
        return f"leave --gas-price out and wait for free gas, or {cure}" if self.gas_price else cure

    def _may_raise(self, offer: GasOffer, transaction: Transaction) -> bool:
        """Whether a transaction may be sent again for more; a price that was given stays."""
        return not self.gas_price and offer.may_raise_tip(transaction)

    def _find_price(self, transaction: Transaction) -> GasHint | None:
        """The price with which a transaction need not wait; None if it offers that."""
        with suppress(ClientError):  # only a hint to the user
            price = self.quantity("eth_gasPrice")
            if price > transaction.max_fee_per_gas:
                return GasHint(price, transaction.gas_limit)
        return None

    def _await_receipt(
        self,
        account: Address,
        first: Transaction,
        raised_at: int,
        sign: Callable[[int, GasOffer], Transaction],
    ) -> tuple[JsonObject, str]:
        """The receipt of a transaction or of one with higher fees in its place, and its hash."""
        sent = [first]
        started = sent_at = time.monotonic()
        hint: GasHint | None = None
        for poll in count():
            if time.monotonic() - started >= RECEIPT_SECONDS:
                break
            # The last one is the likeliest to be included, but any may be; one request each time.
            transaction = sent[-1 - poll % len(sent)]
            receipt = self.find_receipt(account, transaction)
            if receipt is not None:
                return receipt, to_hex(transaction.hash)
            if time.monotonic() - sent_at > RESEND_SECONDS:
                sent_at = time.monotonic()
                view = self.read_account(account)
                offer = self._compute_offer(view.base_fee)
                if (
                    view.first == first.nonce
                    and view.number >= raised_at + RAISE_BLOCKS
                    and self._may_raise(offer, sent[-1])
                ):
                    raised_at = view.number
                    sent.append(sign(first.nonce, offer.raise_above(sent[-1])))
                    self._waiting[account] = sent[-1]
                self.resend(sent[-1].raw)
                was_told, hint = hint is not None, self._find_price(sent[-1])
                if hint is not None and not was_told:
                    self.on_wait(hint)
            time.sleep(POLL_SECONDS)
        cause = "does the network make blocks?"
        if hint is not None:
            cause = f"it offers too little for gas: repeat it with {hint}, or wait;"
        raise ClientError(
            f"transaction {to_hex(sent[-1].hash)} is not in a block after {RECEIPT_SECONDS:.0f} s; "
            f"{cause} `eth_getTransactionReceipt` will tell when it is in one"
        )
