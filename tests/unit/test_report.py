"""The report is made whatever the results are, says what failed, and an old page says that it is old."""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cryoet_core.config.postprocess import Postprocess
from cryoet_core.errors import ResourceError
from cryoet_core.report import build as build_module
from cryoet_core.report import stale
from cryoet_core.report.build import Problems, build, write_times
from cryoet_core.report.page import Section
from cryoet_core.report.results import Results
from cryoet_core.subtomo.postprocess import fsc_table, postprocess

FSC = "rlnFourierShellCorrelationCorrected"


class Uncorrelated(Results):
    """One round whose half maps are noise of opposite sign, as postprocess leaves it; nothing else is there."""

    def volume(self, *parts):
        return self.made[0].map, 4.0

    @property
    def made(self):
        rng = np.random.default_rng(2)
        half1, half2 = rng.normal(size=(2, 24, 24, 24)).astype(np.float32)
        result = postprocess(half1, half2 - 0.2 * half1, 4.0, Postprocess(), rng)
        return result, fsc_table(result, 4.0)

    def star(self, *parts):
        return {"general": self.made[0].summary_star(4.0), "fsc": self.made[1]}

    def refined(self, name):
        rotations = np.tile(np.eye(3), (5, 1, 1))
        return SimpleNamespace(table=pd.DataFrame({"x": range(5)}), rotations=rotations)


def test_half_maps_that_do_not_correlate_are_a_failed_average(tmp_path):
    results = Uncorrelated(str(tmp_path), (), ("bin4",), False)
    numbers = build(results, {"bin4": 60.0}, str(tmp_path / "report.html"), "0")
    assert numbers["rounds"]["bin4"]["resolution_fsc_0.143_angst"] == np.inf
    text = (tmp_path / "report.html").read_text()
    assert "bin4: the average failed: its two half maps do not correlate" in text.split("Acquisition")[1]
    assert "Resolution at 0.143: inf" not in text


def test_a_chapter_that_cannot_be_made_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module.movies, "acquisition", lambda results: Section("Acquisition", "All well here."))
    results = Results(str(tmp_path / "none"), ("TS_1",), ("bin4",), True)
    numbers = build(results, {"bin4": 60.0}, str(tmp_path / "report.html"), "0")
    text = (tmp_path / "report.html").read_text()
    assert "All well here." in text and text.count("This chapter could not be made.") == 8
    assert len(numbers["not_made"]) == 11 and all(
        "no such file" in p or "No such file" in p for p in numbers["not_made"]
    )
    assert numbers["series"] == {"TS_1": {}} and numbers["rounds"] == {"bin4": {}}
    assert "the average failed" not in text  # nobody knows


def test_a_full_disk_is_not_a_chapter(tmp_path):
    def full():
        raise ResourceError("E-DISK-02", "no space left")

    with pytest.raises(ResourceError):
        Problems().attempt("x", full, None)


def test_run_times_are_a_file_of_their_own(tmp_path):
    folder = tmp_path / "benchmarks/refine"
    folder.mkdir(parents=True)
    (folder / "bin4.tsv").write_text("s\th:m:s\n12.25\t0:00:12\n")
    (folder / "bin6.tsv").write_text("s\th:m:s\nNA\tNA\n")
    (tmp_path / "benchmarks/report.tsv").write_text("s\n20\n")
    seconds = Results(str(tmp_path), (), (), False).seconds()
    assert seconds == {"refine": 12.25, "report": 20.0}
    write_times(tmp_path / "run_times.tsv", seconds)
    assert (tmp_path / "run_times.tsv").read_text() == "step\tseconds\nreport\t20.0\nrefine\t12.2\n"


def test_an_old_page_says_which_steps_are_newer_or_missing(tmp_path):
    page, results = tmp_path / "report.html", str(tmp_path)
    page.write_text("<html><body><h1>x</h1></body></html>")
    os.utime(page, (1000, 1000))
    inputs = [
        tmp_path / name
        for name in ("refine/bin4/map.mrc", "refine/bin4/summary.json", "align/TS_1/a.star", "hand/s.json")
    ]
    for path in inputs[:2]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    os.utime(inputs[0], (900, 900))
    newer, missing = stale.out_of_date(page, map(str, inputs), results)
    assert (newer, missing) == (["refine bin4"], ["align TS_1", "hand"])
    assert stale.mark(page, newer, missing) and stale.mark(page, newer, missing)
    text = page.read_text()
    assert text.count("This page is out of date") == 1 and "newer than this page: refine bin4" in text
    assert "missing or being made again: align TS_1, hand" in text and page.stat().st_mtime == 1000
    assert not stale.mark(page, [], []) and page.read_text() == "<html><body><h1>x</h1></body></html>"
    assert stale.out_of_date(tmp_path / "no.html", ["a"], results) == ([], []) and not stale.mark(
        tmp_path / "no.html", ["a"], []
    )
