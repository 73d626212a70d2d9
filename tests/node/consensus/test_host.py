"""Consensus hosts on real cores, executors, logs and guards, over a wire in memory."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.consensus.inputs import TransactionHeld
from chain.consensus.messages import (
    Committed,
    MessageKind,
    PrePrepare,
    Vote,
    compute_signing_digest,
    decode_message,
    encode_message,
)
from chain.crypto import get_address, keccak256
from chain.crypto import sign as sign_digest
from chain.errors import RejectionReason
from chain.primitives import ZERO_HASH, BlockNumber, Hash32, Signature, ValidatorIndex, View
from chain.types.certificate import CommitCertificate
from node.consensus.input_queue import INPUT_LIMIT
from node.network.wire import Head
from pot_common.errors import OperatorError
from tests.worlds.chain import ALICE, BOB, sign
from tests.worlds.cluster import (
    KEYS,
    VALIDATORS,
    ClusterNode,
    Wire,
    build_cluster,
    domain,
    heads,
    list_signed,
    with_body,
)
from tests.worlds.waiting import run_thread_inline, until

pytestmark = pytest.mark.usefixtures("inline_threads")


@asynccontextmanager
async def running(wire: Wire, *indices: int) -> AsyncIterator[trio.Nursery]:
    """Starts the nodes named, or all; the nursery is for later lives."""
    async with trio.open_nursery() as nursery:
        for index in indices or range(len(wire.nodes)):
            await nursery.start(wire.nodes[index].run)
        yield nursery
        nursery.cancel_scope.cancel()


def assert_nobody_signed_twice(wire: Wire) -> None:
    signed = list_signed(wire.messages())
    assert signed
    assert {place: said for place, said in signed.items() if len(said) != 1} == {}


async def test_four_hosts_finalize_the_same_blocks_with_transactions(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    transfers = [sign(ALICE, nonce, get_address(BOB), value=7) for nonce in range(3)]

    async with running(wire):
        for transfer in transfers:
            await until(lambda: len(set(heads(wire.nodes))) == 1)
            for node in wire.nodes:
                node.submit(transfer)
        await until(
            lambda: all(
                node.store.transaction_location(transfers[-1].hash) is not None
                for node in wire.nodes
            )
        )
        common = min(heads(wire.nodes))
        chains = [[node.store.header(n).hash for n in range(common + 1)] for node in wire.nodes]
        assert chains[1:] == chains[:-1]
        assert all(node.mempool.counts() == (0, 0) for node in wire.nodes)
        assert [block.number for block in wire.nodes[0].finalized][:common] == list(
            range(1, common + 1)
        )
    assert wire.rejections == []
    assert_nobody_signed_twice(wire)


@pytest.mark.parametrize("burnt_at", range(0, 34, 2))
async def test_killed_anywhere_a_host_signs_nothing_twice(
    autojump_clock: MockClock, tmp_path: Path, burnt_at: int
) -> None:
    wire = build_cluster(tmp_path)
    victim = wire.nodes[burnt_at % 4]
    victim.fuse.left = burnt_at

    async with running(wire) as nursery:
        await until(lambda: not victim.is_running)
        before = len(wire.frames)
        await trio.sleep(0.1)
        await nursery.start(victim.run)
        target = max(heads(wire.nodes)) + 2
        await until(lambda: min(heads(wire.nodes)) >= target)
        again = [payload for sender, payload in wire.frames[before:] if sender == victim.index]
        assert any(isinstance(decode_message(payload), Vote) for payload in again)
        assert victim.host.is_signing
    assert_nobody_signed_twice(wire)


@pytest.mark.parametrize("burnt_at", [1, 4, 7, 10, 13])
async def test_all_hosts_killed_at_once_go_on_with_what_they_had_signed(
    autojump_clock: MockClock, tmp_path: Path, burnt_at: int
) -> None:
    wire = build_cluster(tmp_path)
    wire.nodes[0].fuse.left = burnt_at

    async with running(wire) as nursery:
        await until(lambda: not wire.nodes[0].is_running)
        for node in wire.nodes[1:]:
            node.kill()
        await until(lambda: not any(node.is_running for node in wire.nodes))
        for node in wire.nodes:
            await nursery.start(node.run)
        await until(lambda: min(heads(wire.nodes)) >= 3)
    assert_nobody_signed_twice(wire)


async def test_a_restarted_host_sends_its_votes_again_byte_for_byte(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    # Nobody hears a COMMIT, so number 1 stays undecided.
    wire.lost = lambda _sender, _receiver, payload: payload[0] == MessageKind.COMMIT
    victim = wire.nodes[0]

    async with running(wire) as nursery:
        commits = lambda: [  # noqa: E731
            payload
            for sender, payload in wire.frames
            if sender == 0 and payload[0] == MessageKind.COMMIT
        ]
        await until(lambda: bool(commits()))
        signed = commits()
        victim.kill()
        await until(lambda: not victim.is_running)
        before = len(wire.frames)
        await nursery.start(victim.run)
        await until(lambda: len(commits()) > len(signed))
        assert commits()[len(signed)] == signed[0]
        kinds = [payload[0] for sender, payload in wire.frames[before:] if sender == 0]
        assert MessageKind.PREPARE in kinds
    assert_nobody_signed_twice(wire)


async def test_a_failed_fsync_ends_signing_and_the_others_go_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    victim = wire.nodes[1]
    is_broken = False

    def fsync(_descriptor: int) -> None:
        if is_broken:
            raise OSError(28, "No space left on device")

    victim.fsync = fsync
    async with running(wire):
        await until(lambda: min(heads(wire.nodes)) >= 2)
        is_broken = True
        await until(lambda: not victim.host.is_signing)
        spoken = len(wire.messages(1))
        target = max(heads(wire.nodes)) + 3
        # It follows, though its log can be neither written nor emptied.
        await until(lambda: min(heads(wire.nodes)) >= target)
        assert victim.is_running
        later = wire.messages(1)[spoken:]
        assert [m for m in later if not isinstance(m, Committed)] == []
    assert_nobody_signed_twice(wire)


async def test_without_guard_a_host_waits_for_a_quorum_of_heads(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    victim = wire.nodes[2]

    async with running(wire) as nursery:
        await until(lambda: min(heads(wire.nodes)) >= 3)
        victim.kill()
        await until(lambda: not victim.is_running)
        (victim.directory / "guard").unlink()
        for absent in wire.nodes[:2]:
            absent.kill()
        await until(lambda: not any(absent.is_running for absent in wire.nodes[:2]))
        before = len(wire.frames)
        await nursery.start(victim.run)
        await trio.sleep(5)
        assert victim.host.state is None, "three heads are a quorum; two are here"
        await nursery.start(wire.nodes[0].run)
        await until(lambda: victim.host.state is not None)
        known = max(heads(wire.nodes[2:]))
        await nursery.start(wire.nodes[1].run)
        await until(lambda: victim.host.is_signing)
        await until(lambda: min(heads(wire.nodes)) >= known + 4)
        votes = [m for m in map(decode_message, _payloads(wire, 2, before)) if isinstance(m, Vote)]
        assert min(vote.number for vote in votes) == known + 3
    assert_nobody_signed_twice(wire)


def _payloads(wire: Wire, sender: int, start: int = 0) -> list[bytes]:
    return [payload for author, payload in wire.frames[start:] if author == sender]


@pytest.mark.parametrize("slow", ["_store_block", "load_guard", "start"])
async def test_a_wiped_host_begins_while_sync_is_at_work(
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slow: str,
) -> None:
    """Whatever ends last: a block is stored before the host has begun, or while it begins."""

    async def return_late(
        function: Callable[..., object], *arguments: object, **_: object
    ) -> object:
        result = await run_thread_inline(function, *arguments)
        if getattr(function, "__name__", "") == slow:
            await trio.sleep(0.5)
        return result

    wire = build_cluster(tmp_path)
    victim = wire.nodes[2]

    async with running(wire) as nursery:
        victim.kill()
        await until(lambda: min(heads(wire.nodes[:2])) >= 8)
        shutil.rmtree(victim.directory)
        victim.directory.mkdir()
        monkeypatch.setattr(trio.to_thread, "run_sync", return_late)
        await nursery.start(victim.run)
        await until(lambda: victim.host.is_signing)


async def test_a_head_that_is_claimed_and_not_proved_keeps_nobody_silent(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    victim, liar = wire.nodes[2], wire.nodes[3]

    async with running(wire) as nursery:
        await until(lambda: min(heads(wire.nodes)) >= 2)
        victim.kill()
        await until(lambda: not victim.is_running)
        (victim.directory / "guard").unlink()
        liar.claimed_head = Head(BlockNumber(2**64 - 1), ZERO_HASH)
        await nursery.start(victim.run)
        await until(lambda: victim.host.is_signing, seconds=30)


async def test_a_proposal_from_the_future_is_held_then_accepted(
    autojump_clock: MockClock, tmp_path: Path, primary: int
) -> None:
    wire = build_cluster(tmp_path)

    async with running(wire):
        wire.nodes[primary].clock.ahead_ms = 2_000
        await until(lambda: any(m.block.number == 1 for m in _proposals(wire)))
        sent_at = trio.current_time()
        await until(lambda: len(_prepares(wire, 1)) == 4)
        held_seconds = trio.current_time() - sent_at
        await until(lambda: min(heads(wire.nodes)) >= 1)
    (first,) = {m.block.hash for m in _proposals(wire) if m.vote.number == 1}
    assert {vote.digest for vote in _prepares(wire, 1)} == {first}
    # Two seconds ahead, of which one is allowed.
    assert 0.8 <= held_seconds <= 1.1


async def test_a_proposal_with_the_time_of_its_old_parent_gets_no_vote(
    autojump_clock: MockClock, tmp_path: Path, primary: int
) -> None:
    await trio.sleep(10)
    wire = build_cluster(tmp_path)

    async with running(wire):
        wire.nodes[primary].clock.ahead_ms = -20_000
        await until(lambda: min(heads(wire.nodes)) >= 1)
        parent, first = wire.nodes[0].store.headers(BlockNumber(0), BlockNumber(2))
        voters = {vote.author for vote in _prepares(wire, 1)}
        view = wire.nodes[0].store.certificate(BlockNumber(1)).view
    (refused,) = {m.block.header for m in _proposals(wire) if m.vote.number == 1}
    assert refused.timestamp == parent.timestamp
    assert (voters, view) == ({primary}, 1)
    assert first.timestamp >= parent.timestamp + 10


@pytest.mark.parametrize("jumping", [(0,), (0, 1, 2, 3)])
@pytest.mark.parametrize("jump_seconds", [-3_600, 3_600])
async def test_a_clock_that_is_set_changes_neither_pace_nor_who_votes(
    autojump_clock: MockClock, tmp_path: Path, jumping: tuple[int, ...], jump_seconds: int
) -> None:
    wire = build_cluster(tmp_path)

    async with running(wire):
        await until(lambda: min(heads(wire.nodes)) >= 2)
        for index in jumping:
            wire.nodes[index].clock.ahead_ms += jump_seconds * 1000
        before = max(heads(wire.nodes))
        started = trio.current_time()
        await until(lambda: min(heads(wire.nodes)) >= before + 8)
        seconds = (trio.current_time() - started) / 8
        store = wire.nodes[-1].store
        views = [store.certificate(BlockNumber(before + i)).view for i in range(1, 9)]
        times = [header.timestamp for header in store.headers(before, before + 8)]
    if len(jumping) == 4 or jump_seconds < 0:
        assert views == [0] * 8
        assert 0.9 <= seconds <= 1.2, "an empty block a second"
    else:
        # Its own proposals are an hour early; nobody else's are.
        assert 0 < sum(views) <= 4
        assert times[-1] - times[0] < 60
    assert times == sorted(times)
    assert_nobody_signed_twice(wire)


async def test_while_transactions_are_held_a_block_comes_every_interval(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)

    async def submit_one_after_the_other() -> None:
        for nonce in range(200):
            for node in wire.nodes:
                node.submit(sign(ALICE, nonce, get_address(BOB), value=7))
            await trio.sleep(0.025)

    async with running(wire) as nursery:
        nursery.start_soon(submit_one_after_the_other)
        await until(lambda: min(heads(wire.nodes)) >= 2)
        before = max(heads(wire.nodes))
        started = trio.current_time()
        await until(lambda: min(heads(wire.nodes)) >= before + 10)
        seconds = (trio.current_time() - started) / 10
    assert 0.2 <= seconds < 0.22, "the interval, and what the wire in memory takes"


async def test_transactions_that_come_together_are_in_one_block(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    transfers = [sign(ALICE, nonce, get_address(BOB), value=7) for nonce in range(3)]

    async with running(wire):
        await until(lambda: min(heads(wire.nodes)) >= 2)
        await trio.sleep(0.5)  # the interval is over, so the first transaction starts a block
        for transfer in transfers:
            for node in wire.nodes:
                node.submit(transfer)
            await trio.sleep(0.02)
        await until(
            lambda: wire.nodes[0].store.transaction_location(transfers[-1].hash) is not None
        )
        places = {wire.nodes[0].store.transaction_location(each.hash)[0] for each in transfers}
    assert len(places) == 1


def _proposals(wire: Wire) -> list[PrePrepare]:
    return [message for message in wire.messages() if isinstance(message, PrePrepare)]


def _prepares(wire: Wire, number: int) -> list[Vote]:
    votes = [
        message
        for message in wire.messages()
        if isinstance(message, Vote) and message.kind is MessageKind.PREPARE
    ]
    return list({v.author: v for v in votes if v.number == number and v.view == 0}.values())


@pytest.fixture
def primary() -> int:
    """Of number 1 in view 0: the rotation begins with index 0."""
    return 0


async def test_an_invalid_proposal_gets_no_prepare(
    autojump_clock: MockClock, tmp_path: Path, primary: int
) -> None:
    wire = build_cluster(tmp_path)
    honest = [index for index in range(4) if index != primary]

    async with running(wire, *honest):
        liar = wire.nodes[primary]
        template = await _build_block(wire.nodes[honest[0]], primary)
        header = replace(template.header, state_root=keccak256(b"another state"))
        wrong = replace(template, header=header)
        _propose(wire, primary, wrong)
        await until(lambda: min(heads(wire.nodes[i] for i in honest)) >= 1)
        assert wrong.hash not in {vote.digest for vote in _prepares(wire, 1)}
        assert wire.nodes[honest[0]].store.header(BlockNumber(1)).hash != wrong.hash
        assert not liar.is_running
    assert_nobody_signed_twice(wire)


async def _build_block(node: ClusterNode, primary: int):
    """A valid block 1 of another validator, as its own software would build it."""
    await until(lambda: node.host.state is not None)
    built = await node.executor.build(node.store.head(), (), VALIDATORS[primary], None)
    node.executor.forget()
    return built.block


def _signed_vote(kind: MessageKind, author: int, number: int, digest: Hash32, view: int = 0):
    payload = compute_signing_digest(domain(), kind, BlockNumber(number), View(view), digest)
    signature = sign_digest(payload, KEYS[author])
    return Vote(kind, BlockNumber(number), View(view), digest, ValidatorIndex(author), signature)


def _propose(wire: Wire, author: int, block, to: list[int] | None = None) -> None:
    """A byzantine primary's PRE-PREPARE, to some."""
    vote = _signed_vote(MessageKind.PRE_PREPARE, author, block.number, block.hash)
    payload = encode_message(PrePrepare(vote, block))
    for node in wire.nodes:
        if node.is_running and (to is None or node.index in to):
            node.deliver(author, payload)


async def test_another_body_under_a_certified_header_halts_nobody(
    autojump_clock: MockClock, tmp_path: Path, primary: int
) -> None:
    """A Byzantine primary shows one backup a body that is not the header's."""
    wire = build_cluster(tmp_path)

    async with running(wire, 1, 2, 3):
        block = await _build_block(wire.nodes[1], primary)
        _propose(wire, primary, with_body(block, b"\x02not the one"), to=[1])
        await until(lambda: bool(wire.rejections))
        _propose(wire, primary, block, to=[2, 3])
        for kind in (MessageKind.PREPARE, MessageKind.COMMIT):
            vote = _signed_vote(kind, primary, 1, block.hash)
            for node in wire.nodes[1:]:
                node.deliver(primary, encode_message(vote))
        await until(lambda: min(heads(wire.nodes[1:])) >= 2)
        assert {node.store.header(BlockNumber(1)).hash for node in wire.nodes[1:]} == {block.hash}
    (rejection,) = wire.rejections
    assert rejection[0] == 1
    assert rejection[1].reason is RejectionReason.TRANSACTIONS_ROOT_MISMATCH


async def test_a_flood_of_later_blocks_costs_no_more_than_is_held(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signature is checked before their number begins, so work is bounded by what is held."""
    wire = build_cluster(tmp_path)
    wire.lost = lambda _sender, _receiver, _payload: True
    target = wire.nodes[0]

    async with running(wire):
        checked = []
        monkeypatch.setattr(target.executor, "validate_body", checked.append)
        block = await _build_block(target, 3)
        for number in (1, 2, 2, 3, 4, 5, 6, 2**63):
            header = replace(block.header, number=BlockNumber(number), timestamp=number)
            later = replace(block, header=header)
            vote = replace(
                _signed_vote(MessageKind.PRE_PREPARE, 3, number, later.hash),
                signature=Signature(bytes(65)),
            )
            target.deliver(3, encode_message(PrePrepare(vote, later)))
            await trio.sleep(0.1)
        assert [each.number for each in checked] == [2]
    (rejection,) = wire.rejections
    assert rejection[1].reason is RejectionReason.BAD_SIGNATURE, "number 1 has begun"


async def test_a_message_of_the_next_number_is_verified_when_its_number_begins(
    autojump_clock: MockClock,
    tmp_path: Path,
) -> None:
    """Forged votes that wait in the queue while the number changes count for nothing."""
    wire = build_cluster(tmp_path)
    target = wire.nodes[0]
    target.has_sync = False
    digest = Hash32(b"\x66" * 32)
    counted: list[int] = []

    async def forge(number: BlockNumber) -> None:
        """Before, while and after the target takes the new number out of its queue."""
        for author in (1, 2, 3) * 5:
            signature = Signature(bytes([author]) * 64 + b"\0")
            vote = Vote(
                MessageKind.COMMIT, number, View(0), digest, ValidatorIndex(author), signature
            )
            if target.host.state.config.number < number:
                await target.host.handle_message(VALIDATORS[3], encode_message(vote))
            held = target.host.state.log.get_signatures(MessageKind.COMMIT, View(0), digest)
            counted.append(len(held))

    async with running(wire) as nursery:
        target.after_finalized = lambda block: nursery.start_soon(
            forge, BlockNumber(block.number + 1)
        )
        # Until some of them waited in the queue while their number began.
        await until(lambda: bool(target.faults))
    assert set(counted) == {0}
    assert ("node 3", RejectionReason.BAD_SIGNATURE) in {
        (peer_id, error.reason) for peer_id, error in target.faults
    }


async def test_a_full_queue_loses_no_new_number(autojump_clock: MockClock, tmp_path: Path) -> None:
    """However full peers keep the queue, what this node tells itself still arrives."""
    wire = build_cluster(tmp_path)
    target = wire.nodes[0]
    target.has_sync = False

    async with running(wire):
        await until(lambda: min(heads(wire.nodes)) >= 1)
        finalize = target.store.finalize

        def slow_finalize(*arguments: object, **rest: object) -> None:
            finalize(*arguments, **rest)
            while target.host.waiting_inputs < INPUT_LIMIT:
                target.host._inputs.put_at_once(TransactionHeld())

        target.store.finalize = slow_finalize
        goal = target.store.head_number() + 3
        await until(lambda: target.store.head_number() >= goal)
        assert target.host.state.config.number > goal


async def test_sync_and_consensus_store_a_block_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    target = wire.nodes[0]

    async with running(wire):
        await until(lambda: min(heads(wire.nodes)) >= 1)
        for _ in range(12):
            ahead = max(wire.nodes[1:], key=lambda node: node.store.head_number())
            for block, certificate in ahead.serve_blocks(
                BlockNumber(target.store.head_number()), 4
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(target.finalizer.finalize, block, certificate)
                    nursery.start_soon(target.finalizer.finalize, block, certificate)
            await trio.sleep(0.1)
        await until(lambda: min(heads(wire.nodes)) >= 4)
    numbers = [block.number for block in target.finalized]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_certified_block_that_is_invalid_here_stops_the_node(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    with pytest.RaisesGroup(pytest.RaisesExc(OperatorError), flatten_subgroups=True):
        async with running(wire, 1, 2, 3):
            block = await _build_block(wire.nodes[1], 0)
            wrong = replace(block, header=replace(block.header, gas_used=7))
            commits = tuple(
                (
                    ValidatorIndex(i),
                    _signed_vote(MessageKind.COMMIT, i, 1, wrong.hash).signature,
                )
                for i in (0, 2, 3)
            )
            _propose(wire, 0, wrong)
            committed = Committed(BlockNumber(1), wrong.hash, CommitCertificate(View(0), commits))
            wire.nodes[1].deliver(0, encode_message(committed))
            await trio.sleep(30)


async def test_a_stale_validator_is_answered_with_the_certificate(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    late = wire.nodes[3]
    late.has_sync = False
    wire.lost = lambda _sender, receiver, _payload: receiver == 3

    async with running(wire):
        await until(lambda: min(heads(wire.nodes[:3])) >= 1 and late.host.state is not None)
        wire.lost = lambda _sender, receiver, payload: (
            receiver == 3 and payload[0] != MessageKind.COMMITTED
        )
        # Nothing reaches it but answers to its own STATUS, and blocks that it asks for.
        await until(lambda: late.store.head_number() >= 2)
