import os

import pytest

from tests.worlds.command_line import Pot


@pytest.fixture
def pot(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pot:
    for name in [name for name in os.environ if name.startswith(("POT_", "ETH_RPC"))]:
        monkeypatch.delenv(name)
    return Pot(monkeypatch, capsys)
