"""Peers without a stake that claim heads and prove none do not hold up a node."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.primitives import BlockNumber, Signature, ValidatorIndex, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from node.network.peers import PeerInfo
from node.network.stream import PeerId
from node.network.wire import Head, RequestHeaders, encode_blocks_request
from node.sync import snapshot_sync
from node.sync.block_sync import BlockSync
from node.sync.snapshot_sync import SnapshotSync, SyncMode
from tests.node.sync.test_snapshot_cluster import SnapshotNode, contract_genesis
from tests.worlds.cluster import Wire, heads
from tests.worlds.snapshot import Server
from tests.worlds.values import make_header
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

FORGED = CommitCertificate(
    View(0), tuple((ValidatorIndex(n), Signature(bytes(65))) for n in range(3))
)


class Beset(SnapshotNode):
    """A follower with many peers that claim a head and answer late, or never."""

    mode: SyncMode = "full"
    strangers = 0
    ahead = 100
    """How far above the follower's head they claim to be."""
    header_seconds = 19.0
    knows_validators = True
    """Whether honest peers prove that they are validators."""

    frozen: tuple[int, ...] = ()
    """The validators that claim block 0, whatever they hold."""
    followers: tuple[int, ...] = ()
    """The honest peers that do not prove that they are validators."""

    def peers(self) -> tuple[PeerInfo, ...]:
        head = Head(BlockNumber(self.store.head_number() + self.ahead), bytes(32))
        honest = super().peers()
        names = {f"node {index}" for index in self.followers}
        honest = tuple(
            replace(each, validator=None) if each.peer_id in names else each for each in honest
        )
        names = {f"node {index}" for index in self.frozen}
        nothing = Head(BlockNumber(0), bytes(32))
        honest = tuple(
            replace(each, head=nothing) if each.peer_id in names else each for each in honest
        )
        if not self.knows_validators:
            honest = tuple(replace(each, validator=None) for each in honest)
        liar = PeerInfo(PeerId("liar 0"), None, head, True, 0.0001, (), 100)
        liars = (replace(liar, peer_id=PeerId(f"liar {n}")) for n in range(self.strangers))
        return (*honest, *liars)

    async def request_headers(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Header, CommitCertificate | None], ...]:
        if not peer_id.startswith("liar"):
            return await super().request_headers(peer_id, first_number, count)
        await trio.sleep(self.header_seconds)
        return tuple((make_header(first_number + n), FORGED) for n in range(count))

    async def request_blocks(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        if peer_id.startswith("liar"):
            await trio.sleep_forever()
        return await super().request_blocks(peer_id, first_number, count)

    async def _get(self, peer_id: PeerId, name: str, value: object) -> object:
        if peer_id.startswith("liar"):
            await trio.sleep_forever()
        return await super()._get(peer_id, name, value)

    @property
    def servers(self) -> dict[PeerId, Server]:
        served = super().servers
        return served | {PeerId(f"liar {n}"): served["node 0"] for n in range(self.strangers)}

    def open(self) -> None:
        super().open()
        self.sync = BlockSync(
            store=self.store,
            executor=self.executor,
            network=self,
            finalizer=self.finalizer,
            own_validator=None,
            snapshot=SnapshotSync(
                store=self.store,
                database=self.database,
                executor=self.executor,
                network=self,
                finalizer=self.finalizer,
                chain_id=self.chain_id,
                mode=self.mode,
            ),
        )


async def watch(directory: Path, seconds: int, **options: object) -> tuple[list[int], int]:
    """How many blocks the follower was behind, each second; and how far above the chain it
    believed the network to be, at most."""
    wire = Wire(genesis=contract_genesis())
    for index in range(4):
        (directory / str(index)).mkdir()
        (Beset if index == 3 else SnapshotNode)(wire, index, directory / str(index))
    validators, follower = wire.nodes[:3], wire.nodes[3]
    for name, value in options.items():
        setattr(follower, name, value)
    follower.is_signer = False
    wire.lost = lambda sender, receiver, _: 3 in (sender, receiver)
    behind: list[int] = []
    believed = 0
    async with trio.open_nursery() as nursery:
        for node in validators:
            await nursery.start(node.run)
        await until(lambda: min(heads(validators)) >= 10)
        await nursery.start(follower.run)
        for _ in range(seconds):
            await trio.sleep(1)
            best = max(heads(validators))
            behind.append(best - follower.store.head_number())
            believed = max(believed, follower.sync.best_known() - best)
        nursery.cancel_scope.cancel()
    return behind, believed


@pytest.mark.parametrize("strangers", [1, 24])
async def test_far_claim_stops_no_block_sync(
    autojump_clock: MockClock, tmp_path: Path, strangers: int
) -> None:
    """The proof of a block at 2^62 would take 62 answers of 19 s each."""
    behind, believed = await watch(
        tmp_path, 60, mode="auto", strangers=strangers, ahead=2**62, knows_validators=False
    )
    assert max(behind[10:]) <= 4
    assert believed <= 0


@pytest.mark.parametrize("strangers", [8, 24])
async def test_silent_peers_hold_no_range_that_a_validator_has(
    autojump_clock: MockClock, tmp_path: Path, strangers: int
) -> None:
    behind, believed = await watch(tmp_path, 60, strangers=strangers)
    assert max(behind[5:]) <= 2
    assert believed <= 0


@pytest.mark.parametrize("strangers", [8, 24])
async def test_silent_peers_hold_a_range_for_seconds_without_validators(
    autojump_clock: MockClock, tmp_path: Path, strangers: int
) -> None:
    behind, believed = await watch(tmp_path, 90, strangers=strangers, knows_validators=False)
    assert max(behind[30:]) <= 2
    assert believed <= 0


async def test_a_fresh_node_joins_by_snapshot_among_liars(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_sync, "PIVOT_LAG_BLOCKS", 2)
    wire = Wire(genesis=contract_genesis())
    for index in range(4):
        (tmp_path / str(index)).mkdir()
        (Beset if index == 3 else SnapshotNode)(wire, index, tmp_path / str(index))
    late = wire.nodes[3]
    late.mode, late.strangers, late.ahead = "snapshot", 24, 2**40
    late.knows_validators = late.is_signer = False
    async with trio.open_nursery() as nursery:
        for node in wire.nodes[:3]:
            await nursery.start(node.run)
        await until(lambda: min(heads(wire.nodes[:3])) >= 10)
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() >= 8, seconds=60)
        assert late.store.first_held() >= 8, "nothing was replayed"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("strangers", [0, 24])
async def test_validator_that_hides_blocks_keeps_none_from_a_follower(
    autojump_clock: MockClock, tmp_path: Path, strangers: int
) -> None:
    """It is the only validator that is connected; the others are followers and silent peers."""
    behind, believed = await watch(tmp_path, 90, strangers=strangers, frozen=(0,), followers=(1, 2))
    assert max(behind[60:]) <= 4
    assert believed <= 0


async def test_validator_that_hides_blocks_slows_no_other(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """With it, f + 1 validators are connected, and agree on block 0."""
    behind, _ = await watch(tmp_path, 20, frozen=(0,), followers=(2,))
    assert max(behind[3:]) <= 2


class Fickle(Beset):
    """Strangers claim a far head, and block 0 a second later, while they wait to be asked."""

    mode = "auto"
    strangers = 17
    began_at: float | None = None

    def peers(self) -> tuple[PeerInfo, ...]:
        self.began_at = self.began_at or trio.current_time()
        self.ahead = 5_000
        found = super().peers()
        if trio.current_time() < self.began_at + 1:
            return found
        nothing = Head(BlockNumber(0), bytes(32))
        return tuple(
            replace(each, head=nothing) if each.peer_id in ("liar 8", "liar 9") else each
            for each in found
        )

    async def request_headers(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Header, CommitCertificate | None], ...]:
        encode_blocks_request(RequestHeaders(first_number, count))
        return await super().request_headers(peer_id, first_number, count)


async def test_claim_that_changes_before_the_question_ends_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = Wire(genesis=contract_genesis())
    for index in range(4):
        (tmp_path / str(index)).mkdir()
        (Fickle if index == 3 else SnapshotNode)(wire, index, tmp_path / str(index))
    async with trio.open_nursery() as nursery:
        for node in wire.nodes:
            await nursery.start(node.run)
        await trio.sleep(30)
        assert min(heads(wire.nodes)) >= 10
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("save_seconds", [0.005, 0.02])
async def test_slow_disk_ends_no_download(
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_seconds: float,
) -> None:
    """While the last chunk of a part is stored, its part must not be asked for again."""
    monkeypatch.setattr(snapshot_sync, "PIVOT_LAG_BLOCKS", 2)
    run_inline = trio.to_thread.run_sync

    async def run_slowly(
        function: Callable[..., object], *arguments: object, **_: object
    ) -> object:
        if getattr(function, "__name__", "") == "save_chunk":
            await trio.sleep(save_seconds)
        return await run_inline(function, *arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_slowly)
    wire = Wire(genesis=contract_genesis())
    for index in range(4):
        (tmp_path / str(index)).mkdir()
        (Beset if index == 3 else SnapshotNode)(wire, index, tmp_path / str(index))
    late = wire.nodes[3]
    late.mode, late.is_signer = "snapshot", False
    async with trio.open_nursery() as nursery:
        for node in wire.nodes[:3]:
            await nursery.start(node.run)
        await until(lambda: min(heads(wire.nodes[:3])) >= 25, seconds=120)
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() >= 20, seconds=60)
        assert late.store.first_held() >= 20, "nothing was replayed"
        nursery.cancel_scope.cancel()
