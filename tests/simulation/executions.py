"""The real transition: py-evm builds and executes blocks, each once in a world.

In a strict world, each node executes each block.
"""

from collections.abc import Sequence
from functools import cache

from chain.builder import build_block
from chain.crypto import get_address
from chain.errors import InvalidBlock
from chain.genesis import GenesisAccount, GenesisConfig, GenesisState, build_genesis
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, Hash32
from chain.transition import apply_block
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.transaction import Transaction
from chain.validation import VerifyCertificate
from tests.simulation.validator_sets import ValidatorSets
from tests.worlds.chain import ALICE, CHAIN_ID, sign

GENESIS_SECONDS = 1_700_000_000
RECIPIENT = b"\x77" * 20


@cache
def make_genesis(validators: tuple[Address, ...]) -> tuple[GenesisConfig, GenesisState]:
    config = GenesisConfig(
        chain_id=CHAIN_ID,
        parameters=ChainParameters(validators=validators),
        alloc={get_address(ALICE): GenesisAccount(balance=10**18)},
        timestamp=GENESIS_SECONDS,
    )
    return config, build_genesis(config)


@cache
def transfer(nonce: int) -> Transaction:
    """A payment by Alice with that nonce."""
    return sign(ALICE, nonce, RECIPIENT, value=1, gas=21_000)


class Executions:
    """Builds and executes blocks of one world."""

    def __init__(
        self,
        sets: ValidatorSets,
        verify_certificate: VerifyCertificate,
        *,
        is_strict: bool,
    ) -> None:
        self.config, self.genesis = make_genesis(sets.validators(BlockNumber(1)))
        self.count = 0
        self._sets = sets
        self._verify_certificate = verify_certificate
        self._is_strict = is_strict
        self._databases: dict[str, dict[bytes, bytes]] = {}
        self._verdicts: dict[tuple[str, Hash32], bool] = {}

    def build(
        self,
        name: str,
        chain: Sequence[tuple[Block, CommitCertificate]],
        coinbase: Address,
        seconds: int,
        *,
        with_transfer: bool,
    ) -> Block:
        """A block of node `name` on top of its chain."""
        parent, certificate = self._parent_of(chain)
        nonce = sum(len(block.transactions) for block, _ in chain)
        built = build_block(
            parent,
            [transfer(nonce)] if with_transfer else [],
            self._database(name),
            self.config,
            coinbase=coinbase,
            timestamp=seconds,
            parent_certificate=certificate,
        )
        assert built.dropped == ()
        self.count += 1
        self._database(name).update(built.result.delta)
        self._verdicts[self._key(name, built.block)] = True
        return built.block

    def is_valid(
        self, name: str, chain: Sequence[tuple[Block, CommitCertificate]], block: Block
    ) -> bool:
        """Whether node `name` finds a block valid on top of its chain."""
        key = self._key(name, block)
        if key not in self._verdicts:
            parent, _ = self._parent_of(chain)
            database = self._database(name)
            self.count += 1
            try:
                result = apply_block(
                    parent,
                    block,
                    database,
                    self.config,
                    self._sets.validators(block.number),
                    self._verify_certificate,
                )
            except InvalidBlock:
                self._verdicts[key] = False
            else:
                database.update(result.delta)
                self._verdicts[key] = True
        return self._verdicts[key]

    def _parent_of(
        self, chain: Sequence[tuple[Block, CommitCertificate]]
    ) -> tuple[Header, CommitCertificate | None]:
        if not chain:
            return self.genesis.header, None
        block, certificate = chain[-1]
        return block.header, certificate

    def _database(self, name: str) -> dict[bytes, bytes]:
        owner = name if self._is_strict else ""
        return self._databases.setdefault(owner, dict(self.genesis.delta))

    def _key(self, name: str, block: Block) -> tuple[str, Hash32]:
        return (name if self._is_strict else "", block.hash)
