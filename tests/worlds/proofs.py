"""Signed headers over any storage, with the proofs by which a node proves its answers."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from chain.consensus.messages import (
    CONSENSUS_VERSION,
    MessageKind,
    SigningDomain,
    compute_signing_digest,
)
from chain.contracts import ledger_storage
from chain.contracts.addresses import GRADIENT_LEDGER, MINER_SEATS, TASK_REGISTRY
from chain.contracts.set_storage import SET_HASH_SLOT, compute_set_hash
from chain.contracts.task_registry import TaskStatus
from chain.crypto import get_address, sign
from chain.genesis import GenesisAccount, GenesisConfig, build_alloc, build_genesis
from chain.params import ChainParameters
from chain.primitives import (
    Address,
    BlockNumber,
    Hash32,
    PrivateKey,
    TaskId,
    ValidatorIndex,
    View,
)
from chain.state.proof import StorageReads, build_state_proof
from chain.types.certificate import CommitCertificate
from chain.types.header import Header

CHAIN_ID = 31_337
START = 1_000_000
Storage = Mapping[Address, Mapping[int, int]]

VALIDATOR_KEYS = tuple(
    sorted((PrivateKey(bytes([n]) * 32) for n in range(0x21, 0x25)), key=get_address)
)
PARAMETERS = ChainParameters(
    validators=tuple(get_address(key) for key in VALIDATOR_KEYS), phase_floor_blocks=2
)
CONFIG = GenesisConfig(chain_id=CHAIN_ID, parameters=PARAMETERS, alloc={}, timestamp=START)
GENESIS = build_genesis(CONFIG).header


def certify(
    header: Header,
    signers: tuple[int, ...] = (0, 1, 2),
    chain_id: int = CHAIN_ID,
    keys: tuple[PrivateKey, ...] = VALIDATOR_KEYS,
) -> CommitCertificate:
    """The certificate of a header in view 0, signed by the validators of those indices."""
    domain = SigningDomain(chain_id, GENESIS.hash, CONSENSUS_VERSION)
    digest = compute_signing_digest(domain, MessageKind.COMMIT, header.number, View(0), header.hash)
    return CommitCertificate(
        View(0), tuple((ValidatorIndex(index), sign(digest, keys[index])) for index in signers)
    )


def make_header(
    number: int,
    storage: Storage,
    timestamp: int = START,
    nonces: Mapping[Address, int] = MappingProxyType({}),
) -> tuple[Header, dict]:
    """A header over a state with that storage and accounts with those nonces, and its nodes."""
    alloc = {address: GenesisAccount(nonce=1, storage=slots) for address, slots in storage.items()}
    alloc |= {address: GenesisAccount(nonce=nonce) for address, nonce in nonces.items() if nonce}
    state_root, nodes = build_alloc(alloc)
    mix_hash = Hash32(number.to_bytes(32, "big"))
    header = replace(
        GENESIS,
        number=BlockNumber(number),
        state_root=state_root,
        timestamp=timestamp,
        mix_hash=mix_hash,
    )
    return header, nodes


def prove(
    number: int,
    storage: Storage,
    reads: StorageReads,
    timestamp: int = START,
    certificate: CommitCertificate | None = None,
    nonces: Mapping[Address, int] = MappingProxyType({}),
) -> dict[str, object]:
    """The answer to pot_getProof."""
    header, nodes = make_header(number, storage, timestamp, nonces)
    proof = build_state_proof(nodes, header.state_root, reads)
    return {
        "header": "0x" + header.encode().hex(),
        "certificate": "0x" + (certificate or certify(header)).encode().hex(),
        "nodes": ["0x" + node.hex() for node in proof],
    }


def attempt_storage(
    task: TaskId,
    *,
    round_number: int,
    attempt: int,
    open_block: int,
    verdict_block: int = 0,
    floor_blocks: int = 2,
    model_root: Hash32,
    is_open: bool = True,
    ordinal: int = 1,
    ended_block: int = 0,
) -> dict[int, int]:
    """The ledger's storage of an attempt."""
    place, times, votes, model = ledger_storage.list_attempt_slots(task)
    _, terms = ledger_storage.list_opening_slots(task)[GRADIENT_LEDGER]
    return {
        place: round_number | attempt << 32 | ordinal << 96 | is_open << 144,
        times: open_block | START << 64 | verdict_block << 128,
        votes: floor_blocks << 232,
        model: int.from_bytes(model_root, "big"),
        terms: ended_block << 192,
    }


def members_storage(
    task: TaskId,
    members: tuple[tuple[Address, int], ...],
    committed: Mapping[Address, int],
    *,
    is_slashed: bool = False,
    first_attempt: int = 1,
    miss_count: int = 0,
    has_left: bool = False,
    registered_block: int = 0,
    is_displaced: bool = False,
    has_seat_bond: bool = True,
) -> dict[int, int]:
    """The storage of seats in the order in which they were taken.

    `committed` gives the ordinal of the attempt in which a miner committed last.
    """
    miners = [miner for miner, _ in members]
    count, *slots = ledger_storage.list_participant_slots(task, miners)
    elements = {
        slot: int.from_bytes(miner, "big") for slot, miner in zip(slots, miners, strict=False)
    }
    registrations = {
        slot: units
        | first_attempt << 32
        | committed.get(miner, 0) << 128
        | (not is_slashed and not has_left and miss_count < 2) << 160
        | miss_count << 192
        | has_seat_bond << 200
        | is_slashed << 208
        | registered_block << 216
        | is_displaced << 248
        for slot, (miner, units) in zip(slots[len(miners) :], members, strict=True)
    }
    _, seats = ledger_storage.list_opening_slots(task)[MINER_SEATS]
    units = sum(units for _, units in members) << 224
    return {count: len(miners), seats: units, **elements, **registrations}


def ledger_with(*parts: Mapping[int, int]) -> dict[int, int]:
    """The ledger's storage with all parts."""
    return {slot: value for part in parts for slot, value in part.items()}


def task_storage(
    task: TaskId, spec_hash: Hash32, status: TaskStatus, *, attempts_left: int = 100
) -> dict[int, int]:
    """The registry's storage of a task with enough money, and a lifetime of years."""
    terms, account = ledger_storage.list_task_slots(task)
    _, refundable, ends, counts = ledger_storage.list_opening_slots(task)[TASK_REGISTRY]
    return {
        terms: int.from_bytes(spec_hash, "big"),
        account: int(status) << 160,
        refundable: 10**30,
        ends: (START + 10**8) << 128,
        counts: attempts_left << 160 | 500 << 192,
    }


def set_storage(keys: tuple[PrivateKey, ...]) -> dict[int, int]:
    """The storage of the validator set while no change is scheduled."""
    validators = tuple(get_address(key) for key in keys)
    return {SET_HASH_SLOT: int.from_bytes(compute_set_hash(validators), "big")}


def genesis_answer() -> dict[str, str]:
    """The answer to pot_getGenesis."""
    parameters = PARAMETERS.canonical_bytes()
    return {"header": "0x" + GENESIS.encode().hex(), "parameters": "0x" + parameters.hex()}


def read_reads(storage: Mapping[str, list[str]]) -> dict[Address, list[int]]:
    """The first parameter of pot_getProof."""
    return {
        Address(bytes.fromhex(address[2:])): [int(slot, 16) for slot in slots]
        for address, slots in storage.items()
    }
