"""The fines of an attempt: what judges voted, what is due, and what was taken.

docs/spec/rpc.md, section 2, describes the answer. Judges vote on a root of fines only. The fines
follow from the verdicts, so this node computes them as the judges do.
"""

from collections.abc import Mapping
from typing import Final

from chain.contracts.miner_seats import Fine, FineKind
from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.primitives import Address, BlockNumber
from chain.training.attempt_records import EndedAttempt
from chain.training.fines import compute_bond, compute_miss
from chain.training.slashing import FineTrees, build_fine_trees, get_heaviest
from chain.training.task_spec import TaskSpec
from node.rpc.chain_view import ChainView
from node.rpc.losses import ABSENCE, Loss, list_losses

REASONS: Final = {
    FineKind.MISS: "validators could not get its gradient in time",
    FineKind.DEVIATION: "its gradient is outside the tolerance",
    FineKind.FRAUD: "validators found its gradient to be wrong",
}
"""What a miner is fined for."""


def describe_fines(
    chain: ChainView, chain_id: int, ended: EndedAttempt, spec: TaskSpec, seat_bond: int
) -> JsonObject:
    """The fines of an ended attempt as JSON.

    This decodes blocks and hashes trees, so call it in a thread.

    Args:
        chain: The chain.
        chain_id: EIP-155's.
        ended: The attempt.
        spec: The specification of its task.
        seat_bond: The bond of each seat in base units of POT.
    """
    head = chain.store.head_number()
    trees = build_fine_trees(chain_id, ended, head)
    taken = _find_taken(chain, ended)
    attempt = ended.attempt
    return {
        "token": to_hex(spec.reward.token),
        "round": attempt.id.round_number,
        "attempt": attempt.id.attempt_number,
        "ordinal": attempt.ordinal,
        "endBlock": ended.block_number,
        "lateUntil": ended.late_until,
        "votedUntil": ended.voted_until,
        "slashedUntil": ended.slashed_until,
        "quorum": ended.validator_set.quorum,
        "votes": [
            {"validator": to_hex(validator), "closing": is_closing}
            for validator, is_closing in ended.fines_votes
        ],
        "silent": [
            to_hex(each)
            for each in ended.validator_set.validators
            if all(each != voter for voter, _ in ended.fines_votes)
        ],
        "fines": [
            _describe_fine(ended, fine, trees, taken, spec, seat_bond, head)
            for fine in _list_heaviest(trees)
        ],
    }


def _list_heaviest(trees: FineTrees) -> list[Fine]:
    """One fine for each miner, by the index of its commitment."""
    found: dict[int, Fine] = {}
    for tree in trees.all:
        for fine in tree.fines:
            known = found.get(fine.index)
            if known is None or fine.kind >= known.kind:
                found[fine.index] = fine
    return [found[index] for index in sorted(found)]


def _describe_fine(
    ended: EndedAttempt,
    fine: Fine,
    trees: FineTrees,
    taken: Mapping[tuple[Address, FineKind], Loss],
    spec: TaskSpec,
    seat_bond: int,
    head: BlockNumber,
) -> JsonObject:
    units = ended.attempt.commitments[fine.index].units
    pay = units * spec.reward.unit_price
    is_miss = fine.kind is FineKind.MISS
    most = compute_miss(pay) if is_miss else compute_bond(pay, spec.verification.audit_ppm)
    state = _find_state(ended, fine, trees, head)
    loss = taken.get((fine.miner, fine.kind))
    validators = ended.validator_set.validators
    return {
        "miner": to_hex(fine.miner),
        "units": units,
        "ballot": fine.ballot,
        "kind": fine.kind.name.lower(),
        "reason": REASONS[fine.kind],
        "amount": str(most if loss is None else loss.amount),
        "seatBond": str(seat_bond if loss is None else loss.seat_bond),
        "state": state,
        "accusers": [
            to_hex(each) for place, each in enumerate(validators) if fine.accusers >> place & 1
        ],
    }


def _find_state(ended: EndedAttempt, fine: Fine, trees: FineTrees, head: BlockNumber) -> str:
    """How far a fine is: `imposed`, `approved`, `due` (to be voted on), or `lapsed`."""
    imposed = get_heaviest(ended.imposed).get(fine.miner)
    if imposed is not None and imposed >= fine.kind:
        return "imposed"
    if head >= ended.slashed_until:
        return "lapsed"
    roots = {each.root for each in ended.approved}
    if any(tree.root in roots and fine in tree.fines for tree in trees.all):
        return "approved"
    return "lapsed" if head >= ended.voted_until else "due"


def _find_taken(chain: ChainView, ended: EndedAttempt) -> Mapping[tuple[Address, FineKind], Loss]:
    """What imposed fines took of the bonds, as far as this node has blocks."""
    miners = get_heaviest(ended.imposed)
    if not miners:
        return {}
    last = BlockNumber(min(chain.store.head_number(), ended.slashed_until))
    task_id, ordinal = ended.attempt.id.task_id, ended.attempt.ordinal
    return {
        (loss.miner, FineKind[loss.kind.upper()]): loss
        for loss in list_losses(chain, task_id, sorted(miners), ended.block_number, last)
        if loss.ordinal == ordinal and loss.kind != ABSENCE
    }
