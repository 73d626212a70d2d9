"""The findings of `pot doctor` in a directory or machine with one defect."""

import resource
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from chain.consensus.guard import GuardState, Step
from chain.genesis import build_genesis
from chain.primitives import ZERO_HASH, BlockNumber, View
from chain.training import self_test
from node.config import NodeConfig, load_config
from node.consensus.guard_file import GuardFile
from node.consensus.wal import WriteAheadLog
from node.health.diagnosis import Severity
from node.ipc.server import IpcServer
from node.setup import doctor
from node.setup.directory import create_database, create_node_directory
from node.setup.doctor import Check
from node.setup.network_genesis import (
    Seat,
    build_network,
    encode_genesis,
    plan_development_network,
)
from pot_common.errors import OperatorError

PASSWORD = "pass" + "word"


class FixedClock:
    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms


@dataclass
class Node:
    """A validator's directory after `pot init`."""

    config: NodeConfig
    timestamp: int

    def examine(self, *, is_running: bool = False, hours: int = 1) -> list[Check]:
        clock = FixedClock(1000 * (self.timestamp + 3_600 * hours))
        return list(doctor.examine_directory(self.config, clock, is_running=is_running))

    def codes(self, **options: object) -> list[str]:
        return [
            check.finding.code for check in self.examine(**options) if check.finding is not None
        ]

    def only(self, **options: object) -> Check:
        (check,) = [each for each in self.examine(**options) if each.finding is not None]
        return check


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that is made once, because keys take time."""
    root = tmp_path_factory.mktemp("node")
    password_file = root / "password"
    password_file.write_text(PASSWORD + "\n")
    password_file.chmod(0o600)
    node = create_node_directory(
        root / "data",
        PASSWORD,
        password_file=password_file,
        light=True,
        settings={"rpc.port": 0, "metrics.port": 0, "network.listen": ("/ip4/127.0.0.1/tcp/0",)},
    )
    network = plan_development_network((Seat(node.consensus, node.operator),))
    (root / "genesis.json").write_bytes(encode_genesis(build_network(network)))
    create_database(node.path, root / "genesis.json")
    return root


@pytest.fixture
def node(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "data" / "config.toml").read_text()
    config_file = tmp_path / "config.toml"
    config_file.write_text(text.replace(str(template), str(tmp_path)))
    usage = type(shutil.disk_usage(tmp_path))(2**42, 2**41, 2**41)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    monkeypatch.setattr(
        doctor, "SYNC_SECONDS_LIMIT", 10.0
    )  # this test must not depend on this machine
    monkeypatch.setattr(doctor, "NETWORK_FILE_SYSTEMS", frozenset({"nfs4"}))
    config = load_config(config_file)
    genesis, _ = doctor.check_genesis(config)
    assert genesis is not None
    return Node(config, build_genesis(genesis).header.timestamp)


def test_nothing_is_wrong_with_a_new_directory(node: Node) -> None:
    checks = node.examine()
    assert [check.finding for check in checks if check.finding is not None] == []
    names = [check.name for check in checks]
    assert names == [
        *("file system", "disk", "fsync", "genesis", "consensus key", "operator key"),
        *("database", "clock", "signer guard", "port", "port", "port"),
    ]
    assert not list(node.config.data_dir.glob(".doctor*"))


def test_a_directory_that_is_not_there_is_named(node: Node, tmp_path: Path) -> None:
    config = node.config.model_copy(update={"data_dir": tmp_path / "absent"})
    (check,) = doctor.examine_directory(config, FixedClock(0), is_running=False)
    assert check.finding is not None
    assert (check.finding.code, check.finding.cure[:14]) == ("no_directory", "run `pot init`")


@pytest.mark.parametrize(
    ("free", "code", "severity"),
    [
        (2**29, "disk_full", Severity.CRITICAL),
        (3 * 2**30, "disk_low", Severity.WARNING),
        (20 * 2**30, "quota_above_disk", Severity.WARNING),
    ],
)
def test_too_little_space_is_told_by_how_little(
    node: Node, monkeypatch: pytest.MonkeyPatch, free: int, code: str, severity: Severity
) -> None:
    usage = type(doctor.shutil.disk_usage(Path()))(2**42, 2**42 - free, free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    finding = node.only().finding
    assert finding is not None
    assert (finding.code, finding.severity) == (code, severity)


def test_a_network_file_system_is_refused(node: Node, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"root / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    check = doctor.check_file_system(node.config.data_dir, mounts)
    assert check.finding is not None
    assert check.finding.code == "network_file_system"
    mounts.write_text(f"server:/x / nfs4 rw 0 0\ndisk {tmp_path} xfs rw 0 0\n")
    assert doctor.check_file_system(node.config.data_dir, mounts) == Check("file system", "xfs")
    assert doctor.check_file_system(tmp_path, tmp_path / "none").text == "not known"


def test_a_disk_that_is_slow_or_refuses_is_told(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SYNC_SECONDS_LIMIT", -1.0)
    assert node.codes() == ["slow_sync"]

    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor.os, "fsync", refuse)
    assert "No space left on device" in node.only().text
    assert not list(node.config.data_dir.glob(".doctor*"))


@pytest.mark.parametrize("which", ["consensus", "operator", "password", "host"])
def test_a_secret_that_others_can_read_is_named_with_its_cure(node: Node, which: str) -> None:
    path = {
        "consensus": node.config.consensus.key_file,
        "operator": node.config.operator.key_file,
        "password": node.config.consensus.password_file,
        "host": node.config.host_key_file,
    }[which]
    assert path is not None
    path.chmod(0o640)
    findings = [check.finding for check in node.examine() if check.finding is not None]
    assert {finding.code for finding in findings} == {"readable_by_others"}
    assert findings[0].cure == f"chmod 600 {path}"


def test_a_wrong_password_and_a_lost_key_are_told(node: Node) -> None:
    password_file, key_file = node.config.operator.password_file, node.config.operator.key_file
    assert password_file is not None
    assert key_file is not None
    password_file.write_text("another\n")
    assert node.codes() == ["key", "key"]
    password_file.write_text(PASSWORD + "\n")
    key_file.unlink()
    assert "cannot read the key file" in node.only().text


def test_key_outside_the_validator_set_is_reported(node: Node) -> None:
    assert node.config.operator.key_file is not None
    section = node.config.operator.model_copy()
    config = node.config.model_copy(update={"consensus": section})
    assert [c.name for c in Node(config, node.timestamp).examine() if c.finding] == ["validator"]


def test_a_genesis_that_is_absent_wrong_or_another_chains_is_told(node: Node) -> None:
    path = node.config.genesis_file
    text = path.read_text()
    path.write_text(text.replace('"chainId": ', '"chainId": 9'))
    assert node.codes() == ["other_chain"]
    path.write_text("{}")
    assert node.codes() == ["genesis"]
    path.unlink()
    absent = node.only()
    assert absent.text == f"cannot read the genesis file {path}: No such file or directory"
    assert absent.finding is not None
    assert absent.finding.cure.startswith("name the node's configuration with --config")


def test_a_database_that_is_damaged_is_told(node: Node) -> None:
    data = node.config.database_dir / "data.mdb"
    data.write_bytes(b"\xff" * 8_192)
    assert node.codes() == ["database"]


def test_a_clock_behind_the_head_is_told(node: Node) -> None:
    finding = node.only(hours=-1).finding
    assert finding is not None
    assert (finding.code, finding.severity) == ("clock_wrong", Severity.CRITICAL)
    assert "at least 3600 s behind" in finding.text


def guard_at(number: int) -> GuardState:
    return GuardState(BlockNumber(number), View(0), Step.PREPARE, ZERO_HASH, None)


def test_a_guard_ahead_of_the_log_is_told_and_nothing_is_changed(node: Node) -> None:
    assert node.config.guard_file is not None
    guard = GuardFile(node.config.guard_file)
    guard.load()
    guard.save(guard_at(7))
    WriteAheadLog(node.config.wal_file).close()
    before = {path: path.read_bytes() for path in node.config.data_dir.rglob("*") if path.is_file()}
    check = node.only()
    assert check.name == "signer guard"
    assert "signs nothing before block 8" in check.text
    after = {path: path.read_bytes() for path in before}
    changed = [path.name for path in before if before[path] != after[path]]
    assert changed in ([], ["lock.mdb"]), "LMDB notes its readers"
    node.config.guard_file.write_bytes(b"x" * 8_192)
    assert node.codes() == ["guard"]
    assert node.codes(is_running=True) == [], "a running node writes it"


def test_a_damaged_log_is_told(node: Node) -> None:
    node.config.wal_file.write_bytes(b"nothing of ours")
    assert "is no write-ahead log" in node.only().text


def test_a_port_that_is_taken_is_named_unless_the_node_has_it(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        rpc = node.config.rpc.model_copy(update={"port": port})
        config = node.config.model_copy(update={"rpc": rpc})
        check = Node(config, node.timestamp).only()
        assert f"rpc.port: 127.0.0.1:{port}" in check.text
        assert Node(config, node.timestamp).codes(is_running=True) == []


@pytest.fixture
def open_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_bootstrap_addresses_that_answer_are_counted_and_others_named(open_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed_port = server.getsockname()[1]
    peer = "12D3KooW" + "A" * 44
    addresses = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}" for port in (open_port, closed_port)]
    refused, counted = doctor.check_bootstrap(addresses)
    assert refused.finding is not None
    assert refused.finding.code == "unreachable"
    assert f"127.0.0.1:{closed_port}" in refused.text
    assert counted.text == "1 of 2 addresses answer"
    assert list(doctor.check_bootstrap([])) == []
    *_, alone = doctor.check_bootstrap(addresses[1:])
    assert alone.finding is not None
    assert alone.text == "none of 1 addresses answers, so the node would find no peers"


def test_limits_that_are_too_low_for_a_node_are_reported() -> None:
    infinite = resource.RLIM_INFINITY
    assert doctor.check_open_files((256, infinite)).finding is None
    few = doctor.check_open_files((256, 512))
    assert few.finding is not None
    assert "ulimit -n" in few.finding.cure
    assert doctor.check_address_space(infinite).finding is None
    small = doctor.check_address_space(2**33)
    assert small.finding is not None
    assert small.finding.code == "address_space"
    assert "limit 8 GiB" in small.text


def test_a_machine_with_other_numbers_or_without_a_library_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "py-evm 0." in doctor.check_versions().text
    monkeypatch.setattr(doctor, "LIBRARIES", ("no-such-library",))
    assert "no-such-library" in doctor.check_versions().text
    assert doctor.check_versions().finding is not None

    def differ() -> None:
        raise self_test.WrongNumbersError("sum differs")

    assert doctor.check_arithmetic().finding is None
    monkeypatch.setattr(doctor, "run_self_test", differ)
    assert "sum differs" in doctor.check_arithmetic().text


def test_findings_of_a_node_become_checks() -> None:
    finding = {"code": "stuck", "severity": "critical", "text": "No block.", "cure": "Start it."}
    (check,) = doctor.check_state({"findings": [finding], "summary": "No block."})
    assert check.to_json() == {"name": "node", "ok": False, **finding}
    (well,) = doctor.check_state({"findings": [], "summary": "Block 3 ..."})
    assert well.to_json() == {"name": "node", "ok": True, "text": "Block 3 ..."}


def test_missing_socket_gives_no_findings_of_a_node(tmp_path: Path) -> None:
    assert doctor.ask_node(tmp_path / "rpc.sock", "consensus_state") is None


class StuckBackend:
    def get_consensus_state(self) -> dict[str, object]:
        return {"findings": [], "summary": "waits"}


async def test_a_running_node_is_asked_over_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "rpc.sock"
    async with trio.open_nursery() as nursery:
        server = IpcServer(StuckBackend())
        await nursery.start(server.serve, path)
        server.announce_head(BlockNumber(7), ZERO_HASH)
        state = await trio.to_thread.run_sync(doctor.ask_node, path, "consensus_state")
        nursery.cancel_scope.cancel()
    assert state == {"findings": [], "summary": "waits"}


async def test_socket_without_an_answer_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rpc.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, hang_up)
            with pytest.raises(OperatorError, match="does not answer"):
                await trio.to_thread.run_sync(doctor.ask_node, path, "consensus_state")
