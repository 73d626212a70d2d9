import json
from pathlib import Path

import pytest

from miner.client import FailoverClient
from miner.trust import find_network
from pot_common.errors import OperatorError
from pot_common.rpc_replies import ClientError
from tests.worlds.node_for_miners import FakeNode
from tests.worlds.proofs import CHAIN_ID, GENESIS, PARAMETERS

MINER = b"\x77" * 20
OTHER_HASH = "0x" + "cd" * 32
GENESIS_TEXT = "0x" + GENESIS.hash.hex()


def client_of(node: FakeNode) -> FailoverClient:
    return FailoverClient(["http://node"], node.transport())


def write_genesis(path: Path) -> str:
    document = {
        "config": {"chainId": CHAIN_ID, "proofOfTraining": PARAMETERS.to_json()},
        "timestamp": GENESIS.timestamp,
        "gasLimit": GENESIS.gas_limit,
        "alloc": {},
    }
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize("is_file", [True, False])
def test_named_genesis_is_all_that_is_trusted(tmp_path: Path, is_file: bool) -> None:
    named = write_genesis(tmp_path / "genesis.json") if is_file else GENESIS_TEXT
    network = find_network(client_of(FakeNode(MINER)), named, tmp_path / "key.json")
    assert (network.chain_id, network.genesis_hash) == (CHAIN_ID, GENESIS.hash)
    assert network.parameters == PARAMETERS
    assert not (tmp_path / "key.json.network").exists()
    stranger = FakeNode(MINER, genesis_hash=OTHER_HASH)
    with pytest.raises(ClientError, match="http://node is on another network"):
        find_network(client_of(stranger), named, tmp_path / "key.json")


def test_first_node_is_trusted_once_with_a_word_and_another_network_refused_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "key.json"
    with caplog.at_level("INFO", "miner"):
        find_network(client_of(FakeNode(MINER)), None, key)
    assert "trusting the network of http://node at first use" in caplog.text
    caplog.clear()
    network = find_network(client_of(FakeNode(MINER)), None, key)
    assert (network.genesis_hash, caplog.text) == (GENESIS.hash, "")
    for stranger in (
        FakeNode(MINER, genesis_hash=OTHER_HASH),
        FakeNode(MINER, chain_id=CHAIN_ID + 1),
    ):
        with pytest.raises(OperatorError, match="give --genesis") as failure:
            find_network(client_of(stranger), None, key)
        assert "key.json.network" in str(failure.value)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("0x12", "give a genesis file, or the genesis hash with 0x"),
        (".", "Is a directory"),
        ("not-json", "not JSON"),
    ],
)
def test_genesis_that_is_none_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "not-json").write_text("{")
    with pytest.raises(OperatorError, match=said) as failure:
        find_network(client_of(FakeNode(MINER)), named, tmp_path / "key.json")
    assert str(failure.value).startswith("--genesis")


def test_spoilt_record_says_what_to_do(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    (tmp_path / "key.json.network").write_text("{}")
    with pytest.raises(OperatorError, match="delete it to trust the first node again"):
        find_network(client_of(FakeNode(MINER)), None, key)
