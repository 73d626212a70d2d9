"""The signer: it holds the consensus key and prevents conflicting votes.

The rules are in docs/spec/consensus.md, section 8. Before a vote is sent, it is written to the
write-ahead log and then to the guard, with an fsync each. The guard is stored beside the key, so it
survives the loss of the data directory. If the guard knows a later vote than the log, votes were
lost; the signer then signs nothing for the numbers concerned.
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
    """The storage of the guard: `GuardFile`, or a simulated disk in tests."""

    def load(self) -> GuardState | None:
        """The latest vote; None if there is no guard."""

    def save(self, state: GuardState) -> None:
        """Replace the latest vote, durably."""


class VoteLog(Protocol):
    """The storage of the log of votes: `WriteAheadLog`, or a simulated disk in tests."""

    def records(self) -> Sequence[WalRecord]:
        """The records in the log, oldest first."""

    def append(self, number: BlockNumber, payload: bytes) -> None:
        """Append a record, durably."""

    def truncate_through(self, number: BlockNumber) -> None:
        """Delete the records of block numbers up to `number`."""


class ConsensusSigner:
    """Signs votes with the consensus key, but never a vote that conflicts with an earlier one.

    Methods that use the disk block, so a caller with an event loop must run them in a thread.
    """

    def __init__(self, address: Address, sign: Sign, guard: Guard, log: VoteLog) -> None:
        """Create it; nothing may be signed before `start`.

        Args:
            address: The validator's address.
            sign: Signs a digest with the key. No other object in this process has the key.
            guard: The latest vote of the key.
            log: The votes on block numbers that are not final.
        """
        self.address = address
        self.first_signable: BlockNumber | None = None
        """The lowest number that may be voted on. None before `start` or after signing stopped."""
        self.failure: str | None = None
        """The reason why nothing is signed until a restart; None if nothing has failed."""
        self._sign = sign
        self._guard = guard
        self._log = log
        self._log_lock = Lock()
        """Block sync may truncate the log in one thread while consensus writes to it in another."""

    # Starting (rule S8).

    def load_guard(self) -> GuardState | None:
        """The latest vote; None if the guard was lost or this key is new.

        Without a guard, `start` needs a head that a quorum of validators has proven.

        Raises:
            OperatorError: The guard is damaged or not readable.
        """
        return self._guard.load()

    def start(self, head: BlockNumber, certified_head: BlockNumber) -> BlockNumber:
        """Determine and return the lowest number that may be voted on (rule S8).

        Args:
            head: Our own final head.
            certified_head: The highest certified head of a quorum of validators, ours included. If
                there is a guard, our own head is enough.

        Raises:
            StorageError: The disk refused.
        """
        guard = self._guard.load()
        latest = compute_latest_intent(self._load_records())
        first = compute_first_signable(guard, latest, head, certified_head)
        if guard is None:
            # From now on there is a guard, so a crash before the first vote does not look like a
            # loss.
            self._guard.save(build_floor_guard(first))
        elif latest is not None and latest.position > guard.position:
            # A crash came between log and guard. The vote will be sent, so the guard must know it.
            self._guard.save(latest)
        self.first_signable = first
        return first

    def load_records(self, number: BlockNumber) -> list[Record]:
        """The logged votes on a block number, oldest first."""
        return [record for record in self._load_records() if record.number == number]

    # Voting.

    def get_index(
        self, number: BlockNumber, validators: Sequence[Address]
    ) -> ValidatorIndex | None:
        """The validator index for votes on a number; None if this key must not vote on it."""
        if self.address not in validators or not self.may_sign(number):
            return None
        return ValidatorIndex(validators.index(self.address))

    def may_sign(self, number: BlockNumber) -> bool:
        """Whether this key may vote on a number: no vote on it can have been lost."""
        return self.first_signable is not None and number >= self.first_signable

    def sign(self, digest: Hash32) -> Signature:
        """The deterministic signature of the digest of a vote or STATUS message.

        The replica signs a vote first, and sends it only after `persist` has returned true.
        """
        return self._sign(digest)

    def sign_identity(self, digest: Hash32) -> Signature:
        """The signature that proves a peer id of this validator; its digest cannot be a vote's."""
        return self._sign(digest)

    def persist(self, vote: Persist) -> bool:
        """Make a vote durable. If this returns False, the vote must not be sent; signing stops."""
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
        """Delete the votes on numbers up to `number`, which are final.

        A failure stops only the signing. The block is stored, so the node can continue to follow.
        """
        if self.first_signable is None:
            return  # before `start` the whole log is needed, and a failed log must not be touched
        try:
            with self._log_lock:
                self._log.truncate_through(number)
        except StorageError as error:
            self._stop(str(error))

    def _stop(self, reason: str) -> None:
        self.first_signable = None
        self.failure = self.failure or reason
        _log.critical("this validator stops signing", reason=reason)

    def _load_records(self) -> list[Record]:
        return [decode_record(record.payload) for record in self._log.records()]
