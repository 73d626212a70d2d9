"""Spreads large proposals in coded pieces (docs/spec/wire.md, section 4).

A primary that sends a block of B bytes to n - 1 backups sends (n - 1) B over its own line while
those of the backups are idle. Here it cuts the message into coded pieces, any k of which give it
back, sends each backup one of them, and each backup relays its piece to the others: about 1.5 B
for every validator (Cachin and Tessaro, "Asynchronous Verifiable Information Dispersal", 2005).
Safety does not depend on it: a validator with too few pieces asks for the whole message, as after
any loss.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cachetools import FIFOCache

from chain import codec
from chain.crypto import merkle_leaf, merkle_path, merkle_root, merkle_root_of_path, sha256
from chain.errors import InvalidMessage, RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Address, Hash32
from chain.types.validator_set import compute_max_faulty
from node.network.pieces.erasure import count_piece_bytes, decode, encode
from node.network.wire import CONSENSUS_FRAME_LIMIT_BYTES

SPREAD_VALIDATORS: Final = 8
"""With fewer validators all messages are sent whole: pieces save little then, and cost a hop."""

SPREAD_BYTES: Final = 2**16
"""Smaller messages are sent whole: the additional hop would take longer than it saves."""

SPARE_PIECES: Final = 1
"""Pieces that may be missing besides those of f faulty backups: one link may be down."""

SPREAD_SECONDS: Final = 2.0
"""For this long a STATUS without the proposal is not answered with the whole message: no backup has
it yet, and its pieces are on their way.
"""

LIVE_PER_RELAY: Final = 4
"""Messages of which the piece of one relay is kept: views may change while pieces arrive."""

DONE_KEPT: Final = 256
"""Complete messages that are remembered, so that their late pieces are dropped."""

PROOF_LIMIT: Final = 7
"""Hashes in a Merkle path among at most 99 pieces."""

PIECE_FRAME_LIMIT_BYTES: Final = CONSENSUS_FRAME_LIMIT_BYTES // 4 + 1024
"""A quarter of the largest message, as with SPREAD_VALIDATORS validators, and the other fields."""


@dataclass(frozen=True, slots=True)
class MessageName:
    """Identifies the message that a piece is part of."""

    author: Address
    """The validator that cut it into pieces."""
    size_bytes: int
    digest: Hash32
    """SHA-256 of the message."""
    pieces_root: Hash32
    """The Merkle root over all pieces in order, as in RFC 6962."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One coded piece, with its proof against the Merkle root."""

    name: MessageName
    index: int
    proof: tuple[Hash32, ...]
    """The sibling hashes on the way from the leaf to the root."""
    data: bytes


@dataclass(frozen=True, slots=True)
class Complete:
    """Enough pieces to decode a message; slow, so call `decode` in a thread."""

    name: MessageName
    pieces: dict[int, bytes]
    data_count: int
    piece_count: int

    def decode(self) -> bytes:
        """The message.

        Raises:
            InvalidMessage: MALFORMED. The author's pieces are not of the message that it named.
        """
        size = self.name.size_bytes
        message = decode(self.pieces, size, self.data_count, self.piece_count)
        if sha256(message) != self.name.digest:
            raise InvalidMessage(RejectionReason.MALFORMED, "the pieces decode to another message")
        return message


@dataclass(frozen=True, slots=True)
class Taken:
    """What to do with a piece that has arrived."""

    relay_to: tuple[Address, ...] = ()
    """The validators to relay the same frame to: it is our own piece, from its author."""
    complete: Complete | None = None


def count_data_pieces(validator_count: int) -> int:
    """k: the number of backups less f faulty ones and SPARE_PIECES.

    It is more than f, so that of any k pieces an honest backup got one from the author itself.
    """
    return validator_count - 1 - compute_max_faulty(validator_count) - SPARE_PIECES


class Dissemination:
    """Cuts our messages into pieces, and reassembles those of others. It does no I/O."""

    def __init__(self, own_address: Address | None) -> None:
        self._own_address = own_address
        self._validators: tuple[Address, ...] = ()
        self._assemblies: dict[MessageName, dict[int, bytes]] = {}
        self._live: dict[Address, OrderedDict[MessageName, int]] = {}
        """The piece indices kept of each relay, by message; a new message displaces the oldest."""
        self._done: FIFOCache[MessageName, None] = FIFOCache(DONE_KEPT)
        self._latest: tuple[Hash32, float] | None = None
        """The digest of the last message that this node sent in pieces, and the time."""

    def set_validators(self, addresses: Iterable[Address]) -> None:
        """Set the current validators; a change drops all incomplete messages."""
        validators = tuple(sorted(addresses))
        if validators != self._validators:
            self._validators = validators
            self._assemblies.clear()
            self._live.clear()

    def begin(self, message: bytes, now: float) -> bool:
        """Whether to broadcast a message in pieces; it then spreads from `now` (seconds) on."""
        if (
            len(message) < SPREAD_BYTES
            or len(self._validators) < SPREAD_VALIDATORS
            or self._own_address not in self._validators
        ):
            return False
        self._latest = sha256(message), now
        return True

    def is_spreading(self, message: bytes, now: float) -> bool:
        """Whether the pieces of a message of this node are still on their way."""
        if len(message) < SPREAD_BYTES or self._latest is None:
            return False
        digest, begun_at = self._latest
        return now < begun_at + SPREAD_SECONDS and sha256(message) == digest

    def cut(self, message: bytes) -> list[tuple[Address, bytes]]:
        """The frame for each other validator; takes milliseconds for each MB and validator."""
        assert self._own_address is not None
        backups = self._list_backups(self._own_address)
        pieces = encode(message, count_data_pieces(len(self._validators)), len(backups))
        leaves = [merkle_leaf(piece) for piece in pieces]
        name = MessageName(self._own_address, len(message), sha256(message), merkle_root(leaves))
        return [
            (backup, encode_piece(Piece(name, index, merkle_path(leaves, index), pieces[index])))
            for index, backup in enumerate(backups)
        ]

    def take(self, sender: Address, piece: Piece) -> Taken:
        """Process a piece that a validator sent.

        Raises:
            InvalidMessage: MALFORMED or UNKNOWN_VALIDATOR. This sender may not send this piece by
                the current validator set; an honest sender may know another set for a moment.
        """
        name = piece.name
        if name.author not in self._validators or len(self._validators) < SPREAD_VALIDATORS:
            raise InvalidMessage(RejectionReason.UNKNOWN_VALIDATOR, f"author {to_hex(name.author)}")
        if name.author == self._own_address:
            raise InvalidMessage(RejectionReason.MALFORMED, "a piece of our own message")
        backups = self._list_backups(name.author)
        holder = self._own_address if sender == name.author else sender
        if holder not in backups or backups.index(holder) != piece.index:
            raise InvalidMessage(RejectionReason.MALFORMED, "the piece of another validator")
        data_count = count_data_pieces(len(self._validators))
        if len(piece.data) != count_piece_bytes(name.size_bytes, data_count):
            raise InvalidMessage(RejectionReason.MALFORMED, "a piece of another size")
        leaf = merkle_leaf(piece.data)
        if merkle_root_of_path(leaf, piece.proof, piece.index, len(backups)) != name.pieces_root:
            raise InvalidMessage(RejectionReason.MALFORMED, "a piece without its proof")
        relay_to: tuple[Address, ...] = ()
        if sender == name.author:
            relay_to = tuple(each for each in backups if each != self._own_address)
        if name in self._done:
            return Taken(relay_to)
        self._keep(sender, piece)
        held = self._assemblies[name]
        if len(held) < data_count:
            return Taken(relay_to)
        self._finish(name)
        return Taken(relay_to, Complete(name, held, data_count, len(backups)))

    def _list_backups(self, author: Address) -> Sequence[Address]:
        return [address for address in self._validators if address != author]

    def _keep(self, sender: Address, piece: Piece) -> None:
        live = self._live.setdefault(sender, OrderedDict())
        live[piece.name] = piece.index
        self._assemblies.setdefault(piece.name, {})[piece.index] = piece.data
        if len(live) > LIVE_PER_RELAY:
            oldest, index = live.popitem(last=False)
            del self._assemblies[oldest][index]
            if not self._assemblies[oldest]:
                del self._assemblies[oldest]

    def _finish(self, name: MessageName) -> None:
        del self._assemblies[name]
        for live in self._live.values():
            live.pop(name, None)
        self._done[name] = None


def encode_piece(piece: Piece) -> bytes:
    """The frame of a piece."""
    name = piece.name
    return codec.encode(
        [
            name.author,
            name.size_bytes,
            name.digest,
            name.pieces_root,
            piece.index,
            list(piece.proof),
            piece.data,
        ]
    )


def decode_piece(frame: bytes) -> Piece:
    """The piece of a frame.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    items = codec.as_list(codec.decode(frame, limit_bytes=PIECE_FRAME_LIMIT_BYTES), max_length=7)
    if len(items) != 7:
        raise InvalidMessage(RejectionReason.MALFORMED, f"a piece of {len(items)} fields")
    size_bytes = codec.as_uint(items[1], bits=32)
    if not SPREAD_BYTES <= size_bytes <= CONSENSUS_FRAME_LIMIT_BYTES:
        raise InvalidMessage(
            RejectionReason.MALFORMED, f"a message of {size_bytes} bytes in pieces"
        )
    name = MessageName(
        author=Address(codec.as_bytes(items[0], length=20)),
        size_bytes=size_bytes,
        digest=Hash32(codec.as_bytes(items[2], length=32)),
        pieces_root=Hash32(codec.as_bytes(items[3], length=32)),
    )
    proof = codec.as_list(items[5], max_length=PROOF_LIMIT)
    return Piece(
        name=name,
        index=codec.as_uint(items[4], bits=8),
        proof=tuple(Hash32(codec.as_bytes(each, length=32)) for each in proof),
        data=codec.as_bytes(items[6], max_length=PIECE_FRAME_LIMIT_BYTES),
    )
