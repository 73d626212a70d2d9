"""The verifier worker as a node sees it: a process behind two pipes."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedIOBase, BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chain.crypto import content_id, keccak256
from chain.json_types import Json, JsonObject
from chain.primitives import Hash32
from chain.training.acceptance import ExponentRule, Measurement, Verdict, compute_verdict
from chain.training.architectures import Mlp, count_parameters
from chain.training.encoding import GradientHeader, encode_gradient
from chain.training.resources import count_rows_bytes
from chain.training.task_checks import ObjectionCode, find_noise_objection
from chain.training.task_spec import FeatureType, Shard, TaskSpec
from chain.training.task_spec_codec import decode_task_spec, encode_task_spec
from miner import check, examination, trainer, verify
from miner import data as miner_data
from miner.check import Check
from miner.data import MappedRows, store_rows
from miner.devices import open_device
from miner.gradient import PartialGradient, clip
from miner.model import build_model, load_parameters
from miner.trainer import Trainer, open_task
from miner.verify import Worker
from node.client.task_file import build_initial_weights, encode_npz
from pot_common.framing import WORKER_ANSWERS, WORKER_QUESTIONS, FrameError
from pot_common.samples import Samples, compute_samples
from pot_common.worker import serve
from tests.miner.crafted import CraftedTask, compute_gradient, craft_overflow
from tests.worlds.training import SPEC, header_of


def compute_precisely(trainer: Trainer, theta: bytes, samples: Sequence[int]) -> np.ndarray:
    """The clipped gradient of a machine that computes in float64."""
    rows = np.array([trainer.spec.row_of_sample(int(sample)) for sample in samples])
    module = build_model(trainer.spec.model)
    load_parameters(module, theta)
    features, labels = trainer.dataset.take(rows)
    loss = trainer.spec.loss
    return clip(compute_gradient(module.double(), loss, features.double(), labels, 512))


def deflate_npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@dataclass(frozen=True)
class Files:
    """A task on the disk, an honest payload, and requests about both."""

    directory: Path

    def request(self, kind: str, **members: Json) -> JsonObject:
        paths = {name: str(self.directory / name) for name in ("spec", "theta", "rows")}
        return {"id": 7, "kind": kind, **paths, **members}

    def dry_run(self, **members: Json) -> JsonObject:
        return self.request("dry_run", **{"shards": [str(self.directory / "shard")], **members})

    def verify(self, **members: Json) -> JsonObject:
        payload = str(self.directory / "payload")
        place = {"first": FIRST, "count": len(SAMPLES), "header": HEADER_FIELDS}
        partial = str(self.directory / "partial")
        request = self.request("verify", payload=payload, partial=partial, done=0)
        return {**request, **place, **members}


MODEL = Mlp(inputs=64, hidden=(8,), classes=10)
THETA = build_initial_weights(MODEL, "verify")
HEADER = replace(header_of(1, count_parameters(MODEL)), theta_root=content_id(THETA))
FIRST = 16
SAMPLES = compute_samples(HEADER.seed, 40, FIRST, 8)
HEADER_FIELDS = {
    "round": HEADER.attempt_id.round_number,
    "chain_id": HEADER.chain_id,
    "seed": "0x" + HEADER.seed.hex(),
    "miner": "0x" + HEADER.miner.hex(),
    "task": HEADER.attempt_id.task_id,
    "attempt": HEADER.attempt_id.attempt_number,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("task")
    generator = np.random.Generator(np.random.PCG64(1))
    shard = encode_npz(
        {
            "x": generator.standard_normal((60, 1, 8, 8)).astype(np.float32),
            "y": generator.integers(0, 10, 60).astype(np.uint8),
        }
    )
    spec = replace(
        SPEC,
        model=MODEL,
        initial_weights=content_id(THETA),
        data=replace(SPEC.data, shards=(Shard(content_id(shard), len(shard), 60),)),
        held_out=replace(SPEC.held_out, first_row=40, row_count=20),
        reward=replace(SPEC.reward, max_units=5),
    )
    payload = open_task(spec, [shard], open_device("cpu")).build_payload(HEADER, THETA, SAMPLES)
    contents = {
        "spec": encode_task_spec(spec),
        "theta": THETA,
        "shard": shard,
        "payload": payload,
        "lie": encode_gradient(HEADER, np.full(HEADER.parameter_count, 0.01, np.float32)),
        "short": payload[:-1],
        "foreign": b"GQ02" + payload[4:],
    }
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    write_rows(spec, shard, directory / "rows")
    return Files(directory)


def write_rows(spec: TaskSpec, shard: bytes, path: Path) -> None:
    path.write_bytes(bytes(count_rows_bytes(spec)))
    store_rows(spec, [shard], path)


@contextmanager
def worker_process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "miner.verify", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def ask(worker: Worker, *requests: JsonObject) -> list[JsonObject]:
    answers = BytesIO()
    questions = BytesIO(b"".join(WORKER_QUESTIONS.encode(request) for request in requests))
    serve(worker.answer, questions, answers)
    answers.seek(0)
    return list(iter(lambda: WORKER_ANSWERS.read(answers), None))


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker(open_device("cpu"))


@pytest.mark.process
def test_worker_process_answers_and_ends_with_its_input(files: Files) -> None:
    requests = [
        files.dry_run(),
        files.request("evaluate"),
        files.verify(),
        files.verify(payload=str(files.directory / "lie")),
    ]
    with worker_process() as process:
        output, errors = process.communicate(
            b"".join(map(WORKER_QUESTIONS.encode, requests)), timeout=60
        )
    stream = BytesIO(output)
    answers = [WORKER_ANSWERS.read(stream) for _ in requests]
    assert (process.returncode, errors, stream.read()) == (0, b"", b"")
    dry_run, evaluation, honest, lie = answers
    assert dry_run.keys() == {
        *("id", "parameter_count", "unit_milliseconds", "evaluation_milliseconds"),
        *("noise_ppb", "peak_bytes"),
    }
    assert dry_run["noise_ppb"] < 1_000
    assert 0 < dry_run["unit_milliseconds"] < 10_000
    assert 0 < dry_run["evaluation_milliseconds"] < 10_000
    assert dry_run["parameter_count"] == count_parameters(MODEL)
    assert 10**7 < dry_run["peak_bytes"] < 2 * 10**9
    assert (evaluation["row_count"], 0 <= evaluation["correct_count"] <= 20) == (20, True)
    assert 1_000 < evaluation["loss_millinats"] < 10_000
    assert (honest["id"], honest["exponents"]) == (7, "kept")
    assert honest["distance_ppb"] < 10_000
    assert lie["distance_ppb"] > 1_000_000


@pytest.mark.process
def test_idle_worker_does_not_keep_deleted_rows_on_the_disk(files: Files, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.write_bytes((files.directory / "rows").read_bytes())
    evaluate = WORKER_QUESTIONS.encode({**files.request("evaluate"), "rows": str(rows)})
    with worker_process("--idle-seconds", "0.2") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        maps = Path(f"/proc/{process.pid}/maps")
        for _ in range(2):
            process.stdin.write(evaluate)
            process.stdin.flush()
            answer = WORKER_ANSWERS.read(process.stdout)
            assert answer is not None
            assert answer["row_count"] == 20
            end = time.monotonic() + 60
            while str(rows) in maps.read_text():
                assert time.monotonic() < end
                time.sleep(0.01)
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.process
def test_task_above_the_memory_limit_ends_its_worker(files: Files) -> None:
    model = replace(MODEL, hidden=(50_000,))
    theta = build_initial_weights(model, "large")
    (files.directory / "large_theta").write_bytes(theta)
    (files.directory / "large_spec").write_bytes(
        encode_task_spec(
            replace(
                decode_task_spec((files.directory / "spec").read_bytes()),
                model=model,
                initial_weights=content_id(theta),
            )
        )
    )
    paths = {name: str(files.directory / f"large_{name}") for name in ("spec", "theta")}
    frame = WORKER_QUESTIONS.encode({**files.dry_run(), **paths})
    with worker_process("--memory-bytes", str(2**20)) as process:
        output, errors = process.communicate(frame, timeout=60)
    assert process.returncode == 1
    assert output == b""
    line = errors.decode()
    assert re.fullmatch(r"error: .*memory.*\n", line), line


@pytest.mark.process
def test_rows_beyond_the_memory_limit_are_refused_before_unpacking(files: Files) -> None:
    rows = 2**20
    shard = deflate_npz({"x": np.zeros((rows, 64), np.uint8), "y": np.zeros(rows, np.uint8)})
    spec = decode_task_spec((files.directory / "spec").read_bytes())
    data = replace(
        spec.data,
        feature_type=FeatureType.UINT8,
        sample_shape=(64,),
        shards=(Shard(content_id(shard), len(shard), rows),),
    )
    (files.directory / "wide_spec").write_bytes(encode_task_spec(replace(spec, data=data)))
    (files.directory / "wide_shard").write_bytes(shard)
    request = files.dry_run(
        spec=str(files.directory / "wide_spec"),
        shards=[str(files.directory / "wide_shard")],
    )
    with worker_process("--memory-bytes", str(400 * 2**20)) as process:
        output, _ = process.communicate(WORKER_QUESTIONS.encode(request), timeout=60)
    answer = WORKER_ANSWERS.read(BytesIO(output))
    assert answer is not None
    assert (answer["error"], "memory" in str(answer["detail"])) == ("too_large", True)


@pytest.mark.parametrize(
    ("name", "file", "error", "detail"),
    [
        ("payload", "short", "content_mismatch", "bytes long"),
        ("payload", "foreign", "bad_gradient", "magic"),
        ("payload", "nowhere", "files_fault", "No such file"),
        ("theta", "payload", "content_mismatch", "bytes long"),
        ("spec", "theta", "malformed", "not JSON"),
    ],
)
def test_files_that_break_a_rule_are_answered_with_an_error(
    files: Files, worker: Worker, name: str, file: str, error: str, detail: str
) -> None:
    (answer,) = ask(worker, files.verify(**{name: str(files.directory / file)}))
    assert (answer["id"], answer["error"]) == (7, error)
    assert detail in str(answer["detail"])


def test_dry_run_shows_the_noise_of_an_ill_conditioned_task(files: Files, worker: Worker) -> None:
    """Hidden units in pairs whose huge contributions to the output cancel."""
    parts = np.split(np.frombuffer(THETA, "<f4").copy(), [8, 8 + 8 * 64, 8 + 8 * 64 + 10])
    bias, inward, _, outward = parts
    bias[:] = 0.5
    inward.reshape(8, 64)[4:] = inward.reshape(8, 64)[:4]
    outward.reshape(10, 8)[:, :4] = 2.0**17
    outward.reshape(10, 8)[:, 4:] = -(2.0**17)
    theta = np.concatenate(parts).astype("<f4").tobytes()
    spec = decode_task_spec((files.directory / "spec").read_bytes())
    ill = replace(spec, initial_weights=content_id(theta))
    (files.directory / "ill_theta").write_bytes(theta)
    (files.directory / "ill_spec").write_bytes(encode_task_spec(ill))
    paths = {name: str(files.directory / f"ill_{name}") for name in ("spec", "theta")}
    (sound,) = ask(worker, files.dry_run())
    (noisy,) = ask(worker, files.dry_run(**paths))
    tolerance_ppb = spec.verification.tolerance_ppb
    assert 10 * sound["noise_ppb"] < tolerance_ppb < noisy["noise_ppb"]

    # A miner whose machine rounds differently is not taken for a cheat.
    header = replace(HEADER, theta_root=content_id(theta))
    shard = (files.directory / "shard").read_bytes()
    other = compute_precisely(open_task(ill, [shard], open_device("cpu")), theta, SAMPLES)
    (files.directory / "other").write_bytes(encode_gradient(header, other))
    (answer,) = ask(worker, files.verify(payload=str(files.directory / "other"), **paths))
    assert answer["distance_ppb"] > 10 * tolerance_ppb
    measurement = Measurement(
        answer["distance_ppb"], ExponentRule(answer["exponents"]), answer["noise_ppb"]
    )
    assert compute_verdict(measurement, tolerance_ppb) is Verdict.BAD


def test_parts_of_an_evaluation_add_up(
    files: Files, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_compute_end", lambda _: 0)
    monkeypatch.setattr(trainer, "compute_microbatch", lambda _: 8)
    (whole,) = ask(worker, files.request("evaluate"))
    parts = ask(worker, *(files.request("evaluate_part", first=first) for first in (0, 8, 16)))
    assert [part["row_count"] for part in parts] == [8, 8, 4]
    assert sum(part["correct_count"] for part in parts) == whole["correct_count"]
    loss = sum(part["loss_micronats"] for part in parts) / 20 / 1_000
    assert abs(loss - whole["loss_millinats"]) <= 1
    (beyond,) = ask(worker, files.request("evaluate_part", first=20))
    assert beyond["error"] == "malformed"


def test_dry_run_refuses_a_model_that_is_not_finite(files: Files, worker: Worker) -> None:
    model = Mlp(inputs=64, hidden=(8,) * 8, classes=10)
    theta = np.full(count_parameters(model), 2.0**20, "<f4").tobytes()
    spec = decode_task_spec((files.directory / "spec").read_bytes())
    endless = replace(spec, model=model, initial_weights=content_id(theta))
    (files.directory / "endless_theta").write_bytes(theta)
    (files.directory / "endless_spec").write_bytes(encode_task_spec(endless))
    paths = {name: str(files.directory / f"endless_{name}") for name in ("spec", "theta")}
    (answer,) = ask(worker, files.dry_run(**paths))
    assert (answer["error"], "not finite" in str(answer["detail"])) == ("bad_spec", True)


@pytest.mark.process
@pytest.mark.parametrize(
    ("seconds", "members"), [("0.001", {}), ("100", {"processor_milliseconds": 1})]
)
def test_dry_run_that_takes_too_much_processor_time_is_ended(
    files: Files, seconds: str, members: dict[str, int]
) -> None:
    frame = WORKER_QUESTIONS.encode({**files.dry_run(), **members})
    with worker_process("--processor-seconds", seconds) as process:
        output, _ = process.communicate(frame * 1_000, timeout=60)
    assert process.returncode == -signal.SIGPROF
    assert len(output) < 100_000


def test_other_initial_weights_fail_the_dry_run(files: Files, worker: Worker) -> None:
    other = files.directory / "other_theta"
    other.write_bytes(build_initial_weights(MODEL, "other"))
    (answer,) = ask(worker, files.dry_run(theta=str(other)))
    assert answer["error"] == "content_mismatch"


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "exec"},
        {"kind": None},
        {"shards": "x"},
        {"shards": []},
        {"header": {}},
        {"header": {**HEADER_FIELDS, "seed": "0xzz"}},
        {"header": {**HEADER_FIELDS, "miner": "0x00"}},
        {"header": {**HEADER_FIELDS, "round": -1}},
        {"header": {**HEADER_FIELDS, "round": True}},
        {"first": 33},
        {"first": -1},
        {"count": 0},
        {"count": 2**63},
    ],
)
def test_bad_request_is_answered_with_an_error(files: Files, members: JsonObject) -> None:
    (answer,) = ask(Worker(open_device("cpu")), {**files.verify(), **members})
    assert answer["error"] == "malformed"


@pytest.mark.parametrize(
    "frames",
    [
        (WORKER_QUESTIONS.limit_bytes + 1).to_bytes(4, "big"),
        b"\0\0",
        b"\0\0\0\x05{}",
        b"\0\0\0\x02[]",
        b"\0\0\0\x02{{",
    ],
)
def test_broken_stream_ends_the_worker(worker: Worker, frames: bytes) -> None:
    with pytest.raises(FrameError):
        serve(worker.answer, BytesIO(frames), BytesIO())


@pytest.mark.parametrize(
    ("payload", "done"),
    [
        ("payload", [4, 8]),
        # The comparison; then four trials, each with its steps and its own comparison.
        ("lie", [4, 8, 9, *range(11, 18, 2), 18, *range(20, 27, 2), *range(27, 45)]),
    ],
)
def test_check_in_parts_has_the_result_of_one_at_once(
    files: Files, worker: Worker, monkeypatch: pytest.MonkeyPatch, payload: str, done: list[int]
) -> None:
    monkeypatch.setattr(verify.secrets, "token_bytes", bytes)
    monkeypatch.setattr(trainer, "compute_microbatch", lambda _: 4)
    request = files.verify(payload=str(files.directory / payload))
    (whole,) = ask(worker, request)
    monkeypatch.setattr(verify, "_compute_end", lambda _: 0)

    answers = ask(worker, request)
    while "done" in answers[-1]:
        # A worker that was started meanwhile goes on with the sums of the one before.
        answers += ask(Worker(open_device("cpu")), {**request, "done": answers[-1]["done"]})

    assert [answer.get("done") for answer in answers] == [*done, None]
    assert answers[-1] == whole


def test_worker_that_goes_on_with_a_check_reads_nothing_again(
    files: Files, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify.secrets, "token_bytes", bytes)
    monkeypatch.setattr(trainer, "compute_microbatch", lambda _: 4)
    request = files.verify(payload=str(files.directory / "lie"))
    (whole,) = ask(worker, request)
    monkeypatch.setattr(verify, "_compute_end", lambda _: 0)
    read: list[str] = []

    def read_file(path: Path, byte_count: int) -> bytes:
        read.append(path.name)
        return miner_data.read_file(path, byte_count)

    def load(*arguments: object) -> object:
        read.append("sums")
        return check.load_sums(*arguments)

    monkeypatch.setattr(verify, "read_file", read_file)
    monkeypatch.setattr(verify, "load_sums", load)
    fresh = Worker(open_device("cpu"))

    (answer,) = ask(fresh, request)
    while "done" in answer:
        if answer["done"] == 15:
            # Other work of the task in between: the task stays open, but not the check.
            ask(fresh, files.request("evaluate_part", first=0))
        (answer,) = ask(fresh, {**request, "done": answer["done"]})

    assert read == ["theta", "lie", "lie", "sums"]
    assert answer == whole


def test_worker_reads_a_file_that_took_the_place_of_another(
    files: Files, worker: Worker, tmp_path: Path
) -> None:
    theta = tmp_path / "theta"
    theta.write_bytes(THETA[:-1] + bytes([THETA[-1] ^ 1]))
    request = files.verify(theta=str(theta))
    (damaged,) = ask(worker, request)
    (tmp_path / "new").write_bytes(THETA)
    (tmp_path / "new").rename(theta)
    (mended,) = ask(worker, request)
    assert (damaged["error"], "error" in mended) == ("bad_gradient", False)


def test_dry_run_takes_few_wide_rows_at_a_time(
    files: Files, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    class CountedRows(MappedRows):
        def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            taken.append(len(rows))
            return super().take(rows)

    monkeypatch.setattr(miner_data, "MappedRows", CountedRows)
    monkeypatch.setattr(trainer, "compute_microbatch", lambda _: 4)
    monkeypatch.setattr(examination, "SCANNED_FEATURES", 4 * 64)
    (answer,) = ask(worker, files.dry_run())
    assert "error" not in answer
    assert max(taken) == 4


def test_no_check_takes_larger_steps_than_the_dry_run(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The memory of a step grows with its samples, and a dry run says what all checks take."""
    spec = replace(decode_task_spec((files.directory / "spec").read_bytes()), samples_per_unit=1)
    (tmp_path / "spec").write_bytes(encode_task_spec(spec))
    steps: dict[str, list[int]] = {"gradient": [], "trial": []}

    def record(kind: str, function: Callable[..., PartialGradient]) -> object:
        def step(*arguments: object) -> PartialGradient:
            steps[kind].append(len(arguments[3]))
            return function(*arguments)

        return step

    monkeypatch.setattr(trainer, "compute_microbatch", lambda _: 4)
    monkeypatch.setattr(verify, "compute_microbatch", lambda _: 4)
    monkeypatch.setattr(trainer, "continue_gradient", record("gradient", trainer.continue_gradient))
    monkeypatch.setattr(trainer, "continue_trial", record("trial", trainer.continue_trial))
    largest = []
    for request in (
        files.dry_run(),
        files.verify(payload=str(files.directory / "lie"), count=spec.reward.max_units),
    ):
        ask(Worker(open_device("cpu")), {**request, "spec": str(tmp_path / "spec")})
        largest.append({kind: max(sizes) for kind, sizes in steps.items()})
        for sizes in steps.values():
            sizes.clear()
    assert largest == [{"gradient": 4, "trial": 2}] * 2


def test_dry_run_counts_the_sums_that_a_long_check_saves(
    files: Files, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def save_slowly(self: Check, file: BufferedIOBase) -> None:
        now[0] += 0.5
        save(self, file)

    def verify_slowly(self: Trainer, *arguments: object) -> Measurement:
        now[0] += 3
        return verify_payload(self, *arguments)

    save, verify_payload = Check.save, Trainer.verify_payload
    clock = SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(verify, "time", clock)
    monkeypatch.setattr(verify, "compute_microbatch", lambda _: 4)
    monkeypatch.setattr(trainer, "compute_microbatch", lambda _: 4)
    monkeypatch.setattr(Check, "save", save_slowly)
    monkeypatch.setattr(Trainer, "verify_payload", verify_slowly)
    (answer,) = ask(worker, files.dry_run())
    assert answer["unit_milliseconds"] == 3_000 + 3 * 500


def test_check_without_its_sums_is_refused(files: Files, worker: Worker) -> None:
    for done, name in ((7, "nothing"), (9, "payload"), (45, "partial")):
        request = files.verify(done=done, partial=str(files.directory / name))
        (answer,) = ask(worker, request)
        assert "error" in answer


def write_crafted(task: CraftedTask, directory: Path) -> Files:
    contents = {"spec": encode_task_spec(task.spec), "theta": task.theta, "shard": task.shard}
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    write_rows(task.spec, task.shard, directory / "rows")
    return Files(directory)


def ask_about(files: Files, worker: Worker, header: GradientHeader, payload: bytes) -> Verdict:
    """The verdict on a payload for the first four samples of an attempt."""
    (files.directory / "payload").write_bytes(payload)
    fields = {**HEADER_FIELDS, "seed": "0x" + header.seed.hex()}
    (answer,) = ask(worker, files.verify(first=0, count=4, header=fields))
    return compute_verdict(
        Measurement(answer["distance_ppb"], ExponentRule(answer["exponents"]), answer["noise_ppb"]),
        100_000,
    )


def test_declared_time_of_a_unit_does_not_change_its_gradient(
    tmp_path: Path, worker: Worker
) -> None:
    """A validator that summed two samples at a time would find that others do not overflow."""
    task = craft_overflow()
    files, miner = write_crafted(task, tmp_path), task.open()
    header = header_of(1, count_parameters(task.spec.model))
    header = replace(header, theta_root=content_id(task.theta))
    for number in range(40):
        header = replace(header, seed=keccak256(b"%d" % number))
        samples = compute_samples(header.seed, task.spec.sample_count, 0, 4)
        payload = miner.build_payload(header, task.theta, samples)
        assert ask_about(files, worker, header, payload) is Verdict.OK


def test_gradient_that_overflows_is_zero_and_no_other_is_paid(
    tmp_path: Path, worker: Worker
) -> None:
    task = craft_overflow()
    files, miner = write_crafted(task, tmp_path), task.open()
    header = header_of(1, count_parameters(task.spec.model))
    header = replace(header, theta_root=content_id(task.theta))
    zeros, ones = np.zeros(19, np.float32), np.full(19, 0.1, np.float32)
    verdicts = []
    for number in range(40):
        header = replace(header, seed=keccak256(b"%d" % number))
        samples = compute_samples(header.seed, task.spec.sample_count, 0, 4)
        gradient = miner.compute_unclipped_gradient(task.theta, samples)
        is_finite = bool(np.all(np.isfinite(gradient)))
        verdicts += [
            (
                is_finite,
                *(
                    ask_about(files, worker, header, encode_gradient(header, each))
                    for each in (zeros, ones)
                ),
            )
        ]
    # No bond is lost for either, since another honest machine may overflow where this one does not.
    assert set(verdicts) == {
        (False, Verdict.OK, Verdict.BAD),
        (True, Verdict.BAD, Verdict.BAD),
    }


def test_dry_run_shows_the_noise_behind_a_harmless_first_unit(
    tmp_path: Path, worker: Worker
) -> None:
    task = craft_overflow()
    (answer,) = ask(worker, write_crafted(task, tmp_path).dry_run())
    objection = find_noise_objection(task.spec, answer["noise_ppb"])
    assert objection is not None
    assert objection.code is ObjectionCode.TOO_NOISY


def test_piece_reads_no_more_rows_than_its_steps_take(
    files: Files, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a stranger's data costs to unpack, a change of task costs a duty nothing."""
    taken: list[int] = []
    drawn: list[int] = []

    class CountedRows(MappedRows):
        def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            taken.append(len(rows))
            return super().take(rows)

    class CountedSamples(Samples):
        def __getitem__(self, places: np.ndarray) -> np.ndarray:
            drawn.append(len(places))
            return super().__getitem__(places)

    def refuse(*_: object) -> None:
        raise AssertionError("a duty reads no data")

    monkeypatch.setattr(miner_data, "MappedRows", CountedRows)
    monkeypatch.setattr(verify, "Samples", CountedSamples)
    monkeypatch.setattr(trainer, "Samples", CountedSamples)
    monkeypatch.setattr(miner_data, "read_shard", refuse)
    monkeypatch.setattr(trainer, "compute_microbatch", lambda _: 4)
    monkeypatch.setattr(verify, "_compute_end", lambda _: 0)

    begun, _, ended = ask(
        worker,
        files.verify(payload=str(files.directory / "lie")),
        files.request("evaluate_part", first=4),
        files.verify(payload=str(files.directory / "lie"), done=4),
    )

    assert (begun["done"], ended["done"]) == (4, 8)
    # Two steps of a check, one of an evaluation.
    assert (taken, drawn) == ([4, 4, 4], [4, 4])


def test_rows_are_stored_from_data_that_a_later_request_lacks(
    files: Files, worker: Worker, tmp_path: Path
) -> None:
    spec = decode_task_spec((files.directory / "spec").read_bytes())
    rows = tmp_path / "rows"
    rows.write_bytes(bytes(count_rows_bytes(spec)))
    shards = [str(files.directory / "shard")]
    assert ask(worker, files.request("store_rows", rows=str(rows), shards=shards)) == [{"id": 7}]
    assert rows.read_bytes() == (files.directory / "rows").read_bytes()
    stored, usual = ask(worker, files.verify(rows=str(rows)), files.verify())
    assert stored == usual


@pytest.mark.parametrize(("opening_seconds", "end"), [(0.25, 101.0), (2.0, 104.0)])
def test_piece_lasts_a_second_or_twice_as_long_as_its_opening(
    monkeypatch: pytest.MonkeyPatch, opening_seconds: float, end: float
) -> None:
    now = [100.0]
    monkeypatch.setattr(verify, "time", SimpleNamespace(monotonic=lambda: now[0]))
    now[0] += opening_seconds
    assert verify._compute_end(100.0) == end


def test_dry_run_counts_the_opening_of_a_task_in_each_time(
    files: Files, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a task with a large model and tiny units would pay for a part of its checks."""
    now = [0.0]

    def open_slowly(data: bytes) -> Hash32:
        now[0] += 2
        return content_id(data)

    clock = SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(verify, "time", clock)
    monkeypatch.setattr(verify, "content_id", open_slowly)
    (answer,) = ask(worker, files.dry_run())
    assert (answer["unit_milliseconds"], answer["evaluation_milliseconds"]) == (2_000, 2_000)
