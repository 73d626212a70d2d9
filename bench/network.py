"""Consensus round trips between two nodes, idle and while 50 MB blobs move between them both ways.

    python -m bench.network [--blobs N] [--json FILE] [--smoke]

Two processes on loopback with the node's own network: libp2p host, sessions, consensus queues, blob
exchange and blob store. A round trip is a frame of 300 bytes to the other process and one back,
20 a second. Idle and loaded are measured in one run, so that the ratio means something on a machine
that does other things too. Fails if the loaded p99 is 250 ms or more.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from bench.report import build_parser, silence_logs, write_report
from chain.crypto import get_address, keccak256, sign
from chain.primitives import Address, BlockNumber, Hash32, PrivateKey
from node.network.host import LibP2PHost, create_host_key
from node.network.network import Network, NetworkConfig
from node.network.protocols.blocks import BlockSource
from node.network.protocols.status import NodeIdentity
from node.network.wire import Head
from node.storage.blobs import BlobStore

P99_LIMIT_MS = 250.0
"""Of a round trip while blobs move; a view's timeout is 4 s."""
BLOB_BYTES = 50 * 10**6
MESSAGE_BYTES = 300
ROUND_TRIPS_PER_SECOND = 20
IDLE_ROUND_TRIPS = 200
LISTEN = "/ip4/127.0.0.1/tcp/0"
GENESIS = keccak256(b"bench")
HEAD = Head(BlockNumber(0), GENESIS)


class Nothing:
    """Stands for a pool, a chain and training stores that are empty."""

    def contains(self, _: Hash32) -> bool:
        return True

    def get_raw(self, _: Hash32) -> None:
        return None

    def hashes(self) -> tuple[Hash32, ...]:
        return ()

    def encoded_block(self, _: BlockNumber) -> None:
        return None


def private_key(index: int) -> PrivateKey:
    return PrivateKey(keccak256(b"bench validator %d" % index))


class Node:
    """One validator; the frames that arrive go to `receive`."""

    def __init__(
        self,
        index: int,
        directory: Path,
        bootstrap: tuple[str, ...] = (),
        max_peers: int = 64,
        blocks: BlockSource | None = None,
    ) -> None:
        key = private_key(index)
        self.blobs = BlobStore(directory, quota_bytes=2**36)
        self._send, self.receive = trio.open_memory_channel[bytes](10_000)
        nothing = Nothing()
        self.host = LibP2PHost(
            key=create_host_key(),
            # The other process dials, and nobody else is to find it.
            listen_addresses=[] if bootstrap else [LISTEN],
            max_connections=max_peers + 130,
            accept_private_addresses=True,
        )
        self.network = Network(
            host=self.host,
            config=NetworkConfig(
                bootstrap=bootstrap, max_peers=max_peers, accept_private_addresses=True
            ),
            identity=NodeIdentity(1, GENESIS, (get_address(key), lambda digest: sign(digest, key))),
            get_head=lambda: HEAD,
            handle_consensus=self._handle,
            transaction_pool=nothing,
            block_source=blocks or nothing,
            blob_store=self.blobs,
            training_source=nothing,
            state_source=nothing,
            random=lambda: 0.5,
        )
        self.network.set_validators(get_address(private_key(each)) for each in (0, 1))

    async def _handle(self, sender: Address, payload: bytes) -> None:
        await self._send.send(payload)

    async def fetch_for_ever(self, wanted: list[Hash32]) -> None:
        for content_id in wanted:
            await self.network.requests.fetch_blob(content_id)


def build_echo_command(
    directory: Path, address: str, blob_bytes: int = 0, offered: Sequence[Hash32] = ()
) -> list[str]:
    """The command of the other validator, which is this program with `--echo`."""
    ids = [content_id.hex() for content_id in offered]
    program = [sys.executable, "-W", "ignore", "-m", "bench.network"]
    return [*program, "--echo", str(directory), address, str(blob_bytes), *ids]


async def echo(directory: Path, address: str, blob_bytes: int, wanted: list[Hash32]) -> None:
    """Run the other validator: echo frames, and on `go` fetch the blobs that the first holds."""
    node = Node(1, directory, (address,))
    for index in range(len(wanted)):
        content_id = node.blobs.put(build_blob(1, index, blob_bytes))
        print(content_id.hex(), flush=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.network.run)
        async for frame in node.receive:
            if frame == b"go":
                nursery.start_soon(node.fetch_for_ever, wanted)
            else:
                node.network.broadcast_consensus(frame)


def build_blob(owner: int, index: int, size_bytes: int) -> bytes:
    return (b"%d %d " % (owner, index) + os.urandom(64)) * (size_bytes // 66)


async def measure_round_trips(node: Node, stop: trio.Event, most: int | None) -> list[float]:
    """The milliseconds of each round trip, until `stop` is set or there are `most`."""
    taken: list[float] = []
    while not stop.is_set() and (most is None or len(taken) < most):
        frame = len(taken).to_bytes(8) + os.urandom(MESSAGE_BYTES - 8)
        start = time.perf_counter()
        node.network.broadcast_consensus(frame)
        with trio.fail_after(60):
            while await node.receive.receive() != frame:
                pass
        taken.append(1_000 * (time.perf_counter() - start))
        await trio.sleep(1 / ROUND_TRIPS_PER_SECOND)
    return taken


def summarize(taken: list[float]) -> dict[str, float]:
    ordered = sorted(taken)
    return {
        "count": len(ordered),
        "p50_ms": round(ordered[len(ordered) // 2], 2),
        "p99_ms": round(ordered[int(0.99 * (len(ordered) - 1))], 2),
        "max_ms": round(ordered[-1], 2),
    }


async def run(
    directory: Path, blob_count: int, blob_bytes: int, idle_round_trips: int
) -> dict[str, object]:
    node = Node(0, directory / "0")
    own = [node.blobs.put(build_blob(0, index, blob_bytes)) for index in range(blob_count)]
    async with trio.open_nursery() as nursery:
        await nursery.start(node.network.run)
        [address] = node.network.listen_addresses()
        other = subprocess.Popen(  # noqa: ASYNC220 - starts once, before anything is timed
            build_echo_command(directory / "1", address, blob_bytes, own),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert other.stdout is not None
            lines = [await trio.to_thread.run_sync(other.stdout.readline) for _ in own]
            theirs = [Hash32(bytes.fromhex(line.strip())) for line in lines]
            with trio.fail_after(60):
                while not node.network.peers():  # noqa: ASYNC110
                    await trio.sleep(0.1)
            never = trio.Event()
            await measure_round_trips(node, never, 20)
            idle = await measure_round_trips(node, never, idle_round_trips)
            finished = trio.Event()
            loaded: list[float] = []

            async def measure() -> None:
                loaded.extend(await measure_round_trips(node, finished, None))

            node.network.broadcast_consensus(b"go")
            start = time.perf_counter()
            async with trio.open_nursery() as measuring:
                measuring.start_soon(measure)
                await node.fetch_for_ever(theirs)
                seconds = time.perf_counter() - start
                finished.set()
            for content_id in theirs:
                assert node.blobs.has(content_id)
        finally:
            other.kill()
            other.wait()
        nursery.cancel_scope.cancel()
    return {
        "idle": summarize(idle),
        "loaded": summarize(loaded),
        "blobs": blob_count,
        "blob_bytes": blob_bytes,
        "megabytes_per_second_each_way": round(blob_count * blob_bytes / 1e6 / seconds, 1),
        "p99_limit_ms": P99_LIMIT_MS,
    }


def main() -> int:
    """Measure, print, and write JSON; 1 if the loaded p99 is above the limit."""
    parser = build_parser("network", __doc__)
    parser.add_argument("--blobs", type=int, default=8, help="of 50 MB, each way")
    parser.add_argument("--echo", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    silence_logs()
    if arguments.echo:
        directory, address, blob_bytes, *wanted = arguments.echo
        wanted_ids = [Hash32(bytes.fromhex(each)) for each in wanted]
        trio.run(echo, Path(directory), address, int(blob_bytes), wanted_ids)
        return 0
    with tempfile.TemporaryDirectory() as name:
        if arguments.smoke:
            result = trio.run(run, Path(name), 1, BLOB_BYTES // 50, 5)
        else:
            result = trio.run(run, Path(name), arguments.blobs, BLOB_BYTES, IDLE_ROUND_TRIPS)
    print(f"consensus round trip of {MESSAGE_BYTES} bytes, ms      p50      p99      max   count")
    idle, loaded = result["idle"], result["loaded"]
    for label, row in (("idle", idle), ("blobs both ways", loaded)):
        print(f"{label:37} {row['p50_ms']:9} {row['p99_ms']:8} {row['max_ms']:8} {row['count']:7}")
    ratios = [loaded[each] / idle[each] for each in ("p50_ms", "p99_ms")]
    print(f"{'ratio':37} {ratios[0]:9.1f} {ratios[1]:8.1f}")
    print(
        f"blobs of {result['blob_bytes'] / 1e6:.0f} MB:"
        f" {result['megabytes_per_second_each_way']} MB/s each way"
    )
    write_report(arguments, {**result, "ratio_p50": ratios[0], "ratio_p99": ratios[1]})
    if loaded["p99_ms"] >= P99_LIMIT_MS and not arguments.smoke:
        print(f"the loaded p99 is above {P99_LIMIT_MS} ms")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
