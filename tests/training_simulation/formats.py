"""The forms of votes, verdicts and prices under test, and separate arithmetic for what they decide.

The other modules of this folder call the rules and do not know these forms. When a vote, a verdict
or a price gets another form, this is the file to change.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.abi import ContractCall
from chain.contracts.gradient_ledger import MAX_BALLOTS, Deadline, ResultKind, ResultVote
from chain.contracts.miner_seats import Fine, FineKind
from chain.contracts.task_registry import Prices, Purchase, TaskResources
from chain.primitives import Address
from chain.training.acceptance import Verdict, decode_verdicts, encode_verdicts
from chain.training.attempt_records import Attempt
from chain.training.history import TaskHistory
from chain.training.task_spec import TaskSpec
from chain.types.validator_set import ValidatorSet, compute_max_faulty

Words = Sequence[Verdict]
"""One validator's verdicts, one for each commitment."""

CHEAT_FACTOR: Final = 10
"""A distance above this many tolerances proves a cheat."""

MISS_SHARE: Final = 8
"""A miss costs the pay of a round divided by this, rounded up, and as much of the seat bond."""

DISPLACED_PER_UNIT: Final = 2
"""A newcomer displaces at most so many units for each of its own."""

MISSES: Final = 2
"""A seat ends at so many misses."""

MISS_WINDOW: Final = 8
"""Two misses in so many attempts burn the seat bond."""

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
    """A call that fines the first miner of an attempt without any vote for that."""
    miner = attempt.commitments[0].miner if attempt.commitments else bytes(20)
    fine = Fine(attempt.ballot, 0, Address(miner), FineKind.FRAUD, 1)
    return miner_seats.slash(attempt.id.task_id, attempt.ordinal, [(fine, ())])


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
    unchecked: int = 0


def count_words(votes: Mapping[Address, Words], index: int) -> Tally:
    """The tally of one commitment."""
    said = [words[index] for words in votes.values()]
    cheat = said.count(Verdict.CHEAT)
    return Tally(
        ok=said.count(Verdict.OK),
        against=said.count(Verdict.BAD) + cheat,
        cheat=cheat,
        missing=said.count(Verdict.MISSING),
        unchecked=said.count(Verdict.UNCHECKED),
    )


def is_accepted(tally: Tally, max_faulty: int) -> bool:
    """Whether a commitment is paid: an honest validator said ok, and at most f said otherwise."""
    return tally.ok > max_faulty and tally.against <= max_faulty


@dataclass
class Ended:
    """An attempt that has ended, as the chain told it."""

    attempt: Attempt
    """With the votes of its last ballot."""
    block_number: int
    judges: ValidatorSet
    """The validators that judge it."""
    failed: tuple[Attempt, ...] = ()
    """The same with the votes of each ballot that failed; its set judged that ballot."""
    late: tuple[tuple[Address, bytes, int], ...] = ()
    """Late votes: validator, words and block."""


def count_guilty_words(ended: Ended, index: int, until: int | None = None) -> Tally:
    """The tally of a commitment with the late words up to a block; with None, of all of them."""
    attempt = ended.attempt
    said = {validator: words[index] for validator, words in list_votes(attempt).items()}
    count = len(attempt.commitments)
    late = [
        (each.validator, each.verdicts, ended.block_number)
        for each in attempt.verdicts
        if not each.is_timely
    ]
    for validator, encoded, number in (*late, *ended.late):
        word = decode_verdicts(encoded, count)[index]
        is_open = said.get(validator, Verdict.UNCHECKED) is Verdict.UNCHECKED
        is_word = word in (Verdict.OK, Verdict.BAD, Verdict.CHEAT)
        if is_open and is_word and (until is None or number <= until):
            said[validator] = word
    return count_words({validator: [word] for validator, word in said.items()}, 0)


def is_fraud(tally: Tally, validator_set: ValidatorSet) -> bool:
    """Whether a commitment costs its miner the whole bond."""
    return _is_guilty(tally, validator_set) and tally.cheat > validator_set.max_faulty


def is_miss(tally: Tally, validator_set: ValidatorSet) -> bool:
    """Whether a commitment costs its miner a share of the round's pay."""
    return _is_guilty(tally, validator_set) and tally.cheat <= validator_set.max_faulty


def _is_guilty(tally: Tally, validator_set: ValidatorSet) -> bool:
    is_quorum = tally.cheat + tally.missing >= validator_set.quorum
    return is_quorum and tally.ok <= validator_set.max_faulty


def is_delivered_late(failed: Attempt, index: int, validator_set: ValidatorSet) -> bool:
    """Whether a commitment came so late that it made its ballot fail.

    In an attempt's last ballot no commitment does: the attempt is void, and nobody is paid.
    """
    tally = count_words(list_votes(failed), index)
    is_late = tally.missing > validator_set.max_faulty
    return is_late and failed.ballot < MAX_BALLOTS - 1 and _makes_fail(tally, validator_set)


def _makes_fail(tally: Tally, validator_set: ValidatorSet) -> bool:
    """Whether a commitment makes its ballot fail, if the attempt has a further one."""
    may_be_accepted = tally.ok + tally.unchecked > validator_set.max_faulty
    is_open = tally.unchecked > 0 and not _is_decided(tally, validator_set)
    return is_open and may_be_accepted


def _is_decided(tally: Tally, validator_set: ValidatorSet) -> bool:
    """Whether the words about a commitment are enough to accept it or not."""
    faulty, checked = validator_set.max_faulty, tally.ok + tally.against
    is_missed = tally.missing >= validator_set.quorum and checked <= faulty
    return tally.against > faulty or tally.ok > faulty or is_missed


def decide_ballot(attempt: Attempt, validator_set: ValidatorSet) -> ResultKind:
    """What the words of a ballot do to its attempt, besides a payment without a model."""
    votes = list_votes(attempt)
    tallies = [count_words(votes, index) for index in range(len(attempt.commitments))]
    is_last = attempt.ballot == MAX_BALLOTS - 1
    if not is_last and any(_makes_fail(tally, validator_set) for tally in tallies):
        return ResultKind.FAILED
    is_any_accepted = any(is_accepted(tally, validator_set.max_faulty) for tally in tallies)
    return ResultKind.SETTLED if is_any_accepted else ResultKind.VOID


def share_bond(ended: Ended, index: int, bond: int) -> dict[Address, int]:
    """What the operators that called a fraud a cheat in time have of its bond."""
    votes, judges = list_votes(ended.attempt), ended.judges
    accusers = [
        operator
        for validator, operator in zip(judges.validators, judges.operators, strict=True)
        if validator in votes and votes[validator][index] is Verdict.CHEAT
    ]
    return {operator: bond // 2 // len(accusers) for operator in accusers}


def compute_miss(spec: TaskSpec, units: int) -> int:
    """What a miss costs."""
    return -(-units * spec.reward.unit_price // MISS_SHARE)


def compute_windows(spec: TaskSpec, validator_set: ValidatorSet) -> tuple[int, int]:
    """The blocks for late words after an attempt, and those of each window that follows."""
    quorum = validator_set.quorum
    window = max(64, 3 * quorum + 2 * (validator_set.max_faulty + 1) + 8)
    return max(window, 2 * spec.phases.verdict_seconds), window


def list_accepted(attempt: Attempt, validator_set: ValidatorSet) -> tuple[int, ...]:
    """The indices of the commitments that are paid."""
    votes = list_votes(attempt)
    return tuple(
        i
        for i in range(len(attempt.commitments))
        if is_accepted(count_words(votes, i), validator_set.max_faulty)
    )


def compute_pay(
    attempt: Attempt, spec: TaskSpec, validator_set: ValidatorSet, late: Collection[int]
) -> dict[Address, int]:
    """What each account earns when a result pays for the votes of this ballot.

    Args:
        attempt: The attempt with the votes of the ballot.
        spec: The specification of its task.
        validator_set: The judges of the ballot.
        late: The indices of the commitments that made a ballot of the attempt fail by coming late.
    """
    pay: dict[Address, int] = {}
    accepted = list_accepted(attempt, validator_set)
    for i in accepted:
        record = attempt.commitments[i]
        full = record.units * spec.reward.unit_price
        lost = compute_miss(spec, record.units) if i in late else 0
        pay[record.miner] = pay.get(record.miner, 0) + full - lost
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


def count_free_units(spec: TaskSpec, taken: Sequence[int]) -> int:
    """The most units of a newcomer: the first miners leave a unit for each of the fewest."""
    reward = spec.reward
    assert reward.max_units <= 1_024, "the least seat of a larger task has more than one unit"
    reserved = max(0, reward.min_miners - len(taken) - 1)
    return reward.max_units - sum(taken) - reserved


def compute_bond(spec: TaskSpec, units: int) -> int:
    """What a miner deposits for that many units, in the task's token."""
    return units * spec.reward.unit_price + MISSES * compute_miss(spec, units)


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


# Prices and lifetimes.


PRICES: Final = Prices(
    task_slots=64,
    slot_price=10**9,
    second_price=10**12,
    byte_price=10**14,
    examination_fee=10**10,
    pending_seconds=600,
    max_lifetime_seconds=30 * 86_400,
    idle_seconds=1_500,
    empty_block_milliseconds=4_000,
    phase_floor_blocks=8,
)
"""The prices of every simulated network; the last two follow the world."""

GRACE_BLOCKS: Final = 3
"""The least blocks for which a quorum of verdicts waits, if f + 2 are not more."""

DRY_RUN_SECONDS: Final = 240
"""The worker's time that every answer is paid for."""

KEPT_SECONDS: Final = 86_400
"""How long content is kept of a task that never became active."""

GIB_DAY: Final = 2**30 * 86_400


def compute_attempt_seconds(spec: TaskSpec, n: int, floor: int, empty_block_ms: int) -> int:
    """The longest course of an attempt: three ballots with their turns, and the payment phase.

    A quorum just before the deadline of verdicts waits for the others.
    """

    def last(blocks: int) -> int:
        return -(-blocks * empty_block_ms // 1_000)

    vote = last(max(floor, 2 * (compute_max_faulty(n) + 1)))
    commit = max(spec.phases.commit_seconds, vote)
    verdict, result = max(spec.phases.verdict_seconds, vote), max(spec.phases.result_seconds, vote)
    turns, wait = last(2 * n), last(max(GRACE_BLOCKS, compute_max_faulty(n) + 2))
    return commit + 3 * (verdict + wait + result) + result + 8 * turns


def compute_answer_pay() -> int:
    """What one answer of a validator earns."""
    return PRICES.examination_fee + DRY_RUN_SECONDS * PRICES.second_price


def compute_rent(resources: TaskResources, n: int, others_open: int, seconds: int) -> int:
    """The price of a slot, and of memory and disk at n validators, for so many seconds."""
    slot = PRICES.slot_price * 2 ** (8 * others_open // PRICES.task_slots) * seconds
    return slot + _compute_bytes(resources, n, seconds)


def compute_pending_rent(spec: TaskSpec, n: int, others_open: int) -> int:
    """What is burnt at once for a task's time as a pending one."""
    seconds = PRICES.pending_seconds
    slot = PRICES.slot_price * 2 ** (8 * others_open // PRICES.task_slots) * seconds
    promise = compute_promise(spec, n, seconds)
    return slot + _compute_bytes(spec.resources, n, seconds + KEPT_SECONDS) + promise


def _compute_bytes(resources: TaskResources, n: int, seconds: int) -> int:
    size = resources.peak_bytes + resources.disk_bytes
    return -(-n * PRICES.byte_price * size * seconds // GIB_DAY)


def compute_promise(spec: TaskSpec, n: int, seconds: int) -> int:
    """The price of the part of a worker's time that n validators promise for so many seconds."""
    checks = spec.reward.max_units * spec.resources.unit_milliseconds
    shares = (
        (checks, spec.phases.verdict_seconds),
        (spec.resources.evaluation_milliseconds, spec.phases.result_seconds),
    )
    ppm = max(-(-1_000 * busy_ms // phase) for busy_ms, phase in shares)
    return -(-n * PRICES.second_price * ppm * seconds // 1_000_000)


def compute_computation(spec: TaskSpec, n: int, bought: Purchase) -> int:
    """The price of the validators' time: used in attempts or promised, whichever is more."""
    resources = spec.resources
    milliseconds = spec.reward.max_units * resources.unit_milliseconds
    milliseconds += 3 * resources.evaluation_milliseconds
    used = -(-n * PRICES.second_price * milliseconds * bought.attempts // 1_000)
    return max(used, compute_promise(spec, n, bought.lifetime_seconds))
