"""Validators that lie: at most f of them, which agree with each other on what to say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from chain.contracts import gradient_ledger
from chain.contracts.gradient_ledger import Phase, ResultKind, ResultVote
from chain.crypto import keccak256
from chain.primitives import Hash32
from chain.training.acceptance import Verdict
from chain.training.attempt_records import Attempt
from chain.training.history import TaskHistory
from chain.training.result_vote import (
    build_empty_vote,
)
from chain.training.task_checks import REFUSAL_CODES, ObjectionCode
from chain.training.task_spec import TaskSpec
from tests.training_simulation.formats import (
    Words,
    build_result_call,
    build_verdict_call,
    list_votes,
)

if TYPE_CHECKING:
    from tests.training_simulation.validators import Validator
    from tests.training_simulation.work import Work

Speak = Callable[["Validator", Attempt], Words | None]
"""The words that a liar says without a check; None while it says nothing."""


def _say(verdict: Verdict) -> Speak:
    return lambda validator, attempt: [verdict] * len(attempt.commitments)


def _say_anything(validator: "Validator", attempt: Attempt) -> Words:
    return [validator.random.choice(tuple(Verdict)) for _ in attempt.commitments]


def _copy(validator: "Validator", attempt: Attempt) -> Words | None:
    """The words of the first validator that voted: re-execution is saved."""
    return next(iter(list_votes(attempt).values()), None)


SPEAKERS: Final[Mapping[str, Speak]] = {
    "calls all ok": _say(Verdict.OK),
    "calls all bad": _say(Verdict.BAD),
    "calls all cheat": _say(Verdict.CHEAT),
    "calls all missing": _say(Verdict.MISSING),
    "calls all unchecked": _say(Verdict.UNCHECKED),
    "says anything": _say_anything,
    "copies": _copy,
    "takes back its ok": _say(Verdict.OK),
}
"""Liars that never re-execute a gradient."""

LAST_MOMENT: Final = "agrees at the last moment"
"""The habit of a liar that says what others said when the phase is as good as over. It is none of
HABITS: worlds draw from these, and seeds have the worlds that they had."""

HABITS: Final = (
    *SPEAKERS,
    "is silent",
    "posts no result",
    "is gone after its verdict",
    "flips a bit of the root",
    "flips a bit of the rewards",
    "claims more units",
    "changes its result",
    "says that the ballot failed",
    "says that the attempt is void",
    "is late",
    "is out of turn",
    "keeps gradients to itself",
    "leaves turns to others",
    "refuses tasks",
    "votes for other fines",
)
"""Every other way to lie."""


class Lie:
    """One liar's habit."""

    def __init__(self, habit: str) -> None:
        self.habit = habit
        self.serves = habit not in ("is silent", "keeps gradients to itself")
        """Whether it gives gradients and states to others."""
        self.takes_turns = habit not in ("is silent", "leaves turns to others")
        """Whether it sends the calls that any operator may send, when it is its turn."""

    def act(
        self, validator: "Validator", history: TaskHistory, spec: TaskSpec, phase: Phase
    ) -> None:
        """Do what an honest validator would not do now."""
        attempt, work = history.attempt, validator.memory.work[history.task_id]
        if attempt is None:
            return
        speak = SPEAKERS.get(self.habit)
        if speak is not None and phase is Phase.VERDICT:
            self._speak(validator, attempt, work, speak(validator, attempt))
        elif self.habit == "is late" and phase in (Phase.RESULT, Phase.SETTLEABLE):
            self._speak(validator, attempt, work, _say(Verdict.CHEAT)(validator, attempt))
        elif self.habit == LAST_MOMENT and phase in (Phase.VERDICT, Phase.RESULT):
            self._vote_last(validator, attempt, work, phase)
        elif self.habit == "is out of turn":
            self._go_on(validator, attempt, work, phase)
        elif self.habit == "changes its result" and phase is Phase.SETTLEABLE:
            self._change_result(validator, attempt, work)

    def _speak(
        self, validator: "Validator", attempt: Attempt, work: "Work", words: Words | None
    ) -> None:
        if words is not None and attempt.commitments:
            key = ("verdict", attempt.id, attempt.ballot_number)
            validator.vote(work, key, build_verdict_call(attempt, words), f"{self.habit}")

    def _vote_last(
        self, validator: "Validator", attempt: Attempt, work: "Work", phase: Phase
    ) -> None:
        view, task_id = validator.view, attempt.id.task_id
        now = max(validator.cluster.now, view.timestamp)
        later, _ = view.ask_phase(task_id, view.number + 1, now + 1)
        if Phase.RESULT in (phase, later):
            self._speak(validator, attempt, work, _copy(validator, attempt))

    def _go_on(self, validator: "Validator", attempt: Attempt, work: "Work", phase: Phase) -> None:
        task_id = attempt.id.task_id
        if phase is Phase.SETTLEABLE:
            for record in attempt.results:
                call = gradient_ledger.settle_round(task_id, record.vote)
                key = ("settle", attempt.ballot_number, record.vote)
                validator.vote(work, key, call, "settle out of turn")
        else:
            key = ("advance", attempt.id, attempt.ballot_number, phase)
            call = gradient_ledger.advance_round(task_id)
            validator.vote(work, key, call, "advance out of turn")

    def _change_result(self, validator: "Validator", attempt: Attempt, work: "Work") -> None:
        own = next((r.vote for r in attempt.results if r.validator == validator.address), None)
        if own is not None:
            other = replace(own, model_root=_flip(own.model_root))
            call = build_result_call(attempt, other)
            key = ("other", attempt.ballot_number, own.model_root)
            validator.vote(work, key, call, "another result")

    def distort_answer(self, honest: int) -> int:
        """The answer to a task instead of the honest one."""
        return (
            REFUSAL_CODES[ObjectionCode.DRY_RUN_REFUSED]
            if self.habit == "refuses tasks"
            else honest
        )

    def distort_verdicts(self, validator: "Validator", honest: Sequence[Verdict]) -> Words | None:
        """What is said instead of the honest words; None for nothing."""
        if self.habit in ("is silent", "is late", LAST_MOMENT) or self.habit in SPEAKERS:
            return None
        if self.habit == "is gone after its verdict":
            # The call is in the pool before the process ends.
            validator.cluster.after(1, lambda: validator.crash(validator.random.randrange(60_000)))
        return honest

    def distort_late_verdicts(self, attempt: Attempt, honest: Words) -> Words:
        """What is said after the attempt instead of the honest words."""
        takes_back = self.habit == "takes back its ok"
        return [Verdict.CHEAT] * len(attempt.commitments) if takes_back else honest

    def distort_fines(self, honest: Hash32) -> Hash32:
        """The root of fines that is voted for instead of the honest one."""
        return _flip(honest) if self.habit == "votes for other fines" else honest

    def distort_result(self, validator: "Validator", honest: ResultVote) -> ResultVote | None:
        """The result that is posted instead of the honest one; None for nothing."""
        match self.habit:
            case "is silent" | "posts no result":
                return None
            case "flips a bit of the root":
                return replace(honest, training_state_root=_flip(honest.training_state_root))
            case "flips a bit of the rewards":
                return replace(honest, rewards_root=keccak256(honest.rewards_root))
            case "claims more units":
                return replace(honest, accepted_units=honest.accepted_units + 1)
            case "says that the ballot failed":
                return build_empty_vote(ResultKind.FAILED, honest.timely_voters)
            case "says that the attempt is void":
                return build_empty_vote(ResultKind.VOID, honest.timely_voters)
            case _:
                return honest


def _flip(root: Hash32) -> Hash32:
    return Hash32(bytes([root[0] ^ 1]) + root[1:])
