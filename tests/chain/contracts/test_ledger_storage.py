"""The storage slots in Python agree with the compiled contracts."""

from pathlib import Path

from chain.contracts import gradient_ledger, ledger_storage, miner_seats, task_registry
from chain.contracts.addresses import GRADIENT_LEDGER, MINER_SEATS, TASK_REGISTRY
from chain.contracts.task_registry import TaskStatus
from chain.crypto import sha256
from chain.state.proof import ProvenState, build_state_proof
from chain.training.task_spec_codec import encode_task_spec
from tests.worlds.training_chain import ANN, BEN, SPEC, TASK, TrainingChain, address_of

MINERS = [address_of(ANN), address_of(BEN)]


def test_slots_of_commitments_and_settled_models_match_the_contract(
    tmp_path: Path,
) -> None:
    chain = TrainingChain(tmp_path / "database")
    for step in (chain.submit, chain.activate, chain.register):
        step()

    def read() -> tuple[ledger_storage.AttemptState, ledger_storage.StoredSeat]:
        head = chain.store.head()
        slots = {
            GRADIENT_LEDGER: ledger_storage.list_attempt_slots(TASK),
            MINER_SEATS: ledger_storage.list_seat_slots(TASK, MINERS[0]),
        }
        nodes = build_state_proof(chain.local.database, head.state_root, slots)
        state = ProvenState(head.state_root, nodes)
        return (
            ledger_storage.read_attempt(state.get_storage, TASK),
            ledger_storage.read_seat(state.get_storage, TASK, MINERS[0]),
        )

    opened, seat = read()
    assert opened.ordinal == 1
    registered = chain.store.head().number - 1
    assert seat == ledger_storage.StoredSeat(1, 1, 0, 0, False, False, registered)
    head = chain.store.head()
    participants = {MINER_SEATS: ledger_storage.list_participant_slots(TASK, MINERS)}
    nodes = build_state_proof(chain.local.database, head.state_root, participants)
    state = ProvenState(head.state_root, nodes)
    found = ledger_storage.read_participants(state.get_storage, TASK, 1)
    assert found == tuple(sorted(zip(MINERS, (1, 2), strict=True)))
    # No seat was taken before an attempt that did not open.
    assert ledger_storage.read_participants(state.get_storage, TASK, 0) == ()
    chain.commit()
    over, seat = read()
    assert seat.committed_attempt == 1
    assert over.verdict_block > opened.open_block
    chain.judge()
    chain.agree()
    chain.settle()
    second, _ = read()
    assert (second.round_number, second.is_open) == (1, True)
    assert second.model_root == chain.compute_vote().model_root


def test_task_is_closed_when_it_was_cancelled(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path / "database")
    chain.submit()
    slots = ledger_storage.list_task_slots(TASK)
    for step, status in ((chain.activate, TaskStatus.ACTIVE), (chain.cancel, TaskStatus.CLOSED)):
        step()
        head = chain.store.head()
        nodes = build_state_proof(chain.local.database, head.state_root, {TASK_REGISTRY: slots})
        state = ProvenState(head.state_root, nodes)
        assert ledger_storage.read_task(state.get_storage, TASK) == (
            sha256(encode_task_spec(SPEC)),
            status,
        )


def test_slots_of_what_an_attempt_needs_match_the_contracts(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path / "database")

    def read() -> tuple[ledger_storage.OpeningState, int]:
        head = chain.store.head()
        count = {TASK_REGISTRY: (ledger_storage.REGISTRY_TASK_COUNT,)}
        proof = build_state_proof(chain.local.database, head.state_root, count)
        state = ProvenState(head.state_root, proof)
        assert state.get_storage(TASK_REGISTRY, ledger_storage.REGISTRY_TASK_COUNT) == TASK
        slots = ledger_storage.list_opening_slots(TASK)
        nodes = build_state_proof(chain.local.database, head.state_root, slots)
        storage = ProvenState(head.state_root, nodes).get_storage
        opening = ledger_storage.read_opening(storage, TASK)
        assert opening == ledger_storage.OpeningState(
            status=chain.contracts.read(task_registry.get_account(TASK)).status,
            is_open=chain.contracts.read(gradient_ledger.get_round(TASK)).open,
            seat_count=chain.contracts.read(miner_seats.seat_count(TASK)),
            registered_units=chain.contracts.read(miner_seats.registered_units(TASK)),
            refundable=chain.contracts.read(task_registry.get_account(TASK)).refundable,
            attempts_left=chain.contracts.read(task_registry.get_lease(TASK)).attempts_left,
            attempt_seconds=chain.contracts.read(task_registry.get_lease(TASK)).attempt_seconds,
            end_time=chain.contracts.read(task_registry.get_lease(TASK)).end_time,
            end_block=chain.contracts.read(task_registry.get_lease(TASK)).end_block,
        )
        return opening, ledger_storage.read_ended_block(storage, TASK)

    chain.submit()
    assert read()[0].status is TaskStatus.PENDING
    chain.activate()
    chain.register()
    opening, ended_block = read()
    assert (opening.is_open, opening.seat_count, opening.attempts_left) == (True, 2, 999)
    assert opening.registered_units == 3
    assert ended_block == 0
    for step in (chain.commit, chain.judge, chain.agree, chain.settle):
        step()
    assert read()[1] == chain.store.head().number
