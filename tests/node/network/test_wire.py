"""Messages re-encode to themselves, and other bytes are refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import codec
from chain.crypto import CHUNK_BYTES, chunk_hashes, content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, Signature
from node.network import wire
from node.storage.blob_manifest import BlobManifest

hashes = st.binary(min_size=32, max_size=32).map(Hash32)
u64 = st.integers(0, 2**64 - 1)
numbers = u64.map(BlockNumber)
heads = st.builds(wire.Head, numbers, hashes)
addresses = st.lists(
    st.builds(
        "/ip4/10.0.0.{}/tcp/{}/p2p/12D3KooW{}".format,
        st.integers(0, 255),
        st.integers(1, 65535),
        st.text("123456789ABCabc", min_size=44, max_size=44),
    ),
    max_size=4,
).map(tuple)
claims = st.none() | st.tuples(
    st.binary(min_size=20, max_size=20).map(Address),
    st.binary(min_size=65, max_size=65).map(Signature),
)
status_messages = st.one_of(
    st.builds(
        wire.Hello,
        version=st.integers(0, 2**32 - 1),
        chain_id=u64,
        genesis_hash=hashes,
        head=heads,
        nonce=hashes,
        addresses=addresses,
    ),
    st.builds(wire.ValidatorProof, claims),
    st.builds(wire.Ping, u64, heads),
    st.builds(wire.Pong, u64),
    st.builds(wire.Peers, addresses),
    st.builds(wire.Goodbye, st.sampled_from(wire.DisconnectReason)),
)
hash_tuples = st.lists(hashes, max_size=5).map(tuple)
transaction_messages = st.one_of(
    st.builds(wire.AnnounceTransactions, hash_tuples),
    st.builds(wire.RequestTransactions, hash_tuples),
    st.builds(wire.TransactionBatch, st.lists(st.binary(max_size=50), max_size=5).map(tuple)),
)
counts = st.integers(0, 2**16 - 1)
blocks_requests = st.one_of(
    st.builds(wire.RequestBlocks, numbers, counts),
    st.builds(wire.RequestHeaders, numbers, counts),
    st.builds(wire.RequestBlockByHash, hashes),
    st.builds(
        wire.RequestReceipts,
        st.lists(numbers, max_size=wire.RECEIPTS_REQUEST_LIMIT).map(tuple),
    ),
)
blob_requests = st.one_of(
    st.builds(wire.RequestHave, hashes),
    st.builds(wire.RequestManifest, hashes),
    st.builds(wire.RequestChunks, hashes, st.integers(0, 2**32 - 1), st.integers(1, 16)),
)


@settings(max_examples=50)
@given(status_messages, transaction_messages, blocks_requests, blob_requests)
def test_messages_decode_to_themselves(
    status: wire.StatusMessage,
    transaction: wire.TransactionMessage,
    blocks: wire.BlocksRequest,
    blob: wire.BlobRequest,
) -> None:
    assert wire.decode_status(wire.encode_status(status)) == status
    encoded = wire.encode_transaction_message(transaction)
    assert wire.decode_transaction_message(encoded) == transaction
    assert wire.decode_blocks_request(wire.encode_blocks_request(blocks)) == blocks
    assert wire.decode_blob_request(wire.encode_blob_request(blob)) == blob


DECODERS = [
    (wire.decode_status, wire.encode_status),
    (wire.decode_transaction_message, wire.encode_transaction_message),
    (wire.decode_blocks_request, wire.encode_blocks_request),
    (wire.decode_blob_request, wire.encode_blob_request),
]

items = st.recursive(st.binary(max_size=40), lambda inner: st.lists(inner, max_size=6))
nearly_messages = st.builds(
    lambda kind, fields: codec.encode([kind, *fields]),
    st.integers(0, 6),
    st.lists(items, max_size=7),
)


@settings(max_examples=100)
@given(st.binary(max_size=200) | nearly_messages)
def test_arbitrary_bytes_are_refused_or_are_canonical(data: bytes) -> None:
    for decode, encode in DECODERS:
        try:
            message = decode(data)
        except RejectedInputError:
            continue
        assert encode(message) == data


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/10.0.0.1/udp/1/p2p/12D3KooWAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "/ip4/10.0.0.1/tcp/1/p2p/12D3KooW0AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "/unix/etc/tcp/1/p2p/12D3KooWAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ],
)
def test_addresses_that_cannot_be_dialled_are_malformed(address: str) -> None:
    with pytest.raises(RejectedInputError) as refusal:
        wire.decode_status(codec.encode([4, [address.encode()]]))
    assert refusal.value.reason is RejectionReason.MALFORMED


def test_lists_have_limits() -> None:
    too_many = [bytes(32)] * (wire.TRANSACTION_REQUEST_LIMIT + 1)
    with pytest.raises(RejectedInputError):
        wire.decode_transaction_message(codec.encode([1, too_many]))
    with pytest.raises(RejectedInputError):
        wire.decode_blob_request(codec.encode([2, bytes(32), 0, wire.CHUNK_REQUEST_LIMIT + 1]))


def test_manifest_of_another_content_id_is_refused() -> None:
    data = b"model" * 100_000
    manifest = BlobManifest(len(data), chunk_hashes(data))
    frame = wire.encode_manifest(manifest)
    assert wire.decode_manifest(frame, content_id(data)) == manifest
    for bad, reason in (
        (frame, RejectionReason.CONTENT_MISMATCH),
        (codec.encode([2**20, b"".join(manifest.leaves)]), RejectionReason.MALFORMED),
        (codec.encode([len(data), b"odd"]), RejectionReason.MALFORMED),
        (bytes(wire.MANIFEST_FRAME_LIMIT_BYTES + 1), RejectionReason.TOO_LARGE),
    ):
        with pytest.raises(RejectedInputError) as refusal:
            wire.decode_manifest(bad, content_id(b"another blob"))
        assert refusal.value.reason is reason
    shorter = codec.encode([len(data) - 1, b"".join(manifest.leaves)])
    with pytest.raises(RejectedInputError) as refusal:
        wire.decode_manifest(shorter, content_id(data))
    assert refusal.value.reason is RejectionReason.CONTENT_MISMATCH


@pytest.mark.parametrize(
    ("size_bytes", "chunk_count"),
    [(0, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (wire.MAX_BLOB_BYTES, 2**16)],
)
def test_manifest_frame_limit_follows_from_the_size(size_bytes: int, chunk_count: int) -> None:
    frame = wire.encode_manifest(BlobManifest(size_bytes, (Hash32(bytes(32)),) * chunk_count))
    limit = wire.compute_manifest_frame_limit(size_bytes)
    assert len(frame) <= limit == 32 * chunk_count + 64
    assert wire.compute_manifest_frame_limit(2 * wire.MAX_BLOB_BYTES) == 32 * 2**16 + 64
