"""Dials the peers that the peer table names, a few at a time (docs/spec/wire.md, section 3)."""

from typing import Final

import structlog
import trio

from chain.errors import RejectedInputError
from node.network.metrics import NetworkMetrics
from node.network.peers import PeerTable
from node.network.protocols import status
from node.network.sessions import Sessions
from node.network.stream import Host, PeerId, StreamClosedError, UnreachablePeerError

DIAL_TICK_SECONDS: Final = 0.2
"""How often the peer table is asked which peers are due."""

CONCURRENT_DIALS_LIMIT: Final = 8
"""Dials at a time to proven addresses, and as many to unproven ones: false addresses then delay
only one another. A handshake takes 25 ms of processor time.
"""

SETTLED_SESSIONS: Final = 16
"""From this number of sessions on, a node no longer dials learned addresses."""

_log = structlog.get_logger("node.network")


class Dialler:
    """Opens sessions with peers that have none."""

    def __init__(
        self,
        *,
        host: Host,
        table: PeerTable,
        sessions: Sessions,
        is_validator: bool,
        metrics: NetworkMetrics,
    ) -> None:
        self._host = host
        self._table = table
        self._sessions = sessions
        self._is_validator = is_validator
        self._metrics = metrics
        self._dialling: set[PeerId] = set()
        """Peers with a dial under way, or with a session that began with our dial."""

    async def run(self) -> None:
        """Dial until cancelled."""
        proven = trio.CapacityLimiter(CONCURRENT_DIALS_LIMIT)
        unproven = trio.CapacityLimiter(CONCURRENT_DIALS_LIMIT)
        async with trio.open_nursery() as nursery:
            while True:
                busy = self._dialling.union(self._sessions.peer_ids())
                now = trio.current_time()
                due = self._table.due(now, busy, only_persistent=self._is_settled())
                for peer_id, address in due:
                    self._dialling.add(peer_id)
                    limiter = proven if self._table.is_proven(address) else unproven
                    nursery.start_soon(self._dial, peer_id, address, limiter)
                await trio.sleep(DIAL_TICK_SECONDS)

    def _is_settled(self) -> bool:
        """Whether only the operator's addresses are still dialled.

        A non-validator stops at SETTLED_SESSIONS, to leave the sessions of other nodes to those
        that need them. A validator goes on while another validator is missing.
        """
        if len(self._sessions.peer_ids()) < SETTLED_SESSIONS:
            return False
        return not self._is_validator or self._sessions.has_all_validators()

    async def _dial(self, peer_id: PeerId, address: str, limiter: trio.CapacityLimiter) -> None:
        try:
            async with limiter:
                self._metrics.dials += 1
                await self._host.dial(peer_id, address)
                self._table.dial_succeeded(address)
                stream = await self._host.open_stream(peer_id, status.PROTOCOL_ID)
        except UnreachablePeerError as error:
            self._metrics.dial_failures += 1
            self._table.dial_failed(address)
            self._dialling.discard(peer_id)
            _log.debug("dial failed", address=address, error=str(error))
            return
        try:
            await self._sessions.run(stream, is_inbound=False)
        except (StreamClosedError, RejectedInputError) as error:
            self._sessions.report_fault(peer_id, error)
        except Exception:  # noqa: BLE001 - a bug of ours ends this session only
            _log.exception("session failed", peer_id=peer_id)
        finally:
            self._dialling.discard(peer_id)
            with trio.CancelScope(shield=True):
                await stream.reset()
