"""The request of an RPC process to a call worker (docs/spec/rpc.md, section 5)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from chain.execution.call_values import AccountOverride, CallRequest
from chain.json_types import JsonObject
from chain.primitives import Address, BlockNumber


class CallMethod(StrEnum):
    """The work on a call."""

    CALL = "call"
    ESTIMATE_GAS = "estimate_gas"


@dataclass(frozen=True, slots=True, config=ConfigDict(ser_json_bytes="hex", val_json_bytes="hex"))
class WorkerRequest:
    """A call on the state after one block."""

    method: CallMethod
    block: BlockNumber
    is_pending: bool
    """Whether the opcodes see the block after that one."""
    call: CallRequest
    overrides: Mapping[Address, AccountOverride]
    seconds: float
    """The time limit."""


_ADAPTER: Final = TypeAdapter(WorkerRequest)


def encode_request(request: WorkerRequest) -> JsonObject:
    """The JSON of a request, for the body of a frame."""
    fields: JsonObject = _ADAPTER.dump_python(request, mode="json")
    return fields


def decode_request(body: bytes) -> WorkerRequest:
    """The request in the body of a frame."""
    return _ADAPTER.validate_json(body)
