"""A bad tilt series costs itself: notes in place of its outputs, jobs that pass them on, jobs that go without, runs that stop."""

import json
from types import SimpleNamespace

import pytest

from cryoet_core import left_out
from cryoet_core import step as step_module
from cryoet_core.errors import DataQualityError, ResourceError, UserInputError
from cryoet_core.io.star import write_star
from cryoet_core.resources import usage
from cryoet_core.step import step

NOTE = left_out.LeftOut("TS_07", "estimate_ctf", "no Thon rings", "E-CTF-03: no Thon rings. Fix: look at the views.")


class Named(list):
    """As much of Snakemake's lists of names as a step uses."""

    def __init__(self, **named):
        super().__init__(named.values())
        vars(self).update(named)


def job(folder, rule="align_tilt_series", config=None, **files):
    named = {k: Named(**v) for k, v in files.items()}
    return SimpleNamespace(
        rule=rule, wildcards=Named(ts="TS_07"), input=named["input"], output=named["output"], params={"config": {}, "seed": 1}, threads=1,
        resources={}, log=[str(folder / f"logs/{rule}/TS_07.log")], config={"device": "cpu"} | (config or {}),
    )


@pytest.fixture(autouse=True)
def among_others(monkeypatch):
    monkeypatch.setattr(step_module, "_die_with_parent", lambda: None)
    monkeypatch.setenv("TILTLINE_N_SERIES", "5")


def outputs(folder):
    return {"table": str(folder / "a/TS_07.star"), "summary": str(folder / "a/summary.json"), "maps": str(folder / "a/maps")}


def failing(folder, error):
    with step(job(folder, input={"table": str(folder / "in.star")}, output=outputs(folder))):
        raise error


def test_a_note_is_told_from_results(tmp_path):
    for name in ("t.star", "s.json", "v.mrc", "folder"):
        left_out.write_notes([str(tmp_path / name)], NOTE)
        assert left_out.read_note(tmp_path / name) == NOTE
    assert json.loads((tmp_path / "s.json").read_text())["left_out"]["step"] == "estimate_ctf"
    write_star(tmp_path / "real.star", {"a": {"b": 1}})
    (tmp_path / "real.json").write_text(json.dumps({"left_out": {}}, indent=2))
    for name in ("real.star", "real.json", "absent.star", ""):
        assert left_out.read_note(tmp_path / name) is None


def test_data_of_no_use_leave_notes_and_the_job_is_done(tmp_path):
    failing(tmp_path, DataQualityError("E-TS-06", "the views show nothing in common", fix="look at them"))
    for path in outputs(tmp_path).values():
        note = left_out.read_note(path)
        assert (note.series, note.step, note.message) == ("TS_07", "align_tilt_series", "the views show nothing in common")
        assert note.reason.startswith("E-TS-06") and "Fix: look at them" in note.reason
    assert "TS_07 is left out" in (tmp_path / "logs/align_tilt_series/TS_07.log").read_text()
    assert usage.read(tmp_path / "logs")[-1].event == "done"


@pytest.mark.parametrize(
    "error, code",
    [
        (ResourceError("E-DISK-01", "full"), 3), (UserInputError("E-CFG-01", "unknown key"), 2), (UserInputError("E-FILE-01", "no such file"), 2),
        (OSError(5, "Input/output error"), None), (RuntimeError("bug"), 1),
    ],
    ids=["disk", "config", "file", "system", "bug"],
)
def test_what_is_not_the_data_s_fault_fails(tmp_path, error, code):
    with pytest.raises(SystemExit) as end:
        failing(tmp_path, error)
    assert end.value.code == code or (code is None and end.value.code)
    assert not (tmp_path / "a").exists()


def test_a_lone_series_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLINE_N_SERIES", "1")
    with pytest.raises(SystemExit) as end:
        failing(tmp_path, DataQualityError("E-TS-06", "nothing in common"))
    assert end.value.code == 4 and not (tmp_path / "a").exists()


def test_later_jobs_of_the_series_pass_the_note_on(tmp_path):
    left_out.write_notes([str(tmp_path / "in.star")], NOTE)
    (tmp_path / "reference.mrc").write_bytes(b"map")
    snakemake = job(tmp_path, input={"reference": str(tmp_path / "reference.mrc"), "table": str(tmp_path / "in.star")}, output=outputs(tmp_path))
    with pytest.raises(SystemExit) as end, step(snakemake):
        raise AssertionError("the script must not run")
    assert end.value.code == 0
    assert {left_out.read_note(path) for path in outputs(tmp_path).values()} == {NOTE}


def tables(folder, bad, n=10):
    paths = [str(folder / f"t{i}.star") for i in range(n)]
    for i, path in enumerate(paths):
        if i in bad:
            left_out.write_notes([path], NOTE)
        else:
            write_star(path, {"a": {"b": i}})
    return paths


def of_run(folder, paths, config=None):
    snakemake = job(folder, "extract_subtomos", config, input={"tilt_series": paths}, output={})
    snakemake.wildcards = Named(round="bin4")
    with step(snakemake) as s:
        return s.usable(paths)


def test_jobs_of_the_run_go_without(tmp_path):
    paths = tables(tmp_path, bad={3, 7})
    assert of_run(tmp_path, paths) == [p for i, p in enumerate(paths) if i not in (3, 7)]


@pytest.mark.parametrize("n, bad, config, stops", [(10, 2, {}, False), (10, 3, {}, True), (10, 3, {"max_failed_series": 0.3}, False), (2, 1, {}, False), (2, 2, {"max_failed_series": 1}, True)])
def test_too_many_stop_the_run(tmp_path, n, bad, config, stops):
    paths = tables(tmp_path, set(range(bad)), n)
    if not stops:
        assert len(of_run(tmp_path, paths, config)) == n - bad
        return
    with pytest.raises(SystemExit) as end:
        of_run(tmp_path, paths, config)
    said = (tmp_path / "logs/extract_subtomos/TS_07.log").read_text()
    assert end.value.code == 4 and "E-RUN-01" in said and f"{bad} of {n}" in said and "no Thon rings" in said


def test_the_last_words_name_every_series_that_is_not_averaged(tmp_path):
    def summary(ts):
        path = tmp_path / "match_template" / ts / "summary.json"
        path.parent.mkdir(parents=True)
        return path

    summary("TS_01").write_text('{"n_picks": 20}')
    summary("TS_02").write_text('{"n_picks": 0}')
    left_out.write_notes([str(summary("TS_07"))], NOTE)
    names = ["TS_07", "TS_01", "TS_02"]
    assert left_out.outcome(left_out.notes_of(tmp_path, names), 3, averaged=True) == "averaged 1 of 3 tilt series; left out: TS_02 (no particles found), TS_07 (no Thon rings)"
    assert left_out.outcome(left_out.notes_of(tmp_path, ["TS_01"]), 1, averaged=True) == "averaged 1 of 1 tilt series"
    assert left_out.outcome(left_out.notes_of(tmp_path, ["TS_01"]), 1, averaged=False) == ""
