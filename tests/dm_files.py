"""DigitalMicrograph files (.dm3, .dm4) written tag by tag from the format's description, sharing no code with the
reader."""

import struct

import numpy as np

_TYPES = {"u2": 4, "u4": 5, "f4": 6, "f8": 7}  # codes of unsigned short, unsigned long, float, double
_DATA_TYPES = {
    "float32": (2, 6),
    "uint16": (10, 4),
}  # DigitalMicrograph's number of a kind of image, code of its values


class _Writer:
    """Tags are big-endian, values little-endian; lengths take 4 bytes in version 3 and 8 in version 4."""

    def __init__(self, version: int):
        self.version, self.size = version, ">i" if version == 3 else ">q"

    def number(self, value: int) -> bytes:
        return struct.pack(self.size, value)

    def tag(self, kind: int, name: str, body: bytes) -> bytes:
        length = self.number(len(body)) if self.version == 4 else b""
        return bytes([kind]) + struct.pack(">H", len(name)) + name.encode() + length + body

    def group(self, tags: list[tuple]) -> bytes:
        body = b"".join(self.entry(*tag) for tag in tags)
        return b"\1\0" + self.number(len(tags)) + body

    def entry(self, name: str, value) -> bytes:
        if isinstance(value, list):
            return self.tag(20, name, self.group(value))
        if isinstance(value, np.ndarray):
            info = (20, _DATA_TYPES[str(value.dtype)][1], value.size)
            return self.data(name, info, value.tobytes())
        if isinstance(value, str):
            return self.data(name, (20, 4, len(value)), value.encode("utf-16-le"))
        code, kind = ("u4", "<I") if isinstance(value, int) else ("f4", "<f")
        return self.data(name, (_TYPES[code],), struct.pack(kind, value))

    def data(self, name: str, info: tuple, values: bytes) -> bytes:
        return self.tag(21, name, b"%%%%" + b"".join(self.number(n) for n in (len(info), *info)) + values)


def _image(image: np.ndarray) -> list:
    scale = [("Origin", 0.0), ("Scale", 1.0), ("Units", "")]
    return [
        (
            "ImageData",
            [
                ("Calibrations", [("Brightness", scale), ("Dimension", [("", scale), ("", scale)])]),
                ("Data", image),
                ("DataType", _DATA_TYPES[str(image.dtype)][0]),
                ("Dimensions", [("", image.shape[1]), ("", image.shape[0])]),
                ("PixelDepth", image.dtype.itemsize),
            ],
        ),
        ("ImageTags", [("Acquisition", [("Parameters", [("Version", 1)])])]),
        ("Name", "gain"),
    ]


def write_dm(path, *images: np.ndarray, version: int = 4) -> None:
    """Images (h, w) float32 or uint16, first row at the top, in a file of version 3 or 4."""
    writer = _Writer(version)
    root = writer.group([("ImageList", [("", _image(np.ascontiguousarray(image))) for image in images])])
    path.write_bytes(struct.pack(">i", version) + writer.number(len(root)) + struct.pack(">i", 1) + root + bytes(8))
