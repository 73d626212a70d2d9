"""The rows of a task, from files of unknown origin (docs/spec/training.md, section 1).

An npz file is read without numpy's loader: without pickles or literal evaluation, with exactly the
members that the manifest announces, and with no byte unpacked beyond the announced length.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from chain.crypto import content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.training.architectures import input_shape
from chain.training.resources import count_rows_bytes
from chain.training.task_spec import Data, Shard, TaskSpec

NPY_MAGIC: Final = b"\x93NUMPY\x01\x00"
"""The start of npy format 1.0, the only one that numpy writes for arrays without fields."""

MAX_NPY_HEADER_BYTES: Final = 1_024
"""The longest array header that is read; numpy's own header takes 128 bytes."""

MAX_FEATURE: Final = 2.0**20
"""The largest magnitude of a feature: no activation of a sane model overflows from there."""

COMPRESSIONS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What numpy writes. bzip2 and LZMA take ten times as long to unpack as deflate."""

TYPE_CODES: Final = {"float32": "<f4", "uint8": "|u1", "int64": "<i8"}
"""numpy's names of the manifest's element types."""


RowNumbers = NDArray[np.int64]
"""Numbers of rows, held-out ones included, from 0."""


class Rows(Protocol):
    """All rows of a task, the held-out ones included."""

    def take(self, rows: RowNumbers) -> tuple[torch.Tensor, torch.Tensor]:
        """Some rows on the device that computes.

        Returns:
            Features, float32, (rows, ...), in the shape that the model takes; and labels, int64,
            (rows,), each less than the number of classes.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Rows in the memory of the device: float32 features and int64 labels."""

    features: torch.Tensor
    labels: torch.Tensor

    def take(self, rows: RowNumbers) -> tuple[torch.Tensor, torch.Tensor]:
        """Some rows."""
        wanted = torch.from_numpy(rows).to(self.labels.device)
        return self.features[wanted], self.labels[wanted]


@dataclass(frozen=True, slots=True, eq=False)
class MappedRows:
    """Rows in a file, in the types of the manifest; only those that are taken are read."""

    features: NDArray[np.generic]
    labels: NDArray[np.generic]
    device: torch.device

    def take(self, rows: RowNumbers) -> tuple[torch.Tensor, torch.Tensor]:
        """Some rows, converted."""
        features, labels = _widen(self.features[rows], self.labels[rows])
        return torch.from_numpy(features).to(self.device), torch.from_numpy(labels).to(self.device)


def store_rows(spec: TaskSpec, shards: Iterable[bytes], path: Path) -> None:
    """Write the rows of `spec` over an existing file: all features, then all labels.

    Raises:
        RejectedInputError: A shard is not that of the manifest, or its content is not as announced.
        OSError: The file cannot be written.
    """
    starts = [0, _count_feature_bytes(spec)]
    with path.open("r+b") as file:
        for arrays in _read_shards(spec, shards):
            for index, array in enumerate(arrays):
                file.seek(starts[index])
                file.write(array.data)
                starts[index] += array.nbytes


def map_rows(spec: TaskSpec, path: Path, device: torch.device) -> MappedRows:
    """The rows in a file that `store_rows` has written. This reads none of them.

    Raises:
        RejectedInputError: The file has another length.
        OSError: The file cannot be read.
    """
    if path.stat().st_size != count_rows_bytes(spec):
        raise RejectedInputError(
            RejectionReason.CONTENT_MISMATCH, f"{path.name} is not {count_rows_bytes(spec)} bytes"
        )
    count, data = spec.data.row_count, spec.data
    features = np.memmap(
        path, TYPE_CODES[data.feature_type], "r", shape=(count, *input_shape(spec.model))
    )
    labels = np.memmap(path, TYPE_CODES[data.label_type], "r", _count_feature_bytes(spec), (count,))
    return MappedRows(features.view(np.ndarray), labels.view(np.ndarray), device)


def _count_feature_bytes(spec: TaskSpec) -> int:
    item_bytes = np.dtype(TYPE_CODES[spec.data.feature_type]).itemsize
    return spec.data.row_count * prod(spec.data.sample_shape) * item_bytes


def load_dataset(spec: TaskSpec, shards: Iterable[bytes], device: torch.device) -> Dataset:
    """The rows of `spec` from the bytes of its shards, in manifest order, taken one at a time.

    Raises:
        RejectedInputError: A shard is not that of the manifest, or its content is not as announced.
    """
    features = np.empty((spec.data.row_count, *spec.data.sample_shape), np.float32)
    labels = np.empty(spec.data.row_count, np.int64)
    start = 0
    for stored in _read_shards(spec, shards):
        rows = slice(start, start + len(stored[1]))
        features[rows], labels[rows] = _widen(*stored)
        start = rows.stop
    shape = (-1, *input_shape(spec.model))
    return Dataset(
        features=torch.from_numpy(features.reshape(shape)).to(device),
        labels=torch.from_numpy(labels).to(device),
    )


def _read_shards(
    spec: TaskSpec, shards: Iterable[bytes]
) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    """Yield the features and labels of each shard as they are stored, with lawful values."""
    for shard, data in zip(spec.data.shards, shards, strict=True):
        features, labels = read_shard(spec.data, shard, data)
        # The comparisons are written so that NaN fails them.
        if not (features.max() <= MAX_FEATURE and features.min() >= -MAX_FEATURE):
            raise _refusal("a feature is not finite or exceeds 2**20")
        if not (labels.min() >= 0 and labels.max() < spec.model.classes):
            raise _refusal(f"a label is not one of {spec.model.classes} classes")
        yield features, labels


def _widen(
    features: NDArray[np.generic], labels: NDArray[np.generic]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Stored values as a model takes them. A stored byte stands for a 255th of it."""
    wide = features.astype(np.float32)
    if features.dtype == np.uint8:
        np.divide(wide, np.float32(255), out=wide)
    return wide, labels.astype(np.int64)


def read_file(path: Path, byte_count: int) -> bytes:
    """The content of a file that must be `byte_count` long.

    Raises:
        RejectedInputError: The file is longer or shorter. At most one byte too many is read.
    """
    with path.open("rb") as file:
        data = file.read(byte_count + 1)
    if len(data) != byte_count:
        raise RejectedInputError(
            RejectionReason.CONTENT_MISMATCH, f"{path.name} is not {byte_count} bytes long"
        )
    return data


def read_shard(
    manifest: Data, shard: Shard, data: bytes
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Features (rows, *sample_shape) and labels (rows,) of one npz file, in the types announced.

    Raises:
        RejectedInputError: The bytes have another content id, or are not as announced.
    """
    if len(data) != shard.byte_count or content_id(data) != shard.content_id:
        raise RejectedInputError(
            RejectionReason.CONTENT_MISMATCH, f"not the shard {shard.content_id.hex()}"
        )
    names = {f"{manifest.feature_name}.npy", f"{manifest.label_name}.npy"}
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            if sorted(archive.namelist()) != sorted(names):
                raise _refusal(f"the shard's members are not {', '.join(sorted(names))}")
            if any(each.compress_type not in COMPRESSIONS for each in archive.infolist()):
                raise _refusal("the shard is compressed by another method than deflate")
            rows = shard.row_count
            features = _read_array(
                archive,
                manifest.feature_name,
                manifest.feature_type,
                (rows, *manifest.sample_shape),
            )
            labels = _read_array(archive, manifest.label_name, manifest.label_type, (rows,))
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError),
        *(NotImplementedError, RuntimeError),  # unknown compression, encryption
    ) as error:
        raise _refusal(f"the shard is not a readable npz file: {error}") from error
    return features, labels


def _read_array(
    archive: zipfile.ZipFile, name: str, element_type: str, shape: tuple[int, ...]
) -> NDArray[np.generic]:
    code = TYPE_CODES[element_type]
    byte_count = prod(shape) * np.dtype(code).itemsize
    limit = len(NPY_MAGIC) + 2 + MAX_NPY_HEADER_BYTES + byte_count
    with archive.open(f"{name}.npy") as member:
        data = member.read(limit + 1)
    start = len(NPY_MAGIC) + 2
    end = start + int.from_bytes(data[len(NPY_MAGIC) : start], "little")
    expected = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {shape}, }}"
    if not data.startswith(NPY_MAGIC) or data[start:end].decode("latin-1").rstrip() != expected:
        raise _refusal(f"{name} is not an array {code} {shape} in C order, npy format 1.0")
    if len(data) != end + byte_count:
        raise _refusal(f"{name} has another length than its header says")
    return np.frombuffer(data, code, offset=end).reshape(shape)


def _refusal(problem: str) -> RejectedInputError:
    return RejectedInputError(RejectionReason.BAD_SPEC, problem)
