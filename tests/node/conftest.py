import pytest
import trio

from tests.worlds.waiting import run_thread_inline


@pytest.fixture
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the work of threads in the test's task: a virtual clock does not wait for a thread."""
    monkeypatch.setattr(trio.to_thread, "run_sync", run_thread_inline)
