"""The storage slots in Python agree with the compiled contracts."""

from pathlib import Path

from chain.contracts import ledger_storage
from chain.contracts.addresses import GRADIENT_LEDGER, MINER_SEATS, TASK_REGISTRY
from chain.contracts.task_registry import TaskStatus
from chain.crypto import content_id
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

    def read() -> tuple[ledger_storage.AttemptState, ledger_storage.RegistrationState]:
        head = chain.store.head()
        slots = {
            GRADIENT_LEDGER: ledger_storage.list_attempt_slots(TASK),
            MINER_SEATS: ledger_storage.list_registration_slots(TASK, MINERS[0]),
        }
        nodes = build_state_proof(chain.local.database, head.state_root, slots)
        state = ProvenState(head.state_root, nodes)
        return (
            ledger_storage.read_attempt(state.get_storage, TASK),
            ledger_storage.read_registration(state.get_storage, TASK, MINERS[0]),
        )

    opened, registration = read()
    assert opened.ordinal == 1
    assert registration == ledger_storage.RegistrationState(1, 1, 0, 0, False, False)
    head = chain.store.head()
    participants = {MINER_SEATS: ledger_storage.list_participant_slots(TASK, MINERS)}
    nodes = build_state_proof(chain.local.database, head.state_root, participants)
    state = ProvenState(head.state_root, nodes)
    found = ledger_storage.read_participants(state.get_storage, TASK, 1)
    assert found == tuple(sorted(zip(MINERS, (1, 2), strict=True)))
    # No seat was taken before an attempt that did not open.
    assert ledger_storage.read_participants(state.get_storage, TASK, 0) == ()
    chain.commit()
    over, registration = read()
    assert registration.committed_attempt == 1
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
            content_id(encode_task_spec(SPEC)),
            status,
        )
