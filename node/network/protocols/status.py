"""/pot/status/1: proves who a peer is and watches whether it is alive (docs/spec/wire.md, 3)."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio
from eth_abi.abi import encode as abi_encode

from chain.crypto import keccak256, recover
from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Address, Hash32, Signature
from node.network.stream import FrameStream, PeerId, StreamClosedError
from node.network.wire import (
    PROTOCOL_VERSION,
    STATUS_FRAME_LIMIT_BYTES,
    DisconnectReason,
    Goodbye,
    Head,
    Hello,
    Peers,
    Ping,
    Pong,
    StatusMessage,
    ValidatorProof,
    decode_status,
    encode_status,
)

PROTOCOL_ID: Final = "/pot/status/1"
"""One stream for each session, opened by the side that dialled."""

STATUS_DOMAIN: Final = keccak256(b"ProofOfTraining.status")
"""The domain of status digests; consensus messages have another, so that no proof is a vote."""

HANDSHAKE_SECONDS: Final = 10.0
"""How long the two messages each way may take."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often two peers ping each other, and when one counts as frozen."""

    ping_seconds: float
    """The time between two pings of one side."""
    silent_ticks: int
    """Seconds without a message after which a peer counts as frozen."""


VALIDATORS: Final = Pace(2.0, 5)
"""Between two validators: a frozen one is noticed within 6 s."""

OTHERS: Final = Pace(10.0, 25)
"""Between all other peers: a frame takes half a millisecond on each side, and a node may have a
thousand such peers. A new head is told within a second all the same.
"""

PEERS_SECONDS: Final = 30.0
"""How often addresses are exchanged."""

MESSAGES_PER_SECOND: Final = 20
"""More messages a second end the session; an honest peer sends a tenth of them."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What this node tells and proves of itself; peers must be on the same chain."""

    chain_id: int
    genesis_hash: Hash32
    validator: tuple[Address, Callable[[Hash32], Signature]] | None
    """The address of the consensus key and its signing function; None for a node without one."""


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What a peer has told and proved of itself."""

    validator: Address | None
    """The validator address that signed for this peer id; None if the peer claims none."""
    head: Head
    addresses: tuple[str, ...]


class StatusHost(Protocol):
    """What the status stream of a session asks and tells."""

    def get_head(self) -> Head:
        """The highest finalized block of this node."""

    def known_addresses(self) -> tuple[str, ...]:
        """Addresses of connected peers, for others to dial."""

    def on_head(self, peer_id: PeerId, head: Head) -> None:
        """Take note of the head that a peer told."""

    def on_latency(self, peer_id: PeerId, seconds: float) -> None:
        """Take note of the round trip of a ping."""

    def on_addresses(self, peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        """Take note of the addresses of other nodes that a peer told."""


def compute_status_digest(
    identity: NodeIdentity, *, signer_peer_id: PeerId, verifier_nonce: Hash32
) -> Hash32:
    """The digest that a validator signs to prove that a peer id is its own.

    The fields are those of a consensus digest (docs/spec/consensus.md, section 4), under a domain
    of its own. The payload holds the peer id and the nonce of the other side, so that a proof can
    be neither replayed nor used by another peer.
    """
    payload = keccak256(abi_encode(["string", "bytes32"], [signer_peer_id, verifier_nonce]))
    return keccak256(
        abi_encode(
            ["bytes32", "uint8", "uint256", "bytes32", "uint32", "uint64", "uint64", "bytes32"],
            [
                STATUS_DOMAIN,
                0,
                identity.chain_id,
                identity.genesis_hash,
                PROTOCOL_VERSION,
                0,
                0,
                payload,
            ],
        )
    )


async def shake_hands(
    stream: FrameStream,
    identity: NodeIdentity,
    *,
    own_peer_id: PeerId,
    head: Head,
    addresses: tuple[str, ...],
    nonce: Hash32,
) -> RemoteStatus:
    """Exchange hello and proof with the peer, and check that it is on this chain.

    The nonce is 32 random bytes, used once.

    Raises:
        RejectedInputError: WRONG_CHAIN, BAD_SIGNATURE, MALFORMED, or TOO_LARGE.
        StreamClosedError: The peer left.
    """
    own = Hello(PROTOCOL_VERSION, identity.chain_id, identity.genesis_hash, head, nonce, addresses)
    await stream.write_frame(encode_status(own))
    hello = await _read(stream)
    if not isinstance(hello, Hello):
        raise _unexpected(hello)
    await _check_chain(stream, own, hello)
    claim = None
    if identity.validator is not None:
        address, sign = identity.validator
        digest = compute_status_digest(
            identity, signer_peer_id=own_peer_id, verifier_nonce=hello.nonce
        )
        claim = (address, sign(digest))
    await stream.write_frame(encode_status(ValidatorProof(claim)))
    proof = await _read(stream)
    if not isinstance(proof, ValidatorProof):
        raise _unexpected(proof)
    if proof.claim is not None:
        digest = compute_status_digest(
            identity, signer_peer_id=stream.peer_id, verifier_nonce=nonce
        )
        signer = recover(digest, proof.claim[1])
        if signer is None or not hmac.compare_digest(signer, proof.claim[0]):
            raise InvalidMessage(
                RejectionReason.BAD_SIGNATURE, "the peer id is not that validator's"
            )
    return RemoteStatus(proof.claim and proof.claim[0], hello.head, hello.addresses)


async def say_goodbye(stream: FrameStream, reason: DisconnectReason) -> None:
    """Tell the peer why the session ends, if it still reads."""
    with trio.move_on_after(0.5):
        try:
            await stream.write_frame(encode_status(Goodbye(reason)))
            await stream.close()
        except StreamClosedError:
            return


async def keep_alive(
    stream: FrameStream, host: StatusHost, pace: Pace = VALIDATORS
) -> DisconnectReason:
    """Ping and listen until the peer leaves, falls silent, or breaks a rule.

    Args:
        stream: the stream of the session, after the handshake.
        host: is asked for our head and addresses, and told those of the peer.
        pace: the same on both sides.

    Returns:
        The reason in the peer's goodbye, or SILENT.

    Raises:
        RejectedInputError: A message is malformed, out of place, or one too many.
        StreamClosedError: The peer left.
    """
    return await _Session(stream, host, pace).run()


class _Session:
    def __init__(self, stream: FrameStream, host: StatusHost, pace: Pace) -> None:
        self._stream = stream
        self._host = host
        self._pace = pace
        self._told_number = 0
        self._heard_number = 0
        self._has_news = trio.Event()
        self._silent_ticks = 0
        self._messages_left = 2 * MESSAGES_PER_SECOND
        self._pinged_at = 0.0
        self._sequence = 0
        self._reason = DisconnectReason.SILENT

    async def run(self) -> DisconnectReason:
        errors: list[RejectedInputError | StreamClosedError] = []
        async with trio.open_nursery() as nursery:

            async def run_until_first(part: Callable[[], Awaitable[None]]) -> None:
                try:
                    await part()
                except (RejectedInputError, StreamClosedError) as error:
                    errors.append(error)
                nursery.cancel_scope.cancel()

            for part in (self._listen, self._ping, self._watch):
                nursery.start_soon(run_until_first, part)
        if errors:
            raise errors[0]
        return self._reason

    async def _watch(self) -> None:
        # Ticks, not a deadline: time in which this event loop is blocked is not the peer's silence.
        while self._silent_ticks < self._pace.silent_ticks:
            await trio.sleep(1)
            self._silent_ticks += 1
            if self._host.get_head().number > max(self._told_number, self._heard_number):
                self._has_news.set()
            self._messages_left = min(
                self._messages_left + MESSAGES_PER_SECOND, 2 * MESSAGES_PER_SECOND
            )

    async def _ping(self) -> None:
        peers_pings = round(PEERS_SECONDS / self._pace.ping_seconds)
        while True:
            self._pinged_at = trio.current_time()
            self._sequence += 1
            await self._tell_head(self._sequence)
            if self._sequence % peers_pings == 1 and (known := self._host.known_addresses()):
                await self._stream.write_frame(encode_status(Peers(known)))
            next_ping_at = self._pinged_at + self._pace.ping_seconds
            while trio.current_time() < next_ping_at:
                with trio.move_on_at(next_ping_at):
                    await self._has_news.wait()
                # Outside the timeout, which could otherwise interrupt a frame.
                if self._has_news.is_set():
                    await self._tell_head(0)

    async def _tell_head(self, sequence: int) -> None:
        head = self._host.get_head()
        self._told_number = head.number
        self._has_news = trio.Event()
        await self._stream.write_frame(encode_status(Ping(sequence, head)))

    async def _listen(self) -> None:
        while True:
            message = await _read(self._stream)
            self._silent_ticks = 0
            self._messages_left -= 1
            if self._messages_left < 0:
                raise InvalidMessage(RejectionReason.TOO_LARGE, "too many status messages")
            match message:
                case Ping(sequence, head):
                    self._heard_number = head.number
                    self._host.on_head(self._stream.peer_id, head)
                    if sequence:
                        await self._stream.write_frame(encode_status(Pong(sequence)))
                case Pong(sequence):
                    if sequence == self._sequence:
                        latency = trio.current_time() - self._pinged_at
                        self._host.on_latency(self._stream.peer_id, latency)
                case Peers(addresses):
                    self._host.on_addresses(self._stream.peer_id, addresses)
                case Goodbye(reason):
                    self._reason = reason
                    return
                case Hello() | ValidatorProof():
                    raise _unexpected(message)


async def _read(stream: FrameStream) -> StatusMessage:
    return decode_status(await stream.read_frame(STATUS_FRAME_LIMIT_BYTES))


async def _check_chain(stream: FrameStream, own: Hello, hello: Hello) -> None:
    if hello.version != own.version:
        detail = f"the peer speaks version {hello.version}, this node {own.version}"
    elif hello.chain_id != own.chain_id:
        detail = f"the peer is on chain {hello.chain_id}, this node on {own.chain_id}"
    elif hello.genesis_hash != own.genesis_hash:
        detail = f"the peer's genesis is {to_hex(hello.genesis_hash)}"
    else:
        return
    await say_goodbye(stream, DisconnectReason.WRONG_CHAIN)
    raise InvalidMessage(RejectionReason.WRONG_CHAIN, detail)


def _unexpected(message: StatusMessage) -> InvalidMessage | StreamClosedError:
    if isinstance(message, Goodbye):
        return StreamClosedError(f"the peer said goodbye: {message.reason.name.lower()}")
    name = type(message).__name__.lower()
    return InvalidMessage(RejectionReason.MALFORMED, f"{name} does not belong here")
