import pytest

from chain.training import self_test
from chain.training.self_test import WrongNumbersError, run_self_test


def test_this_machine_computes_the_known_answers() -> None:
    run_self_test()


def test_a_single_other_bit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "OPTIMIZERS", self_test.OPTIMIZERS[::-1])
    with pytest.raises(WrongNumbersError, match="reinstall numpy"):
        run_self_test()
