"""Reading ahead of computing: frames are decoded on a second thread while the first works on the frame before."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator

from cryoet_core import parallel

FRAMES_AHEAD = 2
_WAIT_S = 0.1


class _Failure:
    def __init__(self, error: BaseException):
        self.error = error


_END = object()


def _offer(box: queue.Queue, item, stop: threading.Event) -> bool:
    """Put ``item`` into the full or free queue; False once nobody wants it any more."""
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            box.put(item, timeout=_WAIT_S)
            return True
    return False


def _work(frames: Iterable, box: queue.Queue, stop: threading.Event) -> None:
    iterator = iter(frames)
    try:
        for frame in iterator:
            if not _offer(box, frame, stop):
                return
        _offer(box, _END, stop)
    except BaseException as error:  # handed to the reader of the queue, which raises it
        _offer(box, _Failure(error), stop)
    finally:
        _close(iterator)


def _close(iterator: Iterator) -> None:
    """A generator that was not used up still holds its file open."""
    close = getattr(iterator, "close", None)
    if close is not None:
        close()


def read_ahead(frames: Iterable, depth: int = FRAMES_AHEAD) -> Iterator:
    """The items of ``frames``, in order, read on one thread at most ``depth`` items (plus the one in its hands) ahead.

    An exception of ``frames`` is raised here, after the items before it. When this generator is closed early, the
    thread is stopped and ``frames`` is closed before ``close`` returns: no thread and no open file stay behind.
    A process with one thread (:mod:`cryoet_core.parallel`) reads when it needs the next item: decoding would take another job's core.
    """
    if parallel.n_threads() == 1:
        iterator = iter(frames)
        try:
            yield from iterator
        finally:
            _close(iterator)
        return
    box: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()
    thread = threading.Thread(target=_work, args=(frames, box, stop), name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := box.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()
