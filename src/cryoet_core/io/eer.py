"""Electron event files (.eer): TIFF pages of run-length coded events, decoded frame by frame.

Compression 65000 codes runs with 8 bits, 65001 with 7, 65002 as its tags say; sub-pixel bits are read and dropped.
The first page may be a finished image (not compressed): it is no frame.
"""

from __future__ import annotations

import numpy as np

COMPRESSIONS = (65000, 65001, 65002)
_RUN_BITS, _X_BITS, _Y_BITS = 65007, 65008, 65009


def first_frame(tiff) -> int:
    """Index of the first page that holds events, in an open tifffile.TiffFile."""
    return 0 if int(tiff.pages[0].compression) in COMPRESSIONS else 1


def decode_frame(tiff, index: int) -> np.ndarray:
    """Events of page `index`: (h, w) uint8 counts in the row order of the file. Raises ValueError for bad data."""
    import imagecodecs

    page = tiff.pages[index]
    if int(page.compression) not in COMPRESSIONS:
        raise ValueError(f"compression {int(page.compression)} is not EER")
    bits = {65000: (8, 2, 2), 65001: (7, 2, 2)}.get(int(page.compression))
    if bits is None:
        bits = tuple(int(page.tags.valueof(tag, default)) for tag, default in
                     ((_RUN_BITS, 7), (_X_BITS, 2), (_Y_BITS, 2)))
    parts = []
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        parts.append(tiff.filehandle.read(count))
    data = b"".join(parts)
    return imagecodecs.eer_decode(data + bytes(len(data) % 2), page.shape[:2], *bits)  # it wants an even length
