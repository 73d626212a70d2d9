from tests.chaos.manifest import (
    ChangeKind,
    FaultKind,
    Manifest,
    compute_max_faulty,
    compute_quorum,
    draw_manifest,
)

MANIFESTS = [draw_manifest(seed, 180) for seed in range(200)]


def validator_lanes(manifest: Manifest) -> list[set[int]]:
    """The validators that each lane hits."""
    return [
        {fault.node for fault in lane if fault.node != manifest.full_node}
        for lane in manifest.lanes
    ]


def list_sets(manifest: Manifest) -> list[set[int]]:
    """The genesis set, and the set after each change."""
    sets = [set(range(manifest.validator_count))]
    for change in manifest.changes:
        assert (change.node in sets[-1]) is (change.kind is not ChangeKind.JOIN)
        sets.append(sets[-1] ^ {change.node})
    return sets


def test_a_seed_is_always_the_same_run() -> None:
    assert draw_manifest(7, 120) == draw_manifest(7, 120)
    assert draw_manifest(7, 120) != draw_manifest(8, 120)


def test_never_more_than_f_validators_can_be_faulty_at_a_time() -> None:
    for manifest in MANIFESTS:
        lanes = [victims for victims in validator_lanes(manifest) if victims]
        for members in list_sets(manifest):
            assert sum(1 for lane in lanes if lane & members) <= compute_max_faulty(len(members))
        assert sum(map(len, lanes)) == len(set().union(*lanes)), "lanes share no victim"


def test_a_clone_is_the_last_of_its_lane_and_a_late_start_the_first() -> None:
    for manifest in MANIFESTS:
        for lane in manifest.lanes:
            kinds = [fault.kind for fault in lane]
            assert FaultKind.CLONE not in kinds[:-1]
            assert FaultKind.LATE_START not in kinds[1:]


def test_runs_of_three_minutes_reach_every_kind_and_every_size() -> None:
    kinds = {fault.kind for manifest in MANIFESTS for lane in manifest.lanes for fault in lane}
    assert kinds == set(FaultKind)
    assert {manifest.validator_count for manifest in MANIFESTS} == {4, 5, 6, 7}
    assert min(sum(map(len, manifest.lanes)) for manifest in MANIFESTS) >= 6


def test_only_late_nodes_are_missing_at_the_start() -> None:
    for manifest in MANIFESTS:
        assert manifest.full_node in manifest.late_nodes
        assert len(manifest.late_nodes) <= 2


def test_votes_come_from_a_quorum_of_members_with_uncopied_keys() -> None:
    for manifest in MANIFESTS:
        faults = [fault for lane in manifest.lanes for fault in lane]
        copied = {fault.node for fault in faults if fault.kind is FaultKind.CLONE}
        for change, members in zip(manifest.changes, list_sets(manifest), strict=False):
            needed = 0 if change.kind is ChangeKind.LEAVE else compute_quorum(len(members))
            assert len(set(change.voters)) == len(change.voters) == needed
            assert set(change.voters) <= members - copied - {change.node}


def test_half_of_the_runs_change_the_set_in_every_way_and_hit_the_spare() -> None:
    changing = [manifest for manifest in MANIFESTS if manifest.changes]
    assert 80 <= len(changing) <= 120
    assert {change.kind for manifest in changing for change in manifest.changes} == set(ChangeKind)
    faults = [
        fault.kind
        for manifest in changing
        for lane in manifest.lanes
        for fault in lane
        if fault.node == manifest.spare
    ]
    assert {FaultKind.KILL, FaultKind.WIPE, FaultKind.SILENCE} <= set(faults)
    assert FaultKind.WIPE_KEEP_GUARD not in faults


def test_documented_seeds_give_the_same_runs_as_before_set_changes() -> None:
    for seed in (7, 31):
        assert draw_manifest(seed, 120).changes == ()
