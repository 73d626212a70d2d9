"""The composition root: all that a node is made of, put together once (docs/operator-guide.md)."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio

from chain.consensus.messages import CONSENSUS_VERSION, SigningDomain
from chain.contracts.set_reader import read_genesis_set
from chain.crypto import get_address, sign
from chain.errors import RejectedInputError
from chain.genesis import GenesisConfig, build_genesis, parse_genesis
from chain.params import InvalidGenesisError
from chain.primitives import Address, BlockNumber, Hash32, PrivateKey, Signature, TaskId
from chain.training.history import Committee
from chain.training.self_test import WrongNumbersError, run_self_test
from chain.types.block import Block
from chain.types.certificate import MAX_VALIDATORS
from chain.types.transaction import sign_transaction
from chain.validation import compute_next_base_fee
from node.chain.contract_reader import LedgerReader
from node.chain.executor import Executor
from node.chain.training_index import TrainingIndex
from node.clock import SystemClock
from node.config import KeySection, NodeConfig
from node.consensus.evidence_store import EvidenceStore
from node.consensus.guard_file import GuardFile
from node.consensus.host import ConsensusHost
from node.consensus.wal import WriteAheadLog
from node.health.metrics_feed import MetricsFeed
from node.health.situation import SituationReader
from node.ipc.backend import Backend, Pool
from node.ipc.server import IpcServer
from node.keystore import get_password, load_key
from node.logs import configure_logs
from node.mempool.head_rules import HeadRules
from node.mempool.pool import Mempool
from node.metrics.registry import NodeMetrics, serve_metrics
from node.network.host import LibP2PHost, load_or_create_host_key
from node.network.network import Network, NetworkConfig
from node.network.protocols.blobs import BlobUnavailableError
from node.network.protocols.status import Identity
from node.network.stream import PeerId, UnreachablePeerError
from node.network.wire import Head
from node.operator.set_duties import SetDuties
from node.storage.blobs import BlobQuotaExceeded, BlobStore
from node.storage.block_store import BlockStore
from node.storage.database import Database, open_database
from node.sync.block_sync import BlockSync
from node.sync.snapshot_source import SnapshotSource
from node.sync.snapshot_sync import SnapshotSync
from node.training.collector import Collector
from node.training.host import TrainingHost
from node.training.retention import RetentionPolicy
from node.training.reveal_store import Reveal, RevealStore
from node.training.state_parts import StatePartStore
from node.training.verifier import Verifier, VerifierSettings
from node.training.votes import Operator
from pot_common.errors import OperatorError
from pot_common.lock_file import lock

if TYPE_CHECKING:
    # The stubs that py-libp2p's dependency installs hide trio's own types from the checker.
    from trio_typing import TaskStatus

BUILD_SECONDS: Final = 1.0
"""The builder's wall-clock budget: half of the smallest view timeout that makes sense."""

MAX_PENDING_CONNECTIONS: Final = 128
"""Connections above the peers' own: both sides of a duplicate dial live for a moment."""

PRIORITY_FEE_WEI: Final = 1_000_000_000
"""What an operator's vote tips where gas has a price; on a free network it tips nothing."""

DAY_SECONDS: Final = 86_400
"""Of blobs.closed_task_days."""

METRICS_SECONDS: Final = 1.0
"""How often gauges that nobody sets are read."""

_log = structlog.get_logger("node")


@dataclass(frozen=True, slots=True)
class ConsensusSigner:
    """The consensus key with its guard and log: nothing else may sign with it."""

    address: Address
    private_key: PrivateKey
    guard: GuardFile
    wal: WriteAheadLog

    def sign(self, digest: Hash32) -> Signature:
        """The deterministic signature of a digest."""
        return sign(digest, self.private_key)


class _BlockSource:
    """The finalized chain and the blocks being decided, as peers are served."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.consensus: ConsensusHost | None = None

    def encoded_block(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        return self._store.encoded_block(number)

    def encoded_header(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        return self._store.encoded_header(number)

    def encoded_receipts(self, number: BlockNumber) -> bytes | None:
        return self._store.encoded_receipts(number)

    def first_held(self) -> BlockNumber:
        return self._store.first_held()

    def find_block(self, block_hash: Hash32) -> bytes | None:
        number = self._store.number_of(block_hash)
        if number is not None:
            pair = self._store.encoded_block(number)
            return None if pair is None else pair[0]
        block = None if self.consensus is None else self.consensus.find_block(block_hash)
        return None if block is None else block.encode()


class _Peers:
    """What the training host gets from other nodes."""

    def __init__(self, network: Network, blobs: BlobStore) -> None:
        self._network = network
        self._blobs = blobs

    async def fetch_blob(self, content_id: Hash32, size_limit: int) -> bool:
        try:
            await self._network.fetch_blob(content_id)
        except BlobUnavailableError:
            return False
        except BlobQuotaExceeded as error:
            _log.warning("blob refused", reason=str(error))
            return False
        try:
            is_too_large = self._blobs.size_bytes(content_id) > size_limit
        except KeyError:  # collected
            return False
        if is_too_large:
            self._blobs.delete(content_id)
        return not is_too_large

    async def fetch_reveals(
        self, task_id: TaskId, round_number: int, attempt: int
    ) -> Sequence[Reveal]:
        found: list[Reveal] = []

        async def ask(peer_id: PeerId) -> None:
            try:
                found.extend(
                    await self._network.request_reveals(peer_id, task_id, round_number, attempt)
                )
            except (UnreachablePeerError, RejectedInputError):
                return

        async with trio.open_nursery() as nursery:
            for peer in self._network.peers():
                nursery.start_soon(ask, peer.peer_id)
        return found

    async def fetch_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        for peer in self._network.peers():
            try:
                parts = await self._network.request_state_parts(peer.peer_id, state_root)
            except (UnreachablePeerError, RejectedInputError):
                continue
            if parts:
                return parts
        return None

    async def announce_reveal(self, reveal: Reveal) -> None:
        async def tell(peer_id: PeerId) -> None:
            try:
                await self._network.announce_reveal(peer_id, reveal)
            except (UnreachablePeerError, RejectedInputError):
                return

        async with trio.open_nursery() as nursery:
            for peer in self._network.peers():
                nursery.start_soon(tell, peer.peer_id)


class _OperatorAccount:
    """Signs the operator's calls with nonces in order."""

    def __init__(
        self,
        private_key: PrivateKey,
        config: GenesisConfig,
        store: BlockStore,
        pool: Pool,
        mempool: Mempool,
    ) -> None:
        self.address = get_address(private_key)
        self._private_key = private_key
        self._config = config
        self._store = store
        self._pool = pool
        self._mempool = mempool
        self._turn = trio.Lock()

    async def send(self, contract: Address, data: bytes, gas_limit: int) -> None:
        async with self._turn:
            base_fee = compute_next_base_fee(self._store.head(), self._config)
            tip = PRIORITY_FEE_WEI if base_fee else 0
            transaction = sign_transaction(
                self._private_key,
                chain_id=self._config.chain_id,
                nonce=self._mempool.pending_nonce(self.address),
                max_priority_fee_per_gas=tip,
                max_fee_per_gas=2 * base_fee + tip,
                gas_limit=gas_limit,
                to=contract,
                value=0,
                data=data,
            )
            await self._pool.submit(transaction.raw)


def load_genesis(config: NodeConfig) -> tuple[GenesisConfig, bytes]:
    """The network's genesis, and its file.

    Raises:
        OperatorError: there is none, or it is wrong.
    """
    try:
        data = config.genesis_file.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"cannot read the genesis file {config.genesis_file}: {error.strerror}; set genesis to "
            "the network's genesis.json"
        ) from error
    try:
        genesis = parse_genesis(data)
    except InvalidGenesisError as error:
        raise OperatorError(f"{config.genesis_file}: {error}") from error
    if not genesis.parameters.validators:
        raise OperatorError(
            f"{config.genesis_file} names no validators: make one with `pot genesis new`"
        )
    return genesis, data


def open_chain(config: NodeConfig) -> tuple[GenesisConfig, Database, BlockStore]:
    """The database of the configured chain, made if it is absent.

    Raises:
        OperatorError: it holds another chain, or the genesis is wrong.
    """
    genesis, data = load_genesis(config)
    database = open_database(config.database_dir)
    store = BlockStore(database)
    state = build_genesis(genesis)
    committee = Committee(*read_genesis_set(genesis, state))
    if committee.validators != genesis.parameters.validators:
        raise OperatorError(
            "genesis.json: config.proofOfTraining.validators differ from the ValidatorSet contract "
            "in alloc: make the file with `pot genesis new`"
        )
    store.initialize(state.header, state.delta, data, committee)
    return genesis, database, store


def _require_exact_arithmetic() -> None:
    """Refuse to validate on a machine whose numbers differ: it would vote for wrong roots."""
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
        OperatorError: what keeps it from running, in one line.
    """
    configure_logs(config.logs.format, config.logs.level)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(
            lock(
                config.lock_file,
                purpose=f"data_dir {config.data_dir}",
                cure="stop the other node, or set data_dir to another directory",
            )
        )
        consensus_key = _load_private_key(config.consensus, "consensus")
        operator_key = _load_private_key(config.operator, "operator")
        if config.consensus.key_file is not None:
            stack.enter_context(
                lock(
                    config.consensus.key_file.with_suffix(".lock"),
                    purpose=f"consensus key {config.consensus.key_file}",
                    cure="two nodes must never sign with one key: stop the other one",
                )
            )
        genesis, database, store = open_chain(config)
        stack.callback(database.close)
        metrics = NodeMetrics()
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
            signer = ConsensusSigner(get_address(consensus_key), consensus_key, guard, wal)
        node = _Node(config, config_file, genesis, database, store, signer, operator_key, metrics)
        await node.run()


class _Node:
    """The parts of a running node, each made once."""

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
        ledger = LedgerReader(store, database, genesis, clock)
        validator = None if signer is None else signer.address
        domain = SigningDomain(genesis.chain_id, store.genesis_hash(), CONSENSUS_VERSION)
        rules = HeadRules(store=store, database=database, config=genesis, ledger=ledger)
        mempool = Mempool(rules)
        pool = Pool(mempool)
        blobs = BlobStore(config.blob_dir, quota_bytes=config.blobs.quota_bytes)
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
        host = LibP2PHost(
            key=load_or_create_host_key(config.host_key_file),
            listen_addresses=config.network.listen,
            max_connections=config.network.max_peers + MAX_VALIDATORS + MAX_PENDING_CONNECTIONS,
            is_laboratory=config.network.accept_private_addresses,
        )
        source = _BlockSource(store)
        self._training: TrainingHost | None = None
        self._network = network = Network(
            host=host,
            config=NetworkConfig(
                bootstrap=config.network.bootstrap,
                max_peers=config.network.max_peers,
                accept_private_addresses=config.network.accept_private_addresses,
                peer_file=config.data_dir / "peers.json",
            ),
            identity=Identity(
                genesis.chain_id,
                store.genesis_hash(),
                None if signer is None else (signer.address, signer.sign),
            ),
            get_head=self._get_head,
            handle_consensus=self._handle_consensus,
            transaction_pool=pool,
            block_source=source,
            blob_store=blobs,
            training_source=self,
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
            index=index,
            mempool=mempool,
            network=network,
            clock=clock,
            evidence=evidence,
            on_finalized=self._on_finalized,
            metrics=metrics,
        )
        source.consensus = consensus
        pool.connect(network.announce_transactions, consensus.on_transaction)
        self._sync = sync = BlockSync(
            store=store,
            executor=executor,
            network=network,
            finalize=consensus.finalize,
            own_validator=validator,
            snapshot=SnapshotSync(
                store=store,
                database=database,
                executor=executor,
                network=network,
                adopt=consensus.adopt,
                chain_id=genesis.chain_id,
                mode=config.sync.mode,
                checkpoint=_parse_checkpoint(config.sync.checkpoint),
            ),
        )
        situation = SituationReader(
            parameters=genesis.parameters,
            validator=validator,
            names=config.names,
            data_dir=config.data_dir,
            clock=clock,
            store=store,
            consensus=consensus,
            network=network,
            sync=sync,
        )
        self._verifier = Verifier(
            VerifierSettings(
                workers=config.verifier.workers,
                device=config.verifier.device,
                memory_bytes=config.verifier.memory_limit_bytes,
                timeout_seconds=config.verifier.timeout_seconds,
            )
        )
        operator = None
        if operator_key is not None:
            account = _OperatorAccount(operator_key, genesis, store, pool, mempool)
            operator = _check_operator(account, validator, store.next_committee())
        self._set_duties = None
        if operator is not None:
            self._set_duties = SetDuties(
                operator=operator,
                ledger=ledger,
                store=store,
                evidence=evidence,
                evidence_blocks=genesis.parameters.evidence_blocks,
            )
        reveals = RevealStore(config.reveal_dir)
        state_parts = StatePartStore(config.state_part_dir)
        self._training = TrainingHost(
            chain_id=genesis.chain_id,
            blob_bytes_per_second=genesis.parameters.blob_bytes_per_second,
            index=index,
            ledger=ledger,
            blobs=blobs,
            reveals=reveals,
            state_parts=state_parts,
            verifier=self._verifier,
            peers=_Peers(network, blobs),
            operator=operator,
            clock=clock,
            directory=config.training_dir,
        )
        self._collector = Collector(
            store=store,
            index=index,
            blobs=blobs,
            reveals=reveals,
            state_parts=state_parts,
            directory=config.training_dir,
            clock=clock,
            policy=RetentionPolicy(
                config.blobs.retention, int(config.blobs.closed_task_days * DAY_SECONDS)
            ),
            own_validator=validator,
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
            situation=situation,
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
                situation=situation,
                rpc_reports=metrics.rpc_reports,
                wake_training=self._training.on_blob,
            )
        )

    async def run(self) -> None:
        """Run every part until a signal."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._stop_on_signal, nursery.cancel_scope)
                await nursery.start(self._network.run)
                await nursery.start(self._ipc.serve, self._config.rpc_socket)
                await nursery.start(self._consensus.run)
                assert self._training is not None
                await nursery.start(self._training.run)
                nursery.start_soon(self._collector.run)
                nursery.start_soon(self._sync.run)
                if self._set_duties is not None:
                    nursery.start_soon(self._set_duties.run)
                nursery.start_soon(self._update_metrics)
                for _ in range(self._config.rpc.processes):
                    nursery.start_soon(self._run_rpc)
                _log.info(
                    "node runs",
                    chain_head=self._store.head_number(),
                    genesis=self._store.genesis_hash(),
                    listen=self._network.listen_addresses(),
                )
        except* OperatorError as group:
            raise _first(group) from None
        finally:
            await self._verifier.aclose()

    async def _stop_on_signal(
        self,
        scope: trio.CancelScope,
        task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                _log.info("stopping", signal=signal.Signals(number).name)
                scope.cancel()

    async def _run_rpc(self) -> None:
        """Keep one RPC process: a crash of it must not take the validator along."""
        command = [sys.executable, "-m", "node.rpc", "--parent-pid", str(os.getpid())]
        if self._config_file is not None:
            command.extend(["--config", str(self._config_file)])
        for name, value in _list_rpc_settings(self._config):
            command.extend(["--set", f"{name}={value}"])
        while True:
            process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL)
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    process.terminate()
                    with trio.CancelScope(shield=True):
                        await process.wait()
            if status == 1:
                raise OperatorError(
                    "the RPC process cannot start (its line is above); rpc.processes=0 goes without"
                )
            _log.error("RPC process ended", status=status)
            await trio.sleep(1)

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
        """Have consensus streams with the validators of the block being decided."""
        validators = self._store.next_committee().validators
        if validators != self._connected_validators:
            self._connected_validators = validators
            self._network.set_validators(validators)

    def _on_finalized(self, block: Block) -> None:
        self._connect_validators()
        self._ipc.announce_head(block.number, block.hash)
        if self._training is not None:
            self._training.wake()

    # What peers ask of training; the host exists once everything is put together.

    def list_reveals(self, task_id: TaskId, round_number: int, attempt: int) -> Sequence[Reveal]:
        """The reveals of an attempt that are held here."""
        assert self._training is not None
        return self._training.list_reveals(task_id, round_number, attempt)

    def get_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root."""
        assert self._training is not None
        return self._training.get_state_parts(state_root)

    def on_announced_reveal(self, reveal: Reveal) -> None:
        """A peer says that it holds a reveal."""
        assert self._training is not None
        self._training.on_announced_reveal(reveal)


def _list_rpc_settings(config: NodeConfig) -> list[tuple[str, str]]:
    """The settings that flags may have changed and the RPC process needs."""
    return [
        ("data_dir", str(config.data_dir)),
        ("rpc.host", config.rpc.host),
        ("rpc.port", str(config.rpc.port)),
        ("rpc.processes", str(config.rpc.processes)),
        ("rpc.cors", ",".join(config.rpc.cors)),
        ("rpc.allowed_hosts", ",".join(config.rpc.allowed_hosts)),
        ("logs.format", config.logs.format.value),
        ("logs.level", config.logs.level.value),
    ]


def _parse_checkpoint(text: str) -> Hash32 | None:
    return Hash32(bytes.fromhex(text.removeprefix("0x"))) if text else None


def _check_operator(
    account: _OperatorAccount, validator: Address | None, committee: Committee
) -> Operator:
    if validator is None:
        raise OperatorError("operator.key_file is set without consensus.key_file: set both or none")
    if validator in committee.validators:
        expected = committee.operators[committee.validators.index(validator)]
        if expected != account.address:
            raise OperatorError(
                f"operator.key_file holds 0x{account.address.hex()}, but the operator of this "
                f"validator is 0x{expected.hex()}: set it to that account's key"
            )
    return Operator(account.address, account.send)


def _first(group: BaseExceptionGroup[OperatorError]) -> OperatorError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OperatorError)
    return error
