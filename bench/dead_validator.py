"""What one dead validator of five costs, and when it proposes again (consensus.md, 3 and 11).

    python -m bench.dead_validator [--json FILE] [--base-port P] [--smoke]

Five validator processes on loopback as `pot devnet` starts them, fsync on, always with transfers to
take, so that a block is due every 200 ms. A dead validator is asked again once in 32 n blocks, so
every part is 32 n blocks long: all healthy; one killed, from the moment of the kill, when it loses
its turns until it has left the window; the same one still dead; and that one started again. One run
measures all. The limits: 90 % of the healthy rate with one dead, both parts together, and 32 n
blocks until it has proposed again.
"""

import contextlib
import os
import signal
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.consensus_loopback import send_transfer, start_network, start_validator, wait_until_ready
from bench.report import build_parser, write_report
from chain.primitives import PrivateKey
from chain.types.validator_set import compute_max_faulty
from node.client.rpc_client import RpcClient
from node.devnet.processes import ProcessGroup
from pot_common.errors import OperatorError
from pot_common.keystore import create_private_key

VALIDATORS = 5
INTERVAL_MS = 200
TIMEOUT_MS = 1_000
"""Many times a hop on a LAN; tests/simulation/test_laws.py takes the same."""
PROBE_BLOCKS = 32 * VALIDATORS
"""Within so many blocks every validator has its turn, dead or not."""
LEAST_RATIO = 0.9


def keep_busy(client: RpcClient, rich: PrivateKey) -> None:
    """Send transfers until the node stops, and wait while its pool is full."""
    chain_id = client.quantity("eth_chainId")
    nonce = 0
    while client.is_ready():
        with contextlib.suppress(OperatorError):
            send_transfer(client, chain_id, rich, nonce)
            nonce += 1
        time.sleep(INTERVAL_MS / 4000)


def count_failed_views(port: int) -> int:
    """The views without a block so far, of finalized numbers, from a node's metrics."""
    for family in text_string_to_metric_families(
        httpx.get(f"http://127.0.0.1:{port}/metrics").text
    ):
        if family.name == "pot_pbft_failed_views":
            return int(family.samples[0].value)
    raise AssertionError("no such metric")


def wait_for_block(client: RpcClient, number: int) -> str:
    """Wait for a block; return its proposer."""
    while client.quantity("eth_blockNumber") < number:
        time.sleep(0.05)
    block = client.call("eth_getBlockByNumber", hex(number), False)
    assert isinstance(block, dict)
    return str(block["miner"]).lower()


@dataclass(frozen=True, slots=True)
class Part:
    """The time that one part of the run took."""

    name: str
    seconds: float
    failed_views: int
    """Views that ended without a block."""


def measure(name: str, client: RpcClient, metrics_port: int, blocks: int) -> Part:
    """Wait for the next blocks."""
    failed = count_failed_views(metrics_port)
    first, started = client.quantity("eth_blockNumber"), time.monotonic()
    wait_for_block(client, first + blocks)
    return Part(
        name=name,
        seconds=time.monotonic() - started,
        failed_views=count_failed_views(metrics_port) - failed,
    )


def main() -> None:
    """Measure, print, and write JSON; fails if a limit is missed."""
    parser = build_parser("dead_validator", __doc__)
    parser.add_argument("--base-port", type=int, default=28_600)
    arguments = parser.parse_args()
    blocks = VALIDATORS if arguments.smoke else PROBE_BLOCKS
    assert compute_max_faulty(VALIDATORS) == 1
    rich = create_private_key()
    with tempfile.TemporaryDirectory() as name, ProcessGroup(Path(name) / "logs") as processes:
        directory = Path(name)
        children = start_network(
            directory,
            arguments.base_port,
            rich,
            processes,
            count=VALIDATORS,
            min_block_interval_ms=INTERVAL_MS,
            view_timeout_base_ms=TIMEOUT_MS,
        )
        clients = [
            RpcClient(f"http://127.0.0.1:{arguments.base_port + i}") for i in range(VALIDATORS)
        ]
        wait_until_ready(clients, children)
        client, metrics_port = clients[0], arguments.base_port + 20
        load = threading.Thread(target=keep_busy, args=(client, rich), daemon=True)
        load.start()
        wait_for_block(client, 4 * VALIDATORS)  # from then on the window is full
        healthy = measure("all healthy", client, metrics_port, blocks)

        victim = VALIDATORS - 1
        dead = client_address(clients[victim])
        os.killpg(children[victim].process.pid, signal.SIGKILL)
        killed, ailing = (
            measure(each, client, metrics_port, blocks) for each in ("one killed", "one dead")
        )

        revived = start_validator(directory / f"validator-{victim}", processes)
        wait_until_ready([clients[victim]], [revived])
        back = client.quantity("eth_blockNumber")
        again = back + 1
        while wait_for_block(client, again) != dead:
            again += 1
    print(
        f"n = {VALIDATORS}, min_block_interval {INTERVAL_MS} ms, view_timeout_base {TIMEOUT_MS} ms,"
        f" {blocks} blocks each"
    )
    print(f"{'':14} {'blocks/s':>9} {'failed views':>13} {'ratio':>6}")
    ratio = 2 * healthy.seconds / (killed.seconds + ailing.seconds)
    for part in (healthy, killed, ailing):
        print(
            f"{part.name:14} {blocks / part.seconds:9.2f} {part.failed_views:13d}"
            f" {healthy.seconds / part.seconds:6.2f}"
        )
    print(f"{'both':38} {ratio:6.2f}, of at least {LEAST_RATIO}")
    print(f"proposes again after {again - back} blocks, of at most {PROBE_BLOCKS}")
    report = {
        "blocks_a_part": blocks,
        "parts": [asdict(part) for part in (healthy, killed, ailing)],
        "ratio": ratio,
        "blocks_until_it_proposed": again - back,
    }
    write_report(arguments, report)
    if arguments.smoke:
        return
    assert ratio >= LEAST_RATIO, "slower than the limit"
    assert again - back <= PROBE_BLOCKS, "later than the limit"


def client_address(client: RpcClient) -> str:
    """The address of a node's validator."""
    info = client.call("pot_nodeInfo")
    assert isinstance(info, dict)
    return str(info["validator"]).lower()


if __name__ == "__main__":
    main()
