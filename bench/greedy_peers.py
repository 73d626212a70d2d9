"""Consensus round trips of a validator while sixty peers ask it for as much as they may.

    python -m bench.greedy_peers [--peers N] [--json FILE] [--smoke]

The validator under test and another, in a process each, exchange frames as in bench/network.py,
first alone and then beside N peers that are no validators, on the most streams they may have: they
ask for headers, for blocks of 200 kB, or open a stream and drop it, as fast as they can. The peers
live in a process of low priority, so that what is measured is the validator's and not the machine.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from bench.network import (
    IDLE_ROUND_TRIPS,
    P99_LIMIT_MS,
    Node,
    Nothing,
    build_echo_command,
    measure_round_trips,
    summarize,
)
from bench.report import build_parser, silence_logs, write_report
from chain.primitives import BlockNumber
from node.network.limits import LIMITS
from node.network.protocols import blocks
from node.network.sessions import RESERVED_OUTBOUND_SESSIONS
from node.network.stream import FrameStream, PeerId, StreamClosedError, UnreachablePeerError
from node.network.wire import (
    BLOCK_FRAME_LIMIT_BYTES,
    BLOCK_REQUEST_LIMIT,
    RequestBlocks,
    RequestHeaders,
    encode_blocks_request,
)

BLOCK_BYTES = 200_000
HEADER_BYTES = 600
CERTIFICATE_BYTES = 280
RUN_GREEDY_PEERS = ("nice", "-n", "10", sys.executable, "-W", "ignore", "-m", "bench.greedy_peers")
FIRST = BlockNumber(1)
REQUESTS = {
    "headers": encode_blocks_request(RequestHeaders(FIRST, BLOCK_REQUEST_LIMIT)),
    "blocks": encode_blocks_request(RequestBlocks(FIRST, BLOCK_REQUEST_LIMIT)),
    "streams": None,
}
"""The request of each row; None opens a stream and drops it."""


class Library(Nothing):
    """A long chain of random bytes in place of blocks. No peer in this benchmark decodes them."""

    def __init__(self) -> None:
        self._block = os.urandom(BLOCK_BYTES)
        self._header = os.urandom(HEADER_BYTES)
        self._certificate = os.urandom(CERTIFICATE_BYTES)

    def encoded_block(self, _: BlockNumber) -> tuple[bytes, bytes]:
        return self._block, self._certificate

    def encoded_header(self, _: BlockNumber) -> tuple[bytes, bytes]:
        return self._header, self._certificate

    def first_held(self) -> BlockNumber:
        return BlockNumber(0)


async def ask_for_ever(node: Node, peer_id: PeerId, request: bytes | None) -> None:
    while True:
        try:
            stream = await node.host.open_stream(peer_id, blocks.PROTOCOL_ID)
            if request is None:
                await stream.reset()
            else:
                await ask(stream, request)
        except (StreamClosedError, UnreachablePeerError):
            await trio.sleep(0.1)


async def ask(stream: FrameStream, request: bytes) -> None:
    while True:
        await stream.write_frame(request)
        while await stream.read_frame(BLOCK_FRAME_LIMIT_BYTES):
            pass


async def be_greedy(address: str, count: int, what: str) -> None:
    """Run that many peers; each begins to ask as soon as it has a session."""

    async def run_one(index: int, directory: Path) -> None:
        # The first two keys are validators'.
        node = Node(2 + index, directory / str(index), (address,))
        async with trio.open_nursery() as nursery:
            await nursery.start(node.network.run)
            while not node.network.peers():  # noqa: ASYNC110
                await trio.sleep(0.1)
            peer_id = node.network.peers()[0].peer_id
            for _ in range(LIMITS["blocks"].streams):
                nursery.start_soon(ask_for_ever, node, peer_id, REQUESTS[what])

    with tempfile.TemporaryDirectory() as directory:
        async with trio.open_nursery() as nursery:
            for index in range(count):
                nursery.start_soon(run_one, index, Path(directory))


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def run(directory: Path, peer_count: int, round_trips: int) -> dict[str, dict[str, float]]:
    max_peers = peer_count + RESERVED_OUTBOUND_SESSIONS
    node = Node(0, directory / "0", max_peers=max_peers, blocks=Library())
    never = trio.Event()
    count = str(peer_count)
    rows: dict[str, dict[str, float]] = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(node.network.run)
        [address] = node.network.listen_addresses()
        other = subprocess.Popen(  # noqa: ASYNC220 - starts once, before anything is timed
            build_echo_command(directory / "1", address)
        )
        try:
            await wait_for(node, 1)
            await measure_round_trips(node, never, 20)
            rows["alone"] = summarize(await measure_round_trips(node, never, round_trips))
            for what in REQUESTS:
                greedy = subprocess.Popen(  # noqa: ASYNC220
                    [*RUN_GREEDY_PEERS, "--be-greedy", address, count, what],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                try:
                    await wait_for(node, 1 + peer_count)
                    await trio.sleep(3)  # what was saved up is spent
                    start, used = time.perf_counter(), processor_seconds()
                    row = summarize(await measure_round_trips(node, never, round_trips))
                    share = (processor_seconds() - used) / (time.perf_counter() - start)
                    rows[what] = {**row, "processor_share": round(share, 2)}
                finally:
                    greedy.kill()
                    greedy.wait()
                await wait_for(node, 1)
        finally:
            other.kill()
            other.wait()
        nursery.cancel_scope.cancel()
    return rows


async def wait_for(node: Node, count: int) -> None:
    with trio.fail_after(120):
        while len(node.network.peers()) != count:  # noqa: ASYNC110
            await trio.sleep(0.1)


def main() -> int:
    """Measure, print, and write JSON; 1 if any p99 is above the limit."""
    parser = build_parser("greedy_peers", __doc__)
    parser.add_argument("--peers", type=int, default=60)
    parser.add_argument("--be-greedy", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    silence_logs()
    if arguments.be_greedy:
        address, count, what = arguments.be_greedy
        trio.run(be_greedy, address, int(count), what)
        return 0
    peers, round_trips = (2, 5) if arguments.smoke else (arguments.peers, IDLE_ROUND_TRIPS)
    with tempfile.TemporaryDirectory() as directory:
        rows = trio.run(run, Path(directory), peers, round_trips)
    print(f"{peers:2} peers ask for        p50      p99      max   count    core   ratio, p99")
    for name, row in rows.items():
        share = f"{100 * row['processor_share']:5.0f} %" if "processor_share" in row else "      -"
        row["ratio_p99"] = row["p99_ms"] / rows["alone"]["p99_ms"]
        print(
            f"{name:20} {row['p50_ms']:8} {row['p99_ms']:8} {row['max_ms']:8} {row['count']:7} "
            f"{share} {row['ratio_p99']:8.1f}"
        )
    write_report(arguments, {"peers": peers, "rows": rows})
    is_slow = max(row["p99_ms"] for row in rows.values()) >= P99_LIMIT_MS
    return 1 if is_slow and not arguments.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
