"""Blocks a second and the time from proposal to commit, real nodes on loopback (consensus.md, 5).

    python -m bench.consensus_loopback [--json FILE] [--seconds N] [--base-port P] [--smoke]

Four validator processes as `pot devnet` starts them, fsync on. First without transactions, then
with one transfer after the other, both with `min_block_interval_ms` 100. The limit that the same
run measures is the disk: a block waits for three records (PRE-PREPARE and PREPARE are one, COMMIT,
and the block itself), the first two with the guard's file.
"""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.report import build_parser, write_report
from chain.crypto import get_address
from chain.hexadecimal import to_hex
from chain.primitives import TOKEN_UNIT, PrivateKey
from chain.types.transaction import sign_transaction
from node.client.rpc_client import RpcClient
from node.devnet.processes import Child, ProcessGroup
from node.network.host import compute_peer_id, load_or_create_host_key
from node.setup.directory import create_database, create_node_directory
from node.setup.network_genesis import Seat, build_network, encode_genesis, plan_development_network
from pot_common.keystore import create_private_key

VALIDATORS = 4
INTERVAL_MS = 100
SYNCS_A_BLOCK = 5
"""Two WAL records, two guard files, one database commit, one after the other."""
READY_SECONDS = 90.0


def start_network(
    directory: Path,
    base_port: int,
    rich: PrivateKey,
    processes: ProcessGroup,
    *,
    count: int = VALIDATORS,
    min_block_interval_ms: int,
    view_timeout_base_ms: int = 2_000,
    gas_price_wei: int = 0,
) -> list[Child]:
    """Start the validators on a genesis of their own; at a gas price of 0, gas has no ration."""
    password_file = directory / "password"
    password_file.write_text("bench\n")
    paths = [directory / f"validator-{index}" for index in range(count)]
    addresses = []
    for index, path in enumerate(paths):
        path.mkdir(mode=0o700)
        peer_id = compute_peer_id(load_or_create_host_key(path / "host.key"))
        addresses.append(f"/ip4/127.0.0.1/tcp/{base_port + 10 + index}/p2p/{peer_id}")
    nodes = [
        create_node_directory(
            path,
            "bench",
            password_file=password_file,
            light=True,
            settings={
                "network.listen": (f"/ip4/127.0.0.1/tcp/{base_port + 10 + index}",),
                "network.bootstrap": tuple(a for a in addresses if a != addresses[index]),
                "network.accept_private_addresses": True,
                "mempool.gas_price_wei": gas_price_wei,
                "rpc.port": base_port + index,
                "metrics.port": base_port + 20 + index,
            },
        )
        for index, path in enumerate(paths)
    ]
    plan = plan_development_network(tuple(Seat(each.consensus, each.operator) for each in nodes))
    plan = replace(
        plan,
        parameters=replace(
            plan.parameters,
            min_block_interval_ms=min_block_interval_ms,
            view_timeout_base_ms=view_timeout_base_ms,
        ),
        coins={get_address(rich): 1_000 * TOKEN_UNIT},
    )
    genesis_file = directory / "genesis.json"
    genesis_file.write_bytes(encode_genesis(build_network(plan)))
    for each in nodes:
        create_database(each.path, genesis_file)
    return [start_validator(path, processes) for path in paths]


def start_validator(path: Path, processes: ProcessGroup) -> Child:
    """Start, or start again, the node of that directory."""
    config = str(path / "config.toml")
    return processes.start(path.name, ("node.cli", "node", "run", "--config", config))


def wait_until_ready(clients: list[RpcClient], children: list[Child]) -> None:
    """Return when all answer."""
    deadline = time.monotonic() + READY_SECONDS
    for client, child in zip(clients, children, strict=True):
        while not client.is_ready():
            assert child.is_running, child.describe_end()
            assert time.monotonic() < deadline, f"{child.name} does not answer"
            time.sleep(0.2)


class Steps:
    """The histogram of one step of consensus, summed over the metrics of all validators."""

    def __init__(self, ports: list[int], step: str) -> None:
        self.buckets: dict[float, float] = {}
        self.total = self.count = 0.0
        for port in ports:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            for family in text_string_to_metric_families(text):
                if family.name != "pot_pbft_step_seconds":
                    continue
                for sample in family.samples:
                    if sample.labels.get("step") != step:
                        continue
                    if sample.name.endswith("_bucket"):
                        bound = float(sample.labels["le"])
                        self.buckets[bound] = self.buckets.get(bound, 0.0) + sample.value
                    elif sample.name.endswith("_sum"):
                        self.total += sample.value
                    elif sample.name.endswith("_count"):
                        self.count += sample.value

    def mean_ms(self, before: "Steps") -> float:
        """The mean since `before`, in milliseconds."""
        return 1000 * (self.total - before.total) / max(1.0, self.count - before.count)

    def quantile_ms(self, before: "Steps", share: float) -> float:
        """A quantile since `before`, linear within its bucket, in milliseconds."""
        wanted = share * (self.count - before.count)
        low, below = 0.0, 0.0
        for bound in sorted(self.buckets):
            upto = self.buckets[bound] - before.buckets.get(bound, 0.0)
            if upto >= wanted and upto > below:
                return 1000 * (low + (bound - low) * (wanted - below) / (upto - below))
            low, below = bound, upto
        return float("inf")


def send_transfer(
    client: RpcClient, chain_id: int, rich: PrivateKey, nonce: int, gas_price_wei: int = 0
) -> None:
    """Send one transfer to a fresh address, and do not wait for it."""
    transaction = sign_transaction(
        rich,
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=gas_price_wei,
        max_fee_per_gas=gas_price_wei,
        gas_limit=21_000,
        to=get_address(create_private_key()),
        value=1,
        data=b"",
    )
    client.call("eth_sendRawTransaction", to_hex(transaction.raw))


def send_transfers(client: RpcClient, rich: PrivateKey, seconds: float) -> int:
    """One transfer after the other, none waited for; how many were sent."""
    chain_id = client.quantity("eth_chainId")
    deadline = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < deadline:
        send_transfer(client, chain_id, rich, sent)
        sent += 1
        time.sleep(0.02)
    return sent


def measure_fsync(directory: Path) -> float:
    """Milliseconds of an append of 200 bytes with fsync, the mean of 50."""
    with (directory / "fsync").open("ab", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(50):
            file.write(bytes(200))
            os.fsync(file.fileno())
    return 1000 * (time.perf_counter() - started) / 50


def measure(name: str, client: RpcClient, ports: list[int], load: float, rich: PrivateKey,
            fsync_ms: float) -> dict[str, object]:  # fmt: skip
    """Measure for `load` seconds; `rich` sends transfers if the name says so."""
    before = Steps(ports, "decide")
    first, started = client.quantity("eth_blockNumber"), time.monotonic()
    sent = send_transfers(client, rich, load) if name == "transfers" else 0
    time.sleep(max(0.0, started + load - time.monotonic()))
    blocks = client.quantity("eth_blockNumber") - first
    seconds = time.monotonic() - started
    after = Steps(ports, "decide")
    row: dict[str, object] = {
        "load": name,
        "blocks_per_second": blocks / seconds,
        "transactions_per_second": sent / seconds,
        "decide_mean_ms": after.mean_ms(before),
        "decide_p50_ms": after.quantile_ms(before, 0.5),
        "decide_p99_ms": after.quantile_ms(before, 0.99),
        "disk_ms": SYNCS_A_BLOCK * fsync_ms,
        "ratio_to_disk": after.mean_ms(before) / (SYNCS_A_BLOCK * fsync_ms),
    }
    print(f"{name:10} {row['blocks_per_second']:9.2f} {row['transactions_per_second']:8.1f}"
          f" {row['decide_mean_ms']:9.1f} {row['decide_p50_ms']:8.1f} {row['decide_p99_ms']:8.1f}"
          f" {row['disk_ms']:8.1f} {row['ratio_to_disk']:6.2f}")  # fmt: skip
    return row


def main() -> None:
    """Measure, print, and write JSON."""
    parser = build_parser("consensus_loopback", __doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--base-port", type=int, default=28_500)
    arguments = parser.parse_args()
    seconds = 2.0 if arguments.smoke else arguments.seconds
    rich = create_private_key()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        fsync_ms = measure_fsync(directory)
        with ProcessGroup(directory / "logs") as processes:
            children = start_network(
                directory,
                arguments.base_port,
                rich,
                processes,
                min_block_interval_ms=INTERVAL_MS,
            )
            urls = [f"http://127.0.0.1:{arguments.base_port + i}" for i in range(VALIDATORS)]
            clients = [RpcClient(url) for url in urls]
            wait_until_ready(clients, children)
            time.sleep(5)  # for the background work of a start to end
            ports = [arguments.base_port + 20 + index for index in range(VALIDATORS)]
            print(f"n = {VALIDATORS}, fsync {fsync_ms:.2f} ms, min_block_interval {INTERVAL_MS} ms")
            print(f"{'load':10} {'blocks/s':>9} {'tx/s':>8} {'decide ms':>9} {'p50':>8} {'p99':>8}"
                  f" {'disk ms':>8} {'ratio':>6}")  # fmt: skip
            rows = [
                measure(load, clients[0], ports, seconds, rich, fsync_ms)
                for load in ("none", "transfers")
            ]
    write_report(arguments, {"fsync_ms": fsync_ms, "loads": rows})


if __name__ == "__main__":
    main()
