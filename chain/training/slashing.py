"""The fines of an attempt, and what operators do about them (docs/spec/training.md, section 10.4).

The set of fines is a function of the final chain: of the verdicts that were there when the attempt
ended, and, for the closing vote, of all late ones. So all honest operators vote for the same root.
Any account may impose a fine that an approved root contains. Operators take turns, so that usually
one of them pays for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import encode

from chain.contracts.addresses import MINER_SEATS
from chain.contracts.miner_seats import MAX_FINES, Fine, FineKind
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Verdict, decode_verdicts
from chain.training.attempt_records import Attempt, EndedAttempt, list_accused
from chain.training.decisions import Guilt, VoteSizes, compute_guilt
from chain.training.rounds import TURN_BLOCKS
from chain.training.sorted_tree import build_nodes, build_proof

LATE_VERDICTS: Final = (Verdict.OK, Verdict.BAD, Verdict.CHEAT)
"""The verdicts that count when they come late: those that need a re-execution."""

HURRY_BLOCKS: Final = 8
"""In the last blocks of a window all operators act, whether it is their turn or not."""

BATCHES_LIMIT: Final = 8
"""The most batches of fines that an operator sends together."""

_KINDS: Final = {Guilt.MISS: FineKind.MISS, Guilt.FRAUD: FineKind.FRAUD}


@dataclass(frozen=True, slots=True)
class PostFines:
    """Vote for the root of the fines of an attempt."""

    ordinal: int
    is_closing: bool
    root: Hash32


@dataclass(frozen=True, slots=True)
class ImposeFines:
    """Impose fines that an approved root contains."""

    ordinal: int
    batch: int
    """The index of the first fine that may be in it; it names the batch."""
    fines: tuple[tuple[Fine, tuple[Hash32, ...]], ...]
    """Each with its proof."""


def compute_fine_leaf(chain_id: int, task_id: TaskId, ordinal: int, fine: Fine) -> Hash32:
    """keccak256(keccak256(abi.encode(chainId, seats, task, ordinal, fine))).

    It is hashed twice, so that no inner node can be passed off as a leaf.
    """
    words = encode(
        ["uint256", "address", "uint256", "uint32", "(uint32,uint32,address,uint8,uint256)"],
        [
            chain_id,
            MINER_SEATS,
            task_id,
            ordinal,
            (fine.ballot, fine.index, fine.miner, fine.kind, fine.accusers),
        ],
    )
    return keccak256(keccak256(words))


@dataclass(frozen=True, slots=True)
class FineTree:
    """The fines of an attempt as a Merkle tree."""

    fines: tuple[Fine, ...]
    leaves: tuple[Hash32, ...]
    nodes: tuple[Hash32, ...]

    @property
    def root(self) -> Hash32:
        """The root that operators vote for; there is none without fines."""
        return self.nodes[0]

    def prove(self, index: int) -> tuple[Fine, tuple[Hash32, ...]]:
        """A fine with the sibling hashes from its leaf to the root."""
        return self.fines[index], build_proof(self.nodes, self.leaves[index])


def build_fine_tree(
    chain_id: int, task_id: TaskId, ordinal: int, fines: Sequence[Fine]
) -> FineTree:
    """The tree over the fines of an attempt."""
    leaves = tuple(compute_fine_leaf(chain_id, task_id, ordinal, fine) for fine in fines)
    return FineTree(tuple(fines), leaves, build_nodes(leaves))


def compute_fines(ended: EndedAttempt, *, is_closing: bool) -> tuple[Fine, ...]:
    """The fines of an attempt, by the index of the commitment; the heaviest of each miner.

    Args:
        ended: The attempt.
        is_closing: Whether verdicts count that came after the end of the attempt.
    """
    attempt, validator_set = ended.attempt, ended.validator_set
    sizes = VoteSizes(validator_set.max_faulty, validator_set.quorum)
    timely = _decode_timely(attempt)
    said = _add_late_words(timely, ended, is_closing=is_closing)
    late = dict(reversed([(index, ballot) for ballot, index in attempt.late_deliveries]))
    fines = []
    for index, record in enumerate(attempt.commitments):
        guilt = compute_guilt([each[index] for each in said], sizes, is_all_audited=True)
        ballot, accusers = attempt.ballot, 0
        if guilt is Guilt.NONE and index in late:
            guilt, ballot = Guilt.MISS, late[index]
        if guilt is Guilt.NONE:
            continue
        if guilt is Guilt.FRAUD:
            accusers = sum(
                1 << place
                for place, validator in enumerate(validator_set.validators)
                if validator in timely and timely[validator][index] is Verdict.CHEAT
            )
        fines.append(Fine(ballot, index, record.miner, _KINDS[guilt], accusers))
    return tuple(fines)


def _decode_timely(attempt: Attempt) -> Mapping[Address, tuple[Verdict, ...]]:
    count = len(attempt.commitments)
    return {
        record.validator: decode_verdicts(record.verdicts, count)
        for record in attempt.verdicts
        if record.is_timely
    }


def _add_late_words(
    timely: Mapping[Address, tuple[Verdict, ...]], ended: EndedAttempt, *, is_closing: bool
) -> list[list[Verdict]]:
    """The verdicts that count for guilt, of each validator that gave any.

    A late verdict stands for one that is absent or *unchecked*; it changes no other verdict.
    """
    attempt = ended.attempt
    count = len(attempt.commitments)
    words = {validator: list(verdicts) for validator, verdicts in timely.items()}
    late = [(each.validator, each.verdicts) for each in attempt.verdicts if not each.is_timely]
    late += ended.late_verdicts if is_closing else ()
    for validator, encoded in late:
        # Unchecked counts for nothing, as an absent word does.
        own = words.setdefault(validator, [Verdict.UNCHECKED] * count)
        for index, verdict in enumerate(decode_verdicts(encoded, count)):
            if own[index] is Verdict.UNCHECKED and verdict in LATE_VERDICTS:
                own[index] = verdict
    return list(words.values())


def plan_fines(
    chain_id: int, ended: EndedAttempt, operator: Address, head_number: BlockNumber
) -> tuple[PostFines | ImposeFines, ...]:
    """What one operator does now about the fines of an attempt.

    Args:
        chain_id: The network.
        ended: The attempt, at the head.
        operator: The account that would send the calls.
        head_number: The head, whose child is the first block that can hold them.
    """
    validator_set = ended.validator_set
    own_index = validator_set.find_operator(operator)
    if own_index is None or head_number >= ended.slashed_until:
        return ()
    trees = {
        is_closing: _build_tree(chain_id, ended, is_closing)
        for is_closing in (False, True)
        if not is_closing or head_number >= ended.late_until
    }
    vote = _plan_vote(ended, trees, validator_set.validators[own_index], head_number)
    duties: list[PostFines | ImposeFines] = [] if vote is None else [vote]
    place = (own_index - ended.attempt.id.round_number) % len(validator_set.validators)
    is_hurry = head_number >= ended.slashed_until - HURRY_BLOCKS
    for approved in ended.approved:
        is_due = is_hurry or head_number >= approved.block_number + TURN_BLOCKS * place
        tree = next((each for each in trees.values() if each and each.root == approved.root), None)
        if is_due and tree is not None:
            duties += _list_batches(ended, tree)
    return tuple(duties)


def _list_batches(ended: EndedAttempt, tree: FineTree) -> list[ImposeFines]:
    """The first batches of fines that are not imposed. A batch has the same name at every head."""
    batches = []
    for start in range(0, len(tree.fines), MAX_FINES):
        group = range(start, min(start + MAX_FINES, len(tree.fines)))
        left = tuple(tree.prove(i) for i in group if not _is_imposed(ended, tree.fines[i]))
        if left:
            batches.append(ImposeFines(ended.attempt.ordinal, start, left))
        if len(batches) == BATCHES_LIMIT:
            break
    return batches


def _build_tree(chain_id: int, ended: EndedAttempt, is_closing: bool) -> FineTree | None:
    fines = compute_fines(ended, is_closing=is_closing)
    attempt = ended.attempt
    if not fines:
        return None
    return build_fine_tree(chain_id, attempt.id.task_id, attempt.ordinal, fines)


def _plan_vote(
    ended: EndedAttempt,
    trees: Mapping[bool, FineTree | None],
    validator: Address,
    head_number: BlockNumber,
) -> PostFines | None:
    """The vote that is due now: at once, or a closing one if that makes a fine heavier."""
    is_closing = head_number >= ended.late_until
    tree = trees[is_closing]
    if tree is None or head_number >= ended.voted_until:
        return None
    if (validator, is_closing) in ended.fines_votes:
        return None
    approved = {each.root for each in ended.approved}
    first = trees[False]
    known = dict.fromkeys(() if first is None or first.root not in approved else first.fines)
    if all(any(_covers(old, fine) for old in known) for fine in tree.fines):
        return None
    return PostFines(ended.attempt.ordinal, is_closing, tree.root)


def _covers(old: Fine, fine: Fine) -> bool:
    return old.miner == fine.miner and old.kind >= fine.kind


def _is_imposed(ended: EndedAttempt, fine: Fine) -> bool:
    return any(miner == fine.miner and kind >= fine.kind for miner, kind in ended.imposed)


def list_open_words(ended: EndedAttempt, validator: Address) -> tuple[int, ...]:
    """The accused commitments on which a late verdict of this validator would count.

    Empty if it is no judge, or has given its late verdicts.
    """
    validators = ended.validator_set.validators
    if validator not in validators or any(each == validator for each, _ in ended.late_verdicts):
        return ()
    attempt = ended.attempt
    count = len(attempt.commitments)
    said = [
        decode_verdicts(record.verdicts, count)
        for record in attempt.verdicts
        if record.validator == validator
    ]
    return tuple(
        index
        for index in list_accused(attempt, ended.validator_set)
        if all(
            verdicts[index] is Verdict.UNCHECKED
            or (verdicts[index] is Verdict.MISSING and not _is_timely(attempt, validator))
            for verdicts in said
        )
    )


def _is_timely(attempt: Attempt, validator: Address) -> bool:
    return any(each.is_timely for each in attempt.verdicts if each.validator == validator)
