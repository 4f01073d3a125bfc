"""EER files written bit by bit from the format's description, sharing no code with the reader."""

import numpy as np


def eer_page(events: np.ndarray, places: np.ndarray | None = None) -> bytes:
    """One EER frame, 8-bit run lengths: 12-bit words (pixels to skip, 4 bits sub-pixel), lowest bit first.

    events (h * w,) bool; places (h * w,) the sub-pixel bits of every pixel (x in the lower two, y in the upper two), 5 if not given.
    The upper bit of each is stored inverted: an event lies in the quarters x = (place & 3) ^ 2, y = (place >> 2) ^ 2 of its pixel.
    """
    words, last = [], -1
    for position in [*np.flatnonzero(events), events.size]:  # the last run ends behind the frame
        skip = int(position) - last - 1
        while skip >= 255:
            words.append(255)
            skip -= 255
        place = 5 if places is None or position == events.size else int(places[position])
        words.append(skip | (place << 8))
        last = int(position)
    bits = "".join(format(w, "08b")[::-1] if w == 255 else format(w, "012b")[::-1] for w in words)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def write_eer(path, movie: np.ndarray, *, final_image: bool = False, places: np.ndarray | None = None, metadata: str = "") -> None:
    """A little-endian TIFF with one strip per page and compression 65000, after an image of all events if asked.

    metadata: text of tag 65001 of the first page, which says what was recorded.
    """
    n, h, w = movie.shape
    out, link = bytearray(b"II*\x00" + bytes(4)), 4
    pages = [(eer_page(frame.ravel(), None if places is None else places[i].ravel()), 65000, 1) for i, frame in enumerate(movie)]
    if final_image:
        pages.insert(0, (movie.sum(axis=0).astype(np.uint8).tobytes(), 1, 8))
    for data, compression, bits in pages:
        offset = len(out)
        out += data + b"\0" * (len(data) % 2)
        tags = [(256, w), (257, h), (258, bits), (259, compression), (262, 1), (273, offset), (277, 1), (278, h), (279, len(data))]
        text = metadata.encode() if link == 4 else b""
        place = len(out)
        out += text + b"\0" * (len(text) % 2)
        out[link : link + 4] = len(out).to_bytes(4, "little")
        out += (len(tags) + bool(text)).to_bytes(2, "little")
        for tag, value in tags:
            out += tag.to_bytes(2, "little") + b"\x04\x00\x01\x00\x00\x00" + value.to_bytes(4, "little")
        if text:
            out += (65001).to_bytes(2, "little") + b"\x07\x00" + len(text).to_bytes(4, "little") + place.to_bytes(4, "little")
        link = len(out)
        out += bytes(4)
    path.write_bytes(out)
