"""Room for a miner in a task, and the bonds of a seat (docs/spec/contracts.md, section 6)."""

from collections.abc import Callable
from dataclasses import dataclass

from chain.amounts import format_amount
from chain.contracts import faucet, miner_seats, training_token
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import MINER_SEATS, TRAINING_TOKEN
from chain.contracts.miner_seats import (
    DISPLACED_PER_UNIT,
    MAX_MINERS,
    compute_free_units,
    compute_least_units,
)
from chain.hexadecimal import to_hex
from chain.primitives import TOKEN_UNIT, Address, TaskId
from chain.training.fines import compute_bond
from chain.training.task_spec import TaskSpec
from miner.client import FailoverClient
from miner.light import LightClient
from miner.outcomes import NoRoomError
from pot_common.rpc_replies import ClientError


@dataclass(frozen=True, slots=True)
class Place:
    """Room for a seat."""

    units: int
    """The units to declare."""
    displaced: tuple[Address, ...]
    """The miners whose seats end to make room, the oldest seats first."""


def list_seats_to_take_back(
    client: FailoverClient,
    light: LightClient,
    account: Address,
    task: TaskId,
    spec: TaskSpec,
    units: int,
) -> tuple[Address, ...]:
    """The seats that a displaced miner may end to have its own again; empty if it may not.

    They were taken since the last attempt opened, and the task lacks seats or units for an attempt
    that they would owe. Those that have displaced miners come first, then the newest, so a miner
    that took other room keeps its seat if it can. What a node answers is not proven; the contract
    checks it.

    Raises:
        ClientError: No node answers.
    """
    reward = spec.reward
    standing = light.standing(task, account)
    opening = standing.opening
    is_enough = opening.seat_count >= reward.min_miners
    is_enough = is_enough and opening.registered_units >= reward.min_units
    if opening.is_open or is_enough or not standing.seat.can_return:
        return ()
    ordinal = light.progress(task, account).attempt.ordinal
    if client.read(miner_seats.get_seat(task, account)).last_attempt != ordinal:
        return ()
    seats = client.read(miner_seats.list_seats(task))
    taken = {each.miner: each.units for each in seats}
    states = {
        each.miner: client.read(miner_seats.get_seat(task, each.miner))
        for each in seats
        if each.first_attempt > ordinal
    }
    # All that worked in the last attempt have room beside each other.
    ended = sorted(
        (not state.has_displaced, -state.registered_block, miner)
        for miner, state in states.items()
        if state.has_displaced or state.last_attempt != ordinal
    )
    found: list[Address] = []
    for _, _, miner in ended:
        if compute_free_units(reward.max_units, reward.min_miners, tuple(taken.values())) >= units:
            break
        found.append(miner)
        del taken[miner]
    free = compute_free_units(reward.max_units, reward.min_miners, tuple(taken.values()))
    return tuple(found) if free >= units else ()


class Places:
    """Finds room for a seat in one task, and pays for it."""

    def __init__(
        self,
        client: FailoverClient,
        light: LightClient,
        account: Address,
        task: TaskId,
        spec: TaskSpec,
        transact: Callable[[ContractCall], None],
    ) -> None:
        self._client = client
        self._light = light
        self._account = account
        self._task = task
        self._spec = spec
        self._transact = transact

    def choose(self, units: int, *, is_returning: bool) -> Place:
        """The place for a seat of at most so many units; of all of them if it is taken again.

        Raises:
            NoRoomError: The task is full, and too few seats can be displaced.
            ClientError: A seat of the task has more units.
        """
        place = self._find(units)
        if is_returning and place.units < units:
            back = list_seats_to_take_back(
                self._client, self._light, self._account, self._task, self._spec, units
            )
            if back:
                return Place(units, back)
            raise NoRoomError(
                f"other miners do the {units} units of task {self._task} for which this account "
                "has bonds there"
            )
        return place

    def _find(self, units: int) -> Place:
        reward = self._spec.reward
        seats = self._client.read(miner_seats.list_seats(self._task))
        taken = {each.miner: each.units for each in seats}
        least = compute_least_units(reward.max_units)
        if units < least:
            raise ClientError(
                f"a seat in task {self._task} has at least {least} units, and {units} are too few; "
                f"give --units {least} or more to a machine that computes them in time"
            )
        wanted = min(units, reward.max_units)
        ordinal = self._light.progress(self._task, self._account).attempt.ordinal
        term = self._light.network.parameters.seat_attempts
        over = sorted(
            (each.first_attempt, each.miner, each.units)
            for each in seats
            if each.first_attempt + term <= ordinal + 1
        )
        free = compute_free_units(reward.max_units, reward.min_miners, tuple(taken.values()))
        displaced: list[Address] = []
        displaceable = DISPLACED_PER_UNIT * wanted
        for _, miner, freed in over:
            if free >= wanted and len(taken) < MAX_MINERS:
                break
            left = [each for other, each in taken.items() if other != miner]
            free_then = compute_free_units(reward.max_units, reward.min_miners, left)
            # Fewer units than wanted may be declared in the end, and displace fewer.
            is_worth_it = DISPLACED_PER_UNIT * (free_then - free) >= freed
            # No attempt would open with fewer units or seats, so the contract refuses that.
            is_enough = sum(left) + min(wanted, free_then) >= reward.min_units
            is_enough = is_enough and len(left) + 1 >= reward.min_miners
            if freed <= displaceable and is_worth_it and is_enough:
                displaced.append(miner)
                del taken[miner]
                free = free_then
                displaceable -= freed
        if free < least or len(taken) == MAX_MINERS:
            raise NoRoomError(
                f"other miners do all {reward.max_units} units of task {self._task}; "
                "`pot task list` shows other tasks"
            )
        return Place(min(wanted, free), tuple(displaced))

    def approve_bonds(self, units: int) -> dict[str, str]:
        """Let the contract take the bonds of a new seat, and return them for the log.

        Raises:
            ClientError: The account cannot pay, or a node asks for more than the rules do.
        """
        reward = self._spec.reward
        bond = self._client.read(miner_seats.required_bond(self._task, units))
        most = compute_bond(units * reward.unit_price, self._spec.verification.audit_ppm)
        if bond > most:
            raise ClientError(
                f"a node names a bond of {format_amount(bond)}, above the {format_amount(most)} "
                "that the rules require; use another node"
            )
        seat_bond = self._light.network.parameters.seat_bond_pot * TOKEN_UNIT
        needed = {TRAINING_TOKEN: seat_bond}
        needed[reward.token] = needed.get(reward.token, 0) + bond
        for token, amount in sorted(needed.items()):
            self._fund(token, amount)
        for token, amount in sorted(needed.items()):
            self._transact(training_token.approve(token, MINER_SEATS, amount))
        return {"bond": format_amount(bond), "seat_bond_pot": format_amount(seat_bond)}

    def _fund(self, token: Address, needed: int) -> None:
        """Make sure that the account can pay, if need be with a development network's faucet."""
        balance = self._token_balance(token)
        if balance < needed and token == TRAINING_TOKEN and self._client.node_info().has_faucet:
            self._transact(faucet.drip(self._account))
            balance = self._token_balance(token)
        if balance < needed:
            name = "POT" if token == TRAINING_TOKEN else f"of token {to_hex(token)}"
            raise ClientError(
                f"account {to_hex(self._account)} has {format_amount(balance)} "
                f"{name}, the bonds of task {self._task} are {format_amount(needed)}: send it the "
                "difference or declare fewer --units"
            )

    def _token_balance(self, token: Address) -> int:
        return self._client.read(training_token.balance_of(token, self._account))
