"""Electron event files (.eer): TIFF pages of run-length coded events, decoded frame by frame.

Compression 65000 codes runs with 8 bits, 65001 with 7, 65002 as its tags say. Behind every run stand the bits of the
event's position inside its pixel: 2 each in x and y (65002: as tagged); they are used for super-resolution 2 and 4.
The first page may be a finished image (not compressed): it is no frame.
"""

from __future__ import annotations

import re

import numpy as np

LARGEST_FRAME = 1 << 28  # pixels: 16384 x 16384, the finest that any camera's events are drawn
COMPRESSIONS = (65000, 65001, 65002)
_RUN_BITS, _X_BITS, _Y_BITS = 65007, 65008, 65009
_ACQUISITION = 65001  # tag of the first page: XML about the whole movie
_LARGEST_TEXT = 1 << 20
_FRAMES = re.compile(rb"numberOfFrames[^<>]{0,80}>\s{0,9}([0-9]{1,7})\s{0,9}<")


def _bits(page) -> tuple[int, int, int]:
    """Bits of a run and of an event's place in x and y. Raises ValueError for ones that cannot be."""
    known = {65000: (8, 2, 2), 65001: (7, 2, 2)}.get(int(page.compression))
    if known is not None:
        return known
    bits = tuple(int(page.tags.valueof(tag, default)) for tag, default in ((_RUN_BITS, 7), (_X_BITS, 2), (_Y_BITS, 2)))
    if not (1 <= bits[0] <= 16 and all(0 <= b <= 4 for b in bits[1:])):
        raise ValueError(f"runs of {bits[0]} bits and places of {bits[1]} x {bits[2]} bits")
    return bits


def first_frame(tiff) -> int:
    """Index of the first page that holds events, in an open tifffile.TiffFile."""
    return 0 if int(tiff.pages[0].compression) in COMPRESSIONS else 1


def stated_frames(tiff) -> int:
    """Number of frames that were recorded, as the file's own metadata say; 0 where they do not."""
    text = tiff.pages[0].tags.valueof(_ACQUISITION, b"")
    text = text.encode("utf-8", "replace") if isinstance(text, str) else text
    found = _FRAMES.search(text[:_LARGEST_TEXT]) if isinstance(text, bytes) else None
    return int(found[1]) if found else 0


def decode_frame(tiff, index: int, super_resolution: int = 1) -> np.ndarray:
    """Events of page `index`: (h * s, w * s) uint8 counts in the row order of the file, s = super_resolution (1, 2, 4).

    Raises ValueError for bad data, or for positions that the file does not hold.
    """
    import imagecodecs

    page = tiff.pages[index]
    if int(page.compression) not in COMPRESSIONS:
        raise ValueError(f"compression {int(page.compression)} is not EER")
    bits = _bits(page)
    if len(page.shape) != 2 or page.size * super_resolution**2 > LARGEST_FRAME:
        raise ValueError(f"a frame of {page.shape}, drawn {super_resolution} times finer")
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
