"""One chaos run: a network, its clients, the faults, and the checks of the outcome."""

import itertools
import random
import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import trio

from chain.consensus.messages import (
    CONSENSUS_VERSION,
    MessageKind,
    SigningDomain,
    compute_signing_digest,
)
from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.events import decode_event
from chain.contracts.validator_set import SetScheduled
from chain.crypto import keccak256, recover
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json
from chain.primitives import Address, BlockNumber
from chain.types.certificate import decode_certificate
from node.client.rpc_client import decode_log
from node.devnet.processes import ProcessGroup
from node.setup.network_genesis import DEVELOPMENT_CHAIN_ID
from pot_common.keystore import create_private_key
from tests.chaos import linearizability
from tests.chaos.clients import Client, Recorder, read_words
from tests.chaos.contracts import SET
from tests.chaos.history import Operation
from tests.chaos.links import Links, LinkState
from tests.chaos.manifest import ChangeKind, Fault, FaultKind, Manifest, SetChange
from tests.chaos.network import LinkChoice, Network, open_links
from tests.chaos.observer import (
    STRANGER,
    Observations,
    Scheduled,
    Sets,
    Silence,
    compare_set,
    compute_sets,
    find_activation,
    list_broken_silences,
    list_disagreements,
    list_wrong_deciders,
)
from tests.chaos.operators import Operators
from tests.chaos.rpc import NoAnswer, Rpc

REGISTER_CLIENTS: Final = 3
"""The number of clients of the register."""

SET_CLIENTS: Final = 2
"""The number of clients of the set."""

OBSERVE_SECONDS: Final = 0.5
"""The pause between two readings of the heads."""

PROMPT_SECONDS: Final = 2.0
"""A healthy node tells its head within this time; a paused one does not."""

PATIENCE_SECONDS: Final = 240.0
"""The time limit of what must happen in the end, long enough for a busy machine."""

CHANGE_SECONDS: Final = 600.0
"""The time limit of a set change: a dozen commands, each of which may meet a paused node."""

Say = Callable[[str], None]

Ask = Callable[..., Awaitable[Json]]
"""`Rpc.call` or `Rpc.insist` of a node."""


class Violation(Exception):
    """A rule of the run was violated."""


@dataclass(frozen=True, slots=True)
class CarriedOut:
    """A change of the validator set that is in force."""

    change: SetChange
    asked_seconds: float
    in_force_seconds: float
    activation_block: int

    def to_json(self, seen: Observations) -> dict[str, object]:
        """The change in the report, with a joiner's first blocks or a leaver's last ones."""
        node = self.change.node
        signed, built = seen.find_signed(node), seen.find_proposed(node)
        word, place = ("first", 0) if self.change.kind is ChangeKind.JOIN else ("last", -1)
        return {
            "kind": self.change.kind.value,
            "node": node,
            "voters": list(self.change.voters),
            "asked_seconds": round(self.asked_seconds, 1),
            "in_force_seconds": round(self.in_force_seconds, 1),
            "activation_block": self.activation_block,
            f"{word}_signed_block": signed[place] if signed else None,
            f"{word}_built_block": built[place] if built else None,
        }


class Run:
    """Carries out a manifest.

    Args:
        manifest: The plan.
        directory: The place of the network's files.
        base_port: The first of 90.
        say: Is called with a line for each event.
        links: The kind of network between the nodes.
    """

    _network: Network

    def __init__(
        self,
        manifest: Manifest,
        directory: Path,
        base_port: int,
        say: Say,
        links: LinkChoice = LinkChoice.AUTO,
    ) -> None:
        self._manifest = manifest
        self._directory = directory
        self._base_port = base_port
        self._links = links
        self._say = say
        self._keys = tuple(create_private_key() for _ in range(REGISTER_CLIENTS + SET_CLIENTS))
        self._processes = ProcessGroup(directory / "logs")
        self._nodes: tuple[Rpc, ...] = ()
        self._recorder = Recorder()
        self._seen = Observations(0.0)
        self._silences: list[Silence] = []
        self._cloned: set[int] = set()
        self._faults: list[dict[str, object]] = []
        self._changes: list[CarriedOut] = []
        self._sets: Sets = ()
        self._violations: list[str] = []

    async def execute(self) -> dict[str, object]:
        """Run everything; return the report."""
        async with trio.open_nursery() as nursery:
            count = self._manifest.node_count + 1  # the clone
            links = await open_links(self._links, self._base_port, count, nursery)
            self._say(f"links: {links.name}")
            try:
                with self._processes:
                    report = await self._execute_over(links)
            finally:
                with trio.CancelScope(shield=True):
                    await links.close()
            nursery.cancel_scope.cancel()
        return report

    async def _execute_over(self, links: Links) -> dict[str, object]:
        self._network = Network(
            self._directory, self._base_port, links, self._manifest, self._keys, self._processes
        )
        self._network.create()
        self._nodes = tuple(Rpc(place.rpc_url) for place in self._network.places)
        try:
            await self._start()
            return await self._play()
        finally:
            with trio.CancelScope(shield=True):
                for node in self._nodes:
                    await node.close()

    @property
    def _now(self) -> float:
        """Seconds since the clients began."""
        return trio.current_time() - self._seen.started

    async def _start(self) -> None:
        present = sorted(set(range(self._manifest.node_count)) - self._manifest.late_nodes)
        for index in present:
            self._network.start(index)
        for index in present:
            await self._wait_for_head(index, 2)
        self._say(f"{len(present)} of {self._manifest.node_count} nodes run")

    async def _play(self) -> dict[str, object]:
        self._seen = Observations(trio.current_time())
        async with trio.open_nursery() as background:
            background.start_soon(self._observe)
            async with trio.open_nursery() as clients:
                self._start_clients(clients)
                async with trio.open_nursery() as lanes:
                    for lane in self._manifest.lanes:
                        lanes.start_soon(self._run_lane, lane)
                    lanes.start_soon(self._run_changes)
                healed_at = self._now
                await self._recover_all()
                recovery_seconds = self._now - healed_at
                self._recorder.is_over = True
                clients.cancel_scope.deadline = trio.current_time() + PATIENCE_SECONDS
            background.cancel_scope.cancel()
        await self._audit()
        return self._report(recovery_seconds)

    def _start_clients(self, nursery: trio.Nursery) -> None:
        nodes = self._nodes[: self._manifest.node_count]
        for index, key in enumerate(self._keys):
            client = Client(index, key, DEVELOPMENT_CHAIN_ID, nodes, self._recorder)
            source = random.Random(f"{self._manifest.seed}/{index}")
            use = client.use_register if index < REGISTER_CLIENTS else client.use_set
            nursery.start_soon(use, source)

    # Watching.

    async def _observe(self) -> None:
        while True:
            async with trio.open_nursery() as nursery:
                for index in range(len(self._nodes)):
                    if self._network.is_running(index):
                        nursery.start_soon(self._look_at, index)
            self._seen.see_head(self._seen.highest, trio.current_time())
            await trio.sleep(OBSERVE_SECONDS)

    async def _look_at(self, index: int) -> None:
        with trio.move_on_after(OBSERVE_SECONDS):
            try:
                number = await self._nodes[index].head()
                self._seen.see_head(number, trio.current_time())
                if block_hash := await self._nodes[index].block_hash(number):
                    self._seen.see_hash(index, number, block_hash)
            except NoAnswer:
                return

    async def _head(self, index: int) -> int:
        """A node's head; 0 if it does not answer."""
        try:
            return await self._nodes[index].head()
        except NoAnswer:
            return 0

    async def _ask_highest(self, but: int) -> int:
        """The highest current head of the other nodes; the observed one may be a few blocks old."""
        heads = [self._seen.highest]

        async def ask(index: int) -> None:
            heads.append(await self._head(index))

        with trio.move_on_after(PROMPT_SECONDS):
            async with trio.open_nursery() as nursery:
                for index in range(self._manifest.node_count):
                    if index != but and self._network.is_running(index):
                        nursery.start_soon(ask, index)
        return max(heads)

    async def _wait_for_head(self, index: int, number: int) -> None:
        with trio.move_on_after(PATIENCE_SECONDS):
            while await self._head(index) < number:
                if not self._network.is_running(index):
                    raise Violation(self._network.children[index].describe_end())
                await trio.sleep(OBSERVE_SECONDS)
            return
        raise Violation(f"node {index} has no block {number} after {PATIENCE_SECONDS:.0f} s")

    async def _recover_all(self) -> None:
        target = self._seen.highest + 2
        for index in range(self._manifest.node_count):
            try:
                await self._wait_for_head(index, target)
            except Violation as violation:
                self._violate(str(violation))

    def _violate(self, text: str) -> None:
        self._violations.append(text)
        self._say(f"{self._now:7.1f} s  VIOLATION {text}")

    # Changes of the validator set.

    async def _run_changes(self) -> None:
        operators = Operators(self._network, self._manifest.node_count)
        for change in self._manifest.changes:
            await trio.sleep(change.pause_seconds)
            asked = self._now
            self._say(f"{asked:7.1f} s  {change.kind} node {change.node}")
            try:
                activation, in_force = await self._carry_out(operators, change)
            except Violation as violation:
                self._violate(f"{change.kind} node {change.node}: {violation}")
                return
            self._say(f"{in_force:7.1f} s  {change.kind} node {change.node}: block {activation}")
            self._changes.append(CarriedOut(change, asked, in_force, activation))

    async def _carry_out(self, operators: Operators, change: SetChange) -> tuple[int, float]:
        """Carry out a change; return the block from which on it is in force, and the time."""
        is_join = change.kind is ChangeKind.JOIN
        with trio.move_on_after(CHANGE_SECONDS):
            await operators.carry_out(change, self._seen.highest)
            for node in itertools.cycle(self._nodes[: self._manifest.node_count]):
                with suppress(NoAnswer):
                    sets = await self._read_sets(node.call)
                    activation = find_activation(sets, change.node, is_join=is_join)
                    if activation is not None:
                        in_force = self._now
                        if is_join:
                            await self._wait_for_signature(change.node, activation)
                        return activation, in_force
                await trio.sleep(OBSERVE_SECONDS)
        raise Violation(f"not done after {CHANGE_SECONDS:.0f} s")

    async def _wait_for_signature(self, validator: int, number: int) -> None:
        """Wait until a certificate, from a block on, has the validator's signature.

        The head's certificate does not count, since the validator may have made it itself; the one
        in a block's child was agreed on.
        """
        for node in itertools.cycle(self._nodes[: self._manifest.node_count]):
            with suppress(NoAnswer):
                while number < await node.head():
                    if validator in await self._read_signers(node.call, number):
                        return
                    number += 1
            await trio.sleep(OBSERVE_SECONDS)

    def _find_node(self, validator: Address | None) -> int:
        """The index of the node with that consensus account."""
        return next(
            (node for node, each in self._network.validators.items() if each == validator), STRANGER
        )

    @property
    def _genesis_set(self) -> frozenset[int]:
        return frozenset(range(self._manifest.validator_count))

    async def _read_sets(self, ask: Ask) -> Sets:
        """The sets that decided blocks, by a node's answer."""
        answer = await ask("pot_getValidatorSets", 0)
        assert isinstance(answer, list)
        sets = []
        for each in answer:
            assert isinstance(each, dict)
            first, members = each["firstBlock"], each["validators"]
            assert isinstance(first, int)
            assert isinstance(members, list)
            validators = [self._find_node(Address(from_hex(member))) for member in members]
            sets.append((first, frozenset(validators)))
        return tuple(sets)

    async def _read_scheduled(self, ask: Ask) -> list[Scheduled]:
        """The changes that the contract announced, from a node's events."""
        query = {"address": to_hex(VALIDATOR_SET), "fromBlock": "0x0", "toBlock": "latest"}
        answer = await ask("eth_getLogs", query)
        assert isinstance(answer, list)
        events = [decode_event(decode_log(log)) for log in answer if isinstance(log, dict)]
        return [
            Scheduled(event.activation_block, self._find_node(event.validator), event.is_join)
            for event in events
            if isinstance(event, SetScheduled)
        ]

    async def _read_signers(self, ask: Ask, number: int) -> frozenset[int]:
        """The signers in a node's certificate of a block."""
        proof = await ask("pot_getProof", {}, hex(number))
        assert isinstance(proof, dict)
        certificate = decode_certificate(from_hex(proof["certificate"]))
        digest = compute_signing_digest(
            SigningDomain(DEVELOPMENT_CHAIN_ID, self._network.genesis_hash, CONSENSUS_VERSION),
            MessageKind.COMMIT,
            BlockNumber(number),
            certificate.view,
            keccak256(from_hex(proof["header"])),
        )
        return frozenset(
            self._find_node(recover(digest, signature)) for _, signature in certificate.signatures
        )

    # Faults.

    async def _run_lane(self, lane: tuple[Fault, ...]) -> None:
        for fault in lane:
            await trio.sleep(fault.pause_seconds)
            began = self._now
            self._say(f"{began:7.1f} s  {fault.kind} node {fault.node}")
            try:
                await self._inject(fault)
                ended = self._now
                await self._wait_for_head(fault.node, self._seen.highest + 1)
            except Violation as violation:
                self._violate(f"{fault.kind} node {fault.node}: {violation}")
                return
            recovered = self._now
            self._say(f"{recovered:7.1f} s  node {fault.node} is back after {fault.kind}")
            self._faults.append(
                {
                    "kind": fault.kind.value,
                    "node": fault.node,
                    "began_seconds": round(began, 1),
                    "ended_seconds": round(ended, 1),
                    "recovered_seconds": round(recovered, 1),
                }
            )

    async def _inject(self, fault: Fault) -> None:
        network, node = self._network, fault.node
        match fault.kind:
            case FaultKind.LATE_START:
                await trio.sleep(fault.duration_seconds)
                network.start(node)
            case FaultKind.KILL:
                await self._kill(node)
                await trio.sleep(fault.duration_seconds)
                network.start(node)
            case FaultKind.RESTART:
                network.send(node, signal.SIGTERM)
                if not await network.wait_for_end(node):
                    raise Violation("it did not end after SIGTERM")
                await trio.sleep(fault.duration_seconds)
                network.start(node)
            case FaultKind.PAUSE:
                with network.paused(node):
                    await trio.sleep(fault.duration_seconds)
            case FaultKind.DISCONNECT | FaultKind.SILENCE:
                is_cut = fault.kind is FaultKind.DISCONNECT
                await network.links.set_state(node, LinkState.CUT if is_cut else LinkState.SILENT)
                await trio.sleep(fault.duration_seconds)
                await network.links.set_state(node, LinkState.OPEN)
            case FaultKind.WIPE:
                await self._wipe(fault, keep_guard=False)
            case FaultKind.WIPE_KEEP_GUARD:
                await self._wipe(fault, keep_guard=True)
            case FaultKind.DISK_FULL:
                await self._fill_disk(fault)
            case FaultKind.CLONE:
                await self._clone(fault)

    async def _kill(self, node: int) -> None:
        self._network.send(node, signal.SIGKILL)
        await self._network.wait_for_end(node)

    async def _wipe(self, fault: Fault, *, keep_guard: bool) -> None:
        """Delete all but the key; the node may then sign nothing that it may have signed before."""
        network, node = self._network, fault.node
        own_head = await self._head(node)
        await self._kill(node)
        signed = await self._ask_highest(node) + 1
        await trio.sleep(fault.duration_seconds)
        network.wipe(node, keep_guard=keep_guard)
        others = [
            await self._head(index)
            for index in range(self._manifest.validator_count)
            if index != node and network.is_running(index)
        ]
        known = min(head for head in others if head)
        log = network.log_length(node)
        network.start(node)
        await self._wait_for_head(node, known)
        said = re.search(r"first_signable=(\d+)", network.read_log(node, log))
        first = int(said[1]) if said else 0
        least = own_head + 1 if keep_guard else known + 3
        if first < least:
            raise Violation(f"it would sign from block {first} on, not from {least} on")
        last = first - 1
        self._silences.append(Silence(node, signed + 1, last, "its directory had been lost"))
        await self._wait_for_head(node, first)

    async def _fill_disk(self, fault: Fault) -> None:
        """Fill the disk: the node must sign nothing until it is started with room."""
        network, node = self._network, fault.node
        network.set_disk_full(node)
        # The record being written and the block being decided may still be signed.
        first = await self._ask_highest(node) + 3
        await trio.sleep(fault.duration_seconds)
        await self._wait_until_signing_stopped(node)
        await self._kill(node)
        self._silences.append(Silence(node, first, self._seen.highest, "its disk was full"))
        network.start(node)

    async def _wait_until_signing_stopped(self, node: int) -> None:
        """Wait until the node says that it stopped signing, or has ended."""
        url = self._network.places[node].metrics_url
        async with httpx.AsyncClient() as client:
            with trio.move_on_after(PATIENCE_SECONDS):
                while self._network.is_running(node):
                    with suppress(httpx.HTTPError):  # on its way out
                        text = (await client.get(url)).text
                        if re.search(r"^pot_pbft_signing_stopped 1", text, re.MULTILINE):
                            return
                    await trio.sleep(OBSERVE_SECONDS)
                return
        raise Violation("it does not say that it has stopped signing")

    async def _clone(self, fault: Fault) -> None:
        """Start a second node with the same key, which knows nothing of the first."""
        network = self._network
        network.copy_key(fault.node)
        self._cloned.add(fault.node)
        network.start(network.clone)
        await self._wait_for_head(network.clone, self._seen.highest)
        await trio.sleep(fault.duration_seconds)
        await self._collect_blocks(network.clone)
        network.send(network.clone, signal.SIGTERM)
        await network.wait_for_end(network.clone)

    # Afterwards.

    async def _collect_blocks(self, index: int) -> None:
        """Observe every block of a node and its certificate, from the first to the head."""
        node = self._nodes[index]
        for number in itertools.count():
            try:
                block = await node.insist("eth_getBlockByNumber", hex(number), False)
                if not isinstance(block, dict):
                    break
                self._seen.see_hash(index, number, str(block["hash"]))
                if number > 0:  # genesis has neither builder nor certificate
                    builder = self._find_node(Address(from_hex(block["miner"])))
                    self._seen.proposers[number] = builder
                    signers = await self._read_signers(node.insist, number)
                    self._seen.see_certificate(index, number, signers)
            except NoAnswer as error:
                self._violate(f"node {index} does not tell its block {number}: {error}")
                return
        if number <= self._seen.find_last(index):
            self._violate(f"node {index} has lost its block {number}")

    async def _audit(self) -> None:
        async with trio.open_nursery() as nursery:
            for index in range(self._manifest.node_count):
                nursery.start_soon(self._audit_node, index)
        for text in self._seen.list_forks():
            self._violate(f"fork: {text}")
        for name, history, check in (
            ("register", self._recorder.register, check_register),
            ("set", self._recorder.set, check_set),
        ):
            self._say(f"{len(history)} operations on the {name}")
            for text in await trio.to_thread.run_sync(check, history):
                self._violate(f"{name}: {text}")
        for text in list_broken_silences(self._silences, self._seen):
            self._violate(text)
        await self._audit_sets()
        for author in sorted(self._find_equivocators() - self._cloned):
            self._violate(f"node {author} signed two different votes, and its key was not copied")

    async def _audit_sets(self) -> None:
        """Check that all nodes have one history of sets, and each set decided its own blocks."""
        claims: dict[str, Sets] = {}
        nodes = range(self._manifest.node_count)
        running = [index for index in nodes if self._network.is_running(index)]
        last = min(map(self._seen.find_last, running), default=0)
        for index in running:
            try:
                sets = await self._read_sets(self._nodes[index].insist)
                scheduled = await self._read_scheduled(self._nodes[index].insist)
            except NoAnswer as error:
                self._violate(f"node {index} does not tell the validator sets: {error}")
                continue
            claims[f"node {index}"] = tuple(each for each in sets if each[0] <= last)
            self._sets = compute_sets(self._genesis_set, scheduled, last)
            claims[f"events at node {index}"] = self._sets
        for text in list_disagreements(claims):
            self._violate(f"validator sets differ: {text}")
        for text in list_wrong_deciders(self._seen, self._sets, last):
            self._violate(text)
        for carried in self._changes:
            node = carried.change.node
            if carried.change.kind is ChangeKind.JOIN and not self._seen.find_signed(node):
                self._violate(f"node {node} joined, and signed no block")

    async def _audit_node(self, index: int) -> None:
        if not self._network.is_running(index):
            self._violate(self._network.children[index].describe_end())
            return
        await self._collect_blocks(index)
        try:
            for text in await self._find_lost(index):
                self._violate(f"lost at node {index}: {text}")
        except NoAnswer as error:
            self._violate(f"node {index} does not answer: {error}")

    async def _find_lost(self, index: int) -> list[str]:
        """The acknowledged transactions that a node lacks, or has in another block."""
        node, lost = self._nodes[index], []
        for known in self._recorder.acknowledged:
            receipt = await node.insist("eth_getTransactionReceipt", known.transaction_hash)
            place = (
                (receipt["blockHash"], int(str(receipt["blockNumber"]), 16))
                if isinstance(receipt, dict)
                else None
            )
            if place != (known.block_hash, known.block_number):
                lost.append(f"{known} is in {place}")
        _, *held = await read_words(node, SET, await node.head())
        calls = [call for call in self._recorder.set if call.action[0] == "add"]
        elements = {
            is_open: [int(str(call.action[1])) for call in calls if call.is_open is is_open]
            for is_open in (False, True)
        }
        missing, strange = compare_set(elements[False], elements[True], held)
        return [
            *lost,
            *(f"element {element} is not there" for element in missing),
            *(f"element {element} was not added so often" for element in strange),
        ]

    def _find_equivocators(self) -> set[int]:
        """The nodes whose conflicting votes another node has logged."""
        return {
            self._find_node(Address(bytes.fromhex(author)))
            for index in range(self._manifest.node_count)
            for author in re.findall(
                r"validator equivocates.*?author=(?:0x)?([0-9a-f]{40})",
                self._network.read_log(index),
            )
        }

    def _report(self, recovery_seconds: float) -> dict[str, object]:
        histories = (self._recorder.register, self._recorder.set)
        is_lost = [text for text in self._violations if text.startswith("lost")]
        return {
            "seed": self._manifest.seed,
            "validators": self._manifest.validator_count,
            "nodes": self._manifest.node_count,
            "seconds": round(self._now, 1),
            "faults": self._faults,
            "set_changes": [carried.to_json(self._seen) for carried in self._changes],
            "sets": [
                {"first_block": first, "nodes": sorted(members)} for first, members in self._sets
            ],
            "blocks": self._seen.highest,
            "operations": sum(map(len, histories)),
            "unanswered": sum(call.is_open for calls in histories for call in calls),
            "acknowledged": len(self._recorder.acknowledged),
            "lost": len(is_lost),
            "forks": len(self._seen.list_forks()),
            "longest_stall_seconds": round(self._seen.longest_stall_seconds, 1),
            "recovery_seconds": round(recovery_seconds, 1),
            "equivocators": sorted(self._find_equivocators()),
            "links": self._network.links.name,
            "passed_bytes": self._network.links.count_passed_bytes(),
            "violations": self._violations,
        }


def check_register(history: list[Operation[object]]) -> list[str]:
    """A description of register operations that no order explains."""
    return _explain(partial(linearizability.find_violation, history, linearizability.REGISTER))


def check_set(history: list[Operation[object]]) -> list[str]:
    """A description of set operations that no order explains."""
    return _explain(partial(linearizability.find_violation, history, linearizability.SET))


def _explain(search: Callable[[], tuple[Operation[object], ...] | None]) -> list[str]:
    try:
        found = search()
    except linearizability.Undecided as error:
        return [f"undecided: {error}"]
    return [] if found is None else [f"not linearizable at {found}"]
