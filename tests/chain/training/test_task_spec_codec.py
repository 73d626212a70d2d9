import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.contracts.task_registry import TaskTerms
from chain.crypto import sha256
from chain.errors import InvalidSpec, RejectionReason
from chain.training.architectures import Cnn, Mlp
from chain.training.task_spec import (
    Aggregator,
    HeldOut,
    SchedulePoint,
    Sgd,
    TaskSpec,
    compute_learning_rate_ppb,
)
from chain.training.task_spec_codec import (
    MAX_SPEC_BYTES,
    compute_spec_hash,
    compute_terms,
    decode_task_spec,
    encode_task_spec,
)
from tests.worlds.training import SPEC

SPECS = st.builds(
    replace,
    st.just(SPEC),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", fullmatch=True),
    model=st.one_of(
        st.builds(
            Cnn,
            image=st.just((1, 8, 8)),
            channels=st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple),
            classes=st.integers(2, 100),
        ),
        st.builds(
            Mlp,
            inputs=st.just(64),
            hidden=st.lists(st.integers(1, 64), max_size=4).map(tuple),
            classes=st.integers(2, 100),
        ),
    ),
    optimizer=st.one_of(st.just(SPEC.optimizer), st.builds(Sgd, st.integers(0, 0x3F7FFFFF))),
    aggregator=st.sampled_from(Aggregator),
    round_count=st.integers(1, 1_000_000),
)


def text_with(old: str, new: str) -> bytes:
    text = encode_task_spec(SPEC).decode()
    assert old in text
    return text.replace(old, new, 1).encode()


@given(SPECS)
def test_decoding_inverts_encoding(spec: TaskSpec) -> None:
    assert decode_task_spec(encode_task_spec(spec)) == spec


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidSpec):
        decode_task_spec(data)


@given(st.data())
def test_a_changed_byte_is_refused_or_is_another_task(data: st.DataObject) -> None:
    encoded = bytearray(encode_task_spec(SPEC))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    try:
        spec = decode_task_spec(bytes(encoded))
    except InvalidSpec:
        return
    assert encode_task_spec(spec) == bytes(encoded)


def test_spec_hash_is_sha256_of_the_canonical_bytes() -> None:
    assert compute_spec_hash(SPEC) == sha256(encode_task_spec(SPEC))


def test_terms_are_what_the_contract_holds() -> None:
    assert compute_terms(SPEC) == TaskTerms(
        spec_hash=compute_spec_hash(SPEC),
        token=SPEC.reward.token,
        unit_price=10**18,
        validator_fee=10**17,
        rounds=10,
        min_miners=3,
        min_units=3,
        max_units=8,
        audit_ppm=1_000_000,
        commit_seconds=10,
        verdict_seconds=20,
        result_seconds=30,
    )


def test_canonical_bytes_are_sorted_and_without_spaces() -> None:
    encoded = encode_task_spec(SPEC)
    assert (
        json.dumps(json.loads(encoded), sort_keys=True, separators=(",", ":")).encode() == encoded
    )


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"rounds":10', '"rounds":10.0', "not JSON"),
        ('"rounds":10', '"rounds":1e1', "not JSON"),
        ('"rounds":10', '"rounds":NaN', "not JSON"),
        ('"rounds":10', '"rounds":true', "spec.rounds"),
        ('"rounds":10', '"rounds":null', "spec.rounds"),
        ('"rounds":10', '"rounds":0', "spec.rounds"),
        ('"rounds":10', '"rounds": 10', "not canonical"),
        ('"rounds":10', '"rounds":10,"rounds":10', "not canonical"),
        ('"rounds":10', '"rounds":10,"sounds":10', "spec.sounds is not a known key"),
        ('"rounds":10', '"rounds":' + "9" * 5000, "not JSON"),
        (',"rounds":10', "", "spec.rounds is missing"),
        ('"version":1}', '"version":2}', "spec.model.version"),
        ('"architecture":"cnn"', '"architecture":"exec"', "spec.model.architecture"),
        ('"channels":[2,3]', '"channels":[2,3,4,5]', "spec.model.config.channels"),
        ('"channels":[2,3]', '"channels":[65536,65536]', "parameters"),
        ('"image":[1,8,8]', '"image":[1,8,9]', "does not fit"),
        ('"image":[1,8,8]', '"image":[1,8192,4096]', "activations a sample"),
        ('"image":[1,8,8]', '"image":[1,8]', "spec.model.config.image"),
        ('"first_row":50', '"first_row":81', "spec.held_out"),
        ('"local_steps":1', '"local_steps":2', "spec.local_steps"),
        ('"encoding":"int8"', '"encoding":"int4"', "spec.encoding"),
        ('"samples":8', '"samples":11', "spec.reward.max_units"),
        ('"min_miners":3', '"min_miners":9', "spec.reward.min_miners"),
        ('"min_units":3', '"min_units":2', "spec.reward.min_units must be from min_miners to 8"),
        ('"min_units":3', '"min_units":9', "spec.reward.min_units must be from min_miners to 8"),
        # 10 + 3 (20 + result) + result seconds, of 57 600.
        ('"result_seconds":30', '"result_seconds":14383', "spec.phases let an attempt with 3"),
        ('"unit_price":"1000', '"unit_price":"01000', "spec.reward.unit_price"),
        ('"token":"0x44', '"token":"0x4', "spec.reward.token"),
        ('"beta1":1063675494', '"beta1":1065353216', "spec.optimizer.beta1"),
        ("[[0,20000000]", "[[1,20000000]", "spec.learning_rate_ppb"),
        ("[9,2000000]]", "[0,2000000]]", "spec.learning_rate_ppb"),
        ('"https://example.org/shards"', '"file:///etc/passwd"', "spec.data.urls[0]"),
        ('"name":"small"', '"name":"../small"', "spec.name"),
        ('"format":"npz"', '"format":"pickle"', "spec.data.format"),
        ("33" * 32, "22" * 32, "spec.data.shards"),
        # 60 rows of 64 float32 and a label take 15 420 bytes.
        ('"bytes":5000', f'"bytes":{15_420 + 963 + 4_096 + 1}', "spec.data.shards[0].bytes"),
    ],
)
def test_a_broken_rule_is_named(old: str, new: str, where: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        decode_task_spec(text_with(old, new))
    assert where in refusal.value.detail


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("audit_ppm", 10_000, 1_000_000),
        ("tolerance_ppb", 10_000, 10_000_000),
        ("commit_seconds", 4, None),
        ("verdict_seconds", 4, None),
        ("result_seconds", 4, None),
        ("unit_milliseconds", 1, 86_400_000),
        ("evaluation_milliseconds", 1, 86_400_000),
        ("peak_bytes", 1, 2**50),
        ("disk_bytes", 1, 2**50),
    ],
)
def test_number_may_be_at_its_bounds_and_not_beyond(key: str, low: int, high: int | None) -> None:
    """The length of an attempt bounds its phases above."""
    old = re.search(rf'"{key}":[0-9]+', encode_task_spec(SPEC).decode())
    assert old is not None
    ends = ((low, low - 1),) if high is None else ((low, low - 1), (high, high + 1))
    for allowed, beyond in ends:
        decode_task_spec(text_with(old[0], f'"{key}":{allowed}'))
        with pytest.raises(InvalidSpec, match=key):
            decode_task_spec(text_with(old[0], f'"{key}":{beyond}'))


def test_sample_that_takes_a_worker_too_long_is_refused() -> None:
    """Work of other tasks waits while a worker computes one sample: 5.7 s with 2**36 operations."""
    model = Cnn(image=(64, 512, 512), channels=(128,), classes=2)
    with pytest.raises(InvalidSpec, match="operations a sample"):
        decode_task_spec(encode_task_spec(replace(SPEC, model=model)))


def test_shard_may_have_the_headers_and_the_waste_of_a_compressor() -> None:
    decode_task_spec(text_with('"bytes":5000', f'"bytes":{15_420 + 963 + 4_096}'))


def test_oversized_and_deeply_nested_input_is_refused() -> None:
    with pytest.raises(InvalidSpec) as refusal:
        decode_task_spec(b" " * (MAX_SPEC_BYTES + 1))
    assert refusal.value.reason is RejectionReason.TOO_LARGE
    with pytest.raises(InvalidSpec):
        decode_task_spec(b"[" * MAX_SPEC_BYTES)


SMALL_STACK = """
import sys, threading
from chain.errors import InvalidSpec
from chain.training.task_spec_codec import MAX_SPEC_BYTES, decode_task_spec
def decode():
    try:
        decode_task_spec(b"[" * MAX_SPEC_BYTES)
    except InvalidSpec:
        print("refused")
sys.setrecursionlimit(100_000)  # importing py-evm raises it, too
threading.stack_size(2**19)
thread = threading.Thread(target=decode)
thread.start()
thread.join()
"""


def test_deeply_nested_input_does_not_end_a_process_with_a_small_stack() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL_STACK], capture_output=True, text=True, check=False
    )
    assert done.stdout == "refused\n", done.returncode


def test_learning_rate_is_linear_between_points_and_constant_after() -> None:
    spec = replace(SPEC, schedule=(SchedulePoint(0, 100), SchedulePoint(3, 0), SchedulePoint(4, 7)))
    assert [compute_learning_rate_ppb(spec, i) for i in range(6)] == [100, 66, 33, 0, 7, 7]


def test_samples_are_the_rows_that_are_not_held_out() -> None:
    rows = [SPEC.row_of_sample(i) for i in range(SPEC.sample_count)]
    assert rows == [*range(50), *range(70, 100)]
    spec = replace(SPEC, held_out=HeldOut(first_row=0, row_count=20))
    assert [spec.row_of_sample(i) for i in range(spec.sample_count)] == [*range(20, 100)]
