"""Seconds from a request to q commit certificates, on a simulated network (consensus.md, 1).

    python -m bench.consensus_network [--json FILE] [--seeds N] [--only TEXT] [--smoke]

The real replicas and the real dissemination under virtual time. Harder than the emulated network of
the published Go prototype that the table is compared with: the bandwidth is that of a node's whole
uplink, first in, first out, and only the primary holds the transactions when the clock starts. The
one-way delay of each frame is drawn from U[0.1 L, L), L = 300 ms; a transaction has 315 bytes. The
clock stops when q honest validators hold the certificate. Computing takes no virtual time: what
coding took is printed apart, execution is bench/execution_floor.py's.
"""

import heapq
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from bench.report import build_parser, write_report
from chain.consensus.effects import Broadcast, BuildBlock, ReportEvidence, SetTimer
from chain.consensus.inputs import (
    BlockBuilt,
    BlockFetched,
    BlockValidated,
    Input,
    MessageReceived,
    NumberConfig,
    Timer,
    TimerExpired,
    Timing,
)
from chain.consensus.messages import (
    Committed,
    Message,
    MessageKind,
    PrePrepare,
    Status,
    Vote,
    compute_signing_digest,
    decode_message,
    encode_message,
)
from chain.consensus.pbft import ReplicaState, Transition
from chain.errors import InvalidMessage, RejectedInputError
from chain.primitives import Address, BlockNumber, Hash32, ValidatorIndex, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.validator_set import compute_quorum
from node.consensus.performer import Performer, Received, run_inline
from node.consensus.signer import ConsensusSigner
from node.consensus.wal import WalRecord
from node.network.pieces.dissemination import Dissemination, MessageName, decode_piece
from tests.worlds.replica import (
    DOMAIN,
    PARENT,
    make_block,
    token_recover,
    token_signer,
    validators_of,
)
from tests.worlds.signer_disk import MemoryGuard

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

DELAY_SECONDS = 0.3
TRANSACTION_BYTES = 315
# The defaults of genesis, but for the pace.
TIMING = Timing(
    min_block_interval_ms=0,
    empty_block_interval_ms=5_000,
    view_timeout_base_ms=2_000,
    view_timeout_cap_ms=90_000,
    resend_interval_ms=1_000,
)
SMALLEST_VOTE_BYTES = 32 + 65 + 8
"""A digest, a signature, and number and view in as few bytes as they need."""


@dataclass(frozen=True)
class Cell:
    """One setting, and what the prototype took there (seconds, from and to)."""

    megabits: int
    transactions: int
    validators: int
    prototype: tuple[float, float]


CELLS = (
    Cell(30, 100, 10, (1.5, 1.6)),
    Cell(30, 100, 30, (1.6, 1.8)),
    Cell(30, 100, 50, (1.8, 2.1)),
    Cell(30, 5_000, 50, (3.6, 4.5)),
    Cell(30, 10_000, 50, (5.3, 7.6)),
    Cell(30, 100, 100, (2.7, 3.7)),
    Cell(30, 10_000, 100, (5.8, 10.9)),
    Cell(125, 100, 10, (1.5, 1.8)),
    Cell(125, 100, 50, (1.8, 2.1)),
    Cell(125, 10_000, 50, (3.3, 4.8)),
)


@dataclass
class Node:
    """One validator: its replica, its uplink, and what it puts together."""

    index: ValidatorIndex
    address: Address
    dissemination: Dissemination
    performer: Performer | None = None
    """None before the start."""
    uplink_free: float = 0.0
    decided_at: float | None = None
    timers: dict[Timer, int] = field(default_factory=dict)
    blocks: dict[Hash32, Block] = field(default_factory=dict)


class ForgetfulLog:
    """A log that keeps nothing: no process of this world starts twice."""

    def records(self) -> Sequence[WalRecord]:
        return ()

    def append(self, number: BlockNumber, payload: bytes) -> None:
        pass

    def truncate_through(self, number: BlockNumber) -> None:
        pass


class WorldEnvironment:
    """What the effects of one replica reach; the disk takes no time here."""

    def __init__(self, world: "World", node: Node) -> None:
        self._world = world
        self._node = node

    async def run_blocking(
        self, function: Callable[[_Argument], _Result], argument: _Argument
    ) -> _Result:
        return function(argument)

    async def finalize(self, block: Block, certificate: CommitCertificate) -> None:
        self._node.decided_at = self._world.now

    def on_transition(self, event: Input, before: ReplicaState, transition: Transition) -> None:
        pass

    def broadcast(self, message: Message) -> None:
        self._world.broadcast(self._node, message)

    def send(self, validator: Address, message: Message) -> None:
        self._world.send_message(self._node, validator, message)

    def find_committed(self, number: BlockNumber) -> Committed | None:
        return None  # only one number is decided

    def validate(self, block: Block, age_limit_ms: int | None) -> None:
        self._node.blocks[block.hash] = block
        event = BlockValidated(block.hash, is_valid=True, is_fresh=True)
        self._world.give_later(self._node, 0, event)

    def build(self, asked: BuildBlock) -> None:
        block = self._world.build(self._node)
        self._world.give_later(self._node, 0, BlockBuilt(asked.number, asked.view, block))

    def fetch(self, digest: Hash32, validators: Sequence[Address]) -> None:
        self._world.fetch(self._node, digest)

    def set_timer(self, timer: SetTimer) -> None:
        self._world.set_timer(self._node, timer)

    def forward_transactions(self, primary: Address) -> None:
        pass

    def receive_again(self, given: Received) -> None:
        pass

    def report_rejection(self, sender: Address, error: InvalidMessage) -> None:
        pass

    def report_evidence(self, evidence: ReportEvidence, author: Address) -> None:
        pass


class World:
    """n validators that decide one block number."""

    def __init__(self, seed: int, n: int, megabits: int, transactions: Sequence[bytes]) -> None:
        self.n = n
        self.now = 0.0
        self.frames = 0
        self.bytes = 0
        self.coding_seconds = 0.0
        self.refused: Counter[str] = Counter()
        self.is_equivocating = False
        self.is_request_known = False
        """Whether the backups have heard of the request, so that they wait for the primary."""
        self.dead: set[int] = set()
        self._random = Random(seed)
        self._bytes_per_second = megabits * 1_000_000 / 8
        self._transactions = tuple(transactions)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._messages: dict[MessageName, bytes] = {}
        self._decoded: dict[bytes, Message] = {}
        validators = validators_of(n)
        self.nodes = []
        for index in range(n):
            dissemination = Dissemination(validators[index])
            dissemination.set_validators(validators)
            self.nodes.append(Node(ValidatorIndex(index), validators[index], dissemination))
        self._by_address = {node.address: node for node in self.nodes}
        self._order = tuple(ValidatorIndex(index) for index in range(n))

    def run(self, limit_seconds: float = 600.0) -> float:
        """The time at which q honest validators hold the certificate."""
        faulty = self.dead | ({0} if self.is_equivocating else set())
        for node in self.nodes:
            if node.index not in self.dead:
                self._start(node)
        quorum = compute_quorum(self.n)
        honest = [node for node in self.nodes if node.index not in faulty]
        while True:
            decided = [node.decided_at for node in honest if node.decided_at is not None]
            if len(decided) >= min(quorum, len(honest)):
                return max(decided)
            assert self._heap, "nothing will ever happen again"
            assert self.now <= limit_seconds, f"{len(decided)} decided"
            self.now, _, action = heapq.heappop(self._heap)
            action()

    def say(self, sender: Node, frame: bytes) -> None:
        """Send a frame of any bytes to everybody."""
        for node in self.nodes:
            if node is not sender:
                self._send(sender, node, frame, is_piece=False)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + seconds, self._sequence, action))

    def _start(self, node: Node) -> None:
        signer = ConsensusSigner(
            node.address, token_signer(node.index), MemoryGuard(), ForgetfulLog()
        )
        signer.start(BlockNumber(0), BlockNumber(0))
        node.performer = Performer(
            WorldEnvironment(self, node), signer, token_recover(validators_of(self.n))
        )
        config = NumberConfig(
            number=BlockNumber(1),
            parent_hash=PARENT,
            validators=validators_of(self.n),
            primary_order=self._order,
            own_index=node.index,
            domain=DOMAIN,
            timing=TIMING,
            has_transaction=node.index == 0 or self.is_request_known,
        )
        started = node.performer.restore(config)
        # A status is what a node says when its process starts, not when a number does.
        effects = [
            effect
            for effect in started.effects
            if not (isinstance(effect, Broadcast) and isinstance(effect.message, Status))
        ]
        run_inline(node.performer.perform(Transition(started.state, tuple(effects))))

    def give(self, node: Node, event: Input) -> None:
        """Give a replica an input, unless it is dead or done."""
        if node.index not in self.dead and node.decided_at is None:
            assert node.performer is not None
            run_inline(node.performer.apply(event))

    def give_later(self, node: Node, seconds: float, event: Input) -> None:
        self._after(seconds, lambda: self.give(node, event))

    def send_message(self, node: Node, receiver: Address, message: Message) -> None:
        """Send a message to one validator, unless it is on its way in pieces."""
        data = encode_message(message)
        if not node.dissemination.is_spreading(data, self.now):
            self._send(node, self._by_address[receiver], data, is_piece=False)

    def fetch(self, node: Node, digest: Hash32) -> None:
        """Give a replica a block from a node that has it."""
        held = next(each for each in self.nodes if digest in each.blocks)
        block = held.blocks[digest]
        seconds = 2 * DELAY_SECONDS + len(block.encode()) / self._bytes_per_second
        self.give_later(node, seconds, BlockFetched(block))

    def set_timer(self, node: Node, asked: SetTimer) -> None:
        """Start a timer in the place of the one of that name."""
        node.timers[asked.timer] = self._sequence + 1
        self._after(
            asked.delay_ms / 1000, self._make_timer(node, asked.timer, asked.number, asked.view)
        )

    def _make_timer(
        self, node: Node, timer: Timer, number: BlockNumber, view: View
    ) -> Callable[[], None]:
        set_at = node.timers[timer]

        def expire() -> None:
            if node.timers[timer] == set_at:
                self.give(node, TimerExpired(timer, number, view))

        return expire

    def build(self, node: Node, tag: int = 0) -> Block:
        return make_block(tag + 1, coinbase=node.index, transactions=self._transactions)

    def broadcast(self, node: Node, message: Message) -> None:
        if self.is_equivocating and node.index == 0 and isinstance(message, PrePrepare):
            self._equivocate(node)
            return
        data = encode_message(message)
        self._decoded[data] = message
        if not node.dissemination.begin(data, self.now):
            self.say(node, data)
            return
        started = time.perf_counter()
        cut = node.dissemination.cut(data)
        self.coding_seconds += time.perf_counter() - started
        for address, frame in cut:
            self._send(node, self._by_address[address], frame, is_piece=True)

    def _equivocate(self, node: Node) -> None:
        """One block for the first half of the backups, another for the second."""
        for tag, half in enumerate((self.nodes[: self.n // 2], self.nodes[self.n // 2 :])):
            block = self.build(node, tag + 7)
            kind, number, view = MessageKind.PRE_PREPARE, BlockNumber(1), View(0)
            digest = compute_signing_digest(DOMAIN, kind, number, view, block.hash)
            signature = token_signer(0)(digest)
            vote = Vote(kind, number, view, block.hash, ValidatorIndex(0), signature)
            data = encode_message(PrePrepare(vote, block))
            for each in half:
                if each is not node:
                    self._send(node, each, data, is_piece=False)

    def _send(self, sender: Node, receiver: Node, frame: bytes, *, is_piece: bool) -> None:
        self.frames += 1
        self.bytes += len(frame)
        sender.uplink_free = max(self.now, sender.uplink_free) + len(frame) / self._bytes_per_second
        delay = DELAY_SECONDS * self._random.uniform(0.1, 1.0)
        arrive = self._take_piece if is_piece else self._take_message
        self._after(sender.uplink_free + delay - self.now, lambda: arrive(sender, receiver, frame))

    def _take_message(self, sender: Node, receiver: Node, frame: bytes) -> None:
        message = self._decoded.get(frame)
        if message is None:
            try:
                message = self._decoded[frame] = decode_message(frame)
            except RejectedInputError as error:
                self.refused[error.reason] += 1
                return
        self.give(receiver, MessageReceived(sender.index, message))

    def _take_piece(self, sender: Node, receiver: Node, frame: bytes) -> None:
        taken = receiver.dissemination.take(sender.address, decode_piece(frame))
        for address in taken.relay_to:
            self._send(receiver, self._by_address[address], frame, is_piece=True)
        if taken.complete is None:
            return
        name = taken.complete.name
        if name not in self._messages:
            # The others' pieces give the same bytes (tests): once is enough here.
            started = time.perf_counter()
            self._messages[name] = taken.complete.decode()
            self.coding_seconds += time.perf_counter() - started
        author = self._by_address[name.author]
        self._take_message(author, receiver, self._messages[name])


def build_transactions(count: int) -> list[bytes]:
    """Transactions of TRANSACTION_BYTES each, all different."""
    return [i.to_bytes(4, "big") + bytes(TRANSACTION_BYTES - 4) for i in range(count)]


def measure_cells(cells: Sequence[Cell], seeds: int) -> list[dict[str, object]]:
    """Every cell of the comparison."""
    rows = []
    print(f"{'Mbit/s':>6} {'tx':>6} {'n':>4} {'median s':>9} {'worst s':>8} {'prototype s':>12}"
          f" {'ratio':>6} {'coding s':>9}")  # fmt: skip
    for cell in cells:
        transactions = build_transactions(cell.transactions)
        seconds, coding = [], 0.0
        for seed in range(seeds):
            world = World(seed, cell.validators, cell.megabits, transactions)
            seconds.append(world.run())
            coding = max(coding, world.coding_seconds)
        median, worst = statistics.median(seconds), max(seconds)
        low, high = cell.prototype
        print(f"{cell.megabits:6} {cell.transactions:6} {cell.validators:4} {median:9.2f}"
              f" {worst:8.2f} {low:5.1f} - {high:4.1f} {median / low:6.2f}"
              f" {coding:9.2f}")  # fmt: skip
        rows.append(
            {
                "megabits": cell.megabits,
                "transactions": cell.transactions,
                "validators": cell.validators,
                "seconds": seconds,
                "prototype_seconds": cell.prototype,
                "ratio_to_its_fastest": median / low,
                "coding_seconds": coding,
            }
        )
    return rows


def measure_traffic(sizes: Sequence[int]) -> list[dict[str, object]]:
    """Frames and bytes of one small block, beside the least that this protocol needs."""
    print(f"\n{'n':>4} {'frames':>8} {'least':>8} {'bytes':>10} {'least':>10} {'ratio':>6}")
    rows = []
    for n in sizes:
        world = World(0, n, 1_000, ())
        world.run()
        votes = (n - 1) ** 2 + n * (n - 1)
        block_bytes = len(make_block(1).encode())
        least = votes * SMALLEST_VOTE_BYTES + (n - 1) * (block_bytes + SMALLEST_VOTE_BYTES)
        frames = votes + n - 1
        print(f"{n:4} {world.frames:8} {frames:8} {world.bytes:10} {least:10}"
              f" {world.bytes / least:6.2f}")  # fmt: skip
        rows.append({"validators": n, "frames": world.frames, "least_frames": frames,
                     "bytes": world.bytes, "least_bytes": least,
                     "ratio_bytes": world.bytes / least})  # fmt: skip
    return rows


def measure_attacks(sizes: Sequence[int], seeds: int) -> list[dict[str, object]]:
    """Attacks that the prototype does not survive, beside the same network without them."""

    def leave_alone(_world: World) -> None:
        pass

    def equivocate(world: World) -> None:
        world.is_equivocating = True

    def kill(world: World) -> None:
        world.dead = {0}
        world.is_request_known = True

    def babble(world: World) -> None:
        world.say(world.nodes[-1], b"\x01")

    attacks = {
        "none": leave_alone,
        "equivocating primary": equivocate,
        "dead primary": kill,
        "one-byte message": babble,
    }
    print(f"\n{'attack':24} {'n':>4} {'median s':>9} {'worst s':>8} {'ratio':>6}")
    rows = []
    for n in sizes:
        unharmed = 0.0
        for name, prepare in attacks.items():
            seconds = []
            for seed in range(seeds):
                world = World(seed, n, 30, build_transactions(100))
                prepare(world)
                seconds.append(world.run())
            median = statistics.median(seconds)
            unharmed = unharmed or median
            print(f"{name:24} {n:4} {median:9.2f} {max(seconds):8.2f} {median / unharmed:6.2f}")
            rows.append({"attack": name, "validators": n, "seconds": seconds,
                         "ratio_to_none": median / unharmed})  # fmt: skip
    return rows


def main() -> None:
    """Measure, print, and write JSON."""
    parser = build_parser("consensus_network", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="cells whose 'Mbit-transactions-n' has this")
    arguments = parser.parse_args()
    cells = [
        cell
        for cell in CELLS
        if arguments.only in f"{cell.megabits}-{cell.transactions}-{cell.validators}"
    ]
    seeds, traffic_sizes, attack_sizes = arguments.seeds, (4, 10, 31, 100), (10, 32, 50)
    if arguments.smoke:
        cells, seeds, traffic_sizes, attack_sizes = cells[:1], 1, (4,), (8,)
    results = {
        "cells": measure_cells(cells, seeds),
        "traffic": measure_traffic(traffic_sizes),
        "attacks": measure_attacks(attack_sizes, seeds),
    }
    write_report(arguments, results)


if __name__ == "__main__":
    main()
