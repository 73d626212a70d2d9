"""Seconds until a fresh node is at the head of a long chain: by snapshot, beside by execution.

    python -m bench.sync [--json FILE] [--blocks N] [--base-port P] [--directory D] [--limit RATIO]
                         [--smoke]

The chain is built here with the real transition and real signatures: in every block a payment and
an ERC-20 transfer, both to accounts that are new. Two node processes serve it on loopback. A third,
fresh and with fsync on, joins once with `sync.mode = "full"` and once with "snapshot"; the clock
runs from the start of its process until its database has the head. The run fails if the snapshot
takes more than a tenth.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report import build_parser, write_report
from chain.builder import build_block
from chain.consensus.messages import MessageKind, SigningDomain, compute_signing_digest
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.set_reader import read_genesis_set
from chain.contracts.training_token import transfer
from chain.crypto import get_address, keccak256, sign
from chain.genesis import GenesisConfig, build_genesis
from chain.primitives import TOKEN_UNIT, Address, Hash32, PrivateKey, ValidatorIndex, View
from chain.state.walk import END, START, collect_chunk
from chain.types.certificate import CommitCertificate
from chain.types.transaction import Transaction, decode_transaction, sign_transaction
from node.devnet.processes import Child, ProcessGroup
from node.network.host import compute_peer_id, load_or_create_host_key
from node.network.wire import PROTOCOL_VERSION
from node.setup.network_genesis import Seat, build_network, encode_genesis, plan_development_network
from node.storage.block_store import BlockStore
from node.storage.database import open_database

VALIDATORS = sorted((PrivateKey(keccak256(b"v%d" % i)) for i in range(4)), key=get_address)
RICH = PrivateKey(keccak256(b"rich"))
SERVERS = 2
SMOKE_BLOCKS = 40
"""More than a fresh node in mode "snapshot" would rather execute."""
JOIN_LIMIT_SECONDS = 3_600.0


def build_genesis_file(block_count: int) -> tuple[GenesisConfig, bytes]:
    """A development network whose first block is as long ago as the chain takes."""
    seats = [Seat(get_address(k), get_address(PrivateKey(keccak256(k)))) for k in VALIDATORS]
    plan = plan_development_network(tuple(seats))
    fields = {name: getattr(plan, name) for name in plan.__slots__}
    fields["timestamp"] = int(time.time()) - block_count - 60
    fields["coins"] = {get_address(RICH): 10**9 * TOKEN_UNIT}
    fields["tokens"] = {get_address(RICH): 10**9 * TOKEN_UNIT}
    config = build_network(type(plan)(**fields))
    return config, encode_genesis(config)


def build_chain(directory: Path, config: GenesisConfig, file: bytes, block_count: int) -> None:
    """Finalize that many blocks into the database at `directory`."""
    database = open_database(directory)
    store = BlockStore(database)
    genesis = build_genesis(config)
    validator_set = read_genesis_set(config, genesis)
    store.initialize(genesis.header, genesis.delta, file, validator_set)
    domain = SigningDomain(config.chain_id, genesis.header.hash, PROTOCOL_VERSION)
    certificate = None
    for number in range(1, block_count + 1):
        parent = store.head()
        built = build_block(
            parent,
            build_transactions(config.chain_id, number),
            database,
            config,
            coinbase=get_address(VALIDATORS[number % 4]),
            timestamp=parent.timestamp + 1,
            parent_certificate=certificate,
        )
        assert not built.dropped
        assert all(receipt.status for receipt in built.result.receipts)
        digest = compute_signing_digest(
            domain, MessageKind.COMMIT, built.block.number, View(0), built.block.hash
        )
        entries = tuple((ValidatorIndex(i), sign(digest, VALIDATORS[i])) for i in range(3))
        certificate = CommitCertificate(View(0), entries)
        store.finalize(
            built.block,
            certificate,
            receipts=built.result.receipts,
            senders=built.result.senders,
            delta=built.result.delta,
        )
    database.close()


def build_transactions(chain_id: int, number: int) -> Sequence[Transaction]:
    """A payment and a token transfer, to two accounts of this block."""

    def build(nonce: int, to: Address, value: int, data: bytes) -> Transaction:
        signed = sign_transaction(
            RICH,
            chain_id=chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=0,
            max_fee_per_gas=0,
            gas_limit=100_000,
            to=to,
            value=value,
            data=data,
        )
        return decode_transaction(signed.raw)

    payee, holder = (Address(keccak256(b"%d of %d" % (i, number))[12:]) for i in range(2))
    return (
        build(2 * number - 2, payee, 10**15, b""),
        build(2 * number - 1, TRAINING_TOKEN, 0, transfer(TRAINING_TOKEN, holder, 10**15).data),
    )


def measure_state(directory: Path) -> tuple[Hash32, int, int]:
    """The head's hash, and the nodes of its state and their bytes."""
    database = open_database(directory, readonly=True)
    head = BlockStore(database).head()
    items = collect_chunk(database.get, head.state_root, START, END, 2**60)
    database.close()
    return head.hash, len(items), sum(map(len, items))


def write_config(directory: Path, genesis: bytes, port: int, mode: str, peers: list[str]) -> Path:
    """Make a node's directory; return its configuration file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "genesis.json").write_bytes(genesis)
    file = directory / "config.toml"
    file.write_text(
        f'data_dir = "{directory}"\n'
        f'[network]\nlisten = ["/ip4/127.0.0.1/tcp/{port}"]\nbootstrap = {json.dumps(peers)}\n'
        f"accept_private_addresses = true\n"
        f"[rpc]\nprocesses = 0\n[metrics]\nenabled = false\n"
        f'[sync]\nmode = "{mode}"\n[logs]\nformat = "json"\n'
    )
    return file


def start_node(processes: ProcessGroup, name: str, config: Path) -> Child:
    """`pot node run`."""
    return processes.start(name, ("node.cli", "node", "run", "--config", str(config)))


@dataclass(frozen=True)
class Joined:
    """What it took a node to come to the head."""

    seconds: float
    processor_seconds: float
    """Processor time of its process, which other programs on the machine do not change."""
    first_held: int


def join(processes: ProcessGroup, name: str, config: Path, goal: Hash32) -> Joined:
    """Start a fresh node, and wait until it has the block `goal`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    child = start_node(processes, name, config)
    path = config.parent / "database"
    while not (path / "data.mdb").exists():
        assert child.is_running, child.describe_end()
        time.sleep(0.05)
    time.sleep(0.5)  # the tables are made in its first transactions
    database = open_database(path, readonly=True)
    store = BlockStore(database)
    while store.number_of(goal) is None:
        assert child.is_running, child.describe_end()
        assert time.monotonic() - start < JOIN_LIMIT_SECONDS, "not joined"
        time.sleep(0.05)
    seconds = time.monotonic() - start
    assert store.head().hash == goal
    first_held = store.first_held()
    database.close()
    child.process.terminate()
    child.process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Joined(seconds, used, first_held)


def main() -> int:
    """Measure, print, and write JSON; 1 if the ratio is above the limit."""
    parser = build_parser("sync", __doc__)
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--base-port", type=int, default=34_000)
    parser.add_argument("--directory", type=Path, help="kept, and its chain used again")
    parser.add_argument("--limit", type=float, default=0.1, help="snapshot over execution")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.blocks = SMOKE_BLOCKS
    with tempfile.TemporaryDirectory() as temporary:
        report = run(arguments.directory or Path(temporary), arguments)
    write_report(arguments, report)
    return 1 if report["ratio"] > arguments.limit and not arguments.smoke else 0


def run(directory: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Build, serve, join twice; print the table."""
    servers = [directory / f"server-{index}" for index in range(SERVERS)]
    genesis_file = directory / "genesis.json"
    build_seconds = 0.0
    if not genesis_file.exists():
        start = time.monotonic()
        directory.mkdir(parents=True, exist_ok=True)
        config, genesis = build_genesis_file(arguments.blocks)
        build_chain(servers[0] / "database", config, genesis, arguments.blocks)
        for server in servers[1:]:
            shutil.copytree(servers[0] / "database", server / "database")
        genesis_file.write_bytes(genesis)
        build_seconds = time.monotonic() - start
    genesis = genesis_file.read_bytes()
    head, nodes, size_bytes = measure_state(servers[0] / "database")
    peers = [
        f"/ip4/127.0.0.1/tcp/{arguments.base_port + index}"
        f"/p2p/{compute_peer_id(load_or_create_host_key(server / 'host.key'))}"
        for index, server in enumerate(servers)
    ]
    joined: dict[str, Joined] = {}
    with ProcessGroup(directory / "logs") as processes:
        for index, server in enumerate(servers):
            config_file = write_config(server, genesis, arguments.base_port + index, "full", [])
            start_node(processes, server.name, config_file)
        for index, mode in enumerate(("full", "snapshot")):
            path = directory / f"joiner-{mode}-{os.getpid()}"
            port = arguments.base_port + SERVERS + index
            config_file = write_config(path, genesis, port, mode, peers)
            joined[mode] = join(processes, path.name, config_file, head)
            shutil.rmtree(path)
    full, snapshot = joined["full"], joined["snapshot"]
    print(f"{arguments.blocks} blocks, {2 * arguments.blocks} transactions", end=", ")
    print(f"state of {nodes} nodes, {size_bytes / 2**20:.1f} MiB; built in {build_seconds:.0f} s")
    print(f"{'joins by':<10}{'seconds':>9}{'ratio':>8}{'processor s':>13}{'ratio':>8}", end="")
    print(f"{'blocks/s':>10}{'first block held':>18}")
    for mode, each in joined.items():
        print(f"{mode:<10}{each.seconds:9.1f}{each.seconds / full.seconds:8.3f}", end="")
        print(f"{each.processor_seconds:13.1f}", end="")
        print(f"{each.processor_seconds / full.processor_seconds:8.3f}", end="")
        print(f"{arguments.blocks / each.seconds:10.0f}{each.first_held:18}")
    return {
        "blocks": arguments.blocks,
        "state_nodes": nodes,
        "state_bytes": size_bytes,
        "full_seconds": full.seconds,
        "full_processor_seconds": full.processor_seconds,
        "snapshot_seconds": snapshot.seconds,
        "snapshot_processor_seconds": snapshot.processor_seconds,
        "ratio": snapshot.seconds / full.seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
