from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import Address, Hash32
from chain.types.validator_set import compute_max_faulty
from node.network.pieces.dissemination import (
    DONE_KEPT,
    LIVE_PER_RELAY,
    SPREAD_BYTES,
    SPREAD_SECONDS,
    Complete,
    Dissemination,
    Piece,
    count_data_pieces,
    decode_piece,
    encode_piece,
)

MESSAGE = bytes(i * i % 251 for i in range(SPREAD_BYTES + 77))


def addresses(count: int) -> list[Address]:
    return [Address(bytes([i + 1]) * 20) for i in range(count)]


def nodes(count: int) -> dict[Address, Dissemination]:
    made = {address: Dissemination(address) for address in addresses(count)}
    for node in made.values():
        node.set_validators(made)
    return made


def spread(
    network: dict[Address, Dissemination],
    author: Address,
    message: bytes,
    *,
    is_lost: Callable[[Address, Address], bool] = lambda _sender, _receiver: False,
) -> dict[Address, bytes]:
    """The copy of a message that each validator gets; `is_lost(sender, receiver)` breaks links."""
    got: dict[Address, bytes] = {}
    flying = [(author, receiver, frame) for receiver, frame in network[author].cut(message)]
    while flying:
        sender, receiver, frame = flying.pop(0)
        if is_lost(sender, receiver):
            continue
        taken = network[receiver].take(sender, decode_piece(frame))
        flying.extend((receiver, address, frame) for address in taken.relay_to)
        if taken.complete is not None:
            assert receiver not in got, "completed twice"
            got[receiver] = taken.complete.decode()
    return got


@pytest.mark.parametrize("count", [8, 10, 31])
def test_all_get_the_message_despite_f_faulty_relays_and_a_broken_link(count: int) -> None:
    network = nodes(count)
    author, cut_off, *others = network
    faulty = set(others[: compute_max_faulty(count)])

    def is_lost(sender: Address, receiver: Address) -> bool:
        return sender in faulty or {sender, receiver} == {author, cut_off}

    got = spread(network, author, MESSAGE, is_lost=is_lost)
    assert set(got) == {cut_off, *others}
    assert set(got.values()) == {MESSAGE}


@pytest.mark.parametrize("count", [8, 50])
def test_no_validator_sends_much_more_than_the_message_itself(count: int) -> None:
    network = nodes(count)
    author, first, *_ = network
    frames = network[author].cut(MESSAGE)
    own = sum(len(frame) for _, frame in frames)
    taken = network[first].take(author, decode_piece(frames[0][1]))
    relayed = len(taken.relay_to) * len(frames[0][1])
    for sent in (own, relayed):
        assert sent < 2.2 * len(MESSAGE), "sent whole, it would be n - 1 times its size"


def test_k_pieces_are_more_than_faulty_relays_hold() -> None:
    for count in range(8, 101):
        assert count_data_pieces(count) > compute_max_faulty(count)


def test_small_messages_small_sets_and_non_validators_send_whole() -> None:
    own, *_ = addresses(8)
    assert nodes(8)[own].begin(MESSAGE, 0.0)
    assert not nodes(8)[own].begin(MESSAGE[: SPREAD_BYTES - 1], 0.0)
    assert not nodes(7)[own].begin(MESSAGE, 0.0)
    follower = Dissemination(None)
    follower.set_validators(addresses(8))
    assert not follower.begin(MESSAGE, 0.0)


def test_message_is_not_sent_whole_while_its_pieces_spread() -> None:
    own, *_ = addresses(8)
    node = nodes(8)[own]
    assert not node.is_spreading(MESSAGE, 10.0)
    assert node.begin(MESSAGE, 10.0)
    assert node.is_spreading(MESSAGE, 10.0 + SPREAD_SECONDS - 0.1)
    assert not node.is_spreading(MESSAGE + b"!", 10.0)
    assert not node.is_spreading(MESSAGE, 10.0 + SPREAD_SECONDS)


def forgeries() -> Iterator[tuple[str, Callable[[Piece], Piece]]]:
    yield "data", lambda piece: replace(piece, data=bytes(len(piece.data)))
    yield "shorter data", lambda piece: replace(piece, data=piece.data[:-1])
    yield "index", lambda piece: replace(piece, index=piece.index + 1)
    yield "proof", lambda piece: replace(piece, proof=piece.proof[:-1])
    yield "longer proof", lambda piece: replace(piece, proof=(*piece.proof, Hash32(bytes(32))))
    yield (
        "size",
        lambda piece: replace(piece, name=replace(piece.name, size_bytes=SPREAD_BYTES - 1)),
    )
    yield (
        "author",
        lambda piece: replace(piece, name=replace(piece.name, author=Address(bytes(20)))),
    )


@pytest.mark.parametrize(
    "forge", [each for _, each in forgeries()], ids=[n for n, _ in forgeries()]
)
def test_invalid_piece_is_refused(forge: Callable[[Piece], Piece]) -> None:
    network = nodes(8)
    author, receiver, *_ = network
    frame = dict(network[author].cut(MESSAGE))[receiver]
    with pytest.raises(InvalidMessage) as refusal:
        network[receiver].take(author, forge(decode_piece(frame)))
    reasons = {RejectionReason.MALFORMED, RejectionReason.UNKNOWN_VALIDATOR}
    assert refusal.value.reason in reasons


def test_relay_may_send_only_its_own_piece() -> None:
    network = nodes(8)
    author, first, second, third, *_ = network
    frames = dict(network[author].cut(MESSAGE))
    network[third].take(first, decode_piece(frames[first]))
    with pytest.raises(InvalidMessage):
        network[third].take(first, decode_piece(frames[second]))
    with pytest.raises(InvalidMessage):
        network[author].take(first, decode_piece(frames[first]))  # a piece of its own message


def test_pieces_of_another_message_are_refused_when_decoded() -> None:
    network = nodes(8)
    author, receiver, *others = network
    cut = network[author].cut(MESSAGE)
    lying = []
    for address, frame in cut:
        piece = decode_piece(frame)
        name = replace(piece.name, digest=Hash32(b"\x01" * 32))
        lying.append((address, encode_piece(replace(piece, name=name))))
    complete: Complete | None = None
    for address, frame in lying:
        if address in others and complete is None:
            complete = network[receiver].take(address, decode_piece(frame)).complete
    assert complete is not None
    with pytest.raises(InvalidMessage, match="another message"):
        complete.decode()


def test_flood_of_messages_displaces_only_pieces_of_its_sender() -> None:
    network = nodes(8)
    author, receiver, flooder, *others = network
    frames = dict(network[author].cut(MESSAGE))
    network[receiver].take(others[0], decode_piece(frames[others[0]]))
    network[receiver].take(flooder, decode_piece(frames[flooder]))
    for i in range(LIVE_PER_RELAY + 1):
        other = dict(network[author].cut(MESSAGE + bytes([i])))
        network[receiver].take(flooder, decode_piece(other[flooder]))
    taken = [network[receiver].take(each, decode_piece(frames[each])) for each in others[1:4]]
    assert taken[-1].complete is not None, "4 of 7 pieces: only the flooder's own was displaced"
    assert taken[-1].complete.decode() == MESSAGE


def count_held(node: Dissemination) -> int:
    return sum(len(pieces) for pieces in node._assemblies.values())


def test_late_pieces_of_a_complete_message_are_not_kept() -> None:
    network = nodes(8)
    author, receiver, *others = network
    frames = dict(network[author].cut(MESSAGE))
    for each in others[:4]:
        network[receiver].take(each, decode_piece(frames[each]))
    assert network[receiver].take(others[4], decode_piece(frames[others[4]])).complete is None
    assert network[receiver].take(author, decode_piece(frames[receiver])).relay_to, (
        "still passed on"
    )
    assert count_held(network[receiver]) == 0


def test_memory_stays_within_its_bound() -> None:
    network = nodes(8)
    author, receiver, *others = network
    for i in range(DONE_KEPT // 32):
        frames = dict(network[author].cut(MESSAGE + bytes([i])))
        for each in others[:2]:
            network[receiver].take(each, decode_piece(frames[each]))
    assert count_held(network[receiver]) == 2 * LIVE_PER_RELAY


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_reason(frame: bytes) -> None:
    with pytest.raises(RejectedInputError):
        decode_piece(frame)
