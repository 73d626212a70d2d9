"""Scores and bans on disk, so that they outlive a restart (docs/spec/wire.md, section 1).

The node can do without the file: one that is missing, damaged or of another version is ignored.
"""

import json
import time
from pathlib import Path
from typing import Final

import structlog
from pydantic_core import from_json

from node.network.peers import RECORD_LIMIT
from pot_common.atomic_file import write_atomically

_log = structlog.get_logger("node.network")

VERSION: Final = 1
"""The version of the file format."""

FILE_LIMIT_BYTES: Final = 256 * RECORD_LIMIT
"""The most that is read: more than RECORD_LIMIT entries take."""

Records = dict[str, tuple[float, float]]
"""The score and the remaining seconds of the ban, by peer id."""


def save_records(path: Path, records: Records) -> None:
    """Replace the file. If the disk refuses, log a warning: the node works without it."""
    text = json.dumps({"version": VERSION, "savedAt": int(time.time()), "peers": records})
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        _log.warning("peer scores not saved", path=str(path), error=str(error))


def load_records(path: Path) -> tuple[Records, float]:
    """The saved records and their age in seconds; no records if the file cannot be read."""
    try:
        with path.open("rb") as file:
            content = from_json(file.read(FILE_LIMIT_BYTES))
        if content["version"] != VERSION:
            return {}, 0.0
        records = {
            str(peer_id): (float(score), float(ban_seconds))
            for peer_id, (score, ban_seconds) in content["peers"].items()
        }
        return records, max(0.0, time.time() - float(content["savedAt"]))
    except FileNotFoundError:
        return {}, 0.0
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        _log.warning("peer scores not loaded", path=str(path), error=str(error))
        return {}, 0.0
