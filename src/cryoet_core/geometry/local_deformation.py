"""How far places of a tilt image lie from where a rigid specimen would put them: the specimen deforms under the beam.

A quadratic polynomial per view, in the image: it does not depend on where the tomogram's frame lies in the specimen, so a tomogram may be
moved or levelled afterwards. It holds for the plane of the specimen; over a slab that is thin against the field the deformation hardly
changes with depth. RELION 5 and M also describe it over the image; IMOD's local alignment is one matrix per patch instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCALE_ANGST = 1000.0  # the unit of positions in the polynomial
N_TERMS = 6


def monomials(uv_angst):
    """(..., 6): 1, u, v, u^2, u v, v^2 of positions (..., 2), A, in units of 1000 A."""
    u, v = np.moveaxis(np.asarray(uv_angst, dtype=np.float64) / SCALE_ANGST, -1, 0)
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)


@dataclass(frozen=True)
class LocalDeformation:
    """coefficients_angst : (n, 6, 2), of x and y, A, for the terms of :func:`monomials`; positions are those where the rigid
    geometry (TiltGeometry.project) puts a point, from index n//2 of the raw image.
    """

    coefficients_angst: np.ndarray

    def __len__(self) -> int:
        return len(self.coefficients_angst)

    def at(self, uv_angst):
        """(n, m, 2) A: a point that should land at ``uv_angst`` (n, m, 2) lands further by this."""
        return monomials(uv_angst) @ self.coefficients_angst

    def select(self, rows) -> LocalDeformation:
        """Of some of the views."""
        return LocalDeformation(self.coefficients_angst[rows])


def from_plane(field, geometry, reach_angst: float) -> LocalDeformation:
    """The deformation given in the plane of the specimen as one over the images.

    field : function of plane positions (m, 2), A, giving (n, m, 2), A, quadratic in them. geometry : TiltGeometry of the n views.
    Exact: nine positions fix the six terms.
    """
    steps = np.array([-1.0, 0.0, 1.0]) * reach_angst
    plane = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    values = field(plane)
    landing = geometry.project(np.column_stack([plane, np.zeros(len(plane))]))[0]
    rows = [np.linalg.lstsq(monomials(uv), value, rcond=None)[0] for uv, value in zip(landing, values, strict=True)]
    return LocalDeformation(np.array(rows))
