"""Which particles enter a round: duplicates go, and a subset by score on request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cryoet_core.errors import DataQualityError, UserInputError

RANKS = {"likelihood": "log_likelihood", "probability": "max_probability", "score": "score"}


@dataclass(frozen=True)
class Selection:
    """keep : (n,) bool. duplicates, diffuse, low : how many each rule removed."""

    keep: np.ndarray
    duplicates: int
    diffuse: int
    low: int

    def summary(self) -> dict:
        return {
            "n_entered": int(self.keep.size), "n_duplicates": self.duplicates, "n_diffuse_dropped": self.diffuse,
            "n_low_dropped": self.low, "n_selected": int(self.keep.sum()),
        }  # fmt: skip


def rank_values(table, rank_by: str) -> np.ndarray:
    """(n,) values to rank by, larger is better; "auto" takes the likelihood, else the picking score, else all are equal.

    Raises UserInputError E-SEL-01 when the table has no such column.
    """
    if rank_by == "auto":
        present = [c for c in ("log_likelihood", "score") if c in table]
        return table[present[0]].to_numpy(np.float64) if present else np.zeros(len(table))
    if RANKS[rank_by] not in table:
        raise UserInputError(
            "E-SEL-01",
            "the particles have no such value",
            field=f"rank_by: {rank_by}",
            found=", ".join(k for k, c in RANKS.items() if c in table) or "none",
            fix="likelihood and probability exist after a refinement, score after template matching",
        )
    return table[RANKS[rank_by]].to_numpy(np.float64)


def duplicates(positions_angst, groups, rank, distance_angst: float) -> np.ndarray:
    """(n,) bool: a better-ranked particle of the same group lies closer than the distance and is itself kept.

    Greedy from the best; equal ranks keep the earlier row. positions (n, 3) A, groups (n,) tilt-series names.
    """
    positions, out = np.asarray(positions_angst, float), np.zeros(len(rank), dtype=bool)
    groups = np.asarray(groups)
    for name in np.unique(groups):
        rows = np.flatnonzero(groups == name)
        near = cKDTree(positions[rows]).query_ball_point(positions[rows], distance_angst)
        for i in np.argsort(-rank[rows], kind="stable"):
            if not out[rows[i]]:
                others = np.array([j for j in near[i] if j != i], dtype=np.int64)
                out[rows[others]] = True
    return out


def select_particles(
    particles, *, duplicate_distance_angst: float, rank_by="auto", keep_best=None, min_rank=None, drop_diffuse=False
) -> Selection:
    """Apply the rules in order: duplicates, diffuse, below ``min_rank``, beyond the ``keep_best`` best.

    Removing a duplicate matters most for the FSC: one particle in both halves correlates them.

    Raises
    ------
    UserInputError E-SEL-01 (no such value). DataQualityError E-SEL-02 when nothing is left.
    """
    table = particles.table
    rank = rank_values(table, rank_by)
    twice = np.zeros(len(table), dtype=bool)
    if duplicate_distance_angst > 0:
        twice = duplicates(particles.positions_angst, table["tomo_name"].to_numpy(), rank, duplicate_distance_angst)
    keep = ~twice
    diffuse = keep & (table["diffuse"].to_numpy() > 0) if drop_diffuse and "diffuse" in table else np.zeros_like(keep)
    keep = keep & ~diffuse
    low = keep & (rank < min_rank) if min_rank is not None else np.zeros_like(keep)
    keep = keep & ~low
    if keep_best is not None and keep.sum() > keep_best:
        rows = np.flatnonzero(keep)
        beyond = rows[np.argsort(-rank[rows], kind="stable")[keep_best:]]
        low[beyond], keep[beyond] = True, False
    if len(keep) and not keep.any():
        raise DataQualityError(
            "E-SEL-02",
            "no particle is left",
            field="min_rank, drop_diffuse",
            found=f"{len(keep)} entered, {int(twice.sum())} duplicates, {int(diffuse.sum())} diffuse, {int(low.sum())} too low",
            fix="a lower min_rank",
        )
    return Selection(keep, int(twice.sum()), int(diffuse.sum()), int(low.sum()))
