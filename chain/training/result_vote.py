"""The vote for the result of a ballot (docs/spec/training.md, section 10)."""

from collections.abc import Mapping

from chain.contracts.addresses import REWARD_DISTRIBUTOR
from chain.contracts.gradient_ledger import ResultKind, ResultVote
from chain.primitives import ZERO_HASH, Address, Hash32, TaskId
from chain.training.history import RoundOutcome, add_rewards
from chain.training.rewards import build_reward_tree


def build_result_vote(
    task_id: TaskId,
    earned: Mapping[Address, int],
    outcome: RoundOutcome,
    *,
    chain_id: int,
    training_state_root: Hash32,
    model_root: Hash32,
) -> ResultVote:
    """The vote that settles a round with this outcome of its ballot.

    Args:
        task_id: The task.
        earned: What each account has earned before the round is settled.
        outcome: The consequences of the ballot's verdicts; its kind is SETTLED.
        chain_id: EIP-155's.
        training_state_root: The root of the training state after the round.
        model_root: The root of the model after the round.
    """
    assert outcome.kind is ResultKind.SETTLED
    return ResultVote(
        training_state_root,
        model_root,
        _get_rewards_root(task_id, earned, outcome, chain_id),
        outcome.accepted_units,
        outcome.payout,
        ResultKind.SETTLED,
        outcome.timely_voters,
    )


def build_payment_vote(
    task_id: TaskId, earned: Mapping[Address, int], outcome: RoundOutcome, chain_id: int
) -> ResultVote:
    """The vote that pays what a void attempt has accepted, and leaves the model as it is."""
    assert outcome.kind is ResultKind.SETTLED
    return ResultVote(
        ZERO_HASH,
        ZERO_HASH,
        _get_rewards_root(task_id, earned, outcome, chain_id),
        outcome.accepted_units,
        outcome.payout,
        ResultKind.PAID_ONLY,
        outcome.timely_voters,
    )


def build_empty_vote(kind: ResultKind, timely_voters: int) -> ResultVote:
    """The vote that a ballot failed, or that its attempt is void."""
    assert kind in (ResultKind.FAILED, ResultKind.VOID)
    return ResultVote(ZERO_HASH, ZERO_HASH, ZERO_HASH, 0, 0, kind, timely_voters)


def _get_rewards_root(
    task_id: TaskId, earned: Mapping[Address, int], outcome: RoundOutcome, chain_id: int
) -> Hash32:
    total = add_rewards(earned, outcome.payouts)
    return build_reward_tree(chain_id, REWARD_DISTRIBUTOR, task_id, total).root
