"""EER files written bit by bit from the format's description, sharing no code with the reader."""

import numpy as np


def eer_page(events: np.ndarray, places: np.ndarray | None = None, run: int = 8, sub_pixel: int = 4) -> bytes:
    """One EER frame, `run` bits of run length: words (pixels to skip, `sub_pixel` bits of sub-pixel), lowest bit first.

    A full run length (all bits set) is no event: so many pixels are skipped and the next word goes on, without
    sub-pixel bits. events (h * w,) bool; places (h * w,) the sub-pixel bits of every pixel (x in the lower two, y in
    the upper two), 5 if not given. The upper bit of each is stored inverted: an event lies in the quarters x = (place
    & 3) ^ 2, y = (place >> 2) ^ 2 of its pixel.
    """
    words, last, full = [], -1, (1 << run) - 1
    for position in [*np.flatnonzero(events), events.size]:  # the last run ends behind the frame
        skip = int(position) - last - 1
        while skip >= full:
            words.append(format(full, f"0{run}b")[::-1])
            skip -= full
        place = 5 if places is None or position == events.size else int(places[position])
        words.append(format(skip | (place << run), f"0{run + sub_pixel}b")[::-1])
        last = int(position)
    bits = "".join(words)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def write_eer(
    path,
    movie: np.ndarray,
    *,
    final_image: bool = False,
    places: np.ndarray | None = None,
    metadata: str = "",
    compression: int = 65000,
    bits: tuple[int, int, int] = (8, 2, 2),
) -> None:
    """A little-endian TIFF with one strip per page, after an image of all events if asked.

    bits: of run length and of the places in x and y; compression 65000 means 8, 2, 2, 65001 7, 2, 2, and 65002 says
    them in tags of every page. metadata: text of tag 65001 of the first page, which says what was recorded.
    """
    n, h, w = movie.shape
    out, link = bytearray(b"II*\x00" + bytes(4)), 4
    pages = [
        (eer_page(frame.ravel(), None if places is None else places[i].ravel(), bits[0], sum(bits[1:])), compression, 1)
        for i, frame in enumerate(movie)
    ]
    if final_image:
        pages.insert(0, (movie.sum(axis=0).astype(np.uint8).tobytes(), 1, 8))
    for data, kind, depth in pages:
        offset = len(out)
        out += data + b"\0" * (len(data) % 2)
        tags = [
            (256, w),
            (257, h),
            (258, depth),
            (259, kind),
            (262, 1),
            (273, offset),
            (277, 1),
            (278, h),
            (279, len(data)),
        ]
        if kind == 65002:
            tags += [(65007, bits[0]), (65008, bits[1]), (65009, bits[2])]
        text = metadata.encode() if link == 4 else b""
        place = len(out)
        out += text + b"\0" * (len(text) % 2)
        out[link : link + 4] = len(out).to_bytes(4, "little")
        entries = [
            (tag, tag.to_bytes(2, "little") + b"\x04\x00\x01\x00\x00\x00" + value.to_bytes(4, "little"))
            for tag, value in tags
        ]
        if text:
            entries.append(
                (
                    65001,
                    (65001).to_bytes(2, "little")
                    + b"\x07\x00"
                    + len(text).to_bytes(4, "little")
                    + place.to_bytes(4, "little"),
                )
            )
        out += len(entries).to_bytes(2, "little") + b"".join(entry for _, entry in sorted(entries))
        link = len(out)
        out += bytes(4)
    path.write_bytes(out)
