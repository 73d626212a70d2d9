from pathlib import Path

import pytest

from pot_common.atomic_file import write_atomically


def test_file_holds_what_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", b"key")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_file_and_its_name_are_durable_on_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    synced: list[tuple[bool, bool]] = []

    def record(descriptor: int) -> None:
        is_directory = Path(f"/proc/self/fd/{descriptor}").is_dir()
        synced.append((is_directory, path.exists()))

    monkeypatch.setattr("pot_common.atomic_file.os.fsync", record)
    write_atomically(path, b"data")
    # First the bytes, while the name is not there; then the directory, with the name in it.
    assert synced == [(False, False), (True, True)]


def test_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("pot_common.atomic_file.os.fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
