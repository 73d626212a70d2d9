"""A simulated network of real replicas: virtual time, one seed, every fault by chance.

The world is a heap of (time, sequence, action). Replicas are `chain.consensus.pbft`; the host's
duties (persist, guard, send, validate, build, store, fetch, sync) are played here, with a crash
possible at every boundary between two effects. Nobody makes another validator's token, so
signatures are checked only in certificates.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from chain.consensus import pbft
from chain.consensus.certificates import verify_commit_certificate
from chain.consensus.effects import (
    Broadcast,
    BuildBlock,
    Effect,
    FetchBlock,
    Finalize,
    ForwardTransactions,
    Halt,
    Persist,
    Redeliver,
    ReportEvidence,
    ReportRejection,
    Send,
    SendCertificate,
    SetTimer,
    ValidateBlock,
)
from chain.consensus.guard import GuardState, build_floor_guard, compute_first_signable, permits
from chain.consensus.inputs import (
    BlockBuilt,
    BlockFetched,
    BlockValidated,
    Input,
    MessageReceived,
    NewNumber,
    NumberConfig,
    Timer,
    TimerExpired,
    Timing,
    TransactionHeld,
)
from chain.consensus.message_log import EARLY_MESSAGES_PER_SENDER, VOTES_KEPT
from chain.consensus.messages import Committed, Message, MessageKind, Status
from chain.consensus.pbft import ReplicaState, Transition
from chain.consensus.quorum import compute_max_faulty, compute_primary_order
from chain.consensus.records import (
    PrepareRecord,
    ViewChangeRecord,
    compute_latest_intent,
    decode_record,
    encode_record,
)
from chain.primitives import BlockNumber, Hash32, ValidatorIndex
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from tests.chain.consensus.consensus_factory import (
    DOMAIN,
    PARENT,
    make_block,
    token_recover,
    token_signer,
    validators_of,
    view_change,
)
from tests.simulation.checkers import Checkers

TIMING = Timing(
    min_block_interval_ms=200,
    empty_block_interval_ms=800,
    view_timeout_base_ms=400,
    view_timeout_cap_ms=3_000,
    resend_interval_ms=400,
)
HEALED_DELAY_MS = 60
"""The longest one-way delay after healing; the base is more than five times of it."""


@dataclass(frozen=True)
class Faults:
    """What may go wrong before the network heals. Probabilities are of one message or effect."""

    loss: float = 0.0
    duplication: float = 0.0
    max_delay_ms: int = HEALED_DELAY_MS
    crash: float = 0.0
    """Before one effect, or between the log and the guard of a `Persist`."""
    partitions: float = 0.0
    """That a new second begins with the nodes split in two, or one of them cut off one way."""
    twins: int = 0
    """Validators that run twice with one key, each copy with its own half of the network."""
    dead: int = 0
    """Validators that never start."""
    lost_logs: int = 0
    """Crashes that also lose the log, but not the guard."""


@dataclass
class Node:
    """One process: what is on its disk, and what dies with it."""

    name: str
    index: ValidatorIndex
    is_byzantine: bool = False
    # On disk.
    log: list[bytes] = field(default_factory=list)
    guard: GuardState = field(default_factory=lambda: build_floor_guard(BlockNumber(1)))
    chain: list[tuple[Block, CommitCertificate]] = field(default_factory=list)
    blocks: dict[Hash32, Block] = field(default_factory=dict)
    # In memory.
    state: ReplicaState | None = None
    incarnation: int = 0
    timers: dict[Timer, int] = field(default_factory=dict)
    is_syncing: bool = False
    proposed_ms: int = 0

    @property
    def head(self) -> BlockNumber:
        return BlockNumber(len(self.chain))


class Cluster:
    """n validators, their network, and the checkers that watch them."""

    def __init__(self, seed: int, n: int, faults: Faults, trace: Callable[[str], None]) -> None:
        self.random = Random(seed)
        self.n = n
        self.faults = faults
        self.trace = trace
        self.now_ms = 0
        self.is_healed = False
        self.validators = validators_of(n)
        self.recover = token_recover(self.validators)
        self.lost_logs = faults.lost_logs
        self.links_down: frozenset[tuple[str, str]] = frozenset()
        self.tags = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        roles = self.random.sample(range(n), faults.twins + faults.dead)
        twins, dead = roles[: faults.twins], roles[faults.twins :]
        self.nodes: list[Node] = []
        for index in range(n):
            if index in twins:
                for copy in "xy":
                    self.nodes.append(Node(f"{index}{copy}", ValidatorIndex(index), True))
            elif index not in dead:
                self.nodes.append(Node(str(index), ValidatorIndex(index)))
        self.honest = [node for node in self.nodes if not node.is_byzantine]
        self.checkers = Checkers(frozenset(node.index for node in self.honest))
        for node in self.nodes:
            self.after(self.random.randrange(300), self._make_boot(node))

    def diverge(self, views: Sequence[int | None]) -> None:
        """Before the start: validator i has gone to `views[i]` of number 1 already; None: dead."""
        for index, view in enumerate(views):
            node = next(node for node in self.nodes if node.index == index)
            if view is None:
                self.nodes.remove(node)
                self.honest.remove(node)
            elif view > 0:
                record = ViewChangeRecord(view_change(index, view).vote)
                node.log = [encode_record(record)]

    # Time.

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._sequence, action))

    def run_until(self, end_ms: int, is_done: Callable[[], bool] = lambda: False) -> None:
        while self._heap and self._heap[0][0] <= end_ms and not is_done():
            self.now_ms, _, action = heapq.heappop(self._heap)
            action()

    def run_faulty(self, duration_ms: int) -> None:
        """Run with faults, drawing a new partition every second."""
        for second in range(0, duration_ms, 1_000):
            self._draw_partition()
            self.run_until(second + 1_000)

    def heal(self) -> None:
        """No more loss, long delays, partitions or crashes; what is down comes up."""
        self.is_healed = True
        self.links_down = frozenset()
        self.trace(f"{self.now_ms:7} * heal")

    def _draw_partition(self) -> None:
        self.links_down = frozenset()
        if self.random.random() >= self.faults.partitions:
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
        return lambda: self._boot(node)

    def _boot(self, node: Node) -> None:
        if node not in self.nodes:
            return
        records = [decode_record(data) for data in node.log]
        logged = compute_latest_intent(records)
        first = compute_first_signable(node.guard, logged, node.head, BlockNumber(0))
        number = BlockNumber(node.head + 1)
        if logged is not None and permits(node.guard, logged):
            node.guard = logged
        config = self._make_config(node, may_sign=first <= number)
        self.trace(f"{self.now_ms:7} {node.name} boot {number} signs from {first}")
        node.timers = {}
        node.is_syncing = False
        if config.own_index is None:
            transition = pbft.start(config)
        else:
            transition = pbft.restore(config, records, token_signer(node.index))
        self._perform(node, transition)
        self._hold_transaction(node)

    def _crash(self, node: Node) -> None:
        self.trace(f"{self.now_ms:7} {node.name} crash")
        node.state = None
        node.incarnation += 1
        if self.lost_logs and not node.is_byzantine and self.random.random() < 0.5:
            self.lost_logs -= 1
            node.log = []
            self.trace(f"{self.now_ms:7} {node.name} lost its log")
        self.after(self.random.randrange(50, 2_000), self._make_boot(node))

    def _is_crash_due(self) -> bool:
        return not self.is_healed and self.random.random() < self.faults.crash

    def _make_config(self, node: Node, *, may_sign: bool = True) -> NumberConfig:
        number = BlockNumber(node.head + 1)
        coinbases = [block.header.coinbase for block, _ in node.chain]
        return NumberConfig(
            number=number,
            parent_hash=node.chain[-1][0].hash if node.chain else PARENT,
            validators=self.validators,
            primary_order=compute_primary_order(number, self.validators, coinbases),
            own_index=node.index if may_sign else None,
            domain=DOMAIN,
            timing=TIMING,
            proposal_age_ms=min(self.now_ms - node.proposed_ms, 10_000),
        )

    def _hold_transaction(self, node: Node) -> None:
        if self.random.random() < 0.7:
            self._give_later(node, self.random.randrange(400), TransactionHeld())

    def _give_later(self, node: Node, delay_ms: int, event: Input) -> None:
        incarnation = node.incarnation

        def give() -> None:
            if node.incarnation == incarnation:
                self._give(node, event)

        self.after(delay_ms, give)

    def _give(self, node: Node, event: Input) -> None:
        if node.state is None:
            return
        sign = None if node.state.config.own_index is None else token_signer(node.index)
        self._perform(node, pbft.apply(node.state, event, sign))

    # Effects.

    def _perform(self, node: Node, transition: Transition) -> None:
        node.state = transition.state
        for effect in transition.effects:
            if self._is_crash_due():
                self._crash(node)
                return
            if not self._perform_one(node, effect):
                return

    def _perform_one(self, node: Node, effect: Effect) -> bool:
        """Do one effect; False if the process died of it."""
        match effect:
            case Persist(record, intent):
                assert permits(node.guard, intent), f"{node.name}: {node.guard} then {intent}"
                if isinstance(record, PrepareRecord):
                    block = pbft.get_pre_prepare(record.proposal).block
                    node.blocks[block.hash] = block
                node.log.append(encode_record(record))
                if self._is_crash_due():
                    self._crash(node)
                    return False
                node.guard = intent
            case Broadcast(message):
                for index in range(self.n):
                    if index != node.index:
                        self._send(node, ValidatorIndex(index), message)
            case Send(receiver, message):
                self._send(node, receiver, message)
            case SendCertificate(receiver, number):
                if number <= node.head:
                    block, certificate = node.chain[number - 1]
                    self._send(node, receiver, Committed(number, block.hash, certificate))
            case ValidateBlock(block, _):
                node.proposed_ms = self.now_ms
                is_early = self.random.random() < 0.1
                delay_ms = self.random.randrange(1, 30)
                answer = BlockValidated(block.hash, is_valid=True, is_fresh=not is_early)
                self._give_later(node, delay_ms, answer)
                if is_early:
                    later = BlockValidated(block.hash, is_valid=True, is_fresh=True)
                    self._give_later(node, delay_ms + self.random.randrange(1, 200), later)
            case BuildBlock(number, view):
                node.proposed_ms = self.now_ms
                self.tags += 1
                assert node.state is not None
                block = make_block(
                    self.tags,
                    number=number,
                    parent=node.state.config.parent_hash,
                    coinbase=node.index,
                )
                self._give_later(
                    node, self.random.randrange(1, 30), BlockBuilt(number, view, block)
                )
            case SetTimer(timer, number, view, delay_ms):
                self._set_timer(node, timer, delay_ms, TimerExpired(timer, number, view))
            case Finalize(block, certificate):
                self._finalize_later(node, block, certificate)
            case FetchBlock(digest, indices):
                self._fetch(node, digest, indices)
            case ForwardTransactions(primary):
                for other in self._copies(primary):
                    if (node.name, other.name) not in self.links_down:
                        self._give_later(other, self._draw_delay(), TransactionHeld())
            case Redeliver(sender, message):
                self._give_later(node, 0, MessageReceived(sender, message))
            case ReportRejection(sender, reason, detail):
                self.checkers.on_rejection(sender, f"{reason}: {detail}")
            case ReportEvidence(first, second):
                self.checkers.on_evidence(first, second)
            case Halt(block, _):
                raise AssertionError(f"{node.name} halted at {block.number}")
        return True

    def _set_timer(self, node: Node, timer: Timer, delay_ms: int, event: TimerExpired) -> None:
        generation = self._sequence
        node.timers[timer] = generation
        incarnation = node.incarnation

        def expire() -> None:
            if node.incarnation == incarnation and node.timers.get(timer) == generation:
                self.trace(f"{self.now_ms:7} {node.name} {timer.value} {event.number}/{event.view}")
                self._give(node, event)

        self.after(delay_ms, expire)

    def _finalize_later(self, node: Node, block: Block, certificate: CommitCertificate) -> None:
        incarnation = node.incarnation

        def store() -> None:
            if node.incarnation != incarnation or node.head >= block.number:
                return
            self._store(node, block, certificate)
            if self._is_crash_due():
                self._crash(node)
                return
            self._begin_next(node)

        self.after(self.random.randrange(1, 10), store)

    def _store(self, node: Node, block: Block, certificate: CommitCertificate) -> None:
        verify_commit_certificate(
            certificate, block.number, block.hash, DOMAIN, self.validators, self.recover
        )
        self.trace(
            f"{self.now_ms:7} {node.name} final {block.number} {block.hash.hex()[:8]}"
            f" view {certificate.view}"
        )
        if not node.is_byzantine:
            self.checkers.on_final(node.name, block)
        node.chain.append((block, certificate))
        node.log = [data for data in node.log if decode_record(data).number > block.number]
        node.blocks = {}

    def _begin_next(self, node: Node) -> None:
        config = self._make_config(node, may_sign=node.guard.number <= node.head)
        self._give(node, NewNumber(config))
        self._hold_transaction(node)

    def _fetch(self, node: Node, digest: Hash32, indices: tuple[ValidatorIndex, ...]) -> None:
        for index in indices:
            for other in self._copies(index):
                pair, back = (node.name, other.name), (other.name, node.name)
                if self.links_down & {pair, back} or other.state is None:
                    continue
                stored = [block for block, _ in other.chain if block.hash == digest]
                held = [*stored, *(b for b in other.blocks.values() if b.hash == digest)]
                if held:
                    self._give_later(node, 2 * self._draw_delay(), BlockFetched(held[0]))

    # Network.

    def _copies(self, index: ValidatorIndex) -> list[Node]:
        return [node for node in self.nodes if node.index == index]

    def _draw_delay(self) -> int:
        limit_ms = HEALED_DELAY_MS if self.is_healed else self.faults.max_delay_ms
        return self.random.randrange(1, limit_ms + 1)

    def _send(self, node: Node, receiver: ValidatorIndex, message: Message) -> None:
        if not node.is_byzantine:
            self.checkers.on_sent(node.guard, message)
        for other in self._copies(receiver):
            if (node.name, other.name) in self.links_down or self._is_hidden(node, other):
                continue
            if not self.is_healed and self.random.random() < self.faults.loss:
                continue
            copies = 1
            if not self.is_healed and self.random.random() < self.faults.duplication:
                copies = 2
            for _ in range(copies):
                self._deliver_later(node, other, message)

    def _is_hidden(self, node: Node, other: Node) -> bool:
        """Whether this copy of a twin keeps away from that node, a new half every second."""
        if not node.is_byzantine or other.is_byzantine:
            return False
        side = (self.now_ms // 1_000 * 7 + other.index * 3) % 5 % 2
        return side == (node.name[-1] == "x")

    def _deliver_later(self, node: Node, other: Node, message: Message) -> None:
        def deliver() -> None:
            state = other.state
            if state is None:
                return
            if isinstance(message, Status) and message.number > state.config.number:
                self._sync_later(other, node)
            self._give(other, MessageReceived(node.index, message))

        self.after(self._draw_delay(), deliver)

    def _sync_later(self, node: Node, source: Node) -> None:
        """Block sync: fetch what is final at the source, one round trip away."""
        if node.is_syncing:
            return
        node.is_syncing = True
        incarnation = node.incarnation

        def finish() -> None:
            if node.incarnation != incarnation:
                return
            node.is_syncing = False
            missing = source.chain[node.head :]
            if not missing or (source.name, node.name) in self.links_down:
                return
            for block, certificate in missing:
                self._store(node, block, certificate)
            self._begin_next(node)

        self.after(2 * self._draw_delay(), finish)

    # What must hold.

    def check_bounds(self) -> None:
        """Memory is bounded whatever was sent."""
        for node in self.honest:
            if node.state is None:
                continue
            log = node.state.log
            assert len(node.state.early) <= self.n * (EARLY_MESSAGES_PER_SENDER + 1)
            assert len(log.votes) <= self.n * len(MessageKind)
            assert all(len(votes) <= VOTES_KEPT for votes in log.votes.values())
            assert len(log.view_changes) <= self.n

    def run_to_liveness(self, more_blocks: int, limit_ms: int) -> int:
        """Run until every honest node has stored `more_blocks` more; the time it took."""
        start_ms = self.now_ms
        goal = max(node.head for node in self.honest) + more_blocks
        self.run_until(start_ms + limit_ms, lambda: all(node.head >= goal for node in self.honest))
        heads = {node.name: node.head for node in self.honest}
        assert min(heads.values()) >= goal, (
            f"no progress {self.now_ms - start_ms} ms after healing: {heads}, goal {goal}, views "
            f"{[(node.name, node.state and node.state.view) for node in self.honest]}"
        )
        return self.now_ms - start_ms


def draw_faults(seed: int) -> tuple[int, Faults]:
    """The size of the network and its faults for a seed."""
    random = Random(f"faults {seed}")
    n = random.choice((4, 4, 5, 7))
    faulty = compute_max_faulty(n)
    twins = random.choice((0, 0, 1))
    dead = random.choice((0, 0, 1)) if faulty > twins else 0
    return n, Faults(
        loss=random.choice((0.0, 0.0, 0.1, 0.3)),
        duplication=random.choice((0.0, 0.1)),
        max_delay_ms=random.choice((30, HEALED_DELAY_MS, 400, 800)),
        crash=random.choice((0.0, 0.0, 0.002, 0.01)),
        partitions=random.choice((0.0, 0.3, 0.7)),
        twins=twins,
        dead=dead,
        lost_logs=1 if faulty > twins + dead else 0,
    )


def simulate(
    seed: int, trace: Callable[[str], None] = lambda line: None, *, faulty_ms: int = 15_000
) -> Cluster:
    """Run one seed: faults, then health, with every checker on.

    Raises:
        AssertionError: A checker found a violation.
    """
    n, faults = draw_faults(seed)
    trace(f"      0 * seed {seed} n {n} {faults}")
    cluster = Cluster(seed, n, faults, trace)
    cluster.run_faulty(faulty_ms)
    cluster.heal()
    cluster.check_bounds()
    cluster.run_to_liveness(more_blocks=3, limit_ms=90_000)
    cluster.check_bounds()
    return cluster
