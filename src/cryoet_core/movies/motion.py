"""Whole-frame motion of one movie: robust start, joint refinement of all frames, and a test that it helps.

1. Start: each frame against the sum of the others, correlation smoothed coarse to fine; the track through the best
   peaks of every frame is found by dynamic programming with a heavy-tailed prior on the step between frames.
2. Refinement: L-BFGS on the joint objective of all pairs (pair_correlation.py) with the same prior, in log-likelihood
   units, so that the prior decides where the data say nothing.
3. Test: the track found from one random half of the frequencies must raise the objective on the other half; otherwise a
   straight track, and at last no motion at all, is taken. The answer is therefore never worse than the raw sum
   beyond the noise of that test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter
from scipy.optimize import minimize

from cryoet_core.backend import array_namespace
from cryoet_core.movies.local_field import LocalField
from cryoet_core.movies.pair_correlation import (
    PairMaps,
    band_weights,
    joined_maps,
    pair_maps,
    split_frequencies,
)

STEP_PRIOR_ANGST = 2.0  # typical movement between frames; the tail is that of a Student t with 2 degrees of freedom
START_SMOOTHING_ANGST = (20.0, 8.0, 0.0)
MAX_NODES = 16
MIN_SIGNIFICANCE = 3.0  # standard deviations a track must gain on frequencies it was not fitted to
_CANDIDATES = 6


@dataclass(frozen=True)
class MotionTrack:
    """Movement of a movie's content.

    movement_px : (n_frames, 2) x, y, movie pixels, content of each frame relative to the mean over frames.
    model : "free", "line" or "none" of the whole frame. accepted : it is not "none", or there is local motion.
    held_out_gain : rise of the objective on frequencies the track was not fitted to, standard deviations of its noise.
    correlation_before, correlation_after : mean pair correlation, standard deviations of its noise.
    predicted_error_px : rms error of one coordinate expected from the curvature of the objective (nan: unknown).
    local : motion that differs over the image, about this track (None: none found, or not looked for).
    local_gain : as held_out_gain, for the local part over this track (nan: not looked for).
    """

    movement_px: np.ndarray
    model: str
    held_out_gain: float
    correlation_before: float
    correlation_after: float
    predicted_error_px: float
    local: LocalField | None = None
    local_gain: float = float("nan")

    @property
    def accepted(self) -> bool:
        return self.model != "none" or self.local is not None

    @property
    def local_model(self) -> str:
        """"off" (not looked for), "rejected" (the held-out test) or "accepted"."""
        if self.local is not None:
            return "accepted"
        return "off" if np.isnan(self.local_gain) else "rejected"

    @property
    def rms_px(self) -> float:
        """Root mean square of |movement| over frames."""
        return float(np.sqrt((self.movement_px**2).sum(axis=1).mean()))


def _centred(movement):
    return movement - movement.mean(axis=0)


def _step_prior(movement, tau):
    """Log prior of a track and its gradient: sum over steps of -1.5 log(1 + |step|^2 / (2 tau^2))."""
    step = np.diff(movement, axis=0)
    excess = (step**2).sum(axis=1) / (2 * tau**2)
    slope = -1.5 * step / (tau**2 * (1 + excess)[:, None])
    gradient = np.zeros_like(movement)
    gradient[1:] += slope
    gradient[:-1] -= slope
    return float(-1.5 * np.log1p(excess).sum()), gradient


def _add_moved(total, image, rows: int, columns: int):
    """total += image moved by whole samples, nothing coming in from outside."""
    n = len(total)
    if max(abs(rows), abs(columns)) >= n:
        return
    to, source = (
        tuple(slice(max(0, sign * d), n + min(0, sign * d)) for d in (rows, columns)) for sign in (1, -1)
    )
    total[to] += image[source]


def _frame_map(pairs: PairMaps, frame: int, movement):
    """Correlation of ``frame`` with the sum of the others at their present ``movement``, to the nearest sample."""
    total = np.zeros(pairs.maps.shape[1:])
    step = pairs.axis_px[1] - pairs.axis_px[0]
    offsets = np.rint(movement / step).astype(int)
    for image, f, g in zip(pairs.maps, pairs.first, pairs.second, strict=True):
        if frame in (f, g):
            oriented = image if frame == g else image[::-1, ::-1]  # C_fg(delta) = C_gf(-delta)
            x, y = offsets[f if frame == g else g]
            _add_moved(total, oriented, int(y), int(x))
    return total


def _candidates(image, axis, current):
    """Positions (n, 2) x, y and heights (robust standard deviations) of the best peaks; ``current`` is one of them."""
    sample = image[::3, ::3]
    spread = 1.4826 * np.median(np.abs(sample - np.median(sample)))
    peaks = (image == maximum_filter(image, size=5)) & (image > 0)
    rows, columns = np.nonzero(peaks)
    best = np.argsort(image[rows, columns])[::-1][:_CANDIDATES]
    xy = np.stack([axis[columns[best]], axis[rows[best]]], axis=1)
    index = (current[::-1] - axis[0]) / (axis[1] - axis[0])
    here = map_coordinates(image, index[:, None], order=1, mode="nearest")
    heights = np.concatenate([image[rows[best], columns[best]], here]) / max(spread, 1e-12)
    return np.concatenate([xy, current[None]]), heights


def _best_path(positions, scores, tau):
    """Indices of the track with the largest sum of ``scores`` and step priors (Viterbi)."""
    total, back = scores[0], []
    for previous, here, score in zip(positions[:-1], positions[1:], scores[1:], strict=True):
        step2 = ((here[:, None] - previous[None]) ** 2).sum(axis=2)
        chain = total[None] - 1.5 * np.log1p(step2 / (2 * tau**2))
        back.append(chain.argmax(axis=1))
        total = score + chain.max(axis=1)
    path = [int(total.argmax())]
    for pointer in reversed(back):
        path.append(int(pointer[path[-1]]))
    return path[::-1]


def start_track(pairs: PairMaps, tau_px: float, smoothing_px) -> np.ndarray:
    """Robust first track (n_frames, 2) from smoothed leave-one-out correlations, coarse to fine."""
    movement = np.zeros((pairs.n_frames, 2))
    step = pairs.axis_px[1] - pairs.axis_px[0]
    for smoothing in smoothing_px:
        maps = np.stack([_frame_map(pairs, f, movement) for f in range(pairs.n_frames)])
        maps = gaussian_filter(maps, (0, smoothing / step, smoothing / step))
        found = [_candidates(image, pairs.axis_px, here) for image, here in zip(maps, movement, strict=True)]
        scores = [0.5 * np.maximum(height, 0) ** 2 for _, height in found]
        path = _best_path([xy for xy, _ in found], scores, tau_px)
        movement = _centred(np.array([xy[i] for (xy, _), i in zip(found, path, strict=True)]))
    return movement


def node_matrix(n_frames: int, n_nodes: int) -> np.ndarray:
    """(n_frames, n_nodes) linear interpolation from evenly spaced time nodes to frames."""
    if n_nodes >= n_frames:
        return np.eye(n_frames)
    if n_nodes == 1:
        return np.zeros((n_frames, 1))
    position = np.linspace(0, n_nodes - 1, n_frames)
    left = np.minimum(position.astype(int), n_nodes - 2)
    matrix = np.zeros((n_frames, n_nodes))
    matrix[np.arange(n_frames), left] = 1 - (position - left)
    matrix[np.arange(n_frames), left + 1] = position - left
    return matrix


def signal_scale(pairs: PairMaps, movement) -> float:
    """What one unit of the objective weighs in log-likelihood near ``movement``.

    The position of a maximum with curvature H whose gradient has variance V is known to V / H^2, which is what a
    log-likelihood of curvature H^2 / V says: the scale is H / V, averaged over frames.
    """
    if not len(pairs.first):
        return 0.0
    return max(0.0, float(pairs.curvature(movement).sum() / pairs.gradient_variance().sum()))


def refine_track(pairs: PairMaps, start, basis, tau_px: float) -> np.ndarray:
    """Maximise scale * objective + log prior over the node values of ``basis`` (n_frames, n_nodes)."""
    nodes = np.linalg.lstsq(basis, start, rcond=None)[0]
    for _ in range(2):
        scale = signal_scale(pairs, _centred(basis @ nodes))

        def cost(flat, scale=scale):
            movement = basis @ flat.reshape(-1, 2)
            value, gradient = pairs.value_and_gradient(movement)
            prior, prior_gradient = _step_prior(movement, tau_px)
            slope = basis.T @ (scale * gradient + prior_gradient)
            return -(scale * value + prior), -slope.ravel()

        nodes = minimize(cost, nodes.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 60}).x.reshape(-1, 2)
    return _centred(basis @ nodes)


def _fit(pairs: PairMaps, basis, tau_px, start):
    """Best of two refinements: from the robust ``start`` and from no motion."""
    tracks = [refine_track(pairs, s, basis, tau_px) for s in (start, np.zeros_like(start))]
    scale = max(signal_scale(pairs, t) for t in tracks)
    return max(tracks, key=lambda t: scale * pairs.value(t) + _step_prior(t, tau_px)[0])


def _held_out_gain(halves, starts, basis, tau_px):
    """Objective gained on each half of the frequencies by the track fitted to the other half: (gain, in noise sd).

    starts : robust track of each half by itself, so that nothing of the tested half leaks in.
    """
    gain, variance, zero = 0.0, 0.0, np.zeros((halves[0].n_frames, 2))
    for fitted, tested, start in zip(halves, halves[::-1], starts, strict=True):
        track = _fit(fitted, basis, tau_px, start)
        gain += tested.value(track) - tested.value(zero)
        variance += tested.noise_of_gain(track) ** 2
    return gain, gain / max(np.sqrt(variance), 1e-6)


def _line_basis(n_frames):
    return np.linspace(-0.5, 0.5, n_frames)[:, None]


def estimate_track(
    spectra,
    shape,
    band,
    pixel_size_angst: float,
    *,
    resolution_range_angst=(500.0, 10.0),
    b_factor_angst2: float = -500.0,
    n_nodes: int | None = None,
    max_shift_angst: float = 100.0,
    rng: np.random.Generator | None = None,
) -> MotionTrack:
    """Movement of every frame.

    Parameters
    ----------
    spectra : n band spectra (pair_correlation.band_spectrum) of frames of ``shape`` (h, w). band : their (h, w).
    n_nodes : values in time per axis (None: one per frame). max_shift_angst : largest shift between two frames.
    """
    n = len(spectra)
    if n < 2:
        return MotionTrack(np.zeros((n, 2)), "none", 0.0, 0.0, 0.0, float("nan"))
    scale_xy = (shape[1] / band[1], shape[0] / band[0])
    pixel_yx = (pixel_size_angst * scale_xy[1], pixel_size_angst * scale_xy[0])
    xp = array_namespace(spectra[0])
    weights = band_weights(band, pixel_yx, resolution_range_angst, b_factor_angst2, xp)
    half = split_frequencies(band, rng or np.random.default_rng(0))
    reach = max_shift_angst / pixel_size_angst
    one, two = (pair_maps(spectra, band, scale_xy, weights, reach_px=reach, subset=s) for s in (half, ~half))
    pairs = joined_maps(one, two)
    tau = STEP_PRIOR_ANGST / pixel_size_angst
    smoothing = [s / pixel_size_angst for s in START_SMOOTHING_ANGST]
    bases = {"free": node_matrix(n, n_nodes or n), "line": _line_basis(n)}
    start, *starts = (start_track(p, tau, smoothing) for p in (pairs, one, two))
    track = _fit(pairs, bases["free"], tau, start)
    gains = {name: _held_out_gain((one, two), starts, basis, tau) for name, basis in bases.items()}
    model = max(gains, key=lambda name: gains[name][0])
    significance = gains[model][1]
    if significance < MIN_SIGNIFICANCE:
        return _summary(pairs, np.zeros((n, 2)), "none", significance)
    if model == "line":
        track = _fit(pairs, bases["line"], tau, track)
    return _summary(pairs, track, model, significance)


def _summary(pairs: PairMaps, movement, model, gain) -> MotionTrack:
    unit = np.sqrt((pairs.noise**2).sum())
    bend = pairs.curvature(movement)
    error = float(np.sqrt((pairs.gradient_variance() / bend**2).mean())) if (bend > 0).all() else float("nan")
    return MotionTrack(
        movement, model, float(gain), pairs.value(np.zeros_like(movement)) / unit, pairs.value(movement) / unit, error
    )


def group_frames(n_frames: int, n_groups: int = MAX_NODES) -> list[np.ndarray]:
    """Indices of consecutive frames that are summed before estimation so that at most ``n_groups`` remain."""
    return np.array_split(np.arange(n_frames), min(n_frames, n_groups))


def ungroup_track(track_px, groups, n_frames: int):
    """Movement of every frame, linear between group centres (ends extended), mean-free (n_frames, 2)."""
    if len(groups) == n_frames or len(groups) < 2:
        return track_px if len(groups) == n_frames else np.zeros((n_frames, 2))
    centres = np.array([g.mean() for g in groups])
    frames = np.arange(n_frames)
    out = np.stack([np.interp(frames, centres, track_px[:, axis]) for axis in (0, 1)], axis=1)
    for end, (a, b) in ((frames < centres[0], (0, 1)), (frames > centres[-1], (-2, -1))):
        slope = (track_px[b] - track_px[a]) / (centres[b] - centres[a])
        anchor = 0 if a == 0 else -1
        out[end] = track_px[anchor] + (frames[end] - centres[anchor])[:, None] * slope
    return _centred(out)

