"""The environment of the second implementation: `make judge-environment`.

    python -m tests.judge.environment

ethereum-execution needs an older coincurve than the node, so it gets a virtual environment of its
own inside the node's: `.venv/judge`, with the packages that requirements-judge.lock pins by hash.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements-judge.lock"
DIRECTORY = Path(sys.prefix) / "judge"


def ensure_environment() -> Path:
    """The interpreter of the environment, which is made when it is missing or outdated."""
    interpreter = DIRECTORY / "bin" / "python"
    installed = DIRECTORY / "installed"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest() + sys.version
    with (Path(sys.prefix) / "judge.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs of the tests may share one environment
        if not installed.is_file() or installed.read_text(encoding="utf-8") != wanted:
            venv.create(DIRECTORY, clear=True, symlinks=True, with_pip=False)
            pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "--quiet"]
            subprocess.run(
                [*pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)],
                check=True,
                env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            )
            installed.write_text(wanted, encoding="utf-8")
    return interpreter


if __name__ == "__main__":
    print(ensure_environment())
