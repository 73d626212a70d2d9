"""Prague's precompiled contracts, by address (docs/spec/state-transition.md, section 8)."""

from collections.abc import Callable, Mapping
from typing import Final

from eth.abc import ComputationAPI
from eth.vm.forks.prague.computation import PRAGUE_PRECOMPILES

from chain.primitives import Address

Precompile = Callable[[ComputationAPI], object]
"""Charges gas, reads the message's data, and sets the output or raises a VMError."""

PRECOMPILES: Final[Mapping[Address, Precompile]] = dict(PRAGUE_PRECOMPILES)
"""By address, 0x01 to 0x11."""
