"""The operators' commands on the validator set, with `pot validator`, under faults of the nodes.

A command goes to one node after another until a node's state shows its effect, because a lost
answer does not mean that the command was lost.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.primitives import Address
from node.client.rpc_client import get_integer, get_objects
from tests.chaos.manifest import ChangeKind, SetChange
from tests.chaos.network import Network

COMMAND_SECONDS: Final = 30.0
"""The time limit of a command; the node may be paused, so the next one is asked."""

TURN_SECONDS: Final = 0.5
"""The pause before the next node is asked."""


class Operators:
    """The operators of all validators and of the spare.

    Args:
        network: The nodes.
        node_count: How many nodes take commands.
    """

    def __init__(self, network: Network, node_count: int) -> None:
        self._network = network
        self._node_count = node_count
        self._node = 0
        """The node that is asked."""
        self._floor = 0
        """The highest known head; a node below it shows too old a state."""

    async def carry_out(self, change: SetChange, seen_block: int) -> None:
        """Ask for a change and vote for it; ignore nodes whose head is below `seen_block`."""
        self._floor = max(self._floor, seen_block)
        address = self._network.validators[change.node]
        if change.kind is ChangeKind.LEAVE:
            await self._insist(partial(is_going, validator=address), change.node, "leave")
            return
        is_join = change.kind is ChangeKind.JOIN
        # The proposer of a removal votes for it by proposing.
        proposer = change.node if is_join else change.voters[0]
        voters = change.voters if is_join else change.voters[1:]
        action: tuple[str, ...] = ("propose", "remove", to_hex(address))
        if is_join:
            consensus_key = str(self._network.places[proposer].consensus_file)
            password_file = str(self._network.password_file)
            action = (
                *("propose", "join", to_hex(address), "--consensus-key", consensus_key),
                *("--consensus-password-file", password_file),
            )
        is_done = partial(is_proposed, validator=address)
        status = await self._insist(is_done, proposer, *action)
        proposal = find_proposal(status, address)
        assert proposal is not None
        number = str(get_integer(proposal, "id"))
        for votes, voter in enumerate(voters, 1 if is_join else 2):
            is_done = partial(has_votes, validator=address, votes=votes)
            await self._insist(is_done, voter, "vote", number)

    async def _insist(
        self, is_done: Callable[[JsonObject], bool], operator: int, *command: str
    ) -> JsonObject:
        """Repeat a command until a node's state shows its effect; return that state."""
        key = self._network.places[operator].operator_file
        options = ("--key", str(key), "--password-file", str(self._network.password_file))
        while True:
            status = await self._call("status")
            if status is not None and get_integer(status, "head") >= self._floor:
                self._floor = get_integer(status, "head")
                if is_done(status):
                    return status
                if await self._call(*command, *options) is not None:
                    continue  # the same node shows its effect
            self._node = (self._node + 1) % self._node_count
            await trio.sleep(TURN_SECONDS)

    async def _call(self, *arguments: str) -> JsonObject | None:
        """The answer of `pot validator`; None if it fails."""
        rpc = ("--rpc", self._network.places[self._node].rpc_url, "--json")
        program = [sys.executable, "-m", "node.cli", "validator", *arguments, *rpc]
        with trio.move_on_after(COMMAND_SECONDS):
            ended = await trio.run_process(
                program, capture_stdout=True, stderr=subprocess.DEVNULL, check=False
            )
            if ended.returncode == 0:
                answer = json.loads(ended.stdout)
                assert isinstance(answer, dict)
                return answer
        return None


def find_proposal(status: JsonObject, validator: Address) -> JsonObject | None:
    """The open proposal that is about a validator."""
    proposals = get_objects(status, "proposals")
    return next((each for each in proposals if each["validator"] == to_hex(validator)), None)


def is_proposed(status: JsonObject, validator: Address) -> bool:
    """Whether members can vote on the validator."""
    return find_proposal(status, validator) is not None


def has_votes(status: JsonObject, validator: Address, votes: int) -> bool:
    """Whether a proposal about the validator has this many votes, or is closed."""
    proposal = find_proposal(status, validator)
    return proposal is None or get_integer(proposal, "votes") >= votes


def is_going(status: JsonObject, validator: Address) -> bool:
    """Whether the validator has left the set or is leaving it."""
    members = {row["validator"]: row["status"] for row in get_objects(status, "validators")}
    return members.get(to_hex(validator)) != "active"
