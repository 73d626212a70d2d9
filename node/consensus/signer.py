"""The consensus key, and what keeps it from two votes for one place (consensus.md, section 8).

A vote is written to the log and then to the guard, each with an fsync, before it may be sent. The
guard is kept beside the key, so that it outlives a lost data directory: a guard that knows a later
vote than the log shows at the start that votes were lost, and for which numbers.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Protocol

import structlog

from chain.consensus.effects import Persist
from chain.consensus.guard import (
    GuardState,
    build_floor_guard,
    compute_first_signable,
    permits,
)
from chain.consensus.pbft import Sign
from chain.consensus.records import (
    Record,
    compute_latest_intent,
    decode_record,
    encode_record,
)
from chain.primitives import Address, BlockNumber, Hash32, Signature, ValidatorIndex
from node.consensus.wal import WalRecord
from pot_common.errors import StorageError

_log = structlog.get_logger("node.consensus")


class Guard(Protocol):
    """Where the guard is kept: `GuardFile`, or a simulated disk."""

    def load(self) -> GuardState | None:
        """The latest vote; None if there is no guard."""

    def save(self, state: GuardState) -> None:
        """Replace it; durable on return."""


class VoteLog(Protocol):
    """Where the log of votes is kept: `WriteAheadLog`, or a simulated disk."""

    def records(self) -> Sequence[WalRecord]:
        """What is in the log, oldest first."""

    def append(self, number: BlockNumber, payload: bytes) -> None:
        """Add a record; durable on return."""

    def truncate_through(self, number: BlockNumber) -> None:
        """Drop the records of numbers up to `number`."""


class ConsensusSigner:
    """Signs votes with the consensus key, and none that could contradict an earlier one.

    Its methods block, so a caller with an event loop runs those that touch the disk in a thread.
    """

    def __init__(self, address: Address, sign: Sign, guard: Guard, log: VoteLog) -> None:
        """Build it; nothing may be signed before `start`.

        Args:
            address: The validator.
            sign: The key. Nothing else in this process has it.
            guard: The furthest that the key has signed.
            log: What it has signed of the numbers that are not final.
        """
        self.address = address
        self.first_signable: BlockNumber | None = None
        """The lowest number that may be voted on; None: not known yet, or signing has stopped."""
        self.failure: str | None = None
        """Why nothing more is signed before a restart; None: nothing has failed."""
        self._sign = sign
        self._guard = guard
        self._log = log
        self._log_lock = Lock()
        """Sync truncates the log in one thread while consensus may be writing to it in another."""

    # Starting (rule S8).

    def load_guard(self) -> GuardState | None:
        """The latest vote; None: the guard is lost, or this key is new.

        `start` then needs a head that a quorum has proven.

        Raises:
            OperatorError: The guard is damaged or not readable.
        """
        return self._guard.load()

    def start(self, head: BlockNumber, certified_head: BlockNumber) -> BlockNumber:
        """Find out what may have been signed, and so the lowest number that may be voted on.

        Args:
            head: Our own final head.
            certified_head: The highest certified head of a quorum of validators, ours included;
                our own head will do if there is a guard.

        Raises:
            StorageError: The disk refused.
        """
        guard = self._guard.load()
        latest = compute_latest_intent(self._load_records())
        first = compute_first_signable(guard, latest, head, certified_head)
        if guard is None:
            # A crash before the first vote's guard must not look like another loss.
            self._guard.save(build_floor_guard(first))
        elif latest is not None and latest.position > guard.position:
            # A crash came between log and guard. The vote is sent again, so it counts as cast.
            self._guard.save(latest)
        self.first_signable = first
        return first

    def load_records(self, number: BlockNumber) -> list[Record]:
        """The votes on a number that were made durable, oldest first."""
        return [record for record in self._load_records() if record.number == number]

    # Voting.

    def get_index(
        self, number: BlockNumber, validators: Sequence[Address]
    ) -> ValidatorIndex | None:
        """The index under which this key votes on a number; None: it must not, or has none."""
        if self.address not in validators or not self.may_sign(number):
            return None
        return ValidatorIndex(validators.index(self.address))

    def may_sign(self, number: BlockNumber) -> bool:
        """Whether a vote on this number cannot contradict one that is forgotten."""
        return self.first_signable is not None and number >= self.first_signable

    def sign(self, digest: Hash32) -> Signature:
        """The deterministic signature of a vote's or a status message's digest.

        The replica signs a vote before `persist` has seen it, and sends it only after.
        """
        return self._sign(digest)

    def sign_identity(self, digest: Hash32) -> Signature:
        """The proof that this validator has a peer id; its digest is in a domain of its own."""
        return self._sign(digest)

    def persist(self, vote: Persist) -> bool:
        """Make a vote durable; False if it must not be sent, and then nothing more is signed."""
        if not self.may_sign(vote.record.number):
            self._stop(f"nothing may be signed for block {vote.record.number}")
            return False
        guard = self._guard.load()
        if not permits(guard, vote.intent):
            self._stop(f"the signer guard at {guard} refuses {vote.intent}")
            return False
        try:
            with self._log_lock:
                self._log.append(vote.record.number, encode_record(vote.record))
            self._guard.save(vote.intent)
        except StorageError as error:
            self._stop(str(error))
            return False
        return True

    def truncate_log(self, number: BlockNumber) -> None:
        """Drop the votes on numbers up to `number`, which are final.

        A failure stops the signing only: the chain is stored, and the node follows it.
        """
        if self.first_signable is None:
            return  # `start` must see all of the log, and a log that failed stays as it is
        try:
            with self._log_lock:
                self._log.truncate_through(number)
        except StorageError as error:
            self._stop(str(error))

    def _stop(self, reason: str) -> None:
        self.first_signable = None
        self.failure = self.failure or reason
        _log.critical("signing stops", reason=reason)

    def _load_records(self) -> list[Record]:
        return [decode_record(record.payload) for record in self._log.records()]
