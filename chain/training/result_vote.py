"""The vote for the outcome of a ballot (docs/spec/training.md, section 10)."""

from chain.contracts.addresses import REWARD_DISTRIBUTOR
from chain.contracts.gradient_ledger import ResultVote
from chain.primitives import Hash32
from chain.training.history import RoundOutcome, TaskHistory, add_rewards
from chain.training.rewards import build_reward_tree


def build_result_vote(
    history: TaskHistory,
    outcome: RoundOutcome,
    *,
    chain_id: int,
    training_state_root: Hash32,
    model_root: Hash32,
) -> ResultVote:
    """The vote for this outcome of the task's ballot in progress.

    Args:
        history: The task before the round is settled.
        outcome: The consequences of the ballot's verdicts.
        chain_id: EIP-155's.
        training_state_root: The root of the training state after the round.
        model_root: The root of the model after the round.
    """
    tree = build_reward_tree(
        chain_id,
        REWARD_DISTRIBUTOR,
        history.task_id,
        dict(add_rewards(history.rewards, outcome.payouts)),
    )
    return ResultVote(training_state_root, model_root, tree.root, outcome.accepted_units)
