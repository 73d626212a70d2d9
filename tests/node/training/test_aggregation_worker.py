"""The aggregation worker as a node sees it: a process behind two pipes."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from chain.crypto import content_id
from chain.json_types import Json, JsonObject
from chain.training.optimizer import initial_state
from chain.training.task_spec_codec import encode_task_spec
from node.training import aggregation_worker
from node.training.aggregation_worker import answer
from pot_common.framing import WORKER_ANSWERS, WORKER_QUESTIONS
from pot_common.worker import serve
from tests.worlds.training_node import PAYLOADS, REVEALS, SPEC, WEIGHTS, header_of


def request_in(directory: Path, kind: str, **members: Json) -> JsonObject:
    (directory / "spec").write_bytes(encode_task_spec(SPEC))
    sizes = [len(WEIGHTS), len(WEIGHTS), 8] if kind == "begin" else [*[len(WEIGHTS)] * 3, 8]
    outputs: list[Json] = []
    for number, size in enumerate(sizes):
        path = directory / f"{kind}-{number}"
        path.write_bytes(bytes(size))
        outputs.append(str(path))
    return {
        "id": 3,
        "kind": kind,
        "spec": str(directory / "spec"),
        "outputs": outputs,
        "progress": {},
        **members,
    }


def stored(directory: Path, data: bytes) -> JsonObject:
    path = directory / content_id(data).hex()
    path.write_bytes(data)
    return {"path": str(path), "content_id": content_id(data).hex()}


def advance_in(directory: Path) -> JsonObject:
    header = header_of(REVEALS[0].miner)
    parts: list[Json] = [stored(directory, part) for part in STATE.parts]
    gradients: list[Json] = [
        {**stored(directory, payload), "units": 1, "miner": reveal.miner.hex()}
        for payload, reveal in zip(PAYLOADS, REVEALS, strict=True)
    ]
    place: JsonObject = {
        "round": 0,
        "chain_id": header.chain_id,
        "seed": header.seed.hex(),
        "theta_root": header.theta_root.hex(),
        "task": header.attempt_id.task_id,
        "attempt": 0,
    }
    return request_in(directory, "advance", state=parts, header=place, gradients=gradients)


STATE = initial_state(SPEC.optimizer, WEIGHTS)


@pytest.mark.process
def test_worker_process_answers_and_ends_with_its_input(tmp_path: Path) -> None:
    requests = [
        request_in(tmp_path, "begin", theta=stored(tmp_path, WEIGHTS)),
        advance_in(tmp_path),
    ]
    process = subprocess.run(
        [sys.executable, "-m", "node.training.aggregation_worker"],
        input=b"".join(map(WORKER_QUESTIONS.encode, requests)),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert process.stderr == b""
    stream = BytesIO(process.stdout)
    begun, advanced = WORKER_ANSWERS.read(stream), WORKER_ANSWERS.read(stream)
    assert begun == {"id": 3, "part_ids": [content_id(each).hex() for each in STATE.tensors]}
    assert advanced is not None
    for number, part_id in enumerate(advanced["part_ids"]):
        assert content_id((tmp_path / f"advance-{number}").read_bytes()).hex() == part_id


def ask(request: JsonObject) -> JsonObject | None:
    answers = BytesIO()
    serve(answer, BytesIO(WORKER_QUESTIONS.encode(request)), answers)
    answers.seek(0)
    return WORKER_ANSWERS.read(answers)


@pytest.mark.parametrize("kind", ["begin", "advance"])
def test_update_in_single_steps_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    theta = stored(tmp_path, WEIGHTS)
    request = advance_in(tmp_path) if kind == "advance" else request_in(tmp_path, kind, theta=theta)
    whole = ask(request)
    assert whole is not None
    assert whole.keys() == {"id", "part_ids"}
    monkeypatch.setattr(aggregation_worker, "PART_SECONDS", -1.0)
    outputs = [Path(str(each)) for each in request["outputs"]]
    for path in outputs:
        path.write_bytes(bytes(path.stat().st_size))
    then, asked = ask(request), 1
    while then is not None and "progress" in then:
        assert then["done"] == asked
        then, asked = ask({**request, "progress": then["progress"]}), asked + 1
    # The files that are checked, a slice, and the files that are written.
    checked = 1 if kind == "begin" else len(STATE.parts) + len(PAYLOADS)
    assert asked == checked + 1 + len(outputs)
    assert then == whole


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"kind": "exec"}, "malformed"),
        ({"state": []}, "malformed"),
        ({"gradients": []}, "malformed"),
        ({"gradients": [{}]}, "malformed"),
        ({"gradients": ["x"]}, "malformed"),
        ({"outputs": []}, "malformed"),
        ({"header": {}}, "malformed"),
        ({"spec": "/nowhere"}, "files_fault"),
        ({"progress": None}, "malformed"),
        ({"progress": {"checked": 4, "slices": 0, "norms": ["x"], "part_ids": []}}, "malformed"),
        ({"progress": {"checked": 4, "slices": 0, "norms": [], "part_ids": [5]}}, "malformed"),
    ],
)
def test_bad_request_is_answered_with_an_error(
    tmp_path: Path, members: JsonObject, error: str
) -> None:
    then = ask({**advance_in(tmp_path), **members})
    assert then is not None
    assert (then["id"], then["error"]) == (3, error)
