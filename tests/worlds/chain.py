"""A real chain in memory: three validators, four rich accounts, and transactions between them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from eth_account import Account as Wallet

from chain.builder import BuiltBlock, build_block
from chain.crypto import get_address, keccak256
from chain.genesis import GenesisAccount, GenesisConfig, GenesisState, build_genesis
from chain.params import ChainParameters
from chain.primitives import Address, PrivateKey, Signature, ValidatorIndex, View
from chain.transition import BlockResult, apply_block
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.transaction import Transaction, decode_transaction

CHAIN_ID = 4242
ETHER = 10**18
ALICE, BOB, CAROL, DAVE = (PrivateKey(keccak256(name)) for name in (b"a", b"b", b"c", b"d"))
VALIDATORS = tuple(sorted(get_address(PrivateKey(keccak256(bytes([n])))) for n in range(3)))
CERTIFICATE = CommitCertificate(View(0), ((ValidatorIndex(0), Signature(bytes(65))),))


def accept_certificate(_certificate: CommitCertificate, _number: int, _digest: bytes) -> None:
    """Accept any certificate, because certificates have their own tests."""


def genesis_config(
    alloc: Mapping[Address, GenesisAccount] | None = None, **parameters: object
) -> GenesisConfig:
    rich = {get_address(key): GenesisAccount(balance=ETHER) for key in (ALICE, BOB, CAROL, DAVE)}
    return GenesisConfig(
        chain_id=CHAIN_ID,
        parameters=replace(ChainParameters(validators=VALIDATORS), **parameters),
        alloc={**rich, **(alloc or {})},
        timestamp=1_700_000_000,
    )


class Chain:
    """A chain that finalizes every block it builds, in memory."""

    def __init__(self, config: GenesisConfig | None = None) -> None:
        self.config = config or genesis_config()
        self.genesis: GenesisState = build_genesis(self.config)
        self.database: dict[bytes, bytes] = dict(self.genesis.delta)
        self.head: Header = self.genesis.header

    @property
    def certificate(self) -> CommitCertificate | None:
        return CERTIFICATE if self.head.number else None

    def build(self, transactions: Iterable[Transaction], **changes: object) -> BuiltBlock:
        arguments = {
            "coinbase": VALIDATORS[0],
            "timestamp": self.head.timestamp + 1,
            "parent_certificate": self.certificate,
            **changes,
        }
        return build_block(self.head, transactions, self.database, self.config, **arguments)

    def apply(self, block: Block) -> BlockResult:
        return apply_block(
            self.head, block, self.database, self.config, VALIDATORS, accept_certificate
        )

    def extend(self, *transactions: Transaction, **changes: object) -> BlockResult:
        """Build, import and finalize a block."""
        built = self.build(transactions, **changes)
        assert built.dropped == ()
        result = self.apply(built.block)
        self.database.update(result.delta)
        self.head = result.header
        return result


def sign(key: PrivateKey, nonce: int, to: bytes | None = None, **changes: object) -> Transaction:
    """A dynamic-fee transaction, or a legacy one if `gasPrice` is given."""
    fields: dict[str, object] = {
        "chainId": CHAIN_ID,
        "nonce": nonce,
        "gas": 21_000,
        "to": b"" if to is None else to,
        "value": 0,
        "data": b"",
    }
    if "gasPrice" not in changes:
        fields |= {"maxFeePerGas": 10, "maxPriorityFeePerGas": 1, "type": 2}
    fields |= changes
    if "authorizationList" in changes:
        del fields["type"]
    return decode_transaction(bytes(Wallet.sign_transaction(fields, key).raw_transaction))
