"""The finalized chain on disk (docs/spec/consensus.md, section 8).

A block and everything that follows from it are written in one database transaction, so after a
crash the head is either the whole block or its parent. A stored block is never replaced, because
PBFT finalizes each block number once. A node that began with a snapshot lacks the blocks below it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from types import MappingProxyType
from typing import Final

from chain import codec
from chain.crypto import keccak256
from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.block import BLOCK_LIMIT_BYTES, Block, block_from_item
from chain.types.certificate import CommitCertificate, decode_certificate
from chain.types.header import Header, decode_header
from chain.types.receipt import Log, Receipt, compute_bloom, decode_receipts, encode_receipts
from chain.types.validator_set import ValidatorSet
from node.storage.database import Database, Reader, Table, Writer
from node.storage.snapshot_progress import clear_progress
from pot_common.errors import OperatorError

SCHEMA_VERSION: Final = b"9"
"""Increased when the meaning of a table changes; a data directory of another version is refused."""

KEY_LIMIT_BYTES: Final = 64
"""No key of the training index is longer."""

_SCHEMA_KEY: Final = b"schema"
_GENESIS_KEY: Final = b"genesis"
_CONFIG_KEY: Final = b"genesis_config"
_HEAD_KEY: Final = b"head"
_NO_CERTIFICATE: Final = codec.encode([])
_FIRST_HELD_KEY: Final = b"first_held"
"""The key of the lowest block number held. The entry is missing if every block is held."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified final block, with everything that a node needs besides its state to continue."""

    ancestors: tuple[Header, ...]
    """Headers of the blocks before it, ascending and without gaps."""
    block: Block
    certificate: CommitCertificate
    receipts: tuple[Receipt, ...]
    """The receipts of the block."""
    senders: tuple[Address, ...]
    """The sender of each transaction of the block."""
    training_rows: Mapping[bytes, bytes]
    """The rows of the training index after the block."""
    validator_set: ValidatorSet
    """The validator set of the block."""
    next_validator_set: ValidatorSet
    """The validator set of its child."""


class BlockStore:
    """Blocks, receipts, certificates and indices of the finalized chain.

    Methods are synchronous and may be called from any thread; `finalize` only from one at a time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._head: Header | None = None
        self._validator_set: tuple[bytes, ValidatorSet] = (b"", ValidatorSet((), ()))

    def initialize(
        self,
        genesis: Header,
        delta: Mapping[bytes, bytes],
        genesis_config: bytes,
        validator_set: ValidatorSet,
    ) -> None:
        """Make `genesis` the head of an empty store; on a store of the same genesis do nothing.

        Args:
            genesis: The header of block 0.
            delta: Trie nodes and code of the genesis state, by Keccak-256.
            genesis_config: The genesis file, stored so that any process can read it.
            validator_set: The validator set of block 1.

        Raises:
            OperatorError: The store holds another chain, or was written by another version.
            StorageError: The disk refused.
        """
        with self._database.write() as writer:
            held = writer.get(Table.META, _GENESIS_KEY)
            if held is not None:
                self._check_schema(writer)
                if held != genesis.hash:
                    raise OperatorError(
                        f"data_dir holds another chain in {self._database.path} (genesis "
                        f"{to_hex(held)}, configured {to_hex(genesis.hash)}): set data_dir to an "
                        "empty directory, or genesis to the file of that chain"
                    )
                return
            writer.put(Table.META, _SCHEMA_KEY, SCHEMA_VERSION)
            writer.put(Table.META, _GENESIS_KEY, genesis.hash)
            writer.put(Table.META, _CONFIG_KEY, genesis_config)
            writer.put(Table.VALIDATOR_SETS, _key(1), _encode_validator_set(validator_set))
            _put_block(writer, Block(genesis, (), None), (), (), delta)

    def check_initialized(self) -> None:
        """Check that the store is not empty and has the schema of this program.

        Raises:
            OperatorError: It has not; the message says what to do.
        """
        with self._database.read() as reader:
            if reader.get(Table.META, _GENESIS_KEY) is None:
                raise OperatorError(
                    f"the database {self._database.path} is empty: run `pot init --genesis FILE`"
                )
            self._check_schema(reader)

    def _check_schema(self, reader: Reader) -> None:
        version = reader.get(Table.META, _SCHEMA_KEY)
        if version != SCHEMA_VERSION:
            found = "?" if version is None else version.decode(errors="replace")
            raise OperatorError(
                f"the database {self._database.path} has format {found}, this program writes "
                f"{SCHEMA_VERSION.decode()}: sync into an empty data_dir"
            )

    def finalize(
        self,
        block: Block,
        certificate: CommitCertificate,
        *,
        receipts: Sequence[Receipt],
        senders: Sequence[Address],
        delta: Mapping[bytes, bytes],
        training_rows: Mapping[bytes, bytes] = MappingProxyType({}),
        next_validator_set: ValidatorSet | None = None,
    ) -> None:
        """Append a committed block and everything that follows from it, in one durable step.

        Args:
            block: The child of the head.
            certificate: Its commit certificate.
            receipts: The receipt of each transaction.
            senders: The sender of each transaction.
            delta: Trie nodes and code that the block adds, by Keccak-256.
            training_rows: The rows of the training index that change with this block.
            next_validator_set: The validator set of the next block; None if it is unchanged.

        Raises:
            StorageError: The disk refused; the head is unchanged.
        """
        assert len(receipts) == len(senders) == len(block.transactions)
        assert block.number == 1 or block.parent_certificate is not None
        with self._database.write() as writer:
            head = _head(writer)
            assert block.number == head.number + 1
            assert block.header.parent_hash == head.hash
            # The parent's certificate is stored with this block's body from now on.
            writer.delete(Table.CERTIFICATES, _key(head.number))
            writer.put(Table.CERTIFICATES, _key(block.number), certificate.encode())
            _put_block(writer, block, receipts, senders, delta)
            for key, value in sorted(training_rows.items()):
                writer.put(Table.TRAINING, key, value)
            if next_validator_set is not None:
                following = _key(block.number + 1)
                writer.put(
                    Table.VALIDATOR_SETS, following, _encode_validator_set(next_validator_set)
                )

    def validator_set(self, number: BlockNumber) -> ValidatorSet:
        """The validator set of block `number`; beyond head + 1, the latest known set.

        Below the snapshot that a node began with, the set is not known; the first set is returned.
        """
        with self._database.read() as reader:
            found = reader.find_last(Table.VALIDATOR_SETS, _key(max(1, number)))
            assert found is not None, "initialize first"
            first, value = found
            if self._validator_set[0] == first:
                return self._validator_set[1]
        validator_set = _decode_validator_set(value)
        self._validator_set = (first, validator_set)
        return validator_set

    def validator_sets_after(
        self, number: BlockNumber, limit: int
    ) -> tuple[tuple[BlockNumber, ValidatorSet], ...]:
        """The next `limit` validator sets after block `number`, each with its first block.

        Two consecutive ones may be equal where this node began with a snapshot.
        """
        with self._database.read() as reader:
            entries = reader.scan(
                Table.VALIDATOR_SETS, _key(number + 1), _key(self.head_number() + 1)
            )
            return tuple(
                (_number(key), _decode_validator_set(value))
                for key, value in islice(entries, limit)
            )

    def next_validator_set(self) -> ValidatorSet:
        """The validator set of the block after the head."""
        return self.validator_set(BlockNumber(self.head_number() + 1))

    def adopt(self, snapshot: Snapshot) -> None:
        """Make the block of a snapshot the head, in one durable step; its state is stored already.

        Raises:
            StorageError: The disk refused; the head is unchanged.
        """
        block = snapshot.block
        with self._database.write() as writer:
            old_head = _head_number(writer)
            assert block.number > old_head
            for header, child in pairwise((*snapshot.ancestors, block.header)):
                assert child.parent_hash == header.hash
                _put_header(writer, header)
            writer.delete(Table.CERTIFICATES, _key(old_head))
            writer.put(Table.CERTIFICATES, _key(block.number), snapshot.certificate.encode())
            _put_block(writer, block, snapshot.receipts, snapshot.senders, {})
            for key, value in sorted(snapshot.training_rows.items()):
                writer.put(Table.TRAINING, key, value)
            for first, validator_set in (
                (block.number, snapshot.validator_set),
                (block.number + 1, snapshot.next_validator_set),
            ):
                writer.put(Table.VALIDATOR_SETS, _key(first), _encode_validator_set(validator_set))
            writer.put(Table.META, _FIRST_HELD_KEY, _key(block.number))
            clear_progress(writer)

    def put_receipts(self, receipts: Mapping[BlockNumber, Sequence[Receipt]]) -> None:
        """Store verified receipts of final blocks that are not held, for a snapshot above them.

        Raises:
            StorageError: The disk refused.
        """
        with self._database.write() as writer:
            for number, each in sorted(receipts.items()):
                writer.put(Table.RECEIPTS, _key(number), encode_receipts(each))

    def list_without_receipts(self, numbers: Iterable[BlockNumber]) -> list[BlockNumber]:
        """Those of the blocks of which no receipts are stored."""
        with self._database.read() as reader:
            return [each for each in numbers if reader.get(Table.RECEIPTS, _key(each)) is None]

    def first_held(self) -> BlockNumber:
        """The lowest block such that it and all later ones are held with receipts and states.

        It is 0 unless the node began with a snapshot. Below it, only genesis and some headers are
        held.
        """
        with self._database.read() as reader:
            value = reader.get(Table.META, _FIRST_HELD_KEY)
        return BlockNumber(0) if value is None else _number(value)

    def training_row(self, key: bytes) -> bytes | None:
        """One row of the training index; None if there is none."""
        with self._database.read() as reader:
            return reader.get(Table.TRAINING, key)

    def training_rows(
        self, prefix: bytes, first: bytes = b"", limit: int | None = None
    ) -> tuple[tuple[bytes, bytes], ...]:
        """The rows of the training index whose keys begin with `prefix`, without it, in order.

        Args:
            prefix: How the keys begin.
            first: The lowest rest of a key.
            limit: The most rows; None for all.
        """
        last = prefix + b"\xff" * KEY_LIMIT_BYTES
        with self._database.read() as reader:
            rows = reader.scan(Table.TRAINING, prefix + first, last)
            return tuple((key[len(prefix) :], value) for key, value in islice(rows, limit))

    def head(self) -> Header:
        """The header of the last finalized block, from a cache."""
        with self._database.read() as reader:
            known, number = self._head, _head_number(reader)
            if known is None or known.number != number:
                known = self._head = _head(reader)
        return known

    def head_number(self) -> BlockNumber:
        """The number of the last finalized block."""
        with self._database.read() as reader:
            return _head_number(reader)

    def genesis_hash(self) -> Hash32:
        """The hash of block 0."""
        return Hash32(self._get_meta(_GENESIS_KEY))

    def genesis_config(self) -> bytes:
        """The genesis file that the chain was made from."""
        return self._get_meta(_CONFIG_KEY)

    def _get_meta(self, key: bytes) -> bytes:
        with self._database.read() as reader:
            value = reader.get(Table.META, key)
        assert value is not None, "initialize first"
        return value

    def number_of(self, block_hash: Hash32) -> BlockNumber | None:
        """The number of the finalized block with that hash; None if there is none."""
        with self._database.read() as reader:
            value = reader.get(Table.NUMBERS, block_hash)
        return None if value is None else _number(value)

    def header(self, number: BlockNumber) -> Header | None:
        """The header at `number`; None above the head."""
        with self._database.read() as reader:
            return _header(reader, number)

    def headers(self, first: BlockNumber, last: BlockNumber) -> tuple[Header, ...]:
        """The headers from `first` to `last`, both included, as far as the chain goes."""
        with self._database.read() as reader:
            return tuple(
                decode_header(value)
                for _, value in reader.scan(Table.HEADERS, _key(first), _key(last))
            )

    def block(self, number: BlockNumber) -> Block | None:
        """The block at `number`; None above the head."""
        with self._database.read() as reader:
            return _block(reader, number)

    def receipts(self, number: BlockNumber) -> tuple[Receipt, ...] | None:
        """The receipts of the block at `number`, in transaction order; None if not held."""
        value = self.encoded_receipts(number)
        return None if value is None else decode_receipts(value)

    def senders(self, number: BlockNumber) -> tuple[Address, ...] | None:
        """The senders in the block at `number`, in transaction order; None above the head."""
        with self._database.read() as reader:
            value = reader.get(Table.SENDERS, _key(number))
        if value is None:
            return None
        return tuple(Address(value[start : start + 20]) for start in range(0, len(value), 20))

    def transaction_location(self, transaction_hash: Hash32) -> tuple[BlockNumber, int] | None:
        """Block number and index of a finalized transaction; None if there is no such one."""
        with self._database.read() as reader:
            value = reader.get(Table.TRANSACTIONS, transaction_hash)
        return None if value is None else (_number(value[:8]), int.from_bytes(value[8:], "big"))

    def certificate(self, number: BlockNumber) -> CommitCertificate | None:
        """The commit certificate of the block at `number`; None for genesis and above the head."""
        with self._database.read() as reader:
            value = _encoded_certificate(reader, number)
        return None if value is None else decode_certificate(value)

    def encoded_header(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        """The encoded header and certificate of the block at `number`; None above the head.

        The certificate is empty if it is not held.
        """
        with self._database.read() as reader:
            header = reader.get(Table.HEADERS, _key(number))
            certificate = _encoded_certificate(reader, number)
        return None if header is None else (header, certificate or b"")

    def encoded_block(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        """The encoded block at `number` and its encoded certificate; None above the head."""
        with self._database.read() as reader:
            header = reader.get(Table.HEADERS, _key(number))
            body = reader.get(Table.BODIES, _key(number))
            certificate = _encoded_certificate(reader, number)
        if header is None or body is None or certificate is None:
            return None
        return codec.join_list([header, *codec.split_list(body)]), certificate

    def encoded_receipts(self, number: BlockNumber) -> bytes | None:
        """The encoded receipts of the block at `number`; None if they are not held."""
        with self._database.read() as reader:
            return reader.get(Table.RECEIPTS, _key(number))

    def coinbases(self, first: BlockNumber, last: BlockNumber) -> tuple[Address, ...]:
        """The coinbases of blocks `first` to `last`, both included, for the primary order."""
        with self._database.read() as reader:
            return tuple(
                Address(value) for _, value in reader.scan(Table.COINBASES, _key(first), _key(last))
            )

    def block_numbers_with_logs(
        self,
        first: BlockNumber,
        last: BlockNumber,
        alternatives: Sequence[Sequence[bytes]] = (),
    ) -> tuple[BlockNumber, ...]:
        """The blocks from `first` to `last` that may contain the requested logs, by their blooms.

        Args:
            first: The lowest block number.
            last: The highest block number, included.
            alternatives: Groups of addresses or topics. The bloom must contain at least one element
                of every group that is not empty.
        """
        groups = [[_bloom_mask(value) for value in group] for group in alternatives if group]
        numbers: list[BlockNumber] = []
        with self._database.read() as reader:
            for key, value in reader.scan(Table.BLOOMS, _key(first), _key(last)):
                bloom = int.from_bytes(value, "big")
                if all(any(bloom & mask == mask for mask in group) for group in groups):
                    numbers.append(_number(key))
        return tuple(numbers)


def _put_block(
    writer: Writer,
    block: Block,
    receipts: Sequence[Receipt],
    senders: Sequence[Address],
    delta: Mapping[bytes, bytes],
) -> None:
    key = _key(block.number)
    body = block.to_item()
    assert isinstance(body, list)
    _put_header(writer, block.header)
    writer.put(Table.BODIES, key, codec.encode(body[1:]))
    writer.put(Table.RECEIPTS, key, encode_receipts(receipts))
    writer.put(Table.SENDERS, key, b"".join(senders))
    if any(block.header.logs_bloom):
        writer.put(Table.BLOOMS, key, block.header.logs_bloom)
    for index, raw in enumerate(block.transactions):
        writer.put(Table.TRANSACTIONS, keccak256(raw), key + index.to_bytes(4, "big"))
    # With ascending keys, each page of the database tree is read once.
    writer.put_new(Table.STATE, sorted(delta.items()))
    writer.put(Table.META, _HEAD_KEY, key)


def _put_header(writer: Writer, header: Header) -> None:
    key = _key(header.number)
    writer.put(Table.HEADERS, key, header.encode())
    writer.put(Table.NUMBERS, header.hash, key)
    writer.put(Table.COINBASES, key, header.coinbase)


def _head_number(reader: Reader) -> BlockNumber:
    value = reader.get(Table.META, _HEAD_KEY)
    assert value is not None, "initialize first"
    return _number(value)


def _head(reader: Reader) -> Header:
    header = _header(reader, _head_number(reader))
    assert header is not None
    return header


def _header(reader: Reader, number: BlockNumber) -> Header | None:
    value = reader.get(Table.HEADERS, _key(number))
    return None if value is None else decode_header(value)


def _encoded_certificate(reader: Reader, number: BlockNumber) -> bytes | None:
    """The encoded certificate; the head's is in a table of its own until the head has a child."""
    value = reader.get(Table.CERTIFICATES, _key(number))
    if value is not None or number >= _head_number(reader):
        return value
    child = reader.get(Table.BODIES, _key(number + 1))
    certificate = _NO_CERTIFICATE if child is None else codec.split_list(child)[1]
    return None if certificate == _NO_CERTIFICATE else certificate


def _block(reader: Reader, number: BlockNumber) -> Block | None:
    header = reader.get(Table.HEADERS, _key(number))
    body = reader.get(Table.BODIES, _key(number))
    if header is None or body is None:
        return None
    items: Iterable[codec.Item] = (
        codec.decode(header, limit_bytes=BLOCK_LIMIT_BYTES),
        *codec.as_list(codec.decode(body, limit_bytes=BLOCK_LIMIT_BYTES), length=2),
    )
    return block_from_item(list(items))


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _number(key: bytes) -> BlockNumber:
    return BlockNumber(int.from_bytes(key, "big"))


def _encode_validator_set(validator_set: ValidatorSet) -> bytes:
    pairs = zip(validator_set.validators, validator_set.operators, strict=True)
    return codec.encode([list(pair) for pair in pairs])


def _decode_validator_set(value: bytes) -> ValidatorSet:
    pairs = [
        codec.as_list(item, length=2)
        for item in codec.as_list(codec.decode(value, limit_bytes=len(value)))
    ]
    return ValidatorSet(
        tuple(Address(codec.as_bytes(validator)) for validator, _ in pairs),
        tuple(Address(codec.as_bytes(operator)) for _, operator in pairs),
    )


def _bloom_mask(value: bytes) -> int:
    # The bloom filter of one address or topic; both set bits in the same way.
    return int.from_bytes(compute_bloom((Log(Address(value), (), b""),)), "big")
