"""What the RPC process asks of a call worker: parsed values in one frame (docs/spec/rpc.md, 5)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from chain.execution.call_values import AccountOverride, CallRequest
from chain.json_types import JsonObject
from chain.primitives import Address, BlockNumber


class CallMethod(StrEnum):
    """What the worker does with the call."""

    CALL = "call"
    ESTIMATE_GAS = "estimate_gas"


@dataclass(frozen=True, slots=True, config=ConfigDict(ser_json_bytes="hex", val_json_bytes="hex"))
class WorkerRequest:
    """One call on the state after one block."""

    method: CallMethod
    block: BlockNumber
    is_pending: bool
    """The opcodes see the block after that one."""
    call: CallRequest
    overrides: Mapping[Address, AccountOverride]
    seconds: float
    """How long it may take."""


_ADAPTER: Final = TypeAdapter(WorkerRequest)


def encode_request(request: WorkerRequest) -> JsonObject:
    """What a frame says of `request`."""
    fields: JsonObject = _ADAPTER.dump_python(request, mode="json")
    return fields


def decode_request(body: bytes) -> WorkerRequest:
    """The request that the body of a frame carries."""
    return _ADAPTER.validate_json(body)
