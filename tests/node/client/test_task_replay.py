from dataclasses import replace

import pytest

from chain.contracts import validator_set
from chain.contracts.abi import ContractView
from chain.contracts.addresses import REWARD_DISTRIBUTOR
from chain.contracts.events import Event
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    GradientCommitted,
    ResultKind,
    ResultVote,
    RoundSettled,
    VerdictPosted,
)
from chain.contracts.miner_seats import MinerLeft, MinerRegistered
from chain.contracts.task_registry import TaskActivated, TaskSubmitted
from chain.crypto import content_id, sha256
from chain.hexadecimal import to_hex
from chain.primitives import Hash32
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.aggregation import aggregate
from chain.training.architectures import count_parameters
from chain.training.assignment import assign, compute_seed
from chain.training.attempt import AttemptId
from chain.training.encoding import (
    GradientHeader,
    compute_commitment,
    decode_gradient,
    encode_gradient,
)
from chain.training.optimizer import apply_update, initial_state
from chain.training.rewards import build_reward_tree
from chain.training.state import compute_model_root, compute_training_state_root
from chain.training.task_spec import compute_learning_rate_ppb
from chain.training.task_spec_codec import encode_task_spec
from chain.types.validator_set import ValidatorSet
from node.client.rpc_client import RpcClient
from node.client.task_replay import TaskReplay
from pot_common.errors import OperatorError
from pot_common.rpc_client import ContentUnavailableError
from tests.worlds.training import MINERS, OPERATORS, SPEC, TASK, VALIDATORS, random_gradient

CHAIN_ID = 31_337
PARAMETERS = count_parameters(SPEC.model)
THETA = bytes(4 * PARAMETERS)
REPLAYED = replace(SPEC, initial_weights=content_id(THETA))
PRICE, FEE = SPEC.reward.unit_price, SPEC.reward.validator_fee
BAD_MINER = 2
"""The index of the miner with a gradient that three of four validators reject."""


class FakeChain(RpcClient):
    """A node with two correctly settled rounds, in which tests change single values."""

    def __init__(self) -> None:
        self.url = "http://node"
        self.events: list[tuple[int, Event]] = []
        self.receipts: dict[tuple[int, str], dict[str, object]] = {}
        self.blobs = {content_id(THETA): THETA}
        self._write()

    def _write(self) -> None:
        spec = encode_task_spec(REPLAYED)
        submitted = TaskSubmitted(TASK, OPERATORS[0], sha256(spec), 10**20, spec)
        self.events = [(1, submitted), (2, TaskActivated(TASK))]
        registered = [MinerRegistered(TASK, miner, 2, 2 * PRICE, 10**18) for miner in MINERS]
        # A miner that registers after the attempt opened takes no part in it.
        late = MinerRegistered(TASK, OPERATORS[3], 2, 2 * PRICE, 10**18)
        opened = AttemptOpened(TASK, 0, 0, 1, 3, 10**19)
        opening = [*registered, opened, late, MinerLeft(TASK, OPERATORS[3])]
        self.events += [(3, event) for event in opening]
        state = initial_state(REPLAYED.optimizer, THETA)
        cumulative: dict[bytes, int] = {}
        for round_number, open_block in ((0, 3), (1, 9)):
            participants = [(miner, 2) for miner in MINERS]
            if round_number == 1:
                self.events += [(9, AttemptOpened(TASK, 1, 0, 2, 3, 10**19))]
            mix_hash = Hash32((open_block + 1).to_bytes(32, "big"))
            attempt_id = AttemptId(TASK, round_number, 0)
            seed = compute_seed(mix_hash, attempt_id)
            shares = assign(seed, participants, SPEC.sample_count, 8)
            gradients = []
            for index, miner in enumerate(MINERS):
                header = GradientHeader(
                    parameter_count=PARAMETERS,
                    attempt_id=attempt_id,
                    chain_id=CHAIN_ID,
                    theta_root=compute_model_root(state),
                    seed=seed,
                    miner=miner,
                )
                payload = encode_gradient(header, random_gradient(index, PARAMETERS))
                salt, root = Hash32(bytes([index]) * 32), content_id(payload)
                units = shares.units_of(miner)
                commitment = compute_commitment(header, root, salt, units)
                self.blobs[root] = payload
                self.receipts[round_number, to_hex(miner)] = {
                    "revealed": True,
                    "salt": to_hex(salt),
                    "gradientRoot": to_hex(root),
                }
                self.events.append(
                    (
                        open_block + 2,
                        GradientCommitted(TASK, round_number, miner, 0, index, units, commitment),
                    )
                )
                if index != BAD_MINER:
                    gradients.append((units, decode_gradient(payload, header)))
                    cumulative[miner] = cumulative.get(miner, 0) + units * PRICE
            bad = encode_verdicts([Verdict.OK, Verdict.OK, Verdict.BAD])
            self.events += [
                (open_block + 3, VerdictPosted(TASK, round_number, validator, 0, 0, True, bad))
                for validator in VALIDATORS
            ]
            for operator in OPERATORS:
                cumulative[operator] = cumulative.get(operator, 0) + FEE // 4
            mean = aggregate(SPEC.aggregator, PARAMETERS, gradients)
            rate = compute_learning_rate_ppb(REPLAYED, round_number)
            state = apply_update(REPLAYED.optimizer, rate, state, mean)
            tree = build_reward_tree(CHAIN_ID, REWARD_DISTRIBUTOR, TASK, cumulative)
            accepted = sum(units for units, _ in gradients)
            vote = ResultVote(
                compute_training_state_root(state),
                compute_model_root(state),
                tree.root,
                accepted,
                accepted * PRICE + 4 * (FEE // 4),
                ResultKind.SETTLED,
                0b1111,
            )
            settled = RoundSettled(TASK, round_number, 0, 0, vote)
            self.events.append((open_block + 5, settled))

    def settled(self, round_number: int) -> tuple[int, RoundSettled]:
        """The position and the value of the event that settles a round."""
        return next(
            (position, event)
            for position, (_, event) in enumerate(self.events)
            if isinstance(event, RoundSettled) and event.round == round_number
        )

    # The methods that the replay calls.

    def quantity(self, method: str, *params: object) -> int:
        return {"eth_chainId": CHAIN_ID, "eth_blockNumber": 20}[method]

    def read(self, view: ContractView[ValidatorSet], block: str) -> ValidatorSet:
        assert view == validator_set.get_current()
        return ValidatorSet(VALIDATORS, OPERATORS)

    def call_object(self, method: str, *params: object) -> dict[str, object] | None:
        match method:
            case "pot_getTask":
                return {"submittedBlock": 1} if params == (TASK,) else None
            case "pot_getReceipt":
                return self.receipts[int(str(params[1])), str(params[2])]
            case _:
                assert method == "eth_getBlockByNumber"
                return {"mixHash": to_hex(int(str(params[0]), 16).to_bytes(32, "big"))}

    def get_blob(self, name: Hash32, byte_count: int, progress: object = None) -> bytes:
        if name not in self.blobs:
            raise ContentUnavailableError("no such blob")
        assert len(self.blobs[name]) == byte_count
        return self.blobs[name]


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> FakeChain:
    fake = FakeChain()
    monkeypatch.setattr(TaskReplay, "_fetch_events", lambda replay: iter(fake.events))
    return fake


def test_honest_rounds_are_reproduced_to_the_last_root(chain: FakeChain) -> None:
    results = list(TaskReplay(chain, TASK).rounds())
    assert [result.is_equal for result in results] == [True, True]
    assert [(r.accepted_count, r.rejected_count) for r in results] == [(2, 1), (2, 1)]
    assert results[0].replayed.model_root != results[1].replayed.model_root


@pytest.mark.parametrize(
    "change",
    [
        {"training_state_root": Hash32(b"\x01" * 32)},
        {"model_root": Hash32(b"\x01" * 32)},
        {"rewards_root": Hash32(b"\x01" * 32)},
        {"accepted_units": 5},
    ],
)
def test_any_other_settlement_is_found(chain: FakeChain, change: dict[str, object]) -> None:
    position, event = chain.settled(0)
    forged = replace(event, result=replace(event.result, **change))  # type: ignore[arg-type]
    chain.events[position] = (chain.events[position][0], forged)
    assert not next(TaskReplay(chain, TASK).rounds()).is_equal


def test_other_payout_is_found(chain: FakeChain) -> None:
    position, event = chain.settled(1)
    chain.events[position] = (
        14,
        replace(event, result=replace(event.result, payout=event.result.payout + 1)),
    )
    assert [result.is_equal for result in TaskReplay(chain, TASK).rounds()] == [True, False]


def test_hidden_verdicts_are_found(chain: FakeChain) -> None:
    chain.events = [
        (number, event)
        for number, event in chain.events
        if not (isinstance(event, VerdictPosted) and event.round == 1)
    ]
    assert [result.is_equal for result in TaskReplay(chain, TASK).rounds()] == [True, False]


def test_hidden_miner_is_found(chain: FakeChain) -> None:
    position = next(
        position
        for position, (_, event) in enumerate(chain.events)
        if isinstance(event, MinerRegistered) and event.miner == MINERS[0]
    )
    chain.events.insert(position + 1, (3, MinerLeft(TASK, MINERS[0])))
    with pytest.raises(OperatorError, match="but the miner declared 0"):
        list(TaskReplay(chain, TASK).rounds())


def refuse_replay(chain: FakeChain) -> str:
    with pytest.raises(OperatorError) as refusal:
        list(TaskReplay(chain, TASK).rounds())
    return str(refusal.value)


def test_missing_blob_error_names_the_setting_that_keeps_it(chain: FakeChain) -> None:
    receipt = chain.receipts[1, to_hex(MINERS[0])]
    root = str(receipt["gradientRoot"])
    del chain.blobs[Hash32(bytes.fromhex(root[2:]))]
    assert refuse_replay(chain) == (
        f"round 2, miner {to_hex(MINERS[0])}: http://node does not have the gradient (blob {root}) "
        'any more: nodes with blobs.retention = "task" keep it; ask one with --rpc'
    )
    receipt |= {"revealed": False, "gradientRoot": None, "salt": None}
    assert refuse_replay(chain) == (
        f"round 2, miner {to_hex(MINERS[0])}: http://node does not have the gradient any more: "
        'nodes with blobs.retention = "task" keep it; ask one with --rpc'
    )
    del chain.blobs[content_id(THETA)]
    assert refuse_replay(chain) == (
        f"http://node does not have the initial weights (blob {to_hex(content_id(THETA))}) any "
        "more: nodes keep a closed task for a day, and up to blobs.closed_task_days if they have "
        "room; ask one that has them with --rpc"
    )


def test_salt_that_opens_nothing_is_refused(chain: FakeChain) -> None:
    chain.receipts[0, to_hex(MINERS[0])] |= {"salt": "0x" + "ff" * 32}
    with pytest.raises(OperatorError, match="does not open the commitment"):
        list(TaskReplay(chain, TASK).rounds())


def test_rejected_gradients_are_not_needed(chain: FakeChain) -> None:
    del chain.receipts[0, to_hex(MINERS[BAD_MINER])]
    assert next(TaskReplay(chain, TASK).rounds()).is_equal


def test_unknown_task_is_named(chain: FakeChain) -> None:
    chain.events = []
    with pytest.raises(OperatorError, match="there is no task 1"):
        TaskReplay(chain, TASK)
