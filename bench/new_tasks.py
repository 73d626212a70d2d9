"""What strangers cost the makers of blocks and checks (docs/spec/training.md, section 10).

    python -m bench.new_tasks [--json FILE] [--blocks N] [--base-port P] [--smoke]

Four validator processes on loopback as `pot devnet` starts them, always with transfers to take, so
that a block is due every 200 ms. Four phases: nothing else; two miners that train a task; the same
while strangers do what they can; the strangers alone. The strangers submit tasks whose dry runs
keep every background worker busy, upload content at a byte a second from hundreds of addresses, and
register for a task of their own. Their process has the lowest priority: it would be elsewhere.
Limits, strangers over none: the median interval between blocks 1.2, its 99th percentile 2 and
below a second; the median time from a round's last commitment to the verdicts of a quorum 1.5.
"""

import contextlib
import itertools
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.consensus_loopback import VALIDATORS, send_transfer, start_network, wait_until_ready
from bench.report import build_parser, write_report
from chain.contracts import faucet, miner_seats, training_token
from chain.contracts.addresses import MINER_SEATS, TRAINING_TOKEN
from chain.crypto import content_id, get_address
from chain.hexadecimal import to_hex
from chain.primitives import TOKEN_UNIT, PrivateKey, TaskId
from chain.training.architectures import Mlp
from chain.training.resources import count_disk_bytes
from chain.training.task_spec import FeatureType, Reward, Shard
from chain.types.validator_set import compute_quorum
from node.client.rpc_client import RpcClient, get_integer, get_objects
from node.client.task_bundle import TaskBundle, Wishes
from node.client.task_file import build_initial_weights, encode_npz
from node.client.task_submission import compute_round_budget, make_offer, submit_task, wait_for_task
from node.devnet.processes import ProcessGroup
from node.rpc.content_uploads import count_body_bytes
from pot_common.errors import OperatorError
from pot_common.keystore import create_private_key, save_key
from pot_common.lowest_priority import set_lowest_priority
from pot_common.rpc_replies import ClientError
from tests.worlds.training import SPEC

INTERVAL_MS = 200
GAS_PRICE_WEI = 10**9
"""The default of a validator. The transfers pay it; what strangers and miners send is free."""
TASKS = 12
SLOW_UPLOADS = 100
"""For each node; they come from as many addresses."""
REGISTERING = 16
"""Strangers that register, each with a new account as soon as the last one has its seat."""
MINERS = 2
ROWS = 2_560
HELD_OUT = 256
UNIT_SAMPLES = 1_024
MODEL = Mlp(inputs=512, hidden=(1_024, 1_024), classes=10)
"""A million and a half parameters: a dry run takes some seconds."""
SEATED_MODEL = Mlp(inputs=512, hidden=(8,), classes=10)
"""The model of the task for which strangers register; it is small, so that its dry run is short."""
SEATS = 250
LARGEST_P50, LARGEST_P99, LARGEST_P99_SECONDS = 1.2, 2.0, 1.0
LARGEST_LATENCY = 1.5
STALL_SECONDS = 240.0


class BlockClock(threading.Thread):
    """Notes when a node has each block, by the monotonic clock."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._client = RpcClient(url)
        self.times: dict[int, float] = {}

    def run(self) -> None:
        """Ask for the head until the node stops."""
        number = self._client.quantity("eth_blockNumber")
        with contextlib.suppress(ClientError, OperatorError):
            while True:
                now = self._client.quantity("eth_blockNumber")
                for passed in range(number + 1, now + 1):
                    self.times[passed] = time.monotonic()
                number = max(number, now)
                time.sleep(0.005)

    def measure_intervals(self, start: float) -> list[float]:
        """The seconds between the blocks since a time."""
        times = sorted(each for each in list(self.times.values()) if each >= start)
        return [later - earlier for earlier, later in itertools.pairwise(times)]


def keep_busy(url: str, rich: PrivateKey) -> None:
    """Send transfers until the node stops."""
    client = RpcClient(url)
    chain_id = client.quantity("eth_chainId")
    nonce = 0
    while client.is_ready():
        with contextlib.suppress(ClientError, OperatorError):
            send_transfer(client, chain_id, rich, nonce, GAS_PRICE_WEI)
            nonce += 1
        time.sleep(INTERVAL_MS / 4_000)


def build_bundle(name: str, number: int, model: Mlp, rounds: int, reward: Reward) -> TaskBundle:
    """A task with content of its own."""
    weights = build_initial_weights(model, name)
    generator = np.random.Generator(np.random.PCG64(number))
    shard = encode_npz(
        {
            "x": generator.integers(0, 256, (ROWS, model.inputs), np.uint8),
            "y": generator.integers(0, 10, ROWS).astype(np.uint8),
        }
    )
    data = replace(
        SPEC.data,
        feature_type=FeatureType.UINT8,
        sample_shape=(model.inputs,),
        shards=(Shard(content_id(shard), len(shard), ROWS),),
    )
    spec = replace(
        SPEC,
        name=name,
        model=model,
        initial_weights=content_id(weights),
        data=data,
        held_out=replace(SPEC.held_out, first_row=ROWS - HELD_OUT, row_count=HELD_OUT),
        samples_per_unit=min(UNIT_SAMPLES, (ROWS - HELD_OUT) // reward.max_units),
        round_count=rounds,
        schedule=SPEC.schedule[:1],
        evaluate_every=100,
        phases=replace(SPEC.phases, commit_seconds=60, verdict_seconds=600, result_seconds=600),
        reward=reward,
    )
    blobs = {content_id(blob): blob for blob in (weights, shard)}
    resources = replace(
        SPEC.resources, unit_milliseconds=20_000 // reward.max_units, evaluation_milliseconds=20_000
    )
    resources = replace(resources, disk_bytes=count_disk_bytes(spec))
    return TaskBundle(replace(spec, resources=resources), blobs)


def build_reward(units: int, miners: int) -> Reward:
    """The least that a task may pay."""
    return Reward(
        token=TRAINING_TOKEN,
        unit_price=1,
        validator_fee=1,
        max_units=units,
        min_miners=miners,
        min_units=miners,
    )


def submit(client: RpcClient, bundle: TaskBundle) -> TaskId:
    """Submit a task from a new account, without its content."""
    key = create_private_key()
    client.transact(key, faucet.drip(get_address(key)))
    offer = make_offer(client, bundle, Wishes())
    rounds = compute_round_budget(bundle.spec) * bundle.spec.round_count
    return TaskId(submit_task(client, key, bundle, offer, rounds).task_id)


def upload(client: RpcClient, bundle: TaskBundle) -> None:
    for blob_id, blob in bundle.blobs.items():
        client.put_blob(blob_id, blob, lambda _size: None)


def submit_and_wait(clients: list[RpcClient], bundle: TaskBundle) -> TaskId:
    """Submit a task with its content, and wait until it is active."""
    task = submit(clients[0], bundle)
    for client in clients:
        wait_for_task(client, task)
        upload(client, bundle)
    deadline = time.monotonic() + STALL_SECONDS
    while (clients[0].call_object("pot_getTask", task) or {}).get("status") != "active":
        assert time.monotonic() < deadline, f"task {task} is not active"
        time.sleep(0.2)
    return task


@dataclass(frozen=True, slots=True)
class Strangers:
    """All that strangers do, in a process of its own.

    In one process with the clock and the sender of transfers, the threads of strangers would hold
    the interpreter's lock, at their low priority, while those two wait for it.
    """

    urls: tuple[str, ...]
    ports: tuple[int, ...]
    seated_task: TaskId
    wanted: TaskBundle
    """The task whose content they upload so slowly that no upload ends."""
    uploads: int
    """Slow uploads for each node."""

    @contextlib.contextmanager
    def start(self) -> Iterator[None]:
        """Run the process during the `with` block."""
        process = multiprocessing.get_context("spawn").Process(target=self.run, daemon=True)
        process.start()
        try:
            yield
            assert process.is_alive(), "the process of the strangers has ended"
        finally:
            process.kill()
            process.join()

    def run(self) -> None:
        """Go on until killed."""
        set_lowest_priority()
        blob_id, blob = next(iter(self.wanted.blobs.items()))
        path, size = f"/v1/blobs/{to_hex(blob_id)}", count_body_bytes(len(blob))
        for port in self.ports:
            for number in range(self.uploads):
                arguments = (port, number, path, size)
                threading.Thread(target=self._upload_slowly, args=arguments, daemon=True).start()
        for number in range(REGISTERING):
            url = self.urls[number % len(self.urls)]
            threading.Thread(target=self._register, args=(url,), daemon=True).start()
        while True:
            time.sleep(60)

    def _upload_slowly(self, port: int, number: int, path: str, size: int) -> None:
        """Send a body a byte a second, again and again, from a loopback address of its own."""
        source = (f"127.0.{1 + number // 250}.{1 + number % 250}", 0)
        head = f"PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
        while True:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), 5, source) as connection,
            ):
                connection.sendall(head.encode())
                for _ in range(30):
                    connection.sendall(b"\0")
                    time.sleep(1)
            time.sleep(1)

    def _register(self, url: str) -> None:
        """Register one new account after the other."""
        client = RpcClient(url)
        while True:
            key = create_private_key()
            try:
                client.transact(key, faucet.drip(get_address(key)))
                call = training_token.approve(TRAINING_TOKEN, MINER_SEATS, 5 * TOKEN_UNIT)
                client.transact(key, call)
                client.transact(key, miner_seats.register(self.seated_task, 1))
            except (ClientError, OperatorError):
                time.sleep(0.2)


def measure_verdicts(
    client: RpcClient, task: TaskId, clock: BlockClock, rounds: int
) -> list[float]:
    """Of each of the next rounds, the seconds from its last commitment to a quorum's verdicts."""
    first = get_integer(client.call_object("pot_getTask", task), "roundsSettled") + 1
    latencies = []
    for number in range(first, first + rounds):
        deadline = time.monotonic() + STALL_SECONDS
        while True:
            found = client.call_object("pot_getRound", task, number)
            if found is not None and found.get("blockNumber") is not None:
                break
            assert time.monotonic() < deadline, f"round {number} did not settle"
            time.sleep(0.05)
        committed = max(get_integer(e, "blockNumber") for e in get_objects(found, "commitments"))
        said = sorted(get_integer(each, "blockNumber") for each in get_objects(found, "verdicts"))
        decided = said[compute_quorum(VALIDATORS) - 1]
        latencies.append(clock.times[decided] - clock.times[committed])
    return latencies


@dataclass(frozen=True, slots=True)
class Phase:
    """What was measured under one load, in seconds."""

    intervals: list[float]
    latencies: list[float]

    @property
    def p50(self) -> float:
        """The median interval between blocks."""
        return statistics.median(self.intervals)

    @property
    def p99(self) -> float:
        """The 99th percentile of these intervals."""
        return statistics.quantiles(self.intervals, n=100)[98]

    @property
    def latency(self) -> float:
        """The median time to the verdicts; 0 if nothing was trained."""
        return statistics.median(self.latencies) if self.latencies else 0.0


def wait_for_blocks(clock: BlockClock, blocks: int) -> list[float]:
    """The intervals between so many blocks from now on."""
    start = time.monotonic()
    while len(intervals := clock.measure_intervals(start)) < blocks:
        time.sleep(0.1)
    return intervals


def main() -> int:
    """Measure, print, and write JSON; the status is 1 if a limit is missed."""
    parser = build_parser("new_tasks", __doc__)
    parser.add_argument("--blocks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--base-port", type=int, default=28_700)
    arguments = parser.parse_args()
    blocks = 5 if arguments.smoke else arguments.blocks
    rounds = 2 if arguments.smoke else arguments.rounds
    task_count = 1 if arguments.smoke else TASKS
    rich = create_private_key()
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessGroup(Path(name) / "logs") as processes,
    ):
        children = start_network(
            Path(name),
            arguments.base_port,
            rich,
            processes,
            min_block_interval_ms=INTERVAL_MS,
            gas_price_wei=GAS_PRICE_WEI,
        )
        ports = tuple(arguments.base_port + index for index in range(VALIDATORS))
        urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
        clients = [RpcClient(url) for url in urls]
        wait_until_ready(clients, children)
        seated = build_bundle("seats", 0, SEATED_MODEL, 1, build_reward(SEATS, SEATS))
        seated_task = submit_and_wait(clients, seated)
        trained = build_bundle("trained", 1, MODEL, 1_000, build_reward(MINERS, MINERS))
        trained_task = submit_and_wait(clients, trained)
        clock = BlockClock(urls[1])
        clock.start()
        threading.Thread(target=keep_busy, args=(urls[0], rich), daemon=True).start()
        time.sleep(5)  # for the background work of a start to end
        phases = {"nothing": Phase(wait_for_blocks(clock, blocks), [])}

        miners = []
        for index in range(MINERS):
            directory = Path(name) / f"miner-{index}"
            save_key(directory / "key.json", create_private_key(), "bench", light=True)
            command = (
                *("miner", "--key", str(directory / "key.json"), "--task", str(trained_task)),
                *("--password-file", str(Path(name) / "password"), "--device", "cpu"),
                *("--units", "1", "--data-dir", str(directory / "data")),
                *("--genesis", str(Path(name) / "genesis.json")),
                *(part for url in urls for part in ("--rpc", url)),
            )
            miners.append(processes.start(directory.name, command))

        def train() -> Phase:
            start = time.monotonic()
            latencies = measure_verdicts(clients[1], trained_task, clock, rounds)
            return Phase(clock.measure_intervals(start), latencies)

        measure_verdicts(clients[1], trained_task, clock, 1)
        phases["training"] = train()
        bundles = [
            build_bundle(f"task {number}", number, MODEL, 1, build_reward(1, 1))
            for number in range(2, task_count + 3)
        ]
        for bundle in bundles:
            newest = submit(clients[0], bundle)
        for client in clients:
            wait_for_task(client, newest)
            for bundle in bundles[:-1]:
                upload(client, bundle)
        uploads = 1 if arguments.smoke else SLOW_UPLOADS
        with Strangers(urls, ports, seated_task, bundles[-1], uploads).start():
            phases["training, strangers"] = train()
            for miner in miners:
                miner.process.kill()
            phases["strangers"] = Phase(wait_for_blocks(clock, blocks), [])
        logs = [log.read_text() for log in (Path(name) / "logs").glob("validator-*")]
        done = sum(log.count("task accepted") for log in logs) - 2 * VALIDATORS
        seats = clients[1].read(miner_seats.seat_count(seated_task))
    print(f"{done} of {VALIDATORS * task_count} dry runs were done at the end, {seats} seats taken")
    print(
        f"{'load':20} {'blocks':>6} {'p50 ms':>7} {'p99 ms':>7} {'worst ms':>8} {'verdicts ms':>11}"
    )
    for load, phase in phases.items():
        print(
            f"{load:20} {len(phase.intervals):6} {1000 * phase.p50:7.0f} {1000 * phase.p99:7.0f}"
            f" {1000 * max(phase.intervals):8.0f}"
            + (f" {1000 * phase.latency:11.0f}" if phase.latencies else "")
        )
    is_missed = False
    for load, peer in (("strangers", "nothing"), ("training, strangers", "training")):
        loaded, free = phases[load], phases[peer]
        p50, p99 = loaded.p50 / free.p50, loaded.p99 / free.p99
        is_missed = is_missed or p50 > LARGEST_P50 or p99 > LARGEST_P99
        is_missed = is_missed or loaded.p99 > LARGEST_P99_SECONDS
        print(f"ratio {load:20} {p50:7.2f} {p99:7.2f}   of {LARGEST_P50} and {LARGEST_P99}", end="")
        if loaded.latencies:
            ratio = loaded.latency / free.latency
            is_missed = is_missed or ratio > LARGEST_LATENCY
            print(f"; verdicts {ratio:.2f} of {LARGEST_LATENCY}", end="")
        print()
    if done >= VALIDATORS * task_count and not arguments.smoke:
        print("all dry runs ended before the measurement did: the last phases had less load")
        is_missed = True
    rows = {
        load: {"intervals": phase.intervals, "latencies": phase.latencies}
        for load, phase in phases.items()
    }
    write_report(arguments, {"dry_runs": done, "seats": seats, "loads": rows})
    return 1 if is_missed and not arguments.smoke else 0


if __name__ == "__main__":
    raise SystemExit(main())
