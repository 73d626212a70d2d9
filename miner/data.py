"""The rows of a task, from files of unknown origin (docs/spec/training.md, section 1).

An npz file is read without numpy's loader: without pickles or literal evaluation, with exactly the
members that the manifest announces, and with no byte unpacked beyond the announced length.
"""

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from chain.crypto import content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.training.architectures import input_shape
from chain.training.task_spec import Data, FeatureType, Shard, TaskSpec

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


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """All rows of a task, the held-out ones included.

    Attributes:
        features: float32, (rows, ...), in the shape that the model takes.
        labels: int64, (rows,), each less than the number of classes.
    """

    features: torch.Tensor
    labels: torch.Tensor


def load_dataset(spec: TaskSpec, shards: Iterable[bytes], device: torch.device) -> Dataset:
    """The rows of `spec` from the bytes of its shards, in manifest order, taken one at a time.

    Raises:
        RejectedInputError: A shard is not that of the manifest, or its content is not as announced.
    """
    features = np.empty((spec.data.row_count, *spec.data.sample_shape), np.float32)
    labels = np.empty(spec.data.row_count, np.int64)
    start = 0
    for shard, data in zip(spec.data.shards, shards, strict=True):
        rows = slice(start, start + shard.row_count)
        features[rows], labels[rows] = read_shard(spec.data, shard, data)
        # The comparisons are written so that NaN fails them.
        if not (features[rows].max() <= MAX_FEATURE and features[rows].min() >= -MAX_FEATURE):
            raise _refusal("a feature is not finite or exceeds 2**20")
        if not (labels[rows].min() >= 0 and labels[rows].max() < spec.model.classes):
            raise _refusal(f"a label is not one of {spec.model.classes} classes")
        start += shard.row_count
    shape = (-1, *input_shape(spec.model))
    return Dataset(
        features=torch.from_numpy(features.reshape(shape)).to(device),
        labels=torch.from_numpy(labels).to(device),
    )


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
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features float32(rows, *sample_shape) and labels int64(rows,) of one npz file.

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
    if manifest.feature_type is FeatureType.UINT8:
        wide = features.astype(np.float32)
        np.divide(wide, np.float32(255), out=wide)
        return wide, labels.astype(np.int64, copy=False)
    return features.astype(np.float32, copy=False), labels.astype(np.int64, copy=False)


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
