"""Parses the JSON of a call and of state overrides (docs/spec/rpc.md, section 2)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from chain.execution.call_values import AccountOverride, CallRequest
from chain.json_types import Json, JsonObject
from chain.primitives import ZERO_ADDRESS, Address
from chain.types.transaction import AccessList, Authorization
from node.rpc.errors import ErrorCode, RpcError, invalid_params
from node.rpc.parameters import (
    parse_address,
    parse_data,
    parse_hash,
    parse_list,
    parse_named,
    parse_object,
    parse_quantity,
    parse_slot,
    parse_uint64,
)

MAX_ACCESS_LIST_ENTRIES: Final = 4_000
"""Limit of addresses, and of keys of one address: more than a transaction of 128 KiB can hold."""

MAX_OVERRIDES: Final = 1_000
"""Limit of accounts in a state override, and of slots of one account."""

MAX_AUTHORIZATIONS: Final = 1_000
"""Limit of authorizations. At 25,000 gas each, more than a transaction of 2**24 gas can pay for."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class FeeOffer:
    """The fees that a caller offers, in wei for a unit of gas; None if the caller left one out."""

    max_fee_per_gas: int | None
    max_priority_fee_per_gas: int | None

    def compute_gas_price(self, base_fee_per_gas: int) -> int:
        """The gas price that a block takes; 0 if no fee is offered, so that the call is free.

        Raises:
            RpcError: -32000: The price is below the base fee.
        """
        if not self.max_fee_per_gas and not self.max_priority_fee_per_gas:
            return 0
        tip = self.max_priority_fee_per_gas or 0
        wanted = base_fee_per_gas + tip
        price = wanted if self.max_fee_per_gas is None else min(self.max_fee_per_gas, wanted)
        if price < base_fee_per_gas:
            raise RpcError(
                ErrorCode.INVALID_INPUT,
                f"max fee per gas less than block base fee: maxFeePerGas: {price}, "
                f"baseFee: {base_fee_per_gas}",
            )
        return price


def parse_call(value: Json, base_fee_per_gas: int) -> CallRequest:
    """The call that a transaction object describes.

    Raises:
        RpcError: -32602: A field is invalid, `input` and `data` differ, or there are two kinds of
            fees. -32000: The fee is below the base fee. -32005: A list or the data is too long.
    """
    call = parse_object(value)

    def get(name: str, parse: Callable[[Json], Value]) -> Value | None:
        given = call.get(name)
        return None if given is None else parse_named(name, parse, given)

    data, input_data = get("data", parse_data), get("input", parse_data)
    if data is not None and input_data is not None and data != input_data:
        raise invalid_params(
            'both "data" and "input" are set and not equal. Please use "input" to pass '
            "transaction call data"
        )
    gas_price = get("gasPrice", parse_quantity)
    offer = FeeOffer(
        get("maxFeePerGas", parse_quantity), get("maxPriorityFeePerGas", parse_quantity)
    )
    if gas_price is not None:
        if offer != FeeOffer(None, None):
            raise invalid_params(
                "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified"
            )
        offer = FeeOffer(gas_price, gas_price)
    max_fee, tip = offer.max_fee_per_gas, offer.max_priority_fee_per_gas
    if max_fee is not None and tip is not None and tip > max_fee:
        raise invalid_params(f"maxFeePerGas ({max_fee}) < maxPriorityFeePerGas ({tip})")
    return CallRequest(
        to=get("to", parse_address),
        data=input_data if input_data is not None else data or b"",
        sender=get("from", parse_address) or ZERO_ADDRESS,
        value=get("value", parse_quantity) or 0,
        gas_limit=get("gas", parse_uint64),
        gas_price=offer.compute_gas_price(base_fee_per_gas),
        access_list=get("accessList", _parse_access_list) or (),
        authorization_list=get("authorizationList", _parse_authorizations) or (),
    )


def _parse_access_list(value: Json) -> AccessList:
    entries = [parse_object(entry) for entry in parse_list(value, limit=MAX_ACCESS_LIST_ENTRIES)]
    return tuple(
        (
            parse_address(entry.get("address")),
            tuple(
                parse_hash(key)
                for key in parse_list(entry.get("storageKeys"), limit=MAX_ACCESS_LIST_ENTRIES)
            ),
        )
        for entry in entries
    )


def _parse_authorizations(value: Json) -> tuple[Authorization, ...]:
    entries = [parse_object(entry) for entry in parse_list(value, limit=MAX_AUTHORIZATIONS)]
    return tuple(
        Authorization(
            chain_id=parse_quantity(entry.get("chainId")),
            address=parse_address(entry.get("address")),
            nonce=parse_uint64(entry.get("nonce")),
            y_parity=parse_uint64(entry.get("yParity")),
            r=parse_quantity(entry.get("r")),
            s=parse_quantity(entry.get("s")),
        )
        for entry in entries
    )


def parse_overrides(value: Json) -> Mapping[Address, AccountOverride]:
    """The overridden accounts by address, from the JSON of geth's state override set.

    Raises:
        RpcError: -32602: A field is invalid. -32005: There are too many accounts or slots.
    """
    overrides = parse_object(value)
    if len(overrides) > MAX_OVERRIDES:
        raise RpcError(ErrorCode.LIMIT_EXCEEDED, f"more than {MAX_OVERRIDES} accounts")
    return {
        parse_address(address): _parse_override(parse_object(given))
        for address, given in overrides.items()
    }


def _parse_override(given: JsonObject) -> AccountOverride:
    unknown = sorted(set(given) - {"balance", "nonce", "code", "state", "stateDiff"})
    if unknown:
        raise invalid_params(f"unknown override {unknown[0]}")
    if given.get("state") is not None and given.get("stateDiff") is not None:
        raise invalid_params("account has both 'state' and 'stateDiff'")

    def get(name: str, parse: Callable[[Json], Value]) -> Value | None:
        return None if given.get(name) is None else parse_named(name, parse, given[name])

    return AccountOverride(
        balance=get("balance", parse_quantity),
        nonce=get("nonce", parse_uint64),
        code=get("code", parse_data),
        storage=get("state", _parse_slots),
        storage_changes=get("stateDiff", _parse_slots) or {},
    )


def _parse_slots(value: Json) -> dict[int, int]:
    slots = parse_object(value)
    if len(slots) > MAX_OVERRIDES:
        raise RpcError(ErrorCode.LIMIT_EXCEEDED, f"more than {MAX_OVERRIDES} slots")
    return {parse_slot(slot): parse_slot(content) for slot, content in slots.items()}
