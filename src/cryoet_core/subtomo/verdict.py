"""May an average be believed? One verdict per averaging round, from what its steps know and from the map itself.

Half maps that agree say that the same thing was averaged twice, not that it is the particle: false picks that were
turned until they look like a template agree on the template, and gold beads agree on a ball. Here every number that
speaks against an average is compared with what it may be, and what is wrong is said in words. Numbers in, sentences
out; the limits are from runs with 0 to 100 % of false picks (``benchmarks/junk.py``, docs/validation/junk.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from cryoet_core.backend import asnumpy
from cryoet_core.fourier import fourier_resample, lowpass
from cryoet_core.fsc import fourier_shell_correlation, resolution_at
from cryoet_core.masks import centre_distance, soft_sphere
from cryoet_core.picking.reference import object_threshold
from cryoet_core.subtomo.evaluate import align_map_to, correlation, mirror, resample_map
from cryoet_core.subtomo.mstep import recentre

DETAIL = 12  # shapes are compared down to this fraction of the particle's diameter
EDGE_PX = 2.0

# Limits: what lies beyond is an objection.
LEAST_EVIDENCE = 0.0  # nats per particle against none
LEAST_OVER_BALL = 3.0  # nats per particle against the map's own spherical average
LEAST_CLEAR, LEAST_CLEAR_SHARE = 10, 0.1  # particles that the average explains better than a ball
MOST_DIFFUSE = 0.5  # share of the particles
MOST_ONE_DIRECTION = 0.5  # share of the particles within 20 degrees of one axis
MOST_FALSE = 0.5  # share of the picks
COARSEST = 1 / 3  # of the diameter
MOST_ROUND = 0.9  # share of the variance
MOST_OUTSIDE = 0.2  # of the variance inside
MOST_OFF_CENTRE = 0.25  # of the diameter
LEAST_LIKE_TEMPLATE = 0.65  # correlation
MOST_LIKE_MIRROR, HAND_GAP = 0.95, 0.03  # correlations; a template that is more like its mirror image has no hand


# ---- what the map says ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapFacts:
    """What two half maps say about the average. Shares are of what both have in common, so that noise cancels.

    resolution_angst : FSC 0.143 inside the sphere of the particle. diameter_angst : of that sphere.
    round_share : share of the variance inside the sphere that the spherical average explains.
    outside_ratio : variance per voxel outside the sphere against inside; None where the box ends before.
    off_centre_angst : distance of the density's centre of mass from the centre of the box.
    like_template, like_mirror, like_ball : correlation of the average with the template, the template's mirror image
        and the average's own spherical average, each where it fits best, to the resolution. None without a template.
    template_like_mirror : of the template with its own mirror image; only where the mirror image is the more like.
    """

    resolution_angst: float
    diameter_angst: float
    round_share: float
    outside_ratio: float | None
    off_centre_angst: float
    like_ball: float
    like_template: float | None = None
    like_mirror: float | None = None
    template_like_mirror: float | None = None


def map_facts(
    half1, half2, pixel_size_angst: float, diameter_angst: float, template=None, template_pixel_angst=None
) -> MapFacts:
    """Measure an average.

    Parameters
    ----------
    half1, half2 : (n, n, n) half maps, bright, neither masked nor regularised. diameter_angst : of the particle's mask.
    template : (m, m, m) bright map of the particle of any pixel size, or None.
    """
    n = half1.shape[0]
    fsc = asnumpy(fourier_shell_correlation(half1, half2, _sphere(n, pixel_size_angst, diameter_angst)))
    resolution = resolution_at(fsc, pixel_size_angst, n)
    shared = resolution if np.isfinite(resolution) else diameter_angst / 3
    finest = max(shared, diameter_angst / DETAIL, 2 * pixel_size_angst)
    halves, pixel = _resampled(half1, half2, pixel_size_angst, finest)
    sphere = _sphere(halves[0].shape[0], pixel, diameter_angst)
    outside = _outside(halves[0].shape, pixel, diameter_angst)
    a, b = (h - (h[outside].mean() if outside.any() else 0) for h in halves)
    off_centre = float(np.linalg.norm(recentre(_dense(0.5 * (a + b), sphere), sphere)) * pixel)
    outer = _ratio(float((a * b)[outside].mean()), float((a * b)[sphere > 0.5].mean())) if outside.any() else None
    a, b = (_without_mean(h, sphere) for h in halves)
    if float((a * b).sum()) <= 0:
        resolution = np.inf  # whatever single shells say, the halves share no density
    mean = 0.5 * (a + b)
    like_ball = correlation(spherical_average(mean), mean, sphere)
    likeness = {} if template is None else _likeness(mean, sphere, pixel, finest, template, template_pixel_angst)
    return MapFacts(resolution, diameter_angst, _round_share(a, b), outer, off_centre, like_ball, **likeness)


def _sphere(n, pixel, diameter_angst):
    return soft_sphere((n,) * 3, min(diameter_angst / (2 * pixel), n / 2 - 1 - EDGE_PX), EDGE_PX)


def _outside(shape, pixel, diameter_angst):
    """Voxels beyond the particle's sphere and its edge, inside the sphere of the box."""
    distance = centre_distance(shape) * pixel
    return (distance > diameter_angst / 2 + EDGE_PX * pixel) & (distance < (shape[0] / 2 - 1) * pixel)


def _resampled(half1, half2, pixel, finest_angst):
    """Both halves low-passed, on pixels of a quarter of ``finest_angst`` (round shapes stay round); pixel size."""
    n = half1.shape[0]
    box = 2 * int(np.ceil(2 * n * pixel / finest_angst))
    halves = [fourier_resample(lowpass(asnumpy(h), finest_angst, pixel), (box,) * 3, 3) for h in (half1, half2)]
    return halves, pixel * n / box


def _dense(volume, mask):
    """The density above the particle's surface, zero elsewhere: noise does not move its centre."""
    return np.where(volume > object_threshold(volume * mask), volume, 0)


def _without_mean(volume, mask):
    return (volume - float((volume * mask).sum() / mask.sum())) * mask


def _ratio(part, whole) -> float:
    return float(part / whole) if whole > 0 else 0.0


def spherical_average(volume):
    """The map with every density replaced by the mean at its distance from index n//2, linear between whole ones."""
    distance = centre_distance(volume.shape).ravel()
    lower = distance.astype(np.int64)
    total, count = (np.zeros(lower.max() + 2) for _ in range(2))
    for index, share in ((lower, 1 - (distance - lower)), (lower + 1, distance - lower)):
        total += np.bincount(index, share * volume.ravel(), minlength=total.size)
        count += np.bincount(index, share, minlength=total.size)
    mean = total / np.maximum(count, 1e-9)
    return np.interp(distance, np.arange(total.size), mean).reshape(volume.shape).astype(np.float32)


def _round_share(a, b) -> float:
    """Squared correlation of the map with its spherical average, from products of the two halves: without noise."""
    round_a, round_b = spherical_average(a), spherical_average(b)
    cross = float((round_a * b + a * round_b).sum()) / 2
    shared = [max(float((x * y).sum()), 0) for x, y in ((round_a, round_b), (a, b))]
    return float(np.clip(_ratio(cross**2, shared[0] * shared[1]), 0, 1))


def _likeness(mean, sphere, pixel, finest_angst, template, template_pixel):
    """Correlations with the template and its mirror image, and of these two where the mirror image wins."""
    template = resample_map(np.asarray(template, np.float32), template_pixel, mean.shape[0], pixel) * sphere
    mirrored = mirror(template)

    def like(volume, other):
        moved = lowpass(align_map_to(volume, other).map, finest_angst, pixel)
        return correlation(moved * sphere, other, sphere)

    found = {"like_template": like(template, mean), "like_mirror": like(mirrored, mean)}
    if found["like_mirror"] > found["like_template"]:
        found["template_like_mirror"] = like(mirrored, lowpass(template, finest_angst, pixel))
    return found


# ---- what speaks against it -------------------------------------------------------------------------------------


def initial_model_objections(summary: dict) -> list[str]:
    """What the initial model's own evidence says against it. summary : initial_model's."""
    evidence = summary.get("log_likelihood_per_particle")
    over_ball = summary.get("nats_per_particle_over_a_ball")
    objections = []
    if evidence is not None and evidence < LEAST_EVIDENCE:
        objections.append(
            "the initial model explains the particles worse than no particle at all "
            f"({evidence:.1f} nats per particle; particles that are there give tens to hundreds)"
        )
    if over_ball is not None and over_ball < LEAST_OVER_BALL:
        objections.append(
            f"the initial model is hardly likelier than a ball ({over_ball:.1f} nats per particle): the particles "
            "showed no orientations"
        )
    return objections


def refine_objections(summary: dict) -> list[str]:
    """What the refinement's own evidence says against it. summary : refine's."""
    n, diffuse, clear = (summary.get(k) for k in ("n_particles", "n_diffuse", "n_over_a_ball"))
    objections = []
    if clear is not None and clear < max(LEAST_CLEAR, LEAST_CLEAR_SHARE * n):
        objections.append(
            f"only {clear} of {n} particles look more like the average than like a ball: so do gold beads, blobs and "
            "noise, not particles"
        )
    if (along := summary.get("share_of_one_direction")) is not None and along > MOST_ONE_DIRECTION:
        objections.append(
            f"{100 * along:.0f} % of the particles point the same way along the beam: round things (gold beads, blobs) "
            "are turned until their missing wedges coincide; if these are particles, the wedge is not filled"
        )
    if n and diffuse is not None and diffuse > MOST_DIFFUSE * n:
        objections.append(f"{diffuse} of {n} particles have no clear orientation")
    return objections


def false_picks(summaries: list[dict]) -> tuple[float, int]:
    """(expected number of false picks, number of picks) of match_template's summaries that know it."""
    counted = [s for s in summaries if s.get("expected_false") is not None]
    return sum(min(s["expected_false"], s["n_picks"]) for s in counted), sum(s["n_picks"] for s in counted)


def hand_objections(summaries: list[dict]) -> list[str]:
    """Where match_template found that the mirrored template fits better, in more series than the template itself."""
    hands = [(s.get("hand") or {}).get("verdict") for s in summaries]
    mirrored, right = hands.count("mirrored"), hands.count("right")
    if mirrored <= right:
        return []
    return [
        f"the mirrored template fits the tomograms better ({mirrored} of {len(hands)} series): the template or the "
        "tomograms have the wrong hand"
    ]


def map_objections(facts: MapFacts) -> list[str]:
    """What the map itself says against it."""
    objections, diameter = [], facts.diameter_angst
    if not facts.resolution_angst < COARSEST * diameter:
        detail = f" finer than {facts.resolution_angst:.0f} A" if np.isfinite(facts.resolution_angst) else ""
        objections.append(f"its halves share nothing{detail} in a sphere of {diameter:.0f} A: a blob, no structure")
    if facts.round_share > MOST_ROUND:
        objections.append(
            f"it is a ball ({100 * facts.round_share:.0f} % of its density has no direction): a gold bead, a blob of "
            "all orientations, or a round particle at too low a resolution"
        )
    if facts.outside_ratio is not None and facts.outside_ratio > MOST_OUTSIDE:
        objections.append(
            f"its density goes on beyond the sphere of {diameter:.0f} A ({100 * facts.outside_ratio:.0f} % of what it "
            "is inside): a membrane, an edge, or a mask_diameter_angst smaller than the particle"
        )
    if facts.off_centre_angst > MOST_OFF_CENTRE * diameter:
        objections.append(f"it lies {facts.off_centre_angst:.0f} A off the centre of a sphere of {diameter:.0f} A")
    return objections + _template_objections(facts)


def _template_objections(facts: MapFacts) -> list[str]:
    if facts.like_template is None:
        return []
    like = max(facts.like_template, facts.like_mirror)
    if like < max(LEAST_LIKE_TEMPLATE, facts.like_ball):
        return [
            f"it is not like the template (correlation {like:.2f}; with a ball of its own density {facts.like_ball:.2f}; "
            "the right molecule gives 0.85 and more): it shows another molecule, or none"
        ]
    chiral = facts.template_like_mirror is not None and facts.template_like_mirror < MOST_LIKE_MIRROR
    if chiral and facts.like_mirror > facts.like_template + HAND_GAP:
        return [
            f"it is the mirror image of the template (correlation {facts.like_mirror:.2f}, with the template "
            f"{facts.like_template:.2f}): the template or the tomograms have the wrong hand. Check the template; if "
            "it is right, add 180 to import_tilt_series.tilt_axis_deg"
        ]
    return []


@dataclass(frozen=True)
class Verdict:
    """reasons : why the average must not be believed; none when nothing speaks against it.

    remarks : what could not be looked at, and what is wrong without making the average wrong.
    """

    reasons: list[str]
    remarks: list[str]
    facts: MapFacts

    def sentence(self) -> str:
        """For the log and the top of the report."""
        if self.reasons:
            return f"do not believe this average: {'; '.join(self.reasons)}"
        remarks = f" ({'; '.join(self.remarks)})" if self.remarks else ""
        return f"no objection to this average{remarks}"

    def numbers(self) -> dict:
        """For the summary."""
        return {"sentence": self.sentence(), "reasons": self.reasons, "remarks": self.remarks, **asdict(self.facts)}


def verdict(facts: MapFacts, first_map: str, picks=(), refine=None, initial_model=None, previous=None) -> Verdict:
    """All that speaks against the average of a round.

    Parameters
    ----------
    facts : of its half maps (:func:`map_facts`). first_map : "initial_model", "template" or "previous".
    picks, refine, initial_model : summaries of match_template (one per series), refine and initial_model, as far as
        there are any. previous : postprocess' summary of the round before; its objections hold here too where its map
        was the first one.
    """
    picks = list(picks)
    reasons = hand_objections(picks) + initial_model_objections(initial_model or {}) + refine_objections(refine or {})
    reasons += map_objections(facts)
    remarks = []
    false, n = false_picks(picks)
    if false > MOST_FALSE * n:
        said = f"{false:.0f} of {n} picks are expected to be false"
        if first_map == "template":
            reasons.insert(
                0,
                f"{said}, and the first map was the template they were picked with: noise that is turned until it "
                "looks like a template gives this template, in both halves",
            )
        else:
            remarks.append(said)
    if first_map == "previous":
        before = ((previous or {}).get("verdict") or {}).get("reasons", [])
        reasons += [f"the round before it: {reason}" for reason in before]
    if facts.like_template is None:
        remarks.append("hand and identity not judged: there is no template to compare with")
    if facts.outside_ratio is None:
        remarks.append("what lies around the particle not judged: the box ends at its mask")
    return Verdict(reasons, remarks, facts)
