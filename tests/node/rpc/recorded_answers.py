"""Compares whole answers of JSON-RPC methods, byte by byte, with those recorded in a file.

After an intended change, run the test once with POT_RECORD_ANSWERS=1 and commit the file.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tests.worlds.rpc import RpcHarness

DIRECTORY = Path(__file__).with_name("answers")


def check_answers(rpc: RpcHarness, name: str, requests: Sequence[tuple[str, list[object]]]) -> None:
    """Check that each request is answered as recorded in the file `name`."""
    found = []
    for method, params in requests:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = rpc.http("POST", "/", json=body).text
        found.append(f"{method} {json.dumps(params)}\n{answer}\n")
    file = DIRECTORY / f"{name}.txt"
    if os.environ.get("POT_RECORD_ANSWERS"):
        file.write_text("\n".join(found), encoding="utf-8")
    assert "\n".join(found) == file.read_text(encoding="utf-8")
