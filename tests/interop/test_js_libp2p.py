"""js-libp2p from npm dials our node over TCP, Noise and Yamux, identifies it and pings it."""

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

import contracts.build as contracts_build
from node.network.host import LibP2PHost, create_host_key
from node.network.network import Network, NetworkConfig
from node.network.protocols import status
from tests.worlds.network import (
    HEAD,
    NO_BLOBS,
    MemoryChain,
    MemoryPool,
    NoStates,
    NoTraining,
    Received,
    identity,
)

FOLDER = Path(__file__).parent
INSTALL_SECONDS = 120


@pytest.fixture(scope="module")
def installed() -> None:
    """Install the packages of package-lock.json; skip if npm cannot fetch them."""
    lock = FOLDER / "node_modules/.package-lock.json"
    if lock.exists() and lock.stat().st_mtime >= (FOLDER / "package-lock.json").stat().st_mtime:
        return
    command = [*contracts_build._npm_command(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        subprocess.run(
            command, cwd=FOLDER, check=True, capture_output=True, timeout=INSTALL_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error).encode()
        pytest.skip(f"npm cannot install js-libp2p: {detail.decode()[-300:]}")


def dial(address: str) -> dict[str, object]:
    node = contracts_build._wheel_folder() / "bin/node"
    completed = subprocess.run(
        [str(node), "dial.mjs", address], cwd=FOLDER, capture_output=True, text=True, timeout=60
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


@pytest.mark.slow
async def test_js_libp2p_dials_identifies_and_pings(installed: None) -> None:
    network = Network(
        host=LibP2PHost(
            key=create_host_key(),
            listen_addresses=["/ip4/127.0.0.1/tcp/0"],
            max_connections=10,
            accept_private_addresses=True,
        ),
        config=NetworkConfig(accept_private_addresses=True),
        identity=identity(0),
        get_head=lambda: HEAD,
        handle_consensus=Received().handle,
        transaction_pool=MemoryPool(),
        block_source=MemoryChain(),
        blob_store=NO_BLOBS,
        training_source=NoTraining(),
        state_source=NoStates(),
        random=lambda: 0.5,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        [address] = network.listen_addresses()
        seen = await trio.to_thread.run_sync(partial(dial, address))
        nursery.cancel_scope.cancel()
    assert seen["peer"] == network.peer_id
    assert (seen["encryption"], seen["multiplexer"]) == ("/noise", "/yamux/1.0.0")
    assert {status.PROTOCOL_ID, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= set(seen["protocols"])
    assert "/ipfs/id/push/1.0.0" not in seen["protocols"]
    assert address.split("/p2p/")[0] in [each.split("/p2p/")[0] for each in seen["listenAddresses"]]
    assert len(seen["pings"]) == 3
    assert max(seen["pings"]) < 10_000
