"""`python -m miner`: what `pot miner run` starts."""

import argparse
import fcntl
import getpass
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from eth_keyfile.keyfile import decode_keyfile_json

from chain.errors import RejectedInputError
from chain.primitives import PrivateKey, TaskId
from chain.training.task_spec import (
    TaskSpec,
)
from miner.client import ClientError, NodeClient
from miner.light import LightClient
from miner.log import configure_logging, log_event
from miner.trust import TrustError, find_network
from miner.worker import Miner, Trainer, TrainerFactory

KEYFILE_LIMIT_BYTES: Final = 2**16
"""A V3 keystore has about 500 bytes."""


class SettingsError(Exception):
    """Something that the operator gave is wrong; the message says what to change."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="pot miner run",
        description="Compute gradients for a training task and be paid for them.",
        epilog="example: pot miner run --rpc http://127.0.0.1:8545 --key miner.json "
        "--password-file miner.password --units 2",
    )
    parser.add_argument(
        "--rpc", action="append", required=True, metavar="URL", help="a node; repeatable"
    )
    parser.add_argument(
        "--genesis",
        metavar="HASH|FILE",
        help="the network's genesis hash or file; else the first node is trusted, once",
    )
    parser.add_argument("--task", default="auto", help="task id, or auto: the newest open one")
    parser.add_argument("--units", type=int, default=1, help="units of work a round")
    parser.add_argument("--key", type=Path, required=True, help="V3 keystore of the account")
    parser.add_argument("--password-file", type=Path, help="asked for if not given")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("miner-data"), help="gradients and shards"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--claim", action="store_true", help="claim the rewards of a task that closed"
    )
    parser.add_argument(
        "--poll-ms", type=int, default=100, help="between looks at the task's phase"
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser.parse_args(arguments)


def run(
    options: argparse.Namespace,
    load_factory: Callable[[argparse.Namespace], TrainerFactory],
) -> None:
    """Mine until the task closes, or for ever.

    Raises:
        SettingsError: A setting is wrong.
        ClientError: The nodes, or the account, cannot do what was asked for.
    """
    if options.units < 1:
        raise SettingsError(f"--units is {options.units}; give at least 1")
    if options.task != "auto" and not options.task.isdecimal():
        raise SettingsError(f"--task is {options.task!r}; give a task id, or auto")
    private_key = read_private_key(options.key, options.password_file)
    with lock_directory(options.data_dir):
        client = NodeClient(options.rpc)
        # Before torch is loaded: a wrong URL shows at once.
        light = LightClient(client, find_network(client, options.genesis, options.key))
        light.prefer_highest(len(options.rpc))
        miner = Miner(
            client,
            light,
            private_key,
            options.data_dir,
            options.units,
            load_factory(options),
            poll_seconds=options.poll_ms / 1000,
            claims=options.claim,
        )
        if options.task == "auto":
            miner.mine_all()
        else:
            miner.mine(TaskId(int(options.task)))


def read_private_key(path: Path, password_file: Path | None) -> PrivateKey:
    """The key in a V3 keystore.

    Raises:
        SettingsError: A file cannot be read, is no keystore, or the password is another.
    """
    try:
        if path.stat().st_size > KEYFILE_LIMIT_BYTES:
            raise SettingsError(f"--key: {path} is too large for a V3 keystore")
        keystore = json.loads(path.read_bytes())
        if password_file is not None:
            password = _read_password(password_file)
        else:
            password = getpass.getpass(f"Password of {path}: ")
    except OSError as error:
        raise SettingsError(
            f"{error.filename}: {error.strerror}; check --key, --password-file"
        ) from error
    except ValueError as error:
        raise SettingsError(f"--key: {path} is not a V3 keystore (not JSON)") from error
    try:
        return PrivateKey(bytes(decode_keyfile_json(keystore, password.encode())))
    except ValueError as error:
        raise SettingsError(f"wrong password for {path}; check --password-file") from error
    except (KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise SettingsError(f"--key: {path} is not a V3 keystore") from error


def _read_password(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SettingsError(f"--password-file {path} is no text: name another file") from error


def lock_directory(directory: Path) -> BinaryIO:
    """The lock of a miner's directory, held until it is closed.

    Raises:
        SettingsError: Another miner holds it; two with one account would break each other's word.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (directory / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise SettingsError(
            f"a miner is already running on {directory}; stop it, or give another --data-dir"
        ) from error
    return file


def main(
    arguments: Sequence[str] | None = None,
    load_factory: Callable[[argparse.Namespace], TrainerFactory] | None = None,
) -> int:
    """Run the miner; the exit status.

    Args:
        arguments: The command line, if not the process's own.
        load_factory: Makes what computes gradients, if not torch on `--device`.
    """
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    configure_logging(is_json=options.log_format == "json")
    signal.signal(signal.SIGTERM, _stop)
    try:
        run(options, load_factory or load_trainer_factory)
    except (SettingsError, TrustError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the one line the operator reads
        return 1
    except KeyboardInterrupt:
        log_event("stopped")
    return 0


def load_trainer_factory(options: argparse.Namespace) -> TrainerFactory:
    """Torch on `--device`.

    Raises:
        SettingsError: There is no such device.
    """
    # Late, so that --help and a mistake in the settings do not wait for torch.
    from miner.devices import DeviceError, open_device
    from miner.trainer import open_task

    try:
        device = open_device(options.device, options.threads)
    except DeviceError as error:
        raise SettingsError(f"--device: {error}") from error

    def make_trainer(spec: TaskSpec, shards: Sequence[Path]) -> Trainer:
        try:
            return open_task(spec, [path.read_bytes() for path in shards], device)
        except RejectedInputError as error:
            raise ClientError(f"the data of task {spec.name!r} cannot be used: {error}") from error

    return make_trainer


def _stop(signal_number: int, frame: object) -> None:
    # What was committed to is on the disk, so the main thread may be left anywhere.
    log_event("stopped")
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
