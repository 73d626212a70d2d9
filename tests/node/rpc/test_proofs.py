"""`pot_getProof` on the real contracts; its proofs are verified as a miner does it."""

import asyncio
from collections.abc import Iterator

import pytest

from chain.contracts import ledger_storage
from chain.contracts.addresses import GRADIENT_LEDGER, MINER_SEATS, TASK_REGISTRY
from chain.contracts.task_registry import TaskStatus
from chain.errors import RejectedInputError
from chain.light import TrustedNetwork, verify_network
from chain.primitives import Address, Hash32
from chain.state.proof import ProvenState
from chain.training.task_spec_codec import compute_spec_hash
from chain.types.certificate import decode_certificate
from chain.types.header import decode_header
from tests.worlds.rpc import RpcHarness
from tests.worlds.stored_chain import CHAIN_ID
from tests.worlds.training_chain import ANN, BEN, SPEC, TASK, TrainingChain, address_of

MINERS = [address_of(ANN), address_of(BEN)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TrainingChain, RpcHarness]]:
    directory = tmp_path_factory.mktemp("proofs")
    chain = TrainingChain(directory / "database")
    chain.submit()
    chain.activate()
    chain.register()
    with asyncio.Runner() as runner:
        yield chain, RpcHarness(directory, runner, chain.local)


def ask(
    rpc: RpcHarness, reads: dict[Address, tuple[int, ...]], block: str = "latest"
) -> ProvenState:
    storage = {"0x" + to.hex(): [hex(slot) for slot in slots] for to, slots in reads.items()}
    answer = rpc.result("pot_getProof", storage, block)
    assert isinstance(answer, dict)
    header = decode_header(bytes.fromhex(answer["header"][2:]))
    decode_certificate(bytes.fromhex(answer["certificate"][2:]))
    nodes = [bytes.fromhex(node[2:]) for node in answer["nodes"]]
    assert len(set(nodes)) == len(nodes)
    return ProvenState(header.state_root, nodes)


def test_proven_slots_agree_with_the_contracts(
    served: tuple[TrainingChain, RpcHarness],
) -> None:
    chain, rpc = served
    reads = {
        GRADIENT_LEDGER: ledger_storage.list_attempt_slots(TASK),
        MINER_SEATS: (
            *ledger_storage.list_participant_slots(TASK, MINERS),
            *ledger_storage.list_seat_slots(TASK, Address(b"\x01" * 20)),
        ),
        TASK_REGISTRY: ledger_storage.list_task_slots(TASK),
    }
    state = ask(rpc, reads)
    attempt = ledger_storage.read_attempt(state.get_storage, TASK)
    history = chain.index.history(TASK)
    assert history is not None
    assert history.attempt is not None
    assert (attempt.is_open, attempt.open_block) == (True, history.attempt.open_block)
    assert (attempt.round_number, attempt.attempt_number, attempt.verdict_block) == (0, 0, 0)
    opened = chain.store.header(attempt.open_block)
    assert opened is not None
    assert attempt.open_time == opened.timestamp
    assert ledger_storage.read_participants(state.get_storage, TASK, attempt.ordinal) == tuple(
        sorted(zip(MINERS, (1, 2), strict=True))
    )
    absent = ledger_storage.read_seat(state.get_storage, TASK, Address(b"\x01" * 20))
    assert (absent.units, absent.committed_attempt) == (0, 0)
    assert ledger_storage.read_task(state.get_storage, TASK) == (
        compute_spec_hash(SPEC),
        TaskStatus.ACTIVE,
    )


def test_genesis_answer_is_verified_by_the_genesis_hash(
    served: tuple[TrainingChain, RpcHarness],
) -> None:
    chain, rpc = served
    answer = rpc.result("pot_getGenesis")
    assert isinstance(answer, dict)
    header, parameters = (bytes.fromhex(answer[name][2:]) for name in ("header", "parameters"))
    genesis_hash = chain.store.genesis_hash()
    expected = TrustedNetwork(CHAIN_ID, genesis_hash, chain.local.config.parameters)
    assert verify_network(genesis_hash, CHAIN_ID, header, parameters) == expected
    with pytest.raises(RejectedInputError, match="genesis hash"):
        verify_network(Hash32(bytes(32)), CHAIN_ID, header, parameters)


def test_block_0_has_no_certificate_and_an_unknown_block_is_an_error(
    served: tuple[TrainingChain, RpcHarness],
) -> None:
    _, rpc = served
    answer = rpc.result("pot_getProof", {}, "earliest")
    assert isinstance(answer, dict)
    assert (answer["certificate"], answer["nodes"]) == (None, [])
    assert rpc.error("pot_getProof", {}, "0xffff")["message"] == "header not found"


def test_validator_sets_after_a_block_are_listed(
    served: tuple[TrainingChain, RpcHarness],
) -> None:
    chain, rpc = served
    of_genesis = ["0x" + each.hex() for each in chain.store.next_validator_set().validators]
    assert rpc.result("pot_getValidatorSets", 0) == [{"firstBlock": 1, "validators": of_genesis}]
    assert rpc.result("pot_getValidatorSets", 1) == []
    assert rpc.error("pot_getValidatorSets", -1)["code"] == -32602
    assert rpc.error("pot_getValidatorSets")["code"] == -32602


@pytest.mark.parametrize(
    ("reads", "code"),
    [
        ([], -32602),
        ({"0x12": []}, -32602),
        ({"0x" + "11" * 20: ["x"]}, -32602),
        ({"0x" + "11" * 20: [hex(slot) for slot in range(5_000)]}, -32005),
        ({"0x" + f"{n:040x}": [] for n in range(17)}, -32005),
    ],
)
def test_invalid_or_too_large_proof_requests_are_refused(
    served: tuple[TrainingChain, RpcHarness], reads: object, code: int
) -> None:
    assert served[1].error("pot_getProof", reads)["code"] == code
