"""A simulated network that trains: one clock, one chain, and every fault drawn from one seed.

The world is a heap of (time, sequence, action). Real are the rules of chain/training, the contracts
and the calls. Simulated are the network, the disks, the work of verifiers and the miners.

Deviations from a node: a call is not tried on the head's state before it is sent; a node sees a
block at once or, while it is cut off, not at all; consensus is a block now and then, as long as a
quorum of validators is up and connected.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from chain.contracts.abi import ContractCall
from chain.contracts.task_registry import Purchase
from chain.params import ChainParameters
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.task_spec import TaskSpec
from tests.training_simulation.chain import Chain, ChainView, Executed, Transaction
from tests.training_simulation.values import Cost, Payload
from tests.worlds.contracts import FIRST_TIME, POT, SEAT_ATTEMPTS

if TYPE_CHECKING:
    from tests.training_simulation.checkers import Checkers
    from tests.training_simulation.miners import Miner
    from tests.training_simulation.submitters import Stranger, Submitter
    from tests.training_simulation.validators import Validator

LONG: Final = Purchase(lifetime_seconds=14_400, attempts=200)
"""More than a task needs in any world."""

SHORT: Final = Purchase(lifetime_seconds=600, attempts=5)
"""An extension of a task."""

TICK_MS: Final = 1_000
"""How often a node looks at its duties when nothing happens; deadlines have whole seconds."""


@dataclass(frozen=True)
class OtherTask:
    """A task that is trained beside the main one, by the same validators."""

    name: str
    miners: tuple[tuple[int, str], ...]
    """The indices of its miners' accounts, and their habits here."""
    starts_ms: int = 1_000
    is_paid_in_pot: bool = True
    phases: tuple[int, int, int] = (8, 12, 8)
    rounds: int = 4
    min_miners: int = 2
    max_units: int = 8
    unit_price: int = POT
    units: int = 2
    check_ms: int = 300
    unit_milliseconds: int = 200
    """What it declares of that."""
    habits_of_submitter: tuple[str, ...] = ()


@dataclass(frozen=True)
class Newcomer:
    """A miner that comes when others have taken the seats of the main task."""

    habit: str
    units: int
    starts_ms: int
    misnaming: str = ""
    """What is wrong with the seats that it names at first (`miners.MISNAMINGS`)."""
    aim: str = ""
    """The room that it wants, if not any (`miners.LARGEST`, `miners.REST`)."""


@dataclass(frozen=True)
class World:
    """One network and its faults before it heals."""

    n: int = 4
    miners: tuple[str, ...] = ("honest", "honest")
    """The habit of each miner (`miners.HABITS`)."""
    liars: tuple[str, ...] = ()
    """The habits of the lying validators, at most f (`liars.HABITS`)."""
    slow: int = 0
    """How many of the other validators find that tasks take more than they declare, and refuse."""
    unfit: int = 0
    """How many of the other validators cannot check, as a dry run fails on them, and refuse."""
    paces: tuple[int, ...] = ()
    """How many times longer each of the first honest validators takes for a check."""
    faulty_ms: int = 40_000
    block_ms: int = 1_000
    empty_block_ms: int = 4_000
    tick_ms: int = TICK_MS
    """How often each actor looks at its duties when nothing happens."""
    flight_ms: int = 0
    """How long a block is on its way from its proposal until it is final. Calls that are sent
    meanwhile are in a later block."""
    old_times: float = 0.0
    """The chance that a block is proposed by a primary that gives it the time of its parent."""
    max_delay_ms: int = 150
    loss: float = 0.0
    """The chance that a call never reaches a block."""
    check_ms: int = 300
    """How long the re-execution of a gradient takes."""
    evaluate_ms: int = 300
    """How long the evaluation of a model takes."""
    download_ms: int = 200
    """The longest transfer of a payload between two nodes."""
    compute_ms: int = 1_500
    """The longest time that a miner needs for its gradient."""
    crashes: float = 0.0
    """The chance that a validator crashes in a second."""
    down_ms: int = 6_000
    """The longest time until a crashed validator is up again."""
    cuts: float = 0.0
    """The chance that a second begins with a split of the network."""
    cut_ms: int = 10_000
    stalls: float = 0.0
    """The chance that a second begins with a stall of consensus, as long as a split."""
    outages: float = 0.0
    """The chance that a second begins with an outage of more than f validators or all miners."""
    blackouts: bool = False
    """Whether no validator at all trains in an outage of validators."""
    crashes_after_verdict: float = 0.0
    """The chance that an honest validator crashes when it has sent its verdict."""
    floor: int = ChainParameters().phase_floor_blocks
    """The least number of blocks of a phase."""
    phases: tuple[int, int, int] = (8, 12, 8)
    """The longest durations of commitment, verdict and result, in seconds."""
    """The longest time until a split heals."""
    rounds: int = 4
    """The rounds of the main task."""
    purchase: Purchase = LONG
    """What the submitter of the main task buys."""
    extension: Purchase = SHORT
    """What a submitter adds that extends its task."""
    junk: int = 0
    """The tasks that no miner trains."""
    junk_waves: int = 1
    """How often so many are submitted, each time when the others are over."""
    junk_dry_run_ms: int = 1_000
    habits_of_submitter: tuple[str, ...] = ()
    """What the submitter of the main task does besides waiting (`submitters.HABITS`)."""
    attacks: float = 0.0
    """The chance that a second begins with a call of an attacker."""
    set_change: str = ""
    """How the validator set changes meanwhile: "join", "leave", or not at all."""
    units: int = 2
    """The units that each miner declares; their sum may exceed the capacity."""
    others: tuple[OtherTask, ...] = ()
    seat_attempts: int = SEAT_ATTEMPTS
    """The term of a seat."""
    min_units: int = 2
    """The units of all seats together without which no attempt of the main task opens."""
    min_miners: int = 2
    """The seats without which no attempt of it opens."""
    are_greedy: bool = False
    """Whether the first miners of the main task ask for all units of a round at first."""
    newcomers: tuple[Newcomer, ...] = ()


class Actor:
    """A node or a program that sees the chain and sends calls."""

    def __init__(self, cluster: "Cluster", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.is_up = True
        self.random = Random(f"{cluster.seed} {name}")

    @property
    def view(self) -> ChainView:
        """The chain as this actor knows it."""
        return self.cluster.view_of(self.name)

    def step(self) -> None:
        """Do what is to be done now."""
        raise NotImplementedError

    def send(
        self, sender: Address, call: ContractCall, label: str, *, is_safe: bool = False
    ) -> None:
        """Send a call to the chain."""
        label = f"{self.name}: {label}"
        self.cluster.send(self, Transaction(sender, call, label, is_safe=is_safe))


class Cluster:
    """All actors, the clock and the chain."""

    def __init__(
        self, seed: int, world: World, trace: Callable[[str], None] = lambda line: None
    ) -> None:
        self.seed = seed
        self.world = world
        self.random = Random(f"training {seed}")
        self.now_ms = FIRST_TIME * 1000
        self.start_ms = self.now_ms
        self.counts: Counter[str] = Counter()
        self._print = trace
        self.chain = Chain(
            world.n,
            world.floor,
            world.empty_block_ms,
            world.seat_attempts,
            Random(f"{seed} order"),
            self.trace,
        )
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._last_block_ms = self.now_ms
        self._is_block_on_its_way = False
        self._time_random = Random(f"{seed} times of blocks")
        self._cut: frozenset[str] = frozenset()
        self._is_halted = False
        """Whether neither side of the split has a quorum, so that there are no blocks."""
        self._frozen: ChainView | None = None
        self._stalled_until_ms = 0
        self._outage_until_ms = 0
        self._waiting: list[Transaction] = []
        """The calls of nodes that are cut off; they spread when the split heals."""
        self._wakes: set[str] = set()
        self.payloads: dict[Hash32, Payload] = {}
        self.gradients: dict[tuple[AttemptId, Address], Payload] = {}
        """The same gradients by attempt and miner."""
        self.costs: dict[str, Cost] = {}
        """What a task costs validators, by the name in its specification."""
        self.validators: list[Validator] = []
        self.miners: list[Miner] = []
        self.submitters: list[Submitter] = []
        self.strangers: list[Stranger] = []
        self.checkers: Checkers
        self.is_healed = False

    @property
    def actors(self) -> Iterator[Actor]:
        """All actors, in one order."""
        yield from self.validators
        yield from self.miners
        yield from self.submitters
        yield from self.strangers

    @property
    def now(self) -> int:
        """Seconds since the Unix epoch."""
        return self.now_ms // 1000

    def trace(self, line: str) -> None:
        """Print one event."""
        self._print(f"{self.now_ms - self.start_ms:7} {line}")

    def cost(self, spec: TaskSpec) -> Cost:
        """What a task costs a validator."""
        return self.costs[spec.name]

    # The clock.

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Run `action` in that many milliseconds."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._sequence, action))

    def wake(self, actor: Actor) -> None:
        """Let an actor look at its duties, once, after everything that happens now."""
        if actor.name not in self._wakes:
            self._wakes.add(actor.name)
            self.after(0, lambda: self._step(actor))

    def _step(self, actor: Actor) -> None:
        self._wakes.discard(actor.name)
        if actor.is_up:
            actor.step()

    def run_until(self, time_ms: int, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Run until a moment, or until `is_over` is true after a block; returns the latter."""
        while self._heap and self._heap[0][0] <= time_ms:
            number = self.chain.view.number
            self.now_ms, _, action = heapq.heappop(self._heap)
            action()
            if self.chain.view.number != number and is_over():
                return True
        self.now_ms = max(self.now_ms, time_ms)
        return is_over()

    def start(self) -> None:
        """Start the clocks of all actors, of the chain and of the faults."""
        for actor in self.actors:
            self.after(self.random.randrange(self.world.tick_ms), self._ticker(actor))
        self.after(self.world.block_ms, self._try_block)
        self.after(TICK_MS, self._draw_faults)

    def _ticker(self, actor: Actor) -> Callable[[], None]:
        def tick() -> None:
            self.wake(actor)
            self.after(self.world.tick_ms, tick)

        return tick

    # Blocks.

    def send(self, actor: Actor, transaction: Transaction) -> None:
        """Send a call to the pool; it may be lost, or wait for the network to heal."""
        self.counts["calls"] += 1
        is_first = not self.chain.view.histories  # without a task there is nothing to see
        is_safe = self.is_healed or is_first or transaction.is_safe
        if self.random.random() < self.world.loss and not is_safe:
            self.trace(f"{transaction.label} is lost")
            return
        if actor.name in self._cut:
            self._waiting.append(transaction)
            return
        # Calls of one sender must not overtake each other: nonces keep their order.
        self.chain.pool.append(transaction)

    def attack(self, actor: Actor, sender: Address, call: ContractCall, label: str) -> None:
        """Send a call that the contracts must refuse."""
        label = f"{actor.name}: {label}"
        self.send(actor, Transaction(sender, call, label, is_honest=False))

    def _try_block(self) -> None:
        is_due = self.now_ms - self._last_block_ms >= self.world.empty_block_ms
        is_wanted = (self.chain.pool or is_due) and not self._is_block_on_its_way
        if is_wanted and self._has_quorum():
            self._last_block_ms = self.now_ms
            if self.world.flight_ms or self.world.old_times:
                self._propose()
            else:
                self._make_block(self.now)
        self.after(self.world.block_ms, self._try_block)

    def _propose(self) -> None:
        """Let the calls of the pool and the time of now be in a block that comes later."""
        calls, now = self.chain.take_from_pool(), self.now
        if self._time_random.random() < self.world.old_times and not self.is_healed:
            now = self.chain.view.timestamp
        self._is_block_on_its_way = True

        def arrive() -> None:
            self._is_block_on_its_way = False
            self._make_block(now, calls)

        self.after(self.world.flight_ms, arrive)

    def _has_quorum(self) -> bool:
        if self.now_ms < self._stalled_until_ms:
            return False
        up = sum(each.is_deciding and each.name not in self._cut for each in self.members)
        return not self._is_halted and up >= self.chain.validator_set.quorum

    def _make_block(self, now: int, calls: Sequence[Transaction] | None = None) -> None:
        if self.chain.pool if calls is None else calls:
            self.trace(f"block {self.chain.view.number + 1}")
        executed: list[Executed] = self.chain.make_block(now, calls)
        self.counts["blocks"] += 1
        for each in executed:
            for event in each.events:
                self.counts[type(event).__name__] += 1
        self.checkers.on_block(executed)
        for actor in self.actors:
            if actor.name not in self._cut:
                delay = self.random.randrange(5, self.world.max_delay_ms)
                self.after(delay, lambda actor=actor: self.wake(actor))

    # The network.

    def view_of(self, name: str) -> ChainView:
        """The chain as an actor knows it."""
        if name in self._cut and self._frozen is not None:
            return self._frozen
        return self.chain.view

    def is_connected(self, one: Actor, other: Actor) -> bool:
        """Whether both are up and on the same side of the split."""
        return one.is_up and other.is_up and (one.name in self._cut) == (other.name in self._cut)

    def draw_delay(self) -> int:
        """The time that a message takes."""
        return self.random.randrange(5, self.world.max_delay_ms)

    def cut(self, names: frozenset[str]) -> None:
        """Split the network: the smaller side sees no blocks until it heals."""
        quorum = self.chain.validator_set.quorum
        members = self.members
        inside = sum(each.name in names for each in members)
        if inside >= quorum:
            names = frozenset(actor.name for actor in self.actors) - names
            inside = len(members) - inside
        self._cut = names
        self._is_halted = len(members) - inside < quorum
        self._frozen = None if self._is_halted else self.chain.freeze()
        self.trace(f"cut: {sorted(names)}{' no quorum' if self._is_halted else ''}")
        self.counts["cuts"] += 1

    def stall(self, time_ms: int) -> None:
        """Let consensus find no block for a while."""
        self.trace(f"no block for {time_ms} ms")
        self._stalled_until_ms = self.now_ms + time_ms

    def heal_cut(self) -> None:
        """Join both sides of the network again."""
        if not self._cut:
            return
        self.trace("the network is whole again")
        self._cut, self._frozen, self._is_halted = frozenset(), None, False
        self.chain.pool += self._waiting
        self._waiting = []
        for actor in self.actors:
            self.wake(actor)

    # Faults.

    def _draw_faults(self) -> None:
        if self.is_healed:
            return
        world, random = self.world, self.random
        if random.random() < world.cuts and not self._cut:
            names = [actor.name for actor in self.actors]
            self.cut(frozenset(random.sample(names, random.randint(1, len(names) - 1))))
            self.after(random.randrange(1_000, world.cut_ms), self.heal_cut)
        if random.random() < world.stalls:
            self.stall(random.randrange(1_000, world.cut_ms))
        is_free = self.now_ms >= self._outage_until_ms and self.counts["AttemptOpened"]
        if random.random() < world.outages and is_free:
            self._have_outage()
        for validator in self.validators:
            if random.random() < world.crashes:
                is_whole = random.random() < 0.5
                validator.crash(random.randrange(500, world.down_ms), is_whole=is_whole)
        self.after(TICK_MS, self._draw_faults)

    def _have_outage(self) -> None:
        """Stop the training of more than f validators, or all miners, for a while."""
        world, random = self.world, self.random
        down_ms = random.randrange(1_000, world.down_ms)
        self._outage_until_ms = self.now_ms + down_ms
        if random.random() < 0.4:
            for miner in self.miners:
                miner.stop(down_ms)
            return
        members = self.members
        count = len(members) - self.chain.validator_set.quorum + 1
        if world.blackouts:
            count = len(members)
        for validator in random.sample(members, count):
            validator.crash(down_ms, is_whole=False)

    def heal(self) -> None:
        """End all faults of the network and all crashes; liars go on lying."""
        self.trace("heal")
        self.is_healed = True
        self._stalled_until_ms = 0
        self.heal_cut()
        for validator in self.validators:
            validator.boot()
        for miner in self.miners:
            miner.start()

    # What honest validators know, for checkers.

    @property
    def honest(self) -> "list[Validator]":
        """The validators that follow the rules, up or down."""
        return [validator for validator in self.validators if validator.lie is None]

    @property
    def members(self) -> "list[Validator]":
        """The validators of the set in force."""
        return [validator for validator in self.validators if validator.is_member]

    def task_ids(self) -> list[TaskId]:
        """All tasks on the chain, by id."""
        return sorted(self.chain.view.histories)
