"""Well-formed headers, blocks and chains that were never executed; nothing in them is signed."""

from dataclasses import dataclass, replace

from chain.crypto import keccak256
from chain.primitives import (
    EMPTY_REQUESTS_HASH,
    EMPTY_TRIE_ROOT,
    EMPTY_UNCLES_HASH,
    ZERO_ADDRESS,
    ZERO_HASH,
    Address,
    BlockNumber,
    Hash32,
    Signature,
    ValidatorIndex,
    View,
)
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.receipt import Log, Receipt, build_receipt, combine_blooms
from chain.types.validator_set import ValidatorSet

SMALL_MAP_BYTES = 2**36
"""The largest database of a test, which may have many open: a process can address 128 TiB."""

GENESIS_DELTA = {keccak256(b"genesis state"): b"genesis state"}


@dataclass(frozen=True)
class ChainLink:
    """A block with everything `BlockStore.finalize` takes."""

    block: Block
    certificate: CommitCertificate
    receipts: tuple[Receipt, ...]
    senders: tuple[Address, ...]
    delta: dict[bytes, bytes]


def address(value: int) -> Address:
    return Address(value.to_bytes(20, "big"))


def topic(value: int) -> Hash32:
    return Hash32(value.to_bytes(32, "big"))


_EMPTY_HEADER = Header(
    parent_hash=ZERO_HASH,
    ommers_hash=EMPTY_UNCLES_HASH,
    coinbase=ZERO_ADDRESS,
    state_root=EMPTY_TRIE_ROOT,
    transactions_root=EMPTY_TRIE_ROOT,
    receipts_root=EMPTY_TRIE_ROOT,
    logs_bloom=bytes(256),
    difficulty=0,
    number=BlockNumber(0),
    gas_limit=30_000_000,
    gas_used=0,
    timestamp=0,
    extra_data=bytes(32),
    mix_hash=ZERO_HASH,
    nonce=bytes(8),
    base_fee_per_gas=0,
    withdrawals_root=EMPTY_TRIE_ROOT,
    blob_gas_used=0,
    excess_blob_gas=0,
    parent_beacon_block_root=ZERO_HASH,
    requests_hash=EMPTY_REQUESTS_HASH,
)


def make_header(number: int, **fields: object) -> Header:
    """A header over an empty block and state; its timestamp is its number unless told otherwise."""
    return replace(_EMPTY_HEADER, **{"number": BlockNumber(number), "timestamp": number, **fields})


def header(number: int, parent_hash: Hash32, logs_bloom: bytes = bytes(256)) -> Header:
    """A header of `chain_of`; its state root stands for no state."""
    return make_header(
        number,
        parent_hash=parent_hash,
        coinbase=address(1000 + number),
        state_root=keccak256(b"state %d" % number),
        logs_bloom=logs_bloom,
    )


GENESIS = header(0, ZERO_HASH)


def certificate(number: int) -> CommitCertificate:
    entries = ((ValidatorIndex(i), Signature(bytes([number % 256]) * 65)) for i in range(3))
    return CommitCertificate(View(number % 3), tuple(entries))


def chain_of(length: int, *, state_nodes: int = 3) -> list[ChainLink]:
    """Blocks 1 to `length`; the even ones have two transactions, the second with a log."""
    links: list[ChainLink] = []
    parent, parent_certificate = GENESIS, None
    for number in range(1, length + 1):
        raws, receipts, senders = (), (), ()
        if number % 2 == 0:
            raws = (b"first of %d" % number, b"second of %d" % number)
            log = Log(address(number), (topic(number), topic(7)), b"data")
            receipts = (build_receipt(2, 1, 21_000, ()), build_receipt(0, 1, 50_000, (log,)))
            senders = (address(number), address(number + 1))
        bloom = combine_blooms([receipt.logs_bloom for receipt in receipts])
        block = Block(header(number, parent.hash, bloom), raws, parent_certificate)
        nodes = [b"node %d of %d" % (index, number) for index in range(state_nodes)]
        links.append(
            ChainLink(
                block,
                certificate(number),
                receipts,
                senders,
                {keccak256(node): node for node in nodes},
            )
        )
        parent, parent_certificate = block.header, certificate(number)
    return links


GENESIS_SET = ValidatorSet(
    tuple(address(100 + i) for i in range(4)), tuple(address(200 + i) for i in range(4))
)
