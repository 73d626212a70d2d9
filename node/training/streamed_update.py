"""One round's update of a training state, from files to files (docs/spec/training.md, 6 to 8).

The numbers are those of chain/training/{aggregation,optimizer}.py. Everything there but the
gradients' norms works value by value, so the state is updated in slices: for each slice, the same
part of every gradient is read and summed. The memory depends neither on the number of parameters
nor on that of gradients.

An update is done in steps of a second at most, so that other tasks can have their turns in between.
First each file is checked, then each slice is written, then each written file is hashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from chain.crypto import CHUNK_BYTES, content_id_of_chunks, merkle_leaf
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Hash32
from chain.training.aggregation import GradientSum, compute_weights
from chain.training.architectures import count_parameters
from chain.training.encoding import (
    BLOCK_VALUES,
    HEADER_BYTES,
    Gradient,
    GradientHeader,
    count_blocks,
    count_payload_bytes,
    decode_blocks,
    validate_header,
    validate_norm,
)
from chain.training.optimizer import apply_update, initial_state
from chain.training.state import FLOAT32_BYTES, TrainingState, compute_layout
from chain.training.task_spec import TaskSpec, compute_learning_rate_ppb

SLICE_BLOCKS: Final = 4_096
"""Blocks that are updated at a time: 2**20 parameters, for which sums, state and temporary copies
take about 60 MB."""

READ_BLOCKS: Final = 2**18
"""Blocks of all gradients together that are read for a slice: 0.7 s at most."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file with known bytes."""

    path: Path
    content_id: Hash32


@dataclass(frozen=True, slots=True)
class StoredGradient:
    """An accepted gradient in a file."""

    file: StoredFile
    header: GradientHeader
    units: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The steps of an update that are done."""

    checked_count: int = 0
    """The files of the state before that were checked."""
    norms: tuple[int, ...] = ()
    """The squared norms of the gradients that were checked."""
    slice_count: int = 0
    """The slices that were written."""
    part_ids: tuple[Hash32, ...] = ()
    """The content ids of the written files that were hashed; the update is done with the last."""

    @property
    def step_count(self) -> int:
        """The number of steps that are done."""
        checked_count = self.checked_count + len(self.norms)
        return checked_count + self.slice_count + len(self.part_ids)


@dataclass(frozen=True, slots=True)
class _Slice:
    """A stretch of blocks, and the parameters in it."""

    first_block: int
    block_count: int
    parameter_count: int


def begin_state(
    spec: TaskSpec, theta: StoredFile, outputs: Sequence[Path], progress: Progress
) -> Progress:
    """Do the next step of writing the optimizer's initial tensors.

    Args:
        spec: The task.
        theta: The initial weights.
        outputs: Existing files, one for each tensor.
        progress: The steps that are done.

    Raises:
        RejectedInputError: The weights are other bytes, or no valid initial weights.
    """
    if progress.checked_count == 0:
        _check_file(theta, _layout(spec)[0])
        return replace(progress, checked_count=1)
    slices = _list_slices(spec, 1)
    if progress.slice_count == len(slices):
        return _finish_part(outputs, progress)
    part = slices[progress.slice_count]
    values = _read_values(theta.path, part)
    _write_slice(spec, outputs, part, initial_state(spec.optimizer, values).tensors)
    return replace(progress, slice_count=progress.slice_count + 1)


def advance_state(
    spec: TaskSpec,
    round_number: int,
    state: Sequence[StoredFile],
    gradients: Sequence[StoredGradient],
    outputs: Sequence[Path],
    progress: Progress,
) -> Progress:
    """Do the next step of writing the state after a round with these accepted gradients.

    Args:
        spec: The task.
        round_number: The round.
        state: The parts of the state before it, theta first.
        gradients: At least one.
        outputs: Existing files, one for each part of the new state.
        progress: The steps that are done.

    Raises:
        RejectedInputError: CONTENT_MISMATCH: a file has other bytes. BAD_GRADIENT: a gradient is
            not in canonical form.
    """
    layout = _layout(spec)
    if not gradients or not len(state) == len(outputs) == len(layout):
        raise RejectedInputError(RejectionReason.MALFORMED, "files are missing")
    if progress.checked_count < len(state):
        _check_file(state[progress.checked_count], layout[progress.checked_count])
        return replace(progress, checked_count=progress.checked_count + 1)
    slices = _list_slices(spec, len(gradients))
    if len(progress.norms) < len(gradients):
        norm = _check_gradient(gradients[len(progress.norms)], slices)
        return replace(progress, norms=(*progress.norms, norm))
    if progress.slice_count == len(slices):
        return _finish_part(outputs, progress)
    part = slices[progress.slice_count]
    units = [gradient.units for gradient in gradients]
    weights = compute_weights(spec.aggregator, list(zip(units, progress.norms, strict=True)))
    total = GradientSum(part.parameter_count)
    for gradient, weight in zip(gradients, weights, strict=True):
        total.add(_read_blocks(gradient, part), gradient.units, weight)
    before = _read_state(spec, state, part)
    rate = compute_learning_rate_ppb(spec, round_number)
    after = apply_update(spec.optimizer, rate, before, total.mean())
    _write_slice(spec, outputs, part, after.parts)
    return replace(progress, slice_count=progress.slice_count + 1)


def _finish_part(outputs: Sequence[Path], progress: Progress) -> Progress:
    part_id = hash_file(outputs[len(progress.part_ids)])
    return replace(progress, part_ids=(*progress.part_ids, part_id))


def hash_file(path: Path) -> Hash32:
    """The content id of a file, which is read chunk by chunk."""
    with path.open("rb") as file:
        leaves = [merkle_leaf(file.read(CHUNK_BYTES))]
        while chunk := file.read(CHUNK_BYTES):
            leaves.append(merkle_leaf(chunk))
        return content_id_of_chunks(file.tell(), leaves)


def _layout(spec: TaskSpec) -> tuple[int, ...]:
    return compute_layout(spec.optimizer, count_parameters(spec.model))


def _list_slices(spec: TaskSpec, gradient_count: int) -> list[_Slice]:
    size = max(1, min(SLICE_BLOCKS, READ_BLOCKS // gradient_count))
    parameter_count = count_parameters(spec.model)
    block_count = count_blocks(parameter_count)
    return [
        _Slice(
            first,
            min(size, block_count - first),
            min(size * BLOCK_VALUES, parameter_count - first * BLOCK_VALUES),
        )
        for first in range(0, block_count, size)
    ]


# Gradients.


def _check_gradient(gradient: StoredGradient, slices: Sequence[_Slice]) -> int:
    """The squared norm of a gradient that is checked as a whole.

    Raises:
        RejectedInputError: CONTENT_MISMATCH or BAD_GRADIENT.
    """
    _check_file(gradient.file, count_payload_bytes(gradient.header.parameter_count))
    with gradient.file.path.open("rb") as file:
        validate_header(file.read(HEADER_BYTES), gradient.header)
    norm = sum(_read_blocks(gradient, part).squared_norm for part in slices)
    validate_norm(norm)
    return norm


def _read_blocks(gradient: StoredGradient, part: _Slice) -> Gradient:
    codes_start = HEADER_BYTES + count_blocks(gradient.header.parameter_count)
    with gradient.file.path.open("rb") as file:
        exponents = _read_exactly(file, HEADER_BYTES + part.first_block, part.block_count)
        codes = _read_exactly(
            file, codes_start + part.first_block * BLOCK_VALUES, part.block_count * BLOCK_VALUES
        )
    return decode_blocks(
        np.frombuffer(exponents, np.int8),
        np.frombuffer(codes, np.int8).reshape(-1, BLOCK_VALUES),
        part.parameter_count,
    )


# States. A part with one value for each parameter is cut into slices, any other is small and whole.


def _read_state(spec: TaskSpec, state: Sequence[StoredFile], part: _Slice) -> TrainingState:
    layout = _layout(spec)
    parts = [
        _read_values(file.path, part) if size == layout[0] else file.path.read_bytes()
        for file, size in zip(state, layout, strict=True)
    ]
    return TrainingState(parts[0], tuple(parts[1:]))


def _read_values(path: Path, part: _Slice) -> bytes:
    start = part.first_block * BLOCK_VALUES * FLOAT32_BYTES
    with path.open("rb") as file:
        return _read_exactly(file, start, part.parameter_count * FLOAT32_BYTES)


def _write_slice(
    spec: TaskSpec, outputs: Sequence[Path], part: _Slice, values: Sequence[bytes]
) -> None:
    """Write one slice of the last `len(values)` parts of a state."""
    layout = _layout(spec)
    sizes = layout[len(layout) - len(values) :]
    start = part.first_block * BLOCK_VALUES * FLOAT32_BYTES
    for path, size, data in zip(outputs, sizes, values, strict=True):
        with path.open("r+b") as file:
            file.seek(start if size == layout[0] else 0)
            file.write(data)


# Files.


def _check_file(file: StoredFile, size: int) -> None:
    if file.path.stat().st_size != size or hash_file(file.path) != file.content_id:
        raise RejectedInputError(
            RejectionReason.CONTENT_MISMATCH, f"{file.path.name} is not the blob of its name"
        )


def _read_exactly(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "a file became shorter")
    return data
