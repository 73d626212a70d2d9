"""Reads contracts in a stored state by executing their code (docs/spec/contracts.md, section 3)."""

from dataclasses import dataclass
from typing import Self, TypeVar

from chain.contracts.abi import ContractView, InvalidAnswerError
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import CallRequest
from chain.execution.evm import call
from chain.hexadecimal import to_hex
from chain.primitives import Hash32
from chain.state.world_state import ReadableDatabase
from chain.types.header import Header

T = TypeVar("T")
"""The type of an answer."""


@dataclass(frozen=True, slots=True)
class StateReader:
    """Answers views in one state."""

    database: ReadableDatabase
    """The database with the state."""
    state_root: Hash32
    environment: BlockEnvironment
    """The properties of the block that the contracts see."""
    gas_limit: int | None = None
    """The gas limit of one view; None for the block's gas limit."""

    @classmethod
    def at(cls, database: ReadableDatabase, header: Header, chain_id: int) -> Self:
        """A reader of the state after a block; the contracts see that block."""
        return cls(database, header.state_root, BlockEnvironment.of(header, chain_id))

    def read(self, view: ContractView[T]) -> T:
        """The answer of a view.

        Raises:
            InvalidAnswerError: The contract failed, or its answer has other types.
            MissingTrieNodeError: The state is not in the database.
        """
        request = CallRequest(to=view.to, data=view.data, gas_limit=self.gas_limit)
        result = call(self.database, self.state_root, self.environment, request)
        if not result.is_success:
            raise InvalidAnswerError(f"a view of {to_hex(view.to)} failed: {result.error}")
        return view.decode(result.output)
