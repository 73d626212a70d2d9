"""A computation that does not keep the miner from acting if it takes too long."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread


def compute_with_deadline(
    compute: Callable[[], bytes], seconds: float, act_late: Callable[[], None]
) -> bytes:
    """The result of `compute`, which goes on in a thread while the deadline passes.

    Args:
        compute: The computation. What it raises is raised here.
        seconds: After so long, `act_late` is called once, in the thread of the caller.
        act_late: What to do if there is no result yet.
    """
    results: SimpleQueue[bytes | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            results.put(compute())
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            results.put(error)

    # A daemon, so that a miner that is stopped does not wait for it.
    Thread(target=run, daemon=True, name="gradient").start()
    try:
        result = results.get(timeout=max(0.0, seconds))
    except Empty:
        act_late()
        result = results.get()
    if isinstance(result, BaseException):
        raise result
    return result
