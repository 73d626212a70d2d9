"""Sixty peers that ask one validator for all that they are given: what is left for consensus.

    python -m bench.greedy_peers [--peers N] [--json FILE]

The validator under test and another, in a process each, exchange frames as in bench/network.py,
first alone and then beside N peers that are no validators, on the most streams they may have: they
ask for headers, for blocks of 200 kB, or open a stream and drop it, as fast as they can. The peers
live in a process of low priority, so that what is measured is the validator's and not the machine.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import structlog
import trio

from bench.network import (
    IDLE_ROUND_TRIPS,
    P99_LIMIT_MS,
    RUN_OTHER_VALIDATOR,
    Node,
    Nothing,
    measure_round_trips,
    summarize,
)
from chain.primitives import BlockNumber
from node.network.limits import LIMITS
from node.network.protocols import blocks
from node.network.sessions import OUTBOUND_PLACES
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
ROUND_TRIPS = 200
RUN_GREEDY_PEERS = ("nice", "-n", "10", sys.executable, "-W", "ignore", "-m", "bench.greedy_peers")
FIRST = BlockNumber(1)
REQUESTS = {
    "headers": encode_blocks_request(RequestHeaders(FIRST, BLOCK_REQUEST_LIMIT)),
    "blocks": encode_blocks_request(RequestBlocks(FIRST, BLOCK_REQUEST_LIMIT)),
    "streams": None,
}
"""What they ask for, by the name of the row; None opens a stream and drops it."""


class Library(Nothing):
    """A node with a long chain; what is in its blocks nobody looks at."""

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
    """As many peers; each begins as soon as it has a session."""

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


async def run(directory: Path, peer_count: int) -> dict[str, dict[str, float]]:
    max_peers = peer_count + OUTBOUND_PLACES
    node = Node(0, directory / "0", max_peers=max_peers, blocks=Library())
    never = trio.Event()
    count = str(peer_count)
    rows: dict[str, dict[str, float]] = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(node.network.run)
        [address] = node.network.listen_addresses()
        other = subprocess.Popen(  # noqa: ASYNC220 - starts once, before anything is timed
            [*RUN_OTHER_VALIDATOR, "--echo", str(directory / "1"), address]
        )
        try:
            await wait_for(node, 1)
            await measure_round_trips(node, never, 20)
            rows["alone"] = summarize(await measure_round_trips(node, never, IDLE_ROUND_TRIPS))
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
                    row = summarize(await measure_round_trips(node, never, ROUND_TRIPS))
                    share = (processor_seconds() - used) / (time.perf_counter() - start)
                    rows[what] = {**row, "processorShare": round(share, 2)}
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--be-greedy", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be_greedy:
        address, count, what = arguments.be_greedy
        trio.run(be_greedy, address, int(count), what)
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as directory:
        rows = trio.run(run, Path(directory), arguments.peers)
    print(
        f"{arguments.peers} peers ask for        p50      p99      max   count    core   ratio, p99"
    )
    for name, row in rows.items():
        share = f"{100 * row['processorShare']:5.0f} %" if "processorShare" in row else "      -"
        ratio = row["p99Ms"] / rows["alone"]["p99Ms"]
        print(
            f"{name:20} {row['p50Ms']:8} {row['p99Ms']:8} {row['maxMs']:8} {row['count']:7} "
            f"{share} {ratio:8.1f}"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"peers": arguments.peers, "rows": rows}, indent=2))
    return 1 if max(row["p99Ms"] for row in rows.values()) >= P99_LIMIT_MS else 0


if __name__ == "__main__":
    sys.exit(main())
