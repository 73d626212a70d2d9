"""Peak memory of every process that a validator needs for a round of the largest lawful task.

The model has as many parameters as a task may have, with AdamW, whose state is the largest. The
node has its verifier worker dry-run the task and check a gradient, and its aggregation worker
combine gradients into the next state. One gradient of one miner stands for all: each time it is
listed, it is read, checked and summed as another miner's would be.

    python -m bench.aggregation_memory
    python -m bench.aggregation_memory --gradients 1 64
"""

import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trio

from bench.report import build_parser, silence_logs, write_report
from chain.crypto import content_id
from chain.json_types import Json, JsonObject
from chain.primitives import TaskId
from chain.training.architectures import MAX_PARAMETERS, Mlp, count_parameters
from chain.training.encoding import GradientHeader, encode_gradient
from chain.training.resources import MAX_MINERS
from chain.training.task_spec import FeatureType, Shard, TaskSpec
from chain.training.task_spec_codec import encode_task_spec
from node.client.task_file import encode_npz
from node.config import VerifierSection
from node.storage.blobs import BlobStore
from node.training.aggregation_worker import MEMORY_BYTES
from node.training.content import Content
from node.training.rows import TaskRows
from node.training.state_parts import StatePartStore
from node.training.states import TrainingStates
from node.training.turns import Turn
from node.training.work import ServedTask, TaskWork
from node.training.worker_pool import WorkerPool, WorkerSettings
from tests.worlds.training import HEADER, SPEC, history_after

LARGEST = Mlp(inputs=8_189, hidden=(8_191,), classes=2)
TINY = Mlp(inputs=64, hidden=(32,), classes=2)
GRADIENTS = (1, 8, 32)
ROWS = 48
NODE_GROWTH_LIMIT = 64 * 2**20
"""The node process may take this much more memory for a round than before it."""

MIB = 2**20


@dataclass(frozen=True)
class Row:
    """The peak of one process during one kind of work."""

    process: str
    work: str
    seconds: float
    peak_bytes: int
    limit_bytes: int


def main() -> int:
    parser = build_parser("aggregation_memory", __doc__)
    parser.add_argument(
        "--gradients", type=int, nargs="+", default=GRADIENTS, help="gradients in a round"
    )
    arguments = parser.parse_args()
    silence_logs()
    model = TINY if arguments.smoke else LARGEST
    assert arguments.smoke or MAX_PARAMETERS - count_parameters(model) < 2**14
    with tempfile.TemporaryDirectory(dir=arguments.json.parent.parent) as directory:
        rows = trio.run(measure, Path(directory), model, arguments.gradients)
    print(f"{count_parameters(model)} parameters, at most {MAX_MINERS} gradients in a round\n")
    print(
        f"{'process':20} {'work':32} {'seconds':>8} {'peak MiB':>9} {'limit MiB':>10} {'ratio':>6}"
    )
    for row in rows:
        ratio = row.peak_bytes / row.limit_bytes
        print(
            f"{row.process:20} {row.work:32} {row.seconds:8.1f} {row.peak_bytes / MIB:9.0f} "
            f"{row.limit_bytes / MIB:10.0f} {ratio:6.2f}"
        )
    write_report(arguments, {"rows": [vars(row) for row in rows]})
    return 0 if arguments.smoke or all(row.peak_bytes <= row.limit_bytes for row in rows) else 1


async def measure(directory: Path, model: Mlp, counts: Sequence[int]) -> list[Row]:
    settings = VerifierSection()
    blobs = BlobStore(directory / "blobs", quota_bytes=2**34)
    spec, theta = build_task(model, blobs)
    (directory / "work").mkdir()
    content = Content(blobs, NoPeers(), directory / "work")
    history = replace(history_after(), spec=encode_task_spec(spec))
    task = ServedTask(history, spec, TaskWork())
    verifier = WorkerPool(
        WorkerSettings(
            ("miner.verify", "--memory-bytes", str(settings.memory_limit_bytes)),
            timeout_seconds=3_600,
        )
    )
    aggregator = WorkerPool(
        WorkerSettings(("node.training.aggregation_worker",), timeout_seconds=36_000)
    )
    states = TrainingStates(
        blobs, StatePartStore(directory / "parts"), content, NoPeers(), aggregator
    )
    rows = []

    async def ask(work: str, members: JsonObject) -> None:
        start = time.monotonic()
        await verifier.ask(work, members, Turn())
        rows.append(
            Row(
                "verifier worker",
                work,
                time.monotonic() - start,
                get_peak(verifier),
                settings.memory_limit_bytes,
            )
        )

    stored = TaskRows(blobs, content, directory / "work", verifier)
    async with stored.open(task) as file:
        await ask("dry_run", {**content.get_inputs(task, spec.initial_weights), **file.members})
        await stored.keep(task, file)
    header, payload = build_gradient(spec, theta)
    root = blobs.put(payload)
    place: JsonObject = {
        "round": header.attempt_id.round_number,
        "chain_id": header.chain_id,
        "seed": header.seed.hex(),
        "theta_root": header.theta_root.hex(),
        "task": header.attempt_id.task_id,
        "attempt": header.attempt_id.attempt_number,
    }
    await ask(
        "verify",
        {
            **stored.get_inputs(task, spec.initial_weights, await stored.ensure(task)),
            "payload": str(blobs.path(root)),
            "partial": str(blobs.path(root)) + ".partial",
            "done": 0,
            "first": 0,
            "count": spec.samples_per_unit,
            "header": {**place, "miner": header.miner.hex()},
        },
    )
    await verifier.aclose()
    del payload, theta
    forget_peak()
    before = read_peak("self")
    await states.restore(task)
    assert task.work.state is not None
    for count in counts:
        start = time.monotonic()
        gradient: JsonObject = {**content.get_file(root), "units": 1, "miner": header.miner.hex()}
        gradients: list[Json] = [gradient] * count
        state: list[Json] = [content.get_file(each) for each in task.work.state]
        members: JsonObject = {"state": state, "header": place, "gradients": gradients}
        await states.compute(task, 1, "advance", members, count, lambda: True)
        work = f"aggregate {count} gradients"
        seconds = time.monotonic() - start
        rows.append(Row("aggregation worker", work, seconds, get_peak(aggregator), MEMORY_BYTES))
        growth = read_peak("self") - before
        rows.append(Row("node (growth)", work, seconds, growth, NODE_GROWTH_LIMIT))
    await aggregator.aclose()
    return rows


class NoPeers:
    """Everything is held already."""


def build_task(model: Mlp, blobs: BlobStore) -> tuple[TaskSpec, bytes]:
    generator = np.random.Generator(np.random.PCG64(1))
    size = count_parameters(model)
    theta = (generator.integers(1, 2**20, size, np.int32).astype("<f4") / 2**26).tobytes()
    features = generator.integers(0, 256, (ROWS, model.inputs), np.uint8)
    shard = encode_npz({"x": features, "y": generator.integers(0, 2, ROWS).astype(np.uint8)})
    data = replace(
        SPEC.data,
        feature_type=FeatureType.UINT8,
        sample_shape=(model.inputs,),
        shards=(Shard(blobs.put(shard), len(shard), ROWS),),
    )
    spec = replace(
        SPEC,
        model=model,
        initial_weights=blobs.put(theta),
        data=data,
        held_out=replace(SPEC.held_out, first_row=ROWS - 16, row_count=16),
        samples_per_unit=4,
        reward=replace(SPEC.reward, max_units=8),
    )
    return spec, theta


def build_gradient(spec: TaskSpec, theta: bytes) -> tuple[GradientHeader, bytes]:
    """A gradient in the right form; its values do not matter for memory."""
    size = count_parameters(spec.model)
    header = replace(
        HEADER,
        attempt_id=replace(HEADER.attempt_id, task_id=TaskId(1), round_number=0),
        parameter_count=size,
        theta_root=content_id(theta),
    )
    values = np.full(size, 0.5 / size**0.5, np.float32)
    return header, encode_gradient(header, values)


def get_peak(pool: WorkerPool) -> int:
    """The peak of the pool's only worker."""
    ((process, _turn),) = pool._idle  # noqa: SLF001
    return read_peak(str(process.pid))


def forget_peak() -> None:
    """Have the peak of this process, which held a whole gradient, count from now on."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def read_peak(process: str) -> int:
    """The most memory that a process has had in use, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


if __name__ == "__main__":
    sys.exit(main())
