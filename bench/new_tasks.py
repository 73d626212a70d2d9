"""What new tasks and slow uploads cost those who make blocks (docs/spec/training.md, section 10).

    python -m bench.new_tasks [--json FILE] [--blocks N] [--base-port P] [--smoke]

Four validator processes on loopback as `pot devnet` starts them, always with transfers to take, so
that a block is due every 200 ms. First they do nothing else. Then accounts submit tasks whose dry
runs keep every background worker busy, and hundreds of clients upload content at a byte a second.
Limits: the median interval between blocks grows by a fifth at most, the 99th percentile doubles.
"""

import contextlib
import itertools
import socket
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.consensus_loopback import VALIDATORS, send_transfer, start_network, wait_until_ready
from bench.report import build_parser, write_report
from chain.contracts import faucet
from chain.contracts.addresses import TRAINING_TOKEN
from chain.crypto import content_id, get_address
from chain.hexadecimal import to_hex
from chain.primitives import PrivateKey
from chain.training.architectures import Mlp
from chain.training.resources import count_disk_bytes
from chain.training.task_spec import FeatureType, Reward, Shard
from node.client.rpc_client import RpcClient
from node.client.task_bundle import TaskBundle, Wishes
from node.client.task_file import build_initial_weights, encode_npz
from node.client.task_submission import compute_round_budget, make_offer, submit_task
from node.devnet.processes import ProcessGroup
from pot_common.errors import OperatorError
from pot_common.keystore import create_private_key
from tests.worlds.training import SPEC

INTERVAL_MS = 200
TASKS = 12
SLOW_UPLOADS = 100
"""For each node; they come from as many addresses."""
ROWS = 2_048
UNIT_SAMPLES = 1_024
MODEL = Mlp(inputs=512, hidden=(1_024, 1_024), classes=10)
"""A million and a half parameters: a dry run takes some seconds."""
LARGEST_P50, LARGEST_P99 = 1.2, 2.0


def keep_busy(client: RpcClient, rich: PrivateKey) -> None:
    """Send transfers until the node stops."""
    chain_id = client.quantity("eth_chainId")
    nonce = 0
    while client.is_ready():
        with contextlib.suppress(OperatorError):
            send_transfer(client, chain_id, rich, nonce)
            nonce += 1
        time.sleep(INTERVAL_MS / 4_000)


def build_bundle(number: int) -> TaskBundle:
    """A task with content of its own."""
    weights = build_initial_weights(MODEL, f"task {number}")
    generator = np.random.Generator(np.random.PCG64(number))
    shard = encode_npz(
        {
            "x": generator.integers(0, 256, (ROWS, MODEL.inputs), np.uint8),
            "y": generator.integers(0, 10, ROWS).astype(np.uint8),
        }
    )
    data = replace(
        SPEC.data,
        feature_type=FeatureType.UINT8,
        sample_shape=(MODEL.inputs,),
        shards=(Shard(content_id(shard), len(shard), ROWS),),
    )
    spec = replace(
        SPEC,
        name=f"task {number}",
        model=MODEL,
        initial_weights=content_id(weights),
        data=data,
        held_out=replace(SPEC.held_out, first_row=ROWS - 256, row_count=256),
        samples_per_unit=UNIT_SAMPLES,
        phases=replace(SPEC.phases, verdict_seconds=600, result_seconds=600),
        reward=Reward(
            token=TRAINING_TOKEN, unit_price=1, validator_fee=1, max_units=1, min_miners=1
        ),
    )
    blobs = {content_id(blob): blob for blob in (weights, shard)}
    resources = replace(SPEC.resources, unit_milliseconds=20_000, evaluation_milliseconds=20_000)
    resources = replace(resources, disk_bytes=count_disk_bytes(spec))
    return TaskBundle(replace(spec, resources=resources), blobs)


def submit(client: RpcClient, bundle: TaskBundle) -> None:
    """Submit a task from a new account, without its content."""
    key = create_private_key()
    client.transact(key, faucet.drip(get_address(key)))
    offer = make_offer(client, bundle, Wishes())
    submit_task(client, key, bundle, offer, compute_round_budget(bundle.spec))


def upload(client: RpcClient, bundle: TaskBundle) -> None:
    for blob_id, blob in bundle.blobs.items():
        client.put_blob(blob_id, blob, lambda _size: None)


def upload_slowly(port: int, number: int, path: str, size: int, stop: threading.Event) -> None:
    """Send a body a byte a second, again and again, from a loopback address of its own."""
    source = (f"127.0.{1 + number // 250}.{1 + number % 250}", 0)
    head = f"PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
    while not stop.is_set():
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 5, source) as connection,
        ):
            connection.sendall(head.encode())
            for _ in range(30):
                connection.sendall(b"\0")
                if stop.wait(1):
                    return
        stop.wait(1)


def measure_intervals(client: RpcClient, blocks: int) -> list[float]:
    """The seconds between the times at which a node has each of the next blocks."""
    number = client.quantity("eth_blockNumber")
    times: list[float] = []
    while len(times) <= blocks:
        now = client.quantity("eth_blockNumber")
        if now > number:
            times += [time.monotonic()] * (now - number)
            number = now
        time.sleep(0.005)
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def main() -> int:
    """Measure, print, and write JSON."""
    parser = build_parser("new_tasks", __doc__)
    parser.add_argument("--blocks", type=int, default=300)
    parser.add_argument("--base-port", type=int, default=28_700)
    arguments = parser.parse_args()
    blocks = 5 if arguments.smoke else arguments.blocks
    task_count = 1 if arguments.smoke else TASKS
    rich = create_private_key()
    stop = threading.Event()
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessGroup(Path(name) / "logs") as processes,
    ):
        children = start_network(
            Path(name), arguments.base_port, rich, processes, min_block_interval_ms=INTERVAL_MS
        )
        ports = [arguments.base_port + index for index in range(VALIDATORS)]
        clients = [RpcClient(f"http://127.0.0.1:{port}") for port in ports]
        wait_until_ready(clients, children)
        threading.Thread(target=keep_busy, args=(clients[0], rich), daemon=True).start()
        time.sleep(5)  # for the background work of a start to end
        results = {"idle": measure_intervals(clients[1], blocks)}

        bundles = [build_bundle(number) for number in range(task_count)]
        for bundle in bundles:
            submit(clients[0], bundle)
        wanted = build_bundle(task_count)
        submit(clients[0], wanted)
        blob_id, blob = next(iter(wanted.blobs.items()))
        path = f"/v1/blobs/{to_hex(blob_id)}"
        for port in ports:
            for number in range(1 if arguments.smoke else SLOW_UPLOADS):
                threading.Thread(
                    target=upload_slowly, args=(port, number, path, len(blob), stop), daemon=True
                ).start()
        for bundle in bundles:
            for client in clients:
                upload(client, bundle)
        results["new tasks"] = measure_intervals(clients[1], blocks)
        stop.set()
        done = sum(
            log.read_text().count("task accepted") for log in (Path(name) / "logs").iterdir()
        )
    print(f"{done} of {VALIDATORS * task_count} dry runs were done at the end")
    print(f"{'load':10} {'p50 ms':>8} {'p99 ms':>8} {'worst ms':>9}")
    rows = {}
    for load, intervals in results.items():
        p50, p99 = statistics.median(intervals), statistics.quantiles(intervals, n=100)[98]
        rows[load] = {"p50": p50, "p99": p99, "max": max(intervals)}
        print(f"{load:10} {1000 * p50:8.0f} {1000 * p99:8.0f} {1000 * max(intervals):9.0f}")
    ratios = [rows["new tasks"][each] / rows["idle"][each] for each in ("p50", "p99")]
    print(f"{'ratio':10} {ratios[0]:8.2f} {ratios[1]:8.2f}   of {LARGEST_P50} and {LARGEST_P99}")
    write_report(arguments, {"blocks": blocks, "loads": rows})
    is_good = ratios[0] <= LARGEST_P50 and ratios[1] <= LARGEST_P99
    return 0 if arguments.smoke or is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
