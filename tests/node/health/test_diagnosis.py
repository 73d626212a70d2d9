"""Every finding of the diagnosis: from a hand-made health to its text and its cure."""

from dataclasses import replace

import pytest

from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber
from node.health.diagnosis import (
    Finding,
    NodeHealth,
    Severity,
    Step,
    ValidatorStatus,
    describe,
    diagnose,
)

NAMES = ("alpha", "beta", "gamma", "delta")
ADDRESSES = tuple(Address(keccak256(name.encode())[:20]) for name in NAMES)
OPERATORS = tuple(Address(keccak256(name.encode())[12:]) for name in NAMES)

VALIDATORS = tuple(
    ValidatorStatus(
        address=address,
        operator=operator,
        name=name,
        is_self=name == "alpha",
        silent_seconds=0.5,
        voted_number=BlockNumber(41),
        clock_offset_seconds=None if name == "alpha" else 0.2,
    )
    for name, address, operator in zip(NAMES, ADDRESSES, OPERATORS, strict=True)
)

HEALTHY = NodeHealth(
    number=BlockNumber(42),
    view=0,
    step=Step.PROPOSAL,
    validators=VALIDATORS,
    quorum=3,
    primary=ADDRESSES[1],
    head_age_seconds=1.0,
    due_seconds=11.0,
    best_known=41,
    peer_count=5,
    first_signable=BlockNumber(1),
)


def with_validators(health: NodeHealth, **changes: dict[str, object]) -> NodeHealth:
    """The health with changed fields of some validators, by name."""
    return replace(
        health,
        validators=tuple(
            replace(each, **changes.get(each.name or "", {})) for each in health.validators
        ),
    )


def gone(seconds: float) -> dict[str, object]:
    return {"is_connected": False, "absent_seconds": seconds, "silent_seconds": seconds}


def only(health: NodeHealth) -> Finding:
    (finding,) = diagnose(health)
    return finding


def codes(health: NodeHealth) -> list[str]:
    return [finding.code for finding in diagnose(health)]


def test_nothing_is_wrong_with_a_healthy_network() -> None:
    assert diagnose(HEALTHY) == ()
    assert describe(HEALTHY) == (
        "Block 42, view 0: waiting for a proposal of its primary beta "
        f"(0x{ADDRESSES[1].hex()}); block 41 became final 1 s ago."
    )


def test_finding_on_a_stuck_chain_names_the_missing_votes_and_since_when() -> None:
    health = with_validators(
        replace(
            HEALTHY,
            view=3,
            step=Step.VIEW_CHANGES,
            answered=frozenset(ADDRESSES[:2]),
            head_age_seconds=73,
        ),
        gamma=gone(75),
        delta={"silent_seconds": 70.0, "voted_number": BlockNumber(40)},
    )
    finding = next(finding for finding in diagnose(health) if finding.code == "stuck")
    assert finding.severity is Severity.CRITICAL
    assert finding.text == (
        "No block for 73 s: block 42 in view 3 waits for VIEW-CHANGEs for view 3 or later "
        "(2 of the 3 needed); missing: "
        f"gamma (0x{ADDRESSES[2].hex()}), not connected for 75 s, last vote for block 41; "
        f"delta (0x{ADDRESSES[3].hex()}), connected, silent for 70 s, last vote for block 40."
    )
    assert finding.cure.startswith("1 of them must vote. Start or reconnect gamma:")
    assert "On delta run `pot doctor`" in finding.cure


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": Step.PREPARES}, "waits for PREPAREs (0 of the 3 needed); missing: "),
        ({"step": Step.COMMITS}, "waits for COMMITs (0 of the 3 needed); missing: "),
        ({"step": Step.PROPOSAL}, "waits for a proposal of its primary beta"),
        ({"step": Step.NEW_VIEW, "view": 2}, "in view 2 waits for a NEW-VIEW of its primary beta"),
        ({"step": Step.OWN_PROPOSAL}, "waits for this node's own proposal"),
        ({"step": Step.REFUSED}, "the one it has is invalid here"),
        ({"step": Step.HELD, "held_seconds": 12.0}, "which is 12 s ahead of this machine's clock"),
        ({"step": Step.TOO_OLD, "late_seconds": 40.0}, "(0xADDRESS) sent; it was 40 s behind"),
        ({"step": Step.BLOCK}, "waits for the block that was committed"),
        ({"step": Step.VERDICT}, "waits for its own check of the proposal"),
        ({"step": Step.STORED}, "waits for the disk"),
        ({"step": Step.CERTIFICATE, "is_validator": False}, "waits for blocks with their"),
    ],
)
def test_a_stuck_chain_says_in_which_step(changes: dict[str, object], said: str) -> None:
    finding = only(replace(HEALTHY, head_age_seconds=60, **changes))
    assert finding.code == "stuck"
    assert said.replace("ADDRESS", ADDRESSES[1].hex()) in finding.text
    assert finding.cure


def test_chain_is_not_called_stuck_too_early_or_right_after_a_start() -> None:
    assert diagnose(replace(HEALTHY, head_age_seconds=10.9)) == ()
    assert diagnose(replace(HEALTHY, head_age_seconds=7_200, uptime_seconds=10)) == ()
    assert codes(replace(HEALTHY, head_age_seconds=7_200, uptime_seconds=12)) == ["stuck"]


def test_a_node_without_peers_says_so_first() -> None:
    alone = with_validators(
        replace(HEALTHY, peer_count=0, head_age_seconds=60),
        beta=gone(50),
        gamma=gone(50),
        delta=gone(50),
    )
    assert codes(alone) == ["no_peers", "stuck"]
    assert "network.bootstrap" in diagnose(alone)[0].cure


def test_a_connection_that_broke_a_moment_ago_is_no_finding() -> None:
    flapping = with_validators(HEALTHY, gamma=gone(9), delta=gone(9))
    assert diagnose(flapping) == ()
    assert codes(with_validators(HEALTHY, gamma=gone(11), delta=gone(9))) == ["validator_silent"]
    starting = with_validators(
        replace(HEALTHY, peer_count=0, uptime_seconds=9),
        **{name: {"is_connected": False} for name in NAMES[1:]},
    )
    assert diagnose(starting) == ()


def test_too_few_reachable_validators_are_named() -> None:
    health = with_validators(
        replace(HEALTHY, head_age_seconds=60, step=Step.COMMITS, answered=frozenset(ADDRESSES[:2])),
        gamma=gone(48),
        delta={"is_connected": False, "voted_number": None, "name": None},
    )
    first = diagnose(health)[0]
    assert first.code == "no_quorum"
    assert "Only 2 of 4 validators can talk to one another here" in first.text
    assert "gamma" in first.text
    assert f"0x{ADDRESSES[3].hex()}, never connected since this node's start" in first.text
    assert "no vote seen" in first.text
    assert f"the node of operator 0x{OPERATORS[3].hex()}" in first.cure


def test_full_disk_is_reported_before_and_after_it_stops_signing() -> None:
    assert only(replace(HEALTHY, disk_free_bytes=3 * 2**30)).severity is Severity.WARNING
    full = only(replace(HEALTHY, disk_free_bytes=2**29))
    assert (full.code, full.severity) == ("disk_full", Severity.CRITICAL)
    assert "0.5 GiB" in full.text
    stopped = only(
        replace(
            HEALTHY, signing_failure="cannot write: No space left on device", first_signable=None
        )
    )
    assert stopped.code == "signing_stopped"
    assert "No space left on device" in stopped.text
    assert "restart" in stopped.cure


def test_a_guard_ahead_of_the_log_says_from_where_it_signs_again() -> None:
    finding = only(replace(HEALTHY, first_signable=BlockNumber(44)))
    assert finding.code == "guard_ahead"
    assert "nothing before block 44" in finding.text
    assert "Never restore an old guard" in finding.cure


def test_a_stuck_chain_names_this_node_if_it_is_the_one_that_does_not_sign() -> None:
    health = replace(
        HEALTHY,
        first_signable=BlockNumber(44),
        step=Step.COMMITS,
        answered=frozenset(ADDRESSES[1:3]),
        head_age_seconds=60,
    )
    stuck = next(finding for finding in diagnose(health) if finding.code == "stuck")
    assert "this node, which signs nothing before block 44" in stuck.text


def test_validator_without_guard_names_the_heads_it_waits_for() -> None:
    health = with_validators(
        replace(HEALTHY, step=Step.HEADS, answered=frozenset(ADDRESSES[:2]), first_signable=None),
        gamma=gone(5),
        delta=gone(5),
    )
    finding = next(each for each in diagnose(health) if each.code == "waiting_for_heads")
    assert "2 of the 3 it needs are known" in finding.text
    assert "gamma" in finding.text
    assert "beta" not in finding.text


def test_our_own_clock_is_blamed_when_more_than_f_others_agree_against_it() -> None:
    behind = {"clock_offset_seconds": 3_600.0}
    finding = only(with_validators(HEALTHY, beta=behind, gamma=behind))
    assert (finding.code, finding.severity) == ("clock_wrong", Severity.CRITICAL)
    assert "about 60 min behind the clocks of 2 of 3 validators" in finding.text
    assert "proposals are held until their time has come" in finding.text
    ahead = {"clock_offset_seconds": -5.0}
    told = only(with_validators(HEALTHY, beta=ahead, delta=ahead)).text
    assert "5 s ahead of" in told
    assert "proposals are refused as too old" in told


def test_proposal_that_is_too_old_points_to_the_clocks() -> None:
    finding = only(
        replace(HEALTHY, step=Step.TOO_OLD, late_seconds=40.0, head_age_seconds=60, view=2)
    )
    assert finding.text == (
        "No block for 60 s: block 42 in view 2 waits for another proposal: the time of the one it "
        f"has is too old, which beta (0x{ADDRESSES[1].hex()}) sent; it was 40 s behind this "
        "machine's clock when it came."
    )
    assert "set this machine's by NTP, and tell the primary's operator" in finding.cure


def test_wrong_clock_of_one_validator_is_named() -> None:
    finding = only(with_validators(HEALTHY, beta={"clock_offset_seconds": 30.0}))
    assert (finding.code, finding.severity) == ("clock_of_validator", Severity.WARNING)
    assert "The clock of beta" in finding.text
    assert "30 s ahead of" in finding.text
    assert OPERATORS[1].hex() in finding.cure
    assert diagnose(with_validators(HEALTHY, beta={"clock_offset_seconds": 1.4})) == ()


def test_a_node_behind_its_peers_is_syncing_and_not_stuck() -> None:
    health = replace(HEALTHY, best_known=1_041, head_age_seconds=600)
    finding = only(health)
    assert (finding.code, finding.severity) == ("behind", Severity.WARNING)
    assert "1000 blocks behind its peers (block 41 of 1041)" in finding.text
    assert diagnose(replace(HEALTHY, best_known=42)) == ()


def test_silent_validator_is_reported_while_the_chain_goes_on() -> None:
    finding = only(with_validators(HEALTHY, delta=gone(300)))
    assert (finding.code, finding.severity) == ("validator_silent", Severity.WARNING)
    assert "delta" in finding.text
    assert "not connected for 5 min" in finding.text
    old = {"voted_number": BlockNumber(21)}
    assert codes(with_validators(HEALTHY, beta=old)) == ["validator_silent"]
    new = with_validators(HEALTHY, beta={"voted_number": None})
    assert codes(replace(new, uptime_seconds=5)) == []


def test_a_single_validator_needs_no_peers() -> None:
    alone = replace(HEALTHY, validators=VALIDATORS[:1], quorum=1, peer_count=0)
    assert diagnose(alone) == ()


def test_a_finding_is_json() -> None:
    finding = only(replace(HEALTHY, disk_free_bytes=0))
    assert set(finding.to_json()) == {"code", "severity", "text", "cure"}
    assert finding.to_json()["severity"] == "critical"


def test_exhausted_ration_of_free_gas_is_found_with_the_price() -> None:
    given = replace(HEALTHY, free_gas_seconds=4_000, suggested_price_wei=7)
    (finding,) = diagnose(given)
    assert (finding.code, finding.severity) == ("free_gas_exhausted", Severity.WARNING)
    assert "the free gas of 67 min" in finding.text
    assert "A sender that cannot wait offers 7 wei for a unit of gas (--gas-price)" in finding.cure
    assert diagnose(replace(given, free_gas_seconds=0)) == (), "this node gives no free gas"
