"""TomoTwin's .tloc: a pandas table (X, Y, Z, metric_best, predicted_class, ...) in a Python pickle.

A pickle can run any program, and a damaged one can crash pandas, so that no class in it is ever made: stand-ins only record
what a table of numbers consists of. X Y Z are 0-based voxels of the picked tomogram, the middle of a box.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re

import numpy as np
import pandas as pd

from cryoet_core.io.atomic import write_bytes
from cryoet_core.io.picks.coords import known_columns, table_picks
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import damaged, read_bytes

BOX_PX = 37  # TomoTwin's own
_MOST_COLUMNS = 100  # TomoTwin's table has eleven; each column takes the memory of all picks
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
_NUMBERS = re.compile(r"[<>|=]?[fiub][1248]$")


class _Dtype:
    """numpy.dtype of numbers, or of objects."""

    def __init__(self, code, *_):
        self.code, self.order = str(code), "<"

    def __setstate__(self, state):
        self.order = state[1]

    def numpy(self) -> np.dtype:
        if not _NUMBERS.match(self.code):
            raise pickle.UnpicklingError(f"a column of type {self.code}")
        return np.dtype(self.code).newbyteorder("<" if self.order not in (">", "=", "|") else self.order)


class _Array:
    """numpy.ndarray: a shape, a type and bytes (or a list)."""

    def __init__(self):
        self.shape, self.dtype, self.fortran, self.data = (0,), None, False, b""

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.data = state

    def numpy(self) -> np.ndarray:
        if isinstance(self.data, list):
            return np.array([*self.data, None], dtype=object)[:-1].reshape(self.shape)
        values = np.frombuffer(bytes(self.data), self.dtype.numpy())
        return values.reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(*_):
    return _Array()


def _frombuffer(data, dtype, shape, order):
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


class _Record:
    """Any other part: what it was made of."""

    def __new__(cls, *parts):
        self = super().__new__(cls)
        self.parts, self.state = parts, {}
        return self

    def __setstate__(self, state):
        self.state = state


class _Frame(_Record):
    pass


_STAND_INS = {
    ("pandas.core.frame", "DataFrame"): _Frame, ("pandas", "DataFrame"): _Frame, ("numpy", "dtype"): _Dtype, ("numpy", "ndarray"): _Array,
    ("builtins", "slice"): _Record, ("pandas.core.internals.managers", "BlockManager"): _Record, ("pandas._libs.internals", "_unpickle_block"): _Record,
    ("pandas.core.indexes.base", "_new_Index"): _Record,
    **{(module, name): _Record for name in ("Index", "RangeIndex") for module in ("pandas", "pandas.core.indexes.base", "pandas.core.indexes.range")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class TableUnpickler(pickle.Unpickler):
    """Makes stand-ins for the parts of a table, and refuses everything else."""

    def find_class(self, module, name):
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a table of numbers")
        return _STAND_INS[module, name]


def _placement(part) -> np.ndarray:
    if isinstance(part, _Record):
        start, stop, step = (int(p) for p in part.parts)
        return np.arange(max(start, 0), min(stop, _MOST_COLUMNS), step)
    return part.numpy()


def _check_operations(data: bytes) -> None:
    """Every count in the pickle must fit the file: an unpickler asks for the memory first. This walk takes none."""
    end = 0
    for operation, argument, position in pickletools.genops(data):
        end = position + 1
        if operation.name in _MEMO and argument > len(data):
            raise pickle.UnpicklingError(f"object number {argument} in a file of {len(data)} bytes")
    if end != len(data):
        raise pickle.UnpicklingError(f"{len(data) - end} bytes behind its end: were two files joined?")


def _table(data: bytes) -> pd.DataFrame:
    """The table of a pickle. Raises whatever its damage leads to."""
    _check_operations(data)
    frame = TableUnpickler(io.BytesIO(data)).load()
    if not isinstance(frame, _Frame):
        raise pickle.UnpicklingError("this is not a table")
    blocks, axes = frame.state["_mgr"].parts
    names = [str(name) for name in axes[0].parts[1]["data"].numpy()]
    if len(names) > _MOST_COLUMNS:
        raise pickle.UnpicklingError(f"{len(names)} columns")
    columns: dict[str, np.ndarray] = {}
    for block in blocks:
        values, placement, _ = block.parts
        for place, column in zip(_placement(placement), values.numpy(), strict=True):
            columns[names[int(place)]] = column
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1 or len(columns) != len(names):
        raise pickle.UnpicklingError(f"columns of {sorted(lengths)} values")
    return pd.DataFrame({name: columns[name] for name in names})


def _is_number(value) -> bool:
    return isinstance(value, int | float | np.number)


def read(path, grid: Grid) -> Picks:
    """Picks of a .tloc; classes that have names are counted from 1 in the order of the names. Raises E-PICKS-03 to E-PICKS-05."""
    data = read_bytes(path)
    try:
        table = _table(data)
    except Exception as error:  # a damaged pickle can raise anything
        raise damaged(path, str(error)[:100] or type(error).__name__, "TomoTwin's table; or give its .coords instead") from error
    table = known_columns(table, path)
    if "class" in table and not all(_is_number(v) for v in table["class"]):
        table["class"] = np.unique(table["class"].astype(str), return_inverse=True)[1] + 1
    return table_picks(table, path, grid)


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """A .tloc that pandas.read_pickle reads (with numpy 2 or newer); orientations are lost."""
    index = grid.to_index(picks.positions_angst).reshape(-1, 3)
    table = {
        **dict(zip("XYZ", index.T, strict=True)),
        "predicted_class": np.zeros(len(picks), dtype=np.int64) if picks.class_number is None else np.asarray(picks.class_number, dtype=np.int64),
        "size": np.zeros(len(picks), dtype=np.int64),
        "metric_best": np.ones(len(picks)) if picks.score is None else np.asarray(picks.score, dtype=np.float64),
        **{k: np.full(len(picks), BOX_PX, dtype=np.int64) for k in ("width", "height", "depth")},
    }
    frame = pd.DataFrame(table)
    frame.columns = pd.Index(list(frame.columns), dtype=object)
    write_bytes(os.fspath(path), pickle.dumps(frame, protocol=4))
