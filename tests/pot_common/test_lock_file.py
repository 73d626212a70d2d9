import subprocess
import sys
from pathlib import Path

import pytest

from pot_common.errors import OperatorError
from pot_common.lock_file import lock

HOLDER = """
import sys
from pathlib import Path
from pot_common.lock_file import lock
with lock(Path(sys.argv[1]), purpose="it", cure="x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_is_refused_until_its_holder_is_killed(tmp_path):
    path = tmp_path / "data" / "LOCK"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    guarded = {"purpose": "the data directory", "cure": "set data_dir"}
    message = rf"the data directory is in use by the process {process.pid}: .*or set data_dir"
    with pytest.raises(OperatorError, match=message), lock(path, **guarded):
        pass
    process.kill()
    process.communicate()
    with lock(path, **guarded):
        assert path.read_text().strip().isdigit()
    with lock(path, **guarded):
        pass


def test_lock_that_cannot_be_made_says_so_once(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "LOCK"
    with pytest.raises(OperatorError) as refusal, lock(path, purpose="it", cure="set data_dir"):
        pass
    assert str(refusal.value) == f"cannot lock it ({path}): File exists; set data_dir"
