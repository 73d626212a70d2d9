"""A miner accepts from nodes what the chain proves, and nothing else."""

from dataclasses import dataclass

import httpx
import pytest

from chain.contracts.task_registry import TaskStatus
from chain.crypto import get_address
from chain.errors import RejectedInputError
from chain.light import verify_network
from chain.primitives import Address, BlockNumber, Hash32, PrivateKey
from chain.training.attempt import AttemptId
from chain.types.certificate import CommitCertificate
from miner.client import FailoverClient
from miner.light import LightClient, fetch_network
from miner.nodes import DishonestNodeError
from tests.worlds.node_for_miners import TASK, FakeNode
from tests.worlds.proofs import (
    CHAIN_ID,
    GENESIS,
    PARAMETERS,
    VALIDATOR_KEYS,
    certify,
    genesis_answer,
    make_header,
    prove,
    read_reads,
)

MINER = Address(b"\x77" * 20)
OTHER = Address(b"\x01" * 20)
STRANGERS = tuple(PrivateKey(bytes([n]) * 32) for n in range(0x31, 0x35))


@dataclass
class Reader:
    """A light client before one node."""

    node: FakeNode
    client: FailoverClient
    light: LightClient

    def prove(self) -> object:
        hint = self.client.attempt(TASK)
        assert hint is not None
        return self.light.prove_attempt(TASK, hint, self.client.current)


def reader_of(node: FakeNode) -> Reader:
    client = FailoverClient(["http://node"], node.transport())
    return Reader(node, client, LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash)))


@pytest.fixture
def reader() -> Reader:
    return reader_of(FakeNode(MINER, units=2, participants=((OTHER, 3), (MINER, 2))))


def test_attempt_is_read_from_the_state_of_its_opening_block(reader: Reader) -> None:
    attempt = reader.prove()
    node = reader.node
    assert (attempt.attempt_id, attempt.open_block) == (AttemptId(TASK, 0, 0), node.open_block)
    assert attempt.participants == ((OTHER, 3), (MINER, 2))
    assert attempt.seed == node.seed


def test_task_and_seat_are_read_at_the_head(reader: Reader) -> None:
    assert reader.light.task(TASK)[1] is TaskStatus.ACTIVE
    progress = reader.light.progress(TASK, MINER)
    assert (progress.header.number, progress.seat.units) == (reader.node.head, 2)


@pytest.mark.parametrize(
    "lie",
    [
        {"round": 1},
        {"attempt": 1},
        {"openBlock": 8},
        {"participants": [["0x" + MINER.hex(), 2]]},
        {"participants": [["0x" + OTHER.hex(), 3], ["0x" + MINER.hex(), 1]]},
        {"participants": [["0x" + OTHER.hex(), 3], ["0x" + (b"\x78" * 20).hex(), 2]]},
    ],
    ids=["round", "attempt", "block", "fewer", "units", "another"],
)
def test_error_about_an_unopened_attempt_names_the_node(
    reader: Reader, lie: dict[str, object]
) -> None:
    node = reader.node
    honest = node.pot_getAttempt(TASK)
    assert isinstance(honest, dict)
    node.pot_getAttempt = lambda task: {**honest, **lie}  # type: ignore[method-assign]
    with pytest.raises(DishonestNodeError, match="http://node is not believed"):
        reader.prove()


def test_state_of_an_unsigned_header_is_refused(reader: Reader) -> None:
    node = reader.node
    forged = FakeNode(MINER, units=2, participants=((MINER, 2),))
    header, _ = make_header(node.open_block, forged.storage_at(node.open_block))
    for certificate in (
        certify(header, signers=(0, 1)),
        certify(header, keys=STRANGERS),
        certify(header, chain_id=CHAIN_ID + 1),
        CommitCertificate(certify(header).view, certify(header).signatures[:1] * 3),
    ):

        def answer(
            storage: dict[str, list[str]], block: str, certificate: CommitCertificate = certificate
        ) -> object:
            state = forged.storage_at(node.open_block)
            return prove(node.open_block, state, read_reads(storage), certificate=certificate)

        node.pot_getProof = answer  # type: ignore[method-assign]
        node.pot_getAttempt = forged.pot_getAttempt  # type: ignore[method-assign]
        with pytest.raises(DishonestNodeError, match="the block that it calls final is not"):
            reader.prove()


def test_final_state_of_another_block_is_refused(reader: Reader) -> None:
    node = reader.node
    honest = node.pot_getProof
    node.pot_getProof = lambda storage, block: honest(storage, "0x1")  # type: ignore[method-assign]
    with pytest.raises(DishonestNodeError, match="header_field: number"):
        reader.prove()


@pytest.mark.parametrize(
    "change", [lambda nodes: nodes[:-1], lambda nodes: [], lambda nodes: ["0x"]]
)
def test_incomplete_proof_is_refused(reader: Reader, change) -> None:  # type: ignore[no-untyped-def]
    node = reader.node
    honest = node.pot_getProof

    def forge(storage: dict[str, list[str]], block: str) -> object:
        answer = honest(storage, block)
        assert isinstance(answer, dict)
        return {**answer, "nodes": change(answer["nodes"])}

    node.pot_getProof = forge  # type: ignore[method-assign]
    with pytest.raises(DishonestNodeError, match="proof of block"):
        reader.prove()


def test_head_far_behind_a_proven_block_is_refused(reader: Reader) -> None:
    reader.node.round_number = 3
    reader.light.task(TASK)
    reader.node.lag = 10
    reader.light.task(TASK)
    reader.node.lag = 50
    with pytest.raises(DishonestNodeError, match="its head is block 258, block 308 is final"):
        reader.light.task(TASK)


def test_genesis_as_head_needs_no_certificate(reader: Reader) -> None:
    answer = {"header": genesis_answer()["header"], "certificate": None, "nodes": []}
    reader.node.pot_getProof = lambda storage, block: answer  # type: ignore[method-assign]
    header, _ = reader.light.read({})
    assert header == GENESIS


JOINED = tuple(sorted((*VALIDATOR_KEYS, STRANGERS[0]), key=get_address))
REPLACED = tuple(sorted((*STRANGERS[:3], *VALIDATOR_KEYS[:1]), key=get_address))


def test_validator_set_changes_are_followed(reader: Reader) -> None:
    node = reader.node
    reader.light.task(TASK)
    node.set_changes = ((103, JOINED), (105, REPLACED))
    node.round_number = 1
    assert reader.light.task(TASK)[1] is TaskStatus.ACTIVE
    before = node.proofs
    reader.light.task(TASK)
    assert node.proofs == before + 1, "a change is proven once"
    assert reader_of(node).light.task(TASK)[1] is TaskStatus.ACTIVE
    header, _ = reader.light.read({}, BlockNumber(104))
    assert header.number == 104, "decided by those who left since"


def test_error_about_an_unproven_validator_set_names_the_node(reader: Reader) -> None:
    node = reader.node
    forged = FakeNode(MINER, units=2, set_changes=((6, STRANGERS),))
    node.pot_getProof = lambda storage, block: (  # type: ignore[method-assign]
        FakeNode(MINER, units=2) if block == "0x5" else forged
    ).pot_getProof(storage, block)
    node.pot_getValidatorSets = forged.pot_getValidatorSets  # type: ignore[method-assign]
    with pytest.raises(
        DishonestNodeError, match="does not prove the validator set from block 6 on"
    ):
        reader.light.task(TASK)


def test_parameters_other_than_those_of_genesis_are_refused(reader: Reader) -> None:
    node = reader.node
    others = PARAMETERS.canonical_bytes().replace(
        b'"phase_floor_blocks":2', b'"phase_floor_blocks":1'
    )
    node.pot_getGenesis = lambda: {  # type: ignore[method-assign]
        **genesis_answer(),
        "parameters": "0x" + others.hex(),
    }
    with pytest.raises(DishonestNodeError, match="wrong_chain: chain id or parameters"):
        reader_of(node)


def test_header_of_another_genesis_is_refused() -> None:
    with pytest.raises(RejectedInputError, match="genesis hash"):
        verify_network(Hash32(bytes(32)), CHAIN_ID, GENESIS.encode(), PARAMETERS.canonical_bytes())


def test_commitments_end_with_the_last_one_or_with_the_phase(
    reader: Reader,
) -> None:
    node, light = reader.node, reader.light
    opened = node.open_block
    assert not light.progress(TASK, MINER).is_past_commitments(opened, 5)
    node.phase = "verdict"
    assert light.progress(TASK, MINER).is_past_commitments(opened, 5)
    node.round_number = 1
    assert light.progress(TASK, MINER).is_past_commitments(opened, 5)
    node.phase = "commitment"
    waiting = light.progress(TASK, MINER)
    assert not waiting.is_past_commitments(node.open_block, 0)
    node.floor_blocks = 1
    waiting = light.progress(TASK, MINER)
    assert waiting.is_past_commitments(node.open_block, 0)
    assert not waiting.is_past_commitments(node.open_block, 1)


def transport_of(*nodes: FakeNode) -> httpx.MockTransport:
    by_host = {f"node{index}": node for index, node in enumerate(nodes)}
    return httpx.MockTransport(lambda request: by_host[request.url.host].handle(request))


def test_node_with_the_highest_final_block_is_preferred() -> None:
    nodes = FakeNode(MINER, lag=1), FakeNode(MINER), FakeNode(MINER, is_down=True)
    client = FailoverClient(["http://node0", "http://node1", "http://node2"], transport_of(*nodes))
    light = LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))
    light.prefer_highest(3)
    assert client.current == "http://node1"
