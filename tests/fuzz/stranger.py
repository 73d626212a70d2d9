"""Hostile peers on loopback, each with a new key; each breaks other rules.

python -m tests.fuzz.stranger ADDRESS SECONDS SEED
"""

import logging
import random
import struct
import sys
from collections.abc import Awaitable, Callable

import structlog
import trio

from chain.consensus.messages import encode_message
from chain.errors import RejectedInputError
from chain.primitives import Hash32
from node.network import wire
from node.network.host import LibP2PHost, create_host_key
from node.network.protocols import blobs, blocks, consensus, state, status, training, transactions
from node.network.stream import FrameStream, PeerId, StreamClosedError, UnreachablePeerError
from tests.fuzz.mutate import mutate
from tests.worlds import replica as factory
from tests.worlds.network import HEAD, identity

PROTOCOLS = (
    status.PROTOCOL_ID,
    consensus.PROTOCOL_ID,
    transactions.PROTOCOL_ID,
    blocks.PROTOCOL_ID,
    blobs.PROTOCOL_ID,
    training.PROTOCOL_ID,
    state.PROTOCOL_ID,
    "/ipfs/id/1.0.0",
    "/ipfs/id/push/1.0.0",
    "/ipfs/ping/1.0.0",
)
DIGEST = Hash32(b"\x31" * 32)
NEGOTIATION = b"\x13/multistream/1.0.0\n\x07/noise\n"
FRAMES = [
    wire.encode_status(
        wire.Hello(wire.PROTOCOL_VERSION, 7331, identity(None).genesis_hash, HEAD, DIGEST, ())
    ),
    wire.encode_status(wire.ValidatorProof(None)),
    wire.encode_status(wire.Ping(1, HEAD)),
    wire.encode_status(wire.Goodbye(wire.DisconnectReason.SILENT)),
    wire.encode_transaction_message(wire.AnnounceTransactions((DIGEST,))),
    wire.encode_transaction_message(wire.RequestTransactions((DIGEST,))),
    wire.encode_transaction_message(wire.TransactionBatch((b"bad", b"good"))),
    wire.encode_blocks_request(wire.RequestBlocks(HEAD.number, 256)),
    wire.encode_blocks_request(wire.RequestHeaders(HEAD.number, 2)),
    wire.encode_blob_request(wire.RequestManifest(DIGEST)),
    wire.encode_blob_request(wire.RequestChunks(DIGEST, 0, 16)),
    encode_message(factory.view_change(1, 1)),
]
CONCURRENT = 12
"""The number of hostile peers at a time, which two shared cores can run beside the node."""


class Stranger:
    """A hostile peer: an address to attack, and a source of randomness."""

    def __init__(self, address: str, source: random.Random) -> None:
        self._address = address
        self._peer_id = PeerId(address.rpartition("/")[2])
        self._port = int(address.split("/")[4])
        self._source = source

    async def attack(self) -> None:
        """Run one attack of a random kind, and ignore how the node treats this peer."""
        attacks: tuple[Callable[[], Awaitable[None]], ...] = (
            self._send_raw,
            self._drip,
            self._send_noise,
            self._storm_frames,
            self._break_streams,
            self._break_session,
            self._break_session,
        )
        with trio.move_on_after(self._source.choice((1, 3, 12))):
            try:
                await self._source.choice(attacks)()
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            except* (StreamClosedError, UnreachablePeerError, RejectedInputError):
                pass

    async def _send_raw(self) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with stream:
            await stream.send_all(mutate(self._source, [NEGOTIATION, b"GET / HTTP/1.1\r\n\r\n"]))
            await trio.sleep(self._source.random())

    async def _drip(self) -> None:
        """Open a connection and send nothing, or a byte from time to time."""
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with stream:
            for byte in NEGOTIATION[: self._source.randrange(len(NEGOTIATION))]:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.1)
            await trio.sleep(20)

    async def _send_noise(self) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with stream:
            await stream.send_all(NEGOTIATION)
            for _ in range(self._source.randrange(1, 5)):
                message = self._source.randbytes(self._source.choice((0, 31, 32, 80, 200, 65_535)))
                await stream.send_all(len(message).to_bytes(2) + message)
            await trio.sleep(self._source.random())

    async def _storm_frames(self) -> None:
        """Send Yamux frames with random headers over a valid Noise session."""
        host = build_host()
        async with host.run():
            await host.dial(self._peer_id, self._address)
            [connection] = host._host.get_network().get_connections()
            stream = await host.open_stream(self._peer_id, self._source.choice(PROTOCOLS))
            del stream
            for _ in range(self._source.choice((1, 10, 3_000))):
                length = self._source.choice((0, 1, 12, 70_000, 2**20, 2**24, 2**32 - 1))
                body = self._source.randbytes(min(length, self._source.choice((0, 1_000, 70_000))))
                header = struct.pack(
                    "!BBHII",
                    self._source.choice((0, 0, 0, 1, 255)),
                    self._source.choice((0, 1, 2, 3, 4, 255)),
                    self._source.randrange(16),
                    self._source.choice((0, 1, 2, 3, 4, 1001, 1002, 2**32 - 1)),
                    length,
                )
                try:
                    await connection.muxed_conn.secured_conn.write(header + body)
                except Exception:  # noqa: BLE001 - whatever libp2p says of a closed connection
                    return

    async def _break_streams(self) -> None:
        """Send random bytes on any protocol, without a session."""
        host = build_host()
        async with host.run():
            await host.dial(self._peer_id, self._address)
            for _ in range(self._source.randrange(1, 8)):
                await self._break_stream(host)

    async def _break_session(self) -> None:
        """Send random bytes on any protocol after a valid handshake."""
        host = build_host()
        async with host.run():
            await host.dial(self._peer_id, self._address)
            session = await host.open_stream(self._peer_id, status.PROTOCOL_ID)
            await status.shake_hands(
                session,
                identity(None),
                own_peer_id=host.peer_id,
                head=HEAD,
                addresses=(),
                nonce=DIGEST,
            )
            for _ in range(self._source.randrange(1, 12)):
                await self._break_stream(host)
                if self._source.random() < 0.3:
                    await session.write_frame(mutate(self._source, FRAMES)[:8_000])

    async def _break_stream(self, host: LibP2PHost) -> None:
        stream = await host.open_stream(self._peer_id, self._source.choice(PROTOCOLS))
        for _ in range(self._source.choice((1, 1, 3, 40))):
            await self._send_something(stream)
        match self._source.randrange(4):
            case 0:
                await stream.reset()
            case 1:
                await stream.close()
            case 2:
                await trio.sleep(self._source.random())
            case _:
                with trio.move_on_after(0.5):
                    await stream.read_frame(2**24)

    async def _send_something(self, stream: FrameStream) -> None:
        if self._source.random() < 0.7:
            await stream.write_frame(mutate(self._source, FRAMES))
        else:
            await stream._byte_stream.send_all(mutate(self._source, FRAMES)[:100_000])


def build_host() -> LibP2PHost:
    return LibP2PHost(key=create_host_key(), listen_addresses=[], max_connections=8)


async def main(address: str, seconds: float, seed: int) -> None:
    structlog.configure(processors=[drop])

    async def attack_for_ever(source: random.Random) -> None:
        while True:
            await Stranger(address, source).attack()

    with trio.move_on_after(seconds + 60):
        async with trio.open_nursery() as nursery:
            for index in range(CONCURRENT):
                nursery.start_soon(attack_for_ever, random.Random(f"{seed} {index}"))


def drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(main, sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
