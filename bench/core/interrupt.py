"""Signals that ask a run to save and stop: SIGTERM, SIGINT and SIGUSR2. The run looks for them between two steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Interrupted(Exception):
    """A signal came, and the run saved its state and stopped. The same command continues it."""

    def __init__(self, signum: int, saved: str) -> None:
        super().__init__(f"{signal.Signals(signum).name}: saved {saved}; the same command continues from there")
        self.exit_code = 128 + signum


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of the last signal, or 0. Outside the main thread no signal is caught."""
    received = 0

    def note(signum: int, frame: object) -> None:
        nonlocal received
        received = signum

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {s: signal.signal(s, note) for s in SIGNALS}
    try:
        yield lambda: received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
