"""Signs of life and counts, with short intervals."""

import logging
import subprocess
import sys
import threading
import time

import pytest

from cryoet_core.progress import Counter, Heartbeat


class Lines(logging.Handler):
    """Keeps (seconds since it was made, text)."""

    def __init__(self):
        super().__init__()
        self.start, self.lines = time.monotonic(), []

    def emit(self, record):
        self.lines.append((time.monotonic() - self.start, record.getMessage()))

    @property
    def texts(self):
        return [text for _, text in self.lines]


@pytest.fixture
def log(request):
    logger = logging.getLogger(request.node.name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.lines = Lines()
    logger.addHandler(logger.lines)
    return logger


def beats():
    return [t for t in threading.enumerate() if t.name == "heartbeat"]


def test_silence_is_broken_and_says_after_what(log):
    with Heartbeat(log, quiet_s=0.1):
        log.info("reading %s\nsecond line", "views")
        time.sleep(0.55)
    texts = log.lines.texts[1:]
    assert 3 <= len(texts) <= 5 and all(text.startswith("... still at work,") and text.endswith("after: reading views") for text in texts)
    times = [0.0, *(at for at, _ in log.lines.lines[1:])]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) < 0.25


def test_a_job_that_speaks_hears_nothing(log):
    with Heartbeat(log, quiet_s=0.2):
        for _ in range(12):
            log.info("step")
            time.sleep(0.04)
    assert log.lines.texts == ["step"] * 12


def test_it_begins_with_the_job_and_ends_with_it(log):
    with pytest.raises(ValueError), Heartbeat(log, quiet_s=0.1):
        time.sleep(0.15)
        raise ValueError
    count = len(log.lines.lines)
    assert count >= 1 and set(log.lines.texts) == {"... still at work, 0 s after: its start"}
    assert not beats() and not [h for h in log.handlers if isinstance(h, Heartbeat)]
    time.sleep(0.25)
    assert len(log.lines.lines) == count


def test_it_keeps_no_process_alive():
    code = """
import logging
from cryoet_core.progress import Heartbeat
Heartbeat(logging.getLogger("x"), quiet_s=0.05).__enter__()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_count_says_how_far_it_is_and_how_long_it_takes(log):
    count = Counter(log, "views", every_s=0.1)
    for done in range(1, 5):
        time.sleep(0.12)
        count(done, 4)
    assert log.lines.texts[0].startswith("1 of 4 views, 0 s, about 1 s left")
    assert log.lines.texts[-1].startswith("4 of 4 views") and "left" not in log.lines.texts[-1]
    assert len(log.lines.texts) == 4


def test_a_count_is_not_told_more_often_than_asked_for(log):
    count = Counter(log, "planes", every_s=60)
    threads = [threading.Thread(target=lambda: [count(i, 1000) for i in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.lines.texts == []
    count(1000, 1000)
    count(1000, 1000)
    assert len(log.lines.texts) == 1


def test_the_rate_counts_from_the_first_call_of_a_callback(log):
    count = Counter(log, "planes", first=None, every_s=0.2)
    count(100, 200)  # a hundred that were done before are no rate
    time.sleep(0.25)
    count(101, 200)
    assert 20 <= int(log.lines.texts[0].split("about ")[1].split(" ")[0]) <= 60


def test_a_second_count_begins_anew(log):
    count = Counter(log, "planes", first=None, every_s=60)
    for total in (3, 2):
        for done in range(1, total + 1):
            count(done, total)
    assert log.lines.texts == ["3 of 3 planes, 0 s", "2 of 2 planes, 0 s"]
