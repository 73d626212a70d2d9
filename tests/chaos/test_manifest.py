from tests.chaos.manifest import FaultKind, Manifest, compute_max_faulty, draw_manifest

MANIFESTS = [draw_manifest(seed, 180) for seed in range(200)]


def validator_lanes(manifest: Manifest) -> list[set[int]]:
    """The victims of each lane."""
    return [
        {fault.node for fault in lane if fault.node < manifest.validator_count}
        for lane in manifest.lanes
    ]


def test_a_seed_is_always_the_same_run() -> None:
    assert draw_manifest(7, 120) == draw_manifest(7, 120)
    assert draw_manifest(7, 120) != draw_manifest(8, 120)


def test_never_more_than_f_validators_can_be_faulty_at_a_time() -> None:
    for manifest in MANIFESTS:
        lanes = [victims for victims in validator_lanes(manifest) if victims]
        assert len(lanes) <= compute_max_faulty(manifest.validator_count)
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
        assert manifest.validator_count in manifest.late_nodes
        assert len(manifest.late_nodes) <= 2
