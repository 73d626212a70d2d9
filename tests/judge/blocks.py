"""Random chains for the comparison: genesis, contracts, and candidates for every block."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from chain import codec
from chain.crypto import SECP256K1_ORDER, get_address, keccak256, sign
from chain.execution.gas import compute_floor_gas, compute_intrinsic_gas
from chain.genesis import HISTORY_STORAGE_ADDRESS, GenesisAccount
from chain.primitives import Address, Hash32, PrivateKey
from chain.state.world_state import WorldState
from tests.judge.programs import HELPERS, Program, build_probes, write_init_code
from tests.worlds.chain import CHAIN_ID, ETHER, VALIDATORS, Chain, genesis_config

BASE_FEE = 7
GAS_LIMIT = 30_000_000
MAX_CANDIDATES = 19
"""Besides the one that calls the driver; with more, a difference is hard to find."""
KEYS = tuple(PrivateKey(keccak256(b"judge" + bytes([n]))) for n in range(7))
RICH, CODED = KEYS[:5], KEYS[6]
"""The account of the last key has code in genesis; the one before it begins without a coin."""

CONTRACTS = tuple(Address(bytes([0xC0 + n]) * 20) for n in range(8))
PROBES = tuple(Address(bytes([0xD0 + n]) * 20) for n in range(15))
DRIVER = Address(b"\xdf" * 20)
"""Calls each of the probes, which are contracts of one opcode."""

NOBODY = Address(b"\xee" * 20)


@dataclass(frozen=True)
class Fields:
    """A transaction before it is signed; any field may be wrong."""

    type: int = 2
    chain_id: int | None = CHAIN_ID
    nonce: int = 0
    max_fee_per_gas: int = 20
    max_priority_fee_per_gas: int = 2
    gas_limit: int = 100_000
    to: bytes = NOBODY
    value: int = 0
    data: bytes = b""
    access_list: Sequence[tuple[bytes, Sequence[bytes]]] = ()
    authorization_list: Sequence[Sequence[codec.Encodable]] = ()
    has_high_s: bool = False


def encode_signed(fields: Fields, key: PrivateKey) -> bytes:
    """The signed transaction in its EIP-2718 encoding."""
    call: list[codec.Encodable] = [fields.gas_limit, fields.to, fields.value, fields.data]
    accesses = [[address, list(slots)] for address, slots in fields.access_list]
    chain_id = fields.chain_id or 0
    fees: list[codec.Encodable] = [fields.max_priority_fee_per_gas, fields.max_fee_per_gas]
    head: list[codec.Encodable] = [chain_id, fields.nonce]
    match fields.type:
        case 0:
            unsigned = [fields.nonce, fields.max_fee_per_gas, *call]
            suffix = [] if fields.chain_id is None else [chain_id, 0, 0]
            parity, r, s = _sign(codec.encode([*unsigned, *suffix]), key, fields)
            v = parity + (27 if fields.chain_id is None else 35 + 2 * chain_id)
            return codec.encode([*unsigned, v, r, s])
        case 1:
            unsigned = [*head, fields.max_fee_per_gas, *call, accesses]
        case 2:
            unsigned = [*head, *fees, *call, accesses]
        case 3:
            blob_hash = b"\x01" + bytes(31)
            unsigned = [*head, *fees, *call, accesses, 10, [blob_hash]]
        case _:
            unsigned = [*head, *fees, *call, accesses, list(fields.authorization_list)]
    prefix = bytes([fields.type])
    signature = _sign(prefix + codec.encode(unsigned), key, fields)
    return prefix + codec.encode([*unsigned, *signature])


def _sign(message: bytes, key: PrivateKey, fields: Fields) -> tuple[int, int, int]:
    signature = sign(keccak256(message), key)
    r, s = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
    if fields.has_high_s:
        return 1 - signature[64], r, SECP256K1_ORDER - s
    return signature[64], r, s


class RandomChain:
    """A chain of blocks that a seed determines, as long as the engine stays the same.

    The gas used is Ethereum's: the reference knows no effort, so the chain does not charge for it.
    """

    def __init__(self, seed: int) -> None:
        self._random = random = Random(seed)
        self._is_slow_allowed = random.random() < 0.3
        senders = [get_address(key) for key in KEYS]
        created = [
            Address(keccak256(codec.encode([address, nonce]))[12:])
            for address in CONTRACTS
            for nonce in (1, 2, 3)
        ]
        precompiles = [Address(bytes(19) + bytes([n])) for n in range(0x13)]
        self.addresses = [
            *(address for address in CONTRACTS for _ in range(8)),
            *PROBES,
            DRIVER,
            *senders,
            *created,
            *precompiles,
            *VALIDATORS[:1],
            NOBODY,
            HISTORY_STORAGE_ADDRESS,
        ]
        alloc = {
            address: GenesisAccount(
                nonce=1,
                balance=random.choice((0, 1, 10**6)),
                code=self._write_program(),
                storage={
                    slot: random.choice((1, 2, 2**200)) for slot in range(random.randrange(4))
                },
            )
            for address in CONTRACTS
        }
        all_probes = build_probes()
        probes = {
            address: all_probes[(seed * len(PROBES) + index) % len(all_probes)]
            for index, address in enumerate(PROBES)
        }
        alloc |= {
            address: GenesisAccount(nonce=1, balance=5, code=code)
            for address, (code, _) in probes.items()
        }
        alloc |= {
            Address(address): GenesisAccount(nonce=1, code=code)
            for address, code in HELPERS.items()
        }
        driver = Program(random, self.addresses).write_driver(
            [(address, gas) for address, (_, gas) in probes.items()]
        )
        alloc[DRIVER] = GenesisAccount(nonce=1, code=driver)
        alloc |= {get_address(key): GenesisAccount(balance=ETHER) for key in RICH}
        alloc[get_address(CODED)] = GenesisAccount(balance=ETHER, code=b"\x00")
        config = replace(
            genesis_config(alloc, gas_per_tick=0), base_fee_per_gas=BASE_FEE, gas_limit=GAS_LIMIT
        )
        config = replace(config, alloc=alloc)
        self.chain = Chain(config)
        self._nonces: dict[PrivateKey, int] = {}

    def _write_program(self) -> bytes:
        program = Program(self._random, self.addresses, is_slow_allowed=self._is_slow_allowed)
        if self._random.random() < 0.03:
            return program.write_fault()
        return program.write(self._random.randrange(5, 60))

    def draw_candidates(self) -> list[bytes]:
        """Encoded transactions for the next block; some of them are invalid."""
        world = WorldState(self.chain.database, self.chain.head.state_root)
        self._nonces = {key: world.get_nonce(get_address(key)) for key in KEYS}
        count = self._random.choice((1, 2, 4, 8, 8, 8, MAX_CANDIDATES))
        candidates = [self._draw_transaction() for _ in range(count)]
        if self.chain.head.number == 0:
            key = RICH[0]
            drive = Fields(nonce=self._nonces[key], to=DRIVER, gas_limit=3_000_000)
            candidates.append(encode_signed(drive, key))
        return candidates

    def _draw_transaction(self) -> bytes:
        random = self._random
        key = random.choice(KEYS if random.random() < 0.1 else RICH)
        nonce = self._nonces[key]
        fields = Fields(
            type=random.choice((0, 1, 2, 2, 4, 4)),
            nonce=nonce,
            max_fee_per_gas=random.choice((BASE_FEE, 20, 20, 10**6)),
            max_priority_fee_per_gas=random.choice((0, 2, 5)),
            value=random.choice((0, 0, 0, 1, 10**6, 10**15)),
        )
        if fields.type == 0 and random.random() < 0.3:
            fields = replace(fields, chain_id=None)
        fields = self._draw_target(fields)
        if fields.type and random.random() < 0.4:
            fields = replace(fields, access_list=self._draw_access_list())
        if fields.type == 4:
            fields = replace(fields, authorization_list=self._draw_authorizations(key))
        required = max(
            compute_floor_gas(fields.data),
            compute_intrinsic_gas(
                Address(fields.to) if fields.to else None,
                fields.data,
                [
                    (Address(each), [Hash32(key) for key in keys])
                    for each, keys in fields.access_list
                ],
                len(fields.authorization_list),
            ),
        )
        # Sometimes just enough for the call itself, or a little more.
        gas = required + random.choice((0, 3_000, 60_000) + (200_000, 400_000, 800_000) * 5)
        fields = replace(fields, gas_limit=gas)
        is_broken = random.random() < 0.12
        if is_broken:
            fields = self._break(fields)
        else:
            self._nonces[key] = nonce + 1
        return encode_signed(fields, key)

    def _draw_target(self, fields: Fields) -> Fields:
        random = self._random
        if fields.type != 4 and random.random() < 0.5:
            is_program = random.random() < 0.6
            data = (
                self._write_program() if is_program else write_init_code(random, self.addresses, 1)
            )
            return replace(fields, to=b"", data=data)
        data = random.randbytes(random.choice((0, 0, 4, 36, 100)))
        if random.random() < 0.1:
            data = bytes(random.choice((100, 1000)))
        if random.random() < 0.03:
            data = b"\xff" * 600  # EIP-7623's floor decides
        to = random.choice(
            (*CONTRACTS, *CONTRACTS, DRIVER) if random.random() < 0.85 else self.addresses
        )
        return replace(fields, to=to, data=data)

    def _draw_access_list(self) -> list[tuple[bytes, list[bytes]]]:
        random = self._random
        return [
            (
                random.choice(self.addresses),
                [random.randrange(4).to_bytes(32, "big") for _ in range(random.randrange(3))],
            )
            for _ in range(random.randrange(4))
        ]

    def _draw_authorizations(self, sender: PrivateKey) -> list[list[codec.Encodable]]:
        return [self._draw_authorization(sender) for _ in range(self._random.randrange(1, 4))]

    def _draw_authorization(self, sender: PrivateKey) -> list[codec.Encodable]:
        random = self._random
        key = random.choice((sender, *KEYS))
        authority = get_address(key)
        # The sender's nonce is raised before authorizations are looked at.
        nonce = self._nonces[key] + (key == sender)
        chain_id: int = CHAIN_ID
        delegate = random.choice(
            (*CONTRACTS, authority, *(get_address(other) for other in KEYS), bytes(20))
        )
        if random.random() < 0.15:
            delegate = random.choice(self.addresses)
        match random.randrange(12):
            case 0:
                nonce = max(0, nonce - 1)
            case 1:
                nonce += 1
            case 2:
                chain_id = random.choice((1, CHAIN_ID + 1, 2**256 - 1))
            case 3:
                nonce = 2**64 - 1
            case 4 | 5:
                chain_id = 0
            case _:
                pass
        digest = keccak256(b"\x05" + codec.encode([chain_id, delegate, nonce]))
        signature = sign(digest, key)
        parity = signature[64]
        r, s = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
        match random.randrange(16):
            case 0:
                parity, s = 1 - parity, SECP256K1_ORDER - s
            case 1:
                parity = random.choice((2, 27, 255))
            case 2:
                r = random.choice((0, 1, SECP256K1_ORDER, 2**256 - 1))
            case 3:
                s = random.choice((0, SECP256K1_ORDER, SECP256K1_ORDER // 2 + 1))
            case _:
                pass
        is_plain = nonce == self._nonces[key] + (key == sender) and chain_id in (0, CHAIN_ID)
        if is_plain and key != sender and random.random() < 0.9:
            self._nonces[key] += 1
        return [chain_id, delegate, nonce, parity, r, s]

    def _break(self, fields: Fields) -> Fields:
        random = self._random
        match random.randrange(13):
            case 0:
                return replace(fields, chain_id=CHAIN_ID + 1)
            case 1:
                return replace(fields, nonce=fields.nonce + 1)
            case 2:
                return replace(fields, nonce=max(0, fields.nonce - 1))
            case 3:
                return replace(fields, gas_limit=random.choice((0, 20_999)))
            case 4:
                return replace(fields, gas_limit=2**24 + 1)
            case 5:
                return replace(fields, gas_limit=GAS_LIMIT + 1)
            case 6:
                return replace(fields, max_fee_per_gas=BASE_FEE - 1, max_priority_fee_per_gas=0)
            case 7:
                return replace(fields, type=2, max_priority_fee_per_gas=fields.max_fee_per_gas + 1)
            case 8:
                return replace(fields, value=10**30)
            case 9:
                return replace(fields, type=3, to=fields.to or NOBODY)
            case 10:
                return replace(fields, has_high_s=True)
            case 11:
                return replace(fields, type=2, to=b"", data=bytes(49_153), gas_limit=2_000_000)
            case _:
                return replace(fields, type=4, authorization_list=())
