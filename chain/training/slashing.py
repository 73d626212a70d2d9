"""The slashing of miners that an attempt found guilty (docs/spec/contracts.md, section 6).

Any account may send the evidence. Operators take turns, so that usually one of them pays for it.
"""

from dataclasses import dataclass

from chain.contracts import gradient_ledger
from chain.contracts.abi import ContractCall
from chain.contracts.gradient_ledger import CommitmentEvidence
from chain.primitives import Address, BlockNumber
from chain.training.attempt import AttemptId
from chain.training.history import EndedAttempt, compute_outcome
from chain.training.rounds import TURN_BLOCKS
from chain.training.task_spec import TaskSpec
from chain.types.validator_set import ValidatorSet


@dataclass(frozen=True, slots=True)
class SlashingPlan:
    """What one operator does about the guilty miners of an attempt."""

    attempt_id: AttemptId
    ballot_number: int
    guilty: tuple[int, ...]
    """The indices of the commitments that cost their miners a bond or a part of it."""
    due_block: BlockNumber
    """The head from which it is this operator's turn."""
    commitments: tuple[CommitmentEvidence, ...]
    verdicts: tuple[tuple[Address, bytes], ...]

    def build_call(self, index: int) -> ContractCall:
        """The call that slashes the miner of one guilty commitment."""
        return gradient_ledger.slash(
            self.attempt_id.task_id, self.ballot_number, self.commitments, self.verdicts, [index]
        )


def plan_slashing(
    ended: EndedAttempt, spec: TaskSpec, validator_set: ValidatorSet, operator: Address
) -> SlashingPlan | None:
    """The plan of an operator; None if no miner is guilty, or the account judges no gradients.

    Args:
        ended: The attempt.
        spec: The specification of its task.
        validator_set: The validators in force; used if the attempt has no judges of its own.
        operator: The account that would send the calls.
    """
    attempt = ended.attempt
    validator_set = attempt.validator_set or validator_set
    outcome = compute_outcome(attempt, spec, validator_set)
    own_index = validator_set.find_operator(operator)
    if not outcome.guilty or own_index is None:
        return None
    place = (own_index - attempt.id.round_number) % len(validator_set.validators)
    return SlashingPlan(
        attempt_id=attempt.id,
        ballot_number=attempt.ballot_number,
        guilty=outcome.guilty,
        due_block=BlockNumber(ended.block_number + TURN_BLOCKS * place),
        commitments=tuple(
            CommitmentEvidence(r.miner, r.units, r.commitment) for r in attempt.commitments
        ),
        verdicts=tuple((r.validator, r.verdicts) for r in attempt.verdicts if r.is_timely),
    )
