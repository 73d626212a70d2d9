"""The parameters that all nodes of a network share (docs/spec/state-transition.md, section 7).

They are the fields of `config.proofOfTraining` in genesis.json. No other setting changes consensus.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Final

from chain.hexadecimal import from_plain_hex, to_hex
from chain.json_types import Json
from chain.primitives import Address
from chain.types.certificate import MAX_VALIDATORS
from chain.types.receipt import TRANSACTION_GAS_LIMIT
from chain.types.validator_set import compute_max_faulty

UNPRICED_GAS_PER_SECOND: Final = 1_000_000
"""The slowest execution of Ethereum's gas on this engine; it counts if `gas_per_tick` is 0."""

TICKS_PER_SECOND: Final = 4_000_000
"""A tick is 250 ns on the machine of docs/measurements.md (`chain.execution.effort`)."""

BALLOTS: Final = 3
"""The most ballots of an attempt: MAX_BALLOTS of TaskRegistry."""

TIMEOUT_CAP_FACTOR: Final = 3
"""The largest view timeout must be this many times the slowest full block, or views may never
converge."""


class BaseFeeMode(StrEnum):
    """The rule for the base fee of the next block."""

    FIXED = "fixed"
    """The base fee stays as in genesis. With 0, a new wallet can claim rewards without coins."""
    EIP1559 = "eip1559"
    """Ethereum's rule, but never below the floor."""


class InvalidGenesisError(Exception):
    """The genesis file is wrong. The message names the setting and the cure."""


@dataclass(frozen=True, slots=True)
class ChainParameters:
    """The parameters of a network; all are integers, in the unit that the name ends with."""

    validators: tuple[Address, ...] = ()
    """The first validators, ascending; empty only in a template that `pot genesis` fills in."""
    min_block_interval_ms: int = 500
    """A block is proposed at the earliest this long after its parent's proposal."""
    empty_block_interval_ms: int = 5_000
    """An empty block is proposed this long after its parent's proposal."""
    view_timeout_base_ms: int = 2_000
    """Timeout of view 1: at least five times the largest one-way message delay."""
    view_timeout_cap_ms: int = 90_000
    """Largest timeout of a view: at least three times the slowest full block."""
    base_fee_mode: BaseFeeMode = BaseFeeMode.FIXED
    base_fee_floor_wei: int = 0
    transaction_gas_limit: int = 2**24
    """EIP-7825's cap: one transaction cannot fill a block."""
    gas_per_tick: int = 2
    """A transaction pays at least this much gas for each tick of its execution
    (`chain.execution.effort`). With 0 it pays for its gas alone."""
    phase_floor_blocks: int = 8
    """A training phase lasts at least this many blocks, unless it ends early."""
    grace_blocks: int = 3
    """A quorum of verdicts waits at least this many blocks for the other validators."""
    blob_bytes_per_second: int = 1_000_000
    """The download speed that validators are expected to have; it limits how short a phase may
    be."""
    validator_stake_pot: int = 10_000
    """The stake of each validator, in whole POT; it is lost if the validator signs conflicting
    votes."""
    min_validators: int = 1
    """No validator can be removed from a set of this size."""
    validator_change_blocks: int = 100
    """Blocks from scheduling a change of the set to its activation; until then no other change can
    be scheduled."""
    evidence_blocks: int = 200_000
    """For how many blocks evidence is accepted, and the stake of a removed validator locked."""

    task_slots: int = 64
    """The most tasks that are open at a time."""
    slot_price: int = 10**13
    """Base units of POT for a second of a slot; it doubles with each eighth of the slots that is
    taken. A day costs 0.864 POT at first."""
    second_price: int = 10**14
    """Base units of POT for a second of one validator's worker: 8.64 POT a day."""
    byte_price: int = 10**17
    """Base units of POT for a GiB of one validator's memory or disk for a day."""
    examination_fee: int = 10**16
    """Base units of POT for a validator's answer to a new task, besides the time of its dry run."""
    pending_seconds: int = 3_600
    """For how long validators may answer to a new task; then it expires."""
    max_lifetime_seconds: int = 30 * 86_400
    """How far in the future the end of a task's lifetime may be."""
    idle_seconds: int = 86_400
    """A task expires after this long without a paid attempt, or later if its attempts are long: a
    day in which a submitter finds miners, or mends what keeps them away."""
    seat_bond_pot: int = 1
    """The bond of each miner's seat in whole POT; it is burnt if the miner misses two of eight
    attempts."""
    seat_attempts: int = 256
    """The term of a seat: after so many attempts a newcomer may take its place in a full task."""

    @property
    def execution_gas_per_second(self) -> int:
        """The least gas that a second of execution costs; bench/execution_floor.py measures it."""
        return max(UNPRICED_GAS_PER_SECOND, TICKS_PER_SECOND * self.gas_per_tick)

    def to_json(self) -> dict[str, Json]:
        """The JSON object `config.proofOfTraining` of genesis.json."""
        values: dict[str, Json] = asdict(self)
        values["validators"] = [to_hex(validator) for validator in self.validators]
        values["base_fee_mode"] = self.base_fee_mode.value
        return values

    def canonical_bytes(self) -> bytes:
        """All parameters, defaults included, as sorted and compact JSON; genesis commits to it."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()


BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "min_block_interval_ms": (10, 60_000),
    "empty_block_interval_ms": (10, 600_000),
    "view_timeout_base_ms": (100, 600_000),
    "view_timeout_cap_ms": (100, 3_600_000),
    "base_fee_floor_wei": (0, 2**63),
    "transaction_gas_limit": (1_000_000, TRANSACTION_GAS_LIMIT),
    "gas_per_tick": (0, 100),
    "phase_floor_blocks": (1, 2**16 - 1),
    "grace_blocks": (1, 1_000),
    "blob_bytes_per_second": (1_000, 2**40),
    "validator_stake_pot": (1, 10**12),
    "min_validators": (1, MAX_VALIDATORS),
    "validator_change_blocks": (1, 1_000_000),
    "evidence_blocks": (1, 100_000_000),
    "task_slots": (1, 1_024),
    "slot_price": (1, 2**63 - 1),
    "second_price": (1, 2**63 - 1),
    "byte_price": (1, 2**63 - 1),
    "examination_fee": (1, 2**63 - 1),
    "pending_seconds": (600, 7 * 86_400),
    "max_lifetime_seconds": (3_600, 365 * 86_400),
    "idle_seconds": (60, 365 * 86_400),
    "seat_bond_pot": (1, 10**9),
    "seat_attempts": (1, 1_000_000),
}
"""Lowest and highest value. Outside, a network could not run or an integer would overflow, here or
in a contract."""


def parse_parameters(section: Mapping[str, Json]) -> ChainParameters:
    """The parameters in `config.proofOfTraining`, with defaults for missing ones.

    Raises:
        InvalidGenesisError: There is an unknown key, a wrong type, or a value out of bounds.
    """
    known = [field.name for field in fields(ChainParameters)]
    unknown = sorted(set(section) - set(known))
    if unknown:
        raise InvalidGenesisError(
            f"config.proofOfTraining.{unknown[0]} is not a setting; known are: {', '.join(known)}"
        )
    numbers = {name: _bounded(name, section[name]) for name in BOUNDS if name in section}
    parameters = ChainParameters(
        validators=_parse_validators(section.get("validators", [])),
        base_fee_mode=_parse_mode(section.get("base_fee_mode", BaseFeeMode.FIXED.value)),
        **numbers,
    )
    _require_order(parameters, "min_block_interval_ms", "empty_block_interval_ms")
    _require_order(parameters, "view_timeout_base_ms", "view_timeout_cap_ms")
    _require_attempt_in_lifetime(parameters)
    return parameters


def compute_attempt_seconds(
    parameters: ChainParameters,
    validator_count: int,
    *,
    commit_seconds: int = 0,
    verdict_seconds: int = 0,
    result_seconds: int = 0,
) -> int:
    """The longest course of an attempt with phases of these lengths, if all blocks are empty.

    It is counted as TaskRegistry does: the commitments, three ballots and the payment, each of them
    as long as the least blocks of a phase take, and the turns of all operators before each phase
    after the commitments and at the end. A quorum of verdicts just before their deadline waits some
    blocks longer for the others.
    """
    max_faulty = compute_max_faulty(validator_count)
    floor_blocks = max(parameters.phase_floor_blocks, 2 * (max_faulty + 1))
    grace_blocks = max(parameters.grace_blocks, max_faulty + 2)
    interval_ms = parameters.empty_block_interval_ms
    floor_seconds = -(-floor_blocks * interval_ms // 1_000)
    grace_seconds = -(-grace_blocks * interval_ms // 1_000)
    turn_seconds = -(-2 * validator_count * interval_ms // 1_000)
    commitments = max(commit_seconds, floor_seconds)
    verdicts = max(verdict_seconds, floor_seconds) + grace_seconds
    results = max(result_seconds, floor_seconds)
    ballots = BALLOTS * (turn_seconds + verdicts + turn_seconds + results)
    return commitments + ballots + turn_seconds + results + turn_seconds


def _require_attempt_in_lifetime(parameters: ChainParameters) -> None:
    """Refuse parameters with which no lifetime is long enough for an attempt."""
    needed = compute_attempt_seconds(parameters, max(1, len(parameters.validators)))
    longest = parameters.max_lifetime_seconds
    if needed > longest:
        raise InvalidGenesisError(
            f"config.proofOfTraining.max_lifetime_seconds is {longest}, and no task could ever be "
            f"active: an attempt can take {needed} s even with the shortest phases; lower "
            "phase_floor_blocks, grace_blocks or empty_block_interval_ms, or raise "
            "max_lifetime_seconds"
        )


def _require_order(parameters: ChainParameters, lower: str, upper: str) -> None:
    values = parameters.to_json()
    low, high = values[lower], values[upper]
    assert isinstance(low, int)
    assert isinstance(high, int)
    if low > high:
        raise InvalidGenesisError(
            f"config.proofOfTraining.{lower} is {low}, above {upper} ({high}); raise {upper}"
        )


def _bounded(name: str, value: Json) -> int:
    low, high = BOUNDS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidGenesisError(
            f"config.proofOfTraining.{name} is {value!r}; give an integer from {low} to {high}"
        )
    return value


def _parse_mode(value: Json) -> BaseFeeMode:
    if value not in tuple(BaseFeeMode):
        raise InvalidGenesisError(
            f"config.proofOfTraining.base_fee_mode is {value!r}; give one of: "
            + ", ".join(BaseFeeMode)
        )
    return BaseFeeMode(str(value))


def _parse_validators(value: Json) -> tuple[Address, ...]:
    name = "config.proofOfTraining.validators"
    if not isinstance(value, list) or len(value) > MAX_VALIDATORS:
        raise InvalidGenesisError(f"{name}: give a list of at most {MAX_VALIDATORS} addresses")
    addresses: list[Address] = []
    for entry in value:
        try:
            address = from_plain_hex(str(entry))
        except ValueError:
            address = b""
        if len(address) != 20 or not any(address):
            raise InvalidGenesisError(f"{name}: {entry!r} is not a 20-byte address in hex")
        addresses.append(Address(address))
    if addresses != sorted(set(addresses)):
        raise InvalidGenesisError(f"{name}: sort the addresses and name each once")
    return tuple(addresses)
