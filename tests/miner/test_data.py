import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.training.architectures import Mlp
from chain.training.resources import count_rows_bytes
from chain.training.task_spec import (
    FeatureType,
    LabelType,
    Shard,
    TaskSpec,
)
from miner.data import load_dataset, map_rows, read_shard, store_rows
from node.client.task_file import encode_npz
from tests.worlds.training import SPEC

X = (np.arange(5 * 64, dtype=np.float32) / 64).reshape(5, 1, 8, 8)
Y = np.array([0, 9, 3, 3, 1], np.uint8)
NPZ = encode_npz({"x": X, "y": Y})
CPU = torch.device("cpu")


def spec_of(
    *files: bytes, rows: int = 5, feature_type: FeatureType = FeatureType.FLOAT32
) -> TaskSpec:
    shards = tuple(Shard(content_id(file), len(file), rows) for file in files)
    return replace(SPEC, data=replace(SPEC.data, shards=shards, feature_type=feature_type))


def refusal_of(file: bytes, spec: TaskSpec | None = None) -> str:
    with pytest.raises(RejectedInputError) as refusal:
        load_dataset(spec or spec_of(file), [file], CPU)
    return refusal.value.detail


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(values: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = BytesIO()
    np.lib.format.write_array(file, values, version=version)
    return file.getvalue()


def test_shards_become_rows_in_manifest_order() -> None:
    second = encode_npz({"x": X[::-1], "y": Y[::-1]})
    dataset = load_dataset(spec_of(NPZ, second), [NPZ, second], CPU)
    assert torch.equal(dataset.features, torch.from_numpy(np.concatenate([X, X[::-1]])))
    assert dataset.labels.tolist() == [0, 9, 3, 3, 1, 1, 3, 3, 9, 0]


def test_compressed_and_plain_files_of_numpy_are_read() -> None:
    for write in (np.savez, np.savez_compressed):
        file = BytesIO()
        write(file, x=X, y=Y)
        data = file.getvalue()
        assert torch.equal(load_dataset(spec_of(data), [data], CPU).features, torch.from_numpy(X))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_slow_compression_is_refused_before_it_is_unpacked(method: int) -> None:
    file = zipped({"x.npy": npy(X), "y.npy": npy(Y)}, method)
    assert "another method" in refusal_of(file)


def test_uint8_features_are_divided_by_255() -> None:
    pixels = (np.arange(5 * 64) % 256).astype(np.uint8).reshape(5, 1, 8, 8)
    file = encode_npz({"x": pixels, "y": Y})
    dataset = load_dataset(spec_of(file, feature_type=FeatureType.UINT8), [file], CPU)
    assert torch.equal(dataset.features, torch.from_numpy(pixels).float() / 255)


def test_equal_arrays_give_equal_bytes() -> None:
    assert encode_npz({"x": X.copy(order="F"), "y": Y}) == NPZ


def test_file_with_another_content_id_is_refused() -> None:
    with pytest.raises(RejectedInputError) as refusal:
        load_dataset(spec_of(NPZ), [NPZ[:-1] + b"\x01"], CPU)
    assert refusal.value.reason is RejectionReason.CONTENT_MISMATCH


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (b"not a zip archive", "not a readable npz"),
        (zipped({"x.npy": npy(X)}), "members are not"),
        (zipped({"x.npy": npy(X), "y.npy": npy(Y), "z.npy": b""}), "members are not"),
        (zipped({"x.npy": npy(X), "y.npy": npy(Y, (2, 0))}), "y is not an array"),
        (zipped({"x.npy": npy(X.astype(np.float64)), "y.npy": npy(Y)}), "x is not an array"),
        (zipped({"x.npy": npy(np.asfortranarray(X)), "y.npy": npy(Y)}), "x is not an array"),
        (zipped({"x.npy": npy(X[:4]), "y.npy": npy(Y)}), "x is not an array"),
        (zipped({"x.npy": npy(X) + b"\0", "y.npy": npy(Y)}), "another length"),
        (zipped({"x.npy": npy(X)[:-1], "y.npy": npy(Y)}), "another length"),
        (zipped({"x.npy": npy(np.full_like(X, np.nan)), "y.npy": npy(Y)}), "not finite"),
        (zipped({"x.npy": npy(np.full_like(X, 2.0**21)), "y.npy": npy(Y)}), "not finite"),
        (zipped({"x.npy": npy(X), "y.npy": npy(Y + np.uint8(1))}), "not one of 10 classes"),
    ],
)
def test_shard_that_differs_from_the_manifest_is_refused(file: bytes, problem: str) -> None:
    assert problem in refusal_of(file)


def test_pickle_is_never_loaded() -> None:
    file = BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    assert "x is not an array" in refusal_of(zipped({"x.npy": file.getvalue(), "y.npy": npy(Y)}))


def test_zip_bomb_is_not_unpacked_beyond_the_announced_size() -> None:
    bomb = zipped({"x.npy": npy(X) + bytes(10**8), "y.npy": npy(Y)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10**6
    assert "another length" in refusal_of(bomb)


@settings(max_examples=150)
@given(st.integers(0, len(NPZ) - 1), st.integers(0, 255))
def test_damaged_file_is_refused_or_read(position: int, value: int) -> None:
    damaged = bytearray(NPZ)
    damaged[position] = value
    file = bytes(damaged)
    shard = Shard(content_id(file), len(file), 5)
    try:
        features, labels = read_shard(SPEC.data, shard, file)
    except RejectedInputError:
        return
    assert features.shape == X.shape
    assert labels.shape == Y.shape


@pytest.mark.parametrize("feature_type", list(FeatureType))
@pytest.mark.parametrize("label_type", list(LabelType))
def test_rows_in_a_file_are_those_in_memory(
    tmp_path: Path, feature_type: FeatureType, label_type: LabelType
) -> None:
    pixels = (np.arange(5 * 9) % 256).astype(feature_type.value).reshape(5, 9)
    files = [
        encode_npz({"x": x, "y": y.astype(label_type.value)})
        for x, y in ((pixels, Y), (pixels[::-1], Y[::-1]))
    ]
    spec = spec_of(*files, feature_type=feature_type)
    data = replace(spec.data, sample_shape=(9,), label_type=label_type)
    spec = replace(spec, model=Mlp(inputs=9, hidden=(), classes=10), data=data)
    path = tmp_path / "rows"
    path.write_bytes(bytes(count_rows_bytes(spec)))

    store_rows(spec, files, path)

    rows = np.array([9, 0, 3, 3])
    loaded, mapped = load_dataset(spec, files, CPU), map_rows(spec, path, CPU)
    for expected, got in zip(loaded.take(rows), mapped.take(rows), strict=True):
        assert (got.dtype, torch.equal(got, expected)) == (expected.dtype, True)


def test_file_of_rows_with_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bytes(count_rows_bytes(spec_of(NPZ)) - 1))
    with pytest.raises(RejectedInputError) as refusal:
        map_rows(spec_of(NPZ), path, CPU)
    assert refusal.value.reason is RejectionReason.CONTENT_MISMATCH
