"""Finds what is wrong with a node or its chain, and the cure (docs/operator-guide.md, section 11).

This is a pure function of what a node observes. `pot_consensusState`, `pot doctor`, the log and the
metrics all report its findings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, assert_never

from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber
from chain.types.validator_set import compute_max_faulty

CLOCK_TOLERANCE_SECONDS: Final = 1.5
"""A larger clock offset is reported. Offsets are known to half a second, and a proposal that is a
second ahead of a clock is still accepted."""

GRACE_SECONDS: Final = 10.0
"""Shorter absences are not reported: connections break and return within seconds, and after a
start there are none yet."""

SILENT_BLOCKS: Final = 20
"""A validator that did not vote for more blocks than this is reported, even if the chain goes
on."""

BEHIND_BLOCKS: Final = 2
"""A smaller lag is not reported; one block is normal while votes are on their way."""

DISK_CRITICAL_BYTES: Final = 2**30
"""With less free space, writing may fail soon: a full block and its state take some megabytes, and
a blob some tens of megabytes."""

DISK_LOW_BYTES: Final = 5 * 2**30
"""With less free space there is a warning, early enough to free some."""


class Severity(StrEnum):
    """The severity of a finding."""

    WARNING = "warning"
    """Everything works, but will stop working unless the operator acts."""
    CRITICAL = "critical"
    """The chain, or this node's part in it, has stopped."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    code: str
    """A fixed name, for programs."""
    severity: Severity
    text: str
    """The finding in a sentence."""
    cure: str
    """What to do."""

    def to_json(self) -> dict[str, str]:
        """The finding as RPC and `--json` show it."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "text": self.text,
            "cure": self.cure,
        }


class Step(StrEnum):
    """The step of consensus that the replica waits for."""

    HEADS = "the heads of a quorum of validators"
    PROPOSAL = "a proposal"
    OWN_PROPOSAL = "this node's own proposal"
    VERDICT = "its own check of the proposal"
    HELD = "the time of the proposal"
    REFUSED = "another proposal: the one it has is invalid here"
    TOO_OLD = "another proposal: the time of the one it has is too old"
    PREPARES = "PREPAREs"
    COMMITS = "COMMITs"
    VIEW_CHANGES = "VIEW-CHANGEs"
    NEW_VIEW = "a NEW-VIEW"
    BLOCK = "the block that was committed"
    CERTIFICATE = "blocks with their certificates"
    """A follower waits only for certificates."""
    STORED = "the disk"


@dataclass(frozen=True, slots=True)
class ValidatorStatus:
    """One validator, as this node sees it."""

    address: Address
    operator: Address
    name: str | None = None
    """The name that this node's operator gave it."""
    is_self: bool = False
    is_connected: bool = True
    absent_seconds: float | None = None
    """Seconds since its session ended; None if it is connected, or never was since the start."""
    silent_seconds: float | None = None
    """Seconds since its last consensus message; None if there was none since the start."""
    voted_number: BlockNumber | None = None
    """The last block that it voted on; None if it has not voted since the start."""
    clock_offset_seconds: float | None = None
    """Its clock minus ours, exact to half a second; None if it is not known."""

    @property
    def is_away(self) -> bool:
        """Whether it is not connected, and has not been for longer than a moment."""
        absent = self.absent_seconds
        return not self.is_connected and (absent is None or absent > GRACE_SECONDS)

    @property
    def label(self) -> str:
        """The address, after the name if it has one."""
        address = to_hex(self.address)
        return f"{self.name} ({address})" if self.name else address


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """Everything that a diagnosis is made from, at one moment."""

    number: BlockNumber
    """The block number that is being decided."""
    view: int
    step: Step
    validators: tuple[ValidatorStatus, ...]
    """The validators of that number, by index."""
    quorum: int
    primary: Address | None = None
    """The primary of the view; None before the replica has started."""
    answered: frozenset[Address] = field(default_factory=frozenset)
    """The validators that sent what `step` waits for, if it waits for several."""
    head_age_seconds: float = 0.0
    """Seconds since the head became final."""
    due_seconds: float = 30.0
    """Seconds within which a block should come, even if one primary is down."""
    best_known: int = 0
    """The highest block that this node or its peers have."""
    peer_count: int = 1
    uptime_seconds: float = 3_600.0
    is_validator: bool = True
    """Whether this node has a validator's key."""
    first_signable: BlockNumber | None = None
    """The lowest number that it may sign; None if it may sign none."""
    signing_failure: str | None = None
    """The reason why it signs nothing more; None if nothing failed."""
    held_seconds: float | None = None
    """Seconds by which the proposal's time is ahead of our clock, if `step` is HELD."""
    late_seconds: float | None = None
    """Seconds by which the proposal's time was behind our clock when it came, if `step` is TOO_OLD.
    """
    disk_free_bytes: int = 2**40
    free_gas_seconds: float = 0.0
    """For how long the transactions that pay nothing would fill the ration of free gas."""
    suggested_price_wei: int = 0
    """What a transaction has to offer for a unit of gas so as not to wait; 0 if nothing."""

    @property
    def overdue_seconds(self) -> float:
        """Seconds since the next block should have been final; 0 if it is not overdue."""
        return max(0.0, min(self.head_age_seconds, self.uptime_seconds) - self.due_seconds)

    @property
    def is_overdue(self) -> bool:
        """Whether the next block should have been final by now."""
        return self.overdue_seconds > 0

    @property
    def head(self) -> int:
        """The number of the last final block."""
        return self.number - 1

    @property
    def is_behind(self) -> bool:
        """Whether peers have blocks that this node lacks."""
        return self.best_known >= self.head + BEHIND_BLOCKS


def diagnose(health: NodeHealth) -> tuple[Finding, ...]:
    """The findings, the most severe and likely cause first; empty if nothing is wrong."""
    found = [
        *_check_disk(health),
        *_check_signing(health),
        *_check_clocks(health),
        *_check_peers(health),
        *_check_progress(health),
        *_check_silent(health),
        *_check_free_gas(health),
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity is Severity.WARNING))


def describe(health: NodeHealth) -> str:
    """The progress of consensus, in a sentence."""
    return (
        f"Block {health.number}, view {health.view}: waiting for "
        f"{_describe_step(health)}; block {health.head} became final "
        f"{_span(health.head_age_seconds)} ago."
    )


# One function for each cause.


def _check_disk(health: NodeHealth) -> Iterable[Finding]:
    free = health.disk_free_bytes
    if free < DISK_LOW_BYTES:
        is_critical = free < DISK_CRITICAL_BYTES
        yield Finding(
            "disk_full" if is_critical else "disk_low",
            Severity.CRITICAL if is_critical else Severity.WARNING,
            f"The disk of data_dir has {free / 2**30:.1f} GiB left; a validator whose disk is full "
            "stops signing.",
            "Free space there (blobs of closed tasks, while the node is stopped), or move data_dir "
            "to a larger disk.",
        )


def _check_signing(health: NodeHealth) -> Iterable[Finding]:
    if not health.is_validator:
        return
    if health.signing_failure is not None:
        yield Finding(
            "signing_stopped",
            Severity.CRITICAL,
            f"This validator signs nothing more: {health.signing_failure}.",
            "Free or repair the disk, then restart the node; it follows the chain meanwhile.",
        )
    elif health.step is Step.HEADS:
        missing = _missing(health)
        known = len(health.answered)
        yield Finding(
            "waiting_for_heads",
            Severity.CRITICAL,
            f"This validator has no signer guard and asks for validators' heads before it signs: "
            f"{known} of the {health.quorum} it needs are known; missing: "
            f"{_list(health, missing)}.",
            "It goes on by itself once they answer. " + _cure_of_absent(missing),
        )
    elif health.first_signable is not None and health.first_signable > health.number:
        yield Finding(
            "guard_ahead",
            Severity.CRITICAL,
            f"This validator signs nothing before block {health.first_signable}: its guard or "
            f"its write-ahead log was lost, and it may have voted on blocks up to "
            f"{health.first_signable - 1}; the head is {health.head}.",
            "It goes on by itself when the others have made these blocks. Never restore an old "
            "guard file. If more than a third of the validators are like this one, the chain waits "
            "for those that still have their guard and log.",
        )


def _check_clocks(health: NodeHealth) -> Iterable[Finding]:
    offsets = {
        validator.address: validator.clock_offset_seconds
        for validator in health.validators
        if validator.clock_offset_seconds is not None and not validator.is_self
    }
    wrong = {
        address: offset
        for address, offset in offsets.items()
        if abs(offset) > CLOCK_TOLERANCE_SECONDS
    }
    if not wrong:
        return
    middle = sorted(offsets.values())[(len(offsets) - 1) // 2]
    max_faulty = compute_max_faulty(len(health.validators))
    if abs(middle) > CLOCK_TOLERANCE_SECONDS and len(wrong) > max_faulty:
        yield Finding(
            "clock_wrong",
            Severity.CRITICAL,
            f"This machine's clock is about {_span(abs(middle))} "
            f"{'behind' if middle > 0 else 'ahead of'} the clocks of {len(wrong)} of "
            f"{len(offsets)} validators: proposals are "
            f"{'held until their time has come' if middle > 0 else 'refused as too old'}.",
            "Set the clock and keep it set: `timedatectl set-ntp true`, or chrony.",
        )
        return
    for validator in health.validators:
        offset = wrong.get(validator.address)
        if offset is not None:
            yield Finding(
                "clock_of_validator",
                Severity.WARNING,
                f"The clock of {validator.label} is about {_span(abs(offset))} "
                f"{'ahead of' if offset > 0 else 'behind'} this machine's.",
                f"Tell its operator (account {to_hex(validator.operator)}) to set it by NTP, and "
                "see that yours is.",
            )


def _check_peers(health: NodeHealth) -> Iterable[Finding]:
    others = [validator for validator in health.validators if not validator.is_self]
    if not others or health.uptime_seconds < GRACE_SECONDS:
        return
    if health.peer_count == 0:
        yield Finding(
            "no_peers",
            Severity.CRITICAL,
            "This node has no peers: it hears of no block.",
            "Check network.bootstrap, the firewall of the port in network.listen, and that the "
            "others run the same genesis.",
        )
        return
    missing = [validator for validator in others if validator.is_away]
    reachable = len(others) - len(missing) + health.is_validator
    if health.is_validator and reachable < health.quorum:
        yield Finding(
            "no_quorum",
            Severity.CRITICAL,
            f"Only {reachable} of {len(health.validators)} validators can talk to one another "
            f"here, this one included, and {health.quorum} are needed to make a block; not "
            f"connected: {_list(health, missing)}.",
            _cure_of_absent(missing),
        )


def _check_progress(health: NodeHealth) -> Iterable[Finding]:
    if health.is_behind:
        yield Finding(
            "behind",
            Severity.WARNING,
            f"This node is {health.best_known - health.head} blocks behind its peers "
            f"(block {health.head} of {health.best_known}) and fetches them; it votes again "
            "when it has them.",
            "Wait. If the distance does not shrink, see the log for refused peers, and whether the "
            "disk or the processor is too slow.",
        )
    elif health.is_overdue:
        yield _explain_stuck(health)


def _check_silent(health: NodeHealth) -> Iterable[Finding]:
    """Validators that do not vote although the chain goes on. With one more the chain may stop."""
    if health.is_overdue or health.is_behind or not health.is_validator:
        return
    for validator in health.validators:
        if validator.is_self:
            continue
        last = validator.voted_number or 0
        if health.uptime_seconds < max(GRACE_SECONDS, health.due_seconds):
            continue
        if validator.is_away or health.number - last > SILENT_BLOCKS:
            yield Finding(
                "validator_silent",
                Severity.WARNING,
                f"{validator.label} does not take part: {_describe_absence(validator)}.",
                _cure_of_absent([validator]),
            )


def _check_free_gas(health: NodeHealth) -> Iterable[Finding]:
    # Without a ration, none can be exhausted.
    if health.suggested_price_wei and health.free_gas_seconds:
        yield Finding(
            "free_gas_exhausted",
            Severity.WARNING,
            "Too many transactions that pay nothing wait: they ask for the free gas of "
            f"{_span(health.free_gas_seconds)}.",
            f"A sender that cannot wait offers {health.suggested_price_wei} wei for a unit of gas "
            "(--gas-price). If such transactions are wanted, the validators agree on a larger "
            "mempool.free_gas_per_second, which costs disk (docs/prices.md).",
        )


# Sentences.


def _explain_stuck(health: NodeHealth) -> Finding:
    missing = _missing(health)
    names = f"; missing: {_list(health, missing)}" if missing else ""
    return Finding(
        "stuck",
        Severity.CRITICAL,
        f"No block for {_span(health.head_age_seconds)}: block {health.number} in view "
        f"{health.view} waits for {_describe_step(health)}{names}.",
        _cure_of_step(health, missing),
    )


def _describe_step(health: NodeHealth) -> str:
    step = health.step
    match step:
        case Step.PREPARES | Step.COMMITS | Step.VIEW_CHANGES:
            suffix = f" for view {health.view} or later" if step is Step.VIEW_CHANGES else ""
            return f"{step.value}{suffix} ({len(health.answered)} of the {health.quorum} needed)"
        case Step.PROPOSAL | Step.NEW_VIEW:
            return f"{step.value} of its primary {_label(health, health.primary)}"
        case Step.HELD if health.held_seconds is not None:
            return (
                f"the time of a proposal by {_label(health, health.primary)}, which is "
                f"{_span(health.held_seconds)} ahead of this machine's clock"
            )
        case Step.TOO_OLD if health.late_seconds is not None:
            return (
                f"{step.value}, which {_label(health, health.primary)} sent; it was "
                f"{_span(health.late_seconds)} behind this machine's clock when it came"
            )
        case _:
            return step.value


def _cure_of_step(health: NodeHealth, missing: Sequence[ValidatorStatus]) -> str:
    match health.step:
        case Step.PREPARES | Step.COMMITS | Step.VIEW_CHANGES | Step.HEADS:
            needed = health.quorum - len(health.answered)
            return f"{needed} of them must vote. " + _cure_of_absent(missing)
        case Step.PROPOSAL | Step.NEW_VIEW:
            return (
                "The validators replace a primary that is down by themselves, in as many timeouts; "
                "if they do not, fewer than a quorum run: see which are connected."
            )
        case Step.HELD:
            return "Set this machine's clock by NTP, or tell the primary's operator to."
        case Step.TOO_OLD:
            return (
                "The next primary proposes by itself. If this comes again, a clock is wrong: set "
                "this machine's by NTP, and tell the primary's operator to set theirs. If both are "
                "right, its proposals are under way for too long: see that machine's load and its "
                "network."
            )
        case Step.REFUSED:
            return (
                "Compare this program's version and genesis with the other validators'; see "
                "`invalid block` in the log."
            )
        case Step.BLOCK:
            return "The validators that committed it must be reachable; see network.bootstrap."
        case Step.CERTIFICATE:
            return "The validators make no block: ask one of them, `pot doctor --rpc URL`."
        case Step.VERDICT | Step.OWN_PROPOSAL:
            return "The engine is at work or starved: see the machine's load and memory."
        case Step.STORED:
            return "The database is writing: see the disk's load."
        case _:
            assert_never(health.step)


def _missing(health: NodeHealth) -> list[ValidatorStatus]:
    counted = (Step.PREPARES, Step.COMMITS, Step.VIEW_CHANGES, Step.HEADS)
    if health.step not in counted:
        return []
    return [each for each in health.validators if each.address not in health.answered]


def _list(health: NodeHealth, validators: Sequence[ValidatorStatus]) -> str:
    """A list for a sentence, with absent validators first, which are the likelier cause."""
    ordered = sorted(validators, key=lambda each: each.is_connected)
    return "; ".join(
        f"{each.label}, " + (_describe_self(health) if each.is_self else _describe_absence(each))
        for each in ordered
    )


def _describe_self(health: NodeHealth) -> str:
    if health.signing_failure is not None:
        return "this node, which cannot sign"
    if health.first_signable is not None and health.first_signable > health.number:
        return f"this node, which signs nothing before block {health.first_signable}"
    return "this node"


def _describe_absence(validator: ValidatorStatus) -> str:
    if validator.is_connected:
        connection = "connected"
        if validator.silent_seconds is not None:
            connection += f", silent for {_span(validator.silent_seconds)}"
    elif validator.absent_seconds is not None:
        connection = f"not connected for {_span(validator.absent_seconds)}"
    else:
        connection = "never connected since this node's start"
    if validator.voted_number is None:
        return f"{connection}, no vote seen"
    return f"{connection}, last vote for block {validator.voted_number}"


def _cure_of_absent(validators: Sequence[ValidatorStatus]) -> str:
    absent = [each for each in validators if not each.is_connected and not each.is_self]
    silent = [each for each in validators if each.is_connected and not each.is_self]
    parts = []
    if absent:
        parts.append(
            f"Start or reconnect {_names(absent)}: does the node run, is its network.listen port "
            "reachable?"
        )
    if silent:
        parts.append(
            f"On {_names(silent)} run `pot doctor`: connected and not voting is a stopped signer, "
            "a lost guard, a held proposal or a machine under load."
        )
    return " ".join(parts) or "See this node's other findings."


def _names(validators: Sequence[ValidatorStatus]) -> str:
    return ", ".join(
        each.name or f"the node of operator {to_hex(each.operator)}" for each in validators
    )


def _label(health: NodeHealth, address: Address | None) -> str:
    for validator in health.validators:
        if validator.address == address:
            if validator.is_self:
                return f"{validator.label}, which is this node"
            if not validator.is_connected:
                return f"{validator.label}, {_describe_absence(validator)}"
            return validator.label
    return "that is not known yet"


def _span(seconds: float) -> str:
    """A duration in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.0f} h"
