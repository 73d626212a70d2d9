"""`pot doctor`: checks of a node, its directory and its machine (docs/operator-guide.md).

A check is a function that returns what it found. Checks change nothing, except that one writes a
scratch file and removes it. The findings of a running node are fetched from it.
"""

import os
import platform
import resource
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Final

from chain.consensus.guard import compute_first_signable
from chain.consensus.records import compute_latest_intent, decode_record
from chain.errors import RejectedInputError
from chain.genesis import GenesisConfig, build_genesis
from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.params import InvalidGenesisError
from chain.primitives import BlockNumber
from chain.training.self_test import WrongNumbersError, run_self_test
from node.clock import Clock
from node.config import KeySection, NodeConfig
from node.consensus.guard_file import GuardFile
from node.consensus.wal import read_records
from node.health.diagnosis import DISK_CRITICAL_BYTES, DISK_LOW_BYTES, Finding, Severity
from node.storage.block_store import BlockStore
from node.storage.database import MAP_SIZE_BYTES, open_database
from pot_common.errors import OperatorError
from pot_common.framing import NODE_FRAMES, FrameError
from pot_common.keystore import get_password, load_key, read_address

OPEN_FILES_WANTED: Final = 1_024
"""Open files that a node needs: for connections, database, blobs, and pipes to its processes."""

SYNC_TRIALS: Final = 15
"""Number of durable writes that are timed."""

SYNC_SECONDS_LIMIT: Final = 0.05
"""Longest acceptable durable write. Every block waits for three of them in each validator."""

CLOCK_AHEAD_SECONDS: Final = 2.0
"""A head further ahead of the clock means that the clock is slow: a new block is at most a second
ahead of a correct clock."""

CONNECT_SECONDS: Final = 2.0
"""Time limit of a TCP connection to a bootstrap address."""

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "glusterfs", "ceph"}
)
"""File systems on which LMDB's locks and memory maps do not work."""

LIBRARIES: Final = ("py-evm", "libp2p", "torch", "numpy", "lmdb", "coincurve")
"""Libraries that affect what is computed, signed or stored, so their versions are shown."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    text: str
    """The result in one line."""
    finding: Finding | None = None
    """The problem and its cure; None if there is no problem."""
    is_note: bool = False
    """Whether the text only says what was not checked."""

    def to_json(self) -> JsonObject:
        """The check as `--json` shows it."""
        value: JsonObject = {"name": self.name, "ok": self.finding is None, "text": self.text}
        if self.finding is not None:
            value |= {**self.finding.to_json()}
        return value


def _wrong(name: str, code: str, text: str, cure: str) -> Check:
    return Check(name, text, Finding(code, Severity.CRITICAL, text, cure))


def _doubtful(name: str, code: str, text: str, cure: str) -> Check:
    return Check(name, text, Finding(code, Severity.WARNING, text, cure))


def _failed(name: str, code: str, error: Exception) -> Check:
    """The check for an error, which names its own cure after the fact."""
    text, _, cure = str(error).partition("; ")
    return _wrong(name, code, text, cure or "mend what this says")


def examine_machine() -> Iterator[Check]:
    """The checks that do not depend on a node's directory."""
    yield check_versions()
    yield check_arithmetic()
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE))
    yield check_address_space(resource.getrlimit(resource.RLIMIT_AS)[0])


def examine_directory(config: NodeConfig, clock: Clock, *, is_running: bool) -> Iterator[Check]:
    """The checks of a node's files; with `is_running`, without those that a running node locks."""
    if not config.data_dir.is_dir():
        yield _wrong(
            "directory",
            "no_directory",
            f"there is no {config.data_dir}",
            "run `pot init`, or name a node's file with --config",
        )
        return
    yield check_file_system(config.data_dir, Path("/proc/mounts"))
    yield check_disk(config)
    yield check_sync(config.data_dir)
    genesis, check = check_genesis(config)
    yield check
    yield from check_keys(config, genesis)
    head = BlockNumber(0)
    if genesis is not None and (config.database_dir / "data.mdb").exists():
        head, checks = check_database(config, genesis, clock)
        yield from checks
    if not is_running:
        if config.guard_file is not None:
            yield check_guard(config, config.guard_file, head)
        yield from check_ports(config)
    yield from check_bootstrap(config.network.bootstrap)


# The machine.


def check_versions() -> Check:
    """The versions of Python and of the libraries that matter."""
    found, absent = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    text = f"Python {platform.python_version()}, {', '.join(found)}"
    if absent:
        return _wrong(
            "versions",
            "library_missing",
            f"{text}; not installed: {', '.join(absent)}",
            "install with the project's requirements.lock",
        )
    return Check("versions", text)


def check_arithmetic() -> Check:
    """Check that this machine's arithmetic gives the results that the protocol demands."""
    try:
        run_self_test()
    except WrongNumbersError as error:
        return _failed("arithmetic", "wrong_numbers", error)
    return Check("arithmetic", "exact: the known answers come out")


def check_open_files(limits: tuple[int, int]) -> Check:
    """Check the limits of open files. A node raises its soft limit as far as it needs."""
    _, hard = limits
    text = "no limit" if hard == resource.RLIM_INFINITY else f"limit {hard}"
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES_WANTED:
        return _doubtful(
            "open files",
            "open_files",
            f"{text}; {OPEN_FILES_WANTED} are wanted",
            "`ulimit -n 65536`, or LimitNOFILE in the service file",
        )
    return Check("open files", text)


def check_address_space(limit: int) -> Check:
    """Check the limit of virtual memory, of which the database maps 16 TiB."""
    if limit != resource.RLIM_INFINITY and limit < MAP_SIZE_BYTES:
        return _wrong(
            "virtual memory",
            "address_space",
            f"limit {limit / 2**30:.0f} GiB; the database maps {MAP_SIZE_BYTES >> 40} TiB of "
            "addresses, which is no memory",
            "`ulimit -v unlimited`, or LimitAS=infinity in the service file",
        )
    return Check("virtual memory", "enough addresses for the database")


# The directory.


def check_file_system(data_dir: Path, mounts: Path) -> Check:
    """Check that the directory is on a local disk."""
    kind = _find_file_system(data_dir.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        return _wrong(
            "file system",
            "network_file_system",
            f"{data_dir} is on {kind}: the database and the write-ahead log need a local disk",
            "set data_dir to a directory on one",
        )
    return Check("file system", kind or "not known")


def _find_file_system(path: Path, mounts: Path) -> str:
    """The type of the innermost mount that contains `path`; empty if it is unknown."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    held = [
        (fields[1], fields[2])
        for fields in (line.split(" ") for line in lines)
        if len(fields) > 2 and path.is_relative_to(fields[1])
    ]
    return max(held, key=lambda mount: len(mount[0]), default=("", ""))[1]


def check_disk(config: NodeConfig) -> Check:
    """Check the free space against what the node may still write."""
    usage = shutil.disk_usage(config.data_dir)
    text = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.0f} GiB free"
    cure = "free some, or move data_dir to a larger disk"
    if usage.free < DISK_CRITICAL_BYTES:
        return _wrong("disk", "disk_full", f"{text}: a full disk stops signing", cure)
    if usage.free < DISK_LOW_BYTES:
        return _doubtful("disk", "disk_low", text, cure)
    held = _measure(config.blob_dir)
    wanted = config.blobs.quota_bytes - held
    if wanted > usage.free:
        return _doubtful(
            "disk",
            "quota_above_disk",
            f"{text}, and blobs.quota_bytes lets blobs grow by {wanted / 2**30:.0f} GiB more",
            "set blobs.quota_bytes below what is free",
        )
    return Check("disk", text)


def _measure(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def check_sync(data_dir: Path) -> Check:
    """Measure how long a durable write takes."""
    path = data_dir / f".doctor.{os.getpid()}"
    seconds = []
    try:
        with path.open("wb") as file:
            for _ in range(SYNC_TRIALS):
                started = time.perf_counter()
                file.write(bytes(200))
                file.flush()
                os.fsync(file.fileno())
                seconds.append(time.perf_counter() - started)
    except OSError as error:
        return _wrong(
            "fsync",
            "not_writable",
            f"cannot write in {data_dir}: {error.strerror}",
            "let the node's user own data_dir, and free its disk",
        )
    finally:
        path.unlink(missing_ok=True)
    middle = median(seconds)
    text = f"{1000 * middle:.1f} ms, the median of {SYNC_TRIALS}"
    if middle > SYNC_SECONDS_LIMIT:
        return _doubtful(
            "fsync", "slow_sync", f"{text}: each block waits for three", "use a faster disk"
        )
    return Check("fsync", text)


def check_genesis(config: NodeConfig) -> tuple[GenesisConfig | None, Check]:
    """Check that the genesis file can be read, and show its hash."""
    # Late: everything of a node is behind it.
    from node.genesis import load_genesis

    try:
        genesis, _ = load_genesis(config)
        block_hash = build_genesis(genesis).header.hash
    except (OperatorError, InvalidGenesisError) as error:
        return None, _failed("genesis", "genesis", error)
    text = f"{to_hex(block_hash)}, chain {genesis.chain_id}"
    return genesis, Check("genesis", text)


def check_keys(config: NodeConfig, genesis: GenesisConfig | None) -> Iterator[Check]:
    """Check that the keys exist, that other users cannot read them, and that the passwords fit."""
    for name, section in (("consensus", config.consensus), ("operator", config.operator)):
        if section.key_file is not None:
            yield _check_key(name, section)
    if _is_open_to_others(config.host_key_file):
        yield _open_to_others("host key", config.host_key_file)
    key_file = config.consensus.key_file
    if genesis is None or key_file is None or not key_file.is_file():
        return
    try:
        address = read_address(key_file)
    except OperatorError:
        return  # the check of the key reports it
    if address not in genesis.parameters.validators:
        yield _doubtful(
            "validator",
            "no_validator",
            f"{to_hex(address)} is not among the validators of the genesis",
            "if it has not joined since, take another key, or none to follow",
        )


def _check_key(name: str, section: KeySection) -> Check:
    assert section.key_file is not None
    label = f"{name} key"
    for path in (section.key_file, section.password_file):
        if path is not None and _is_open_to_others(path):
            return _open_to_others(label, path)
    try:
        address = read_address(section.key_file)
        if section.password_file is not None:
            password = get_password(
                section.password_file, setting=f"{name}.password_file", prompt=""
            )
            load_key(section.key_file, password)
    except OperatorError as error:
        return _failed(label, "key", error)
    opened = "opens" if section.password_file is not None else "password is asked for"
    return Check(label, f"{to_hex(address)}, {opened}")


def _is_open_to_others(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & 0o077)


def _open_to_others(name: str, path: Path) -> Check:
    text = f"{path} can be read by others"
    return _wrong(name, "readable_by_others", text, f"chmod 600 {path}")


def check_guard(config: NodeConfig, guard_file: Path, head: BlockNumber) -> Check:
    """Check, from its guard and log, whether a stopped validator may sign the next block."""
    try:
        guard = GuardFile(guard_file).load()
        records = [decode_record(each.payload) for each in read_records(config.wal_file)]
    except (OperatorError, RejectedInputError) as error:
        return _failed("signer guard", "guard", error)
    if guard is None:
        text = "none: the node asks a quorum of validators for their heads before it signs"
        if head == 0:
            return Check("signer guard", text)
        return _doubtful(
            "signer guard",
            "no_guard",
            text,
            "restore the latest guard file if there is one, and never an older one",
        )
    first = compute_first_signable(guard, compute_latest_intent(records), head, head)
    if first > head + 1:
        return _doubtful(
            "signer guard",
            "guard_ahead",
            f"it signed for block {guard.number}, and the log does not show what: it signs nothing "
            f"before block {first}; its head is {head}",
            "restore consensus.wal if it was lost; else it goes on when the others have made these "
            "blocks",
        )
    return Check("signer guard", f"last signed at block {guard.number}")


def check_database(
    config: NodeConfig, genesis: GenesisConfig, clock: Clock
) -> tuple[BlockNumber, list[Check]]:
    """Check that the database is of this chain, and that the clock is not behind its head."""
    try:
        database = open_database(config.database_dir, readonly=True)
        try:
            store = BlockStore(database)
            store.check_initialized()
            head, stored = store.head(), store.genesis_hash()
        finally:
            database.close()
    except OperatorError as error:
        return BlockNumber(0), [_failed("database", "database", error)]
    if stored != build_genesis(genesis).header.hash:
        other = _wrong(
            "database",
            "other_chain",
            f"it holds the chain with genesis {to_hex(stored)}, which is not the genesis file's",
            "set genesis to that chain's file, or data_dir to another directory",
        )
        return head.number, [other]
    found = Check("database", f"block {head.number}, {to_hex(head.hash)}")
    return head.number, [found, _compare_clock(head.timestamp, clock)]


def _compare_clock(head_timestamp: int, clock: Clock) -> Check:
    behind = head_timestamp - clock.now_ms() / 1000
    if behind > CLOCK_AHEAD_SECONDS:
        return _wrong(
            "clock",
            "clock_wrong",
            f"this machine's clock is at least {behind:.0f} s behind: the head is of a later time",
            "set it by NTP: `timedatectl set-ntp true`, or chrony",
        )
    return Check("clock", f"{max(0, -behind):.0f} s past the head's time")


def check_ports(config: NodeConfig) -> Iterator[Check]:
    """Check that the ports on which the node will listen are free."""
    wanted = []
    if config.rpc.processes:
        wanted.append(("rpc.port", config.rpc.host, config.rpc.port))
    if config.metrics.enabled:
        wanted.append(("metrics.port", config.metrics.host, config.metrics.port))
    wanted.extend(("network.listen", *_split_address(text)) for text in config.network.listen)
    for setting, host, port in wanted:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.create_server((host, port), family=family):
                pass
        except OSError as error:
            yield _wrong(
                "port",
                "port_in_use",
                f"{setting}: {host}:{port}: {error.strerror or error}",
                f"stop what listens there (`ss -ltnp`), or change {setting}",
            )
        else:
            yield Check("port", f"{setting}: {host}:{port} is free")


def check_bootstrap(addresses: Sequence[str]) -> Iterator[Check]:
    """Check that the bootstrap addresses accept connections."""
    reached = 0
    for text in addresses:
        host, port = _split_address(text)
        try:
            with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
                reached += 1
        except OSError as error:
            yield _doubtful(
                "bootstrap",
                "unreachable",
                f"{host}:{port}: {error.strerror or error}",
                "does that node run, and does its firewall let this machine in?",
            )
    if addresses and not reached:
        yield _doubtful(
            "bootstrap",
            "alone",
            f"none of {len(addresses)} addresses answers, so the node would find no peers",
            "start one of those nodes, or add an address to network.bootstrap",
        )
    elif addresses:
        yield Check("bootstrap", f"{reached} of {len(addresses)} addresses answer")


def _split_address(text: str) -> tuple[str, int]:
    """Host and port of a multiaddress such as /ip4/192.0.2.1/tcp/30303/p2p/..."""
    parts = text.split("/")
    return parts[2], int(parts[4])


# A running node.


def ask_node(socket_path: Path, method: str) -> JsonObject | None:
    """The answer of the node behind a Unix socket; None if no node runs there.

    Raises:
        OperatorError: A node runs there but does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        try:
            connection.connect(str(socket_path))
        except OSError:
            return None
        try:
            connection.sendall(NODE_FRAMES.encode({"id": 1, "method": method, "params": {}}))
            answer = _receive_answer(connection)
        except (OSError, FrameError) as error:
            raise OperatorError(
                f"the node behind {socket_path} does not answer ({error}): see its log"
            ) from error
    result = answer.get("result")
    return result if isinstance(result, dict) else {}


def _receive_answer(connection: socket.socket) -> JsonObject:
    with connection.makefile("rb") as stream:
        while (message := NODE_FRAMES.read(stream)) is not None:
            if message.get("id") == 1:  # other messages tell of new heads
                return message
    raise ConnectionResetError("the connection ended")


def check_state(state: Mapping[str, object]) -> Iterator[Check]:
    """The checks that a node reports in `pot_consensusState`."""
    findings = state.get("findings")
    found = findings if isinstance(findings, list) else []
    for each in found:
        assert isinstance(each, dict)
        text = str(each.get("text"))
        yield Check(
            "node",
            text,
            Finding(
                str(each.get("code")),
                Severity(str(each.get("severity"))),
                text,
                str(each.get("cure")),
            ),
        )
    if not found:
        yield Check("node", str(state.get("summary")))
