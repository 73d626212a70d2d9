"""A task as a node that joins by a snapshot knows it, compared with the fold of all events."""

from collections.abc import Sequence
from dataclasses import fields, replace

from chain.primitives import Address, TaskId
from chain.training.history import TaskHistory
from node.network.protocols.state import TaskRecord
from node.sync.task_snapshot import StateView, fold_attempt
from tests.training_simulation.chain import Chain
from tests.worlds.contracts import CHAIN_ID


class SimulatedView(StateView):
    """The contracts of a simulated chain at its head."""

    def __init__(self, chain: Chain) -> None:
        self.read = chain.contracts.read
        self.read_slot = chain.contracts.state.get_storage
        self._chain_id = CHAIN_ID


def build_by_snapshot(chain: Chain, task_id: TaskId) -> TaskHistory:
    """The task from the state at the head, and from the events since its attempt opened."""
    view, known = SimulatedView(chain), chain.view.histories[task_id]
    rewards = sorted((who, pay) for who, pay in chain.view.rewards[task_id].items() if pay)
    record = TaskRecord(known.spec, tuple(rewards))
    progress = view.build_progress(task_id, record, chain.validator_set)
    first = progress.open_block
    blocks = [
        (block, (event,))
        for block, event in chain.events.get(task_id, ())
        if first is not None and block.number >= first
    ]
    return fold_attempt(progress, blocks, view.judges(progress))


def find_difference(chain: Chain, task_id: TaskId) -> str:
    """What a snapshot tells differently, except what no state tells; "" if there is nothing.

    The state does not hold the order of answers and the answers of former validators, the part of
    the budget that came with the submission, and the events of ended attempts that may be fined.
    """
    folded, built = chain.view.histories[task_id], build_by_snapshot(chain, task_id)
    members = chain.validator_set.validators
    expected = replace(
        folded,
        ready=_keep_members(folded.ready, members),
        refusals=tuple(
            (who, code) for each in members for who, code in folded.refusals if who == each
        ),
        budget=built.budget,
        ended=(),
    )
    differing = [
        f"{field.name}: {found} is not {wanted}"
        for field in fields(TaskHistory)
        if (found := getattr(built, field.name)) != (wanted := getattr(expected, field.name))
    ]
    return "; ".join(differing)


def _keep_members(found: Sequence[Address], members: Sequence[Address]) -> tuple[Address, ...]:
    return tuple(each for each in members if each in found)
