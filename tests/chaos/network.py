"""The nodes under test: directories, processes, and a link for each of them to each other."""

import os
import resource
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from chain.crypto import get_address
from chain.genesis import GenesisAccount
from chain.primitives import ZERO_HASH, Address, PrivateKey
from node.cli.directory import CONFIG_NAME, create_database, create_node_directory, encode_config
from node.devnet_processes import Child, ProcessGroup, require_free_ports
from node.network.host import compute_peer_id, load_or_create_host_key
from node.network_genesis import (
    TOKEN_UNIT,
    Seat,
    build_network,
    encode_genesis,
    plan_development_network,
)
from tests.chaos.contracts import REGISTER, REGISTER_CODE, SET, SET_CODE
from tests.chaos.manifest import Manifest
from tests.chaos.proxy import HOST, Link, LinkState

PASSWORD: Final = "chaos"
"""Of every key."""

PEER_PORT_OFFSET: Final = 30
"""From a node's RPC port to its peer port, and twice that to its metrics port."""

STOP_SECONDS: Final = 30.0
"""After SIGTERM, on a busy machine; what still runs then is killed, and the report says so."""

KEYS: Final = "keys"
"""The directory of a node's keys, in its own."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node's directory and ports."""

    index: int
    path: Path
    base_port: int

    @property
    def rpc_url(self) -> str:
        """Where it answers JSON-RPC."""
        return f"http://{HOST}:{self.base_port + self.index}"

    @property
    def peer_port(self) -> int:
        """Where it listens for the links that lead to it."""
        return self.base_port + PEER_PORT_OFFSET + self.index

    @property
    def metrics_port(self) -> int:
        """Where it tells its metrics."""
        return self.base_port + 2 * PEER_PORT_OFFSET + self.index

    @property
    def config_file(self) -> Path:
        """For `pot node run --config`."""
        return self.path / CONFIG_NAME

    @property
    def operator_file(self) -> Path:
        """For `pot validator --key`."""
        return self.path / KEYS / "operator.json"


class Network:
    """Validators, a full node after them, perhaps a spare validator, and room for one clone.

    Args:
        directory: Takes everything.
        base_port: The first of 90.
        manifest: Says how many there are.
        rich: Accounts with coins.
        processes: Starts and stops the nodes.
    """

    def __init__(
        self,
        directory: Path,
        base_port: int,
        manifest: Manifest,
        rich: tuple[PrivateKey, ...],
        processes: ProcessGroup,
    ) -> None:
        self.clone = manifest.node_count
        self.places = tuple(
            Place(index, directory / f"node-{index}", base_port) for index in range(self.clone + 1)
        )
        self.validators: dict[int, Address] = {}
        """The consensus accounts of those that sign, now or later, by index of the node."""
        self.genesis_hash = ZERO_HASH
        """Known when the network was created."""
        self.children: dict[int, Child] = {}
        """The process of each node that was started, the last one."""
        self._manifest = manifest
        self._directory = directory
        self._rich = rich
        self._processes = processes
        self._links = {
            (source.index, target.index): Link(target.peer_port)
            for source in self.places
            for target in self.places
            if source is not target
        }
        ports = {}
        for place in self.places:
            ports[place.base_port + place.index] = f"RPC of {place.path.name}"
            ports[place.peer_port] = f"peers of {place.path.name}"
            ports[place.metrics_port] = f"metrics of {place.path.name}"
        require_free_ports(ports)

    @property
    def genesis_file(self) -> Path:
        """What all share."""
        return self._directory / "genesis.json"

    @property
    def password_file(self) -> Path:
        """Of every key."""
        return self._directory / "password"

    async def create(self, nursery: trio.Nursery) -> None:
        """Serve the links and make the directories; nothing runs yet."""
        for link in self._links.values():
            await nursery.start(link.serve)
        self.password_file.write_text(PASSWORD + "\n")
        peer_ids = []
        for place in self.places:
            place.path.mkdir(mode=0o700)
            peer_ids.append(compute_peer_id(load_or_create_host_key(place.path / "host.key")))
        nodes = [
            create_node_directory(
                place.path,
                PASSWORD,
                password_file=self.password_file,
                light=True,
                settings=self._build_settings(place, peer_ids),
            )
            for place in self.places
        ]
        seats = tuple(
            Seat(node.consensus, node.operator) for node in nodes[: self._manifest.validator_count]
        )
        self.validators = {index: seat.validator for index, seat in enumerate(seats)}
        plan = replace(
            plan_development_network(seats),
            coins={get_address(key): 1_000 * TOKEN_UNIT for key in self._rich},
        )
        spare = self._manifest.spare
        if spare is not None:
            self.validators[spare] = nodes[spare].consensus
            stake = plan.parameters.validator_stake_pot * TOKEN_UNIT
            plan = replace(plan, tokens={nodes[spare].operator: stake})
        genesis = build_network(plan)
        contracts = {
            REGISTER: GenesisAccount(nonce=1, code=REGISTER_CODE),
            SET: GenesisAccount(nonce=1, code=SET_CODE),
        }
        genesis = replace(genesis, alloc={**genesis.alloc, **contracts})
        self.genesis_file.write_bytes(encode_genesis(genesis))
        for place in self.places:
            self.genesis_hash = create_database(place.path, self.genesis_file)
        # Its key is nobody's: it follows.
        self._write_config(self.places[self._manifest.full_node], peer_ids)

    def _build_settings(
        self, place: Place, peer_ids: list[str]
    ) -> dict[str, str | int | bool | Path | tuple[str, ...]]:
        others = [other for other in self.places if other is not place]
        return {
            "network.listen": (f"/ip4/{HOST}/tcp/{place.peer_port}",),
            # The links only: what peers tell of loopback addresses is not believed.
            "network.bootstrap": tuple(
                f"/ip4/{HOST}/tcp/{self._links[place.index, other.index].port}"
                f"/p2p/{peer_ids[other.index]}"
                for other in others
            ),
            "rpc.port": place.base_port + place.index,
            "metrics.port": place.metrics_port,
        }

    def _write_config(self, place: Place, peer_ids: list[str]) -> None:
        settings = {"data_dir": place.path, **self._build_settings(place, peer_ids)}
        place.config_file.write_text(encode_config(settings))

    # Processes.

    def start(self, index: int) -> None:
        """Start a node."""
        assert not self.is_running(index)
        place = self.places[index]
        arguments = ("node.cli", "node", "run", "--config", str(place.config_file))
        self.children[index] = self._processes.start(place.path.name, arguments)

    def is_running(self, index: int) -> bool:
        """Whether its process has not ended."""
        child = self.children.get(index)
        return child is not None and child.is_running

    def send(self, index: int, number: signal.Signals) -> None:
        """Send a signal to the node's process alone; the one that serves its RPC must notice."""
        if self.is_running(index):
            self.children[index].process.send_signal(number)

    def send_all(self, index: int, number: signal.Signals) -> None:
        """Send a signal to the node and whatever it started."""
        if self.is_running(index):
            os.killpg(self.children[index].process.pid, number)

    async def wait_for_end(self, index: int) -> bool:
        """Return when the process has ended: True, or False if it had to be killed."""
        with trio.move_on_after(STOP_SECONDS):
            await trio.to_thread.run_sync(self.children[index].process.wait, abandon_on_cancel=True)
            return True
        self.send_all(index, signal.SIGKILL)
        self.children[index].process.wait()
        return False

    def set_disk_full(self, index: int) -> None:
        """From now on no write to a file of the node succeeds."""
        process = self.children[index].process
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, hard))

    # Links.

    def set_links(self, index: int, state: LinkState) -> None:
        """Change every link to and from a node."""
        for pair, link in self._links.items():
            if index in pair:
                link.set_state(state)

    def count_passed_bytes(self) -> int:
        """What all links have passed on."""
        return sum(link.byte_count for link in self._links.values())

    # Directories.

    def wipe(self, index: int, *, keep_guard: bool) -> None:
        """Lose all but keys, configuration and genesis, and, perhaps, the signer guard."""
        place = self.places[index]
        kept = {KEYS, CONFIG_NAME, "host.key", self.genesis_file.name}
        for path in list(place.path.iterdir()):
            if path.name in kept:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not keep_guard:
            for guard in (place.path / KEYS).glob("*.guard"):
                guard.unlink()
        create_database(place.path, self.genesis_file)

    def copy_key(self, index: int) -> None:
        """Give the keys of a node to the clone, as files of its own: locks do not see it."""
        source, target = (self.places[each].path / KEYS for each in (index, self.clone))
        for name in ("consensus.json", "operator.json"):
            shutil.copyfile(source / name, target / name)

    def read_log(self, index: int, offset: int = 0) -> str:
        """What a node has logged from `offset` on, in bytes."""
        with self._log(index).open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def log_length(self, index: int) -> int:
        """Bytes that a node has logged."""
        return self._log(index).stat().st_size if self._log(index).exists() else 0

    def _log(self, index: int) -> Path:
        return self._directory / "logs" / f"{self.places[index].path.name}.log"
