"""The short form of the fault campaign (``make faults`` is the long one): damaged files of every format that a user
gives."""

import os
import signal

import numpy as np
import pytest
from fault_campaign import SECONDS, campaign, file_format, judge, read_apart
from fault_formats import FORMATS

from cryoet_core.errors import UserInputError

COUNT = 14  # one of each kind of damage


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_end_in_our_errors_and_within_the_limits(name):
    outcomes = campaign(FORMATS[name], COUNT)
    bad = [(n, o.kind, o.detail) for n, o in outcomes if o.kind in ("other exception", "over the limits")]
    assert bad == []
    assert sum(o.kind == "our error" for _, o in outcomes) >= 3  # the damage is real
    sentences = [o.detail for _, o in outcomes if o.kind == "our error"]
    assert all(s.startswith("E-") and "Traceback" not in s for s in sentences)


def readers():
    def ours(path):
        raise UserInputError("E-X-01", "no")

    def memory(path):
        return np.ones(2 * 2**30, np.uint8), []

    def slow(path):
        while True:
            pass

    def killed(path):
        os.kill(os.getpid(), signal.SIGKILL)

    return {
        "our error": ours,
        "other exception": lambda path: 1 / 0,
        "warned": lambda path: (2, ["other"]),
        "other result": lambda path: (2, []),
        "right": lambda path: (1, []),
        "over the limits": memory,
        "other exception ": killed,
        "over the limits ": slow,
    }


@pytest.mark.parametrize("kind", list(readers()))
def test_the_campaign_tells_the_outcomes_apart(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("fault_campaign.SECONDS", 1 if kind.endswith(" ") else SECONDS)
    whole = read_apart(lambda path: (1, []), tmp_path)
    assert judge(read_apart(readers()[kind], tmp_path), whole).kind == kind.strip()


def test_a_format_registers_itself_in_few_lines(monkeypatch):
    monkeypatch.setattr("fault_campaign.FORMATS", {})

    @file_format("number", "n.txt", text=True)
    def _number(folder):
        (folder / "n.txt").write_text("5\n")
        return lambda path: (float(path.read_text()), [])

    from fault_campaign import FORMATS as now

    kinds = {o.kind for _, o in campaign(now["number"], 14)}
    assert "other exception" in kinds and "right" in kinds  # float() of what is no number raises ValueError: not ours
