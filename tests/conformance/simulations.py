"""Seeds of the simulated network, each with a hash of its messages, records and final blocks."""

import hashlib
from collections import defaultdict

from chain.consensus.messages import (
    Committed,
    Message,
    MessageKind,
    NewView,
    PrePrepare,
    Status,
    ViewChange,
    Vote,
    compute_view_change_payload,
)
from chain.consensus.records import Record, encode_record
from chain.types.block import Block
from tests.conformance.registry import Value
from tests.simulation.worlds import simulate

SEEDS = {
    "abandoned": (69,),
    "clocks": (3,),
    "disks": (4, 44),
    "large": (136,),
    "liars": (0, 41),
    "locked": (55,),
    "locks": (42, 57),
    "scattered": (5, 32),
    "sets": (10, 50),
    "starved": (7,),
    "storm": (14, 85),
    "strict": (99,),
    "twins": (21, 126),
}
"""The seeds by family."""


class WorldRecord:
    """The messages, records and final blocks of one world.

    Messages are sorted within their millisecond: the order in which a cluster takes up what happens
    at one moment is its own affair.
    """

    def __init__(self) -> None:
        self._messages: list[tuple[int, str]] = []
        self._records: defaultdict[str, list[str]] = defaultdict(list)
        self._blocks: defaultdict[str, list[str]] = defaultdict(list)

    def on_message(
        self, now_ms: int, event: str, sender: str, receiver: str, message: Message
    ) -> None:
        kind, number, view, digest = describe(message)
        text = f"{event} {sender} {receiver} {kind.name} {number}/{view} {digest.hex()}"
        self._messages.append((now_ms, text))

    def on_record(self, node: str, record: Record) -> None:
        digest = hashlib.sha256(encode_record(record)).hexdigest()
        self._records[node].append(f"{record.number} {digest}")

    def on_final(self, node: str, block: Block) -> None:
        self._blocks[node].append(f"{block.number} {block.hash.hex()}")

    def summarize(self) -> Value:
        """The messages by time, and for each node its records and final blocks in order."""
        messages = [f"{now_ms} {text}" for now_ms, text in sorted(self._messages)]
        return ["\n".join(messages), self._records, self._blocks]


def describe(message: Message) -> tuple[MessageKind, int, int, bytes]:
    """The kind, number, view and digest of a message."""
    match message:
        case Vote():
            return message.kind, message.number, message.view, message.digest
        case PrePrepare(vote, _):
            return MessageKind.PRE_PREPARE, vote.number, vote.view, vote.digest
        case NewView(PrePrepare(vote, _), _, _):
            return MessageKind.NEW_VIEW, vote.number, vote.view, vote.digest
        case ViewChange(vote, _):
            payload = compute_view_change_payload(vote.prepared)
            return MessageKind.VIEW_CHANGE, vote.number, vote.view, payload
        case Status():
            return MessageKind.STATUS, message.number, message.view, message.digest
        case Committed(number, digest, certificate):
            return MessageKind.COMMITTED, number, certificate.view, digest


def record_seed(seed: int) -> Value:
    """The record of the world of a seed."""
    record = WorldRecord()
    simulate(seed, recorder=record)
    return record.summarize()


def name_line(seed: int) -> str:
    return f"simulation.seed.{seed}"


def list_seeds() -> list[int]:
    return sorted(seed for seeds in SEEDS.values() for seed in seeds)
