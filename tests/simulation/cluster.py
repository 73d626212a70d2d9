"""A simulated network of real replicas in virtual time; all faults are drawn from one seed.

The world is a heap of (time, sequence, action). Replica, performer and signer are the node's own,
on a simulated disk (`environment`), and blocks are executed by the real transition. Simulated are
the network, the chain's store, sync, and crashes, which may come before any effect and during a
write.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from chain.consensus.certificates import verify_commit_certificate
from chain.consensus.effects import SetTimer
from chain.consensus.guard import build_floor_guard
from chain.consensus.inputs import (
    BlockFetched,
    BlockValidated,
    Input,
    NewNumber,
    NumberConfig,
    Timer,
    TimerExpired,
    Timing,
    TransactionHeld,
)
from chain.consensus.messages import (
    Committed,
    Message,
    MessageKind,
    NewView,
    PrePrepare,
    SigningDomain,
    Status,
    ViewChange,
    Vote,
)
from chain.consensus.pbft import ReplicaState
from chain.consensus.primary_order import compute_primary_order
from chain.consensus.records import Record, compute_latest_intent
from chain.errors import InvalidBlock, InvalidMessage, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.validator_set import compute_max_faulty
from chain.validation import compute_oldest_timestamp, validate_fresh_proposal
from node.consensus.performer import Performer, Received, run_inline
from node.consensus.served_blocks import find_proposed
from node.consensus.signer import ConsensusSigner
from pot_common.errors import OperatorError
from tests.simulation.adversary import Adversary
from tests.simulation.chain_time import ChainTime
from tests.simulation.checkers import Checkers
from tests.simulation.disk import Disk, find_stored
from tests.simulation.environment import (
    CrashError,
    SimulatedEnvironment,
    SimulatedGuard,
    SimulatedLog,
)
from tests.simulation.executions import GENESIS_SECONDS, Executions
from tests.simulation.keys import Keys
from tests.simulation.masks import MASKS, Mask
from tests.simulation.validator_sets import ValidatorSets

TIMING: Final = Timing(
    min_block_interval_ms=200,
    empty_block_interval_ms=800,
    view_timeout_base_ms=400,
    view_timeout_cap_ms=3_000,
    resend_interval_ms=400,
)
HEALED_DELAY_MS: Final = 60
"""The longest one-way delay after healing; a view's base timeout is over five times that."""

COMMITTED: Final = MessageKind.COMMITTED

FOLLOW_MS: Final = 300
"""The time between two requests for another node's head, in worlds with spares."""

BOOT_MS: Final = 2_000
"""The longest time until a crashed process is up again."""


@dataclass(frozen=True)
class World:
    """One network and its faults before it heals; each chance is for one message or boundary."""

    n: int = 4
    """The number of validators of block 1."""
    spares: int = 0
    """The number of nodes that may join; then each block with a transaction changes the set."""
    timing: Timing = TIMING
    faulty_ms: int = 15_000
    loss: float = 0.0
    duplication: float = 0.0
    min_delay_ms: int = 1
    max_delay_ms: int = HEALED_DELAY_MS
    crash: float = 0.0
    """The chance of a crash at a boundary: before an effect or a receiver, in or after a write."""
    partitions: float = 0.0
    """The chance that a second begins with a partition or with one node cut off one way."""
    restarts: float = 0.0
    """The chance that all processes are killed in a second."""
    kills: float = 0.0
    """The chance that one process is killed in a second."""
    mask: str = "none"
    """The messages that never arrive before healing, by kind and view (`masks.MASKS`)."""
    twins: int = 0
    """Validators that run twice with one key, each copy with its own half of the network."""
    dead: int = 0
    """Validators that never start."""
    habits: tuple[str, ...] = ()
    """The habits of the liars (`adversary.HABITS` and `CLOCK_HABITS`); each liar has all of
    them."""
    liars: int = 0
    accidents: tuple[str, ...] = ()
    """The accidents of the disks of `victims` in a crash (`Disk.have_accident`)."""
    victims: int = 0
    skew_ms: int = 0
    """The largest error of a clock."""
    outage_ms: int = 0
    """How long f + 1 nodes are away at the end of the faulty time."""
    gone: int = 0
    """Validators that stay away when the network heals, the primary of the view first."""
    is_cold: bool = False
    """All processes are killed just before the network heals."""
    views: tuple[int | None, ...] = ()
    """The views of number 1 in which the validators start; None for a dead one."""
    is_busy: bool = False
    """Each node has a transaction as soon as a number begins."""
    execution_ms: int = 0
    """How long a node takes to build a block or to execute another's, one after the other."""
    is_strict: bool = False
    """Signatures are real and all verified, messages are encoded, and nodes share no memory."""


@dataclass
class Node:
    """One process: its disk, and its memory, which is lost in a crash."""

    name: str
    slot: int
    """The number of its key in the world; in the first set, its index."""
    disk: Disk
    is_twin: bool = False
    is_liar: bool = False
    is_victim: bool = False
    skew_ms: int = 0
    executed_ms: int = 0
    """When it has executed all blocks that it was asked to."""
    signer: ConsensusSigner | None = None
    """The key of this life of the process; None before the first."""
    performer: Performer | None = None
    """None while the process is down, or waits for others' heads before it may sign."""
    incarnation: int = 0
    timers: dict[Timer, int] = field(default_factory=dict)
    is_syncing: bool = False
    proposed_ms: int = 0
    came_ms: int = 0
    """When the proposal of the current view came."""

    @property
    def state(self) -> ReplicaState | None:
        """The state of the replica; None while the process is down."""
        return None if self.performer is None else self.performer.state

    @property
    def is_byzantine(self) -> bool:
        return self.is_twin or self.is_liar

    @property
    def head(self) -> BlockNumber:
        return self.disk.head


class Recorder(Protocol):
    """Receives the events of a world, and changes nothing."""

    def on_message(
        self, now_ms: int, event: str, sender: str, receiver: str, message: Message
    ) -> None:
        """Note a message that was "sent" and not lost, or "delivered" to a running process."""

    def on_record(self, node: str, record: Record) -> None:
        """Note a vote's record that a node made durable."""

    def on_final(self, node: str, block: Block) -> None:
        """Note a final block that a node stored."""


class Cluster:
    """The validators of a world, their network, and the checkers that watch them."""

    def __init__(
        self,
        seed: int,
        world: World,
        trace: Callable[[str], None] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.random = Random(seed)
        self.world = world
        self.n = world.n + world.spares
        self.faulty = compute_max_faulty(world.n)
        self.now_ms = 0
        self.is_healed = False
        self.counts: Counter[str] = Counter()
        self.crash_at: tuple[str, int] | None = None
        """A node and the boundary at which it crashes once; for tests that try every boundary."""
        self.boundaries: Counter[str] = Counter()
        self.links_down: frozenset[tuple[str, str]] = frozenset()
        self.keys = Keys(self.n, is_real=world.is_strict)
        self.validators = self.keys.validators
        self.sets = ValidatorSets(self.validators, world.n)
        self.executions = Executions(self.sets, self._verify_certificate, is_strict=world.is_strict)
        config = self.executions.config
        self.domain = SigningDomain(config.chain_id, self.executions.genesis.header.hash, 1)
        self._trace = trace
        self.recorder = recorder
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._mask: Mask = MASKS[world.mask](seed, world.n)
        self.nodes = self._draw_nodes()
        self.honest = [node for node in self.nodes if not node.is_byzantine]
        self.checkers = Checkers(self.keys, self.sets, frozenset(node.slot for node in self.honest))
        self.chain_time = ChainTime(world.timing, world.skew_ms)
        self.adversary = Adversary(self, world.habits)
        for node in self.nodes:
            self._after(self.random.randrange(300), self._make_boot(node))

    def _draw_nodes(self) -> list[Node]:
        world, random = self.world, self.random
        faulty = world.twins + world.liars + world.dead
        roles = random.sample(range(self.n), faulty + world.victims)
        twins, rest = roles[: world.twins], roles[world.twins :]
        liars, rest = rest[: world.liars], rest[world.liars :]
        dead, victims = rest[: world.dead], rest[world.dead :]
        nodes: list[Node] = []
        for slot in range(self.n):
            if slot in dead or (world.views and world.views[slot] is None):
                continue
            for name in (f"{slot}x", f"{slot}y") if slot in twins else (str(slot),):
                node = Node(
                    name,
                    slot,
                    Disk(build_floor_guard(BlockNumber(1))),
                    is_twin=slot in twins,
                    is_liar=slot in liars,
                    is_victim=slot in victims,
                    skew_ms=random.randint(-world.skew_ms, world.skew_ms),
                )
                nodes.append(node)
        return nodes

    def trace(self, text: str) -> None:
        """Print one line for an event: milliseconds, node or *, and the event."""
        if self._trace is not None:
            self._trace(f"{self.now_ms:7} {text}")

    # Time.

    def _after(self, delay_ms: int, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._sequence, action))

    def run_until(self, end_ms: int, is_done: Callable[[], bool] | None = None) -> None:
        """Run events up to a time, or until `is_done`."""
        heap = self._heap
        while heap and heap[0][0] <= end_ms and not (is_done is not None and is_done()):
            self.now_ms, _, action = heapq.heappop(heap)
            action()
        if is_done is None:
            self.now_ms = max(self.now_ms, end_ms)

    def run_faulty(self) -> None:
        """Run the faulty time: new partitions every second, and an outage at the end."""
        end_ms = self.now_ms + self.world.faulty_ms
        while self.now_ms < end_ms:
            self._draw_partition()
            if self.random.random() < self.world.kills:
                self.crash(self.random.choice(self.nodes))
            if self.random.random() < self.world.restarts:
                for node in self.nodes:
                    self.crash(node)
            self.run_until(min(end_ms, self.now_ms + 1_000))
        if self.world.outage_ms:
            away = self.random.sample(self.nodes, min(self.faulty + 1, len(self.nodes)))
            self.cut_off({node.name for node in away})
            self.trace(f"* {len(away)} away for {self.world.outage_ms} ms")
            self.run_until(self.now_ms + self.world.outage_ms)

    def heal(self) -> None:
        """End all losses, long delays, partitions and crashes, and start what is down."""
        self._say_goodbye()
        for node in self.nodes if self.world.is_cold else ():
            self.crash(node)
        self.is_healed = True
        self.links_down = frozenset()
        self.trace("* heal")
        for node in self.nodes:
            if node.disk.is_full:  # the operator frees the disk and starts the node again
                self.crash(node)
                node.disk.is_full = False

    def _say_goodbye(self) -> None:
        if not self.world.gone:
            return
        states = [node.state for node in self.honest if node.state is not None]
        latest = max(states, key=lambda state: (state.config.number, state.view), default=None)
        leaving = self.random.sample(self.honest, len(self.honest))
        if latest is not None:
            primary = self.slot_of(latest.config.validators[latest.config.get_primary(latest.view)])
            leaving.sort(key=lambda node: node.slot != primary)
        for node in leaving[: self.world.gone]:
            self.trace(f"{node.name} gone")
            node.performer = None
            node.incarnation += 1
            self.nodes.remove(node)
            self.honest.remove(node)

    def cut_off(self, names: set[str]) -> None:
        """Cut each of these nodes off from all others."""
        self.links_down = frozenset(
            (a.name, b.name)
            for a in self.nodes
            for b in self.nodes
            if a is not b and (a.name in names or b.name in names)
        )

    def _draw_partition(self) -> None:
        self.links_down = frozenset()
        if self.random.random() >= self.world.partitions:
            return
        names = [node.name for node in self.nodes]
        cut = set(self.random.sample(names, self.random.randint(1, len(names) - 1)))
        is_one_way = self.random.random() < 0.3
        self.links_down = frozenset(
            (a, b)
            for a in names
            for b in names
            if (a in cut and b not in cut) or (not is_one_way and a not in cut and b in cut)
        )

    # Processes.

    def _make_boot(self, node: Node) -> Callable[[], None]:
        incarnation = node.incarnation

        def boot() -> None:
            if node.incarnation == incarnation:
                self._boot(node)

        return boot

    def _boot(self, node: Node) -> None:
        disk = node.disk
        records = disk.load()
        if records is None:
            # The operator moves the damaged file away, as the error message says.
            self.trace(f"{node.name} log damaged")
            disk.forget_log()
            records = []
        key = self.keys.signer(node.slot)
        guard, log = SimulatedGuard(self, node), SimulatedLog(self, node)
        node.signer = ConsensusSigner(self.validators[node.slot], key, guard, log)
        certified_head = disk.head
        if node.signer.load_guard() is None:
            heads = self._ask_heads(node)
            if heads is None:
                self._after(100, self._make_boot(node))
                return
            certified_head = max(heads)
        environment = SimulatedEnvironment(self, node)
        node.performer = Performer(environment, node.signer, self.keys.recover)
        try:
            first = node.signer.start(disk.head, certified_head)
        except CrashError:
            self.crash(node)
            return
        number = BlockNumber(node.head + 1)
        self.trace(f"{node.name} boot {number} signs from {first}, {len(records)} records")
        node.timers = {}
        node.is_syncing = False
        transition = node.performer.restore(self._make_config(node))
        self.on_step(node, None, transition.state)
        if not self._run(node, node.performer.perform(transition)):
            return
        self._hold_transaction(node)
        if node.is_liar:
            self._after(100, self._make_lie(node))
        if self.world.spares:
            self._after(self.random.randrange(FOLLOW_MS), self._make_poll(node))

    def _make_poll(self, node: Node) -> Callable[[], None]:
        """An action that lets a node ask for heads: a former validator gets no votes."""
        incarnation = node.incarnation

        def poll() -> None:
            if node.incarnation != incarnation:
                return
            other = self.random.choice(self.nodes)
            pair, back = (node.name, other.name), (other.name, node.name)
            is_heard = other.state is not None and not self.links_down & {pair, back}
            if is_heard and other.head > node.head:
                self._sync_later(node, other)
            self._after(FOLLOW_MS, poll)

        return poll

    def _ask_heads(self, node: Node) -> list[BlockNumber] | None:
        """The certified heads of a quorum of validators; None if they cannot be reached."""
        members = self.sets.members(BlockNumber(node.head + 1))
        heads = {node.slot: node.head}
        for other in self.nodes:
            links = {(node.name, other.name), (other.name, node.name)}
            if other is not node and other.state is not None and not links & self.links_down:
                # A liar may hide its chain, but every head that it gives is certified.
                heads[other.slot] = BlockNumber(0) if other.is_byzantine else other.head
        is_quorum = len(heads.keys() & set(members)) >= -(-2 * len(members) // 3)
        return list(heads.values()) if is_quorum else None

    def _make_lie(self, node: Node) -> Callable[[], None]:
        incarnation = node.incarnation

        def lie() -> None:
            if node.incarnation == incarnation:
                for receiver, message in self.adversary.invent(node):
                    self.transmit(node, receiver, message)
                self._after(self.random.randrange(200, 600), lie)

        return lie

    def crash(self, node: Node) -> None:
        """Kill a process; it is started again, perhaps after an accident of its disk."""
        if node.performer is None:
            return
        self.counts["crashes"] += 1
        self.trace(f"{node.name} crash")
        node.performer = None
        node.incarnation += 1
        node.disk.is_full = False
        accidents = () if self.is_healed else self.world.accidents
        if node.is_victim and accidents and self.random.random() < 0.5:
            self._have_accident(node, self.random.choice(accidents))
        self._after(self.random.randrange(50, BOOT_MS), self._make_boot(node))

    def _have_accident(self, node: Node, kind: str) -> None:
        disk = node.disk
        heads = [other.head for other in self.honest]
        if kind == "guard" and disk.head == 0 and not disk.sizes:
            return
        # A wiped node counts as faulty, and before block 2 it looks like a new one.
        is_amnesia = min(heads) < 2 or len(self.honest) < self.n
        if kind == "wiped" and is_amnesia:
            return
        self.trace(f"{node.name} loses {kind}")
        self.counts["accidents"] += 1
        disk.have_accident(kind, self.random)
        if kind == "full":
            return
        records = disk.load()
        durable = compute_latest_intent(records) if records else None
        if durable is None and disk.guard is not None and disk.guard.number <= disk.head:
            # All records were of final blocks, and the log was emptied on purpose.
            durable = disk.guard
        self.checkers.on_loss(node.slot, None if disk.guard is None else durable)

    def reach(self, node: Node) -> None:
        """Pass a boundary at which a process may crash.

        Raises:
            CrashError: It crashes here.
        """
        if self.is_healed:
            return
        self.boundaries[node.name] += 1
        if self.crash_at == (node.name, self.boundaries[node.name]):
            raise CrashError
        if self.world.crash and self.random.random() < self.world.crash:
            raise CrashError

    def _make_config(self, node: Node) -> NumberConfig:
        chain = node.disk.chain
        number = BlockNumber(node.head + 1)
        coinbases = [block.header.coinbase for block, _ in chain]
        validators = self.sets.validators(number)
        assert node.signer is not None
        return NumberConfig(
            number=number,
            parent_hash=chain[-1][0].hash if chain else self.executions.genesis.header.hash,
            validators=validators,
            primary_order=compute_primary_order(number, validators, coinbases),
            own_index=node.signer.get_index(number, validators),
            domain=self.domain,
            timing=self.world.timing,
            proposal_age_ms=min(self.now_ms - node.proposed_ms, 10_000),
        )

    def _hold_transaction(self, node: Node) -> None:
        if self.world.is_busy:
            self.give_later(node, 0, TransactionHeld())
        elif self.random.random() < 0.7:
            self.give_later(node, self.random.randrange(400), TransactionHeld())

    def give_later(self, node: Node, delay_ms: int, event: Input) -> None:
        incarnation = node.incarnation

        def give() -> None:
            if node.incarnation == incarnation:
                self._give(node, event)

        self._after(delay_ms, give)

    def _give(self, node: Node, event: Input) -> None:
        if node.performer is not None:
            self._run(node, node.performer.apply(event))

    def _run(self, node: Node, work: Coroutine[object, object, None]) -> bool:
        """Run an action of a process; False if it crashed."""
        try:
            run_inline(work)
        except CrashError:
            self.crash(node)
            return False
        except OperatorError as error:
            if not node.is_byzantine:
                raise AssertionError(f"{node.name} stops: {error}") from error
        return True

    # Actions of processes.

    def on_step(self, node: Node, before: ReplicaState | None, state: ReplicaState) -> None:
        """Check a replica after a transition."""
        if not node.is_byzantine:
            self.checkers.on_step(node.name, before, state)
            self._check_time(node, before, state)
            if before is not None and before.config is state.config:
                self.counts["view changes"] += state.view > before.view

    def _check_time(self, node: Node, before: ReplicaState | None, state: ReplicaState) -> None:
        """Check the time of a proposal that came, once the node prepares it."""
        if state.proposal is not (None if before is None else before.proposal):
            node.came_ms = self.now_ms
        is_prepared = state.own_prepare is not (None if before is None else before.own_prepare)
        is_own = state.config.get_primary(state.view) == state.config.own_index
        if before is not None and is_prepared and state.own_prepare is not None and not is_own:
            self.chain_time.on_step(node.name, node.came_ms, state)

    def broadcast(self, node: Node, message: Message) -> None:
        """Send a message to the other validators; the process may crash after each one."""
        if self._trace is not None:
            self.trace(f"{node.name} says {describe(message, node)}")
        self._check_sent(node, message)
        for slot in self.sets.members(self._config_of(node).number):
            if slot != node.slot:
                self.reach(node)
                self._send_rewritten(node, slot, message)

    def send(self, node: Node, receiver: int, message: Message) -> None:
        """Send a message to one validator."""
        self._check_sent(node, message)
        self._send_rewritten(node, receiver, message)

    def build(self, node: Node, *, seconds_later: int = 0) -> Block:
        """Build a block of this node on its head."""
        seconds = self._read_clock(node) // 1000 + seconds_later
        if node.is_liar:
            seconds = self.adversary.choose_timestamp(node, seconds)
        block = self.executions.build(
            node.name,
            node.disk.chain,
            self.validators[node.slot],
            seconds,
            with_transfer=self.random.random() < (0.5 if self.world.spares else 0.2),
        )
        if not node.is_byzantine:
            self.chain_time.on_build(self.now_ms, block)
        return block

    def _read_clock(self, node: Node) -> int:
        return GENESIS_SECONDS * 1000 + self.now_ms + node.skew_ms

    def validate_later(self, node: Node, block: Block, age_limit_ms: int | None) -> None:
        incarnation, came_ms = node.incarnation, self.now_ms
        oldest = compute_oldest_timestamp(self._read_clock(node), age_limit_ms or 0)
        view = View(0) if node.state is None else node.state.view

        def validate() -> None:
            if node.incarnation != incarnation or block.number != node.head + 1:
                return
            is_valid = self.executions.is_valid(node.name, node.disk.chain, block)
            reason = self._find_unfresh_reason(node, block, oldest)
            is_fresh = age_limit_ms is not None and is_valid and reason is None
            self._give(node, BlockValidated(block.hash, is_valid=is_valid, is_fresh=is_fresh))
            if age_limit_ms is None or not is_valid or is_fresh:
                return
            if reason is RejectionReason.TIMESTAMP_TOO_OLD:
                self.trace(f"{node.name} refuses {block.hash.hex()[:8]}: too old")
                self.chain_time.on_old(node.name, came_ms, block, view)
            else:
                self._after(100, validate)

        self._after(self.random.randrange(1, 30) + self.count_execution_ms(node), validate)

    def count_execution_ms(self, node: Node) -> int:
        """The time until a node has executed another block, besides those that it is executing."""
        node.executed_ms = max(node.executed_ms, self.now_ms) + self.world.execution_ms
        return node.executed_ms - self.now_ms

    def _find_unfresh_reason(self, node: Node, block: Block, oldest: int) -> RejectionReason | None:
        try:
            validate_fresh_proposal(
                block.header,
                self._get_parent(node),
                block.header.coinbase,
                now_ms=self._read_clock(node),
                oldest=oldest,
            )
        except InvalidBlock as error:
            return error.reason
        return None

    def _get_parent(self, node: Node) -> Header:
        chain = node.disk.chain
        return chain[-1][0].header if chain else self.executions.genesis.header

    def set_timer(self, node: Node, asked: SetTimer) -> None:
        timer, event = asked.timer, TimerExpired(asked.timer, asked.number, asked.view)
        generation = self._sequence
        node.timers[timer] = generation
        incarnation = node.incarnation

        def expire() -> None:
            if node.incarnation == incarnation and node.timers.get(timer) == generation:
                self.trace(f"{node.name} {timer.value} {event.number}/{event.view}")
                self._give(node, event)

        self._after(asked.delay_ms, expire)

    def finalize_later(self, node: Node, block: Block, certificate: CommitCertificate) -> None:
        incarnation = node.incarnation

        def store() -> None:
            if node.incarnation != incarnation or node.head >= block.number:
                return
            try:
                self.reach(node)
                self._store(node, block, certificate)
                self._begin_next(node)
            except CrashError:
                self.crash(node)

        self._after(self.random.randrange(1, 10), store)

    def _store(self, node: Node, block: Block, certificate: CommitCertificate) -> None:
        """Store a final block, then empty the log; a crash may come between the two."""
        try:
            self._verify_certificate(certificate, block.number, block.hash)
        except InvalidMessage as error:
            raise AssertionError(f"{node.name} stores block {block.number}: {error}") from error
        if self._trace is not None:
            self.trace(
                f"{node.name} final {block.number} {block.hash.hex()[:8]} view {certificate.view}"
            )
        is_valid = self.executions.is_valid(node.name, node.disk.chain, block)
        if not node.is_byzantine:
            self.checkers.on_final(node.name, block, certificate)
            self.chain_time.on_final(self.now_ms, block)
            assert is_valid, f"{node.name} stores the invalid block {block.number}"
        node.disk.chain.append((block, certificate))
        if self.recorder is not None:
            self.recorder.on_final(node.name, block)
        self.counts["set changes"] += self.sets.on_final(block)
        assert node.signer is not None
        node.signer.truncate_log(block.number)

    def _verify_certificate(
        self, certificate: CommitCertificate, number: BlockNumber, digest: Hash32
    ) -> None:
        verify_commit_certificate(
            certificate,
            number,
            digest,
            self.domain,
            self.sets.validators(number),
            self.keys.recover,
        )

    def _begin_next(self, node: Node) -> None:
        self._give(node, NewNumber(self._make_config(node)))
        self._hold_transaction(node)

    def fetch(self, node: Node, digest: Hash32, slot: int) -> None:
        for other in self.copies(slot):
            pair, back = (node.name, other.name), (other.name, node.name)
            if self.links_down & {pair, back} or other.state is None:
                continue
            block = find_stored(other.disk, digest) or find_proposed(other.state, digest)
            if block is not None and not self.adversary.is_hidden(other, "BLOCK"):
                self.give_later(node, 2 * self.draw_delay(), BlockFetched(block))

    # Network.

    def copies(self, slot: int) -> list[Node]:
        return [node for node in self.nodes if node.slot == slot]

    def slot_of(self, validator: Address) -> int:
        """The slot of a validator's key."""
        return self.validators.index(validator)

    def _config_of(self, node: Node) -> NumberConfig:
        assert node.state is not None
        return node.state.config

    def _is_member(self, node: Node) -> bool:
        return node.slot in self.sets.members(BlockNumber(node.head + 1))

    def draw_delay(self) -> int:
        if self.is_healed:
            limit_ms = min(HEALED_DELAY_MS, self.world.max_delay_ms)
            return self.random.randint(min(self.world.min_delay_ms, limit_ms), limit_ms)
        return self.random.randint(self.world.min_delay_ms, self.world.max_delay_ms)

    def _check_sent(self, node: Node, message: Message) -> None:
        if not node.is_byzantine:
            self.checkers.on_sent(node.slot, node.disk.guard, message)

    def _send_rewritten(self, node: Node, receiver: int, message: Message) -> None:
        if node.is_liar:
            for lie in self.adversary.rewrite(node, receiver, message):
                self.transmit(node, receiver, lie)
            return
        self.transmit(node, receiver, message)

    def transmit(self, node: Node, receiver: int, message: Message) -> None:
        """Send a message, unless the network loses it."""
        world = self.world
        for other in self.copies(receiver):
            self.counts["messages"] += 1
            if (node.name, other.name) in self.links_down or self._is_hidden(node, other):
                continue
            copies = 1
            if not self.is_healed:
                if world.loss and self.random.random() < world.loss:
                    continue
                kind, number, view = read_place(message, node)
                if not self._mask(kind, number, view, node.name, other.name):
                    continue
                if world.duplication and self.random.random() < world.duplication:
                    copies = 2
            for _ in range(copies):
                self._deliver_later(node, other, message)

    def _is_hidden(self, node: Node, other: Node) -> bool:
        """Whether this copy of a twin does not talk to that node; each second has new halves."""
        if not node.is_twin or other.is_twin or self.world.mask == "twins":
            return False
        side = (self.now_ms // 1_000 * 7 + other.slot * 3) % 5 % 2
        return side == (node.name[-1] == "x")

    def _deliver_later(self, node: Node, other: Node, message: Message) -> None:
        self._record_message("sent", node, other, message)

        def deliver() -> None:
            if other.state is None:
                return
            self._record_message("delivered", node, other, message)
            if isinstance(message, Status) and message.number > other.state.config.number:
                number = other.state.config.number
                if self.is_healed or self._mask(COMMITTED, number, 0, node.name, other.name):
                    self._sync_later(other, node)
            is_trusted = not node.is_byzantine and not self.world.is_strict
            self._receive(other, node.slot, message, is_trusted=is_trusted)

        self._after(self.draw_delay(), deliver)

    def _record_message(self, event: str, node: Node, other: Node, message: Message) -> None:
        if self.recorder is not None:
            self.recorder.on_message(self.now_ms, event, node.name, other.name, message)

    def _receive(self, node: Node, sender: int, message: Message, *, is_trusted: bool) -> None:
        """Give a message to a process; signatures of honest nodes are not verified again."""
        performer, address = node.performer, self.validators[sender]
        assert performer is not None
        given: Received | None = Received(address, message, is_verified=True)
        if not is_trusted:
            try:
                given = performer.receive(address, message)
            except InvalidMessage as error:
                self.report(node, sender, str(error))
                return
        if given is not None:
            self._take(node, given)

    def _take(self, node: Node, given: Received) -> None:
        assert node.performer is not None
        try:
            event = node.performer.check(given)
        except CrashError:
            self.crash(node)
            return
        if event is not None:
            self._give(node, event)

    def receive_later(self, node: Node, given: Received) -> None:
        """Give a process a message again after a short time."""
        incarnation = node.incarnation

        def take() -> None:
            if node.incarnation == incarnation and node.state is not None:
                self._take(node, given)

        self._after(0, take)

    def report(self, node: Node, sender: int, text: str) -> None:
        if not node.is_byzantine:
            self.trace(f"{node.name} refuses {sender}: {text}")
            self.checkers.on_rejection(sender, text)

    def _sync_later(self, node: Node, source: Node) -> None:
        """Fetch the final blocks of the source by block sync, one round trip later."""
        if node.is_syncing:
            return
        node.is_syncing = True
        incarnation = node.incarnation

        def finish() -> None:
            if node.incarnation != incarnation:
                return
            node.is_syncing = False
            missing = source.disk.chain[node.head :]
            if not missing or (source.name, node.name) in self.links_down:
                return
            try:
                for block, certificate in missing:
                    self._store(node, block, certificate)
                self._begin_next(node)
            except CrashError:
                self.crash(node)

        self._after(2 * self.draw_delay(), finish)

    # Checks at the end.

    def compute_promised_recovery_ms(self) -> int:
        """The promise without faulty nodes: (highest - lowest live view + 1) capped timeouts."""
        return self._compute_turns() * self.world.timing.view_timeout_cap_ms

    def compute_recovery_limit_ms(self) -> int:
        """The time limit of a block once q validators are back.

        It is the promised time, and a capped timeout for each turn of a validator that is dead,
        lies or must stay silent.
        """
        turns = self._compute_turns() + self.n - len(self.honest) + self.world.victims
        return turns * self.world.timing.view_timeout_cap_ms

    def _compute_turns(self) -> int:
        states = [node.state for node in self.honest if node.state and self._is_member(node)]
        highest = max((state.config.number for state in states), default=0)
        views = [state.view for state in states if state.config.number == highest]
        return max(views, default=0) - min(views, default=0) + 1

    def run_to_block(self, more_blocks: int, limit_ms: int) -> int:
        """Run until every honest node has stored `more_blocks` more; return the time."""
        start_ms = self.now_ms
        goal = max(node.head for node in self.honest) + more_blocks
        self.run_until(start_ms + limit_ms, lambda: all(node.head >= goal for node in self.honest))
        heads = {node.name: node.head for node in self.honest}
        assert min(heads.values()) >= goal, (
            f"stall: no block {goal} in {limit_ms} ms after healing: {heads}, views "
            f"{[(node.name, node.state and node.state.view) for node in self.honest]}"
        )
        return self.now_ms - start_ms


def read_place(message: Message, node: Node) -> tuple[MessageKind, int, int]:
    """The kind, number and view of a message; a certificate has its sender's view."""
    match message:
        case Vote():
            return message.kind, message.number, message.view
        case PrePrepare(vote, _):
            return MessageKind.PRE_PREPARE, vote.number, vote.view
        case NewView(pre_prepare, _, _):
            return MessageKind.NEW_VIEW, pre_prepare.number, pre_prepare.vote.view
        case ViewChange(vote, _):
            return MessageKind.VIEW_CHANGE, vote.number, vote.view
        case Status():
            return MessageKind.STATUS, message.number, message.view
        case Committed(number, _, _):
            return COMMITTED, number, 0 if node.state is None else node.state.view


def describe(message: Message, node: Node) -> str:
    """A message in a few words, for the trace."""
    kind, number, view = read_place(message, node)
    digest = ""
    if isinstance(message, Vote | Status | Committed):
        digest = " " + message.digest.hex()[:8]
    return f"{kind.name} {number}/{view}{digest}"
