"""The fines of an attempt, and what operators do about them (docs/spec/training.md, section 10.4).

The set of fines is a function of the final chain: of the verdicts that were there when the attempt
ended, and, for the closing vote, of all late ones. So all honest operators vote for the same root.
Any account may impose a fine that an approved root contains. Operators take turns, so that usually
one of them pays for it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts.addresses import MINER_SEATS
from chain.contracts.miner_seats import MAX_FINES, Fine, FineKind
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Verdict, decode_verdicts, list_by_commitment
from chain.training.attempt_records import Attempt, EndedAttempt, list_accused
from chain.training.decisions import LATE_VERDICTS, Guilt, VoteSizes, compute_guilt
from chain.training.rounds import TURN_BLOCKS
from chain.training.sorted_tree import build_nodes, build_proof

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
    """The index of its first place in the tree. It names the batch, whatever was imposed of it."""
    fines: tuple[tuple[Fine, tuple[Hash32, ...]], ...]
    """Each with its proof."""


@dataclass(frozen=True, slots=True)
class FinePlan:
    """What one operator does now about the fines of an attempt."""

    duties: tuple[PostFines | ImposeFines, ...]
    next_block: BlockNumber | None
    """The first head at which there may be more to do, if no event of the attempt brings it before;
    None if only an event can."""


def compute_fine_leaf(chain_id: int, task_id: TaskId, ordinal: int, fine: Fine) -> Hash32:
    """keccak256(keccak256(abi.encode(chainId, seats, task, ordinal, fine))).

    It is hashed twice, so that no inner node can be passed off as a leaf.
    """
    members = (fine.ballot, fine.index, fine.miner, fine.kind, fine.accusers)
    # All words are static, so ABI encoding puts them one after the other; eth_abi takes ten times
    # as long, and an attempt may have 1 024 fines.
    words = b"".join(
        each.rjust(32, b"\0") if isinstance(each, bytes) else each.to_bytes(32, "big")
        for each in (chain_id, MINER_SEATS, task_id, ordinal, *members)
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


@dataclass(frozen=True, slots=True)
class FineTrees:
    """The trees for the two votes on an attempt; None where there are no fines.

    A tree does not change any more when its vote begins, so it is built once.
    """

    first: FineTree | None
    closing: FineTree | None = None

    @property
    def all(self) -> tuple[FineTree, ...]:
        """The trees that have fines."""
        return tuple(each for each in (self.first, self.closing) if each is not None)


def compute_fines(ended: EndedAttempt, *, is_closing: bool) -> tuple[Fine, ...]:
    """The fines of an attempt, by the verdicts of its last ballot, in the order of its commitments.

    Args:
        ended: The attempt.
        is_closing: Whether verdicts count that came after the end of the attempt.
    """
    attempt, validator_set = ended.attempt, ended.validator_set
    sizes = VoteSizes(validator_set.max_faulty, validator_set.quorum)
    timely = _decode_timely(attempt)
    said = _add_late_words(timely, ended, is_closing=is_closing)
    fines = []
    by_commitment = list_by_commitment(said, len(attempt.commitments))
    for index, record in enumerate(attempt.commitments):
        guilt = compute_guilt(by_commitment[index], sizes, is_all_audited=True)
        if guilt is Guilt.NONE:
            continue
        accusers = 0
        if guilt is Guilt.FRAUD:
            accusers = sum(
                1 << place
                for place, validator in enumerate(validator_set.validators)
                if validator in timely and timely[validator][index] is Verdict.CHEAT
            )
        fines.append(Fine(attempt.ballot, index, record.miner, _KINDS[guilt], accusers))
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
        # Unchecked counts for nothing, as an absent verdict does.
        own = words.setdefault(validator, [Verdict.UNCHECKED] * count)
        if Verdict.UNCHECKED not in own:
            continue
        for index, verdict in enumerate(decode_verdicts(encoded, count)):
            if own[index] is Verdict.UNCHECKED and verdict in LATE_VERDICTS:
                own[index] = verdict
    return list(words.values())


def build_fine_trees(chain_id: int, ended: EndedAttempt, head_number: BlockNumber) -> FineTrees:
    """The trees that operators vote on at this head; the closing one after late verdicts only."""
    first = _build_tree(chain_id, ended, is_closing=False)
    if head_number < ended.late_until:
        return FineTrees(first)
    if not ended.late_verdicts:
        return FineTrees(first, first)
    return FineTrees(first, _build_tree(chain_id, ended, is_closing=True))


def plan_fines(
    ended: EndedAttempt,
    trees: FineTrees,
    operator: Address,
    head_number: BlockNumber,
    hopeless: Collection[Fine] = (),
) -> FinePlan:
    """What one operator does now about the fines of an attempt.

    Args:
        ended: The attempt, at the head.
        trees: Its trees at the head.
        operator: The account that would send the calls.
        head_number: The number of the head. A call sent now is in the next block at the earliest.
        hopeless: Fines for which the contract is known to have nothing left to take.
    """
    validator_set = ended.validator_set
    own_index = validator_set.find_operator(operator)
    if own_index is None or head_number >= ended.slashed_until:
        return FinePlan((), None)
    vote = _plan_vote(ended, trees, validator_set.validators[own_index], head_number)
    duties: list[PostFines | ImposeFines] = [] if vote is None else [vote]
    place = (own_index - ended.attempt.id.round_number) % len(validator_set.validators)
    hurry = ended.slashed_until - HURRY_BLOCKS
    turns = []
    for approved in ended.approved:
        tree = next((each for each in trees.all if each.root == approved.root), None)
        if tree is None:
            continue
        batches = _list_batches(ended, tree, hopeless)
        due = min(hurry, approved.block_number + TURN_BLOCKS * place)
        if head_number >= due:
            duties += batches
        elif batches:
            turns.append(due)
    if duties:
        return FinePlan(tuple(duties), BlockNumber(head_number + 1))
    later = [each for each in (ended.late_until, *turns) if each > head_number]
    return FinePlan((), BlockNumber(min(later)) if later else None)


def _list_batches(
    ended: EndedAttempt, tree: FineTree, hopeless: Collection[Fine]
) -> list[ImposeFines]:
    """The first batches with fines that are not imposed yet.

    The tree is cut into batches at fixed places, so a batch keeps its name from head to head.
    """
    batches = []
    imposed = get_heaviest(ended.imposed)
    for start in range(0, len(tree.fines), MAX_FINES):
        left = tuple(
            tree.prove(i)
            for i, fine in enumerate(tree.fines[start : start + MAX_FINES], start)
            if not _is_covered(fine, imposed) and fine not in hopeless
        )
        if left:
            batches.append(ImposeFines(ended.attempt.ordinal, start, left))
        if len(batches) == BATCHES_LIMIT:
            break
    return batches


def _build_tree(chain_id: int, ended: EndedAttempt, *, is_closing: bool) -> FineTree | None:
    fines = compute_fines(ended, is_closing=is_closing)
    attempt = ended.attempt
    if not fines:
        return None
    return build_fine_tree(chain_id, attempt.id.task_id, attempt.ordinal, fines)


def _plan_vote(
    ended: EndedAttempt,
    trees: FineTrees,
    validator: Address,
    head_number: BlockNumber,
) -> PostFines | None:
    """The vote that is due now: at once, or a closing one if that makes a fine heavier.

    In the last blocks of the window for votes at once, an operator that did not vote waits for the
    closing vote.
    """
    is_closing = head_number >= ended.late_until
    tree = trees.closing if is_closing else trees.first
    if tree is None or head_number >= ended.voted_until:
        return None
    # The contract takes the vote that comes after the window as the closing one, whatever its root
    # is, and takes no second one. So a vote at once must surely come before the end of the window.
    margin = HURRY_BLOCKS + ended.validator_set.max_faulty
    if not is_closing and head_number + margin >= ended.late_until:
        return None
    if (validator, is_closing) in ended.fines_votes:
        return None
    if any(each.is_closing == is_closing for each in ended.approved):
        return None
    approved = {each.root for each in ended.approved}
    first = trees.first
    known = () if first is None or first.root not in approved else first.fines
    heaviest = get_heaviest((fine.miner, fine.kind) for fine in known)
    if all(_is_covered(fine, heaviest) for fine in tree.fines):
        return None
    return PostFines(ended.attempt.ordinal, is_closing, tree.root)


def get_heaviest(fines: Iterable[tuple[Address, FineKind]]) -> Mapping[Address, FineKind]:
    """The heaviest kind of fine of each miner."""
    heaviest: dict[Address, FineKind] = {}
    for miner, kind in fines:
        heaviest[miner] = max(kind, heaviest.get(miner, kind))
    return heaviest


def _is_covered(fine: Fine, heaviest: Mapping[Address, FineKind]) -> bool:
    kind = heaviest.get(fine.miner)
    return kind is not None and kind >= fine.kind


def list_open_words(ended: EndedAttempt, validator: Address) -> tuple[int, ...]:
    """The indices of accused commitments on which a late verdict of this validator would count.

    There are none if it is no judge, or has given its late verdicts.
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
