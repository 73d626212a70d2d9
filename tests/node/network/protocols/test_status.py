"""The handshake's proofs and the liveness of a session, on streams in memory."""

from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from chain.crypto import keccak256
from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import BlockNumber, Hash32
from node.network import wire
from node.network.protocols import status
from node.network.protocols.status import NodeIdentity, RemoteStatus, shake_hands
from node.network.stream import FrameStream, PeerId, StreamClosedError
from tests.worlds.network import (
    ALICE,
    BOB,
    CHAIN_ID,
    GENESIS_HASH,
    HEAD,
    identity,
    stream_pair,
    validator_address,
)

NONCE = keccak256(b"nonce")
Outcome = RemoteStatus | RejectedInputError | StreamClosedError


async def shake_both(
    alice: NodeIdentity, bob: NodeIdentity, *, bob_says_he_is: PeerId = BOB
) -> tuple[Outcome, Outcome]:
    """The outcome of the handshake on each side, if `bob` signs as the peer `bob_says_he_is`."""
    outcomes: dict[PeerId, Outcome] = {}
    alices_end, bobs_end = stream_pair()

    async def shake(stream: FrameStream, own: NodeIdentity, name: PeerId, says: PeerId) -> None:
        try:
            outcomes[name] = await shake_hands(
                stream,
                own,
                own_peer_id=says,
                head=HEAD,
                addresses=(),
                nonce=keccak256(name.encode()),
            )
        except (RejectedInputError, StreamClosedError) as error:
            outcomes[name] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, alices_end, alice, ALICE, ALICE)
        nursery.start_soon(shake, bobs_end, bob, BOB, bob_says_he_is)
    return outcomes[ALICE], outcomes[BOB]


def reason_of(outcome: Outcome) -> RejectionReason | None:
    return outcome.reason if isinstance(outcome, RejectedInputError) else None


async def test_each_side_learns_the_others_validator() -> None:
    assert await shake_both(identity(0), identity(None)) == (
        RemoteStatus(None, HEAD, ()),
        RemoteStatus(validator_address(0), HEAD, ()),
    )


async def test_proof_of_another_peer_id_is_refused() -> None:
    alice, _ = await shake_both(identity(0), identity(1), bob_says_he_is=PeerId("mallory"))
    assert reason_of(alice) is RejectionReason.BAD_SIGNATURE


async def test_claim_of_another_validators_address_is_refused() -> None:
    _, (_, sign) = GENESIS_HASH, identity(1).validator
    liar = NodeIdentity(CHAIN_ID, GENESIS_HASH, (validator_address(2), sign))
    alice, _ = await shake_both(identity(0), liar)
    assert reason_of(alice) is RejectionReason.BAD_SIGNATURE


async def test_peer_of_another_chain_is_refused() -> None:
    for other in (
        NodeIdentity(1, GENESIS_HASH, None),
        NodeIdentity(CHAIN_ID, keccak256(b"other genesis"), None),
    ):
        outcomes = await shake_both(identity(0), other)
        assert RejectionReason.WRONG_CHAIN in [reason_of(outcome) for outcome in outcomes]
        assert not any(isinstance(outcome, RemoteStatus) for outcome in outcomes)


async def test_old_protocol_version_is_refused_with_both_versions() -> None:
    ours, theirs = stream_pair()
    old = wire.Hello(0, CHAIN_ID, GENESIS_HASH, HEAD, NONCE, ())
    await theirs.write_frame(wire.encode_status(old))
    with pytest.raises(
        InvalidMessage, match=f"speaks version 0, this node {wire.PROTOCOL_VERSION}"
    ):
        await shake_hands(
            ours, identity(0), own_peer_id=ALICE, head=HEAD, addresses=(), nonce=NONCE
        )


def test_status_digest_matches_its_vector() -> None:
    digest = status.compute_status_digest(
        NodeIdentity(CHAIN_ID, GENESIS_HASH, None), signer_peer_id=ALICE, verifier_nonce=NONCE
    )
    payload = keccak256(
        b"".join(
            (
                (64).to_bytes(32, "big"),
                NONCE,
                (5).to_bytes(32, "big"),
                b"alice".ljust(32, b"\x00"),
            )
        )
    )
    words = (0, CHAIN_ID)
    assert digest == keccak256(
        keccak256(b"ProofOfTraining.status")
        + b"".join(word.to_bytes(32, "big") for word in words)
        + GENESIS_HASH
        + b"".join(word.to_bytes(32, "big") for word in (wire.PROTOCOL_VERSION, 0, 0))
        + payload
    )


@dataclass
class RecordingHost:
    heads: list[wire.Head] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def get_head(self) -> wire.Head:
        return HEAD

    def known_addresses(self) -> tuple[str, ...]:
        return (f"/ip4/10.0.0.1/tcp/1/p2p/12D3KooW{'A' * 44}",)

    def on_head(self, peer_id: PeerId, head: wire.Head) -> None:
        self.heads.append(head)

    def on_latency(self, peer_id: PeerId, seconds: float) -> None:
        self.latencies.append(seconds)

    def on_addresses(self, peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        self.addresses.extend(addresses)


async def test_session_exchanges_pings_heads_and_addresses(
    autojump_clock: MockClock,
) -> None:
    alices_end, bobs_end = stream_pair()
    alice, bob = RecordingHost(), RecordingHost()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(status.keep_alive, alices_end, alice)
        nursery.start_soon(status.keep_alive, bobs_end, bob)
        await trio.sleep(59)
        nursery.cancel_scope.cancel()
    assert alice.heads == [HEAD] * 30
    assert len(bob.latencies) == 30
    assert bob.addresses == list(alice.known_addresses()) * 2


async def test_silent_peer_ends_the_session_after_five_seconds(
    autojump_clock: MockClock,
) -> None:
    alices_end, _ = stream_pair()
    started = trio.current_time()
    reason = await status.keep_alive(alices_end, RecordingHost())
    assert (reason, trio.current_time() - started) == (wire.DisconnectReason.SILENT, 5)


async def test_goodbye_ends_the_session_with_its_reason(autojump_clock: MockClock) -> None:
    alices_end, bobs_end = stream_pair()
    await status.say_goodbye(bobs_end, wire.DisconnectReason.SHUTTING_DOWN)
    reason = await status.keep_alive(alices_end, RecordingHost())
    assert reason is wire.DisconnectReason.SHUTTING_DOWN


async def test_flood_of_status_messages_is_refused(autojump_clock: MockClock) -> None:
    alices_end, bobs_end = stream_pair()

    async def flood() -> None:
        while True:
            await bobs_end.write_frame(wire.encode_status(wire.Pong(0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        with pytest.raises(InvalidMessage, match="too many status messages"):
            await status.keep_alive(alices_end, RecordingHost())
        nursery.cancel_scope.cancel()


async def test_hello_within_a_session_is_refused(autojump_clock: MockClock) -> None:
    alices_end, bobs_end = stream_pair()
    hello = wire.Hello(wire.PROTOCOL_VERSION, CHAIN_ID, GENESIS_HASH, HEAD, Hash32(NONCE), ())
    await bobs_end.write_frame(wire.encode_status(hello))
    with pytest.raises(InvalidMessage, match="hello does not belong here"):
        await status.keep_alive(alices_end, RecordingHost())


async def test_non_validators_ping_rarely_but_tell_a_new_head_at_once(
    autojump_clock: MockClock,
) -> None:
    alices_end, bobs_end = stream_pair()
    alice, bob = RecordingHost(), RecordingHost()
    newer = wire.Head(BlockNumber(HEAD.number + 1), HEAD.hash)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(status.keep_alive, alices_end, alice, status.OTHERS)
        nursery.start_soon(status.keep_alive, bobs_end, bob, status.OTHERS)
        await trio.sleep(8.5)
        assert bob.heads == [HEAD]
        alice.get_head = lambda: newer  # type: ignore[method-assign]
        await trio.sleep(1.1)
        assert bob.heads == [HEAD, newer]
        await trio.sleep(8)
        # Told by a ping of sequence 0, which gets no pong, and again by the next regular ping.
        assert bob.heads == [HEAD, newer, newer]
        assert len(alice.latencies) == len(bob.latencies) == 2
        nursery.cancel_scope.cancel()


async def test_session_of_non_validators_ends_after_25_silent_seconds(
    autojump_clock: MockClock,
) -> None:
    alices_end, _ = stream_pair()
    start = trio.current_time()
    reason = await status.keep_alive(alices_end, RecordingHost(), status.OTHERS)
    assert reason is wire.DisconnectReason.SILENT
    assert 24 <= trio.current_time() - start <= 26
