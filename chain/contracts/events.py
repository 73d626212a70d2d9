"""Events of the system contracts, decoded from logs (docs/spec/contracts.md, section 3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chain.contracts.abi import decode_values, list_types
from chain.contracts.addresses import (
    FAUCET,
    GRADIENT_LEDGER,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    VALIDATOR_SET,
)
from chain.contracts.faucet import Dripped
from chain.contracts.gradient_ledger import (
    RESULT_VOTE_TYPE,
    AttemptOpened,
    AttemptVoided,
    BallotFailed,
    BondWithdrawn,
    CreditWithdrawn,
    GradientCommitted,
    MinerLeft,
    MinerRegistered,
    MinerSlashed,
    ResultPosted,
    RoundSettled,
    VerdictPosted,
    build_result_posted,
    build_round_settled,
)
from chain.contracts.reward_distributor import Claimed, RootSet
from chain.contracts.task_registry import (
    TaskActivated,
    TaskClosed,
    TaskFunded,
    TaskPaused,
    TaskReady,
    TaskRefunded,
    TaskResumed,
    TaskSubmitted,
)
from chain.contracts.validator_set import (
    ExitRequested,
    ProposalClosed,
    ProposalMade,
    ProposalVoted,
    SetScheduled,
    StakeWithdrawn,
    ValidatorSlashed,
)
from chain.crypto import keccak256
from chain.primitives import Address, Hash32
from chain.types.receipt import Log

Event = (
    TaskSubmitted
    | TaskFunded
    | TaskReady
    | TaskActivated
    | TaskPaused
    | TaskResumed
    | TaskClosed
    | TaskRefunded
    | MinerRegistered
    | MinerLeft
    | BondWithdrawn
    | AttemptOpened
    | GradientCommitted
    | VerdictPosted
    | ResultPosted
    | RoundSettled
    | BallotFailed
    | AttemptVoided
    | MinerSlashed
    | CreditWithdrawn
    | RootSet
    | Claimed
    | Dripped
    | ProposalMade
    | ProposalVoted
    | ProposalClosed
    | ExitRequested
    | SetScheduled
    | ValidatorSlashed
    | StakeWithdrawn
)
"""Everything that `decode_event` can answer."""


@dataclass(frozen=True, slots=True)
class EventLayout:
    """How an event lies in a log."""

    contract: Address
    signature: str
    indexed: tuple[int, ...]
    """Which parameters are topics; the fields of the event follow the signature's order."""
    build: Callable[..., Event]

    @property
    def topic(self) -> Hash32:
        """The first topic."""
        return keccak256(self.signature.encode())


EVENT_LAYOUTS: Final = (
    EventLayout(
        TASK_REGISTRY,
        "TaskSubmitted(uint256,address,bytes32,uint256,bytes)",
        (0, 1, 2),
        TaskSubmitted,
    ),
    EventLayout(TASK_REGISTRY, "TaskFunded(uint256,address,uint256)", (0, 1), TaskFunded),
    EventLayout(TASK_REGISTRY, "TaskReady(uint256,address,uint32)", (0, 1), TaskReady),
    EventLayout(TASK_REGISTRY, "TaskActivated(uint256)", (0,), TaskActivated),
    EventLayout(TASK_REGISTRY, "TaskPaused(uint256)", (0,), TaskPaused),
    EventLayout(TASK_REGISTRY, "TaskResumed(uint256)", (0,), TaskResumed),
    EventLayout(TASK_REGISTRY, "TaskClosed(uint256,uint8)", (0,), TaskClosed),
    EventLayout(TASK_REGISTRY, "TaskRefunded(uint256,address,uint256)", (0, 1), TaskRefunded),
    EventLayout(
        GRADIENT_LEDGER, "MinerRegistered(uint256,address,uint32,uint256)", (0, 1), MinerRegistered
    ),
    EventLayout(GRADIENT_LEDGER, "MinerLeft(uint256,address)", (0, 1), MinerLeft),
    EventLayout(GRADIENT_LEDGER, "BondWithdrawn(uint256,address,uint256)", (0, 1), BondWithdrawn),
    EventLayout(
        GRADIENT_LEDGER,
        "AttemptOpened(uint256,uint32,uint32,uint32,uint256)",
        (0, 1),
        AttemptOpened,
    ),
    EventLayout(
        GRADIENT_LEDGER,
        "GradientCommitted(uint256,uint32,address,uint32,uint32,uint32,bytes32)",
        (0, 1, 2),
        GradientCommitted,
    ),
    EventLayout(
        GRADIENT_LEDGER,
        "VerdictPosted(uint256,uint32,address,uint32,uint32,bool,bytes)",
        (0, 1, 2),
        VerdictPosted,
    ),
    EventLayout(
        GRADIENT_LEDGER,
        f"ResultPosted(uint256,uint32,address,uint32,uint32,{RESULT_VOTE_TYPE},uint32,uint64)",
        (0, 1, 2),
        build_result_posted,
    ),
    EventLayout(
        GRADIENT_LEDGER,
        f"RoundSettled(uint256,uint32,uint32,uint32,{RESULT_VOTE_TYPE},uint256)",
        (0, 1),
        build_round_settled,
    ),
    EventLayout(
        GRADIENT_LEDGER, "BallotFailed(uint256,uint32,uint32,uint32)", (0, 1), BallotFailed
    ),
    EventLayout(GRADIENT_LEDGER, "AttemptVoided(uint256,uint32,uint32)", (0, 1), AttemptVoided),
    EventLayout(
        GRADIENT_LEDGER, "MinerSlashed(uint256,address,uint256,bool)", (0, 1), MinerSlashed
    ),
    EventLayout(
        GRADIENT_LEDGER, "CreditWithdrawn(address,address,uint256)", (0, 1), CreditWithdrawn
    ),
    EventLayout(REWARD_DISTRIBUTOR, "RootSet(uint256,bytes32,uint256)", (0,), RootSet),
    EventLayout(REWARD_DISTRIBUTOR, "Claimed(uint256,address,uint256,uint256)", (0, 1), Claimed),
    EventLayout(FAUCET, "Dripped(address,uint256,uint256)", (0,), Dripped),
    EventLayout(
        VALIDATOR_SET, "ProposalMade(uint256,address,address,bool,uint64)", (0, 1, 2), ProposalMade
    ),
    EventLayout(VALIDATOR_SET, "ProposalVoted(uint256,address)", (0, 1), ProposalVoted),
    EventLayout(VALIDATOR_SET, "ProposalClosed(uint256,bool)", (0,), ProposalClosed),
    EventLayout(VALIDATOR_SET, "ExitRequested(address)", (0,), ExitRequested),
    EventLayout(VALIDATOR_SET, "SetScheduled(uint256,address,bool,uint64)", (0, 1), SetScheduled),
    EventLayout(
        VALIDATOR_SET, "ValidatorSlashed(address,address,uint64,uint256)", (0, 1), ValidatorSlashed
    ),
    EventLayout(VALIDATOR_SET, "StakeWithdrawn(address,address,uint256)", (0, 1), StakeWithdrawn),
)
"""Every event of the system contracts but the token's, which are ERC-20's."""


_LAYOUT_OF: Final = {(layout.contract, layout.topic): layout for layout in EVENT_LAYOUTS}
"""By the two things that name an event in a log."""


def decode_event(log: Log) -> Event | None:
    """What a system contract said, or None for any other log."""
    if not log.topics:
        return None
    layout = _LAYOUT_OF.get((log.address, log.topics[0]))
    if layout is None:
        return None
    types = list_types(layout.signature)
    topics = [
        decode_values([types[position]], topic)[0]
        for position, topic in zip(layout.indexed, log.topics[1:], strict=True)
    ]
    others = [kind for position, kind in enumerate(types) if position not in layout.indexed]
    data = iter(decode_values(others, log.data))
    topic_at = dict(zip(layout.indexed, topics, strict=True))
    return layout.build(*(topic_at[i] if i in topic_at else next(data) for i in range(len(types))))
