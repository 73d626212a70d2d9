"""A thousand idle peers on one validator: memory, processor time, consensus round trips meanwhile.

    python -m bench.idle_peers [--peers N] [--seconds S] [--json FILE]

The validator under test and another, in a process each, exchange frames as in bench/network.py,
first alone and then beside N peers with a session each, which do nothing but ping every 2 s. The
peers live in four more processes on the same cores, so the processor time of the validator is
told apart from how busy the machine is.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from bench.network import (
    GENESIS,
    HEAD,
    IDLE_ROUND_TRIPS,
    RUN_OTHER_VALIDATOR,
    Node,
    measure_round_trips,
    summarize,
)
from node.network.host import LibP2PHost, create_host_key
from node.network.protocols import status, transactions
from node.network.protocols.status import NodeIdentity
from node.network.sessions import OUTBOUND_PLACES
from node.network.stream import FrameStream, PeerId, StreamClosedError, UnreachablePeerError
from node.network.wire import TRANSACTION_FRAME_LIMIT_BYTES, Head

RUN_IDLE_PEERS = (sys.executable, "-W", "ignore", "-m", "bench.idle_peers")
CLIENT_PROCESSES = 4
CONNECTING_AT_ONCE = 8
"""In each process: a handshake costs both sides 25 ms."""


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class IdlePeer:
    """Tells and learns nothing."""

    def get_head(self) -> Head:
        return HEAD

    def known_addresses(self) -> tuple[str, ...]:
        return ()

    def on_head(self, peer_id: PeerId, head: Head) -> None:
        pass

    def on_latency(self, peer_id: PeerId, seconds: float) -> None:
        pass

    def on_addresses(self, peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        pass


async def read_on(stream: FrameStream) -> None:
    while True:
        await stream.read_frame(TRANSACTION_FRAME_LIMIT_BYTES)


async def connect(host: LibP2PHost, address: str) -> FrameStream:
    """A session with the node at `address`, however often it takes."""
    peer_id = PeerId(address.rpartition("/")[2])
    while True:
        try:
            await host.dial(peer_id, address)
            stream = await host.open_stream(peer_id, status.PROTOCOL_ID)
            await status.shake_hands(
                stream,
                NodeIdentity(1, GENESIS, None),
                own_peer_id=host.peer_id,
                head=HEAD,
                addresses=(),
                nonce=GENESIS,
            )
        except (UnreachablePeerError, StreamClosedError):
            await trio.sleep(1)
        else:
            return stream


async def be_idle(address: str, count: int) -> None:
    """Hold `count` sessions with the node at `address`, and say so once they are there."""
    connecting = trio.CapacityLimiter(CONNECTING_AT_ONCE)
    ready = 0

    async def hold() -> None:
        nonlocal ready
        host = LibP2PHost(key=create_host_key(), listen_addresses=[], max_connections=4)
        host.set_handler(transactions.PROTOCOL_ID, read_on)
        async with host.run():
            async with connecting:
                stream = await connect(host, address)
            ready += 1
            if ready == count:
                print("ready", flush=True)
            await status.keep_alive(stream, IdlePeer(), status.OTHERS)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(hold)


async def run(directory: Path, peer_count: int, seconds: float) -> dict[str, object]:
    node = Node(0, directory / "0", max_peers=peer_count + OUTBOUND_PLACES)
    never = trio.Event()
    programs: list[subprocess.Popen[str]] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(node.network.run)
        [address] = node.network.listen_addresses()
        programs.append(
            subprocess.Popen(  # noqa: ASYNC220 - starts once, before anything is timed
                [*RUN_OTHER_VALIDATOR, "--echo", str(directory / "1"), address]
            )
        )
        try:
            await wait_for(node, 1)
            await measure_round_trips(node, never, 20)
            alone = await measure_round_trips(node, never, IDLE_ROUND_TRIPS)
            before_mib = resident_mib()
            start = time.perf_counter()
            each = peer_count // CLIENT_PROCESSES
            used = processor_seconds()
            programs.extend(
                subprocess.Popen(  # noqa: ASYNC220
                    [*RUN_IDLE_PEERS, "--be-idle", address, str(each)], stdout=subprocess.DEVNULL
                )
                for _ in range(CLIENT_PROCESSES)
            )
            await wait_for(node, 1 + each * CLIENT_PROCESSES)
            connect_seconds = time.perf_counter() - start
            connect_processor = processor_seconds() - used
            await trio.sleep(5)
            collector = CollectorWatch()
            start, used = time.perf_counter(), processor_seconds()
            stop = trio.Event()
            taken: list[float] = []

            async def measure() -> None:
                taken.extend(await measure_round_trips(node, stop, None))

            nursery.start_soon(measure)
            await trio.sleep(seconds)
            stop.set()
            await trio.sleep(1)
            busy = (processor_seconds() - used) / (time.perf_counter() - start)
            after_mib = resident_mib()
            still_there = len(node.network.peers())
        finally:
            for program in programs:
                program.kill()
                program.wait()
        nursery.cancel_scope.cancel()
    peers = each * CLIENT_PROCESSES
    return {
        "peers": peers,
        "peersAtTheEnd": still_there - 1,
        "connectSeconds": round(connect_seconds, 1),
        "processorMsAConnection": round(1_000 * connect_processor / peers, 1),
        "memoryBeforeMib": round(before_mib, 1),
        "memoryWithPeersMib": round(after_mib, 1),
        "kibAPeer": round(1_024 * (after_mib - before_mib) / peers, 1),
        "processorShare": round(busy, 3),
        "longestCollectionMs": round(collector.longest_ms, 1),
        "alone": summarize(alone),
        "withPeers": summarize(taken),
    }


class CollectorWatch:
    """How long Python's garbage collector stopped everything."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._start = 0.0
        gc.callbacks.append(self._look)

    def _look(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._start = time.perf_counter()
        else:
            self.longest_ms = max(self.longest_ms, 1_000 * (time.perf_counter() - self._start))


async def wait_for(node: Node, count: int) -> None:
    with trio.fail_after(900):
        while (present := len(node.network.peers())) < count:
            print(f"{present} of {count} peers", file=sys.stderr, flush=True)
            await trio.sleep(5 if count > 1 else 0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--be-idle", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be_idle:
        address, count = arguments.be_idle
        trio.run(be_idle, address, int(count))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        result = trio.run(run, Path(directory), arguments.peers, arguments.seconds)
    print(
        f"{result['peers']} peers in {result['connectSeconds']} s "
        f"({result['processorMsAConnection']} ms of processor each); "
        f"{result['peersAtTheEnd']} at the end"
    )
    print(
        f"memory {result['memoryBeforeMib']} -> {result['memoryWithPeersMib']} MiB "
        f"({result['kibAPeer']} KiB a peer); {100 * result['processorShare']:.0f} % of a core "
        f"busy; longest garbage collection {result['longestCollectionMs']} ms"
    )
    print("consensus round trip, ms          p50      p99      max   count")
    for name, row in (("alone", result["alone"]), ("with idle peers", result["withPeers"])):
        print(f"{name:27} {row['p50Ms']:9} {row['p99Ms']:8} {row['maxMs']:8} {row['count']:7}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2))
    return 0 if result["peersAtTheEnd"] == result["peers"] else 1


if __name__ == "__main__":
    sys.exit(main())
