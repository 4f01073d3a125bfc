"""Electron event files (.eer): TIFF pages of run-length coded events, decoded frame by frame.

Compression 65000 codes runs with 8 bits, 65001 with 7, 65002 as its tags say. Behind every run stand the bits of the
event's position inside its pixel: 2 each in x and y (65002: as tagged); they are used for super-resolution 2 and 4.
The first page may be a finished image (not compressed): it is no frame.
"""

from __future__ import annotations

import numpy as np

COMPRESSIONS = (65000, 65001, 65002)
_RUN_BITS, _X_BITS, _Y_BITS = 65007, 65008, 65009


def first_frame(tiff) -> int:
    """Index of the first page that holds events, in an open tifffile.TiffFile."""
    return 0 if int(tiff.pages[0].compression) in COMPRESSIONS else 1


def decode_frame(tiff, index: int, super_resolution: int = 1) -> np.ndarray:
    """Events of page `index`: (h * s, w * s) uint8 counts in the row order of the file, s = super_resolution (1, 2, 4).

    Raises ValueError for bad data, or for positions that the file does not hold.
    """
    import imagecodecs

    page = tiff.pages[index]
    if int(page.compression) not in COMPRESSIONS:
        raise ValueError(f"compression {int(page.compression)} is not EER")
    bits = {65000: (8, 2, 2), 65001: (7, 2, 2)}.get(int(page.compression))
    if bits is None:
        bits = tuple(int(page.tags.valueof(tag, default)) for tag, default in
                     ((_RUN_BITS, 7), (_X_BITS, 2), (_Y_BITS, 2)))
    level = super_resolution.bit_length() - 1
    if level > min(bits[1:]):
        raise ValueError(f"events carry {bits[1]} x {bits[2]} sub-pixel bits: too few for super-resolution {super_resolution}")
    parts = []
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        parts.append(tiff.filehandle.read(count))
    data = b"".join(parts)
    shape = tuple(n * super_resolution for n in page.shape[:2])
    # the decoder wants an even length
    return imagecodecs.eer_decode(data + bytes(len(data) % 2), shape, *bits, superres=level)
