"""The `pot_` methods for the node, tasks, rounds and rewards (docs/spec/rpc.md, section 2)."""

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Final, assert_never

from chain.contracts import gradient_ledger, miner_seats, reward_distributor, task_registry
from chain.contracts.addresses import (
    FAUCET,
    GRADIENT_LEDGER,
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
    VALIDATOR_SET,
)
from chain.contracts.ledger_storage import OpeningState
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, BlockNumber, TaskId
from chain.training.acceptance import decode_verdicts
from chain.training.architectures import count_parameters
from chain.training.assignment import Assignment
from chain.training.attempt_records import Attempt
from chain.training.decisions import Guilt, Outcome
from chain.training.fines import compute_pay
from chain.training.history import (
    RoundOutcome,
    SettledRound,
    TaskHistory,
    compute_outcome,
    get_evaluation,
    get_theta_root,
)
from chain.training.openings import list_obstacles
from chain.training.rounds import list_evaluated
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import (
    TaskSpec,
)
from node.ipc.client import IpcError, NodeLink
from node.ipc.turns import SharedTurns
from node.rpc.dispatch import Method
from node.rpc.errors import ErrorCode, RpcError, history_not_held, invalid_params
from node.rpc.kept_answers import KeptAnswers
from node.rpc.losses import ABSENCE
from node.rpc.parameters import BlockTag, Parameters, parse_address, parse_integer, parse_object
from node.rpc.reward_proofs import RewardProofs
from node.rpc.rounds import NO_FINE, RoundView, build_fine, count_finable
from node.rpc.seats import describe_seat
from node.rpc.training_encoding import (
    encode_account,
    encode_deadline,
    encode_evaluation,
    encode_fee,
    encode_lease,
    encode_obstacles,
    encode_participants,
    encode_refusals,
    encode_resources,
    encode_round_state,
    encode_seat,
    encode_summary,
    encode_terms,
)
from node.rpc.training_view import TrainingView
from node.training.checks import load_check
from pot_common.json_text import parse_json
from pot_common.samples import compute_samples

LIST_LIMIT: Final = 100
"""Limit of tasks in an answer."""

SAMPLE_LIST_LIMIT: Final = 4_096
"""Limit of sample indices in a work receipt; if there are more, the receipt has only their
number."""

EVALUATION_SEARCH_LIMIT: Final = 4
"""Number of latest rounds with an evaluation due that are searched for the latest evaluation.
Validators may settle a round without it. A round with the most miners takes 2 ms."""

EVENT_SEARCHES: Final = 2
"""Limit of searches for the events of seats at the same time. Others wait, so that threads remain
for short requests."""

COMPUTATIONS: Final = 1
"""Limit of computations in threads at the same time. They are Python code and take turns with the
event loop, so more of them would only leave less time to uploads."""

_parse_id = partial(parse_integer, low=1, high=2**53 - 1)
_parse_round = partial(parse_integer, low=0, high=2**32 - 1)


class PotMethods:
    """The `pot_` methods, which read the chain and the contracts, and ask the node process."""

    def __init__(
        self, *, view: TrainingView, node: NodeLink, client_version: str, rpc_url: str
    ) -> None:
        self._view = view
        self._node = node
        self._kept = KeptAnswers(self._ask_node)
        self._client_version = client_version
        self._rpc_url = rpc_url
        self._proofs = RewardProofs(view.index, view.chain_id)
        self._searches = SharedTurns(EVENT_SEARCHES)
        self._computations = SharedTurns(COMPUTATIONS)
        self._rounds = RoundView(view, self._searches, self._computations)

    def table(self) -> Mapping[str, Method]:
        """The methods by name."""
        return {
            "pot_consensusState": self._consensus_state,
            "pot_getAttempt": self._get_attempt,
            "pot_getFines": self._get_fines,
            "pot_getModel": self._get_model,
            "pot_getReadiness": self._get_readiness,
            "pot_getReceipt": self._get_receipt,
            "pot_getRevealHolders": self._get_reveal_holders,
            "pot_getRewardProof": self._get_reward_proof,
            "pot_getRound": self._get_round,
            "pot_getSeat": self._get_seat,
            "pot_getTask": self._get_task,
            "pot_listTasks": self._list_tasks,
            "pot_nodeInfo": self._node_info,
            "pot_validators": self._validators,
        }

    # The node.

    async def _ask_node(self, method: str, params: JsonObject | None = None) -> Json:
        try:
            return await self._node.call(method, params)
        except IpcError as error:
            raise RpcError(ErrorCode.UNAVAILABLE, str(error)) from error

    async def _node_info(self, params: Parameters) -> Json:
        params.end()
        info = await self._ask_node("node_info")
        assert isinstance(info, dict)
        chain = self._view.chain
        head = chain.head()
        client, _, version = self._client_version.partition("/")
        has_faucet = bool(chain.code(FAUCET, BlockTag.LATEST))
        return {
            **info,
            "client": client,
            "version": version,
            "chainId": self._view.chain_id,
            "genesisHash": to_hex(chain.store.genesis_hash()),
            "head": {"number": head.number, "hash": to_hex(head.hash)},
            "rpcUrl": self._rpc_url,
            "systemContracts": {
                "token": to_hex(TRAINING_TOKEN),
                "validatorSet": to_hex(VALIDATOR_SET),
                "taskRegistry": to_hex(TASK_REGISTRY),
                "gradientLedger": to_hex(GRADIENT_LEDGER),
                "rewardDistributor": to_hex(REWARD_DISTRIBUTOR),
                "minerSeats": to_hex(MINER_SEATS),
                "faucet": to_hex(FAUCET) if has_faucet else None,
            },
        }

    async def _validators(self, params: Parameters) -> Json:
        params.end()
        return await self._kept.get("validators")

    async def _consensus_state(self, params: Parameters) -> Json:
        params.end()
        return await self._kept.get("consensus_state")

    # Tasks.

    def _take_task(self, params: Parameters) -> TaskHistory | None:
        return self._view.index.history(TaskId(params.required("task id", _parse_id)))

    async def _list_tasks(self, params: Parameters) -> Json:
        page = params.optional("page", parse_object, None) or {}
        params.end()
        if set(page) - {"offset", "limit"}:
            raise invalid_params("expected offset and limit")
        offset = parse_integer(page.get("offset", 0), low=0, high=2**53 - 1)
        limit = parse_integer(page.get("limit", LIST_LIMIT), low=1, high=LIST_LIMIT)
        return await self._computations.run(self._summarize_page, offset, limit)

    def _summarize_page(self, offset: int, limit: int) -> Json:
        last = min(self._view.index.task_count(), offset + limit)
        histories = (
            self._view.index.history(TaskId(number)) for number in range(offset + 1, last + 1)
        )
        return [self._summarize(history) for history in histories if history is not None]

    async def _get_task(self, params: Parameters) -> Json:
        history = self._take_task(params)
        params.end()
        if history is None:
            return None
        contracts, task_id = self._view.contracts, history.task_id
        phase, deadline = await contracts.phase(task_id)
        terms = await contracts.read(task_registry.get_terms(task_id))
        resources = await contracts.read(task_registry.get_resources(task_id))
        account = await contracts.read(task_registry.get_account(task_id))
        money = self._view.index.money(task_id)
        head = self._view.chain.store.head()
        state = await contracts.read(gradient_ledger.get_round(task_id))
        opening = OpeningState(
            status=history.status,
            is_open=history.attempt is not None,
            seat_count=await contracts.read(miner_seats.seat_count(task_id)),
            registered_units=await contracts.read(miner_seats.registered_units(task_id)),
            refundable=account.refundable,
            attempts_left=history.lease.attempts_left,
            attempt_seconds=history.lease.attempt_seconds,
            end_time=history.lease.end_time,
            end_block=history.lease.end_block,
        )
        prices = await contracts.read(task_registry.get_prices())
        obstacles = list_obstacles(
            opening,
            terms,
            number=head.number + 1,
            now=head.timestamp,
            empty_block_interval_ms=prices.empty_block_milliseconds,
        )
        return {
            **self._summarize(history),
            "submittedTime": self._find_time(history.submitted_block),
            "phase": phase.name.lower(),
            "obstacles": encode_obstacles(obstacles),
            "spec": _describe_spec(history),
            "terms": encode_terms(terms),
            "resources": encode_resources(resources),
            "account": encode_account(account, money),
            "fee": encode_fee(money, history),
            "lease": encode_lease(history.lease, history.status, head.number + 1, head.timestamp),
            "refusals": encode_refusals(history),
            "round": encode_round_state(state),
            "deadline": encode_deadline(deadline),
            "evaluation": await self._computations.run(self._find_evaluation, history),
        }

    def _summarize(self, history: TaskHistory) -> JsonObject:
        head = self._view.chain.store.head_number()
        return {
            **encode_summary(history, self._view.index.spec(history)),
            "finableAttempts": count_finable(history, head),
        }

    def _find_time(self, number: BlockNumber) -> int | None:
        """The time of a block; None if this node does not hold it."""
        header = self._view.chain.store.header(number)
        return None if header is None else header.timestamp

    def _find_evaluation(self, history: TaskHistory) -> Json:
        spec = self._view.index.spec(history)
        if spec is None:
            return None
        due = list_evaluated(spec, history.rounds_settled)
        for number in islice(due, EVALUATION_SEARCH_LIMIT):
            settled = self._view.index.settled_round(history.task_id, number)
            if settled is not None and get_evaluation(settled) is not None:
                return {"round": number, **encode_evaluation(settled, spec)}
        return None

    async def _get_attempt(self, params: Parameters) -> Json:
        history = self._take_task(params)
        params.end()
        attempt = None if history is None else history.attempt
        spec = None if history is None else self._view.index.spec(history)
        if history is None or attempt is None or spec is None:
            return None
        phase, deadline = await self._view.contracts.phase(history.task_id)
        participants = await self._view.contracts.participants(history.task_id, attempt.open_block)
        seats = await self._view.contracts.seats(history.task_id, attempt.open_block)
        seed = self._view.describe(spec, attempt).seed
        return {
            "round": attempt.id.round_number,
            "attempt": attempt.id.attempt_number,
            "ordinal": attempt.ordinal,
            "ballot": attempt.ballot,
            "phase": phase.name.lower(),
            "openBlock": attempt.open_block,
            "seed": to_hex(seed),
            "participants": encode_participants(participants),
            "seats": [to_hex(miner) for miner in seats],
            "trainingStateRoot": to_hex(history.training_state_root),
            "thetaRoot": to_hex(get_theta_root(history, spec)),
            "deadline": encode_deadline(deadline),
            "absent": await self._rounds.describe_absent(history, spec, attempt, is_over=False),
        }

    async def _get_readiness(self, params: Parameters) -> Json:
        history = self._take_task(params)
        params.end()
        if history is None:
            return None
        answer = await self._ask_node("readiness", {"task": history.task_id})
        assert isinstance(answer, dict)
        validator = answer["validator"]
        return {**answer, "voted": validator in [to_hex(each) for each in history.ready]}

    async def _get_reveal_holders(self, params: Parameters) -> Json:
        history = self._take_task(params)
        round_number = params.required("round", _parse_round)
        attempt_number = params.required("attempt", _parse_round)
        miner = params.required("miner", parse_address)
        params.end()
        if history is None:
            return None
        place: JsonObject = {"round": round_number, "attempt": attempt_number}
        question = {"task": history.task_id, **place, "miner": to_hex(miner)}
        return {"validators": await self._ask_node("reveal_holders", question)}

    # Rounds.

    async def _find_settled(self, history: TaskHistory, number: int) -> SettledRound | None:
        """A settled round; None if it is not settled.

        Raises:
            RpcError: 4444: The round was settled below the snapshot that this node began with.
        """
        settled = await self._computations.run(
            self._view.index.settled_round, history.task_id, number
        )
        if settled is None and number < history.rounds_settled:
            raise history_not_held(self._view.chain.store.first_held())
        return settled

    async def _get_round(self, params: Parameters) -> Json:
        history = self._take_task(params)
        number = params.required("round", _parse_round)
        params.end()
        spec = None if history is None else self._view.index.spec(history)
        if history is None or spec is None:
            return None
        settled = await self._find_settled(history, number)
        return await self._rounds.describe_round(history, spec, number, settled)

    async def _get_fines(self, params: Parameters) -> Json:
        history = self._take_task(params)
        params.end()
        spec = None if history is None else self._view.index.spec(history)
        if history is None:
            return None
        return [] if spec is None else await self._rounds.describe_finable(history, spec)

    async def _get_receipt(self, params: Parameters) -> Json:
        history = self._take_task(params)
        number = params.required("round", _parse_round)
        miner = params.required("miner", parse_address)
        params.end()
        spec = None if history is None else self._view.index.spec(history)
        if history is None or spec is None:
            return None
        settled = await self._find_settled(history, number)
        attempt = history.attempt if settled is None else settled.attempt
        if attempt is None or attempt.id.round_number != number:
            if attempt is not None or number != history.rounds_settled:
                return None
            return await self._get_void_receipt(history, spec, number, None, miner)
        participants = await self._view.contracts.participants(history.task_id, attempt.open_block)
        assignment = self._view.describe(spec, attempt).assign(participants)
        units = assignment.units_of(miner)
        index = next((i for i, r in enumerate(attempt.commitments) if r.miner == miner), None)
        if units == 0 and index is None:
            is_over = settled is not None
            return await self._get_void_receipt(
                history, spec, number, attempt, miner, is_over=is_over
            )
        sample_count = units * spec.samples_per_unit
        samples: Json = sample_count
        if sample_count <= SAMPLE_LIST_LIMIT:
            samples = await self._computations.run(_list_samples, assignment, miner)
        outcome = None
        if settled is not None:
            outcome = await self._computations.run(
                compute_outcome, attempt, spec, self._view.index.validator_set
            )
        is_accepted = outcome is not None and index is not None and index in outcome.accepted
        is_absent = settled is not None and index is None
        declared = units if index is None else attempt.commitments[index].units
        price = spec.reward.unit_price
        is_late = index in attempt.late_deliveries
        pay = compute_pay(declared, price, is_late=is_late) if is_accepted else 0
        if is_absent:
            absence = await self._rounds.describe_absence(history, spec, attempt, miner, units)
            fine = build_fine(ABSENCE, absence)
        else:
            fine = await self._rounds.describe_own_fine(history, spec, attempt.ordinal, miner)
        reveal = self._view.reveals.get(attempt.id, miner)
        was_held = (
            outcome is not None
            and index is not None
            and outcome.outcomes[index] in (Outcome.ACCEPTED, Outcome.REJECTED)
        )
        return {
            "token": to_hex(spec.reward.token),
            "samples": samples,
            "units": units,
            "commitmentBlock": (None if index is None else attempt.commitments[index].block_number),
            "revealed": reveal is not None or was_held,
            "collected": reveal is None and was_held,
            "gradientRoot": None if reveal is None else to_hex(reveal.gradient_root),
            "salt": None if reveal is None else to_hex(reveal.salt),
            "verdicts": await self._encode_verdicts(spec, attempt, index, miner),
            "accepted": None if settled is None else is_accepted,
            "pay": str(pay),
            "reason": _explain(outcome, index, is_late=is_late),
            **fine,
            "voidAttempts": await self._rounds.describe_void_of(
                history, spec, number, attempt, miner
            ),
            "seat": await self._encode_seat(history, miner),
        }

    async def _get_void_receipt(
        self,
        history: TaskHistory,
        spec: TaskSpec,
        number: int,
        attempt: Attempt | None,
        miner: Address,
        *,
        is_over: bool = False,
    ) -> Json:
        """The receipt of a miner that took part in void attempts of a round only; None if in none.

        Args:
            history: The task.
            spec: Its specification.
            number: The round.
            attempt: The attempt that settled it or is in progress; None if there is none.
            miner: The miner.
            is_over: Whether the round is settled.
        """
        void = await self._rounds.describe_void_of(history, spec, number, attempt, miner)
        if not void:
            return None
        nothing: JsonObject = dict.fromkeys(("commitmentBlock", "gradientRoot", "salt"))
        return {
            **nothing,
            **NO_FINE,
            "token": to_hex(spec.reward.token),
            "samples": [],
            "units": 0,
            "revealed": False,
            "collected": False,
            "verdicts": [],
            "accepted": False if is_over else None,
            "pay": "0",
            "reason": "the account took part in void attempts of this round only",
            "voidAttempts": void,
            "seat": await self._encode_seat(history, miner),
        }

    async def _encode_seat(self, history: TaskHistory, miner: Address) -> Json:
        """The seat of a miner now; None if its bonds are withdrawn."""
        seat = await self._view.contracts.read(miner_seats.get_seat(history.task_id, miner))
        return encode_seat(seat) if seat.units else None

    async def _encode_verdicts(
        self, spec: TaskSpec, attempt: Attempt, index: int | None, miner: Address
    ) -> Json:
        """The verdicts of all validators on a gradient, as JSON.

        `excess`, the cell distance E, and `reason`, why the gradient is not ok, are known only for
        the verdict of this node.
        """
        if index is None:
            return []
        own = await self._find_own_validator()
        return await self._computations.run(
            self._describe_verdicts, spec, attempt, index, miner, own
        )

    def _describe_verdicts(
        self, spec: TaskSpec, attempt: Attempt, index: int, miner: Address, own: str | None
    ) -> Json:
        check = load_check(self._view.checks_directory, attempt.id, miner)
        count = len(attempt.commitments)
        rows: list[Json] = []
        for verdict in attempt.verdicts:
            known = check if to_hex(verdict.validator) == own else None
            distance_ppb = None if known is None else known.distance_ppb
            rows.append(
                {
                    "validator": to_hex(verdict.validator),
                    "verdict": decode_verdicts(verdict.verdicts, count)[index].name.lower(),
                    "excess": None if distance_ppb is None else str(distance_ppb),
                    "tolerance": str(spec.verification.tolerance_ppb),
                    "reason": None if known is None else known.reason,
                }
            )
        return rows

    async def _find_own_validator(self) -> str | None:
        try:
            info = await self._node.call("node_info")
        except IpcError:
            return None
        validator = info.get("validator") if isinstance(info, dict) else None
        return validator.lower() if isinstance(validator, str) else None

    # Rewards and models.

    async def _get_seat(self, params: Parameters) -> Json:
        history = self._take_task(params)
        miner = params.required("miner", parse_address)
        params.end()
        if history is None:
            return None
        return await describe_seat(self._view, history, miner, self._searches)

    async def _get_reward_proof(self, params: Parameters) -> Json:
        history = self._take_task(params)
        account = params.required("account", parse_address)
        params.end()
        if history is None:
            return None
        paid = await self._proofs.find_tree(history)
        cumulative, tree = paid.rewards.get(account, 0), paid.tree
        claimed = await self._view.contracts.read(
            reward_distributor.claimed_of(history.task_id, account)
        )
        return {
            "root": to_hex(tree.root),
            "cumulative": str(cumulative),
            "claimed": str(claimed),
            "claimable": str(max(0, cumulative - claimed)),
            "proof": [to_hex(sibling) for sibling in tree.proof(account) or ()],
        }

    async def _get_model(self, params: Parameters) -> Json:
        history = self._take_task(params)
        number = params.optional("round", _parse_round, None)
        params.end()
        spec = None if history is None else self._view.index.spec(history)
        if history is None or spec is None:
            return None
        if number is None:
            number = max(0, history.rounds_settled - 1)
        settled = await self._find_settled(history, number)
        if settled is None:
            return None
        model_root = settled.vote.model_root
        parameter_count = count_parameters(spec.model)
        return {
            "round": number,
            "modelRoot": to_hex(model_root),
            "trainingStateRoot": to_hex(settled.vote.training_state_root),
            "contentId": to_hex(model_root),
            "bytes": parameter_count * FLOAT32_BYTES,
            "parameters": parameter_count,
            "path": f"/v1/blobs/{to_hex(model_root)}",
        }


def _list_samples(assignment: Assignment, miner: Address) -> Json:
    first, count = assignment.sample_range(miner)
    samples: list[Json] = []
    samples.extend(compute_samples(assignment.seed, assignment.sample_count, first, count).tolist())
    return samples


def _describe_spec(history: TaskHistory) -> Json:
    try:
        return parse_json(history.spec)
    except ValueError:
        return None  # the submitted bytes are no JSON, and such a task never becomes active


def _explain(outcome: RoundOutcome | None, index: int | None, *, is_late: bool) -> str:
    """The reason why a gradient was paid or not."""
    if index is None:
        return "no commitment in this attempt"
    if outcome is None:
        return "the round is not settled yet"
    match outcome.outcomes[index]:
        case Outcome.ACCEPTED:
            late = "accepted for 7/8 of the pay: it came so late that a ballot failed"
            return late if is_late else "accepted"
        case Outcome.MISSED:
            return "the validators did not get the gradient in time"
        case Outcome.UNDECIDED:
            return "too few validators could check the gradient in time"
        case Outcome.REJECTED:
            is_fraud = outcome.guilt[index] is Guilt.FRAUD
            return "rejected as a cheat; the bond is lost" if is_fraud else "rejected"
        case unreachable:
            assert_never(unreachable)
