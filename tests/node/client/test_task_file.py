from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chain.contracts.task_registry import Purchase, TaskResources
from chain.crypto import content_id
from chain.primitives import Address
from chain.training.architectures import Mlp
from chain.training.resources import count_disk_bytes
from chain.training.task_spec import (
    AdamW,
    LabelType,
    SchedulePoint,
    Sgd,
)
from chain.training.task_spec_codec import compute_terms
from node.client import task_checks
from node.client.task_bundle import Wishes
from node.client.task_checks import (
    TaskMeasurement,
    check_task,
    check_times,
    declare_resources,
    measure_task,
)
from node.client.task_file import build_digits, load_task_toml, shuffle_rows
from node.client.task_submission import choose_purchase
from node.config import VerifierSection
from pot_common.errors import OperatorError

TOKEN = Address(b"\x44" * 20)
DIGITS = Path("examples/digits.toml").read_text()


def test_example_of_plain_layers_passes_the_checks_before_payment() -> None:
    text = Path("examples/digits-mlp.toml").read_text()
    bundle = load_task_toml(text, Path(), TOKEN)
    assert bundle.spec.model == Mlp(inputs=64, hidden=(32,), classes=10)
    bundle = declare_resources(bundle, TaskMeasurement(10, 10, 2**28))
    check_task(bundle, 10**7)
    check_times(bundle, 10**7)


@pytest.mark.process
def test_dry_run_is_limited_in_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = VerifierSection(timeout_seconds=0.01)
    monkeypatch.setattr(task_checks, "VerifierSection", lambda: limits)
    monkeypatch.setattr(task_checks, "PATIENCE", 12_000)
    text = Path("examples/digits-mlp.toml").read_text()
    with pytest.raises(OperatorError, match=r"more than the 0\.01 s of processor time"):
        measure_task(load_task_toml(text, Path(), TOKEN))


def test_digits_example_is_the_documented_task() -> None:
    bundle = load_task_toml(DIGITS, Path(), TOKEN)
    spec = bundle.spec
    assert set(bundle.blobs) == {spec.initial_weights, spec.data.shards[0].content_id}
    assert all(content_id(blob) == name for name, blob in bundle.blobs.items())
    assert (spec.data.row_count, spec.held_out.row_count, spec.sample_count) == (1797, 360, 1437)
    assert spec.optimizer == AdamW(0x3F19999A, 0x3F7D70A4, 0x322BCC77, 0)
    assert spec.schedule == (SchedulePoint(0, 20_000_000), SchedulePoint(36, 0))
    assert (spec.verification.audit_ppm, spec.verification.tolerance_ppb) == (10**6, 10**5)
    assert compute_terms(spec).unit_price == 10**18
    assert compute_terms(spec).validator_fee == 4 * 10**17
    assert compute_terms(spec).token == TOKEN


def test_other_rounds_stretch_the_schedule() -> None:
    spec = load_task_toml(DIGITS, Path(), TOKEN, 5).spec
    assert spec.round_count == 5
    assert spec.schedule[-1] == SchedulePoint(5, 0)


def test_a_file_of_ones_own_is_data_too(tmp_path: Path) -> None:
    x = np.arange(40 * 64, dtype=np.float64).reshape(40, 1, 8, 8) / 4096
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(40) % 10)
    text = (
        DIGITS.replace("sklearn:digits", "mine.npz")
        .replace("held_out = 360", "held_out = 10")
        .replace("samples_per_unit = 128", "samples_per_unit = 3")
    )
    bundle = load_task_toml(text, tmp_path, TOKEN)
    assert (bundle.spec.data.row_count, bundle.spec.sample_count) == (40, 30)
    assert bundle.spec.data.label_type is LabelType.INT64
    assert bundle == load_task_toml(text, tmp_path, TOKEN)


def test_resources_and_wishes_may_be_in_the_file() -> None:
    plain = load_task_toml(DIGITS, Path(), TOKEN)
    assert (plain.is_measured, plain.wishes) == (False, Wishes())
    resources = "[resources]\nunit_milliseconds = 7\nevaluation_milliseconds = 8\npeak_bytes = 9\n"
    fee = "[fee]\nlifetime_seconds = 3600\nattempts = 40\nmax_fee = 0.5\n"
    bundle = load_task_toml(DIGITS + resources + fee, Path(), TOKEN)
    assert bundle.is_measured
    assert bundle.wishes == Wishes(3_600, 40, 5 * 10**17)
    assert bundle.spec.resources == TaskResources(7, 8, 9, count_disk_bytes(bundle.spec))


def test_declaration_leaves_room_for_slower_and_busier_machines() -> None:
    plain = load_task_toml(DIGITS, Path(), TOKEN)
    declared = declare_resources(plain, TaskMeasurement(100, 3, 2**28))
    disk_bytes = count_disk_bytes(plain.spec)
    assert declared.spec.resources == TaskResources(400, 50, 2**29, disk_bytes)
    assert declared.is_measured


def test_purchase_covers_failed_attempts_and_the_search_for_miners() -> None:
    spec = load_task_toml(DIGITS, Path(), TOKEN).spec
    assert choose_purchase(spec, 500, 10**6) == Purchase(45 * 60 + 500 + 3_600, 45)
    assert choose_purchase(spec, 500, 4_000) == Purchase(4_000, 45)
    assert choose_purchase(replace(spec, round_count=1), 500, 10**6).attempts == 4


def test_a_price_keeps_every_digit() -> None:
    written = "unit_price = 12345678901234567890.123456789012345678"
    spec = load_task_toml(DIGITS.replace("unit_price = 1.0", written), Path(), TOKEN).spec
    assert spec.reward.unit_price == 12345678901234567890_123456789012345678


def test_shuffling_moves_whole_rows_by_the_seed() -> None:
    digits = build_digits()
    one, other = shuffle_rows(digits, "a"), shuffle_rows(digits, "b")
    assert not np.array_equal(one.labels, other.labels)
    assert sorted(one.labels) == sorted(digits.labels)
    row = 0
    places = np.flatnonzero((digits.features == one.features[row]).all(axis=(1, 2, 3)))
    assert one.labels[row] in digits.labels[places]


def test_momentum_of_plain_descent_is_zero_unless_given() -> None:
    start, end = DIGITS.index("[optimizer]"), DIGITS.index("[verification]")
    text = '[optimizer]\nkind = "sgd"\nlearning_rate = 1\nlearning_rate_decay = "none"\n'
    spec = load_task_toml(DIGITS[:start] + text + DIGITS[end:], Path(), TOKEN).spec
    assert spec.optimizer == Sgd(0)
    assert spec.schedule == (SchedulePoint(0, 10**9),)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[model]", "[model", "not TOML"),
        ('architecture = "cnn"', 'architecture = "llm"', "[model] architecture must be one of"),
        ("classes = 10", 'classes = "ten"', "[model] classes must be an integer"),
        ("classes = 10", "classes = true", "[model] classes must be an integer"),
        (
            "channels = [16, 32]",
            "channels = [16, 0]",
            "every width, also after pooling, must be at least 1",
        ),
        ("channels = [16, 32]", "channels = [16, 1.5]", "channels must be an array of integers"),
        (
            "channels = [16, 32]",
            "channels = [9, 9, 9, 9]",
            "every width, also after pooling, must be at least 1",
        ),
        ("image = [1, 8, 8]", "image = [1, 8]", "image must be [channels, height, width]"),
        (
            "image = [1, 8, 8]",
            "image = [1, 9, 8]",
            "[data] source: the shape of its rows (1, 8, 8) does not fit",
        ),
        ("classes = 10", "classes = 70000", "[model] classes must be an integer from 2 to"),
        ("channels = [16, 32]", "channels = [60000, 60000]", "parameters are too many"),
        ("held_out = 360", "held_out = 1797", "[data] held_out must be from 1 to 1796, because"),
        ("held_out = 360", "held_outs = 360", "[data] held_outs is not a known setting; did you"),
        ("held_out = 360", "held_out = 360\nheld_in = 1", "[data] held_in is not a known setting"),
        ("rounds = 36", "rounds = 0", "[training] rounds must be an integer from 1"),
        ("rounds = 36", "rounds = 3.6", "[training] rounds must be an integer"),
        ("local_steps = 1", "local_steps = 4", "[training] local_steps must be an integer"),
        ("learning_rate = 0.02", "learning_rate = nan", "[optimizer] learning_rate must be a fin"),
        ("learning_rate = 0.02", "learning_rate = -0.1", "[optimizer] learning_rate must be a fin"),
        ("learning_rate = 0.02", "learning_rate = 1e-12", "has more than 9 decimals"),
        (
            "learning_rate = 0.02",
            "learning_rate = 11",
            "[optimizer] learning_rate must be a number from 0 to 10",
        ),
        ("beta1 = 0.6", "beta1 = 1.0", "[optimizer] beta1 must be a number from 0 to below 1"),
        (
            "audit_probability = 1.0",
            "audit_probability = 0.5",
            "[verification] audit_probability must be 1",
        ),
        (
            "commit_seconds = 20",
            "commit_seconds = 0",
            "[phases] commit_seconds must be an integer from 4 to",
        ),
        ("commit_seconds = 20", "commit_second = 20", "did you mean commit_seconds?"),
        ("max_units = 8", "", "[reward] max_units is missing"),
        ("tolerance = 1e-4", "tolerance = 0.1", "tolerance must be a number from 0.00001 to 0.01"),
        ("epsilon = 1e-8", "epsilon = 0", "[optimizer] epsilon must be a number from 1e-12 to 1"),
        ("held_out = 360", "held_out = 99999", "must be from 1 to 1796, because source has 1797"),
        ("held_out = 360", "held_out = 1000", "times [training] samples_per_unit is 1024, of 797"),
        ("unit_price = 1.0", "unit_price = 0", "[reward] unit_price must be more than 0"),
        ('"sklearn:digits"', '"nowhere.npz"', "there is no file nowhere.npz; source must be"),
        ("samples_per_unit = 128", "samples_per_unit = 0", "[training] samples_per_unit must be"),
        ('token = "POT"', 'token = "ETH"', "[reward] token must be"),
        ('token = "POT"', 'token = "0x1234"', "[reward] token must be an address of 20 bytes"),
        ("unit_price = 1.0", "unit_price = 1e-19", "has more than 18 decimals"),
        ("unit_price = 1.0", f"unit_price = {10**30}.{1:019}", "has more than 18 decimals"),
        ("unit_price = 1.0", f"unit_price = 1.{1:080}", "has more than 18 decimals"),
        (
            "unit_price = 1.0",
            f"unit_price = {10**30}",
            "[reward] unit_price must be an amount of at most 340",
        ),
        ("unit_price = 1.0", "unit_price = 1e-9999999", "has more than 18 decimals"),
        ("min_miners = 3", "min_miners = 9", "[reward] min_miners exceeds max_units"),
        ("min_units = 3", "min_units = 2", "[reward] min_units must be from min_miners to 8"),
        ("min_units = 3", "min_units = 9", "[reward] min_units must be from min_miners to 8"),
        ('name = "digits"', 'name = "../digits"', "task file: name must begin with a letter"),
    ],
)
def test_a_mistake_is_named_with_its_setting(old: str, new: str, message: str) -> None:
    assert old in DIGITS
    with pytest.raises(OperatorError) as refusal:
        load_task_toml(DIGITS.replace(old, new, 1), Path(), TOKEN)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("max_units", "min_miners", "expected"),
    [(8, 3, 4), (7, 3, 4), (8, 5, 5), (3, 3, 3), (1, 1, 1), (1_437, 3, 719)],
)
def test_attempt_needs_half_of_the_units_if_the_file_says_nothing(
    max_units: int, min_miners: int, expected: int
) -> None:
    text = DIGITS.replace("samples_per_unit = 128", "samples_per_unit = 1")
    text = text.replace("max_units = 8", f"max_units = {max_units}")
    text = text.replace("min_miners = 3", f"min_miners = {min_miners}")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("min_units"))
    assert load_task_toml(text, Path(), TOKEN).spec.reward.min_units == expected


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mine.npz").write_bytes(data)
    with pytest.raises(OperatorError, match="source must be"):
        load_task_toml(DIGITS.replace("sklearn:digits", "mine.npz"), tmp_path, TOKEN)
