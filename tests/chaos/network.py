"""The nodes under test: directories, processes, and a link for each of them to each other."""

import os
import resource
import shutil
import signal
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import trio

from chain.crypto import get_address
from chain.genesis import GenesisAccount
from chain.primitives import TOKEN_UNIT, ZERO_HASH, Address, PrivateKey
from node.devnet.processes import Child, ProcessGroup, require_free_ports
from node.network.host import compute_peer_id, load_or_create_host_key
from node.setup.directory import CONFIG_NAME, create_database, create_node_directory, encode_config
from node.setup.network_genesis import Seat, build_network, encode_genesis, plan_development_network
from tests.chaos.contracts import REGISTER, REGISTER_CODE, SET, SET_CODE
from tests.chaos.links import Links
from tests.chaos.manifest import Manifest
from tests.chaos.namespaces import NamespaceLinks, NotAllowedError
from tests.chaos.proxy import ProxyLinks
from tests.worlds.pause import paused

PASSWORD: Final = "chaos"
"""The password of every key."""

PEER_PORT_OFFSET: Final = 30
"""The distance from a node's RPC port to its peer port; twice that to its metrics port."""

STOP_SECONDS: Final = 30.0
"""How long a process may take to end after SIGTERM; then it is killed, and the report says so."""

KEYS: Final = "keys"
"""The name of the keys' directory in a node's directory."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node's directory and ports."""

    index: int
    path: Path
    base_port: int
    host: str

    @property
    def rpc_url(self) -> str:
        """The URL of its JSON-RPC."""
        return f"http://{self.host}:{self.base_port + self.index}"

    @property
    def peer_port(self) -> int:
        """The port on which it listens for peers."""
        return self.base_port + PEER_PORT_OFFSET + self.index

    @property
    def metrics_port(self) -> int:
        """The port of its metrics."""
        return self.base_port + 2 * PEER_PORT_OFFSET + self.index

    @property
    def metrics_url(self) -> str:
        """The URL of its metrics."""
        return f"http://{self.host}:{self.metrics_port}/metrics"

    @property
    def config_file(self) -> Path:
        """The file for `pot node run --config`."""
        return self.path / CONFIG_NAME

    @property
    def consensus_file(self) -> Path:
        """The file for `pot validator --consensus-key`."""
        return self.path / KEYS / "consensus.json"

    @property
    def operator_file(self) -> Path:
        """The file for `pot validator --key`."""
        return self.path / KEYS / "operator.json"


class LinkChoice(StrEnum):
    """The kind of network between the nodes."""

    AUTO = "auto"
    """Namespaces where the machine allows them, else proxies."""
    NAMESPACES = "namespaces"
    PROXIES = "proxies"


async def open_links(
    choice: LinkChoice, base_port: int, node_count: int, nursery: trio.Nursery
) -> Links:
    """The network between the nodes, set up; the caller closes it.

    Raises:
        NotAllowedError: Namespaces were chosen, and cannot be made.
        OperatorError: One of the ports is in use.
    """
    indices = range(node_count)
    peer_ports = tuple(base_port + PEER_PORT_OFFSET + index for index in indices)
    links: Links
    if choice is not LinkChoice.PROXIES:
        links = NamespaceLinks(base_port, peer_ports)
        try:
            await links.create(nursery)
        except NotAllowedError:
            if choice is LinkChoice.NAMESPACES:
                raise
        else:
            return links
    require_free_ports(
        {
            base_port + group * PEER_PORT_OFFSET + index: f"{purpose} of node-{index}"
            for group, purpose in enumerate(("RPC", "peers", "metrics"))
            for index in indices
        }
    )
    links = ProxyLinks(peer_ports)
    await links.create(nursery)
    return links


class Network:
    """Validators, a full node after them, perhaps a spare validator, and room for one clone.

    Args:
        directory: The place of all files.
        base_port: The first of 90.
        links: Between the nodes, the clone too.
        manifest: Says how many there are.
        rich: The accounts that have coins in genesis.
        processes: Starts and stops the nodes.
    """

    def __init__(
        self,
        directory: Path,
        base_port: int,
        links: Links,
        manifest: Manifest,
        rich: tuple[PrivateKey, ...],
        processes: ProcessGroup,
    ) -> None:
        self.clone = manifest.node_count
        self.places = tuple(
            Place(index, directory / f"node-{index}", base_port, links.host(index))
            for index in range(self.clone + 1)
        )
        self.validators: dict[int, Address] = {}
        """The consensus accounts of the nodes that sign, now or later, by index."""
        self.genesis_hash = ZERO_HASH
        """Set by `create`."""
        self.children: dict[int, Child] = {}
        """The latest process of each node that was started."""
        self._manifest = manifest
        self._directory = directory
        self._rich = rich
        self._processes = processes
        self.links = links
        """The network between the nodes, which cuts and silences them."""

    @property
    def genesis_file(self) -> Path:
        """The genesis file of all nodes."""
        return self._directory / "genesis.json"

    @property
    def password_file(self) -> Path:
        """The file with the password of every key."""
        return self._directory / "password"

    def create(self) -> None:
        """Make the directories; no node runs yet."""
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
        # Its key is no validator's, so it only follows.
        self._write_config(self.places[self._manifest.full_node], peer_ids)

    def _build_settings(
        self, place: Place, peer_ids: list[str]
    ) -> dict[str, str | int | bool | Path | tuple[str, ...]]:
        others = [other for other in self.places if other is not place]
        return {
            "network.listen": (f"/ip4/{place.host}/tcp/{place.peer_port}",),
            # Only through the links: private addresses that peers announce are not used.
            "network.bootstrap": tuple(
                "/ip4/{}/tcp/{}/p2p/{}".format(
                    *self.links.dial(place.index, other.index), peer_ids[other.index]
                )
                for other in others
            ),
            "rpc.host": place.host,
            "rpc.allowed_hosts": (place.host,),
            "rpc.port": place.base_port + place.index,
            # The clients' writes are free, and more than a node includes by default.
            "mempool.gas_price_wei": 0,
            "metrics.host": place.host,
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
        program = self.links.program(index, arguments)
        self.children[index] = self._processes.start(place.path.name, program)

    def is_running(self, index: int) -> bool:
        """Whether its process has not ended."""
        child = self.children.get(index)
        return child is not None and child.is_running

    def send(self, index: int, number: signal.Signals) -> None:
        """Send a signal to the node's process alone; its RPC process must notice by itself."""
        if self.is_running(index):
            self.children[index].process.send_signal(number)

    def send_all(self, index: int, number: signal.Signals) -> None:
        """Send a signal to the node and all processes that it started."""
        if self.is_running(index):
            os.killpg(self.children[index].process.pid, number)

    def paused(self, index: int) -> AbstractContextManager[None]:
        """Stop the node and all processes that it started, for a `with` block."""
        if not self.is_running(index):
            return nullcontext()
        return paused(-self.children[index].process.pid)

    async def wait_for_end(self, index: int) -> bool:
        """Wait for the process to end; False if it had to be killed."""
        with trio.move_on_after(STOP_SECONDS):
            await trio.to_thread.run_sync(self.children[index].process.wait, abandon_on_cancel=True)
            return True
        self.send_all(index, signal.SIGKILL)
        self.children[index].process.wait()
        return False

    def set_disk_full(self, index: int) -> None:
        """Make every write to a file of the node fail from now on."""
        process = self.children[index].process
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, hard))

    # Directories.

    def wipe(self, index: int, *, keep_guard: bool) -> None:
        """Delete all but keys, configuration and genesis; keep the signer guard if told so."""
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
        """Copy the keys of a node to the clone, so that no lock on a file finds out."""
        source, target = (self.places[each].path / KEYS for each in (index, self.clone))
        for name in ("consensus.json", "operator.json"):
            shutil.copyfile(source / name, target / name)

    def read_log(self, index: int, offset: int = 0) -> str:
        """A node's log from the byte `offset` on."""
        with self._log(index).open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def log_length(self, index: int) -> int:
        """The length of a node's log in bytes."""
        return self._log(index).stat().st_size if self._log(index).exists() else 0

    def _log(self, index: int) -> Path:
        return self._directory / "logs" / f"{self.places[index].path.name}.log"
