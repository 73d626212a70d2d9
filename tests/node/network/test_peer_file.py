"""Scores on disk."""

import json
import time
from pathlib import Path

import pytest

from node.network.peer_file import load_records, save_records

RECORDS = {"12D3KooWbob": (50.0, 120.5)}


def test_saved_records_are_loaded_with_their_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "peers.json"
    save_records(path, RECORDS)
    saved_at = int(time.time())
    monkeypatch.setattr(time, "time", lambda: saved_at + 60)
    records, age_seconds = load_records(path)
    assert records == RECORDS
    assert 59 <= age_seconds <= 61


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        json.dumps({"version": 2, "savedAt": 0, "peers": {}}).encode(),
        json.dumps({"version": 1, "savedAt": 0, "peers": [1]}).encode(),
        json.dumps({"version": 1, "savedAt": "x", "peers": {"a": [1, 2]}}).encode(),
        json.dumps({"version": 1, "savedAt": 0, "peers": {"a": [1]}}).encode(),
        # Found by fuzzing: an integer too large for a float.
        json.dumps({"version": 1, "savedAt": 10**400, "peers": {"a": [1, 2]}}).encode(),
        json.dumps({"version": 1, "savedAt": 0, "peers": {"a": [1, 10**400]}}).encode(),
        b"[" * 100_000,
    ],
)
def test_damaged_file_is_ignored(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    assert load_records(path)[0] == {}
    assert load_records(tmp_path / "none.json") == ({}, 0.0)


def test_failing_disk_does_not_stop_the_node(tmp_path: Path) -> None:
    save_records(tmp_path / "missing" / "peers.json", RECORDS)
