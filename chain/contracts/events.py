"""Events of the system contracts, decoded from logs (docs/spec/contracts.md, section 3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Final, get_args

from chain.contracts import (
    faucet,
    gradient_ledger,
    miner_seats,
    reward_distributor,
    task_registry,
    validator_set,
)
from chain.contracts.abi import build, compute_topic, decode_values
from chain.contracts.faucet import Dripped
from chain.contracts.gradient_ledger import (
    NOT_EVALUATED,
    AttemptOpened,
    AttemptPaid,
    AttemptVoided,
    BallotFailed,
    GradientCommitted,
    LateVerdictPosted,
    ResultPosted,
    RoundSettled,
    VerdictPosted,
)
from chain.contracts.miner_seats import (
    BondWithdrawn,
    CreditWithdrawn,
    FinesApproved,
    FinesPosted,
    MinerAbsent,
    MinerFined,
    MinerLeft,
    MinerRegistered,
    SeatBondBurnt,
)
from chain.contracts.reward_distributor import Claimed, RootSet
from chain.contracts.task_registry import (
    ExaminationPayWithdrawn,
    TaskActivated,
    TaskAnswered,
    TaskClosed,
    TaskFeeRefunded,
    TaskFunded,
    TaskLeased,
    TaskPaused,
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
from chain.primitives import Address, Hash32
from chain.types.receipt import Log

Event = (
    TaskSubmitted
    | TaskFunded
    | TaskLeased
    | TaskAnswered
    | TaskActivated
    | TaskPaused
    | TaskResumed
    | TaskClosed
    | TaskRefunded
    | TaskFeeRefunded
    | ExaminationPayWithdrawn
    | MinerRegistered
    | MinerLeft
    | BondWithdrawn
    | MinerAbsent
    | MinerFined
    | SeatBondBurnt
    | FinesPosted
    | FinesApproved
    | AttemptOpened
    | GradientCommitted
    | VerdictPosted
    | LateVerdictPosted
    | ResultPosted
    | RoundSettled
    | AttemptPaid
    | BallotFailed
    | AttemptVoided
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
"""All events that `decode_event` can return."""


@dataclass(frozen=True, slots=True)
class EventLayout:
    """How an event is encoded in a log. The class has the parameters as fields, in order."""

    contract: Address
    kind: Callable[..., Event]
    """The class of the event."""
    inputs: tuple[str, ...]
    """The types of the parameters."""
    indexed: tuple[int, ...]
    """Positions of the indexed parameters, which are topics."""
    topic: Hash32
    """The first topic, which names the event."""


_MODULES: Final = (
    task_registry,
    gradient_ledger,
    miner_seats,
    reward_distributor,
    faucet,
    validator_set,
)


def _list_layouts() -> Iterator[EventLayout]:
    """The layout of every class in `Event`. If one is missing, the import fails."""
    kinds = {kind.__name__: kind for kind in get_args(Event)}
    for module in _MODULES:
        contract = module.CONTRACT
        for name, event in contract.abi.events.items():
            kind = kinds.pop(name)
            assert len(fields(kind)) == len(event.inputs), f"{name} has other parameters"
            topic = compute_topic(name, event.inputs)
            yield EventLayout(contract.address, kind, event.inputs, event.indexed, topic)
    assert not kinds, f"no contract emits {kinds}"


EVENT_LAYOUTS: Final = tuple(_list_layouts())
"""The layouts of all events of the system contracts, except the ERC-20 events of the token."""

_LAYOUT_OF: Final = {(layout.contract, layout.topic): layout for layout in EVENT_LAYOUTS}
"""The layouts by contract and first topic, which together identify an event in a log."""


def decode_event(log: Log) -> Event | None:
    """The event of a system contract in a log; None for any other log."""
    if not log.topics:
        return None
    layout = _LAYOUT_OF.get((log.address, log.topics[0]))
    if layout is None:
        return None
    types = layout.inputs
    topics = {
        position: decode_values([types[position]], topic)[0]
        for position, topic in zip(layout.indexed, log.topics[1:], strict=True)
    }
    others = [kind for position, kind in enumerate(types) if position not in topics]
    data = iter(decode_values(others, log.data))
    values = [topics[at] if at in topics else next(data) for at in range(len(types))]
    event = build(layout.kind, values)
    if isinstance(event, ResultPosted) and event.correct_count == NOT_EVALUATED:
        return replace(event, correct_count=None)
    return event
