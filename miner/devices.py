"""The device that computes gradients, and its arithmetic (docs/spec/training.md, section 5).

Precision is part of the protocol: float32 with TF32 off and deterministic algorithms, so that two
honest machines differ only by rounding.
"""

import os
from typing import Final

import torch

from pot_common.errors import OperatorError

DEVICE_NAMES: Final = "auto, cpu, cuda or cuda:N"
"""The names of devices, for messages."""


def open_device(name: str, threads: int = 1) -> torch.device:
    """The torch device called `name`; sets this process to the protocol's arithmetic.

    Args:
        name: auto (CUDA if the machine has it), cpu, cuda or cuda:N.
        threads: The CPU threads that torch uses in this process.

    Raises:
        OperatorError: The machine has no such device.
    """
    _fix_arithmetic(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        message = f"device {name!r} is unknown: set it to {DEVICE_NAMES}"
        raise OperatorError(message)
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        message = (
            f"device {name!r} does not exist: torch {torch.__version__} sees {count} CUDA devices; "
            "set the device to cpu, or install a CUDA build of torch and its driver"
        )
        raise OperatorError(message)
    return torch.device("cuda", int(index or 0))


def _fix_arithmetic(threads: int) -> None:
    # cuBLAS is deterministic only with a fixed workspace; it reads this variable at first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)  # no layer draws random numbers; if one did, each run would draw the same
