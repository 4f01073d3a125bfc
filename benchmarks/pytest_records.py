"""pytest plugin of gpu_check.py: every test's outcome is recorded at once, and a broken device ends the process.

The environment names the file (GPU_CHECK_RECORDS) and the part (GPU_CHECK_PART). Tests that a process before has begun
are left out, so that pytest can be started again after a crash.
"""

from __future__ import annotations

import os

import pytest
from gpu_check import RESTART, Records, device_alive

RECORDS, PART = Records(os.environ["GPU_CHECK_RECORDS"]), os.environ["GPU_CHECK_PART"]


def pytest_collection_modifyitems(config, items):
    begun = RECORDS.started(PART)
    config.hook.pytest_deselected(items=[i for i in items if i.nodeid in begun])
    items[:] = [i for i in items if i.nodeid not in begun]


def pytest_runtest_logstart(nodeid):
    RECORDS.write(PART, nodeid, "start")


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        RECORDS.write(PART, report.nodeid, "done", seconds=round(report.duration, 2))
    elif report.skipped:
        RECORDS.write(PART, report.nodeid, "skipped")
    elif report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr)
        RECORDS.write(PART, report.nodeid, "failed", error=text.splitlines()[0][:300] if text else report.when)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish():
    if any(r["event"] == "failed" for r in RECORDS.read(PART)[-1:]) and not device_alive():
        pytest.exit("the device is broken", returncode=RESTART)
