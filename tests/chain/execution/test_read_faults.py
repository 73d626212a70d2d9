"""A database that fails ends the execution; it never becomes a failed transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from chain.builder import BuiltBlock, build_block
from chain.genesis import GenesisAccount
from chain.state.trie import StateReadError
from tests.worlds.chain import ALICE, VALIDATORS, Chain, genesis_config, sign

READER, OTHER = b"\x01" * 20, b"\x02" * 20
READ_SLOT = bytes.fromhex("5f545f5500")
"""SSTORE(0, SLOAD(0))"""
CALL_OTHER = bytes.fromhex("5f5f5f5f5f73" + OTHER.hex() + "62ffffff") + bytes.fromhex("f15000")
"""CALL(0xffffff, OTHER, 0, 0, 0, 0, 0)"""


@dataclass
class FailingDatabase:
    """A database of which one read fails."""

    entries: Mapping[bytes, bytes]
    reads_left: int

    def get(self, key: bytes) -> bytes | None:
        self.reads_left -= 1
        if self.reads_left == 0:
            raise OSError("input/output error")
        return self.entries.get(key)


def build(chain: Chain, database: FailingDatabase) -> BuiltBlock:
    call = sign(ALICE, 0, READER, gas=200_000)
    return build_block(
        chain.head,
        [call],
        database,
        chain.config,
        coinbase=VALIDATORS[0],
        timestamp=chain.head.timestamp + 1,
        parent_certificate=chain.certificate,
    )


def test_read_that_fails_in_an_opcode_is_no_failure_of_the_transaction() -> None:
    contracts = {
        READER: GenesisAccount(code=CALL_OTHER),
        OTHER: GenesisAccount(code=READ_SLOT, storage={0: 7}),
    }
    chain = Chain(genesis_config(contracts))
    healthy = build(chain, FailingDatabase(chain.database, 0))
    failed = 0
    for number in count(1):
        database = FailingDatabase(chain.database, number)
        try:
            built = build(chain, database)
        except (StateReadError, OSError):
            failed += 1
            continue
        assert built.block.header.state_root == healthy.block.header.state_root
        assert database.reads_left > 0, f"read {number} failed, and nobody noticed"
        break
    assert failed > 3
