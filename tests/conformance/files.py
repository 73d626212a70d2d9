"""Files of the repository that programs read, and one genesis."""

from chain.genesis import build_genesis
from chain.params import BaseFeeMode, ChainParameters
from node.setup.network_genesis import (
    NetworkPlan,
    Seat,
    build_network,
    compute_genesis_hash,
    encode_genesis,
)
from tests.conformance import values
from tests.conformance.registry import ROOT, Value, sample
from tests.conformance.values import make_address


@sample("vectors")
def read_vectors() -> Value:
    return {path.name: path.read_bytes() for path in (ROOT / "tests/vectors").iterdir()}


@sample("contracts")
def read_contracts() -> Value:
    return {path.name: path.read_bytes() for path in (ROOT / "contracts/build").iterdir()}


@sample(
    "genesis",
    "encode_genesis",
    "_word",
    "compute_genesis_hash",
    "compute_extra_data",
    "compute_commitment",
    "build_alloc",
    "ChainParameters.to_json",
    "ChainParameters.canonical_bytes",
    "parse_genesis",
)
def build_fixed_genesis() -> Value:
    """Four validators, two accounts with money, and all six contracts."""
    plan = NetworkPlan(
        chain_id=values.CHAIN_ID,
        seats=tuple(Seat(make_address(140 + at), make_address(150 + at)) for at in range(4)),
        parameters=ChainParameters(
            min_block_interval_ms=201,
            empty_block_interval_ms=1_002,
            view_timeout_base_ms=2_003,
            view_timeout_cap_ms=90_004,
            base_fee_mode=BaseFeeMode.EIP1559,
            base_fee_floor_wei=5,
            transaction_gas_limit=2**24 + 6,
            gas_per_tick=3,
            phase_floor_blocks=7,
            grace_blocks=5,
            blob_bytes_per_second=1_000_008,
            validator_stake_pot=10_009,
            min_validators=2,
            validator_change_blocks=101,
            evidence_blocks=200_001,
            task_slots=65,
            slot_price=10**13 + 1,
            second_price=10**14 + 2,
            byte_price=10**17 + 3,
            examination_fee=10**16 + 4,
            pending_seconds=3_605,
            max_lifetime_seconds=2_592_006,
            idle_seconds=86_407,
        ),
        gas_limit=30_000_012,
        base_fee_per_gas=13,
        timestamp=1_700_000_014,
        has_faucet=True,
        tokens={make_address(160): 10**24 + 15, make_address(161): 16},
        coins={make_address(160): 10**18 + 17},
    )
    config = build_network(plan)
    genesis = build_genesis(config)
    return {
        "hash": compute_genesis_hash(config),
        "header": genesis.header.encode(),
        "state_root": genesis.header.state_root,
        "delta": genesis.delta,
        "file": encode_genesis(config),
        "parameters": config.parameters.canonical_bytes(),
    }
