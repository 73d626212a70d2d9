"""The assembly of the RPC process (docs/spec/rpc.md, section 5).

The RPC process reads the database and the blobs in the node's data directory. For facts that are
not stored there, such as peers and the mempool, it asks the node over the Unix socket.
"""

import asyncio
import os
import socket
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from chain.genesis import parse_genesis
from chain.validation import compute_next_base_fee
from node.ipc.client import IpcClient, NodeLink
from node.rpc.blobs import BlobReads, BlobService
from node.rpc.call_worker_reader import CallWorkerReader
from node.rpc.calls import CallExecutor, CallWorkers
from node.rpc.chain_view import ChainView
from node.rpc.connections import SharedConnection
from node.rpc.dispatch import Dispatcher
from node.rpc.eth import EthMethods
from node.rpc.fees import FeeOracle
from node.rpc.http import AccessRules, HttpApplication
from node.rpc.metrics import RpcMetrics
from node.rpc.pot import PotMethods
from node.rpc.proofs import ProofMethods
from node.rpc.server import RpcService
from node.rpc.training_view import TrainingView, build_index
from node.rpc.uploads import Uploads
from node.storage.blobs import BlobStore
from node.storage.block_store import BlockStore
from node.storage.database import Database, open_database
from node.training.reveal_store import RevealStore
from pot_common.errors import OperatorError

KEEP_ALIVE_SECONDS: Final = 75
"""An idle connection is closed after this time. It is longer than the polling interval of wallets,
so that a wallet can use one connection."""

PARENT_CHECK_SECONDS: Final = 0.5
"""Interval at which the process checks that its node still runs. Without the node the chain does
not grow, so the process ends instead of serving stale answers."""

UNSENT_SECONDS: Final = 60
"""The kernel ends a connection whose client takes nothing of what is sent for so long. A close
waits for such a client without end."""

BACKLOG: Final = 1_024
"""Connections that the kernel queues until they are accepted."""

_log = structlog.get_logger("node.rpc")


@dataclass(frozen=True, slots=True)
class RpcOptions:
    """The paths, addresses and limits of an RPC process."""

    database: Path
    blobs: Path
    reveals: Path
    checks: Path
    """The directory with the results of this node's gradient checks."""
    socket: Path
    host: str = "127.0.0.1"
    port: int = 8545
    """The port to listen on; 0 takes a free one, and the log says which."""
    shares_port: bool = False
    """Whether other RPC processes listen on the same port, so that the kernel spreads
    connections."""
    access: AccessRules = field(default_factory=AccessRules)
    body_limit_bytes: int = 5 * 2**20
    """The limit of a JSON-RPC request's body, as in geth."""
    blob_quota_bytes: int = 10 * 2**30
    place: int | None = None
    """The index of this RPC process among those of a node; None if no node started it."""
    call_gas_limit: int = 50_000_000
    """The gas limit of eth_call, as in geth."""
    call_timeout_seconds: float = 5.0
    """The time limit of one eth_call or eth_estimateGas, as in geth."""
    call_workers: int = 2
    """The number of worker processes that execute calls of clients; each can use one core. One more
    worker reads the system contracts."""

    @property
    def url(self) -> str:
        """The URL of this service for clients."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def open_blobs(self) -> BlobStore:
        """The blobs of the data directory, with the uploads of this process under its place.

        Raises:
            OperatorError: The directory is not accessible.
        """
        return BlobStore(self.blobs, quota_bytes=self.blob_quota_bytes, place=self.place)


def get_client_version() -> str:
    """The result of `web3_clientVersion`: name, version, platform and language."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return f"ProofOfTraining/v{version('proof-of-training')}/{sys.platform}/{python}"


def build_service(
    options: RpcOptions,
    database: Database,
    node: NodeLink,
    calls: CallExecutor,
    views: CallExecutor,
    metrics: RpcMetrics | None = None,
) -> HttpApplication:
    """The application that serves an open database.

    Args:
        options: The limits and paths.
        database: The node's database.
        node: The link to the node process.
        calls: Executes what clients call.
        views: Executes views of the system contracts.
        metrics: Counts requests.

    Raises:
        OperatorError: The database is empty, or was written by another version.
    """
    store = BlockStore(database)
    store.check_initialized()
    genesis = parse_genesis(store.genesis_config())
    chain = ChainView(store, database)
    fees = FeeOracle(chain, lambda parent: compute_next_base_fee(parent, genesis.parameters))
    eth = EthMethods(
        chain=chain,
        chain_id=genesis.chain_id,
        client_version=get_client_version(),
        node=node,
        fees=fees,
        calls=calls,
    )
    view = TrainingView(
        chain=chain,
        chain_id=genesis.chain_id,
        index=build_index(chain),
        contracts=CallWorkerReader(chain, views),
        reveals=RevealStore(options.reveals),
        checks_directory=options.checks,
    )
    pot = PotMethods(view=view, node=node, client_version=get_client_version(), rpc_url=options.url)
    proofs = ProofMethods(chain, genesis.parameters.canonical_bytes())
    blobs = options.open_blobs()
    service = RpcService(
        dispatcher=Dispatcher({**eth.table(), **pot.table(), **proofs.table()}, metrics),
        chain=chain,
        node=node,
        blobs=BlobService(BlobReads(blobs), Uploads(blobs, view, node)),
        body_limit_bytes=options.body_limit_bytes,
    )
    return HttpApplication(service, options.access, metrics)


async def serve(options: RpcOptions, *, parent_pid: int | None = None) -> None:
    """Serve until SIGTERM, SIGINT or the end of the process `parent_pid`.

    Raises:
        OperatorError: There is no database, or the port is in use.
    """
    node = IpcClient(options.socket)
    command = (
        sys.executable,
        "-m",
        "node.rpc.call_worker",
        str(options.database),
        str(options.call_gas_limit),
    )
    calls, views = (
        CallWorkers(command, size=size, timeout_seconds=options.call_timeout_seconds)
        # A miner must not wait for strangers' code to learn the phase of its task.
        for size in (options.call_workers, 1)
    )
    database = open_database(options.database, readonly=True)
    listener = _listen(options)
    options = replace(options, port=listener.getsockname()[1])
    metrics = RpcMetrics()
    application = build_service(options, database, node, calls, views, metrics)
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            loop="uvloop",
            http=SharedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=2,
        )
    )
    helpers = [
        asyncio.create_task(node.run()),
        asyncio.create_task(metrics.watch_calls(lambda: calls.count() + views.count())),
        asyncio.create_task(calls.warm_up()),
        asyncio.create_task(views.warm_up()),
    ]
    if parent_pid is not None:
        helpers.append(asyncio.create_task(_end_with_parent(server, parent_pid)))
    _log.info("rpc listens", url=options.url)
    try:
        await server.serve(sockets=[listener])
    finally:
        for helper in helpers:
            helper.cancel()
        await calls.close()
        await views.close()


def _listen(options: RpcOptions) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server(
            (options.host, options.port),
            family=family,
            backlog=BACKLOG,
            reuse_port=options.shares_port,
        )
        # Connections inherit it. It also ends those that are closed, but not yet sent.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_SECONDS * 1_000)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {options.host}:{options.port} ({error.strerror}): set rpc.port to a "
            "free port, and rpc.host to an address of this machine"
        ) from error
    return listener


async def _end_with_parent(server: uvicorn.Server, parent_pid: int) -> None:
    # PR_SET_PDEATHSIG cannot be used: its signal is sent when the *thread* that started this
    # process ends, and trio starts processes from a thread that ends after some idle seconds.
    while os.getppid() == parent_pid:  # noqa: ASYNC110 - there is no event for the parent's end
        await asyncio.sleep(PARENT_CHECK_SECONDS)
    _log.warning("the node process ended, so this RPC process ends too")
    server.should_exit = True
