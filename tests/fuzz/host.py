"""A real host with hostile peers that break every rule, and one honest validator."""

import logging
import sys
from collections import Counter
from typing import Any

import structlog
import trio

from node.network.host import LibP2PHost, create_host_key
from node.network.network import Network, NetworkConfig
from tests.fuzz.memory import MemoryWatch
from tests.worlds.network import (
    HEAD,
    NO_BLOBS,
    MemoryChain,
    MemoryPool,
    NoStates,
    NoTraining,
    build_block,
    identity,
    validator_address,
)

VOTE_SECONDS = 30.0
"""The time limit of the honest validator's votes, whatever load the hostile peers make."""

LISTEN = "/ip4/127.0.0.1/tcp/0"


class Findings:
    """The exceptions that our code logged, and the delays of votes."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.slowest_vote = 0.0
        self.votes = 0

    def look(self, logger: object, name: str, event: dict[str, Any]) -> dict[str, Any]:
        """Note exceptions in log lines, each a defect of ours; this is a structlog processor."""
        if event.get("exc_info") or name in ("error", "critical"):
            self.errors.append(repr(event) + repr(sys.exc_info()[1]))
        raise structlog.DropEvent


def build_network(
    index: int, bootstrap: tuple[str, ...], arrived: trio.MemorySendChannel[bytes]
) -> Network:
    async def handle(_: object, payload: bytes) -> None:
        await arrived.send(payload)

    chain = MemoryChain({number: build_block(number) for number in range(5)})
    pool = MemoryPool()
    pool.add(b"one", b"two")
    network = Network(
        host=LibP2PHost(
            key=create_host_key(),
            listen_addresses=[LISTEN],
            max_connections=300,
            accept_private_addresses=True,
        ),
        config=NetworkConfig(bootstrap=bootstrap, accept_private_addresses=True),
        identity=identity(index),
        get_head=lambda: HEAD,
        handle_consensus=handle,
        transaction_pool=pool,
        block_source=chain,
        blob_store=NO_BLOBS,
        training_source=NoTraining(),
        state_source=NoStates(),
        random=lambda: 0.5,
    )
    network.set_validators(validator_address(index) for index in range(2))
    return network


def fuzz_host(seconds: float, seed: int) -> dict[str, object]:
    """Attack a host until the time is up.

    Raises:
        AssertionError: A handler failed, a vote was late, or memory grew.
    """
    findings = Findings()
    logging.disable(logging.CRITICAL)
    structlog.configure(processors=[findings.look])
    return trio.run(_run, findings, seconds, seed)


async def _run(findings: Findings, seconds: float, seed: int) -> dict[str, object]:
    send, receive = trio.open_memory_channel[bytes](1_000)
    ignore, _ = trio.open_memory_channel[bytes](10**6)
    async with trio.open_nursery() as nursery:
        node = build_network(0, (), send)
        await nursery.start(node.run)
        honest = build_network(1, node.listen_addresses(), ignore)
        await nursery.start(honest.run)
        with trio.fail_after(30):
            while not (node.peers() and honest.peers()):  # noqa: ASYNC110
                await trio.sleep(0.1)
        watch = MemoryWatch("host", seconds)
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.stranger"]
        arguments = [node.listen_addresses()[0], str(seconds), str(seed)]
        stranger = await trio.lowlevel.open_process([*command, *arguments])
        try:
            number = 0
            while not watch.is_over():
                number += 1
                vote = b"vote %d" % number
                start = trio.current_time()
                honest.broadcast_consensus(vote)
                with trio.fail_after(VOTE_SECONDS):
                    while await receive.receive() != vote:
                        pass
                findings.slowest_vote = max(findings.slowest_vote, trio.current_time() - start)
                findings.votes += 1
                metrics = node.metrics
                watch.tick(
                    f"{sum(metrics.rejections.values())} refusals, {metrics.peers_banned} bans, "
                    f"{metrics.sessions_opened} sessions, {findings.votes} votes"
                )
                assert not findings.errors, findings.errors[:3]
                assert stranger.returncode is None, "the strangers' program ended"
                await trio.sleep(0.5)
        finally:
            if stranger.returncode is None:
                stranger.terminate()
            await stranger.wait()
        # Everything of the hostile peers must be freed: connections, sessions, budgets.
        with trio.fail_after(60):
            while len(node.peers()) > 1 or node.inbound_connections()[0] > 1:  # noqa: ASYNC110
                await trio.sleep(0.2)
        result = watch.finish()
        refusals = Counter(node.metrics.rejections)
        nursery.cancel_scope.cancel()
    assert refusals, "the strangers broke no rule"
    return {
        **result,
        "votes": findings.votes,
        "slowestVoteSeconds": round(findings.slowest_vote, 3),
        "sessions": node.metrics.sessions_opened,
        "bans": node.metrics.peers_banned,
        "refusals": {reason.value: count for reason, count in sorted(refusals.items())},
        "frames": sum(node.metrics.frames.values()),
    }
