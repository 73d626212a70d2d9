"""The rows of the training index equal the fold over all receipts at every block."""

from pathlib import Path

from chain.contracts.events import decode_event
from chain.contracts.task_registry import TaskStatus, TaskSubmitted
from chain.primitives import BlockNumber
from chain.training.history import (
    BlockContext,
    SettledRound,
    TaskHistory,
    apply_event,
    build_history,
    get_theta_root,
)
from node.chain.training_index import TrainingIndex
from node.storage.block_store import BlockStore
from tests.worlds.training_chain import GENESIS_SET, SPEC, TASK, TrainingChain


def fold(store: BlockStore) -> tuple[TaskHistory | None, list[SettledRound]]:
    """The history of the one task, computed from the receipts alone."""
    history, rounds = None, []
    for header in store.headers(BlockNumber(1), store.head_number()):
        context = BlockContext(header.number, header.timestamp)
        for receipt in store.receipts(header.number) or ():
            for event in map(decode_event, receipt.logs):
                if isinstance(event, TaskSubmitted):
                    history = build_history(event, context)
                elif event is not None and history is not None and hasattr(event, "task_id"):
                    fold = apply_event(
                        history, event, context, spec=SPEC, validator_set=GENESIS_SET
                    )
                    history, settled = fold.history, fold.settled
                    rounds += [] if settled is None else [settled]
    return history, rounds


def test_rows_equal_the_fold_over_all_receipts_at_every_step(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    seen: list[str | None] = []
    steps = (
        chain.submit,
        chain.activate,
        chain.register,
        chain.commit,
        chain.judge,
        chain.agree,
        chain.settle,
        chain.cancel,
    )
    assert chain.index.task_count() == 0
    assert chain.index.history(TASK) is None
    for step in steps:
        step()
        history, rounds = fold(chain.store)
        assert history is not None
        # A process that only reads sees the same rows.
        reader = TrainingIndex(chain.store)
        assert reader.history(TASK) == history
        assert [reader.settled_round(TASK, n) for n in range(len(rounds))] == rounds
        assert reader.settled_round(TASK, len(rounds)) is None
        assert list(reader.live_tasks()) == [history]
        seen.append(history.status)
    assert seen == [TaskStatus.PENDING, *[TaskStatus.ACTIVE] * 7]
    assert len(fold(chain.store)[1]) == 1
    assert reader.task_count() == 1
    assert get_theta_root(history, SPEC) == chain.compute_vote().model_root


def test_submission_without_a_valid_spec_is_kept_and_described(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    chain.submit()
    history = chain.index.history(TASK)
    assert history is not None
    assert chain.index.spec(history) == SPEC

    broken = TaskHistory(
        TASK, history.submitter, history.spec_hash, b"\xff no JSON", 1, BlockNumber(1)
    )
    assert TrainingIndex(chain.store).spec(broken) is None
