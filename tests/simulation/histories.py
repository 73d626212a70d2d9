"""Networks that begin in the middle of number 1: scattered views, and locks of every kind.

All of these states are reachable. The holder of a lone certificate was the only one to get the
PREPAREs of a quorum; a later block was proposed on a quorum of VIEW-CHANGEs without that holder.
"""

from chain.consensus.messages import (
    MessageKind,
    NewView,
    PreparedCertificate,
    PrePrepare,
    Proposal,
    QuorumSignatures,
    ViewChangeVote,
    Vote,
    compute_signing_digest,
    compute_view_change_payload,
)
from chain.consensus.records import (
    CommitRecord,
    PrepareRecord,
    Record,
    ViewChangeRecord,
    compute_latest_intent,
)
from chain.primitives import BlockNumber, Hash32, Signature, ValidatorIndex, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from tests.simulation.cluster import Cluster, Node
from tests.simulation.executions import GENESIS_SECONDS

ONE = BlockNumber(1)


class History:
    """The past of number 1, written to the disks of a cluster before its start."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._records: dict[int, list[Record]] = {index: [] for index in range(cluster.n)}
        self._locks: dict[int, PreparedCertificate] = {}

    def propose(
        self, view: int, changers: list[int], preparers: list[int], lockers: list[int]
    ) -> Block:
        """Propose a new block in `view`, with its VIEW-CHANGEs, PREPAREs and locks."""
        cluster = self._cluster
        primary = view % cluster.n
        for index in changers if view else ():
            self.change_view(index, view)
        node = next((each for each in cluster.nodes if each.slot == primary), cluster.nodes[0])
        block = cluster.executions.build(
            node.name,
            (),
            cluster.validators[primary],
            GENESIS_SECONDS,
            # Two blocks of the same primary differ in this.
            with_transfer=bool(self._locks),
        )
        pre_prepare = PrePrepare(self._vote(MessageKind.PRE_PREPARE, primary, view, block), block)
        proposal: Proposal = pre_prepare
        if view:
            votes = tuple(self._change(index, view, None).vote for index in sorted(changers))
            proposal = NewView(pre_prepare, votes, ())
        for index in preparers:
            vote = self._vote(MessageKind.PREPARE, index, view, block)
            self._records[index].append(PrepareRecord(proposal, vote))
        prepares = self._quorum_of(MessageKind.PREPARE, preparers, view, block)
        for index in lockers:
            commit = self._vote(MessageKind.COMMIT, index, view, block)
            self._records[index].append(CommitRecord(commit, prepares))
            self._locks[index] = PreparedCertificate(View(view), block, prepares)
        return block

    def finalize(self, block: Block, view: int, committers: list[int], index: int) -> None:
        """Let validator `index` have these COMMITs and store the block."""
        signatures = self._quorum_of(MessageKind.COMMIT, committers, view, block)
        for node in self._nodes(index):
            node.disk.chain.append((block, CommitCertificate(View(view), signatures)))

    def change_view(self, index: int, view: int) -> None:
        """Let validator `index` be in `view`."""
        record = self._change(index, view, self._locks.get(index))
        self._records[index].append(record)

    def write(self) -> None:
        """Write the history to the disks."""
        for index, records in self._records.items():
            for node in self._nodes(index):
                if not records:
                    continue
                for record in records:
                    node.disk.append(record)
                    self._tell(node, record)
                node.disk.guard = compute_latest_intent(records)

    def _tell(self, node: Node, record: Record) -> None:
        checkers = self._cluster.checkers
        match record:
            case PrepareRecord(proposal, prepare):
                core = proposal if isinstance(proposal, PrePrepare) else proposal.pre_prepare
                votes: list[Vote | ViewChangeVote] = [prepare]
                if core.vote.author == node.slot:
                    votes.append(core.vote)
            case CommitRecord(commit, _):
                votes = [commit]
            case ViewChangeRecord(vote):
                votes = [vote]
        for vote in votes if not node.is_byzantine else ():
            checkers.on_voted(vote)

    def _nodes(self, index: int) -> list[Node]:
        return [node for node in self._cluster.nodes if node.slot == index]

    def _change(
        self, index: int, view: int, certificate: PreparedCertificate | None
    ) -> ViewChangeRecord:
        prepared = None if certificate is None else (certificate.view, certificate.block.hash)
        payload = compute_view_change_payload(prepared)
        signature = self._sign(MessageKind.VIEW_CHANGE, index, view, payload)
        return ViewChangeRecord(
            ViewChangeVote(ONE, View(view), prepared, ValidatorIndex(index), signature)
        )

    def _vote(self, kind: MessageKind, index: int, view: int, block: Block) -> Vote:
        signature = self._sign(kind, index, view, block.hash)
        return Vote(kind, ONE, View(view), block.hash, ValidatorIndex(index), signature)

    def _quorum_of(
        self, kind: MessageKind, authors: list[int], view: int, block: Block
    ) -> QuorumSignatures:
        return tuple(
            (ValidatorIndex(index), self._sign(kind, index, view, block.hash))
            for index in sorted(authors)
        )

    def _sign(self, kind: MessageKind, index: int, view: int, payload: Hash32) -> Signature:
        digest = compute_signing_digest(self._cluster.domain, kind, ONE, View(view), payload)
        return self._cluster.keys.signer(index)(digest)


def scatter(cluster: Cluster) -> None:
    """Put each validator into its view of the world; there was no block yet."""
    history = History(cluster)
    for index, view in enumerate(cluster.world.views):
        if view:
            history.change_view(index, view)
    history.write()


def scatter_with_locks(cluster: Cluster) -> None:
    """Make a lone lock, then perhaps another block that more locked and one may have stored."""
    random, n = cluster.random, cluster.n
    quorum = -(-2 * n // 3)
    history = History(cluster)
    order = random.sample(range(n), n)
    lone = order[: random.randint(1, n - quorum)]
    others = order[n - quorum :]
    low = random.randrange(4)
    # Only the lone holders got a quorum of PREPAREs; the others sent some of these.
    first = [*lone, low % n, *others]
    preparers = list(dict.fromkeys(first))[:quorum]
    changers = list(dict.fromkeys([low % n, *random.sample(range(n), n)]))[:quorum]
    for index in preparers:
        if low and index not in changers:
            history.change_view(index, low)
    history.propose(low, changers, preparers, lone)
    high = low
    if random.random() < 0.8:
        high += random.randint(1, 6)
        while high % n not in others:
            high += 1
        lockers = random.sample(others, random.randint(1, quorum))
        block = history.propose(high, others, others, lockers)
        if len(lockers) == quorum and random.random() < 0.7:
            history.finalize(block, high, lockers, random.choice(lockers))
    top = high + random.choice((1, 3, 12, 40))
    for index in range(n):
        if random.random() < 0.8:
            history.change_view(index, random.randint(high + 1, top))
    history.write()
