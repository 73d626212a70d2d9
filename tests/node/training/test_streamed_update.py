"""The state that is computed from files slice by slice is that of the definition, bit by bit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from chain.crypto import content_id
from chain.errors import RejectedInputError
from chain.primitives import Hash32
from chain.training.aggregation import aggregate
from chain.training.architectures import Mlp, count_parameters
from chain.training.encoding import (
    BLOCK_VALUES,
    GradientHeader,
    decode_gradient,
    encode_gradient,
)
from chain.training.optimizer import apply_update, initial_state
from chain.training.state import TrainingState, compute_layout, compute_part_ids
from chain.training.task_spec import (
    Aggregator,
    Optimizer,
    Sgd,
    TaskSpec,
    compute_learning_rate_ppb,
)
from node.training import streamed_update
from node.training.streamed_update import (
    Progress,
    StoredFile,
    StoredGradient,
    advance_state,
    begin_state,
)
from tests.worlds.training import ADAMW, SPEC, header_of, random_gradient

MODEL = Mlp(inputs=20, hidden=(30,), classes=10)
"""940 parameters: four blocks, the last of them not full."""
SIZE = count_parameters(MODEL)
THETA = (np.arange(SIZE, dtype=np.float32) / 512 - 1).astype("<f4").tobytes()
ROUND = 3
UNITS = (2, 1, 5)
MOMENTUM = Sgd(momentum_bits=0x3F666666)


@pytest.fixture(autouse=True, params=[(1, 2**18), (3, 2**18), (4_096, 2**18), (4_096, 7)])
def slice_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of few blocks, of all, and of 7 blocks of three gradients."""
    slice_blocks, read_blocks = request.param
    monkeypatch.setattr(streamed_update, "SLICE_BLOCKS", slice_blocks)
    monkeypatch.setattr(streamed_update, "READ_BLOCKS", read_blocks)


def do_all(step: Callable[[Progress], Progress], outputs: Sequence[Path]) -> list[Hash32]:
    """Do all steps of an update, and return the content ids of what it wrote."""
    progress = Progress()
    while len(progress.part_ids) < len(outputs):
        done = progress.step_count
        progress = step(progress)
        assert progress.step_count == done + 1
    return list(progress.part_ids)


def spec_of(optimizer: Optimizer, aggregator: Aggregator = Aggregator.CLIP_MEAN) -> TaskSpec:
    return replace(SPEC, model=MODEL, optimizer=optimizer, aggregator=aggregator)


def header(number: int) -> GradientHeader:
    return header_of(number, SIZE)


def payload_of(number: int, norm: float = 1.0) -> bytes:
    return encode_gradient(header(number), random_gradient(number, SIZE, norm))


PAYLOADS = [payload_of(0), payload_of(1, 0.3), payload_of(2, 0.01)]


def stored(directory: Path, data: bytes) -> StoredFile:
    path = directory / content_id(data).hex()
    path.write_bytes(data)
    return StoredFile(path, content_id(data))


def gradients_in(directory: Path, payloads: list[bytes]) -> list[StoredGradient]:
    return [
        StoredGradient(stored(directory, payload), header(number), units)
        for number, (payload, units) in enumerate(zip(payloads, UNITS, strict=True))
    ]


def outputs_for(directory: Path, sizes: tuple[int, ...]) -> list[Path]:
    paths = [directory / f"output-{number}" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    return paths


def begin(directory: Path, spec: TaskSpec) -> TrainingState:
    sizes = compute_layout(spec.optimizer, SIZE)[1:]
    paths = outputs_for(directory, sizes)
    ids = do_all(partial(begin_state, spec, stored(directory, THETA), paths), paths)
    state = TrainingState(THETA, tuple(path.read_bytes() for path in paths))
    assert ids == list(compute_part_ids(state)[1:])
    return state


def advance(directory: Path, spec: TaskSpec, state: TrainingState) -> TrainingState:
    paths = outputs_for(directory, compute_layout(spec.optimizer, SIZE))
    parts = [stored(directory, part) for part in state.parts]
    gradients = gradients_in(directory, PAYLOADS)
    ids = do_all(partial(advance_state, spec, ROUND, parts, gradients, paths), paths)
    theta, *tensors = [path.read_bytes() for path in paths]
    then = TrainingState(theta, tuple(tensors))
    assert ids == list(compute_part_ids(then))
    return then


@pytest.mark.parametrize("optimizer", [Sgd(0), MOMENTUM, ADAMW])
@pytest.mark.parametrize("aggregator", list(Aggregator))
def test_streamed_state_equals_that_of_the_definition(
    tmp_path: Path, optimizer: Optimizer, aggregator: Aggregator
) -> None:
    spec = spec_of(optimizer, aggregator)
    state = begin(tmp_path, spec)
    assert state == initial_state(optimizer, THETA)
    parts = [
        (units, decode_gradient(payload, header(number)))
        for number, (payload, units) in enumerate(zip(PAYLOADS, UNITS, strict=True))
    ]
    mean = aggregate(aggregator, SIZE, parts)
    rate = compute_learning_rate_ppb(spec, ROUND)
    for _ in range(2):
        expected = apply_update(optimizer, rate, state, mean)
        state = advance(tmp_path, spec, state)
        assert state == expected


def changed(data: bytes, index: int, value: int) -> bytes:
    return data[:index] + bytes([value]) + data[index + 1 :]


FIRST_CODE = 128 + 4


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        (changed(PAYLOADS[1], 0, 0), "the header's magic differs"),
        (changed(PAYLOADS[1], FIRST_CODE + 3 * BLOCK_VALUES, 0x80), "a code is -128"),
        (changed(PAYLOADS[1], 128 + 2, 0), "an exponent is out of range"),
        (changed(PAYLOADS[1], len(PAYLOADS[1]) - 1, 1), "the padding is not zero"),
    ],
)
def test_gradient_out_of_canonical_form_is_refused(
    tmp_path: Path, payload: bytes, detail: str
) -> None:
    spec = spec_of(Sgd(0))
    gradients = gradients_in(tmp_path, [PAYLOADS[0], payload, PAYLOADS[2]])
    outputs = outputs_for(tmp_path, (len(THETA),))
    state = [stored(tmp_path, THETA)]
    with pytest.raises(RejectedInputError, match=detail) as refusal:
        do_all(partial(advance_state, spec, ROUND, state, gradients, outputs), outputs)
    assert refusal.value.reason == "bad_gradient"


@pytest.mark.parametrize("what", ["gradient", "state", "short"])
def test_file_that_the_disk_changed_is_refused(tmp_path: Path, what: str) -> None:
    spec = spec_of(Sgd(0))
    gradients = gradients_in(tmp_path, PAYLOADS)
    state = [stored(tmp_path, THETA)]
    if what == "gradient":
        gradients[1] = replace(
            gradients[1], file=replace(gradients[1].file, content_id=Hash32(bytes(32)))
        )
    elif what == "state":
        state[0].path.write_bytes(changed(THETA, 7, 9))
    else:
        state[0].path.write_bytes(THETA[:-1])
    outputs = outputs_for(tmp_path, (len(THETA),))
    with pytest.raises(RejectedInputError) as refusal:
        do_all(partial(advance_state, spec, ROUND, state, gradients, outputs), outputs)
    assert refusal.value.reason == "content_mismatch"


def test_initial_weights_out_of_bounds_are_refused(tmp_path: Path) -> None:
    values = np.frombuffer(THETA, "<f4").copy()
    values[-1] = np.inf
    weights = stored(tmp_path, values.tobytes())
    outputs = outputs_for(tmp_path, (len(THETA),))
    with pytest.raises(RejectedInputError, match="not finite"):
        do_all(partial(begin_state, spec_of(MOMENTUM), weights, outputs), outputs)
