"""A development network on this machine: validators, miners, a submitter (docs/operator-guide.md).

All participants are real processes with their own directories, keys and ports; this module only
starts them. What it shows is read from the chain over JSON-RPC, or from the downloaded model.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Final

from chain.contracts.addresses import TRAINING_TOKEN
from chain.crypto import get_address
from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.primitives import TOKEN_UNIT, Address, Hash32
from chain.training.architectures import count_parameters
from chain.training.resources import count_rows_bytes
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import (
    TaskSpec,
)
from chain.training.task_spec_codec import encode_task_spec
from chain.types.validator_set import compute_max_faulty
from node.client.rpc_client import RpcClient, get_integer
from node.client.task_file import load_task_file
from node.client.task_submission import compute_full_budget
from node.config import Retention
from node.devnet.processes import Child, ProcessGroup, require_free_ports
from node.setup.directory import (
    NodeDirectory,
    create_database,
    create_node_directory,
    encode_config,
)
from node.setup.network_genesis import Seat, build_network, encode_genesis, plan_development_network
from pot_common.errors import OperatorError
from pot_common.framing import WORKER_ANSWERS, WORKER_QUESTIONS, FrameError
from pot_common.keystore import create_private_key, save_key

MARKER_NAME: Final = "devnet.json"
"""The file that marks the directory of a development network, which the next run may replace."""

PASSWORD: Final = "development"  # noqa: S105 - its keys protect nothing of value
"""The password of every key of a development network."""

PEER_PORT_OFFSET: Final = 100
"""Difference between the libp2p port and the RPC port of a validator."""

READY_SECONDS: Final = 90.0
"""Time limit for all validators to answer; long enough for a slow and busy machine."""

POLL_SECONDS: Final = 0.1
"""Interval of polling for an expected event."""

OPERATOR_COINS: Final = 1_000 * TOKEN_UNIT
"""Wei for each operator. Accounts without coins may together use only a quarter of the pool."""

FEE_TOKENS: Final = 100 * TOKEN_UNIT
"""Base units of POT for the submitter's fee, which is far less with the prices of a development
network."""

SUBMITTER_COINS: Final = 1_000 * TOKEN_UNIT
"""Wei for the submitter."""


@dataclass(frozen=True, slots=True)
class DevnetPlan:
    """The size and the task of a development network."""

    validator_count: int
    miner_count: int
    task_file: Path
    round_count: int | None
    """Replaces the number of rounds in the task file; None keeps it."""
    data_dir: Path
    base_port: int

    def rpc_port(self, index: int) -> int:
        """The port on which validator `index` answers JSON-RPC."""
        return self.base_port + index

    def peer_port(self, index: int) -> int:
        """The port on which validator `index` accepts peers."""
        return self.base_port + PEER_PORT_OFFSET + index

    def rpc_url(self, index: int) -> str:
        """The JSON-RPC URL of validator `index`."""
        return f"http://127.0.0.1:{self.rpc_port(index)}"


@dataclass(frozen=True, slots=True)
class MinerAccount:
    """A miner's keystore."""

    address: Address
    directory: Path

    @property
    def key_file(self) -> Path:
        """The V3 keystore."""
        return self.directory / "key.json"


@dataclass(frozen=True, slots=True)
class DevnetFiles:
    """The files of a development network before its processes start."""

    plan: DevnetPlan
    spec: TaskSpec
    validators: tuple[NodeDirectory, ...]
    miners: tuple[MinerAccount, ...]
    submitter_key: Path
    password_file: Path

    @property
    def model_file(self) -> Path:
        """The path of the trained model."""
        return self.plan.data_dir / "model.safetensors"

    @property
    def genesis_file(self) -> Path:
        """The genesis file of the network."""
        return self.plan.data_dir / "genesis.json"

    @property
    def log_directory(self) -> Path:
        """The directory with the log of each process."""
        return self.plan.data_dir / "logs"


def prepare(plan: DevnetPlan) -> DevnetFiles:
    """Create keys, genesis, configurations and databases, in place of an earlier network's.

    Raises:
        OperatorError: A port is in use, the directory is not a development network's, or the task
            file is malformed.
    """
    _check(plan)
    bundle = load_task_file(plan.task_file, TRAINING_TOKEN, plan.round_count)
    _clear(plan.data_dir)
    password_file = plan.data_dir / "password"
    password_file.write_text(PASSWORD + "\n")
    password_file.chmod(0o600)
    validators = _create_validators(plan, password_file)
    miners = tuple(
        _create_miner(plan.data_dir / f"miner-{index}") for index in range(plan.miner_count)
    )
    submitter_key = plan.data_dir / "submitter" / "key.json"
    submitter = save_key(submitter_key, create_private_key(), PASSWORD, light=True)
    seats = tuple(Seat(node.consensus, node.operator) for node in validators)
    coins = {node.operator: OPERATOR_COINS for node in validators}
    network = replace(
        plan_development_network(seats),
        tokens={submitter: compute_full_budget(bundle.spec) + FEE_TOKENS},
        coins={**coins, submitter: SUBMITTER_COINS},
    )
    files = DevnetFiles(plan, bundle.spec, validators, miners, submitter_key, password_file)
    files.genesis_file.write_bytes(encode_genesis(build_network(network)))
    for node in validators:
        create_database(node.path, files.genesis_file)
    return files


def _check(plan: DevnetPlan) -> None:
    for name, count, least in (
        ("--validators", plan.validator_count, 1),
        ("--miners", plan.miner_count, 1),
        ("--rounds", plan.round_count if plan.round_count is not None else 1, 1),
    ):
        if not least <= count <= PEER_PORT_OFFSET and name != "--rounds":
            raise OperatorError(f"{name} is {count}; give {least} to {PEER_PORT_OFFSET}")
        if count < least:
            raise OperatorError(f"{name} is {count}; give at least {least}")
    last_port = plan.peer_port(plan.validator_count - 1)
    if plan.base_port < 1024 or last_port > 65_535:
        raise OperatorError(
            f"--base-port is {plan.base_port}; give 1024 to {65_535 - last_port + plan.base_port}"
        )
    ports = {plan.rpc_port(i): f"RPC of validator {i}" for i in range(plan.validator_count)}
    peer_ports = {plan.peer_port(i): f"peers of validator {i}" for i in range(plan.validator_count)}
    require_free_ports(ports | peer_ports)


def _clear(directory: Path) -> None:
    """Empty the directory, and mark it as a development network's."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER_NAME).exists():
            raise OperatorError(
                f"{directory} is not empty and no development network's; give another --data-dir"
            )
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    (directory / MARKER_NAME).write_text("{}\n")


def _create_validators(plan: DevnetPlan, password_file: Path) -> tuple[NodeDirectory, ...]:
    # Imported here because libp2p takes a second to import.
    from node.network.host import compute_peer_id, load_or_create_host_key

    paths = [plan.data_dir / f"validator-{index}" for index in range(plan.validator_count)]
    addresses = []
    for index, path in enumerate(paths):
        path.mkdir(mode=0o700)
        peer_id = compute_peer_id(load_or_create_host_key(path / "host.key"))
        addresses.append(f"/ip4/127.0.0.1/tcp/{plan.peer_port(index)}/p2p/{peer_id}")
    nodes = tuple(
        create_node_directory(
            path,
            PASSWORD,
            password_file=password_file.resolve(),
            light=True,
            settings={
                "network.listen": (f"/ip4/127.0.0.1/tcp/{plan.peer_port(index)}",),
                "network.bootstrap": tuple(a for a in addresses if a != addresses[index]),
                "network.accept_private_addresses": True,
                "rpc.port": plan.rpc_port(index),
                "metrics.enabled": False,
                # Retention until the end of the task lets `pot task verify` replay it.
                "blobs.retention": Retention.TASK.value,
            },
        )
        for index, path in enumerate(paths)
    )
    # The validators' names for one another are known only after all of them were created.
    names = encode_config({f"names.{to_hex(node.consensus)}": node.path.name for node in nodes})
    for node in nodes:
        with node.config_file.open("a", encoding="utf-8") as file:
            file.write(names)
    return nodes


def _create_miner(directory: Path) -> MinerAccount:
    private_key = create_private_key()
    account = MinerAccount(get_address(private_key), directory)
    save_key(account.key_file, private_key, PASSWORD, light=True)
    return account


class Devnet:
    """The processes of a prepared network.

    Args:
        files: What `prepare` made.
        processes: Starts and stops them.
    """

    def __init__(self, files: DevnetFiles, processes: ProcessGroup) -> None:
        self.files = files
        self.clients = tuple(
            RpcClient(files.plan.rpc_url(index)) for index in range(files.plan.validator_count)
        )
        self._processes = processes
        self._validators: list[Child] = []
        self._miners: list[Child] = []

    def close(self) -> None:
        """Close the connections to the validators."""
        for client in self.clients:
            client.close()

    # Starting.

    def start_validators(self) -> None:
        """Start the validators and wait until each answers.

        Raises:
            OperatorError: A validator ends, or does not answer in time.
        """
        for index, directory in enumerate(self.files.validators):
            arguments = ("node.cli", "node", "run", "--config", str(directory.config_file))
            self._validators.append(self._processes.start(f"validator-{index}", arguments))
        self._write_marker()
        deadline = time.monotonic() + READY_SECONDS
        for child, client in zip(self._validators, self.clients, strict=True):
            while not client.is_ready():
                if not child.is_running:
                    raise OperatorError(child.describe_end())
                if time.monotonic() > deadline:
                    raise OperatorError(
                        f"{child.name} does not answer at {client.url}; see {child.log}"
                    )
                time.sleep(POLL_SECONDS)

    def start_miners(self) -> None:
        """Start the miners, which look for a task by themselves."""
        urls = [client.url for client in self.clients]
        for index, miner in enumerate(self.files.miners):
            start = index % len(urls)
            rotated = urls[start:] + urls[:start]
            arguments = (
                *("miner", "--key", str(miner.key_file)),
                *("--password-file", str(self.files.password_file), "--claim"),
                *("--data-dir", str(miner.directory / "data"), "--device", "cpu"),
                *("--genesis", str(self.files.genesis_file)),
                *(part for url in rotated for part in ("--rpc", url)),
            )
            self._miners.append(self._processes.start(f"miner-{index}", arguments))
        self._write_marker()

    def submit(self) -> int:
        """Submit the task in a process of its own, and return its id.

        Raises:
            OperatorError: The submission failed.
        """
        plan = self.files.plan
        output = self.files.log_directory / "submitter.json"
        arguments = (
            *("node.cli", "task", "submit", str(plan.task_file), "--json"),
            *("--key", str(self.files.submitter_key)),
            *("--password-file", str(self.files.password_file)),
            *(() if plan.round_count is None else ("--rounds", str(plan.round_count))),
            *("--rpc", self.clients[0].url),
        )
        child = self._processes.start("submitter", arguments, output=output)
        if child.process.wait() != 0:
            raise OperatorError(child.describe_end())
        submitted: JsonObject = json.loads(output.read_bytes())
        return get_integer(submitted, "id")

    def _write_marker(self) -> None:
        """Write the process ids to the marker file, so that a user can stop one process."""
        children = [*self._validators, *self._miners]
        pids = {child.name: child.process.pid for child in children}
        marker = self.files.plan.data_dir / MARKER_NAME
        marker.write_text(json.dumps({"processes": pids}, indent=2) + "\n")

    def require_workers(self) -> None:
        """Check that a quorum of validators and one miner are still running.

        A validator that was stopped and started again by hand counts as running.

        Raises:
            OperatorError: Too many processes have ended.
        """
        ended = [
            child
            for child, client in zip(self._validators, self.clients, strict=True)
            if not child.is_running and not client.is_ready()
        ]
        if len(ended) > compute_max_faulty(len(self._validators)):
            raise OperatorError(ended[0].describe_end())
        if not any(child.is_running for child in self._miners):
            raise OperatorError(self._miners[0].describe_end())

    def find_process(self, validator_index: int) -> int:
        """The process id of a validator that was started."""
        return self._validators[validator_index].process.pid

    def list_ended(self) -> tuple[str, ...]:
        """The names of the validators and miners that have ended."""
        return tuple(
            child.name for child in (*self._validators, *self._miners) if not child.is_running
        )

    # Asking.

    def get_client(self) -> RpcClient:
        """A client of a validator that answers; single validators may have been stopped.

        Raises:
            OperatorError: No validator answers.
        """
        for client in self.clients:
            if client.is_ready():
                return client
        raise OperatorError(
            f"no validator answers any more; see the logs in {self.files.log_directory}"
        )


def evaluate_model(files: DevnetFiles, theta_root: Hash32, client: RpcClient) -> float:
    """The accuracy of a model on the held-out split, from 0 to 1.

    Raises:
        OperatorError: The evaluation failed.
    """
    directory = files.plan.data_dir / "evaluation"
    directory.mkdir(exist_ok=True)
    spec = files.spec
    spec_file, theta_file = directory / "spec.json", directory / "theta"
    spec_file.write_bytes(encode_task_spec(spec))
    theta_file.write_bytes(
        client.get_blob(theta_root, count_parameters(spec.model) * FLOAT32_BYTES)
    )
    shard_files = []
    for shard in spec.data.shards:
        shard_files.append(directory / shard.content_id.hex())
        shard_files[-1].write_bytes(client.get_blob(shard.content_id, shard.byte_count))
    rows_file = directory / "rows"
    rows_file.touch()
    os.truncate(rows_file, count_rows_bytes(spec))
    answer = _ask_verifier(
        {
            "id": 0,
            "kind": "evaluate",
            "rows": str(rows_file),
            "spec": str(spec_file),
            "theta": str(theta_file),
            "shards": [str(path) for path in shard_files],
        }
    )
    return get_integer(answer, "correct_count") / get_integer(answer, "row_count")


def _ask_verifier(question: JsonObject) -> JsonObject:
    result = subprocess.run(
        [sys.executable, "-m", "miner.verify"],
        input=WORKER_QUESTIONS.encode(question),
        capture_output=True,
        check=False,
    )
    try:
        answer = WORKER_ANSWERS.read(BytesIO(result.stdout))
    except FrameError as error:
        raise OperatorError(f"the model cannot be evaluated: {error}") from error
    if answer is None or "error" in answer:
        raise OperatorError(f"the model cannot be evaluated: {answer or 'no answer'}")
    return answer
