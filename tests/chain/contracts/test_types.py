"""The type checker refuses an answer that is used as another view's."""

from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[3]
GIVEN = """
from chain.contracts import gradient_ledger, miner_seats, task_registry
from chain.contracts.gradient_ledger import RoundState
from chain.contracts.miner_seats import SeatState
from chain.contracts.state_reader import StateReader
from chain.primitives import TaskId

def use(reader: StateReader, task_id: TaskId) -> RoundState:
"""

WRONGLY_DECLARED = "reader.read(miner_seats.CONTRACT.view('getSeat', returns=SeatState))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("return reader.read(gradient_ledger.get_round(task_id))", None),
        ("return reader.read(task_registry.get_account(task_id))", "TaskAccount"),
        ("return reader.read(miner_seats.leave(task_id))", "ContractCall"),
        ("return gradient_ledger.get_round(task_id).decode(b'').units", "units"),
        (f"return {WRONGLY_DECLARED}", "SeatState"),
    ],
    ids=["right", "another view", "a call", "another field", "another declaration"],
)
def test_wrong_pairing_of_view_and_answer_has_a_type_error(
    body: str, complaint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "module.py"
    module.write_text(f"{GIVEN}    {body}\n")
    monkeypatch.chdir(ROOT)
    output, errors, status = api.run([str(module)])
    assert not errors
    assert status == (complaint is not None), output
    assert complaint is None or complaint in output
