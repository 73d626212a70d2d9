"""The forms of votes, verdicts and prices under test, and separate arithmetic for what they decide.

The other modules of this folder call the rules and do not know these forms. When a vote, a verdict
or a price gets another form, this is the file to change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts import gradient_ledger
from chain.contracts.abi import ContractCall
from chain.contracts.gradient_ledger import CommitmentEvidence, Deadline, ResultVote
from chain.primitives import Address
from chain.training.acceptance import Verdict, decode_verdicts, encode_verdicts
from chain.training.history import Attempt, TaskHistory
from chain.training.task_spec import TaskSpec
from chain.types.validator_set import ValidatorSet, compute_max_faulty

Words = Sequence[Verdict]
"""One validator's verdicts, one for each commitment."""

CHEAT_FACTOR: Final = 10
"""A distance above this many tolerances proves a cheat."""

MISS_SHARE: Final = 8
"""A miss costs the pay of a round divided by this."""

ABSENT: Final = Verdict.MISSING
"""What a validator says of a gradient that has not come, or that is malformed."""


def build_verdict_call(attempt: Attempt, words: Words) -> ContractCall:
    """The call with which an operator votes on all commitments."""
    at = attempt.id
    return gradient_ledger.post_verdict(
        at.task_id, at.round_number, at.attempt_number, attempt.ballot, encode_verdicts(words)
    )


def build_result_call(
    attempt: Attempt, vote: ResultVote, *, is_evaluated: bool = False
) -> ContractCall:
    """The call with which an operator votes for the outcome of a ballot."""
    at = attempt.id
    correct, loss = (15, 700) if is_evaluated else (None, 0)
    return gradient_ledger.post_result(
        at.task_id, at.round_number, at.attempt_number, attempt.ballot, vote, correct, loss
    )


def build_slash_call(attempt: Attempt) -> ContractCall:
    """A call that slashes the first miner of an attempt with the votes of its ballot so far."""
    records = [CommitmentEvidence(r.miner, r.units, r.commitment) for r in attempt.commitments]
    votes = [(r.validator, r.verdicts) for r in attempt.verdicts]
    task_id = attempt.id.task_id
    return gradient_ledger.slash(task_id, attempt.ballot_number, records, votes, [0])


def list_votes(attempt: Attempt, *, is_timely: bool = True) -> dict[Address, Words]:
    """The words of each validator, by validator; with `is_timely` only those that came in time."""
    count = len(attempt.commitments)
    return {
        record.validator: decode_verdicts(record.verdicts, count)
        for record in attempt.verdicts
        if record.is_timely or not is_timely
    }


def describe_words(words: Words) -> str:
    """The words as one short text for a trace."""
    return " ".join(word.name.lower() for word in words)


# What the words decide, counted here once more.


@dataclass(frozen=True)
class Tally:
    """How many validators said each word about one commitment."""

    ok: int
    against: int
    cheat: int
    missing: int


def count_words(votes: Mapping[Address, Words], index: int) -> Tally:
    """The tally of one commitment."""
    said = [words[index] for words in votes.values()]
    cheat = said.count(Verdict.CHEAT)
    return Tally(
        ok=said.count(Verdict.OK),
        against=said.count(Verdict.BAD) + cheat,
        cheat=cheat,
        missing=said.count(Verdict.MISSING),
    )


def is_accepted(tally: Tally, max_faulty: int) -> bool:
    """Whether a commitment is paid: an honest validator said ok, and at most f said otherwise."""
    return tally.ok > max_faulty and tally.against <= max_faulty


def is_fraud(tally: Tally, validator_set: ValidatorSet) -> bool:
    """Whether a commitment costs its miner the whole bond."""
    return _is_guilty(tally, validator_set) and tally.cheat > validator_set.max_faulty


def is_miss(tally: Tally, validator_set: ValidatorSet) -> bool:
    """Whether a commitment costs its miner a share of the round's pay."""
    return _is_guilty(tally, validator_set) and tally.cheat <= validator_set.max_faulty


def _is_guilty(tally: Tally, validator_set: ValidatorSet) -> bool:
    is_quorum = tally.cheat + tally.missing >= validator_set.quorum
    return is_quorum and tally.ok <= validator_set.max_faulty


def compute_fine(spec: TaskSpec, units: int, bond: int, *, is_whole_bond: bool) -> int:
    """What a slashed miner loses."""
    return bond if is_whole_bond else units * spec.reward.unit_price // MISS_SHARE


def list_accepted(attempt: Attempt, validator_set: ValidatorSet) -> tuple[int, ...]:
    """The indices of the commitments that are paid."""
    votes = list_votes(attempt)
    return tuple(
        i
        for i in range(len(attempt.commitments))
        if is_accepted(count_words(votes, i), validator_set.max_faulty)
    )


def compute_pay(
    attempt: Attempt, spec: TaskSpec, validator_set: ValidatorSet
) -> dict[Address, int]:
    """What each account earns when a result pays for the votes of this ballot."""
    pay: dict[Address, int] = {}
    accepted = list_accepted(attempt, validator_set)
    for i in accepted:
        record = attempt.commitments[i]
        pay[record.miner] = pay.get(record.miner, 0) + record.units * spec.reward.unit_price
    most = max(1, len(attempt.commitments) // 4)
    earners = [
        validator
        for validator, words in list_votes(attempt).items()
        if words.count(Verdict.UNCHECKED) <= most
        and all(words[i] is not Verdict.CHEAT for i in accepted)
    ]
    for validator in earners if accepted else ():
        operator = validator_set.operators[validator_set.validators.index(validator)]
        pay[operator] = pay.get(operator, 0) + spec.reward.validator_fee // len(earners)
    return {account: amount for account, amount in pay.items() if amount}


def compute_bond(spec: TaskSpec, units: int) -> int:
    """What a miner deposits for that many units."""
    return units * spec.reward.unit_price


def may_end_early(history: TaskHistory) -> bool:
    """Whether the phase of a task may end before its deadline, without any event."""
    attempt = history.attempt
    if attempt is None or attempt.validator_set is None:
        return False
    return len(list_votes(attempt)) >= attempt.validator_set.quorum


def is_late(deadline: Deadline, spec: TaskSpec, floor: int, n: int, number: int, now: int) -> bool:
    """Whether a verdict phase is so late that what is not held is called missing.

    Args:
        deadline: The deadline of the phase.
        spec: The specification of the task.
        floor: The least number of blocks of a phase.
        n: The number of validators.
        number: The number of the head.
        now: Seconds since the Unix epoch.
    """
    max_faulty = compute_max_faulty(n)
    floor = max(floor, 2 * (max_faulty + 1))
    is_late_by_time = now >= deadline.timestamp - spec.phases.verdict_seconds // 4
    return is_late_by_time and number >= deadline.block_number - max(floor // 4, max_faulty + 2)


# Prices and lifetimes. The rules have none yet; the checkers are off while these return None.


@dataclass(frozen=True)
class Prices:
    """What genesis asks for each resource that a task reserves, in base units of POT."""

    slot_second: int
    validator_millisecond: int


def get_prices() -> Prices | None:
    """The prices of the network; None while tasks are admitted without a price."""
    return None


def get_lifetime_seconds(spec: TaskSpec) -> int | None:
    """How long a task may be open; None while tasks have no lifetime."""
    return getattr(spec, "lifetime_seconds", None)
