"""A network namespace for each node: its own interface and address, and real packet loss.

CUT takes a node's interface down, RPC included. SILENT drops all packets between it and other
nodes, while its clients still reach it. The kernel tells neither end of a connection, which a proxy
cannot imitate. Needs root and iproute2.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from tests.chaos.links import LinkState

PREFIX_BITS: Final = 24
"""The prefix of the subnet that all nodes share."""


class NotAllowedError(Exception):
    """This user may not make network namespaces on this machine."""


class NamespaceLinks:
    """A bridge that connects this process and every node.

    Args:
        node_count: How many nodes.
        base_port: Tells networks on one machine apart; nodes have the same ports on their own
            addresses.
        peer_ports: Where each node listens for the others.
    """

    name = "network namespaces"

    def __init__(self, base_port: int, peer_ports: tuple[int, ...]) -> None:
        self._peer_ports = peer_ports
        self._subnet = f"10.{base_port >> 8}.{base_port & 0xFF}"
        self._bridge = f"pot{base_port}"
        self._spaces = [f"pot{base_port}-{index}" for index in range(len(peer_ports))]
        self._ends = [f"pv{base_port}-{index}" for index in range(len(peer_ports))]
        """This side's ends of the virtual cables."""
        self._changing = trio.Lock()
        self._silent: set[int] = set()
        self._lost: set[tuple[int, int]] = set()
        """Pairs of sender and receiver between which packets are dropped."""

    def host(self, index: int) -> str:
        """The address of a node."""
        return f"{self._subnet}.{index + 1}"

    def dial(self, source: int, target: int) -> tuple[str, int]:
        """Address and port at which one node reaches another."""
        del source
        return self.host(target), self._peer_ports[target]

    def inside(self, index: int) -> tuple[str, ...]:
        """The words before a command that run it in a node's namespace."""
        return _enter(self._spaces[index])

    def program(self, index: int, arguments: Iterable[str]) -> tuple[str, ...]:
        """The module and arguments that start a node inside its namespace."""
        return ("tests.chaos.namespaces", self._spaces[index], *arguments)

    async def create(self, nursery: trio.Nursery) -> None:
        """Make bridge, namespaces and cables.

        Raises:
            NotAllowedError: This user may not make network namespaces.
        """
        del nursery
        await self.close()  # leftovers of a run that was killed
        lines = [
            f"link add {self._bridge} type bridge",
            f"address add {self._subnet}.254/{PREFIX_BITS} dev {self._bridge}",
            f"link set {self._bridge} up",
        ]
        for space, end in zip(self._spaces, self._ends, strict=True):
            lines += [
                f"netns add {space}",
                f"link add {end} type veth peer name eth0 netns {space}",
                f"link set {end} master {self._bridge} up",
            ]
        try:
            await _run_ip(lines)
            for index, space in enumerate(self._spaces):
                inside = [
                    "link set lo up",
                    f"address add {self.host(index)}/{PREFIX_BITS} dev eth0",
                    "link set eth0 up",
                ]
                await _run_ip(inside, space)
        except (OSError, subprocess.CalledProcessError) as error:
            await self.close()
            raise NotAllowedError(str(error)) from error

    async def set_state(self, index: int, state: LinkState) -> None:
        """Change the state of a node's connections."""
        async with self._changing:
            await self._set_state(index, state)

    def count_passed_bytes(self) -> int:
        """The bytes that all nodes have sent, also to this process."""
        counters = [Path(f"/sys/class/net/{end}/statistics/rx_bytes") for end in self._ends]
        return sum(int(counter.read_text()) for counter in counters)

    async def close(self) -> None:
        """Remove everything; missing parts are no error."""
        for space in self._spaces:
            await _run_ip([f"netns delete {space}"], is_checked=False)
        for end in (*self._ends, self._bridge):
            await _run_ip([f"link delete {end}"], is_checked=False)

    async def _set_state(self, index: int, state: LinkState) -> None:
        is_up = state is not LinkState.CUT
        await _run_ip([f"link set eth0 {'up' if is_up else 'down'}"], self._spaces[index])
        if state is LinkState.SILENT:
            self._silent.add(index)
        else:
            self._silent.discard(index)
        nodes = range(len(self._spaces))
        lost = {
            (source, target)
            for source in nodes
            for target in nodes
            if source != target and {source, target} & self._silent
        }
        for source, space in enumerate(self._spaces):
            lines = [
                f"route {'add' if (source, target) in lost else 'delete'} blackhole "
                f"{self.host(target)}/32"
                for target in nodes
                if (source, target) in lost ^ self._lost
            ]
            if lines:
                await _run_ip(lines, space)
        self._lost = lost


def _enter(space: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", space)


async def _run_ip(lines: list[str], space: str | None = None, *, is_checked: bool = True) -> None:
    where = () if space is None else ("-netns", space)
    try:
        await trio.run_process(
            ["ip", *where, "-batch", "-"],
            stdin="\n".join(lines).encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=is_checked,
        )
    except OSError:
        if is_checked:
            raise


def main() -> None:
    """Run `python -m` with the remaining arguments in the namespace named by the first."""
    space, *arguments = sys.argv[1:]
    program = [*_enter(space), sys.executable, "-m", *arguments]
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
