"""A network of real processes: a liar is slashed, a killed validator returns, miners are paid."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from chain.contracts.addresses import MINER_SEATS
from chain.contracts.events import decode_event
from chain.contracts.miner_seats import FineKind, MinerFined
from chain.json_types import JsonObject
from chain.primitives import Address, Hash32
from chain.types.receipt import Log
from node.client.rpc_client import RpcClient
from node.devnet.devnet import Devnet, DevnetPlan, prepare
from node.devnet.processes import ProcessGroup
from pot_common.errors import OperatorError
from pot_common.keystore import create_private_key, save_key
from tests.worlds.ports import find_base_port

ROOT = Path(__file__).parents[2]
ROUNDS = 5
SETTLE_SECONDS = 90.0


def write_task(directory: Path) -> Path:
    """Write the digits task for two miners, with short phases: a dead validator prolongs them."""
    text = (ROOT / "examples" / "digits.toml").read_text()
    for old, new in (
        ("min_miners = 3", "min_miners = 2"),
        ("min_units = 3", "min_units = 2"),
        ("verdict_seconds = 20", "verdict_seconds = 16"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = directory / "small.toml"
    path.write_text(text)
    return path


def wait_for(what: str, seconds: float, is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if is_done():
                return
        except OperatorError:
            pass  # the node that was asked is down; the next one answers
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds:.0f} s"
        time.sleep(0.2)


def get_task(network: Devnet) -> JsonObject:
    found = network.get_client().call_object("pot_getTask", 1)
    assert found is not None
    return found


def fines(client: RpcClient) -> list[MinerFined]:
    logs = client.call_list(
        "eth_getLogs",
        {"address": "0x" + MINER_SEATS.hex(), "fromBlock": "0x0", "toBlock": "latest"},
    )
    events = []
    for log in logs:
        assert isinstance(log, dict)
        topics = tuple(Hash32(bytes.fromhex(topic[2:])) for topic in log["topics"])
        events.append(decode_event(Log(MINER_SEATS, topics, bytes.fromhex(str(log["data"])[2:]))))
    return [event for event in events if isinstance(event, MinerFined)]


def run(*arguments: str) -> JsonObject:
    result = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.process
@pytest.mark.timeout(280)
def test_network_trains_slashes_a_liar_and_survives_a_killed_validator(tmp_path: Path) -> None:
    plan = DevnetPlan(
        validator_count=4,
        miner_count=2,
        task_file=write_task(tmp_path),
        round_count=ROUNDS,
        data_dir=tmp_path / "network",
        base_port=find_base_port(),
    )
    files = prepare(plan)
    liar_key = tmp_path / "liar.json"
    password = files.password_file.read_text().strip()
    liar = save_key(liar_key, create_private_key(), password, light=True)

    with (
        ProcessGroup(files.log_directory) as processes,
        closing(Devnet(files, processes)) as network,
    ):
        network.start_validators()
        processes.start(
            "liar",
            (
                *("tests.tools.lying_miner", "flip", "--key", str(liar_key)),
                *("--password-file", str(files.password_file)),
                *("--data-dir", str(tmp_path / "liar"), "--rpc", plan.rpc_url(0)),
            ),
        )
        network.start_miners()
        assert network.submit() == 1

        # The liar's gradient is rejected by all and its bond is gone.
        wait_for("the fine", SETTLE_SECONDS, lambda: fines(network.get_client()) != [])
        [fine] = fines(network.get_client())
        assert (fine.miner, fine.kind) == (liar, FineKind.FRAUD)

        # One validator is killed. The others go on, and it comes back with what it had.
        client = network.clients[3]
        before = client.call_object("eth_getBlockByNumber", "latest", False)
        assert before is not None
        victim = next(child for child in network_children(network) if child.name == "validator-3")
        os.killpg(victim.process.pid, signal.SIGKILL)
        settled = int(str(get_task(network)["roundsSettled"]))
        wait_for(
            "a round without validator 3",
            SETTLE_SECONDS,
            lambda: int(str(get_task(network)["roundsSettled"])) > settled,
        )
        config = files.validators[3].config_file
        processes.start("validator-3-again", ("node.cli", "node", "run", "--config", str(config)))
        wait_for("the end", SETTLE_SECONDS, lambda: get_task(network)["status"] == "closed")
        wait_for("validator 3's return", SETTLE_SECONDS, client.is_ready)

        head = int(str(network.clients[0].call("eth_blockNumber")), 16)
        wait_for(
            "validator 3's catching up",
            SETTLE_SECONDS,
            lambda: int(str(client.call("eth_blockNumber")), 16) >= head,
        )
        hashes = {
            str((each.call_object("eth_getBlockByNumber", hex(head), False) or {})["hash"])
            for each in network.clients
        }
        assert len(hashes) == 1
        kept = client.call_object("eth_getBlockByNumber", str(before["number"]), False)
        assert kept is not None
        assert kept["hash"] == before["hash"]

        # Every account is paid as the chain says, and the liar nothing.
        assert get_task(network)["roundsSettled"] == ROUNDS
        wait_for(
            "the claims",
            SETTLE_SECONDS,
            lambda: all(
                claimed_by(network, miner.address) == cumulative_of(network, miner.address) > 0
                for miner in files.miners
            ),
        )
        assert cumulative_of(network, liar) == 0

        # An outsider computes the same model from the chain and the gradients.
        url = plan.rpc_url(1)
        replay = run("node.cli", "task", "verify", "1", "--rpc", url, "--json")
        assert replay["equal"] is True
        model = tmp_path / "model.safetensors"
        run("node.cli", "task", "download", "1", "-o", str(model), "--rpc", url, "--json")
        checked = run("tests.tools.check_model", str(model))
        last = network.get_client().call_object("pot_getRound", 1, ROUNDS - 1)
        assert last is not None
        assert checked["correct"] == last["correctCount"]


def network_children(network: Devnet) -> list:
    return network._validators


def proof_of(network: Devnet, account: Address) -> JsonObject:
    found = network.get_client().call_object("pot_getRewardProof", 1, "0x" + account.hex())
    return found or {"cumulative": "0", "claimed": "0"}


def cumulative_of(network: Devnet, account: Address) -> int:
    return int(str(proof_of(network, account)["cumulative"]))


def claimed_by(network: Devnet, account: Address) -> int:
    return int(str(proof_of(network, account)["claimed"]))
