"""A round as `pot_getRound` shows it, with what its attempts cost miners.

docs/spec/rpc.md, section 2, describes the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.gradient_ledger import Phase
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, BlockNumber
from chain.training.attempt_records import Attempt
from chain.training.fines import compute_miss
from chain.training.history import SettledRound, TaskHistory, compute_outcome
from chain.training.task_spec import TaskSpec
from node.ipc.turns import SharedTurns
from node.rpc.fines import describe_fines
from node.rpc.losses import ABSENCE, LossState, encode_absence, find_losses
from node.rpc.training_encoding import (
    EVALUATION_NAMES,
    encode_evaluation,
    encode_participants,
    encode_records,
    encode_vote,
)
from node.rpc.training_view import TrainingView
from node.rpc.void_attempts import VoidAttempt, find_void_attempts

FINES_LIMIT: Final = 16
"""The most attempts whose fines one answer has, the latest ones: each may have a thousand."""

TIME_NAMES: Final = ("seconds", "totalSeconds")
"""The fields that tell how long a settled round took: its last attempt, and all of them."""

EXAMINED_MINERS: Final = 32
"""The most absent miners of a round of which it is found out whether the absence was charged: each
takes a call of a contract, and a round may have a thousand."""

NO_FINE: Final[JsonObject] = {
    "fine": None,
    "fineState": None,
    "fineAmount": "0",
    "fineSeatBond": "0",
}
"""The fields of a receipt for an attempt that cost nothing."""

COMMITTING: Final = (Phase.WAITING, Phase.COMMITMENT)
"""The phases of an attempt in which a miner may still commit."""


@dataclass(frozen=True, slots=True)
class Absences:
    """The miners that took part in an attempt and did not commit."""

    ordinal: int
    open_block: BlockNumber
    miners: tuple[tuple[Address, int], ...]
    """With their units."""


class RoundView:
    """Describes rounds, attempts and fines."""

    def __init__(
        self, view: TrainingView, searches: SharedTurns, computations: SharedTurns
    ) -> None:
        """Make the view.

        Args:
            view: What RPC reads.
            searches: Bounds the searches for events at the same time.
            computations: Bounds what is computed in threads at the same time.
        """
        self._view = view
        self._searches = searches
        self._computations = computations

    async def describe_round(
        self, history: TaskHistory, spec: TaskSpec, number: int, settled: SettledRound | None
    ) -> JsonObject | None:
        """A round as JSON; None if it has not begun."""
        attempt = history.attempt if settled is None else settled.attempt
        if attempt is not None and attempt.id.round_number != number:
            return None
        if attempt is None and number != history.rounds_settled:
            return None
        found_void = await self._find_void(history, number, attempt)
        void = await self._describe_void(history, spec, found_void)
        if attempt is None:
            return {"round": number, "voidAttempts": void} if void else None
        seed = self._view.describe(spec, attempt).seed
        participants = await self._view.contracts.participants(history.task_id, attempt.open_block)
        found: JsonObject = {
            "round": number,
            "attempt": attempt.id.attempt_number,
            "ordinal": attempt.ordinal,
            "ballot": attempt.ballot,
            "openBlock": attempt.open_block,
            "seed": to_hex(seed),
            "participants": encode_participants(participants),
            **await self._computations.run(encode_records, attempt),
            "absent": await self.describe_absent(
                history, spec, attempt, is_over=settled is not None
            ),
            "voidAttempts": void,
        }
        if settled is None:
            nothing: JsonObject = dict.fromkeys(
                ("blockNumber", "result", "payout", "fines", *TIME_NAMES, *EVALUATION_NAMES)
            )
            return {**found, **nothing, "accepted": []}
        outcome = await self._computations.run(
            compute_outcome, attempt, spec, self._view.index.validator_set
        )
        return {
            **found,
            **encode_evaluation(settled, spec),
            "blockNumber": settled.block_number,
            "accepted": list(outcome.accepted),
            "result": encode_vote(settled.vote),
            "payout": str(settled.vote.payout),
            "seconds": settled.timestamp - attempt.open_timestamp,
            "totalSeconds": settled.timestamp - self._find_begin(attempt, found_void),
            "fines": await self._describe_fines(history, spec, attempt.ordinal),
        }

    async def describe_absent(
        self, history: TaskHistory, spec: TaskSpec, attempt: Attempt, *, is_over: bool
    ) -> Json:
        """The miners that did not commit to an attempt; none while they still may."""
        if not is_over:
            phase, _ = await self._view.contracts.phase(history.task_id)
            if phase in COMMITTING:
                return []
        missing = await self._list_absent(
            history, attempt.open_block, frozenset(each.miner for each in attempt.commitments)
        )
        absences = Absences(attempt.ordinal, attempt.open_block, missing)
        (rows,) = await self._describe_absences(history, spec, (absences,))
        return [*rows]

    async def describe_absence(
        self, history: TaskHistory, spec: TaskSpec, attempt: Attempt, miner: Address, units: int
    ) -> JsonObject:
        """What it cost a miner that it did not commit to an attempt that is over."""
        absences = Absences(attempt.ordinal, attempt.open_block, ((miner, units),))
        ((row,),) = await self._describe_absences(history, spec, (absences,))
        return row

    async def describe_finable(self, history: TaskHistory, spec: TaskSpec) -> Json:
        """The attempts with fines that judges vote on or that can be imposed now."""
        head = self._view.chain.store.head_number()
        marks = [each for each in history.ended if head < each.slashed_until]
        found = [
            await self._describe_fines(history, spec, mark.ordinal) for mark in marks[-FINES_LIMIT:]
        ]
        return [each for each in found if isinstance(each, dict) and each["fines"]]

    async def describe_void_of(
        self,
        history: TaskHistory,
        spec: TaskSpec,
        number: int,
        attempt: Attempt | None,
        miner: Address,
    ) -> list[Json]:
        """The void attempts of a round in which a miner took part, with what each cost it."""
        found = await self._find_void(history, number, attempt)
        rows: list[Json] = []
        for each in found:
            participants = await self._view.contracts.participants(history.task_id, each.open_block)
            units = dict(participants).get(miner, 0)
            if not units:
                continue
            if all(committed != miner for committed, _ in each.commitments):
                absences = Absences(each.ordinal, each.open_block, ((miner, units),))
                ((absence,),) = await self._describe_absences(history, spec, (absences,))
                fine = build_fine(ABSENCE, absence)
            else:
                fine = await self.describe_own_fine(history, spec, each.ordinal, miner)
            about: JsonObject = {
                "attempt": each.attempt,
                "ordinal": each.ordinal,
                "reason": each.reason,
            }
            rows.append({**about, **fine})
        return rows

    async def describe_own_fine(
        self, history: TaskHistory, spec: TaskSpec, ordinal: int, miner: Address
    ) -> JsonObject:
        """The fine of a miner for its commitment to an attempt."""
        fines = await self._describe_fines(history, spec, ordinal)
        listed = [] if fines is None else fines["fines"]
        assert isinstance(listed, list)
        for each in listed:
            if isinstance(each, dict) and each["miner"] == to_hex(miner):
                return build_fine(str(each["kind"]), each)
        return NO_FINE

    async def _describe_void(
        self, history: TaskHistory, spec: TaskSpec, found: Sequence[VoidAttempt]
    ) -> list[Json]:
        missing = [
            Absences(
                each.ordinal,
                each.open_block,
                await self._list_absent(
                    history, each.open_block, frozenset(miner for miner, _ in each.commitments)
                ),
            )
            for each in found
        ]
        absent = await self._describe_absences(history, spec, missing)
        return [
            {
                "attempt": each.attempt,
                "ordinal": each.ordinal,
                "openBlock": each.open_block,
                "endBlock": each.end_block,
                "reason": each.reason,
                "commitments": encode_participants(each.commitments),
                "absent": [*absences],
                "fines": await self._describe_fines(history, spec, each.ordinal),
            }
            for each, absences in zip(found, absent, strict=True)
        ]

    async def _list_absent(
        self, history: TaskHistory, open_block: BlockNumber, committed: frozenset[Address]
    ) -> tuple[tuple[Address, int], ...]:
        participants = await self._view.contracts.participants(history.task_id, open_block)
        return tuple(each for each in sorted(participants) if each[0] not in committed)

    async def _describe_absences(
        self, history: TaskHistory, spec: TaskSpec, attempts: Sequence[Absences]
    ) -> list[list[JsonObject]]:
        """What attempts cost the miners that did not commit to them, by attempt."""
        contracts, task = self._view.contracts, history.task_id
        distinct = sorted({miner for each in attempts for miner, _ in each.miners})
        miners = distinct[:EXAMINED_MINERS]
        if not miners:
            return [[] for _ in attempts]
        first = min(each.open_block for each in attempts)
        losses = await self._searches.run(find_losses, self._view.chain, task, miners, first)
        progress = await contracts.read(gradient_ledger.get_round(task))
        seats = {each: await contracts.read(miner_seats.get_seat(task, each)) for each in miners}
        seat_bond = await contracts.read(miner_seats.seat_bond())
        price = spec.reward.unit_price
        rows: list[list[JsonObject]] = []
        for each in attempts:
            row: list[JsonObject] = []
            for miner, units in each.miners:
                state = LossState.UNKNOWN
                if miner in seats:
                    state = losses.find_state(miner, each.ordinal, seats[miner], progress)
                row.append(
                    {
                        "miner": to_hex(miner),
                        "units": units,
                        **encode_absence(
                            state,
                            losses.by_attempt.get((miner, each.ordinal)),
                            compute_miss(units * price),
                            seat_bond,
                        ),
                    }
                )
            rows.append(row)
        return rows

    def _find_begin(self, attempt: Attempt, void: Sequence[VoidAttempt]) -> int:
        """When the first attempt at a round opened that is known, in seconds since 1970."""
        header = self._view.chain.store.header(void[0].open_block) if void else None
        return attempt.open_timestamp if header is None else header.timestamp

    async def _find_void(
        self, history: TaskHistory, number: int, attempt: Attempt | None
    ) -> tuple[VoidAttempt, ...]:
        """The void attempts of a round, before the attempt that settled it or is in progress."""
        if attempt is not None and attempt.id.attempt_number == 0:
            return ()
        store, index = self._view.chain.store, self._view.index
        before = None
        if number:
            before = await self._computations.run(index.settled_round, history.task_id, number - 1)
        first = history.submitted_block if before is None else before.block_number
        last = store.head_number() if attempt is None else attempt.open_block
        return await self._searches.run(
            find_void_attempts, self._view.chain, history.task_id, number, first, last
        )

    async def _describe_fines(
        self, history: TaskHistory, spec: TaskSpec, ordinal: int
    ) -> JsonObject | None:
        """The fines of an ended attempt; None if it can have none, or is forgotten."""
        seat_bond = await self._view.contracts.read(miner_seats.seat_bond())
        return await self._searches.run(self._load_fines, history, spec, ordinal, seat_bond)

    def _load_fines(
        self, history: TaskHistory, spec: TaskSpec, ordinal: int, seat_bond: int
    ) -> JsonObject | None:
        ended = self._view.index.ended(history.task_id, ordinal)
        if ended is None:
            return None
        view = self._view
        return describe_fines(view.chain, view.chain_id, ended, spec, seat_bond)


def count_finable(history: TaskHistory, head: BlockNumber) -> int:
    """The attempts of a task that may still be fined."""
    return sum(head < each.slashed_until for each in history.ended)


def build_fine(kind: str, found: JsonObject) -> JsonObject:
    """The fields of a receipt for one absence or fine, if it was or may be taken."""
    state = str(found["state"])
    if state == LossState.NONE.value:
        return {**NO_FINE, "fineState": state}
    if state == "lapsed":
        return NO_FINE
    is_known = state in (LossState.TAKEN.value, LossState.DUE.value, LossState.UNKNOWN.value)
    told = state if is_known else LossState.DUE.value
    if state == "imposed":
        told = LossState.TAKEN.value
    return {
        "fine": kind,
        "fineState": told,
        "fineAmount": found["amount"],
        "fineSeatBond": found["seatBond"],
    }
