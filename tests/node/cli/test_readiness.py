"""What a submitter is told of refusals."""

from pathlib import Path

from chain.training.task_checks import REFUSAL_CODES, ObjectionCode
from node.cli.readiness import CURES, WAITS, describe_refusal

GUIDE = Path(__file__).parents[3] / "docs/operator-guide.md"
REFUSED = {"lease": {"refusal": "resources_exceeded"}}
REASON = "peak_bytes is 337993728 in the dry run, and 1000000 is declared"


def test_every_code_of_an_answer_has_a_cure_and_a_row_in_the_guide() -> None:
    assert list(CURES) == [code.value for code in REFUSAL_CODES]
    guide = GUIDE.read_text()
    for code, cure in CURES.items():
        (row,) = [line for line in guide.splitlines() if line.startswith(f"| `{code}` |")]
        assert f"| {cure} |" in row


def test_every_reason_to_wait_has_an_advice() -> None:
    assert {code.value for code in set(ObjectionCode) - set(REFUSAL_CODES)} <= set(WAITS)


def test_refused_task_says_what_to_change_and_what_validators_still_know() -> None:
    cure = "next: submit it with a larger [resources] in its file, or without that part"
    assert describe_refusal(REFUSED, []) == [cure]
    answer = {"validator": "0x1234567890ab", "state": "refused", "reason": REASON}
    node = {"validator": None, "state": "refused", "reason": REASON}
    assert describe_refusal(REFUSED, [answer, node]) == [
        "validator 0x12345678 refused the task: peak_bytes is 337993728 in the dry run,",
        "  and 1000000 is declared",
        cure,
    ]


def test_task_that_was_not_refused_has_no_cure() -> None:
    assert describe_refusal({"lease": {"refusal": None}}, []) == []
