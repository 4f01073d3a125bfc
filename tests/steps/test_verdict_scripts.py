"""The script of postprocess says whether the average may be believed, and the report says it first."""

import numpy as np
import pytest
from blob_phantom import chiral_blobs
from script_runner import run_script

from cryoet_core.config.postprocess import Postprocess
from cryoet_core.io.mrc import write_mrc
from cryoet_core.io.summary import read_summary, write_summary
from cryoet_core.masks import centre_distance
from cryoet_core.report import averages, build
from cryoet_core.report.page import Section, render
from cryoet_core.report.results import Results

BOX, PIXEL = 28, 12.0
PICKS = {"n_picks": 100, "expected_false": 0.5, "hand": {"verdict": "right"}}
INITIAL = {"log_likelihood_per_particle": 413.7, "nats_per_particle_over_a_ball": 59.5}  # the demo's
REFINED = {"n_particles": 195, "n_diffuse": 0, "n_over_a_ball": 195, "median_log_likelihood": 571.5}


def particle():
    return chiral_blobs().density(BOX, PIXEL)


def bead():
    return (1 / (1 + np.exp((centre_distance((BOX,) * 3) * PIXEL - 50) / 5.0))).astype(np.float32) * particle().max()


def postprocessed(folder, density, initial=INITIAL, refined=REFINED, previous=None, first_map="initial_model"):
    """summary.json of the step, run on half maps of ``density`` with a little noise."""
    rng = np.random.default_rng(0)
    for half in (1, 2):
        noise = 0.02 * density.max() * rng.standard_normal(density.shape)
        write_mrc(f"{folder}/half{half}.mrc", (density + noise).astype(np.float32), PIXEL)
    write_mrc(f"{folder}/template.mrc", chiral_blobs().density(40, 8.0), 8.0)
    for name, values in (("picks", PICKS), ("initial", initial), ("refine", refined), ("previous", previous)):
        write_summary(f"{folder}/{name}.json", values or {})
    halves = [f"{folder}/half{half}.mrc" for half in (1, 2)]
    inputs = {
        "half1": halves[0],
        "half2": halves[1],
        "files": [],
        "refined_halves": halves,
        "picks": [f"{folder}/picks.json"],
        "initial_model": f"{folder}/initial.json",
        "refine": f"{folder}/refine.json",
        "template": f"{folder}/template.mrc",
        "previous": f"{folder}/previous.json" if previous else [],
    }
    out = folder / "postprocess" / "first"
    outputs = {n: out / f"{n}.mrc" for n in ("map", "mask", "local_resolution", "local_map")}
    outputs |= {"fsc": out / "fsc.star", "summary": out / "summary.json"}
    config = Postprocess(local_resolution=False).model_dump()
    run_script("postprocess", inputs, outputs, config, mask_diameter_angst=240.0, first_map=first_map)
    return read_summary(outputs["summary"])["verdict"]


def test_an_average_of_the_particle_has_no_objection(tmp_path, capsys):
    found = postprocessed(tmp_path, particle())
    assert found["reasons"] == [] and found["sentence"] == "no objection to this average"
    assert found["like_template"] > 0.98
    assert "no objection to this average" in capsys.readouterr().err


def test_an_average_of_gold_is_refused_in_log_summary_and_report(tmp_path, capsys):
    """Half maps that agree to Nyquist, evidence of -441 nats: the run that was reported without a word."""
    lost = INITIAL | {"log_likelihood_per_particle": -441.0}
    found = postprocessed(tmp_path, bead(), initial=lost)
    assert found["sentence"].startswith("do not believe this average: ")
    assert "-441.0 nats per particle" in found["sentence"] and "it is a ball" in found["sentence"]
    assert "not like the template" in found["sentence"]
    assert "do not believe this average" in capsys.readouterr().err
    results = Results(str(tmp_path), (), ("first",), False)
    overview = build._overview(results, {}, {"first": {"particles": 5, "verdict": found["sentence"]}}, build.Problems(), [])
    page = render("tiltline", [overview])
    assert page.index('class="alarm">first: do not believe this average') < page.index("<table>")
    assert page.count("do not believe") == 1  # not once more in the table


def test_a_round_inherits_what_is_wrong_before_it(tmp_path):
    previous = {"verdict": {"reasons": ["it is a ball"]}}
    assert postprocessed(tmp_path, particle(), previous=previous, first_map="previous")["reasons"] == [
        "the round before it: it is a ball"
    ]
    assert postprocessed(tmp_path, particle(), previous=previous, first_map="template")["reasons"] == []


@pytest.mark.parametrize("reasons, style", [([], "<p>"), (["x"], '<p class="alarm">')])
def test_only_objections_are_alarms(reasons, style):
    section = Section("Average")
    averages.add_verdict(section, {"reasons": reasons, "sentence": "said"})
    assert section.parts == [f"{style}said</p>"]


def test_results_of_an_older_version_have_no_verdict(tmp_path):
    write_summary(tmp_path / "postprocess/first/summary.json", {"resolution_angst": 20.0})
    results = Results(str(tmp_path), (), ("first",), False)
    section = Section("Average")
    averages.add_verdict(section, averages.verdict(results, "first"))
    assert section.parts == []
