"""The environment of a simulated process: disk and network, and a crash at any moment.

The performer and the signer are the node's own. A process may crash before each of its outside
effects, and in the middle of a write.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from chain.consensus.effects import BuildBlock, ReportEvidence, SetTimer
from chain.consensus.guard import GuardState
from chain.consensus.inputs import BlockBuilt, Input, TransactionHeld
from chain.consensus.messages import Committed, Message
from chain.consensus.pbft import ReplicaState, Transition
from chain.consensus.records import decode_record
from chain.errors import InvalidMessage
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.consensus.performer import Received
from node.consensus.wal import WalRecord
from pot_common.errors import StorageError

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster, Node

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class CrashError(Exception):
    """The process crashed."""


class SimulatedGuard:
    """The guard on the disk of a process."""

    def __init__(self, cluster: "Cluster", node: "Node") -> None:
        self._cluster = cluster
        self._node = node

    def load(self) -> GuardState | None:
        return self._node.disk.guard

    def save(self, state: GuardState) -> None:
        self._cluster.reach(self._node)
        self._node.disk.guard = state


class SimulatedLog:
    """The log on the disk of a process."""

    def __init__(self, cluster: "Cluster", node: "Node") -> None:
        self._cluster = cluster
        self._node = node

    def records(self) -> Sequence[WalRecord]:
        return self._node.disk.records()

    def append(self, number: BlockNumber, payload: bytes) -> None:
        disk, recorder = self._node.disk, self._cluster.recorder
        try:
            self._cluster.reach(self._node)
        except CrashError:
            disk.tear(number, payload, self._cluster.random)
            raise
        if disk.is_full:
            disk.tear(number, payload, self._cluster.random)
            raise StorageError("the disk is full")
        disk.append_payload(number, payload)
        if recorder is not None:
            recorder.on_record(self._node.name, decode_record(payload))

    def truncate_through(self, number: BlockNumber) -> None:
        self._cluster.reach(self._node)
        if self._node.disk.is_full:
            raise StorageError("the disk is full")
        self._node.disk.truncate_through(number)


class SimulatedEnvironment:
    """The cluster as one process sees it; each start of the process has a new one."""

    def __init__(self, cluster: "Cluster", node: "Node") -> None:
        self._cluster = cluster
        self._node = node

    async def run_blocking(
        self, function: Callable[[_Argument], _Result], argument: _Argument
    ) -> _Result:
        self._cluster.reach(self._node)
        result = function(argument)
        signer = self._node.signer
        assert signer is not None
        may_fail = self._node.is_byzantine or self._node.disk.is_full
        assert signer.failure is None or may_fail, f"{self._node.name}: {signer.failure}"
        return result

    async def finalize(self, block: Block, certificate: CommitCertificate) -> None:
        self._cluster.reach(self._node)
        self._cluster.finalize_later(self._node, block, certificate)

    def on_transition(self, event: Input, before: ReplicaState, transition: Transition) -> None:
        del event
        self._cluster.on_step(self._node, before, transition.state)

    def broadcast(self, message: Message) -> None:
        self._cluster.reach(self._node)
        self._cluster.broadcast(self._node, message)

    def send(self, validator: Address, message: Message) -> None:
        self._cluster.reach(self._node)
        self._cluster.send(self._node, self._cluster.slot_of(validator), message)

    def find_committed(self, number: BlockNumber) -> Committed | None:
        if not 1 <= number <= self._node.head:
            return None
        block, certificate = self._node.disk.chain[number - 1]
        return Committed(number, block.hash, certificate)

    def validate(self, block: Block, age_limit_ms: int | None) -> None:
        self._cluster.reach(self._node)
        self._node.proposed_ms = self._cluster.now_ms
        self._cluster.validate_later(self._node, block, age_limit_ms)

    def build(self, asked: BuildBlock) -> None:
        self._cluster.reach(self._node)
        self._node.proposed_ms = self._cluster.now_ms
        if self._node.head + 1 == asked.number:
            block = self._cluster.build(self._node)
            delay_ms = self._cluster.random.randrange(1, 30)
            delay_ms += self._cluster.count_execution_ms(self._node)
            delay_ms += self._cluster.adversary.count_dawdling_ms(self._node)
            built = BlockBuilt(asked.number, asked.view, block)
            self._cluster.give_later(self._node, delay_ms, built)

    def fetch(self, digest: Hash32, validators: Sequence[Address]) -> None:
        self._cluster.reach(self._node)
        for validator in validators:
            self._cluster.fetch(self._node, digest, self._cluster.slot_of(validator))

    def set_timer(self, timer: SetTimer) -> None:
        self._cluster.reach(self._node)
        self._cluster.set_timer(self._node, timer)

    def forward_transactions(self, primary: Address) -> None:
        self._cluster.reach(self._node)
        for other in self._cluster.copies(self._cluster.slot_of(primary)):
            if (self._node.name, other.name) not in self._cluster.links_down:
                self._cluster.give_later(other, self._cluster.draw_delay(), TransactionHeld())

    def receive_again(self, given: Received) -> None:
        self._cluster.reach(self._node)
        self._cluster.receive_later(self._node, given)

    def report_rejection(self, sender: Address, error: InvalidMessage) -> None:
        self._cluster.reach(self._node)
        self._cluster.report(self._node, self._cluster.slot_of(sender), str(error))

    def report_evidence(self, evidence: ReportEvidence, author: Address) -> None:
        del author
        self._cluster.reach(self._node)
        if not self._node.is_byzantine:
            self._cluster.checkers.on_evidence(evidence.first, evidence.second)
