"""The file of what jobs used, and this process's own figures."""

import subprocess
import sys
import threading

import numpy as np

from cryoet_core.resources import usage
from cryoet_core.resources.usage import DONE, FAILED, STARTED, Event


def event(kind, job, time, peak=0.0):
    return Event(kind, job, float(time), 2, 12.5, 20.0, 3.0, peak, 1000.0)


def test_what_is_written_is_read(tmp_path):
    events = [event(STARTED, "refine bin4", 10), event(DONE, "refine bin4", 20, 800.5), event(FAILED, "report", 30)]
    for e in events:
        usage.append(tmp_path, e)
    assert usage.read(tmp_path) == events
    assert usage.read(tmp_path, since=15) == events[1:]
    assert events[0].rule == "refine" and usage.last_of_jobs(events) == {"refine bin4": events[1]}


def test_damaged_lines_are_left_out(tmp_path):
    usage.append(tmp_path, event(DONE, "a", 1))
    with open(tmp_path / usage.NAME, "ab") as file:
        file.write(b"done\tb\tnot a number\t1\t1\t1\t1\t1\t1\n\xff\xfe\n\ndone\tcut")
    usage.append(tmp_path, event(DONE, "c", 2))
    usage.append(tmp_path, event(DONE, "d", 3))
    assert [e.job for e in usage.read(tmp_path)] == ["a", "d"]  # c hangs on the line that was cut


def test_no_folder_is_no_error(tmp_path):
    usage.append(tmp_path / "none", event(DONE, "a", 1))
    assert usage.read(tmp_path / "none") == []


def test_lines_of_many_writers_stay_whole(tmp_path):
    def work(k):
        for i in range(50):
            usage.append(tmp_path, event(DONE, f"job {k}-{i}", i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({e.job for e in usage.read(tmp_path)}) == 200


def test_the_meter_counts_the_time_of_this_process_and_of_its_main_thread():
    meter = usage.Meter()
    wall, cpu, main = meter.wall_s, meter.cpu_s, meter.main_s
    thread = threading.Thread(target=lambda: sum(i * i for i in range(1_000_000)))
    thread.start()
    thread.join()
    assert meter.cpu_s - cpu > 0.02 > meter.main_s - main
    assert meter.wall_s - wall > 0.02


def test_the_peak_is_of_this_process_and_stays():
    big = np.ones(int(300e6 / 8))  # Linux would count it for a child, too, until that grows larger
    code = """
import numpy as np
from cryoet_core.resources.usage import peak_mb
before = peak_mb()
np.ones(int(100e6 / 8)).sum()
print(before, peak_mb() - before)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, more = map(float, found.stdout.split())
    assert 5 < before < 250 and 95 < more < 110 and big.sum() > 0
