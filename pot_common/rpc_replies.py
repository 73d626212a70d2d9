"""What nodes answer, as typed values (docs/spec/rpc.md)."""

import re
from typing import Annotated, Final, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from chain.hexadecimal import from_hex
from chain.json_types import Json
from chain.primitives import Address, Hash32
from pot_common.errors import OperatorError

_QUANTITY: Final = re.compile("0x[0-9a-fA-F]+")

Answer = TypeVar("Answer")
"""The type that an answer is read as."""

_Item = TypeVar("_Item")

Items = Annotated[tuple[_Item, ...], FailFast()]
"""A list in an answer. Reading ends at the first wrong item: a node could send millions of them,
and an error for each takes a GiB for each MiB of the answer."""

NAMES_LIMIT: Final = 64
"""Limit of names in a table of an answer, for the same reason."""

HexBytes = Annotated[bytes, BeforeValidator(from_hex)]
"""Bytes, as JSON-RPC writes them."""

HexAddress = Annotated[Address, BeforeValidator(from_hex)]
"""20 bytes, as JSON-RPC writes them."""

HexHash = Annotated[Hash32, BeforeValidator(from_hex)]
"""32 bytes, as JSON-RPC writes them."""


def _bound_names(value: object) -> object:
    if isinstance(value, dict) and len(value) > NAMES_LIMIT:
        raise ValueError(f"{len(value)} names, limit {NAMES_LIMIT}")
    return value


class ClientError(OperatorError):
    """A node could not do what was asked, in one line of text."""


class Reply(BaseModel):
    """An object in an answer. Keys are camel-case; unknown ones, of newer nodes, are ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


class NodeInfo(Reply):
    """The network of a node, as `pot_nodeInfo` tells it."""

    chain_id: int
    genesis_hash: HexHash
    system_contracts: Annotated[dict[str, HexAddress | None], BeforeValidator(_bound_names)]

    @property
    def has_faucet(self) -> bool:
        """Whether it is a development network, which has a faucet."""
        return self.system_contracts.get("faucet") is not None


class RewardProof(Reply):
    """What an account has earned in a task, in base units, as `pot_getRewardProof` tells it."""

    cumulative: int
    """Earned so far, the claimed part included."""
    claimable: int
    proof: Items[HexHash]
    """The Merkle siblings that the distributor wants to see."""


def read_answer(adapter: TypeAdapter[Answer], value: Json) -> Answer:
    """A decoded answer as a typed value.

    Raises:
        ClientError: The answer has another shape.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise not_understood(f"{where}: {problem['msg']}") from error


def read_quantity(value: Json) -> int:
    """The integer that an answer writes in hex.

    Raises:
        ClientError: The answer has another shape.
    """
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise not_understood(f"{value!r} is no quantity")
    return int(value, 16)


def read_bytes(value: Json) -> bytes:
    """The bytes that an answer writes in hex.

    Raises:
        ClientError: The answer has another shape.
    """
    try:
        return from_hex(value)
    except ValueError as error:
        raise not_understood(f"{value!r} is not hex") from error


def not_understood(problem: str) -> ClientError:
    """The error for an answer of another shape than this version knows."""
    return ClientError(
        f"a node's answer is not understood ({problem}); does it run another version?"
    )


def not_expected(contract: str, problem: str | None) -> ClientError:
    """The error for an answer of a contract that another one, or none, has given.

    Args:
        contract: Its address.
        problem: What is wrong with the answer; None if it is empty.
    """
    found = f"the contract at {contract} is not the expected one ({problem})"
    if problem is None:
        found = f"there is no contract at {contract} that answers"
    return ClientError(
        f"{found}; check the address, and that --rpc names a node of the right network"
    )
