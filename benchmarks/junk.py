"""Averages of picks that are partly or wholly wrong: what the steps find, and whether the verdict says so.

    python benchmarks/junk.py prepare RESULTS TRUTH WORK    cuts the images of true and of false places, once
    python benchmarks/junk.py run WORK [NAME ...]           averages the runs of that name (all that are not there yet)
    python benchmarks/junk.py table WORK                    every number, right or wrong by the truth, the verdict

RESULTS is the folder of a finished run of the simulator's series (``config/simulated_tutorial.yaml`` has gold and vesicles), TRUTH the
folder of their truth (``RESULTS/simulate`` of a run with ``simulate: true``). Junk lies where it lies in the specimen: beside gold
beads, on membranes, on decoys and in the cytosol; no image is drawn for this benchmark. A run is one averaging round: an initial
model or a template, refinement, postprocessing, with the steps' own functions.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core import parallel
from cryoet_core.config.extract_subtomos import ExtractSubtomos
from cryoet_core.config.initial_model import InitialModel
from cryoet_core.config.postprocess import Postprocess
from cryoet_core.config.refine import Refine
from cryoet_core.fsc import fourier_shell_correlation, resolution_at
from cryoet_core.geometry import euler_to_matrix, matrix_to_euler, random_rotations
from cryoet_core.io.images import series_views
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.summary import read_summary, write_summary
from cryoet_core.masks import soft_sphere
from cryoet_core.metadata import Particles, read_particles, read_tilt_series, write_particles
from cryoet_core.simulate.molecules import chiral_molecule, decoy, density_map
from cryoet_core.subtomo.evaluate import align_map_to, mirror, pose_errors, resample_map
from cryoet_core.subtomo.extraction_run import ExtractionRun
from cryoet_core.subtomo.initial_model import InitialModelSettings, initial_model
from cryoet_core.subtomo.postprocess import postprocess
from cryoet_core.subtomo.refine_run import CLEAR_NATS, all_series_images, refine_stacks, refine_summary
from cryoet_core.subtomo.stacks import read_stacks
from cryoet_core.subtomo.verdict import map_facts, verdict
from cryoet_core.tilt_series.evaluate import alignment_error

SEED = 2026
PICK_ERROR_ANGST = 8.0  # standard error of a pick along each axis
FREE_ANGST = 220.0  # empty places are so far from everything large
DIAMETER_ANGST = 350.0
DECOYS = ("ring", "rod", "globule")
CUT = {"binning": 8, "box_px": 64, "crop_px": 32, "gold_diameter_angst": None, "duplicate_distance_angst": 0}


# ---- places -----------------------------------------------------------------------------------------------------


def truth_file(truth: Path, series: str, name: str) -> Path:
    folder = truth / series
    return (folder / "truth" if (folder / "truth").is_dir() else folder) / name


def places(truth: Path, series, rng) -> pd.DataFrame:
    """True and false places of a series in the truth's frame: kind, x, y, z (A), rot, tilt, psi (deg) of the true ones."""
    particles = read_particles(truth_file(truth, series.name, "particles.star"))
    facts = read_summary(truth_file(truth, series.name, "truth.json"))
    species = particles.table["species"].to_numpy()
    positions, angles = particles.positions_angst, particles.table[["rot_deg", "tilt_deg", "psi_deg"]].to_numpy()
    is_decoy = np.isin(species, DECOYS)
    x, y, z = (0.5 * n * series.pixel_size_angst for n in series.tomogram_size_px)
    beads = np.array([[b[f"{a}_angst"] for a in "xyz"] for b in facts.get("gold_beads", ()) if b["in_field"]]).reshape(
        -1, 3
    )
    beads = np.repeat(beads, 5, axis=0) + rng.normal(0, 25, (5 * len(beads), 3))
    vesicles = [[v[f"{a}_angst"] for a in (*"xyz", "radius")] for v in facts.get("vesicles", ()) if v["in_field"]]
    membranes = [np.array(v[:3]) + v[3] * on_the_side(40, rng) for v in vesicles]
    membranes = np.concatenate([*membranes, np.empty((0, 3))])
    large = np.concatenate([positions, beads, membranes])
    empty = rng.uniform(-1, 1, (4000, 3)) * (0.85 * x, 0.85 * y, 0.3 * z)
    empty = empty[[np.linalg.norm(large - p, axis=1).min() > FREE_ANGST for p in empty]][:250]
    kinds = {
        "particle": positions[~is_decoy],
        "decoy": positions[is_decoy],
        "gold": beads,
        "membrane": membranes,
        "cytosol": empty,
    }
    inside = {k: p[(np.abs(p[:, :2]) < (0.95 * x, 0.95 * y)).all(axis=1)] for k, p in kinds.items() if k != "particle"}
    kinds |= inside
    random = matrix_to_euler(random_rotations(sum(map(len, kinds.values())), rng))
    table = pd.DataFrame(np.concatenate(list(kinds.values())), columns=["x_angst", "y_angst", "z_angst"])
    table["kind"] = np.repeat(list(kinds), [len(p) for p in kinds.values()])
    table[["rot_deg", "tilt_deg", "psi_deg"]] = np.concatenate([angles[~is_decoy], random[(~is_decoy).sum() :]])
    return table


def on_the_side(n, rng):
    """(n, 3) unit vectors within 45 degrees of the slab's plane: there a tilt series shows a membrane."""
    z, phi = rng.uniform(-0.7, 0.7, n), rng.uniform(0, 2 * np.pi, n)
    return np.stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z], axis=1)


def prepare(results: Path, truth: Path, work: Path):
    """Cut all places of all series; picks are off by PICK_ERROR_ANGST, particles.star keeps what is true of them."""
    work.mkdir(parents=True, exist_ok=True)
    rng, names = np.random.default_rng(SEED), sorted(p.name for p in (results / "reconstruct_tomogram").iterdir())
    run, tables, paths = ExtractionRun(ExtractSubtomos(**CUT), work / "images"), [], []
    for name in names:
        paths.append(str(results / "reconstruct_tomogram" / name / f"{name}_raw.star"))
        series = read_tilt_series(paths[-1])
        error = alignment_error(
            read_tilt_series(results / "align_tilt_series" / name / f"{name}.star"),
            read_tilt_series(truth_file(truth, name, f"{name}.star")),
        )
        table = places(truth, series, rng)
        position = table[["x_angst", "y_angst", "z_angst"]].to_numpy() @ error.rotation.T + error.translation_angst
        turned = error.rotation @ euler_to_matrix(*table[["rot_deg", "tilt_deg", "psi_deg"]].to_numpy().T)
        table[["true_x_angst", "true_y_angst", "true_z_angst"]] = position
        table[["rot_deg", "tilt_deg", "psi_deg"]] = matrix_to_euler(turned)
        table[["x_angst", "y_angst", "z_angst"]] = position + rng.normal(0, PICK_ERROR_ANGST, position.shape)
        table = table.assign(tomo_name=name, origin_x_angst=0.0, origin_y_angst=0.0, origin_z_angst=0.0)
        table["particle_name"] = [f"{name}/{i + 1}" for i in range(len(table))]
        tables.append(table)
        run.add_series(series, Particles(table), partial(series_views, series))
    write_particles(run.chosen_table(), work / "particles.star")
    pd.concat(tables).set_index("particle_name").to_csv(work / "truth.csv")
    write_summary(
        work / "prepared.json",
        {"tables": paths, "folder": str(Path.cwd()), "truth": str(truth), "warnings": run.warnings},
    )
    print(pd.concat(tables).groupby(["tomo_name", "kind"]).size().unstack(), run.warnings)


# ---- runs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One averaging round: how many picks of every kind; where the first map comes from and what template stands behind the picks.

    start : "initial_model", or "template" (searched from the template, low-passed at 40 A). template : "own", "mirrored", "other"
    (the ring of the simulator's decoys), "chiral", or None (picks that were imported).
    """

    counts: dict = field(default_factory=dict)
    start: str = "initial_model"
    template: str | None = None

    @property
    def junk(self) -> float:
        return 1 - self.counts.get("particle", 0) / sum(self.counts.values())


def _case(start="initial_model", template=None, **counts):
    return Case(counts, start, template)


CASES = {
    "clean": _case(particle=150),
    "few": _case(particle=24),
    "cytosol_40": _case(particle=36, cytosol=24),
    "cytosol_67": _case(particle=20, cytosol=40),
    "cytosol_80": _case(particle=12, cytosol=48),
    "gold_67": _case(particle=36, gold=72),
    "gold_80": _case(particle=12, gold=48),
    "membrane_50": _case(particle=30, membrane=30),
    "membrane_80": _case(particle=12, membrane=48),
    "decoy_50": _case(particle=30, decoy=30),
    "mixed_67": _case(particle=20, gold=10, membrane=12, decoy=10, cytosol=8),
    "mixed_80": _case(particle=12, gold=12, membrane=14, decoy=10, cytosol=12),
    "all_cytosol": _case(cytosol=50),
    "all_gold": _case(gold=50),
    "all_membrane": _case(membrane=50),
    "mirrored_initial": _case(particle=40, template="mirrored"),
    "template_clean": _case(particle=50, start="template", template="own"),
    "template_mixed_67": _case(
        particle=20, gold=10, membrane=12, decoy=10, cytosol=8, start="template", template="own"
    ),
    "template_cytosol_67": _case(particle=20, cytosol=40, start="template", template="own"),
    "template_cytosol_80": _case(particle=12, cytosol=48, start="template", template="own"),
    "template_all_cytosol": _case(cytosol=60, start="template", template="own"),
    "template_all_gold": _case(gold=50, start="template", template="own"),
    "template_all_membrane": _case(membrane=50, start="template", template="own"),
    "template_gold_80": _case(particle=12, gold=48, start="template", template="own"),
    "mirrored_template": _case(particle=50, start="template", template="mirrored"),
    "other_template": _case(particle=50, start="template", template="other"),
    "chiral_template": _case(particle=50, start="template", template="chiral"),
}
SHORT = 16  # mini-batches of the initial model in runs of fewer than 100 places, which would take 70 by themselves


def template_of(kind, density, pixel):
    """A template of the same grid as the true density: itself, its mirror image, or another molecule; None where there is none."""
    makers = {"other": lambda: decoy("ring", 1.9e6), "chiral": chiral_molecule}
    if kind in makers:
        return density_map(makers[kind](), pixel, density.shape[0])
    return {None: None, "own": density, "mirrored": mirror(density)}[kind]


def load(work: Path):
    """(stacks of all places, their truth, true density and its pixel)."""
    facts = read_summary(work / "prepared.json")
    os.chdir(facts["folder"])
    stacks = read_stacks(work / "particles.star", facts["tables"])
    truth = pd.read_csv(work / "truth.csv", index_col="particle_name").loc[stacks.particles.table["particle_name"]]
    density, pixel = read_mrc(Path(facts["truth"]) / "density.mrc")
    return stacks, truth, density, pixel


def average(name: str, case: Case, work: Path, loaded):
    """One round; its maps and the numbers of its steps go to WORK/<name>."""
    stacks, truth, density, density_pixel = loaded
    out = work / name
    out.mkdir(exist_ok=True)
    rng, start = np.random.default_rng([SEED, *name.encode()]), time.process_time()
    kind = truth["kind"].to_numpy()
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(kind == k))[:n] for k, n in case.counts.items()]))
    mine = stacks.select(rows)
    pixel, summary = mine.pixel_size_angst, {}
    template = template_of(case.template, density, density_pixel)
    if case.start == "initial_model":
        settings = InitialModelSettings(
            pick_error_angst=PICK_ERROR_ANGST, pixel_size_angst=pixel, box_px=mine.box,
            **InitialModel(mask_diameter_angst=DIAMETER_ANGST, n_mini_batches=SHORT if len(rows) < 100 else None).model_dump(),
        )  # fmt: skip
        model = initial_model(all_series_images(mine, DIAMETER_ANGST), settings, rng)
        write_mrc(out / "initial_model.mrc", model.map, pixel)
        summary["initial_model"] = model.numbers()
        reference, reference_pixel = model.map, pixel
    else:
        reference, reference_pixel = template, density_pixel
    config = Refine(mask_diameter_angst=DIAMETER_ANGST, initial_lowpass_angst=40)
    refined, particles = refine_stacks(mine, reference, reference_pixel, config, SEED)
    for half in ("half1", "half2", "map"):
        write_mrc(out / f"refine_{half}.mrc", getattr(refined, half), pixel)
    summary["refine"] = refine_summary(refined, pixel)
    result = postprocess(
        refined.half1, refined.half2, pixel, Postprocess(local_resolution=False), np.random.default_rng(1)
    )
    write_mrc(out / "map.mrc", result.map, pixel)
    write_mrc(out / "mask.mrc", result.mask, pixel)
    summary["postprocess"] = result.summary()
    np.savez(
        out / "particles.npz", rows=rows, over_ball=refined.over_ball, log_likelihood=refined.log_likelihood, diffuse=refined.diffuse,
        rotations=particles.rotations, positions=particles.positions_angst,
    )  # fmt: skip
    write_summary(out / "numbers.json", {**summary, "cpu_s": time.process_time() - start})
    print(f"{name}: {time.process_time() - start:.0f} s of CPU", flush=True)


# ---- judged -----------------------------------------------------------------------------------------------------

COLUMNS = (
    "run", "junk", "first map", "right", "verdict", "FSC 0.143", "FSC 0.5 truth", "true poses", "nats (initial)", "over a ball", "nats (refined)",
    "over a ball", "clear", "diffuse", "round", "outside", "off centre", "template", "mirror", "ball",
)  # fmt: skip


def true_numbers(out: Path, truth, density, density_pixel) -> dict:
    """Where the average meets the true density (FSC 0.5, A), and the share of true particles within 20 degrees of their pose."""
    halves = [read_mrc(out / f"refine_half{h}.mrc") for h in (1, 2)]
    volume, pixel = 0.5 * (halves[0][0] + halves[1][0]), halves[0][1]
    n, posed = volume.shape[0], np.load(out / "particles.npz")
    mask = soft_sphere(volume.shape, DIAMETER_ANGST / 2 / pixel, 3)
    moved = align_map_to(resample_map(density, density_pixel, n, pixel), volume * mask).map
    resolution = resolution_at(fourier_shell_correlation(volume, moved, mask), pixel, n, 0.5)
    mine = truth.iloc[posed["rows"]]
    is_true = (mine["kind"] == "particle").to_numpy()
    share = None
    if is_true.sum() > 4:
        rotations = euler_to_matrix(*mine[["rot_deg", "tilt_deg", "psi_deg"]].to_numpy()[is_true].T)
        positions = mine[["true_x_angst", "true_y_angst", "true_z_angst"]].to_numpy()[is_true]
        errors = pose_errors(posed["rotations"][is_true], posed["positions"][is_true], rotations, positions)
        share = float(np.mean(errors.angle_deg < 20))
    return {"truth_angst": resolution, "true_poses": share}


def judged(name: str, case: Case, work: Path, truth, density, density_pixel) -> dict:
    """The row of a run: numbers, right or wrong by the truth, verdict.

    Right: the average is the particle's density to 45 A at FSC 0.5, and the template that its picks come from is that particle of this hand.
    What match_template would have said (false picks, hand) is taken from the truth.
    """
    out = work / name
    numbers = read_summary(out / "numbers.json")
    halves = [read_mrc(out / f"refine_half{h}.mrc") for h in (1, 2)]
    template = template_of(case.template, density, density_pixel)
    facts = map_facts(halves[0][0], halves[1][0], halves[0][1], DIAMETER_ANGST, template, density_pixel)
    n = sum(case.counts.values())
    hand = {"verdict": "mirrored" if case.template == "mirrored" else "right"}
    picks = [{"n_picks": n, "expected_false": case.junk * n, "hand": hand}] if case.template else []
    initial, refined = numbers.get("initial_model", {}), numbers["refine"]
    over_ball = np.load(out / "particles.npz")["over_ball"]
    refined["n_over_a_ball"] = int((over_ball > CLEAR_NATS).sum())
    found = verdict(facts, case.start, picks, refined, initial)
    true = true_numbers(out, truth, density, density_pixel)
    right = true["truth_angst"] < 45 and case.template in (None, "own")
    values = (
        name, f"{100 * case.junk:.0f} %", case.start.replace("_", " ") + (f" ({case.template})" if case.template else ""), "right" if right else "wrong",
        "; ".join(found.reasons) or "-", facts.resolution_angst, true["truth_angst"], true["true_poses"], initial.get("log_likelihood_per_particle"),
        initial.get("nats_per_particle_over_a_ball"), refined["median_log_likelihood"], float(np.median(over_ball)), refined["n_over_a_ball"],
        refined["n_diffuse"], facts.round_share, facts.outside_ratio, facts.off_centre_angst, facts.like_template, facts.like_mirror, facts.like_ball,
    )  # fmt: skip
    return dict(enumerate(values)) | {"good": right != bool(found.reasons)}


def table(work: Path, names):
    """Print the rows of all runs that are there as Markdown."""
    _, truth, density, density_pixel = load(work)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    good = []
    for name in names or CASES:
        if (work / name / "numbers.json").exists():
            row = judged(name, CASES[name], work, truth, density, density_pixel)
            good.append(row.pop("good"))
            print("| " + " | ".join(_cell(v) for v in row.values()) + " |", flush=True)
    print(f"\n{sum(good)} of {len(good)} verdicts agree with the truth.")


def _cell(value) -> str:
    return (
        "-"
        if value is None
        else f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 10
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run", "table"))
    parser.add_argument("places", nargs="+")
    args = parser.parse_args()
    paths = [Path(p) for p in args.places]
    if args.what == "prepare":
        results, truth, work = (p.absolute() for p in paths)
        prepare(results, truth, work)
        return
    work = paths[0].absolute()
    if args.what == "run":
        loaded = load(work)
        with parallel.limited(1):
            for name in args.places[1:] or CASES:
                if not (work / name / "numbers.json").exists():
                    average(name, CASES[name], work, loaded)
    else:
        table(work, args.places[1:])


if __name__ == "__main__":
    main()
