"""`python -m node.rpc`: the RPC process, which the node starts (docs/spec/rpc.md, section 5)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from node.config import NodeConfig, load_config
from node.metrics.rpc_files import count_in_files
from node.rpc.exit_status import CANNOT_START
from node.rpc.http import AccessRules
from node.rpc.service import RpcOptions, serve
from pot_common.errors import OperatorError
from pot_common.logs import configure_logs


def build_options(config: NodeConfig, place: int | None = None) -> RpcOptions:
    """The options of the RPC process at a place, from the node's configuration."""
    return RpcOptions(
        database=config.database_dir,
        blobs=config.blob_dir,
        reveals=config.data_dir / "reveals",
        checks=config.data_dir / "training",
        socket=config.rpc_socket,
        host=config.rpc.host,
        port=config.rpc.port,
        shares_port=config.rpc.processes > 1,
        access=AccessRules(frozenset(config.rpc.cors), frozenset(config.rpc.allowed_hosts)),
        body_limit_bytes=config.rpc.body_limit_bytes,
        blob_quota_bytes=config.blobs.quota_bytes,
        place=place,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal or the parent's end, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m node.rpc",
        description="JSON-RPC and blobs of a node's data directory",
        epilog="example: python -m node.rpc --config node.toml --set rpc.port=8546",
    )
    parser.add_argument("--config", type=Path, help="the node's TOML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting, such as rpc.port=0",
    )
    parser.add_argument("--parent-pid", type=int, help="end when the process with this id ends")
    parser.add_argument(
        "--place", type=int, help="index of this RPC process, from 0, for the files it writes"
    )
    given = parser.parse_args(arguments)
    flags = dict(setting.partition("=")[::2] for setting in given.set)
    try:
        config = load_config(given.config, flags)
        configure_logs(config.logs.format, config.logs.level, process="rpc")
        if given.place is not None:
            count_in_files(given.place)
        uvloop.run(serve(build_options(config, given.place), parent_pid=given.parent_pid))
    except OperatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return CANNOT_START
    except KeyboardInterrupt:  # uvicorn has shut down and passes the signal on
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
