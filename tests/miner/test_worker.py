import json
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from chain.contracts import faucet, miner_seats, reward_distributor, training_token
from chain.contracts.addresses import MINER_SEATS, REWARD_DISTRIBUTOR, TRAINING_TOKEN
from chain.crypto import get_address
from chain.primitives import Address, PrivateKey
from chain.training.assignment import assign
from miner.client import FailoverClient
from miner.light import LightClient, fetch_network
from miner.miner import Miner
from pot_common.rpc_replies import ClientError
from tests.worlds.node_for_miners import (
    BOND,
    LIMITS,
    MINING_SPEC,
    SEAT_BOND,
    SHARD,
    TASK,
    THETA,
    CountingTrainer,
    FakeNode,
)
from tests.worlds.proofs import CHAIN_ID, GENESIS

KEY = PrivateKey(b"\x11" * 32)
MINER = get_address(KEY)
OTHER = Address(b"\x01" * 20)


class Stage:
    """A miner and one node, which enters the next phase of a script at each question."""

    def __init__(self, directory: Path, node: FakeNode, script: list[dict[str, object]]) -> None:
        self.node = node
        self.trainer = CountingTrainer()
        self.shards: list[bytes] = []
        self._script = iter(script)
        node.pot_getAttempt = lambda task: self._next()  # type: ignore[method-assign]
        client = FailoverClient(["http://node"], node.transport())
        self.miner = Miner(
            client,
            LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash)),
            KEY,
            directory,
            1,
            self._make_trainer,
            LIMITS,
            poll_seconds=0.0,
            claims=True,
        )

    def _make_trainer(self, spec: object, shards: tuple[Path, ...]) -> CountingTrainer:
        self.shards = [path.read_bytes() for path in shards]
        return self.trainer

    def _next(self) -> object:
        for changes in self._script:
            for name, value in changes.items():
                setattr(self.node, name, value)
            return FakeNode.pot_getAttempt(self.node, TASK)
        self.node.status = "closed"
        return None

    def play(self) -> FakeNode:
        self.miner.mine(TASK)
        return self.node


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.worker.time.sleep", lambda seconds: None)


def registered(**fields: object) -> FakeNode:
    return FakeNode(MINER, units=1, **fields)  # type: ignore[arg-type]


COMMITMENT = {"phase": "commitment"}
VERDICT = {"phase": "verdict"}


def test_new_miner_asks_the_faucet_registers_and_fetches_the_data(tmp_path: Path) -> None:
    stage = Stage(tmp_path, FakeNode(MINER), [])
    node = stage.play()
    assert [transaction.data for transaction in node.transactions] == [
        faucet.drip(MINER).data,
        training_token.approve(TRAINING_TOKEN, MINER_SEATS, BOND + SEAT_BOND).data,
        miner_seats.register(TASK, 1).data,
    ]
    assert stage.shards == [SHARD]


def test_registered_miner_pays_no_second_bond(tmp_path: Path) -> None:
    assert Stage(tmp_path, registered(), []).play().transactions == []


def test_error_about_a_poor_account_states_the_bond(tmp_path: Path) -> None:
    node = FakeNode(MINER, takes_effect=False)
    with pytest.raises(ClientError, match=r"has 0 POT, the bonds of task 1 are 2\.25: send it"):
        Stage(tmp_path, node, []).play()


def test_gradient_is_not_revealed_before_commitments_are_over(
    tmp_path: Path,
) -> None:
    participants = ((OTHER, 3), (MINER, 2))
    stage = Stage(tmp_path, registered(participants=participants), [COMMITMENT, COMMITMENT])
    node = stage.play()
    assignment = assign(node.seed, participants, MINING_SPEC.sample_count, 8)
    assert stage.trainer.calls == [(THETA, assignment.sample_indices(MINER))]
    assert len(node.commitments) == 1
    assert node.reveals == []


def test_gradient_is_revealed_once_in_each_ballot(tmp_path: Path) -> None:
    script = [COMMITMENT, VERDICT, VERDICT, {"ballot": 1}, {"phase": "result"}]
    node = Stage(tmp_path, registered(), script).play()
    assert len(node.commitments) == 1
    assert len(node.reveals) == 2
    assert all(node.opens(query) for query, _ in node.reveals)


def test_gradient_is_stored_before_its_commitment_is_sent(tmp_path: Path) -> None:
    node = registered()
    send = node.eth_sendRawTransaction
    found: list[int] = []

    def watch(raw: str) -> object:
        found.append(len(list(tmp_path.rglob("*.gradient"))))
        return send(raw)

    node.eth_sendRawTransaction = watch  # type: ignore[method-assign]
    Stage(tmp_path, node, [COMMITMENT]).play()
    assert found == [1]


def test_miner_killed_after_its_commitment_reveals_the_same_gradient(tmp_path: Path) -> None:
    node = registered()
    before = Stage(tmp_path, node, [COMMITMENT])
    before.play()
    node.status = "active"
    after = Stage(tmp_path, node, [VERDICT])
    after.play()
    assert after.trainer.calls == []
    ((query, payload),) = node.reveals
    assert node.opens(query)
    assert payload in next(tmp_path.rglob("*.gradient")).read_bytes()


def test_miner_killed_before_its_commitment_uses_the_stored_gradient(tmp_path: Path) -> None:
    node = registered()
    send = node.eth_sendRawTransaction

    def die(raw: str) -> object:
        raise KeyboardInterrupt

    node.eth_sendRawTransaction = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        Stage(tmp_path, node, [COMMITMENT]).play()
    node.eth_sendRawTransaction = send  # type: ignore[method-assign]
    after = Stage(tmp_path, node, [COMMITMENT, VERDICT])
    after.play()
    assert after.trainer.calls == []
    ((query, _),) = node.reveals
    assert node.opens(query)


def test_gradient_that_missed_its_phase_is_not_revealed(tmp_path: Path) -> None:
    node = registered()

    def refuse(*_: object) -> object:
        raise RuntimeError(3, "execution reverted", None)

    node.eth_estimateGas = refuse  # type: ignore[method-assign]
    Stage(tmp_path, node, [COMMITMENT, VERDICT]).play()
    assert (node.commitments, node.reveals) == ([], [])


def test_miner_outside_the_attempt_does_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, registered(participants=((OTHER, 1),)), [COMMITMENT, VERDICT])
    node = stage.play()
    assert (stage.trainer.calls, node.transactions, node.reveals) == ([], [], [])


def test_reveal_is_tried_again_until_a_node_takes_it(tmp_path: Path) -> None:
    script = [COMMITMENT, {**VERDICT, "refuses_reveals": True}, {"refuses_reveals": False}]
    node = Stage(tmp_path, registered(), script).play()
    assert len(node.reveals) == 1


def test_log_says_once_that_nodes_have_no_place_for_a_gradient(tmp_path: Path) -> None:
    script = [COMMITMENT, {**VERDICT, "busy_seconds": "0"}, *[VERDICT] * 3, {"busy_seconds": None}]
    with capture_logs() as logs:
        node = Stage(tmp_path, registered(), script).play()
    assert (node.asked_reveals, len(node.reveals)) == (5, 1)
    (line,) = [each for each in logs if "do not take the gradient" in str(each["event"])]
    assert "503" in line["answers"]
    assert "no place for this upload now: try again" in line["answers"]


def test_each_attempt_has_its_own_gradient_and_salt(tmp_path: Path) -> None:
    script = [COMMITMENT, VERDICT, {"phase": "commitment", "attempt": 1}, VERDICT]
    node = Stage(tmp_path, registered(), script).play()
    queries = [query for query, _ in node.reveals]
    assert [query["attempt"] for query in queries] == ["0", "1"]
    assert queries[0]["salt"] != queries[1]["salt"]


def test_gradients_of_old_rounds_are_deleted(tmp_path: Path) -> None:
    script = [
        {"phase": phase, "round_number": number}
        for number in range(7)
        for phase in ("commitment", "verdict")
    ]
    Stage(tmp_path, registered(), script).play()
    kept = sorted(path.name for path in tmp_path.rglob("*.gradient"))
    assert kept == [f"round-{number}-0.gradient" for number in range(2, 7)]


def test_reward_is_claimed_when_the_task_closes(tmp_path: Path) -> None:
    node = registered(claimable=9)
    Stage(tmp_path, node, []).play()
    (claim,) = node.sent(REWARD_DISTRIBUTOR)
    assert claim == reward_distributor.claim(TASK, 9, [b"\x01" * 32]).data


def test_specification_with_another_hash_is_refused(tmp_path: Path) -> None:
    node = registered()
    honest = node.pot_getTask

    def forge(task: int) -> object:
        answer = json.loads(json.dumps(honest(task)))
        answer["spec"]["rounds"] += 1
        return answer

    node.pot_getTask = forge  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="another specification"):
        Stage(tmp_path, node, []).play()


def test_miner_does_not_register_for_a_closed_task(tmp_path: Path) -> None:
    node = FakeNode(MINER, status="closed")
    with pytest.raises(ClientError, match="task 1 is closed; `pot task list`"):
        Stage(tmp_path, node, []).play()
    assert node.transactions == []


def test_unknown_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="there is no task 2; `pot task list`"):
        Stage(tmp_path, registered(), []).miner.mine(2)


def wait_a_hundred_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the miner when it has waited a hundred times."""
    waits = iter(range(100))

    def wait(_seconds: float) -> None:
        if next(waits, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("miner.miner.time.sleep", wait)


def mine_all(directory: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    """Let a miner choose tasks itself, until it has waited a hundred times."""
    wait_a_hundred_times(monkeypatch)
    node.token_balance = 10 * BOND
    with pytest.raises(KeyboardInterrupt):
        Stage(directory, node, []).miner.mine_all()
    return node


def test_miner_that_chooses_pays_no_bond_for_a_pending_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mine_all(tmp_path, FakeNode(MINER, status="pending"), monkeypatch).transactions == []


def test_miner_pays_no_bond_for_a_task_without_time_to_reveal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = replace(MINING_SPEC.phases, verdict_seconds=1)
    node = FakeNode(MINER, spec=replace(MINING_SPEC, phases=phases))
    assert mine_all(tmp_path, node, monkeypatch).transactions == []


def test_data_of_a_task_beyond_the_limits_is_not_fetched(tmp_path: Path) -> None:
    for changes, message in (
        ({"peak_bytes": LIMITS.memory_bytes + 1}, "GiB of memory, and --memory-gib allows 8.00"),
        ({"unit_milliseconds": 60_000}, "60000 ms to compute a unit"),
    ):
        resources = replace(MINING_SPEC.resources, **changes)
        node = FakeNode(MINER, spec=replace(MINING_SPEC, resources=resources))
        stage = Stage(tmp_path, node, [])
        with pytest.raises(ClientError, match=message):
            stage.play()
        assert (stage.shards, node.transactions) == ([], [])


def test_registration_says_how_long_bonds_are_locked(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Stage(tmp_path, FakeNode(MINER), []).play()
    (entry,) = (each for each in logs if each["event"] == "miner registered")
    # 193 blocks of 5 s, after an attempt of eight phases of 40 s and four turns of all operators.
    assert entry["lock_days"] == round((193 * 5 + 8 * 40 + 4 * 40) / 86_400, 2)


def test_gradient_is_pushed_again_until_enough_validators_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miner.reveals.PUSH_AGAIN_SECONDS", 0.0)
    node = registered()
    steps = [{**VERDICT, "holders": node.holders[:count]} for count in (1, 1, 2, 3, 3)]
    Stage(tmp_path, node, [COMMITMENT, *steps]).play()
    # One of f + 1 = 2 named holders may lie. The fourth push finds a quorum of 3.
    assert len(node.reveals) == 4


def test_f_plus_one_holders_are_enough_if_others_stay_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miner.reveals.PUSH_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("miner.reveals.MORE_SECONDS", 0.0)
    node = registered()
    steps = [{**VERDICT, "holders": node.holders[:count]} for count in (1, 2, 2, 2)]
    Stage(tmp_path, node, [COMMITMENT, *steps]).play()
    assert len(node.reveals) == 2


def test_holder_that_is_no_validator_does_not_count(tmp_path: Path) -> None:
    node = registered(holders=(OTHER, Address(b"\x02" * 20), Address(b"\x03" * 20)))
    with capture_logs() as logs:
        Stage(tmp_path, node, [COMMITMENT, *[VERDICT] * 12]).play()
    events = [entry["event"] for entry in logs]
    assert "gradient revealed" not in events
    (warning,) = [each for each in logs if "too few validators hold" in str(each["event"])]
    assert "--rpc" in str(warning["event"])
    assert (warning["validators"], warning["needed"]) == (0, 3)


UNPAID = {
    "accepted": False,
    "pay": "0",
    "reason": "too few validators held the gradient in time",
    "verdicts": [
        {"validator": "0x" + "21" * 20, "verdict": "ok", "reason": None},
        *(
            {
                "validator": "0x" + validator * 20,
                "verdict": "missing",
                "reason": "not received in time: no reveal",
            }
            for validator in ("22", "23", "24")
        ),
    ],
}


def test_log_says_why_a_gradient_was_not_paid(tmp_path: Path) -> None:
    next_round = {"phase": "commitment", "round_number": 1}
    node = registered(receipt=UNPAID)
    with capture_logs() as logs:
        Stage(tmp_path, node, [COMMITMENT, VERDICT, next_round]).play()
    entry = next(each for each in logs if each["event"] == "gradient not paid")
    assert entry["round"] == 0
    assert entry["reason"] == (
        "too few validators held the gradient in time (3 of 4 validators said missing, 1 of 4 "
        "validators said ok; not received in time: no reveal)"
    )


def test_miner_that_lost_its_bond_says_what_was_lost_why_and_what_to_do(tmp_path: Path) -> None:
    next_round = {"phase": "commitment", "round_number": 1, "is_slashed": True}
    node = registered(receipt=UNPAID)
    lost = (
        r"task 1: the bonds of this account are lost, .* its gradient of round 1, counted from 1: "
        r"3 of 4 validators said missing, .*. To go on, check this machine.*; start the miner "
        r"again, which pays new bonds"
    )
    with pytest.raises(ClientError, match=lost):
        Stage(tmp_path, node, [COMMITMENT, VERDICT, next_round]).play()
    assert len(node.commitments) == 1


def test_miner_with_two_misses_says_why_its_seat_is_over(tmp_path: Path) -> None:
    next_round = {"phase": "commitment", "round_number": 1, "miss_count": 2}
    node = registered()
    over = "has ended, because it missed 2 attempts.*pot miner withdraw 1.*nodes with --rpc"
    with pytest.raises(ClientError, match=over):
        Stage(tmp_path, node, [COMMITMENT, VERDICT, next_round]).play()


def test_newcomer_to_a_full_task_names_seats_after_their_term(tmp_path: Path) -> None:
    units = MINING_SPEC.reward.max_units
    third, fourth = Address(b"\x79" * 20), Address(b"\x7a" * 20)
    node = FakeNode(
        MINER,
        participants=((OTHER, units - 2), (third, 1), (fourth, 1)),
        token_balance=10 * BOND,
        round_number=40,
        # The term of 256 attempts is over for one of them.
        first_attempts={OTHER: 146, third: 145, fourth: 146},
    )
    Stage(tmp_path, node, []).play()
    assert node.transactions[-1].data == miner_seats.register(TASK, 1, [third]).data


def test_displaced_miner_takes_its_seat_again_without_new_bonds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newcomers may leave at once; then the task had no miner until the bonds were back."""
    others = ((OTHER, MINING_SPEC.reward.max_units),)
    node = FakeNode(MINER, units=1, is_displaced=True, participants=others)
    pauses: list[float] = []

    def newcomer_leaves_later(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            node.participants = ((MINER, 1),)

    monkeypatch.setattr("miner.miner.time.sleep", newcomer_leaves_later)
    with capture_logs() as logs:
        Stage(tmp_path, node, []).miner.mine_one(TASK)
    assert len(pauses) >= 5
    assert [each.data for each in node.transactions] == [miner_seats.register(TASK, 1).data]
    assert "seat taken again, with its bonds" in [each["event"] for each in logs]


def test_miner_that_left_takes_its_seat_again_when_it_is_started(tmp_path: Path) -> None:
    node = FakeNode(MINER, units=1, has_left=True)
    Stage(tmp_path, node, []).play()
    assert [each.data for each in node.transactions] == [miner_seats.register(TASK, 1).data]


def test_newcomer_names_no_seat_with_more_than_twice_its_units(tmp_path: Path) -> None:
    units = MINING_SPEC.reward.max_units
    third = Address(b"\x79" * 20)
    node = FakeNode(
        MINER,
        participants=((OTHER, units - 3), (third, 3)),
        token_balance=10 * BOND,
        round_number=40,
        first_attempts={OTHER: 140, third: 145},
    )
    with pytest.raises(ClientError, match="other miners do all"):
        Stage(tmp_path, node, []).play()
    assert node.transactions == []


def test_miner_with_fewer_units_than_the_least_seat_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The least seat of a task with more than 1024 units.
    monkeypatch.setattr("miner.places.compute_least_units", lambda _units: 2)
    node = FakeNode(MINER, token_balance=10 * BOND)
    with pytest.raises(ClientError, match="has at least 2 units, and 1 are too few"):
        Stage(tmp_path, node, []).play()
    assert node.transactions == []


def test_miner_says_that_a_task_is_full(tmp_path: Path) -> None:
    node = FakeNode(
        MINER,
        participants=((OTHER, MINING_SPEC.reward.max_units),),
        token_balance=10 * BOND,
    )
    with pytest.raises(ClientError, match="other miners do all"):
        Stage(tmp_path, node, []).play()


def test_miner_that_chooses_goes_on_after_a_lost_bond_without_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = registered()

    def enter_the_next_phase(task: int) -> object:
        node.is_slashed = bool(node.commitments)
        node.round_number = len(node.commitments)
        return FakeNode.pot_getAttempt(node, task)

    stage = Stage(tmp_path, node, [])
    node.pot_getAttempt = enter_the_next_phase  # type: ignore[method-assign]
    wait_a_hundred_times(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        stage.miner.mine_all()
    assert [each for each in node.transactions if each not in node.commitments] == []
    assert len(node.commitments) == 1


def test_miner_that_starts_deletes_the_gradients_of_closed_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = registered()
    Stage(tmp_path, node, [COMMITMENT]).play()
    assert list(tmp_path.rglob("*.gradient"))
    node.transactions.clear()
    assert mine_all(tmp_path, node, monkeypatch).status == "closed"
    assert list(tmp_path.rglob("*.gradient")) == []


def test_miner_that_names_a_pending_task_waits_until_it_is_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = FakeNode(MINER, status="pending", token_balance=10 * BOND)
    waits = iter(range(3))

    def wait(_seconds: float) -> None:
        if node.status == "pending":
            assert node.transactions == []
            node.status = "pending" if next(waits, None) is not None else "active"

    monkeypatch.setattr("miner.miner.time.sleep", wait)
    Stage(tmp_path, node, []).play()
    assert len(node.transactions) == 2


def test_miner_takes_the_units_that_are_free(tmp_path: Path) -> None:
    most = MINING_SPEC.reward.max_units
    full = FakeNode(MINER, participants=((MINER, 1), (OTHER, most)))
    with pytest.raises(ClientError, match=f"other miners do all {most} units"):
        Stage(tmp_path, full, []).play()
    assert full.transactions == []
