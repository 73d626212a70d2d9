"""Defects planted in our parts of the engine; the comparison must find each of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from chain.execution import effort, engine
from chain.execution.code_analysis import CodeAnalysis
from chain.execution.engine import Computation, EngineState
from chain.state.world_state import WorldState
from chain.types.transaction import Authorization, recover_authority

Mutant = Callable[[pytest.MonkeyPatch], None]


def forget_refunds_of_inner_calls(patch: pytest.MonkeyPatch) -> None:
    """A finished call does not hand its refund to its caller."""
    add = Computation.add_child_computation

    def add_without_refund(self: Computation, child: Computation) -> None:
        kept = self._absorbed_refund
        add(self, child)
        self._absorbed_refund = kept

    patch.setattr(Computation, "add_child_computation", add_without_refund)


def keep_transient_storage_of_failed_calls(patch: pytest.MonkeyPatch) -> None:
    """A failed call does not undo its transient storage."""

    set_transient = WorldState.set_transient_storage

    def set_without_undo(self: WorldState, address: bytes, slot: int, value: bytes) -> None:
        set_transient(self, address, slot, value)
        self._undo.pop()

    patch.setattr(WorldState, "set_transient_storage", set_without_undo)


def refund_without_limit(patch: pytest.MonkeyPatch) -> None:
    """More than a fifth of the gas is refunded."""
    patch.setattr(engine, "MAX_REFUND_QUOTIENT", 2)


def skip_chain_of_authorizations(patch: pytest.MonkeyPatch) -> None:
    """An authorization for another chain is carried out."""
    authorize = EngineState._authorize

    def authorize_any_chain(self: EngineState, entry: Authorization) -> int:
        authority = recover_authority(entry)
        patch.setattr(engine, "recover_authority", lambda _entry: authority)
        return authorize(self, replace(entry, chain_id=0))

    patch.setattr(EngineState, "_authorize", authorize_any_chain)


def jump_into_push_data(patch: pytest.MonkeyPatch) -> None:
    """A JUMPDEST within the data of a PUSH is a destination."""

    def analyze(code: bytes) -> CodeAnalysis:
        padded = code + bytes(33)
        return CodeAnalysis(padded, bytes(byte == 0x5B for byte in padded))

    patch.setattr(effort, "analyze_code", analyze)
    patch.setattr(effort, "analyze_contract_code", analyze)


MUTANTS: Final[tuple[Mutant, ...]] = (
    forget_refunds_of_inner_calls,
    keep_transient_storage_of_failed_calls,
    refund_without_limit,
    skip_chain_of_authorizations,
    jump_into_push_data,
)
