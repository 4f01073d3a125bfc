"""Particle images in memory: what averaging reads, with the contrast transfer of every single image.

An extracted image is ``X = c . x`` (c real): the binned view cut around the particle, contrast inverted (particle
bright), multiplied by its own contrast transfer ``c(k) = CTF(k; own depth) . dose weight(k) . ctf_scale`` and cut to a
soft disc. For a particle at rotation A (reference -> tomogram) and a view with rotation R (tomogram -> image axes)

    E[X(k)] = c(k)^2 . S(k) ,   S = central slice of the reference's transform at (R A)^T (kx, ky, 0)

so ``c^2`` modulates the reference. The noise of X has variance ``sigma^2 c^2``: a matched filter divides X by sigma^2.
Sources: averaging theory as in RELION 5 (premultiplied pseudo-subtomograms, Zivanov et al. 2022, eLife 11:e83724).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoet_core.backend import array_namespace, to_device
from cryoet_core.errors import UserInputError
from cryoet_core.fourier import rfft_centred
from cryoet_core.io.images import split_image_name
from cryoet_core.io.mrc import iter_sections, read_header, read_mrc
from cryoet_core.io.relion import parse_visible_frames
from cryoet_core.subtomo.transfer import ImageTransfer


class StackFiles:
    """Images in MRC stacks, read when they are sliced: ``files[rows]`` -> (m, box, box) float32.

    paths : list of files; file, section : (n,) int64, which file and which of its sections (from 0) every image is.
    """

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(self, paths, file, section, box_px: int):
        self.paths, self.file, self.section = list(paths), np.asarray(file), np.asarray(section)
        self.shape = (len(self.section), box_px, box_px)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows):
        file, section = np.atleast_1d(self.file[rows]), np.atleast_1d(self.section[rows])
        out = np.empty((len(section), *self.shape[1:]), dtype=np.float32)
        for number in np.unique(file):
            mine = np.flatnonzero(file == number)
            for i, image in zip(mine, iter_sections(self.paths[number], section[mine].tolist()), strict=True):
                out[i] = image
        return out

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or np.float32)


@dataclass
class SeriesStack:
    """All visible images of the particles of one tilt series.

    Attributes
    ----------
    name : tilt series.
    images : (n, box, box) float32, premultiplied, particle (refined position) on index box//2, particle bright; an array, or
        StackFiles that are read as they are sliced.
    particle : (n,) int64, row of the particle in ``ParticleStacks.particles.table``; images of one are contiguous.
    view : (n,) int64, row of the view in the tilt-series table, index into ``view_rotations``.
    view_rotations : (n_views, 3, 3) float64, tomogram axes -> image axes (x, y, depth).
    transfer : ImageTransfer of the n images.
    pixel_size_angst : of the images.
    """

    name: str
    images: np.ndarray
    particle: np.ndarray
    view: np.ndarray
    view_rotations: np.ndarray
    transfer: ImageTransfer
    pixel_size_angst: float

    def __len__(self) -> int:
        return len(self.particle)

    @property
    def box(self) -> int:
        return int(self.images.shape[-1])

    def transform(self, rows=slice(None), box: int | None = None):
        """Centred half-complex transforms of images ``rows`` -> (m, b, b//2 + 1) complex64, unnormalised (sum) FFT.

        ``box`` smaller than the image keeps the frequencies of that box at the same frequency step (current size); the
        values do not change, so they compare with slices of the full transform of a reference of the full box.
        """
        spectrum = rfft_centred(self.images[rows], 2)
        return spectrum if box is None or box == self.box else crop_half(spectrum, box)

    def ctf(self, rows=slice(None), box: int | None = None):
        """c of images ``rows`` -> (m, b, b//2 + 1) float32 on the same grid as :meth:`transform`."""
        xp = array_namespace(self.images)
        size = self.box if box is None else box
        # A smaller box keeps the frequency step 1 / (box * pixel): its own pixel is larger.
        pixel = self.pixel_size_angst * self.box / size
        return self.transfer.evaluate(rows, (size, size), pixel, xp)

    def to_device(self, device: str) -> SeriesStack:
        """The same stack with its images on ``device``; tables stay on the host."""
        values = dict(self.__dict__)
        values["images"] = to_device(self.images, device)
        return SeriesStack(**values)


def crop_half(spectrum, box: int):
    """Keep the low frequencies of half-complex spectra (..., n, n//2 + 1), corner origin -> (..., box, box//2 + 1)."""
    xp = array_namespace(spectrum)
    n, half = spectrum.shape[-2], box // 2
    if box > n:
        raise ValueError(f"cannot keep {box} of {n} Fourier pixels")
    rows = xp.concatenate([xp.arange(half), xp.arange(n - (box - half), n)])
    return spectrum[..., rows, : half + 1]


@dataclass
class ParticleStacks:
    """Stacks of all tilt series and the particle table they belong to.

    particles : metadata.Particles, one row per particle (positions, angles, random_subset ...); its row number is what
    ``SeriesStack.particle`` holds.
    """

    series: list[SeriesStack]
    particles: object
    pixel_size_angst: float
    box: int
    binning: float = 1.0

    @property
    def n_particles(self) -> int:
        return len(self.particles.table)

    @property
    def series_names(self) -> list[str]:
        return [stack.name for stack in self.series]

    @property
    def n_images(self) -> int:
        return sum(len(s) for s in self.series)

    def select(self, rows) -> ParticleStacks:
        """Stacks of some particles (int64 rows of the table, or a mask), renumbered 0..m-1 in table order."""
        keep = np.zeros(self.n_particles, dtype=bool)
        keep[rows] = True
        renumber = np.cumsum(keep) - 1
        chosen = []
        for stack in self.series:
            images = np.flatnonzero(keep[stack.particle])
            if images.size:
                chosen.append(_take(stack, images, renumber))
        particles = _with_table(self.particles, self.particles.table[keep].reset_index(drop=True))
        return ParticleStacks(chosen, particles, self.pixel_size_angst, self.box, self.binning)


@dataclass
class ParticleVolumes:
    """3D pseudo-subtomograms of all tilt series, files that are read particle by particle (RELION's layout, or our own whitened sums).

    particles : metadata.Particles with image_name (data) and ctf_image (weights), one row per particle. root : what relative names refer to.
    """

    particles: object
    pixel_size_angst: float
    box: int
    binning: float = 1.0
    root: Path = Path()

    @property
    def n_particles(self) -> int:
        return len(self.particles.table)

    @property
    def series_names(self) -> list[str]:
        return list(dict.fromkeys(self.particles.table["tomo_name"]))

    def sums(self, row: int):
        """(data, weight, multiplicity) of particle ``row`` in the units of 2D stacks.

        data : (n, n, n) float32, real space, its unnormalised FFT is D = sum c x; weight = sum c^2 and multiplicity, (n, n, n//2 + 1) float32,
        corner origin.

        Raises
        ------
        UserInputError E-STK-04 when a file has another box than the first.
        """
        table, n = self.particles.table, self.box
        data, weights = (read_mrc(self.root / table[name].iloc[row])[0] for name in ("image_name", "ctf_image"))
        for name, found, expected in (("image_name", data, (n, n, n)), ("ctf_image", weights, (2 * n, n, n // 2 + 1))):
            if found.shape != expected:
                raise UserInputError(
                    "E-STK-04",
                    "not a 3D pseudo-subtomogram of this set",
                    file=self.root / table[name].iloc[row],
                    found=found.shape,
                    expected=expected,
                    fix="extract the particles again, all with one box",
                )
        scale = np.float32(1 / np.sqrt(n * self.binning))  # of the files' grey scale, against that of stacks divided by the binning
        return data.astype(np.float32) * scale, weights[:n].astype(np.float32), weights[n:].astype(np.float32)

    def select(self, rows) -> ParticleVolumes:
        """Some of the particles (rows of the table or a mask), in table order."""
        keep = np.zeros(self.n_particles, dtype=bool)
        keep[rows] = True
        return replace(self, particles=_with_table(self.particles, self.particles.table[keep].reset_index(drop=True)))


def _take(stack: SeriesStack, rows, renumber) -> SeriesStack:
    transfer = stack.transfer
    arrays = {
        name: value[rows] for name, value in transfer.__dict__.items() if isinstance(value, np.ndarray)
    }
    return SeriesStack(
        stack.name,
        stack.images[rows],
        renumber[stack.particle[rows]].astype(np.int64),
        stack.view[rows],
        stack.view_rotations,
        ImageTransfer(**arrays, optics=transfer.optics, flat=transfer.flat),
        stack.pixel_size_angst,
    )


def _with_table(particles, table):
    return replace(particles, table=table)


def parse_visible(text, n_views: int) -> np.ndarray:
    """rlnTomoVisibleFrames "[1,0,1]" -> (n_views,) bool.

    Raises UserInputError E-RELION-02 (not such a list), E-STK-02 when its length is not the number of views of the tilt series.
    """
    visible = parse_visible_frames(str(text))
    if len(visible) != n_views:
        raise UserInputError(
            "E-STK-02",
            "the list of visible frames does not fit the tilt series",
            field="rlnTomoVisibleFrames",
            found=f"{len(visible)} entries",
            expected=f"{n_views}",
            fix="extract the particles again from the present tilt series",
        )
    return visible


def read_extracted(particles_path, tilt_series) -> ParticleStacks | ParticleVolumes:
    """Load the output of extract_subtomos (or of RELION's extraction): 2D stacks or 3D sums, whichever the table names.

    Arguments and errors as :func:`read_stacks`; names of files are relative to the working folder.
    """
    from cryoet_core.metadata import read_particles

    particles = read_particles(particles_path)
    if particles.are_2d_stacks or "ctf_image" not in particles.table:
        return read_stacks(particles_path, tilt_series)
    return particle_volumes(particles)


def particle_volumes(particles, root=Path()) -> ParticleVolumes:
    """3D pseudo-subtomograms of a table; ``root`` is the folder that its file names are relative to (RELION: the project)."""
    header = read_header(Path(root) / particles.table["image_name"].iloc[0])
    pixel = float(_optics_value(particles, "rlnImagePixelSize", header.pixel_size_angst))
    binning = float(_optics_value(particles, "rlnTomoSubtomogramBinning", 1.0))
    return ParticleVolumes(particles, pixel, int(header.shape[-1]), binning, Path(root))


def read_stacks(particles_path, tilt_series, *, read_images=None) -> ParticleStacks:
    """Load 2D stacks of extract_subtomos.

    Parameters
    ----------
    particles_path : particles.star of 2D stacks (results/extract_subtomos/<round>/particles.star).
    tilt_series : mapping name -> metadata.TiltSeries, or paths of their STAR files; the tables used for extraction.
    read_images : function path -> (n, box, box) array; default: the images stay on disk until they are sliced.

    Raises
    ------
    UserInputError E-STK-01 when the file holds no 2D stacks, E-STK-02 when frames and views disagree.
    """
    from cryoet_core.metadata import read_particles

    particles = read_particles(particles_path)
    if not particles.are_2d_stacks or "visible_frames" not in particles.table:
        raise UserInputError(
            "E-STK-01",
            "not particles extracted as 2D stacks",
            file=particles_path,
            fix="give the particles.star that extract_subtomos wrote",
        )
    series = _series_by_name(tilt_series)
    stacks = [
        _series_stack(series[name], particles, np.asarray(rows, dtype=np.int64), read_images)
        for name, rows in particles.table.groupby("tomo_name", sort=False).indices.items()
    ]
    pixel, binning = stacks[0].pixel_size_angst, _optics_value(particles, "rlnTomoSubtomogramBinning", 1.0)
    return ParticleStacks(stacks, particles, pixel, stacks[0].box, binning)


def _series_by_name(tilt_series) -> dict:
    if isinstance(tilt_series, dict):
        return tilt_series
    from cryoet_core.metadata import read_tilt_series

    tables = [read_tilt_series(t) if isinstance(t, str | os.PathLike) else t for t in tilt_series]
    return {table.name: table for table in tables}


def _optics_value(particles, column, default):
    optics = particles.optics
    return optics[column].iloc[0] if optics is not None and column in optics else default


def _series_stack(series, particles, rows, read) -> SeriesStack:
    """Images, indices and transfers of the particles ``rows`` of one tilt series."""
    table = particles.table
    n_views = len(series.tilts)
    visible = np.stack([parse_visible(t, n_views) for t in table["visible_frames"].to_numpy()[rows]])
    in_table, view = (np.asarray(a, dtype=np.int64) for a in np.nonzero(visible))
    images = _load_images(table["image_name"].to_numpy()[rows], visible.sum(axis=1), read)
    depth = series.geometry.project(particles.positions_angst[rows])[1]  # (n_views, m)
    premultiplied = bool(int(float(_optics_value(particles, "rlnCtfDataAreCtfPremultiplied", 1))))
    transfer = ImageTransfer.of_views(
        series,
        view,
        depth[view, in_table],
        dose_at=str(_optics_value(particles, "tlDoseAt", "start")),
        flat=not premultiplied,
    )
    pixel = float(_optics_value(particles, "rlnImagePixelSize", series.pixel_size_angst))
    return SeriesStack(
        series.name, images, rows[in_table], view, series.geometry.rotation, transfer, pixel
    )


def _stack_files(names, counts) -> StackFiles:
    """Images of particles whose ``names`` are "first_section@file" (one file per series) or a file each, left on disk."""
    numbers, headers, file, section = {}, [], [], []
    for name, count in zip(names, counts, strict=True):
        first, path = split_image_name(name)
        if path not in numbers:
            numbers[path] = len(headers)
            headers.append(read_header(path))
        header = headers[numbers[path]]
        if first + count > header.n_sections:
            raise UserInputError(
                "E-STK-03",
                "the stack is shorter than the table says",
                file=path,
                found=header.n_sections - first,
                expected=count,
            )
        file += [numbers[path]] * int(count)
        section += range(first, first + int(count))
    return StackFiles(numbers, file, section, headers[0].shape[-1])


def _load_images(names, counts, read):
    """The images of :func:`_stack_files`, or all of them at once by the function ``read`` where one is given."""
    if read is None:
        return _stack_files(names, counts)
    files, parts = {}, []
    for name, count in zip(names, counts, strict=True):
        first, path = split_image_name(name)
        if path not in files:
            files = {path: read(path)}
        parts.append(files[path][first : first + int(count)])
        if len(parts[-1]) != count:
            raise UserInputError(
                "E-STK-03", "the stack is shorter than the table says", file=path, found=len(parts[-1]), expected=count
            )
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
