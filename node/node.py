"""The composition root: creates the objects of a node and connects them (docs/architecture.md)."""

import os
import random
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from chain.consensus.messages import CONSENSUS_VERSION, SigningDomain
from chain.crypto import get_address, sign
from chain.genesis import GenesisConfig
from chain.hexadecimal import from_plain_hex
from chain.primitives import Address, Hash32, PrivateKey
from chain.training.self_test import WrongNumbersError, run_self_test
from chain.types.certificate import MAX_VALIDATORS
from node.chain.contract_reader import ContractReader
from node.chain.executor import Executor
from node.chain.finalizer import Finalizer, NewHead
from node.chain.training_index import TrainingIndex
from node.clock import SystemClock
from node.config import KeySection, NodeConfig, VerifierSection
from node.consensus.evidence_store import EvidenceStore
from node.consensus.guard_file import GuardFile
from node.consensus.host import ConsensusHost
from node.consensus.served_blocks import ServedBlocks
from node.consensus.signer import ConsensusSigner
from node.consensus.wal import WriteAheadLog
from node.genesis import open_chain
from node.health.metrics_feed import MetricsFeed
from node.health.reader import HealthReader
from node.ipc.backend import Backend
from node.ipc.server import IpcServer
from node.mempool.free_gas import FreeGasPolicy
from node.mempool.head_rules import HeadRules
from node.mempool.intake import Pool
from node.mempool.pool import Mempool
from node.metrics.registry import NodeMetrics, serve_metrics
from node.metrics.rpc_files import prepare_files
from node.network.host import LibP2PHost, load_or_create_host_key
from node.network.network import Network, NetworkConfig
from node.network.protocols.status import NodeIdentity
from node.network.wire import Head
from node.operator.account import OperatorAccount, check_operator
from node.operator.validator_set_calls import ValidatorSetCalls
from node.rpc.process import RpcProcesses
from node.storage.blobs import BlobStore
from node.storage.block_store import BlockStore
from node.storage.database import Database
from node.sync.block_sync import BlockSync
from node.sync.snapshot_source import SnapshotSource
from node.sync.snapshot_sync import SnapshotSync
from node.training.collector import Collector
from node.training.holders import RevealHolders
from node.training.host import TrainingHost
from node.training.peers import TrainingPeers
from node.training.retention import RetentionPolicy
from node.training.reveal_store import RevealStore
from node.training.served_training import ServedTraining
from node.training.state_parts import StatePartStore
from node.training.worker_pool import WorkerPool, Workers, WorkerSettings
from node.trio_types import TaskStatus
from pot_common.errors import OperatorError
from pot_common.keystore import get_password, load_key
from pot_common.lock_file import lock
from pot_common.logs import configure_logs

BUILD_SECONDS: Final = 1.0
"""Time budget for building a block: half of the smallest sensible view timeout."""

MAX_PENDING_CONNECTIONS: Final = 128
"""Connections allowed beyond the limit of peers: when two nodes dial each other, both connections
exist for a moment."""

DAY_SECONDS: Final = 86_400
"""Seconds in a day; the setting blobs.closed_task_days is in days."""

BACKGROUND_PATIENCE: Final = 10
"""A dry run may take this many times its limit by the clock, because it runs only when the
processor is free. The limit itself is one of processor time."""

METRICS_SECONDS: Final = 1.0
"""Interval of updating the gauges."""

_log = structlog.get_logger("node")


def _require_exact_arithmetic() -> None:
    """Refuse to validate on a machine with inexact arithmetic, which would vote for wrong roots."""
    try:
        run_self_test()
    except WrongNumbersError as error:
        raise OperatorError(str(error)) from error


def _load_private_key(section: KeySection, name: str) -> PrivateKey | None:
    if section.key_file is None:
        return None
    password = get_password(
        section.password_file,
        setting=f"{name}.password_file",
        prompt=f"password of {section.key_file}: ",
    )
    return load_key(section.key_file, password)


async def run_node(config: NodeConfig, config_file: Path | None = None) -> None:
    """Run a node until SIGTERM or SIGINT.

    Raises:
        OperatorError: The node cannot run; the message names the cause and the cure in one line.
    """
    configure_logs(config.logs.format, config.logs.level)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(
            lock(
                config.lock_file,
                purpose=f"data_dir {config.data_dir}",
                cure="set data_dir to another directory",
            )
        )
        consensus_key = _load_private_key(config.consensus, "consensus")
        operator_key = _load_private_key(config.operator, "operator")
        if config.consensus.key_file is not None:
            stack.enter_context(
                lock(
                    config.consensus.key_file.with_suffix(".lock"),
                    purpose=f"consensus key {config.consensus.key_file}",
                    cure="set consensus.key_file to another key; two nodes must not share one",
                )
            )
        genesis, database, store = open_chain(config)
        stack.callback(database.close)
        metrics = NodeMetrics()
        prepare_files(config.rpc_metrics_dir, config.rpc.processes)
        metrics.show_rpc(config.rpc_metrics_dir)
        database.on_commit = metrics.sync_seconds.labels("database").observe
        if config.metrics.enabled:
            stack.enter_context(
                serve_metrics(metrics, host=config.metrics.host, port=config.metrics.port)
            )
        signer = None
        if consensus_key is not None:
            _require_exact_arithmetic()
            assert config.guard_file is not None
            wal = WriteAheadLog(config.wal_file, fsync=metrics.time_sync("wal", os.fsync))
            stack.callback(wal.close)
            guard = GuardFile(config.guard_file, fsync=metrics.time_sync("guard", os.fsync))
            key = partial(sign, private_key=consensus_key)
            signer = ConsensusSigner(get_address(consensus_key), key, guard, wal)
        node = _Node(config, config_file, genesis, database, store, signer, operator_key, metrics)
        await node.run()


class _Node:
    """The objects of a node, each created once."""

    def __init__(
        self,
        config: NodeConfig,
        config_file: Path | None,
        genesis: GenesisConfig,
        database: Database,
        store: BlockStore,
        signer: ConsensusSigner | None,
        operator_key: PrivateKey | None,
        metrics: NodeMetrics,
    ) -> None:
        self._config = config
        self._config_file = config_file
        self._store = store
        self._connected_validators: tuple[Address, ...] = ()
        clock = SystemClock()
        contracts = ContractReader(store, database, genesis, clock)
        validator = None if signer is None else signer.address
        domain = SigningDomain(genesis.chain_id, store.genesis_hash(), CONSENSUS_VERSION)
        rules = HeadRules(store=store, database=database, config=genesis, contracts=contracts)
        free_gas = FreeGasPolicy.build(
            genesis,
            price_wei=config.mempool.gas_price_wei,
            gas_per_second=config.mempool.free_gas_per_second,
        )
        mempool = Mempool(rules, free_gas=free_gas)
        pool = Pool(mempool)
        self._blobs = blobs = BlobStore(config.blob_dir, quota_bytes=config.blobs.quota_bytes)
        blobs.recover()
        index = TrainingIndex(store)
        self._executor = executor = Executor(
            database=database,
            store=store,
            config=genesis,
            domain=domain,
            clock=clock,
            build_seconds=BUILD_SECONDS,
            metrics=metrics,
        )
        finalizer = Finalizer(
            store=store,
            executor=executor,
            index=index,
            truncate_log=None if signer is None else signer.truncate_log,
        )
        host = LibP2PHost(
            key=load_or_create_host_key(config.host_key_file),
            listen_addresses=config.network.listen,
            max_connections=config.network.max_peers + MAX_VALIDATORS + MAX_PENDING_CONNECTIONS,
            accept_private_addresses=config.network.accept_private_addresses,
        )
        source = ServedBlocks(store)
        reveals = RevealStore(config.reveal_dir)
        state_parts = StatePartStore(config.state_part_dir)
        training_source = ServedTraining(reveals, state_parts)
        self._network = network = Network(
            host=host,
            config=NetworkConfig(
                bootstrap=config.network.bootstrap,
                max_peers=config.network.max_peers,
                accept_private_addresses=config.network.accept_private_addresses,
                peer_file=config.data_dir / "peers.json",
            ),
            identity=NodeIdentity(
                genesis.chain_id,
                store.genesis_hash(),
                None if signer is None else (signer.address, signer.sign_identity),
            ),
            get_head=self._get_head,
            handle_consensus=self._handle_consensus,
            transaction_pool=pool,
            block_source=source,
            blob_store=blobs,
            training_source=training_source,
            state_source=SnapshotSource(store, database, index),
            random=random.Random().random,  # noqa: S311 - jitter of redialling
        )
        self._connect_validators()
        evidence = EvidenceStore(config.evidence_dir)
        self._consensus = consensus = ConsensusHost(
            domain=domain,
            parameters=genesis.parameters,
            signer=signer,
            store=store,
            executor=executor,
            finalizer=finalizer,
            mempool=mempool,
            network=network,
            peers=network.requests,
            clock=clock,
            evidence=evidence,
            served=source,
            metrics=metrics,
        )
        # The order matters: the next block number begins after all others know the new head.
        finalizer.add_listener(mempool.on_new_head)
        finalizer.add_listener(consensus.on_new_head)
        finalizer.add_listener(self._on_new_head)
        finalizer.add_listener(consensus.begin_next)
        pool.add_listener(lambda added: network.announce_transactions((added,)))
        pool.add_listener(consensus.on_transaction)
        self._sync = sync = BlockSync(
            store=store,
            executor=executor,
            network=network.requests,
            finalizer=finalizer,
            own_validator=validator,
            snapshot=SnapshotSync(
                store=store,
                database=database,
                executor=executor,
                network=network.requests,
                finalizer=finalizer,
                chain_id=genesis.chain_id,
                mode=config.sync.mode,
                checkpoint=_parse_checkpoint(config.sync.checkpoint),
            ),
        )
        health = HealthReader(
            parameters=genesis.parameters,
            validator=validator,
            names=config.names,
            data_dir=config.data_dir,
            clock=clock,
            store=store,
            consensus=consensus,
            peers=network.requests,
            sync=sync,
            mempool=mempool,
        )
        self._workers = _build_workers(config.verifier)
        operator = None
        if operator_key is not None:
            account = OperatorAccount(operator_key, genesis, store, pool, mempool)
            operator = check_operator(account, validator, store.next_validator_set())
        self._validator_set_calls = None
        if operator is not None:
            self._validator_set_calls = ValidatorSetCalls(
                operator=operator,
                contracts=contracts,
                store=store,
                evidence=evidence,
                evidence_blocks=genesis.parameters.evidence_blocks,
            )
        self._training = TrainingHost(
            chain_id=genesis.chain_id,
            parameters=genesis.parameters,
            index=index,
            contracts=contracts,
            blobs=blobs,
            reveals=reveals,
            state_parts=state_parts,
            announced=training_source.announced,
            workers=self._workers,
            peers=TrainingPeers(network.requests, blobs),
            operator=operator,
            clock=clock,
            directory=config.training_dir,
        )
        closed_seconds = int(config.blobs.closed_task_days * DAY_SECONDS)
        self._collector = Collector(
            store=store,
            index=index,
            blobs=blobs,
            reveals=reveals,
            state_parts=state_parts,
            directory=config.training_dir,
            clock=clock,
            policy=RetentionPolicy(config.blobs.retention, closed_seconds),
            own_validator=validator,
            is_served=self._training.is_served,
            is_refused=self._training.is_refused,
            metrics=metrics,
        )
        self._metrics_feed = MetricsFeed(
            metrics=metrics,
            max_peers=config.network.max_peers,
            store=store,
            index=index,
            blobs=blobs,
            blob_quota_bytes=config.blobs.quota_bytes,
            mempool=mempool,
            network=network,
            consensus=consensus,
            health=health,
        )
        self._ipc = IpcServer(
            Backend(
                pool=pool,
                mempool=mempool,
                network=network,
                consensus=consensus,
                sync=sync,
                store=store,
                validator=validator,
                health=health,
                wake_training=self._training.on_blob,
                take_reveal=training_source.on_announced_reveal,
                describe_readiness=self._training.describe_readiness,
                find_disk_objection=self._training.find_disk_objection,
                find_holders=RevealHolders(reveals, blobs, network.requests, validator).find,
            )
        )

    async def run(self) -> None:
        """Run all objects until a signal comes."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._stop_on_signal, nursery.cancel_scope)
                await nursery.start(self._network.run)
                await nursery.start(self._ipc.serve, self._config.rpc_socket)
                await nursery.start(self._consensus.run)
                await nursery.start(self._training.run)
                nursery.start_soon(self._collector.run)
                nursery.start_soon(self._sync.run)
                if self._validator_set_calls is not None:
                    nursery.start_soon(self._validator_set_calls.run)
                nursery.start_soon(self._update_metrics)
                processes = RpcProcesses(self._config, self._config_file, self._blobs)
                nursery.start_soon(processes.run)
                _log.info(
                    "node runs",
                    chain_head=self._store.head_number(),
                    genesis=self._store.genesis_hash(),
                    listen=self._network.listen_addresses(),
                )
        except* OperatorError as group:
            raise _first(group) from None
        finally:
            await self._workers.aclose()

    async def _stop_on_signal(
        self,
        scope: trio.CancelScope,
        task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                _log.info("stopping", signal=signal.Signals(number).name)
                scope.cancel()

    async def _update_metrics(self) -> None:
        while True:
            self._metrics_feed.update()
            await trio.sleep(METRICS_SECONDS)

    def _get_head(self) -> Head:
        head = self._store.head()
        return Head(head.number, head.hash)

    async def _handle_consensus(self, sender: Address, payload: bytes) -> None:
        await self._consensus.handle_message(sender, payload)

    def _connect_validators(self) -> None:
        """Tell the network the validators of the block being decided, if they have changed."""
        validators = self._store.next_validator_set().validators
        if validators != self._connected_validators:
            self._connected_validators = validators
            self._network.set_validators(validators)

    def _on_new_head(self, head: NewHead) -> None:
        self._connect_validators()
        self._ipc.announce_head(head.block.number, head.block.hash)
        if head.is_snapshot:
            self._training.wake()
        else:
            self._training.on_new_head(head.changed_tasks)


def _build_workers(settings: VerifierSection) -> Workers:
    """The pools of worker processes; workers start when they are needed."""
    verifier = (
        "miner.verify",
        *("--device", settings.device),
        *("--memory-bytes", str(settings.memory_limit_bytes)),
    )
    return Workers(
        checks=WorkerPool(
            WorkerSettings(verifier, settings.workers, timeout_seconds=settings.timeout_seconds)
        ),
        dry_runs=WorkerPool(
            WorkerSettings(
                (*verifier, "--processor-seconds", str(settings.timeout_seconds)),
                timeout_seconds=settings.timeout_seconds,
                patience=BACKGROUND_PATIENCE,
                is_reused=False,
                is_background=True,
            )
        ),
        aggregator=WorkerPool(
            WorkerSettings(
                ("node.training.aggregation_worker",), timeout_seconds=settings.timeout_seconds
            )
        ),
    )


def _parse_checkpoint(text: str) -> Hash32 | None:
    return Hash32(from_plain_hex(text)) if text else None


def _first(group: BaseExceptionGroup[OperatorError]) -> OperatorError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OperatorError)
    return error
