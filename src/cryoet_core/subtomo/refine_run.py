"""From extracted particles to what the averaging algorithms read, and from their results to tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoet_core import parallel
from cryoet_core.backend import array_namespace
from cryoet_core.errors import DataQualityError
from cryoet_core.fourier import rfft_centred
from cryoet_core.geometry import matrix_to_euler, point_group
from cryoet_core.masks import soft_disc, soft_sphere
from cryoet_core.subtomo.checkpoint import Checkpoint, refinement_identity
from cryoet_core.subtomo.evaluate import resample_map
from cryoet_core.subtomo.iteration_files import write_iteration
from cryoet_core.subtomo.likelihood import FrequencyList, SeriesImages, masked_images, mean_square
from cryoet_core.subtomo.memory import Scratch, plan_memory, stack_sizes
from cryoet_core.subtomo.mstep import trilinear_envelope
from cryoet_core.subtomo.refine import ParticlePoses, Refined, RefineSettings, half_sets, refine
from cryoet_core.subtomo.stacks import ParticleVolumes

_MASK_EDGE_PX = 3.0
_BATCH = 2048
CHECKPOINT = "checkpoint.npz"
ONE_DIRECTION_DEG = 20.0
CLEAR_NATS = 10.0  # odds of 20,000 for the average against its own spherical average


def series_images(stack, mask_diameter_angst: float, halves=None, scratch: Scratch | None = None) -> SeriesImages:
    """Fourier coefficients of a SeriesStack (subtomo.stacks); its particles in the order of their table rows.

    Views that no particle is seen in are dropped. The likelihood's images get a soft disc of the particle's diameter.
    halves : (n,) 1 or 2 of all particles, or None: particles of one half then lie together, so that a half is a view of the
    arrays, not a copy. scratch : where the arrays are made.
    """
    scratch = scratch or Scratch()
    xp = array_namespace(stack.images)
    frequencies = FrequencyList.of_box(stack.box)
    rows, particle = np.unique(stack.particle, return_inverse=True)
    if halves is not None:
        order = np.argsort(halves[rows], kind="stable")
        rows, particle = rows[order], np.argsort(order)[particle]
    views, view = np.unique(stack.view, return_inverse=True)
    shape = (rows.size, views.size, len(frequencies))
    masked, unmasked = (scratch.zeros(shape, "complex64", xp) for _ in range(2))
    ctf = scratch.zeros(shape, "float32", xp)
    radius = min(mask_diameter_angst / (2 * stack.pixel_size_angst), stack.box / 2 - 1)
    mask = soft_disc((stack.box,) * 2, radius, _MASK_EDGE_PX, xp)
    for start in range(0, len(stack), _BATCH):
        part = slice(start, start + _BATCH)
        place = (particle[part], view[part])
        images = stack.images[part]
        unmasked[place] = frequencies.gather(rfft_centred(images, 2))
        masked[place] = frequencies.gather(rfft_centred(masked_images(images, mask), 2))
        ctf[place] = frequencies.gather(stack.ctf(part))
    power = mean_square(mask)
    return SeriesImages(rows, stack.view_rotations[views], masked, unmasked, ctf, frequencies, mask_power=power)


def volume_images(volumes, mask_diameter_angst: float, halves=None, scratch=None, likelihood: str = "exact", xp=np) -> SeriesImages:
    """Fourier coefficients of all ParticleVolumes of a run (subtomo.stacks); arguments as :func:`series_images`.

    Exact: the data of the likelihood are divided by the envelope that their insertion by trilinear weights has put on them; without that the matched
    filter loses what lies away from the centre. Those of the reconstruction keep it: they and the weights are then spread alike, so that their
    ratio is the map's (:class:`.mstep.Sums` undoes the envelope). ``likelihood="relion"``: data as they are and the multiplicity.
    """
    scratch, n = scratch or Scratch(), volumes.n_particles
    frequencies = FrequencyList.of_box(volumes.box, 3)
    rows = np.arange(n) if halves is None else np.argsort(halves, kind="stable")
    shape = (n, 1, len(frequencies))
    masked, unmasked = (scratch.zeros(shape, "complex64", xp) for _ in range(2))
    ctf = scratch.zeros(shape, "float32", xp)
    multiplicity = scratch.zeros(shape, "float32", xp) if likelihood == "relion" else None
    radius = min(mask_diameter_angst / (2 * volumes.pixel_size_angst), volumes.box / 2 - 1)
    mask = soft_sphere((volumes.box,) * 3, radius, _MASK_EDGE_PX, xp)
    envelope = trilinear_envelope(volumes.box, xp) if likelihood == "exact" else np.float32(1)
    for place, row in enumerate(rows):
        data, weight, count = (xp.asarray(a) for a in volumes.sums(int(row)))
        unmasked[place, 0] = frequencies.gather(rfft_centred(data, 3))
        masked[place, 0] = frequencies.gather(rfft_centred(data / envelope * mask, 3))
        ctf[place, 0] = xp.sqrt(xp.maximum(frequencies.gather(weight), 0))
        if multiplicity is not None:
            multiplicity[place, 0] = frequencies.gather(count)
    number = {name: i for i, name in enumerate(volumes.series_names)}
    strength_of = np.array([number[t] for t in volumes.particles.table["tomo_name"]], dtype=np.int64)[rows]
    return SeriesImages(
        rows, np.eye(3)[None], masked, unmasked, ctf, frequencies, mask_power=mean_square(mask), strength_of=strength_of,
        multiplicity=multiplicity,
    )


def all_series_images(stacks, mask_diameter_angst: float, halves=None, scratch=None, likelihood: str = "exact") -> list[SeriesImages]:
    """:func:`series_images` of every tilt series, or the one :func:`volume_images` of all 3D sums.

    Raises DataQualityError E-AVG-01 with fewer than ten particles.
    """
    if stacks.n_particles < 10:
        raise DataQualityError(
            "E-AVG-01",
            "too few particles for an average",
            found=stacks.n_particles,
            expected="at least 10",
            fix="lower the picking threshold or check match_template",
        )
    if isinstance(stacks, ParticleVolumes):
        return [volume_images(stacks, mask_diameter_angst, halves, scratch, likelihood)]
    return [series_images(stack, mask_diameter_angst, halves, scratch) for stack in stacks.series]


def diameter_warning(mask_diameter_angst: float, box_angst: float) -> str | None:
    """A sentence when the mask cannot be meant: under 0.3 of the box, or larger than it; None when it is fine."""
    if mask_diameter_angst < 0.3 * box_angst:
        return (
            f"mask_diameter_angst {mask_diameter_angst:g} A is under 0.3 of the box ({box_angst:.0f} A): "
            "is a digit missing? The mask must hold the whole particle"
        )
    if mask_diameter_angst > box_angst:
        return f"mask_diameter_angst {mask_diameter_angst:g} A is larger than the box ({box_angst:.0f} A); the box is used"
    return None


def lowpass_warning(initial_lowpass_angst: float, pixel_size_angst: float) -> str | None:
    """A sentence when the first reference keeps nearly all frequencies, so that it biases the result; None otherwise."""
    if initial_lowpass_angst < 2.4 * pixel_size_angst:
        return (
            f"initial_lowpass_angst {initial_lowpass_angst:g} A hardly filters at this pixel size "
            f"(Nyquist limit {2 * pixel_size_angst:.0f} A): both halves start from the same map, the FSC may be too good"
        )
    return None


def chosen_halves(particles, seed: int) -> np.ndarray:
    """The table's random_subset when it holds both halves, otherwise random halves by the particles' names."""
    table = particles.table
    if "random_subset" in table and set(np.unique(table["random_subset"])) == {1, 2}:
        return table["random_subset"].to_numpy(np.int64)
    names = table["particle_name"] if "particle_name" in table else [str(i) for i in range(len(table))]
    return half_sets(list(names), seed)


def fitted_reference(volume, pixel_size_angst: float, settings: RefineSettings):
    """A map of any box and pixel size on the grid of the particles; the grey scale is fitted later."""
    return resample_map(volume, pixel_size_angst, settings.box_px, settings.pixel_size_angst)


def refine_stacks(
    stacks, reference, reference_pixel_angst, config, seed, to_device=lambda a: a, report=None, *, work_folder=None, at=None,
    plan_report=None,
):
    """Refine extracted particles: (Refined, Particles with the new poses).

    stacks : ParticleStacks or ParticleVolumes. reference : (n, n, n) map, bright. config : config.refine.Refine. to_device : moves an array to
    the device that computes. work_folder : where every iteration leaves its files and the checkpoint is kept, or None; a run
    that finds a checkpoint there goes on from it. at : where the caller puts that folder in the end. plan_report :
    callable(memory.MemoryPlan) before anything is allocated.

    Raises
    ------
    DataQualityError E-AVG-01 with too few particles, E-CKP-01 and UserInputError E-CKP-02 about the checkpoint.
    """
    settings = RefineSettings(pixel_size_angst=stacks.pixel_size_angst, box_px=stacks.box, **config.model_dump())
    halves = chosen_halves(stacks.particles, seed)
    coefficients = len(FrequencyList.of_box(stacks.box, 3 if isinstance(stacks, ParticleVolumes) else 2))
    plan = plan_memory(stack_sizes(stacks), stacks.box, coefficients, config.memory_mb, parallel.n_threads())
    if plan_report:
        plan_report(plan)
    on_disk = plan.on_disk and work_folder is not None
    scratch = Scratch(Path(work_folder) / "scratch" if on_disk else None)
    images = all_series_images(stacks, settings.mask_diameter_angst, halves, scratch, settings.likelihood)
    series = [on_device(s, to_device) for s in images]
    volume = to_device(fitted_reference(np.asarray(reference, np.float32), reference_pixel_angst, settings))
    rotations, checkpoint, each = stacks.particles.rotations, None, report
    if work_folder is not None:
        identity = refinement_identity(series, halves, volume, settings, rotations, config.version)
        checkpoint = Checkpoint(Path(work_folder) / CHECKPOINT, identity)
        each = _writing(work_folder, at, settings, stacks, halves, report)
    refined = refine(series, halves, volume, settings, rotations, each, checkpoint)
    if checkpoint is not None:
        checkpoint.remove()
    scratch.close()
    return refined, refined_particles(stacks.particles, refined, halves, stacks.pixel_size_angst)


def _writing(folder, at, settings, stacks, halves, report):
    """``report`` after the iteration's files are written."""
    names = stacks.series_names

    def each(iteration):
        particles = refined_particles(stacks.particles, iteration.details, halves, stacks.pixel_size_angst)
        write_iteration(folder, iteration, settings, particles, names, at)
        if report:
            report(iteration)

    return each


def on_device(images: SeriesImages, to_device) -> SeriesImages:
    """The same particles with their arrays moved."""
    arrays = {name: to_device(getattr(images, name)) for name in ("masked", "unmasked", "ctf")}
    if images.multiplicity is not None:
        arrays["multiplicity"] = to_device(images.multiplicity)
    return replace(images, **arrays)


def refined_particles(particles, refined: ParticlePoses, halves, pixel_size_angst: float):
    """The particle table with refined angles, origins and statistics.

    Pre-orientations (rlnTomoSubtomogram*) and coordinates stay; position = coordinate - A_subtomogram . origin.
    """
    names = ("subtomogram_rot_deg", "subtomogram_tilt_deg", "subtomogram_psi_deg")
    table = particles.table
    before = np.tile(np.eye(3), (len(table), 1, 1))
    if names[0] in table:
        from cryoet_core.geometry import euler_to_matrix

        before = euler_to_matrix(*(table[c].to_numpy(float) for c in names))
    inverse = np.swapaxes(before, 1, 2)
    angles = matrix_to_euler(inverse @ refined.rotations)
    coordinates = table[["x_angst", "y_angst", "z_angst"]].to_numpy(float)
    position = particles.positions_angst + refined.offsets_px * pixel_size_angst
    origin = np.einsum("nij,nj->ni", inverse, coordinates - position)
    columns = dict(zip(("rot_deg", "tilt_deg", "psi_deg"), angles.T, strict=True))
    columns.update(zip(("origin_x_angst", "origin_y_angst", "origin_z_angst"), origin.T, strict=True))
    return particles.with_columns(
        **columns,
        random_subset=halves,
        log_likelihood=refined.log_likelihood,
        max_probability=refined.max_probability,
        expected_angle_error_deg=refined.angle_error_deg,
        expected_offset_error_angst=refined.offset_error_px * pixel_size_angst,
        diffuse=refined.diffuse.astype(np.int64),
    )


def fsc_blocks(fsc, pixel_size_angst: float, box_px: int, resolution_angst: float) -> dict:
    """STAR blocks of the gold-standard FSC inside the spherical mask: data_general, data_fsc."""
    import pandas as pd

    shell = np.arange(len(fsc))
    frequency = shell / (box_px * pixel_size_angst)
    curve = np.array(fsc, dtype=float)
    curve[0] = 1.0
    table = pd.DataFrame(
        {
            "rlnSpectralIndex": shell,
            "rlnResolution": frequency,
            "rlnAngstromResolution": np.where(shell > 0, 1 / np.maximum(frequency, 1e-12), 999.0),
            "rlnGoldStandardFsc": curve,
        }
    )
    return {"general": {"rlnCurrentResolution": resolution_angst}, "fsc": table}


def share_of_one_direction(rotations, symmetry: str = "C1") -> float:
    """Largest share of the particles whose view directions lie within ONE_DIRECTION_DEG of one axis, up or down.

    rotations : (n, 3, 3). The direction is the beam's, the tomogram's z axis, in the frame of the average, with its mates by
    symmetry. Particles of all orientations give 0.06; round things are turned until their missing wedges coincide: 1.
    """
    directions = np.asarray(rotations, float)[:, 2, :]
    mates = np.einsum("nj,sji->nsi", directions, point_group(symmetry))
    near = np.cos(np.deg2rad(ONE_DIRECTION_DEG))
    axes = directions[:: max(1, len(directions) // 500)]
    return max(float((np.abs(mates @ axis) > near).mean()) for axis in axes)


def refine_summary(refined: Refined, pixel_size_angst: float, symmetry: str = "C1") -> dict:
    """Numbers for the report."""
    last = refined.iterations[-1]
    return {
        "n_particles": len(refined.rotations),
        "n_iterations": len(refined.iterations),
        "converged": refined.converged,
        "resolution_angst": last.resolution_angst,
        "signal_to_angst": last.signal_to_angst,
        "nyquist_angst": 2 * pixel_size_angst,
        "median_expected_angle_error_deg": last.expected_angle_error_deg,
        "median_expected_offset_error_angst": last.expected_offset_error_angst,
        "mean_max_probability": last.mean_max_probability,
        "n_diffuse": int(refined.diffuse.sum()),
        "median_log_likelihood": float(np.median(refined.log_likelihood)),
        "median_nats_over_a_ball": float(np.median(refined.over_ball)),
        "n_over_a_ball": int((refined.over_ball > CLEAR_NATS).sum()),
        "share_of_one_direction": share_of_one_direction(refined.rotations, symmetry),
        "pixel_size_angst": pixel_size_angst,
        "box_px": int(refined.map.shape[0]),
        "fsc": refined.fsc,
    }
