"""A thousand idle peers on one validator: memory, processor time, consensus round trips meanwhile.

    python -m bench.idle_peers [--peers N] [--seconds S] [--json FILE] [--smoke]

The validator under test and another, in a process each, exchange frames as in bench/network.py,
first alone and then beside N peers with a session each, which do nothing but ping every 2 s. The
peers live in four more processes on the same cores, so the processor time of the validator is
told apart from how busy the machine is.
"""

import argparse
import gc
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import trio

from bench.network import (
    GENESIS,
    HEAD,
    IDLE_ROUND_TRIPS,
    Node,
    build_echo_command,
    measure_round_trips,
    summarize,
)
from bench.report import build_parser, silence_logs, write_report
from node.network.host import LibP2PHost, create_host_key
from node.network.protocols import status, transactions
from node.network.protocols.status import NodeIdentity
from node.network.sessions import RESERVED_OUTBOUND_SESSIONS
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
    """The session callbacks of a peer that has no news and keeps none."""

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
    """A session with the node at `address`; tries until there is one."""
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
    """Hold `count` sessions with the node at `address`; connect again if it ends one."""
    connecting = trio.CapacityLimiter(CONNECTING_AT_ONCE)

    async def hold() -> None:
        host = LibP2PHost(key=create_host_key(), listen_addresses=[], max_connections=4)
        host.set_handler(transactions.PROTOCOL_ID, read_on)
        async with host.run():
            while True:
                async with connecting:
                    stream = await connect(host, address)
                with suppress(StreamClosedError):
                    await status.keep_alive(stream, IdlePeer(), status.OTHERS)
                print("a peer lost its session", file=sys.stderr, flush=True)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(hold)


async def run(
    directory: Path, peer_count: int, seconds: float, round_trips: int
) -> dict[str, object]:
    node = Node(0, directory / "0", max_peers=peer_count + RESERVED_OUTBOUND_SESSIONS)
    never = trio.Event()
    programs: list[subprocess.Popen[str]] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(node.network.run)
        [address] = node.network.listen_addresses()
        programs.append(
            subprocess.Popen(  # noqa: ASYNC220 - starts once, before anything is timed
                build_echo_command(directory / "1", address)
            )
        )
        try:
            await wait_for(node, 1)
            await measure_round_trips(node, never, 20)
            alone = await measure_round_trips(node, never, round_trips)
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

            async with trio.open_nursery() as measuring:
                measuring.start_soon(measure)
                await trio.sleep(seconds)
                stop.set()
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
        "peers_at_the_end": still_there - 1,
        "connect_seconds": round(connect_seconds, 1),
        "processor_ms_a_connection": round(1_000 * connect_processor / peers, 1),
        "memory_before_mib": round(before_mib, 1),
        "memory_with_peers_mib": round(after_mib, 1),
        "kib_a_peer": round(1_024 * (after_mib - before_mib) / peers, 1),
        "processor_share": round(busy, 3),
        "longest_collection_ms": round(collector.longest_ms, 1),
        "alone": summarize(alone),
        "with_peers": summarize(taken),
    }


class CollectorWatch:
    """The longest pause that Python's garbage collector made."""

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
            if count > 1:
                print(f"{present} of {count} peers", file=sys.stderr, flush=True)
            await trio.sleep(5 if count > 1 else 0.1)


def main() -> int:
    """Measure, print, and write JSON; 1 if the node lost a peer."""
    parser = build_parser("idle_peers", __doc__)
    parser.add_argument("--peers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--be-idle", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    silence_logs()
    if arguments.be_idle:
        address, count = arguments.be_idle
        trio.run(be_idle, address, int(count))
        return 0
    with tempfile.TemporaryDirectory() as name:
        if arguments.smoke:
            result = trio.run(run, Path(name), CLIENT_PROCESSES, 1.0, 5)
        else:
            settings = (arguments.peers, arguments.seconds, IDLE_ROUND_TRIPS)
            result = trio.run(run, Path(name), *settings)
    print(
        f"{result['peers']} peers in {result['connect_seconds']} s "
        f"({result['processor_ms_a_connection']} ms of processor each); "
        f"{result['peers_at_the_end']} at the end"
    )
    print(
        f"memory {result['memory_before_mib']} -> {result['memory_with_peers_mib']} MiB "
        f"({result['kib_a_peer']} KiB a peer); {100 * result['processor_share']:.0f} % of a core "
        f"busy; longest garbage collection {result['longest_collection_ms']} ms"
    )
    print("consensus round trip, ms          p50      p99      max   count")
    alone, beside_peers = result["alone"], result["with_peers"]
    for label, row in (("alone", alone), ("with idle peers", beside_peers)):
        print(f"{label:27} {row['p50_ms']:9} {row['p99_ms']:8} {row['max_ms']:8} {row['count']:7}")
    ratios = [beside_peers[each] / alone[each] for each in ("p50_ms", "p99_ms")]
    print(f"{'ratio':27} {ratios[0]:9.1f} {ratios[1]:8.1f}")
    write_report(arguments, {**result, "ratio_p50": ratios[0], "ratio_p99": ratios[1]})
    return 0 if result["peers_at_the_end"] == result["peers"] else 1


if __name__ == "__main__":
    sys.exit(main())
