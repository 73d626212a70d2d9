"""Simulated miners: they register, commit, reveal, claim and leave with real calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from chain.contracts import gradient_ledger, miner_seats, reward_distributor, training_token
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import MINER_SEATS, REWARD_DISTRIBUTOR, TRAINING_TOKEN
from chain.contracts.gradient_ledger import Phase
from chain.contracts.miner_seats import ListedSeat, SeatState
from chain.contracts.task_registry import TaskStatus
from chain.crypto import keccak256
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.attempt_records import Attempt
from chain.training.encoding import compute_commitment
from chain.training.history import TaskHistory
from chain.training.reveal import Reveal
from chain.training.rewards import build_reward_tree
from chain.training.task_spec import TaskSpec
from tests.training_simulation.chain import MINERS, STRANGER, Transaction
from tests.training_simulation.cluster import Actor, Cluster
from tests.training_simulation.formats import (
    CHEAT_FACTOR,
    DISPLACED_PER_UNIT,
    MISS_WINDOW,
    compute_bond,
    count_free_units,
)
from tests.training_simulation.values import MAIN_SPEC, TOLERANCE, Payload
from tests.worlds.contracts import CHAIN_ID, SEAT_BOND

if TYPE_CHECKING:
    from tests.training_simulation.validators import Validator

RESEND_MS: Final = 6_000
"""A call that had no effect for this long is sent again."""

AWAY_EVERY: Final = MISS_WINDOW + 1
"""A miner that is away now and then misses one of so many attempts."""

HONEST: Final = "honest"
HABITS: Final = (
    "vanishes",
    "withholds",
    "reveals to one validator",
    "reveals late",
    "reveals just in time",
    "commits twice",
    "cheats",
    "is bad",
    "is near the tolerance",
    "is near a proven cheat",
    "is malformed",
    "claims more units",
    "squats",
    "is away now and then",
    "leaves at once",
    "leaves and comes back",
    "copies a commitment",
)
"""Every way of a miner to be a nuisance; one near the tolerance may be honest."""

MISNAMINGS: Final = (
    "a seat within its term",
    "itself",
    "one seat twice",
    "an unknown miner",
    "more seats than it needs",
    "too few seats",
)
"""What may be wrong with the seats that a newcomer wants to displace."""

TOO_LARGE: Final = "a seat that is too large"
"""A further misnaming: the seat has more units than the newcomer may displace."""

TOO_MANY: Final = "more seats than an attempt can spare"
"""A further misnaming: fewer seats are left than an attempt needs."""

MAKES_WAY: Final = "makes way"
"""The habit of a miner that leaves when a newcomer displaces another one, and comes back later."""

LARGEST: Final = "the largest seat"
"""The aim of a newcomer that displaces the largest seat that it may."""

REST: Final = "the rest"
"""The aim of a newcomer that waits for another one to displace a miner, and takes what is free."""

NUISANCES_WITHOUT_GRADIENT: Final = ("squats", "leaves at once")


@dataclass
class Prepared:
    """A gradient on the disk of its miner."""

    payload: Payload
    salt: Hash32
    units: int
    takers: set[str]
    """The validators that have taken the reveal in the ballot in progress."""
    ballot_number: int = 0
    commitment: Hash32 | None = None


class Miner(Actor):
    """One miner of one task. An account that trains in several tasks has one for each."""

    def __init__(
        self, cluster: Cluster, index: int, habit: str, task_name: str = MAIN_SPEC.name
    ) -> None:
        place = "" if task_name == MAIN_SPEC.name else f" of {task_name}"
        super().__init__(cluster, f"miner {index} ({habit}){place}")
        self.address: Address = MINERS[index]
        self.habit = habit
        self.task_name = task_name
        self.units = cluster.world.units
        self.starts_ms = 0
        """When it begins to look for a seat, since the start."""
        self.misnaming = ""
        self.aim = ""
        self.is_greedy = False
        """Whether it asks for all units of a round before it asks for its own."""
        self._sent_ms: dict[tuple[object, ...], int] = {}
        self._prepared: dict[AttemptId, Prepared] = {}
        self._vanishes_ms = cluster.now_ms + self.random.randrange(5_000, 60_000)
        self._last_seconds = self.random.randrange(4, 8)
        self._is_over = False
        self._comes_back: bool | None = None
        """Whether it takes its seat again after it was displaced; None before."""
        self._stays_away_ms = 0
        """Until when it does not take the seat again that it has left."""
        self._claimed_rounds = 0

    @property
    def is_honest(self) -> bool:
        """Whether it does what its task asks for."""
        return self.habit == HONEST

    @property
    def task_id(self) -> TaskId:
        """The task; 0 until it is on the chain."""
        return self.cluster.chain.find_task(self.task_name)

    def step(self) -> None:
        """Do what the phase of the task asks for."""
        if self.cluster.now_ms < self.cluster.start_ms + self.starts_ms:
            return
        if self.habit == "vanishes" and self.cluster.now_ms > self._vanishes_ms:
            self.is_up = False
            return
        view = self.view
        history = view.histories.get(self.task_id)
        spec = None if history is None else self.cluster.chain.spec(history)
        if history is None or spec is None or history.status is TaskStatus.PENDING:
            return
        if history.is_closed:
            self._claim_at_the_end(history)
            return
        if self.habit in ("leaves at once", "leaves and comes back"):
            self._leave_and_return()
        if self.habit == MAKES_WAY:
            self._make_way()
        attempt = history.attempt
        if not self._register(spec) and not self._finishes(history, spec):
            return
        self._claim_sometimes(history)
        if attempt is None or self.habit in NUISANCES_WITHOUT_GRADIENT:
            return
        phase, _ = view.phase(self.task_id, self.cluster.now)
        if phase is Phase.COMMITMENT:
            self._commit(history, attempt, spec)
        elif phase in (Phase.VERDICT, Phase.AUDIT):
            self._reveal(attempt)

    def stop(self, down_ms: int) -> None:
        """Do nothing for a while; what is on the disk stays."""
        if self.is_up:
            self.cluster.trace(f"{self.name} stops for {down_ms} ms")
            self.is_up = False
            self.cluster.after(down_ms, self.start)

    def start(self) -> None:
        """Go on, unless the miner has vanished for good."""
        has_vanished = self.habit == "vanishes" and self.cluster.now_ms > self._vanishes_ms
        self.is_up = not has_vanished

    def _once(self, key: tuple[object, ...], call: ContractCall, label: str) -> bool:
        """Send a call, and again if nothing came of it for a while."""
        sent_ms = self._sent_ms.get(key)
        if sent_ms is not None and self.cluster.now_ms < sent_ms + RESEND_MS:
            return False
        self._sent_ms[key] = self.cluster.now_ms
        self.send(self.address, call, label)
        return True

    # Registration.

    def _register(self, spec: TaskSpec) -> bool:
        """Register unless registered; True once the chain knows it."""
        state = self.cluster.chain.registrations.get((self.task_id, self.address))
        if state is not None:
            return state
        if self.view.histories[self.task_id].status is not TaskStatus.ACTIVE:
            return False
        if self.aim == REST and not self._wants_rest(spec):
            return False
        phase, _ = self.view.phase(self.task_id, self.cluster.now)
        if self.aim == LARGEST and phase is not Phase.COMMITMENT:
            return False  # it leaves time for others to make way before the next attempt opens
        token = spec.reward.token
        most = spec.reward.max_units if self.misnaming or self.is_greedy else self.units
        amounts = {token: compute_bond(spec, most)}
        amounts[TRAINING_TOKEN] = amounts.get(TRAINING_TOKEN, 0) + SEAT_BOND
        approve = training_token.approve(token, MINER_SEATS, amounts.pop(token))
        if self._once(("approve",), approve, "approve"):
            for other, amount in amounts.items():
                approve = training_token.approve(other, MINER_SEATS, amount)
                self.send(self.address, approve, "approve the seat bond")
            displaced = self._list_displaced(spec)
            if self.is_greedy:
                self._guess(spec.reward.max_units, (), "register for all units")
            if self.misnaming and self.random.random() < 0.7:
                self._misname(spec, displaced)
            else:
                call = miner_seats.register(self.task_id, self.units, displaced)
                self.send(self.address, call, f"register for {self.units}")
            if self.habit == "leaves at once":
                self.send(self.address, miner_seats.leave(self.task_id), "leave")
        return False

    def _list_displaced(self, spec: TaskSpec) -> tuple[Address, ...]:
        """Seats whose term is over, oldest first, if the task is full."""
        seats = self.view.contracts.read(miner_seats.list_seats(self.task_id))
        taken = {each.miner: each.units for each in seats}
        most = DISPLACED_PER_UNIT * self.units
        displaced: list[Address] = []
        over = self._list_over(seats)
        if self.aim == LARGEST:
            over.sort(key=lambda each: -each.units)
        for each in over:
            is_full = count_free_units(spec, list(taken.values())) < self.units
            left = sum(taken.values()) - each.units + self.units
            is_enough = left >= spec.reward.min_units and len(taken) >= spec.reward.min_miners
            if is_full and each.units <= most and is_enough:
                displaced.append(each.miner)
                most -= taken.pop(each.miner)
        return tuple(displaced)

    def _list_over(self, seats: Sequence[ListedSeat]) -> list[ListedSeat]:
        """The seats whose term is over, oldest first."""
        found = self.view.contracts.read(gradient_ledger.get_round(self.task_id))
        term = self.cluster.world.seat_attempts
        return sorted(
            (each for each in seats if each.first_attempt + term <= found.attempt_count + 1),
            key=lambda each: (each.first_attempt, each.miner),
        )

    def _misname(self, spec: TaskSpec, rightly: tuple[Address, ...]) -> None:
        """Try to register with a list of seats that is usually wrong."""
        seats = self.view.contracts.read(miner_seats.list_seats(self.task_id))
        newest_first = sorted(seats, key=lambda each: (-each.first_attempt, each.miner))
        miners = [each.miner for each in newest_first]
        named: Sequence[Address] = rightly
        units = self.units
        match self.misnaming:
            case "a seat within its term":
                free = spec.reward.max_units - sum(each.units for each in seats)
                sums = accumulate((each.units for each in newest_first), initial=free)
                named = miners[: sum(each < self.units for each in sums)]
            case "itself":
                named = (self.address, *rightly)
            case "one seat twice":
                named = (*rightly[:1], *rightly) or miners[-1:] * 2
            case "an unknown miner":
                named = (*rightly, STRANGER)
            case "more seats than it needs":
                over = self._list_over(seats)
                named = [each.miner for each in over[: len(rightly) + 1]]
            case "a seat that is too large":
                most = DISPLACED_PER_UNIT * units
                named = [each.miner for each in self._list_over(seats) if each.units > most][:1]
            case "more seats than an attempt can spare":
                over = sorted(self._list_over(seats), key=lambda each: (each.units, each.miner))
                free = spec.reward.max_units - sum(each.units for each in seats)
                sums = accumulate((each.units for each in over), initial=free)
                named = [each.miner for each in over[: sum(each < units for each in sums)]]
            case _:
                units = spec.reward.max_units
        self._guess(units, named, f"register for {units} and displace {self.misnaming}")

    def _guess(self, units: int, displaced: Sequence[Address], label: str) -> None:
        """Try to register, and expect nothing."""
        call = miner_seats.register(self.task_id, units, displaced)
        guess = Transaction(self.address, call, f"{self.name}: {label}", is_guess=True)
        self.cluster.send(self, guess)

    def _finishes(self, history: TaskHistory, spec: TaskSpec) -> bool:
        """Whether a displaced miner has an attempt to finish.

        If not, it takes a seat again as soon as there is room. Else it wants its bonds back. So
        does a miner that has made way.
        """
        key = (self.task_id, self.address)
        has_made_way = self.habit == MAKES_WAY and key in self.cluster.chain.registrations
        if key not in self.cluster.chain.displaced and not has_made_way:
            return False
        seat = self.view.contracts.read(miner_seats.get_seat(*key))
        attempt = history.attempt
        if attempt is not None and attempt.ordinal <= seat.last_attempt:
            return True
        if self.cluster.now_ms < self._stays_away_ms:
            return False
        if self._comes_back is None:
            self._comes_back = self.habit == MAKES_WAY or self.random.random() < 0.7
        displaced = self._list_displaced(spec) or self._list_reversible(history, spec, seat)
        seats = self.view.contracts.read(miner_seats.list_seats(self.task_id))
        taken = [each.units for each in seats if each.miner not in displaced]
        is_active = history.status is TaskStatus.ACTIVE
        if self._comes_back and is_active and count_free_units(spec, taken) >= self.units:
            call = miner_seats.register(self.task_id, self.units, displaced)
            self._once(("return",), call, "take the seat again")
            return False
        last = seat.last_attempt
        has_worked = last >= seat.bonded_from
        checkers = self.cluster.checkers
        if not has_worked or self.view.number >= checkers.compute_free_block(self.task_id, last):
            call = miner_seats.withdraw_bond(self.task_id)
            self._once(("withdraw",), call, "withdraw after its displacement")
        return False

    def _list_reversible(
        self, history: TaskHistory, spec: TaskSpec, seat: SeatState
    ) -> tuple[Address, ...]:
        """The seats that it may end to have its own again, if no attempt opens.

        Those that have displaced others come first. Others are those of miners that took no part
        in the last attempt.
        """
        contracts = self.view.contracts
        seats = contracts.read(miner_seats.list_seats(self.task_id))
        taken = {each.miner: each.units for each in seats}
        reward = spec.reward
        is_blocked = len(taken) < reward.min_miners or sum(taken.values()) < reward.min_units
        count = contracts.read(gradient_ledger.get_round(self.task_id)).attempt_count
        is_last = seat.is_displaced and seat.last_attempt == count
        if history.attempt is not None or not is_blocked or not is_last:
            return ()
        new = self._read_new(seats, count)
        ended = sorted(
            (not found.has_displaced, miner)
            for miner, found in new.items()
            if found.has_displaced or found.last_attempt != count
        )
        named: list[Address] = []
        for _, miner in ended:
            if count_free_units(spec, list(taken.values())) >= self.units:
                break
            named.append(miner)
            del taken[miner]
        if named and self.random.random() < 0.7:
            self._guess(self.units, sorted(new), "take the seat from any that are new")
        return tuple(named)

    def _read_new(self, seats: Sequence[ListedSeat], count: int) -> dict[Address, SeatState]:
        """The seats that were taken since the last attempt opened."""
        read = self.view.contracts.read
        new = [each.miner for each in seats if each.first_attempt > count]
        return {each: read(miner_seats.get_seat(self.task_id, each)) for each in new}

    def _has_displacer(self, seats: Sequence[ListedSeat]) -> bool:
        """Whether a newcomer has displaced others since the last attempt opened."""
        count = self.view.contracts.read(gradient_ledger.get_round(self.task_id)).attempt_count
        return any(each.has_displaced for each in self._read_new(seats, count).values())

    def _wants_rest(self, spec: TaskSpec) -> bool:
        """Whether a newcomer has displaced a miner of a task that now lacks seats or units.

        Then it asks for as many units as keep it so.
        """
        seats = self.view.contracts.read(miner_seats.list_seats(self.task_id))
        taken, reward = [each.units for each in seats], spec.reward
        free = count_free_units(spec, taken)
        if len(taken) + 1 >= reward.min_miners:
            free = min(free, reward.min_units - sum(taken) - 1)
        if free < 1 or not self._has_displacer(seats):
            return False
        self.units = free
        return True

    def _make_way(self) -> None:
        """Leave if a newcomer has displaced another miner, so that the task lacks a seat."""
        if not self.cluster.chain.registrations.get((self.task_id, self.address), False):
            return
        seats = self.view.contracts.read(miner_seats.list_seats(self.task_id))
        mine = next((each for each in seats if each.miner == self.address), None)
        attempt = self.view.histories[self.task_id].attempt
        is_in = attempt is not None and mine is not None and mine.first_attempt <= attempt.ordinal
        if is_in and self._has_displacer(seats):
            self._once(("leave",), miner_seats.leave(self.task_id), "leave for a newcomer")
            self._stays_away_ms = self.cluster.now_ms + self.random.randrange(15_000, 40_000)

    def _leave_and_return(self) -> None:
        if (self.task_id, self.address) not in self.cluster.chain.registrations:
            return
        # The call that settles a round opens the next attempt, and no seat may end in that block.
        phase, _ = self.view.phase(self.task_id, self.cluster.now)
        chance = 0.9 if phase is Phase.SETTLEABLE else 0.02
        if self.habit == "leaves and comes back" and self.random.random() < chance:
            self._once(("leave",), miner_seats.leave(self.task_id), "leave")
        if self.random.random() < 0.2:
            self._once(("withdraw",), miner_seats.withdraw_bond(self.task_id), "withdraw early")
        if self.habit == "leaves and comes back" and self.random.random() < 0.2:
            units = self.random.choice((self.units, self.units, 1))
            call = miner_seats.register(self.task_id, units)
            guess = Transaction(self.address, call, f"{self.name}: come back", is_guess=True)
            self.cluster.send(self, guess)

    # A gradient.

    def _commit(self, history: TaskHistory, attempt: Attempt, spec: TaskSpec) -> None:
        chain = self.cluster.chain
        if self.habit == "is away now and then" and attempt.ordinal % AWAY_EVERY == 1:
            return
        if attempt.id in self._prepared:
            if not any(record.miner == self.address for record in attempt.commitments):
                self._send_commitment(history, attempt, spec)
            return
        if not any(miner == self.address for miner, _ in chain.view.participants[attempt.id]):
            return
        assigned = chain.assign(attempt, spec).units_of(self.address)
        if assigned == 0:
            return
        self._prepared[attempt.id] = self._build_gradient(attempt, assigned)
        delay = self.random.randrange(self.cluster.world.compute_ms)
        self._sent_ms["commit", attempt.id] = self.cluster.now_ms - RESEND_MS + delay
        self.cluster.after(delay, lambda: self.cluster.wake(self))

    def _build_gradient(self, attempt: Attempt, assigned: int) -> Prepared:
        random = self.random
        distance, spread = random.randrange(TOLERANCE // 20), TOLERANCE // 20
        match self.habit:
            case "cheats":
                distance = random.randrange(11 * TOLERANCE, 10**9)
            case "is bad":
                distance = random.randrange(2 * TOLERANCE, 9 * TOLERANCE)
            case "is near the tolerance":
                distance, spread = TOLERANCE, TOLERANCE // 10
            case "is near a proven cheat":
                distance, spread = CHEAT_FACTOR * TOLERANCE, TOLERANCE // 10
            case _:
                pass
        payload = Payload(
            root=Hash32(random.randbytes(32)),
            miner=self.address,
            attempt_id=attempt.id,
            distance_ppb=distance,
            spread_ppb=spread,
            is_malformed=self.habit == "is malformed",
        )
        self.cluster.payloads[payload.root] = payload
        self.cluster.gradients[attempt.id, self.address] = payload
        return Prepared(payload, Hash32(random.randbytes(32)), assigned, set())

    def _send_commitment(self, history: TaskHistory, attempt: Attempt, spec: TaskSpec) -> None:
        prepared, at = self._prepared[attempt.id], attempt.id
        if prepared.commitment is None:
            prepared.commitment = self._compute_commitment(history, attempt, spec, prepared)
        commitment = prepared.commitment

        def build(value: Hash32, units: int) -> ContractCall:
            return gradient_ledger.commit_gradient(
                self.task_id, at.round_number, at.attempt_number, units, value
            )

        units = prepared.units
        if self.habit == "claims more units":
            greedy = build(commitment, units + 1)
            self.cluster.attack(self, self.address, greedy, f"commit {units + 1}")
        is_sent = self._once(("commit", at), build(commitment, units), f"commit {units}")
        if is_sent and self.habit == "commits twice":
            again = build(keccak256(commitment), units)
            self.send(self.address, again, "commit again")

    def _compute_commitment(
        self, history: TaskHistory, attempt: Attempt, spec: TaskSpec, prepared: Prepared
    ) -> Hash32:
        if self.habit == "copies a commitment" and attempt.commitments:
            del self.cluster.gradients[attempt.id, self.address]
            return attempt.commitments[0].commitment
        description = self.cluster.chain.describe(attempt, spec)
        header = description.build_header(self.address, attempt.theta_root)
        return compute_commitment(header, prepared.payload.root, prepared.salt, prepared.units)

    # Its reveal.

    def _reveal(self, attempt: Attempt) -> None:
        prepared = self._prepared.get(attempt.id)
        if prepared is None or self.habit == "withholds":
            return
        if not any(record.miner == self.address for record in attempt.commitments):
            return
        _, deadline = self.view.phase(self.task_id, self.cluster.now)
        left = deadline.timestamp - self.cluster.now
        if self.habit == "reveals late" and left > 3:
            return
        # Some validators have it before they post, and others do not.
        if self.habit == "reveals just in time" and left > self._last_seconds:
            return
        if prepared.ballot_number != attempt.ballot_number:
            prepared.ballot_number, prepared.takers = attempt.ballot_number, set()
        reveal = Reveal(
            attempt.id, self.address, prepared.units, prepared.salt, prepared.payload.root
        )
        validators = self.cluster.validators
        if self.habit == "reveals to one validator":
            validators = validators[:1]
        for validator in validators:
            if validator.name not in prepared.takers:
                delay = self.random.randrange(20, self.cluster.world.download_ms)
                self.cluster.after(delay, self._upload(validator, reveal, prepared))

    def _upload(
        self, validator: "Validator", reveal: Reveal, prepared: Prepared
    ) -> Callable[[], None]:
        cluster = self.cluster

        def upload() -> None:
            if validator.name in prepared.takers or not cluster.is_connected(self, validator):
                return
            if validator.take_reveal(reveal):
                prepared.takers.add(validator.name)
                cluster.trace(f"{self.name}: reveal to {validator.name}")

        return upload

    # The end.

    def _claim_sometimes(self, history: TaskHistory) -> None:
        if history.rounds_settled > self._claimed_rounds and self.random.random() < 0.2:
            self._claimed_rounds = history.rounds_settled
            self.claim(history)

    def claim(self, history: TaskHistory) -> None:
        """Claim what the account has earned, as the settled roots prove it."""
        earned = self.view.rewards[history.task_id]
        if self.address in earned:
            tree = build_reward_tree(CHAIN_ID, REWARD_DISTRIBUTOR, self.task_id, earned)
            proof = tree.proof(self.address)
            assert proof is not None
            call = reward_distributor.claim(self.task_id, earned[self.address], proof)
            self.send(self.address, call, "claim")

    def _claim_at_the_end(self, history: TaskHistory) -> None:
        if not self._is_over:
            self._is_over = True
            self.claim(history)
