import numpy as np
import pytest
import torch

from chain.training.self_test import run_self_test
from miner.devices import open_device
from pot_common.errors import OperatorError


def test_cpu_is_available_with_the_arithmetic_of_the_protocol() -> None:
    assert open_device("cpu") == torch.device("cpu")
    assert open_device("auto").type in {"cpu", "cuda"}
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cuda:", "cuda:-1", "cpu:0", ""])
def test_missing_device_is_named(name: str) -> None:
    with pytest.raises(OperatorError, match=f"device '{name}'"):
        open_device(name)


def test_flushing_subnormals_changes_no_number_of_the_protocol() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        assert np.float32(1e-30) * np.float32(1e-10) == 0  # it does flush here
        run_self_test()
    finally:
        torch.set_flush_denormal(False)
