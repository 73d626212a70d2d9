"""The checks of a task that validators, submitters and miners share."""

from dataclasses import replace

from chain.contracts.miner_seats import MAX_MINERS
from chain.params import ChainParameters
from chain.training.architectures import Mlp, count_parameters
from chain.training.encoding import count_payload_bytes
from chain.training.fees import PROMISED_SHARE
from chain.training.resources import count_content_bytes, count_disk_bytes
from chain.training.state import FLOAT32_BYTES
from chain.training.task_checks import (
    AGGREGATION_SHARE,
    CONTENT_QUOTA_SHARE,
    DISK_MARGIN,
    LOST_SECONDS,
    MIN_VERDICT_SECONDS,
    REFUSAL_CODES,
    SMALL_DISK_BYTES,
    Objection,
    ObjectionCode,
    Promise,
    compute_aggregation_milliseconds,
    compute_promise,
    compute_transfer_milliseconds,
    compute_work_milliseconds,
    describe_refusal,
    find_aggregation_objection,
    find_commitment_objection,
    find_declared_objection,
    find_disk_objection,
    find_noise_objection,
    find_phase_objection,
    find_size_objection,
    find_time_objection,
    list_content,
)
from chain.training.task_spec import TaskSpec
from tests.worlds.training import SPEC

FAST = 10**9
TRANSFER_BYTES = (1 + SPEC.reward.max_units) * count_payload_bytes(count_parameters(SPEC.model))
MODEL_BYTES = FLOAT32_BYTES * count_parameters(SPEC.model)


def with_verdict_seconds(seconds: int) -> TaskSpec:
    return replace(SPEC, phases=replace(SPEC.phases, verdict_seconds=seconds))


def code(objection: Objection | None) -> ObjectionCode | None:
    return None if objection is None else objection.code


def test_content_is_the_weights_and_every_shard() -> None:
    assert sum(list_content(SPEC).values()) == count_content_bytes(SPEC)
    assert set(list_content(SPEC)) == {
        SPEC.initial_weights,
        *(shard.content_id for shard in SPEC.data.shards),
    }


def test_verdict_phase_has_a_lower_bound() -> None:
    assert find_phase_objection(with_verdict_seconds(MIN_VERDICT_SECONDS), FAST) is None
    short = find_phase_objection(with_verdict_seconds(MIN_VERDICT_SECONDS - 1), FAST)
    assert code(short) is ObjectionCode.VERDICT_PHASE_TOO_SHORT
    assert "verdict_seconds is 15" in str(short)


def test_phases_at_their_lower_bounds_outlast_a_block_that_is_dated_back() -> None:
    # A block may be as old as the timeout of view 0 and two seconds.
    lost = ChainParameters().view_timeout_base_ms // 1_000 + 2
    assert lost == LOST_SECONDS
    assert 3 * MIN_VERDICT_SECONDS / 4 - lost >= 2
    for seconds in range(MIN_VERDICT_SECONDS, 61):
        transfers = compute_transfer_milliseconds(seconds) / 1_000
        assert 0 < transfers <= min(seconds / 2, 3 * seconds / 4 - lost - 1)
    for seconds in range(4, 61):
        work = compute_work_milliseconds(seconds) / 1_000
        assert 0 <= work <= max(0, min(seconds / 2, seconds - lost - 2))
    assert (compute_work_milliseconds(6), compute_work_milliseconds(12)) == (0, 6_000)
    assert (compute_transfer_milliseconds(12), compute_transfer_milliseconds(20)) == (4_000, 10_000)


def test_all_gradients_of_a_round_arrive_within_half_of_the_verdict_phase() -> None:
    speed = -(-2 * TRANSFER_BYTES // SPEC.phases.verdict_seconds)
    assert find_phase_objection(SPEC, speed) is None
    short = find_phase_objection(SPEC, speed - 1)
    assert code(short) is ObjectionCode.VERDICT_PHASE_TOO_SHORT


def test_seats_of_many_units_bring_no_more_gradients_than_seats() -> None:
    spec = replace(SPEC, reward=replace(SPEC.reward, max_units=4 * MAX_MINERS))
    transfer_bytes = TRANSFER_BYTES // (1 + SPEC.reward.max_units) * (1 + MAX_MINERS)
    speed = -(-2 * transfer_bytes // SPEC.phases.verdict_seconds)
    assert find_phase_objection(spec, speed) is None
    assert code(find_phase_objection(spec, speed - 1)) is ObjectionCode.VERDICT_PHASE_TOO_SHORT


def hasten(commit_seconds: int, unit_milliseconds: int) -> TaskSpec:
    return replace(
        SPEC,
        phases=replace(SPEC.phases, commit_seconds=commit_seconds),
        resources=replace(SPEC.resources, unit_milliseconds=unit_milliseconds),
    )


def test_unit_that_no_miner_computes_in_time_is_refused() -> None:
    # It cost all miners their bonds: a unit took 4 s, and commitments were over after 4 s.
    trap = find_commitment_objection(hasten(4, 60_000), FAST)
    assert trap == Objection(
        ObjectionCode.COMMITMENT_PHASE_TOO_SHORT,
        "a miner needs up to 1 ms to fetch the model and 60000 ms to compute a unit, as declared, "
        "and commit_seconds 4 leaves 0 ms for both",
    )


def test_unit_and_model_take_at_most_half_of_the_commitment_phase() -> None:
    second = MODEL_BYTES
    assert find_commitment_objection(hasten(12, 5_000), second) is None
    for spec, speed in (
        (hasten(12, 5_001), second),
        (hasten(11, 5_000), second),
        (hasten(12, 5_000), second - 1),
    ):
        short = find_commitment_objection(spec, speed)
        assert code(short) is ObjectionCode.COMMITMENT_PHASE_TOO_SHORT


def test_seats_do_several_units_if_a_task_has_more_units_than_seats() -> None:
    def found(max_units: int, unit_milliseconds: int) -> Objection | None:
        spec = hasten(8, unit_milliseconds)
        reward = replace(spec.reward, max_units=max_units)
        return find_commitment_objection(replace(spec, reward=reward), FAST)

    assert found(MAX_MINERS, 1_999) is None
    short = found(MAX_MINERS + 1, 1_999)
    assert "3998 ms to compute the 2 units of a seat" in str(short)
    assert found(MAX_MINERS + 1, 999) is None


def test_largest_model_needs_a_result_phase_for_its_aggregation() -> None:
    largest = replace(SPEC, model=Mlp(inputs=64, hidden=(8_000, 8_000), classes=10))
    needed = compute_aggregation_milliseconds(largest) * AGGREGATION_SHARE
    for seconds, expected in (
        (4, ObjectionCode.AGGREGATION_TOO_SLOW),
        (needed // 1_000, ObjectionCode.AGGREGATION_TOO_SLOW),
        (needed // 1_000 + 1, None),
    ):
        spec = replace(largest, phases=replace(SPEC.phases, result_seconds=seconds))
        assert code(find_aggregation_objection(spec)) is expected
    assert find_aggregation_objection(SPEC) is None


def test_shares_are_those_of_the_phase_that_takes_most() -> None:
    phases = replace(SPEC.phases, verdict_seconds=20, result_seconds=10)
    spec = replace(SPEC, phases=phases, reward=replace(SPEC.reward, max_units=4))
    for unit, evaluation, expected in (
        (1_000, 1_000, 200_000),
        (1_000, 2_500, 250_000),
        (1_001, 1, 200_200),
    ):
        declared = replace(
            SPEC.resources, unit_milliseconds=unit, evaluation_milliseconds=evaluation
        )
        shares = compute_promise(replace(spec, resources=declared))
        # The aggregation of 4 small gradients takes 13 ms.
        assert shares == Promise(expected, 1_300, SPEC.resources.disk_bytes)


def test_tiny_aggregations_are_promised_what_their_requests_take() -> None:
    """They were promised nothing, so any number of them fitted the worker."""
    for gradient_count, milliseconds in ((1, 11), (8, 15), (1_024, 525)):
        spec = replace(SPEC, reward=replace(SPEC.reward, max_units=gradient_count))
        assert compute_aggregation_milliseconds(spec) == milliseconds
        promised = compute_promise(spec).aggregation_ppm
        assert promised == -(-1_000 * milliseconds // SPEC.phases.result_seconds)


def test_declared_time_of_an_evaluation_covers_an_aggregation() -> None:
    model = Mlp(inputs=64, hidden=(1_000, 1_000), classes=10)
    large = replace(SPEC, model=model)
    needed = compute_aggregation_milliseconds(large)
    assert needed > 1
    for declared, expected in ((needed, None), (needed - 1, ObjectionCode.RESOURCES_EXCEEDED)):
        resources = replace(SPEC.resources, evaluation_milliseconds=declared)
        spec = replace(large, resources=resources)
        assert code(find_time_objection(spec, 1)) is expected
    # So the promise of each worker is paid.
    shares = compute_promise(replace(large, resources=resources))
    assert shares.check_ppm >= shares.aggregation_ppm


def test_content_and_disk_have_upper_bounds() -> None:
    quota = CONTENT_QUOTA_SHARE * count_content_bytes(SPEC)
    assert find_size_objection(SPEC, quota) is None
    too_large = find_size_objection(SPEC, quota - CONTENT_QUOTA_SHARE)
    assert code(too_large) is ObjectionCode.CONTENT_TOO_LARGE
    needed = count_disk_bytes(SPEC)
    spec = replace(SPEC, resources=replace(SPEC.resources, disk_bytes=needed))
    assert find_disk_objection(spec, needed) is None
    too_much = find_disk_objection(spec, needed - 1)
    assert code(too_much) is ObjectionCode.DISK_TOO_LARGE


def test_a_task_takes_no_more_disk_than_it_declares() -> None:
    def declare(disk_bytes: int) -> TaskSpec:
        return replace(SPEC, resources=replace(SPEC.resources, disk_bytes=disk_bytes))

    assert find_disk_objection(declare(count_disk_bytes(SPEC)), 2**40) is None
    too_little = find_disk_objection(declare(count_disk_bytes(SPEC) - 1), 2**40)
    assert code(too_little) is ObjectionCode.RESOURCES_EXCEEDED


def test_a_task_declares_no_more_disk_than_twice_what_it_can_take() -> None:
    def found(spec: TaskSpec, disk_bytes: int) -> ObjectionCode | None:
        declared = replace(spec, resources=replace(spec.resources, disk_bytes=disk_bytes))
        return code(find_disk_objection(declared, 2**60))

    assert count_disk_bytes(SPEC) < SMALL_DISK_BYTES // DISK_MARGIN
    assert found(SPEC, SMALL_DISK_BYTES) is None
    assert found(SPEC, SMALL_DISK_BYTES + 1) is ObjectionCode.DECLARES_TOO_MUCH
    assert found(SPEC, 32 * 2**30) is ObjectionCode.DECLARES_TOO_MUCH
    large = replace(SPEC, model=Mlp(inputs=64, hidden=(8_000, 8_000), classes=10))
    needed = count_disk_bytes(large)
    assert needed > SMALL_DISK_BYTES
    assert found(large, DISK_MARGIN * needed) is None
    assert found(large, DISK_MARGIN * needed + 1) is ObjectionCode.DECLARES_TOO_MUCH


def test_a_dry_run_takes_no_more_than_the_task_declares() -> None:
    declared = SPEC.resources

    def found(unit: int = 0, evaluation: int = 0, peak: int = 0) -> ObjectionCode | None:
        return code(
            find_declared_objection(
                SPEC,
                unit_milliseconds=declared.unit_milliseconds + unit,
                evaluation_milliseconds=declared.evaluation_milliseconds + evaluation,
                peak_bytes=declared.peak_bytes + peak,
            )
        )

    assert found() is None
    exceeded = ObjectionCode.RESOURCES_EXCEEDED
    assert found(unit=1) is found(evaluation=1) is found(peak=1) is exceeded


def test_every_final_objection_has_a_code_of_its_own() -> None:
    waiting = {
        ObjectionCode.CONTENT_UNAVAILABLE,
        ObjectionCode.VALIDATOR_BUSY,
        ObjectionCode.TOO_MANY_TASKS,
    }
    assert set(REFUSAL_CODES) == set(ObjectionCode) - waiting
    assert len(set(REFUSAL_CODES.values())) == len(REFUSAL_CODES)
    assert all(0 < number < 2**8 for number in REFUSAL_CODES.values())
    assert describe_refusal(8) == "resources_exceeded"
    assert describe_refusal(99) == "99"


def test_noise_has_an_upper_bound() -> None:
    noise = SPEC.verification.tolerance_ppb // 10
    assert find_noise_objection(SPEC, noise) is None
    objection = find_noise_objection(SPEC, noise + 1)
    assert code(objection) is ObjectionCode.TOO_NOISY
    assert objection is not None
    assert objection.reason.endswith("by 0.000010001, more than a tenth of its tolerance, 0.0001")


def test_declared_times_fit_into_the_phases_and_into_what_is_promised() -> None:
    evaluation = 250 * SPEC.phases.result_seconds
    unit = 500 * SPEC.phases.verdict_seconds // SPEC.reward.max_units

    def declare(unit_milliseconds: int, evaluation_milliseconds: int) -> TaskSpec:
        times = {
            "unit_milliseconds": unit_milliseconds,
            "evaluation_milliseconds": evaluation_milliseconds,
        }
        return replace(SPEC, resources=replace(SPEC.resources, **times))

    def found(spec: TaskSpec, workers: int = 1) -> ObjectionCode | None:
        return code(find_time_objection(spec, workers))

    assert found(declare(unit, evaluation)) is None
    assert found(declare(unit, evaluation + 1)) is ObjectionCode.EVALUATION_TOO_SLOW
    assert found(declare(unit + 1, evaluation)) is ObjectionCode.VERDICT_PHASE_TOO_SHORT
    assert found(declare(3 * unit, evaluation), workers=3) is None
    assert found(declare(3 * unit + 1, evaluation), workers=3) is not None
    # What the phases allow is promised to a task that is alone.
    most = compute_promise(declare(unit, evaluation)).check_ppm
    assert most == 1_000_000 // PROMISED_SHARE
