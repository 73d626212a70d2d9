import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from chain.contracts.addresses import FAUCET
from chain.genesis import parse_genesis
from node.cli.devnet_view import BAR_WIDTH, DevnetView, Snapshot, print_summary, render_snapshot
from node.config import load_config
from node.devnet.devnet import MARKER_NAME, DevnetPlan, prepare
from node.devnet.processes import ProcessGroup, require_free_ports
from node.devnet.summary import MinerUnits, count_units, summarize_round
from pot_common.errors import OperatorError
from pot_common.keystore import load_key, read_address
from tests.worlds.pause import paused
from tests.worlds.ports import find_base_port

DIGITS = Path("examples/digits.toml")
STEP_SECONDS = 0.02
PATIENCE_SECONDS = 20.0


def get_state(pid: int) -> str:
    """The state of a process in a letter: S if it sleeps, T if it is stopped, Z if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"


def is_alive(pid: int) -> bool:
    """Whether a process is alive; a zombie is not."""
    return get_state(pid) != "Z"


def wait_until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(STEP_SECONDS)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `parent_and_child` that starts a child and writes both process ids."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    (tmp_path / "parent_and_child.py").write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    return tmp_path


def read_pids(path: Path) -> list[int]:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return [int(pid) for pid in path.read_text().split()]


def test_leaving_the_block_ends_children_and_grandchildren(module: Path) -> None:
    with ProcessGroup(module / "logs") as processes:
        child = processes.start("one", ["parent_and_child"])
        pids = read_pids(child.log)
        assert all(is_alive(pid) for pid in pids)
    # Both are killed by now; the grandchild may need a moment to end.
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_child_that_ignores_the_first_signal_is_killed(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.devnet.processes.STOP_SECONDS", 0.2)
    (module / "stubborn.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with ProcessGroup(module / "logs") as processes:
        (pid,) = read_pids(processes.start("one", ["stubborn"]).log)
    assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_children_end_when_their_parent_is_killed(module: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from node.devnet.processes import ProcessGroup\n"
        "group = ProcessGroup(Path(sys.argv[1]))\n"
        "group.start('one', ['parent_and_child'])\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(module / "logs")])
    pids = read_pids(module / "logs" / "one.log")
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(pids[0]))
    os.kill(pids[1], signal.SIGKILL)  # not checked here: a node ends its own children


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_stopped_child_ends_when_its_parent_is_killed(module: Path) -> None:
    """A benchmark that was aborted left validators that were stopped for ever."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from node.devnet.processes import ProcessGroup\n"
        "from tests.worlds.pause import paused\n"
        "group = ProcessGroup(Path(sys.argv[1]))\n"
        "child = group.start('one', ['parent_and_child'])\n"
        "while not child.log.read_text(): time.sleep(0.01)\n"
        "with paused(-child.process.pid):\n"
        "    print('paused', flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(module / "logs")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"paused\n"
    pids = read_pids(module / "logs" / "one.log")
    wait_until(lambda: [get_state(pid) for pid in pids] == ["T", "T"])
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_alive(pids[0]))
    # The system also hangs up a stopped group that has lost its parent. That ends the grandchild,
    # unless these tests run under nohup.
    wait_until(lambda: get_state(pids[1]) != "T")
    with suppress(ProcessLookupError):
        os.kill(pids[1], signal.SIGKILL)  # not checked here: a node ends its own children


def test_stopped_child_goes_on_after_the_block(module: Path) -> None:
    with ProcessGroup(module / "logs") as processes:
        child = processes.start("one", ["parent_and_child"])
        pids = read_pids(child.log)
        with paused(child.process.pid):
            wait_until(lambda: [get_state(pid) for pid in pids] == ["T", "S"])
        wait_until(lambda: [get_state(pid) for pid in pids] == ["S", "S"])


def test_second_interrupt_still_ends_all_children(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    processes = ProcessGroup(module / "logs")
    pids = read_pids(processes.start("one", ["parent_and_child"]).log)
    with paused(pids[0]), monkeypatch.context() as patched:
        patched.setattr("node.devnet.processes.time.monotonic", interrupt)
        with pytest.raises(KeyboardInterrupt):
            processes.stop()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_end_of_a_child_is_told_by_the_last_line_of_its_log(module: Path) -> None:
    (module / "failing.py").write_text("raise ValueError('the cause')")
    with ProcessGroup(module / "logs") as processes:
        child = processes.start("validator-0", ["failing"])
        child.process.wait()
        told = child.describe_end()
    assert told.startswith("validator-0 ended with status 1: ValueError: the cause (see ")


def test_settings_of_the_operators_own_node_do_not_reach_children(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POT_RPC__PORT", "1")
    (module / "env.py").write_text(
        "import os; print(os.environ.get('POT_RPC__PORT'), os.environ['OMP_NUM_THREADS'])"
    )
    with ProcessGroup(module / "logs") as processes:
        child = processes.start("one", ["env"])
        child.process.wait()
        assert child.log.read_text() == "None 1\n"


def test_port_in_use_is_named_with_the_setting(tmp_path: Path) -> None:
    with socket.socket() as busy:
        port = find_base_port()
        busy.bind(("127.0.0.1", port))
        busy.listen()
        with pytest.raises(OperatorError, match=rf"port {port} \(RPC\) .* --base-port"):
            require_free_ports({port: "RPC"})
    require_free_ports({port: "RPC"})


def plan_of(directory: Path, **changes: object) -> DevnetPlan:
    settings: dict[str, object] = {
        "validator_count": 2,
        "miner_count": 1,
        "task_file": DIGITS,
        "round_count": 3,
        "data_dir": directory,
        "base_port": find_base_port(),
        **changes,
    }
    return DevnetPlan(**settings)  # type: ignore[arg-type]


def test_prepared_network_has_keys_genesis_and_mutual_bootstrap_peers(
    tmp_path: Path,
) -> None:
    plan = plan_of(tmp_path / "net")
    files = prepare(plan)
    genesis = parse_genesis((plan.data_dir / "genesis.json").read_bytes())
    assert set(genesis.parameters.validators) == {node.consensus for node in files.validators}
    assert FAUCET in genesis.alloc
    assert files.spec.round_count == 3
    for index, node in enumerate(files.validators):
        config = load_config(node.config_file)
        assert config.rpc.port == plan.rpc_port(index)
        (neighbour,) = config.network.bootstrap
        assert neighbour.endswith(
            f"{plan.peer_port(1 - index)}/p2p/{files.validators[1 - index].peer_id}"
        )
        assert (config.database_dir / "data.mdb").exists()
    assert read_address(files.miners[0].key_file) == files.miners[0].address
    load_key(files.submitter_key, files.password_file.read_text().strip())


def test_earlier_network_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OperatorError, match="--data-dir"):
        prepare(plan)
    assert (tmp_path / "thesis.txt").exists()
    (tmp_path / MARKER_NAME).write_text("{}")
    prepare(plan)
    assert not (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"validator_count": 0}, "--validators is 0"),
        ({"miner_count": 101}, "--miners is 101"),
        ({"round_count": 0}, "--rounds is 0"),
        ({"base_port": 80}, "--base-port is 80"),
        ({"base_port": 65_500}, "--base-port is 65500"),
    ],
)
def test_impossible_plan_is_refused(
    tmp_path: Path, change: dict[str, object], setting: str
) -> None:
    with pytest.raises(OperatorError, match=setting):
        prepare(plan_of(tmp_path / "net", **change))
    assert not (tmp_path / "net").exists()


ROUND = {
    "round": 0,
    "blockNumber": 12,
    "commitments": [
        {"index": 0, "miner": "0x" + "AA" * 20, "units": 2},
        {"index": 1, "miner": "0x" + "bb" * 20, "units": 1},
    ],
    "accepted": [0],
    "result": {"modelRoot": "0x01", "trainingStateRoot": "0x02"},
    "lossMillinats": 1_500,
    "accuracyPpm": 500_000,
    "payout": "0",
    "seconds": 4,
}
TASK = {
    "id": 1,
    "status": "active",
    "phase": "verdict",
    "terms": {"rounds": 2},
    "account": {"paid": str(25 * 10**17)},
}
SNAPSHOT = Snapshot({"number": 40, "view": 1, "phase": "prepare"}, TASK, (ROUND,), ("miner-2",))


def test_summary_of_a_round_is_read_from_the_chain() -> None:
    assert summarize_round(ROUND) == {
        "round": 0,
        "block_number": 12,
        "model_root": "0x01",
        "training_state_root": "0x02",
        "accepted": 1,
        "rejected": 1,
        "loss": 1.5,
        "accuracy": 0.5,
        "seconds": 4,
    }
    assert count_units([ROUND, ROUND]) == {
        "0x" + "aa" * 20: MinerUnits(accepted=4),
        "0x" + "bb" * 20: MinerUnits(rejected=2),
    }


def test_live_view_shows_block_view_round_phase_gradients_and_rewards() -> None:
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(render_snapshot(SNAPSHOT))
    console.file.close()
    shown = console.export_text()
    for part in (
        *("block 40", "view 1", "prepare", "round 2/2", "phase verdict", "not running: miner-2"),
        *("accepted 1, rejected 1", "2.5 POT", "1.500", "50.00 %", "0x" + "aa" * 20),
    ):
        assert part in shown, part
    assert shown.count("█") == shown.count("░") == BAR_WIDTH // 2
    assert any(line.count("█") == BAR_WIDTH // 2 for line in shown.splitlines())


def test_without_a_terminal_every_round_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with DevnetView(Console(width=80, force_terminal=False)) as view:
        view.tell("starting")
        view.show(SNAPSHOT)
        view.show(SNAPSHOT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "starting"
    assert [line[:11] for line in lines[1:]] == ["round 1/2  "]


def test_final_table_never_cuts_an_account_or_a_root(capsys: pytest.CaptureFixture[str]) -> None:
    root, miner = "0x" + "12" * 32, "0x" + "34" * 20
    summary = {
        "blocks": 9,
        "transactions": 8,
        "wall_seconds": 1.5,
        "chain_id": 5,
        "validators": [{"rpc_url": "http://127.0.0.1:1"}],
        "task": {
            "initial_accuracy": 0.1,
            "final_accuracy": 0.975,
            "rounds_settled": 2,
            "rounds_planned": 2,
            "model_file": "m.safetensors",
            "model_root": root,
        },
        "miners": [
            {
                "address": miner,
                "units_accepted": 2,
                "units_rejected": 0,
                "claimed": str(10**18),
                "balance": "0",
            }
        ],
    }
    print_summary(json.loads(json.dumps(summary)))
    shown = capsys.readouterr().out
    assert "97.50 %" in shown
    assert root in shown
    assert f"{miner}  2      0         1        0\n" in shown
    assert max(map(len, shown.splitlines())) <= 80
