"""The limits that a worker process puts on itself."""

import subprocess
import sys
from io import BytesIO

import pytest

from chain.errors import RejectedInputError, RejectionReason
from pot_common.framing import WORKER_ANSWERS, WORKER_QUESTIONS
from pot_common.worker import Answer, WorkerRequest, serve


def test_refusal_or_missing_file_is_an_answer_and_the_worker_goes_on() -> None:
    def answer(request: WorkerRequest) -> Answer:
        return {"size": request.path("file").stat().st_size}

    questions = [{"id": 1, "file": "/nowhere"}, {"id": 2}, {"id": 3, "file": "/"}]
    answers = BytesIO()
    serve(answer, BytesIO(b"".join(map(WORKER_QUESTIONS.encode, questions))), answers)
    answers.seek(0)
    missing, malformed, sound = iter(lambda: WORKER_ANSWERS.read(answers), None)
    assert (missing["id"], missing["error"]) == (1, "files_fault")
    assert (malformed["id"], malformed["error"]) == (2, "malformed")
    assert sound["id"] == 3
    assert "error" not in sound


@pytest.mark.parametrize("refusal", [RejectedInputError, OSError])
def test_refusal_that_repeats_a_long_name_of_a_stranger_is_an_answer(
    refusal: type[Exception],
) -> None:
    """The message of zipfile about a local header of 65 535 zero bytes has 262 kB."""
    detail = repr(bytes(65_535))

    def refuse(_request: WorkerRequest) -> Answer:
        if refusal is OSError:
            raise OSError(detail)
        raise RejectedInputError(RejectionReason.MALFORMED, detail)

    answers = BytesIO()
    serve(refuse, BytesIO(WORKER_QUESTIONS.encode({"id": 1})), answers)
    answers.seek(0)
    answer = WORKER_ANSWERS.read(answers)
    assert answer is not None
    assert answer["detail"] == detail[:400]


@pytest.mark.parametrize(
    "members", [{}, {"files": "x"}, {"files": ["x"]}, {"files": [{}, 7]}, {"files": {}}]
)
def test_array_of_objects_is_checked(members: dict[str, object]) -> None:
    with pytest.raises(RejectedInputError, match="array of objects"):
        WorkerRequest(members).children("files")  # type: ignore[arg-type]


PARENT = r"""
import subprocess, sys
memory = bytearray(2**28)
memory[::4096] = bytes(2**28 // 4096 - 1) + b"x"
child = "from pot_common.worker import get_peak_memory_bytes; print(get_peak_memory_bytes())"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_peak_of_memory_is_that_of_the_worker_and_not_of_its_parent() -> None:
    output = subprocess.run([sys.executable, "-c", PARENT], check=True, capture_output=True).stdout
    assert 2**20 < int(output) < 2**28
