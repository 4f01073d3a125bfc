"""A volume on disk of which only the blocks that are asked for come into memory."""

from __future__ import annotations

import os

import numpy as np

from cryoet_core.io.mrc import check_finite, decoded, read_header, read_mrc


class MrcVolume:
    """``volume[z0:z1, y0:y1, x0:x1]`` reads a block, float32, [z, y, x]; any stored mode and byte order.

    shape : (z, y, x). pixel_size_angst : of the header, 0.0 where it has none.
    Raises the errors of :func:`io.mrc.read_header`, and E-NUM-01 for a block with NaN or infinite values.
    """

    def __init__(self, path: str | os.PathLike):
        self.header = read_header(path)
        self.shape, self.pixel_size_angst = self.header.shape, self.header.pixel_size_angst
        self._whole = None
        if self.header.mode == 101 or self.header.axis_order != (1, 2, 3):
            self._whole, self.pixel_size_angst = read_mrc(path)  # packed or turned: no block lies together on disk
            self.shape = self._whole.shape

    def __getitem__(self, window) -> np.ndarray:
        if self._whole is not None:
            return self._whole[window]
        # mapped anew for every block: pages that were read do not stay with the process
        stored = np.memmap(self.header.path, self.header.dtype, "r", self.header.data_offset, self.shape)
        return check_finite(decoded(np.array(stored[window]), self.header).astype(np.float32), self.header.path)
