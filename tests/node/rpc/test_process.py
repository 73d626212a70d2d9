"""The RPC process, with web3.py as its client and a node that makes a block at once."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio
from structlog.testing import capture_logs
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3RPCError

from node.config import load_config
from node.ipc.server import IpcServer
from node.metrics.registry import NodeMetrics
from node.metrics.rpc_files import DIRECTORY_VARIABLE, prepare_files
from node.rpc import process
from node.rpc.__main__ import build_options
from node.rpc.connections import CONNECTION_LIMIT
from node.rpc.exit_status import CANNOT_START
from node.rpc.process import RpcProcesses
from node.storage.blob_files import BlobUpload
from node.storage.blobs import BlobStore
from pot_common.errors import OperatorError
from tests.worlds.rpc import InstantNode
from tests.worlds.stored_chain import (
    ALICE,
    BOB,
    CHAIN_ID,
    COUNTER_ABI,
    COUNTER_INIT_CODE,
    StoredChain,
)

pytestmark = pytest.mark.process


@contextmanager
def served_node(
    path: Path, chain: StoredChain, backend: InstantNode | None = None
) -> Iterator[IpcServer]:
    """An IPC server in a thread, as the node process runs it."""
    ready = threading.Event()
    held: list[tuple[IpcServer, trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def main() -> None:
        server = IpcServer(backend or InstantNode(chain))
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, path)
            held.append((server, trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    try:
        yield held[0][0]
    finally:
        held[0][1].run_sync_soon(held[0][2].cancel)
        thread.join(10)


@contextmanager
def rpc_process(
    directory: Path, *arguments: str, counts: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running RPC process and its URL; its metrics files are in the directory `counts`."""
    environment = dict(os.environ)
    if counts is not None:
        environment[DIRECTORY_VARIABLE] = str(counts)
    settings = (f"data_dir={directory}", "rpc.port=0", "rpc.cors=*", "logs.format=json")
    flags = [part for setting in settings for part in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, "-m", "node.rpc", *flags, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "rpc listens" in line, line + process.stderr.read()
        yield process, str(json.loads(line)["url"])
    finally:
        process.terminate()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture(scope="module")
def data_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, StoredChain]]:
    directory = tmp_path_factory.mktemp("node")
    chain = StoredChain(directory / "database")
    yield directory, chain
    chain.database.close()


@pytest.fixture(scope="module")
def url(data_directory: tuple[Path, StoredChain]) -> Iterator[str]:
    directory, chain = data_directory
    with (
        served_node(directory / "rpc.sock", chain),
        rpc_process(directory, "--parent-pid", str(os.getpid())) as (_, url),
    ):
        yield url


def test_idle_connections_of_one_address_keep_no_other_client_out(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    idle = [
        socket.create_connection((host, int(port)), source_address=("127.0.0.9", 0))
        for _ in range(CONNECTION_LIMIT + 8)
    ]
    try:
        answers = [httpx.get(f"{url}/liveness").status_code for _ in range(3)]
    finally:
        for each in idle:
            each.close()
    assert answers == [200, 200, 200]


def test_web3_deploys_sends_waits_reads_logs_and_calls(url: str) -> None:
    web3 = Web3(HTTPProvider(url))
    assert (web3.is_connected(), web3.eth.chain_id) == (True, CHAIN_ID)

    def send(transaction: object) -> object:
        signed = ALICE.sign_transaction(transaction)
        return web3.eth.wait_for_transaction_receipt(
            web3.eth.send_raw_transaction(signed.raw_transaction), poll_latency=0.01
        )

    def fields() -> dict[str, object]:
        # web3 fills in fees and gas from the node's answers.
        nonce = web3.eth.get_transaction_count(ALICE.address, "pending")
        return {"from": ALICE.address, "nonce": nonce}

    factory = web3.eth.contract(abi=COUNTER_ABI, bytecode=COUNTER_INIT_CODE)
    deployed = send(factory.constructor().build_transaction(fields()))
    assert deployed.status == 1
    counter = web3.eth.contract(deployed.contractAddress, abi=COUNTER_ABI)
    assert counter.functions.get().call() == 0

    changed = send(counter.functions.set(42).build_transaction(fields()))
    assert counter.functions.get().call() == 42
    assert counter.functions.get().call(block_identifier=deployed.blockNumber) == 0
    (event,) = counter.events.Changed().get_logs(from_block=0)
    assert (event.args.by, event.args.value) == (ALICE.address, 42)
    assert event.transactionHash == changed.transactionHash
    assert counter.events.Changed().process_receipt(changed)[0].args.value == 42
    assert counter.events.Changed().get_logs(argument_filters={"by": BOB.address}) == []

    with pytest.raises(ContractLogicError, match="execution reverted: not like this") as reverted:
        counter.functions.fail().call()
    assert str(reverted.value.data).startswith("0x08c379a0")
    with pytest.raises(ContractLogicError, match="not like this"):
        counter.functions.fail().estimate_gas({"from": ALICE.address})
    failed = send(counter.functions.fail().build_transaction({**fields(), "gas": 100_000}))
    assert failed.status == 0

    override = {counter.address: {"stateDiff": {"0x0": "0x5"}}}
    assert counter.functions.get().call(state_override=override) == 5
    balance = web3.eth.get_balance(BOB.address)
    paid = send(
        {
            **fields(),
            "to": BOB.address,
            "value": 7,
            "gas": 21_000,
            "gasPrice": 0,
            "chainId": CHAIN_ID,
        }
    )
    assert web3.eth.get_balance(BOB.address) == balance + 7
    block = web3.eth.get_block("latest", full_transactions=True)
    assert block.transactions[0].hash == paid.transactionHash
    assert web3.eth.get_block("finalized").hash == block.hash
    assert web3.eth.get_block("pending").number == block.number + 1
    assert len(web3.eth.get_block_receipts(block.number)) == 1
    assert web3.eth.fee_history(2, "latest", [50]).reward == [[0], [0]]
    assert web3.eth.syncing is False
    with pytest.raises(Web3RPCError, match="nonce too low"):
        web3.eth.send_raw_transaction(
            ALICE.sign_transaction(
                {"nonce": 0, "to": BOB.address, "gas": 21_000, "gasPrice": 0, "chainId": CHAIN_ID}
            ).raw_transaction
        )
    with pytest.raises(TransactionNotFound):
        web3.eth.get_transaction("0x" + "77" * 32)
    with web3.batch_requests() as batch:
        batch.add(web3.eth.get_block(0))
        batch.add(counter.functions.get())
        first, second = batch.execute()
    assert (first.number, second) == (0, 42)


def test_node_adds_up_what_its_rpc_processes_count(tmp_path: Path) -> None:
    chain = StoredChain(tmp_path / "database")
    counts = tmp_path / "rpc-metrics"
    prepare_files(counts, 2)
    metrics = NodeMetrics()
    metrics.show_rpc(counts)

    def ask(place: int) -> None:
        with rpc_process(tmp_path, "--place", str(place), counts=counts) as (_, url):
            Web3(HTTPProvider(url)).eth.get_balance(ALICE.address)

    ask(0)
    ask(1)
    ask(0)
    labels = {"method": "eth_getBalance", "result": "ok"}
    assert metrics.registry.get_sample_value("pot_rpc_requests_total", labels) == 3
    assert len(list(counts.iterdir())) == 6, "a restarted process continues the counts"
    prepare_files(counts, 1)
    assert metrics.registry.get_sample_value("pot_rpc_requests_total", labels) is None
    assert len(list(counts.iterdir())) == 3
    chain.database.close()


def test_long_calls_do_not_delay_short_requests(url: str) -> None:
    call_without_end = {"input": "0x5b600056", "gas": hex(2_000_000)}
    spin = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call_without_end]}
    head = {"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber"}
    codes: list[int] = []

    def call() -> None:
        codes.append(httpx.post(url, json=spin, timeout=60).json()["error"]["code"])

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert httpx.post(url, json=head, timeout=60).json()["result"]
    assert all(thread.is_alive() for thread in threads), "the short request is answered first"
    for thread in threads:
        thread.join()
    assert codes == [-32000] * 3


def test_service_goes_on_after_garbage_on_its_port(url: str) -> None:
    json_type = {"content-type": "application/json"}
    for body in (b"\x00" * 1000, b"[" * 2**20, b'{"jsonrpc":"2.0","id":1,"method":[]}', b"\xff"):
        assert httpx.post(url, content=body, headers=json_type).status_code == 200
    assert httpx.post(url, content=b" " * (6 * 2**20), headers=json_type).status_code == 413
    assert httpx.get(url + "/liveness").json() == {"status": "UP"}
    assert httpx.get(url + "/readiness?minPeers=3").status_code == 200


def test_process_ends_with_its_parent(data_directory: tuple[Path, StoredChain]) -> None:
    directory, _ = data_directory
    flags = ["--set", f"data_dir={directory}", "--set", "rpc.port=0"]
    # The parent starts the process, prints its id, and is killed, so it cannot end the process.
    program = (
        "import os, subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-m', 'node.rpc', *sys.argv[1:], "
        "'--parent-pid', str(os.getpid())], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE); "
        "child.stderr.readline(); print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run(
        [sys.executable, "-c", program, *flags], capture_output=True, text=True, timeout=30
    )
    assert parent.returncode == -signal.SIGKILL
    child = int(parent.stdout)
    deadline = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_several_rpc_processes_share_one_port(
    data_directory: tuple[Path, StoredChain],
) -> None:
    directory, _ = data_directory
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = ("--set", "rpc.processes=2", "--set", f"rpc.port={port}")
    with rpc_process(directory, *settings) as (_, url), rpc_process(directory, *settings):
        assert httpx.get(f"{url}/liveness").status_code == 200


def test_node_restarts_an_rpc_process_that_was_killed(
    data_directory: tuple[Path, StoredChain],
) -> None:
    directory, _ = data_directory
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = load_config(None, {"data_dir": directory, "rpc.port": port})
    prepare_files(config.rpc_metrics_dir, 1)
    blobs = BlobStore(config.blob_dir, quota_bytes=2**24)
    used_before = blobs.used_bytes()
    served: list[int] = []
    uploads: list[BlobUpload] = []

    async def wait_until_served() -> None:
        while set(find_rpc_children(port)) <= set(served):  # noqa: ASYNC110 - there is no event for a process
            await trio.sleep(0.05)
        async with httpx.AsyncClient() as client:
            while True:
                with suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{port}/liveness")
                    return
                await trio.sleep(0.05)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(RpcProcesses(config, None, blobs).run)
            for _ in range(2):
                await wait_until_served()
                (child,) = find_rpc_children(port)
                served.append(child)
                # As if this process had these uploads when it is killed; place 1 has another.
                for place in (0, 1):
                    uploads.append(build_options(config, place).open_blobs().upload(9))
                os.kill(child, signal.SIGKILL)
            await wait_until_served()
            assert [each.path.exists() for each in uploads] == [False, True] * 2
            for upload in uploads:
                upload.__exit__()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert len(set(served)) == 2
    assert blobs.used_bytes() == used_before
    assert find_rpc_children(port) == []


def find_rpc_children(port: int) -> list[int]:
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    ids = [number for file in children for number in file.read_text().split()]
    return [
        int(number)
        for number in ids
        if f"rpc.port={port}".encode() in Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    ]


def test_rpc_process_that_cannot_start_ends_the_node(tmp_path: Path) -> None:
    config = load_config(None, {"data_dir": tmp_path})

    async def main() -> None:
        await RpcProcesses(config, None, BlobStore(config.blob_dir, quota_bytes=2**24)).run()

    with pytest.RaisesGroup(pytest.RaisesExc(OperatorError, match=r"rpc\.processes=0")):
        trio.run(main)


@pytest.mark.parametrize("later", [1, CANNOT_START])
def test_node_restarts_a_failing_rpc_process_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    runs, program = tmp_path / "runs", tmp_path / "python"
    program.write_text(
        f"#!/bin/sh\nif [ -e {runs} ]; then status={later}; else status=1; fi\n"
        f"echo >> {runs}\nexit $status\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(process, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(process, "LONGEST_PAUSE_SECONDS", 0.004)
    config = load_config(None, {"data_dir": tmp_path})
    blobs = BlobStore(config.blob_dir, quota_bytes=2**24)

    def read_runs() -> str:
        return runs.read_text() if runs.exists() else ""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(RpcProcesses(config, None, blobs).run)
            while len(read_runs()) < 5:  # noqa: ASYNC110 - there is no event for a process
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    with capture_logs() as logs:
        trio.run(main)
    ended = [each for each in logs if each["event"] == "RPC process ended"]
    assert [each["status"] for each in ended[:4]] == [1, later, later, later]
    assert [each["restart_seconds"] for each in ended[:4]] == [0.001, 0.002, 0.004, 0.004]


def test_node_outlives_a_system_that_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    config = load_config(None, {"data_dir": tmp_path})
    blobs = BlobStore(config.blob_dir, quota_bytes=2**24)

    async def main() -> None:
        with trio.move_on_after(0.2):
            await RpcProcesses(config, None, blobs).run()

    with capture_logs() as logs:
        trio.run(main)
    assert [each["event"] for each in logs] == ["RPC process not started", "RPC process ended"]


def test_errors_for_port_in_use_and_missing_database_name_the_cure(
    data_directory: tuple[Path, StoredChain], url: str, tmp_path: Path
) -> None:
    port = re.findall(r"\d+", url)[-1]
    for directory, wanted in ((data_directory[0], "set rpc.port"), (tmp_path, "pot init")):
        settings = (f"data_dir={directory}", f"rpc.port={port}", "logs.level=error")
        flags = [part for setting in settings for part in ("--set", setting)]
        ended = subprocess.run(
            [sys.executable, "-m", "node.rpc", *flags],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert ended.returncode == CANNOT_START
        assert wanted in ended.stderr
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
