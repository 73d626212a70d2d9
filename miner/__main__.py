"""`python -m miner`: the process that `pot miner run` starts."""

import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import typer

from chain.errors import RejectedInputError
from chain.primitives import TaskId
from chain.training.task_spec import TaskSpec
from miner.builder import OpenTask, PayloadBuilder
from miner.client import FailoverClient
from miner.light import LightClient
from miner.limits import DAY_SECONDS, GIB, MinerLimits, get_machine_memory_bytes
from miner.miner import Miner
from miner.outcomes import OutOfTaskError
from miner.task_choice import require_known
from miner.trust import find_network
from pot_common.errors import OperatorError
from pot_common.keystore import unlock_key
from pot_common.lock_file import lock
from pot_common.logs import LogFormat, LogLevel, configure_logs
from pot_common.miner_options import EXAMPLE, MinerLogFormat, MinerOptions, build_command
from pot_common.rpc_replies import ClientError
from pot_common.terminal import format_error

_log = structlog.get_logger("miner")


def run(options: MinerOptions, load_task_opener: Callable[[MinerOptions], OpenTask]) -> None:
    """Mine until the task closes, or for ever.

    Raises:
        OperatorError: A setting is wrong, or the nodes or the account cannot do what is needed.
    """
    if options.units < 1:
        raise OperatorError(f"--units is {options.units}; give at least 1")
    if options.task != "auto" and not options.task.isdecimal():
        raise OperatorError(f"--task is {options.task!r}; give a task id, or auto")
    limits = read_limits(options)
    private_key = unlock_key(options.key, options.password_file, setting="--password-file")
    with lock(
        options.data_dir / "lock",
        purpose=f"the miner's directory {options.data_dir}",
        cure="give another --data-dir",
    ):
        client = FailoverClient(options.rpc, private_data_hosts=options.private_data_host)
        client.gas_price = options.gas_price
        # Before torch is loaded, so that a wrong URL shows at once.
        light = LightClient(client, find_network(client, options.genesis, options.key))
        light.prefer_highest(len(options.rpc))
        task = None if options.task == "auto" else TaskId(int(options.task))
        if task is not None:
            require_known(client, light, task)
        miner = Miner(
            client,
            light,
            private_key,
            options.data_dir,
            options.units,
            load_task_opener(options),
            limits,
            poll_seconds=options.poll_ms / 1000,
            claims=options.claim,
            leaves_at_end=options.leave_at_end,
        )
        if options.leave_at_end:
            _end_when_stopped(miner)
        mine(miner, task)


def mine(miner: Miner, task: TaskId | None) -> None:
    """Mine a task, or each in turn; if the miner is stopped, say what becomes of its seat.

    Raises:
        OperatorError: The task cannot be mined.
    """
    try:
        if task is None:
            miner.mine_all()
        else:
            miner.mine_one(task)
    except KeyboardInterrupt:
        notice = miner.describe_stop()
        if notice is None:
            raise
        _log.warning(notice)
    except OutOfTaskError as error:
        if not error.has_left:
            raise
        _log.info(str(error))
    except OperatorError:
        notice = miner.describe_stop()
        if notice is not None:
            _log.warning(notice)
        raise


def read_limits(options: MinerOptions) -> MinerLimits:
    """What the options allow a task to take.

    Raises:
        OperatorError: A limit is not positive.
    """
    memory_gib = options.memory_gib
    for name, value in (
        ("--memory-gib", memory_gib),
        ("--data-gib", options.data_gib),
        ("--lock-days", options.lock_days),
    ):
        if value is not None and not 0 < value < math.inf:
            raise OperatorError(f"{name} is {value}; give a number above 0")
    return MinerLimits(
        memory_bytes=get_machine_memory_bytes() if memory_gib is None else int(GIB * memory_gib),
        data_bytes=int(GIB * options.data_gib),
        lock_seconds=int(DAY_SECONDS * options.lock_days),
    )


def load_task_opener(options: MinerOptions) -> OpenTask:
    """A function that opens tasks with torch on `--device`.

    Raises:
        OperatorError: The machine has no such device.
    """
    # Imported late, so that --help and wrong settings do not wait for torch.
    from miner.devices import open_device
    from miner.trainer import open_task

    device = open_device(options.device, options.threads)

    def open_shards(spec: TaskSpec, shards: Sequence[Path]) -> PayloadBuilder:
        try:
            return open_task(spec, (path.read_bytes() for path in shards), device)
        except (RejectedInputError, MemoryError, RuntimeError) as error:
            # torch raises RuntimeError if a device has too little memory.
            raise ClientError(f"the data of task {spec.name!r} cannot be used: {error}") from error

    return open_shards


def main(
    arguments: Sequence[str] | None = None,
    load_task_opener: Callable[[MinerOptions], OpenTask] = load_task_opener,
) -> None:
    """Run the miner; the process ends with status 1 and one line if the operator must act.

    Args:
        arguments: The command line; None is the process's own.
        load_task_opener: What decides how gradients are computed.
    """

    def start(options: MinerOptions) -> None:
        is_json = options.log_format is MinerLogFormat.JSON
        configure_logs(LogFormat.JSON if is_json else LogFormat.CONSOLE, LogLevel.INFO)
        signal.signal(signal.SIGTERM, _stop)
        try:
            run(options, load_task_opener)
        except KeyboardInterrupt:
            _log.info("miner stopped")

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(epilog=EXAMPLE)(build_command(start))
    try:
        app(arguments, prog_name="pot miner run")
    except OperatorError as error:
        sys.exit(format_error(error))


def _end_when_stopped(miner: Miner) -> None:
    """Let the first signal end the miner's seat, and a second one the process."""

    def stop(signal_number: int, frame: object) -> None:
        # It only takes a note: a log line may be in the middle of being written.
        if miner.is_ending:
            raise KeyboardInterrupt
        miner.end()

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def _stop(signal_number: int, frame: object) -> None:
    # Whatever was committed to is on the disk, so the miner may stop at any point.
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
