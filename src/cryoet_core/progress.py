"""What a job says while it works: how far it is, how long it still takes, and a sign of life when it has said nothing."""

from __future__ import annotations

import logging
import threading
import time

from cryoet_core.resources.timeline import duration

QUIET_S = 9.0  # no job is silent for longer
PROGRESS_S = 5.0  # between two lines of one count


class Heartbeat(logging.Handler):
    """Logs a line whenever ``logger`` was silent for ``quiet_s``, until the context ends.

    A daemon thread: it never keeps a process alive. It writes through the logger's own handlers, so to its log file and screen only.
    """

    def __init__(self, logger: logging.Logger, quiet_s: float = QUIET_S):
        super().__init__()
        self.logger, self.quiet_s = logger, quiet_s
        self._said, self._at, self._since = "its start", time.monotonic(), time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        self._at = time.monotonic()
        if not getattr(record, "heartbeat", False):
            self._said, self._since = record.getMessage().splitlines()[0][:80] if record.getMessage() else "", self._at

    def _watch(self) -> None:
        while not self._stop.wait(max(0.01, self._at + self.quiet_s - time.monotonic())):
            now = time.monotonic()
            if now - self._at >= self.quiet_s:
                self.logger.info("... still at work, %.0f s after: %s", now - self._since, self._said, extra={"heartbeat": True})

    def __enter__(self) -> Heartbeat:
        self.logger.addHandler(self)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        self.logger.removeHandler(self)


class Counter:
    """Callable(done, total): logs "12 of 41 views, 6 s, about 15 s left" every few seconds, and the end.

    May be called from any thread, as often as the caller likes. A count that starts again begins a new one.
    """

    def __init__(self, log: logging.Logger, what: str = "items", first: int | None = 0, every_s: float = PROGRESS_S):
        """first : how many were done when this was made; None: as many as at the first call, whose time counts as the start."""
        self.log, self.what, self.every_s = log, what, every_s
        self._lock = threading.Lock()
        self._done = None
        if first is not None:
            self._begin(first)

    def _begin(self, done: int) -> None:
        self._start = self._last = time.monotonic()
        self._first = self._done = done

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            again = self._done is None or done < self._done
            if again:
                self._begin(done)
            now, new, self._done = time.monotonic(), again or done > self._done, done
            if not new or (now - self._last < self.every_s and done < total):
                return
            self._last, passed, counted = now, now - self._start, done - self._first
        left = f", about {duration(passed / counted * (total - done))} left" if counted > 0 and done < total else ""
        self.log.info("%d of %d %s, %.0f s%s", done, total, self.what, passed, left)
