import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

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
def test_named_genesis_is_trusted_and_not_stored(tmp_path: Path, is_file: bool) -> None:
    named = write_genesis(tmp_path / "genesis.json") if is_file else GENESIS_TEXT
    network = find_network(client_of(FakeNode(MINER)), named, tmp_path / "key.json")
    assert (network.chain_id, network.genesis_hash) == (CHAIN_ID, GENESIS.hash)
    assert network.parameters == PARAMETERS
    assert not (tmp_path / "key.json.network").exists()
    other = FakeNode(MINER, genesis_hash=OTHER_HASH)
    with pytest.raises(ClientError, match="http://node is on another network"):
        find_network(client_of(other), named, tmp_path / "key.json")


def test_first_node_is_trusted_once_and_other_networks_refused_later(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    with capture_logs() as logs:
        find_network(client_of(FakeNode(MINER)), None, key)
    assert [entry["genesis"] for entry in logs] == [GENESIS_TEXT]
    assert "trusting the network of http://node at first use" in logs[0]["event"]
    with capture_logs() as logs:
        network = find_network(client_of(FakeNode(MINER)), None, key)
    assert (network.genesis_hash, logs) == (GENESIS.hash, [])
    for other in (
        FakeNode(MINER, genesis_hash=OTHER_HASH),
        FakeNode(MINER, chain_id=CHAIN_ID + 1),
    ):
        with pytest.raises(OperatorError, match="give --genesis") as failure:
            find_network(client_of(other), None, key)
        assert "key.json.network" in str(failure.value)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("0x12", "give a genesis file, or the genesis hash with 0x"),
        (".", "Is a directory"),
        ("not-json", "not JSON"),
    ],
)
def test_error_about_a_bad_genesis_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "not-json").write_text("{")
    with pytest.raises(OperatorError, match=said) as failure:
        find_network(client_of(FakeNode(MINER)), named, tmp_path / "key.json")
    assert str(failure.value).startswith("--genesis")


def test_error_about_a_damaged_network_file_says_what_to_do(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    (tmp_path / "key.json.network").write_text("{}")
    with pytest.raises(OperatorError, match="delete it to trust the first node again"):
        find_network(client_of(FakeNode(MINER)), None, key)
