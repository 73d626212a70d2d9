"""`pot validator`, against the contract itself behind a fake node."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_abi.abi import encode

from chain.contracts import training_token, validator_set
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import TRAINING_TOKEN, VALIDATOR_SET
from chain.contracts.events import EVENT_LAYOUTS
from chain.contracts.validator_set import (
    ProposalMade,
    SetScheduled,
    ValidatorSlashed,
    ValidatorStatus,
)
from chain.crypto import get_address, keccak256
from chain.primitives import Address, BlockNumber, PrivateKey
from chain.types.transaction import decode_transaction
from pot_common.keystore import save_key
from tests.worlds.command_line import Pot, serve
from tests.worlds.contracts import (
    CHAIN_ID,
    CHANGE_BLOCKS,
    FIRST_BLOCK,
    MINERS,
    OPERATORS,
    STAKE,
    VALIDATORS,
    World,
    candidate_key,
    new_world,
)

CANDIDATE_KEY = candidate_key("validator candidate")
CANDIDATE = get_address(CANDIDATE_KEY)
KEY = PrivateKey(keccak256(b"the operator of the candidate; a test may let others send"))
JOINER = get_address(KEY)


class FakeChain:
    """The contracts in py-evm; a transaction is executed for whom the test says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sender: Address = JOINER
        world.send(MINERS[0], training_token.transfer(TRAINING_TOKEN, JOINER, STAKE))
        self.logs: list[object] = []
        self.slashings: list[object] = []

    def answers(self) -> dict:
        return {
            "eth_chainId": lambda: hex(CHAIN_ID),
            "eth_getLogs": lambda query: self.slashings,
            "pot_listTasks": lambda page: [],
            "eth_blockNumber": lambda: hex(self.world.number),
            "eth_call": lambda call, block: "0x" + self.view(call).hex(),
            "eth_estimateGas": lambda call: "0x5208",
            "eth_getBlockByNumber": lambda number, full: {"baseFeePerGas": "0x0"},
            "eth_maxPriorityFeePerGas": lambda: "0x0",
            "eth_getTransactionCount": lambda who, block: "0x0",
            "eth_sendRawTransaction": self.send,
            "eth_getTransactionReceipt": lambda name: {
                "status": "0x1",
                "blockNumber": "0x1",
                "transactionHash": name,
                "logs": self.logs,
            },
        }

    def view(self, call: dict) -> bytes:
        data = bytes.fromhex(call["data"][2:])
        if data == validator_set.candidacy_of(JOINER).data:
            data = validator_set.candidacy_of(self.sender).data
        return self.world.view(Address(bytes.fromhex(call["to"][2:])), data)

    def send(self, raw: str) -> str:
        transaction = decode_transaction(bytes.fromhex(raw[2:]))
        answer = self.world.send(self.sender, ContractCall(transaction.to, transaction.data))
        self.logs = [
            {
                "address": "0x" + VALIDATOR_SET.hex(),
                "topics": ["0x" + each.hex() for each in topics],
                "data": "0x" + data.hex(),
            }
            for topics, data in map(as_log, answer.events)
            if topics
        ]
        return "0x" + transaction.hash.hex()


def as_log(event: object) -> tuple[list[bytes], bytes]:
    layouts = {layout.kind: layout for layout in EVENT_LAYOUTS}
    layout = layouts[type(event)]

    def word(value: int) -> bytes:
        return value.to_bytes(32, "big")

    match event:
        case ProposalMade(number, validator, operator, is_join, expiry):
            indexed = [word(number), bytes(12) + validator, bytes(12) + operator]
            return [layout.topic, *indexed], encode(["bool", "uint64"], [is_join, expiry])
        case SetScheduled(version, validator, is_join, activation):
            indexed = [word(version), bytes(12) + validator]
            return [layout.topic, *indexed], encode(["bool", "uint64"], [is_join, activation])
        case ValidatorSlashed(validator, reporter, number, amount):
            indexed = [bytes(12) + validator, bytes(12) + reporter]
            return [layout.topic, *indexed], encode(["uint64", "uint256"], [number, amount])
        case _:
            return [], b""


@pytest.fixture
def key(tmp_path: Path) -> list[str]:
    (tmp_path / "password").write_text("secret\n")
    save_key(tmp_path / "key.json", KEY, "secret", light=True)
    return ["--key", str(tmp_path / "key.json"), "--password-file", str(tmp_path / "password")]


@pytest.fixture
def consensus(tmp_path: Path) -> list[str]:
    """The options for the consensus key of the candidate."""
    (tmp_path / "consensus-password").write_text("other\n")
    save_key(tmp_path / "consensus.json", CANDIDATE_KEY, "other", light=True)
    return [
        *("--consensus-key", str(tmp_path / "consensus.json")),
        *("--consensus-password-file", str(tmp_path / "consensus-password")),
    ]


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain(new_world())


@pytest.fixture
def rpc(chain: FakeChain) -> Iterator[list[str]]:
    with serve(chain.answers()) as url:
        yield ["--rpc", url]


def test_a_candidate_is_proposed_voted_in_and_leaves_with_its_stake(
    pot: Pot, chain: FakeChain, rpc: list[str], key: list[str], consensus: list[str]
) -> None:
    candidate = "0x" + CANDIDATE.hex()
    said = pot("validator", "propose", "join", candidate, *key, *consensus, *rpc)
    assert said.splitlines()[0] == f"proposal 1: join {candidate}"
    assert chain.world.pot_of(VALIDATOR_SET) == 5 * STAKE

    for chain.sender in OPERATORS[:2]:
        assert pot("validator", "vote", 1, *key, *rpc) == "voted for proposal 1\n"
    shown = pot("validator", "status", *rpc)
    assert f"proposal 1: join {candidate}\n  2 of 3 votes, until block " in shown
    assert max(map(len, shown.splitlines())) <= 80
    chain.sender = OPERATORS[2]
    activation = FIRST_BLOCK + CHANGE_BLOCKS
    assert pot.json("validator", "vote", 1, *key, *rpc)["activationBlock"] == activation

    status = pot.json("validator", "status", *rpc)
    assert status["change"] == {
        "activationBlock": activation,
        "joins": [candidate],
        "leaves": [],
    }
    assert status["proposals"] == []
    shown = pot("validator", "status", *rpc)
    assert f"block {activation}:\n  {candidate} joins\n" in shown
    assert max(map(len, shown.splitlines())) <= 80

    chain.world.mine(CHANGE_BLOCKS)
    chain.sender = JOINER
    assert f"block {activation + CHANGE_BLOCKS}" in pot("validator", "leave", *key, *rpc)
    chain.world.mine(CHANGE_BLOCKS + 1_000)
    assert pot("validator", "withdraw", *key, *rpc) == "the stake is back\n"
    assert chain.world.pot_of(VALIDATOR_SET) == 4 * STAKE


def test_a_candidate_that_waits_can_have_its_stake_back(
    pot: Pot, chain: FakeChain, rpc: list[str], key: list[str], consensus: list[str]
) -> None:
    # The consensus key is on another machine, which gives only the proof.
    proof = pot("validator", "prove", "0x" + JOINER.hex(), *consensus, *rpc).strip()
    candidate = "0x" + CANDIDATE.hex()
    made = pot.json("validator", "propose", "join", candidate, *key, "--proof", proof, *rpc)
    assert made["proposal"] == 1
    pot("validator", "withdraw", *key, *rpc)
    assert chain.world.balance(JOINER, TRAINING_TOKEN) == STAKE


def test_join_without_the_consensus_key_is_refused_before_money_moves(
    pot: Pot, chain: FakeChain, rpc: list[str], key: list[str], consensus: list[str]
) -> None:
    candidate = "0x" + CANDIDATE.hex()
    other = pot("validator", "prove", "0x" + OPERATORS[0].hex(), *consensus, *rpc).strip()
    refusals = [
        pot.fails("validator", "propose", "join", name, *key, *options, *rpc)
        for name, options in (
            (candidate, []),
            (candidate, ["--proof", other]),
            (candidate, ["--proof", "0x12zz"]),
            ("0x" + VALIDATORS[0].hex(), consensus),
        )
    ]
    named = (
        "give --consensus-key, or",
        "not a signature",
        "not 0x and hex",
        "--consensus-key holds",
    )
    assert all(name in refusal for name, refusal in zip(named, refusals, strict=True))
    allowance = training_token.allowance(TRAINING_TOKEN, JOINER, VALIDATOR_SET)
    assert chain.world.read(allowance) == 0


def test_status_shows_members_with_operators_and_stake(
    pot: Pot, chain: FakeChain, rpc: list[str], key: list[str]
) -> None:
    chain.sender = OPERATORS[0]
    pot("validator", "propose", "remove", "0x" + VALIDATORS[3].hex(), *key, *rpc)
    status = pot.json("validator", "status", *rpc)
    assert [row["validator"] for row in status["validators"]] == [
        "0x" + validator.hex() for validator in VALIDATORS
    ]
    assert {row["stake"] for row in status["validators"]} == {str(STAKE)}
    assert {row["status"] for row in status["validators"]} == {ValidatorStatus.ACTIVE.name.lower()}
    (proposal,) = status["proposals"]
    assert (proposal["change"], proposal["votes"], proposal["needed"]) == ("remove", 1, 3)
    first = f"0  0x{VALIDATORS[0].hex()}  active    500 POT\n   0x{OPERATORS[0].hex()}  operator\n"
    shown = pot("validator", "status", *rpc)
    assert first in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_status_says_why_a_validator_lost_its_stake(
    pot: Pot, chain: FakeChain, rpc: list[str]
) -> None:
    event = ValidatorSlashed(VALIDATORS[1], OPERATORS[0], BlockNumber(7), STAKE)
    topics, data = as_log(event)
    chain.slashings = [
        {
            "address": "0x" + VALIDATOR_SET.hex(),
            "topics": ["0x" + each.hex() for each in topics],
            "data": "0x" + data.hex(),
            "blockNumber": "0x9",
        }
    ]
    shown = pot("validator", "status", *rpc)
    assert shown.endswith(
        f"block 9: 0x{VALIDATORS[1].hex()} lost its stake\n"
        "  of 500 POT: it signed two votes for one place in block 7\n"
    )
    (row,) = pot.json("validator", "status", *rpc)["slashings"]
    assert (row["amount"], row["evidenceBlock"]) == (str(STAKE), 7)


def test_what_is_mistyped_is_refused_by_name(pot: Pot, rpc: list[str], key: list[str]) -> None:
    assert "not an account" in pot.fails("validator", "propose", "join", "0x12", *key, *rpc)
