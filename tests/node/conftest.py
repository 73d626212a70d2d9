import pytest
import trio

from tests.node.consensus.consensus_cluster import run_thread_inline


@pytest.fixture
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads would not see the test's clock."""
    monkeypatch.setattr(trio.to_thread, "run_sync", run_thread_inline)
