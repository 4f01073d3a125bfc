"""DeepFinder's object list: <objlist><object tomo_idx class_label x y z phi psi the cluster_size/>...</objlist>.

x y z are 0-based voxels of the tomogram's array; phi, psi, the as in PyTom (angles.py), absent for what its clustering finds, whose
cluster_size is the only score there is.
"""

from __future__ import annotations

import os
from xml.etree import ElementTree

import numpy as np

from cryoet_core.errors import UserInputError
from cryoet_core.io.atomic import write_text
from cryoet_core.io.picks.angles import matrix_to_zxz, zxz_to_matrix
from cryoet_core.io.picks.grid import Grid
from cryoet_core.io.picks.model import Picks
from cryoet_core.io.picks.text import damaged, missing, number, read_text, whole

ANGLES = ("phi", "psi", "the")


def _root(path):
    text = read_text(path)
    if "<!ENTITY" in text:  # nothing that an object list needs, and a way to fill the memory
        raise damaged(path, "<!ENTITY", "an object list")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise damaged(path, str(error), "XML", "this is not XML", f"line {line}, column {column + 1}") from error
    except (ValueError, LookupError) as error:  # an encoding that does not exist
        raise damaged(path, str(error)[:80], "XML", "this is not XML") from error
    if root.tag != "objlist":
        raise damaged(path, f"<{root.tag}>", "<objlist>")
    return root


def _attributes(objects, names, path, required: bool = True) -> np.ndarray | None:
    """(n, len(names)) float64; None when `required` is False and some object lacks one."""
    rows = []
    for i, item in enumerate(objects, start=1):
        absent = [name for name in names if item.get(name) is None]
        if absent and not required:
            return None
        if absent:
            raise missing(path, f"{absent[0]} of object {i}", ", ".join(item.keys()) or "no attributes", "x, y, z and class_label")
        rows.append([number(item.get(name), path, f"{name} of object {i}") for name in names])
    return np.array(rows, dtype=np.float64).reshape(-1, len(names))


def read(path, grid: Grid) -> Picks:
    """Picks of an object list. Raises UserInputError E-PICKS-03 to E-PICKS-05."""
    objects = list(_root(path))
    xyz = _attributes(objects, ("x", "y", "z"), path)
    classes = whole(_attributes(objects, ("class_label",), path)[:, 0])
    angles = _attributes(objects, ANGLES, path, required=False) if objects else None
    sizes = _attributes(objects, ("cluster_size",), path, required=False) if objects else None
    tomogram = _attributes(objects, ("tomo_idx",), path, required=False) if objects else None
    rotations = None if angles is None else zxz_to_matrix(angles[:, 0], angles[:, 2], angles[:, 1])
    return Picks(
        grid.to_angst(xyz), rotations, None if sizes is None else sizes[:, 0], classes, None if tomogram is None else whole(tomogram[:, 0]),
    )


def write(path, picks: Picks, grid: Grid, name: str, number: int = 1) -> None:
    """An object list with orientations where they are known; scores are lost (cluster_size is a number of voxels). Raises UserInputError E-PICKS-12: labels are whole, from 0."""
    index = grid.to_index(picks.positions_angst).reshape(-1, 3)
    classes = np.ones(len(picks), dtype=int) if picks.class_number is None else picks.class_number
    if len(classes) and min(classes) < 0:
        raise UserInputError("E-PICKS-12", "a class label of DeepFinder is 0 or more", file=os.fspath(path), field="class_label",
                             found=str(min(classes)), fix="number the classes from 1")
    root = ElementTree.Element("objlist")
    angles = None if picks.rotations is None else matrix_to_zxz(picks.rotations)
    for i, (xyz, label) in enumerate(zip(index, classes, strict=True)):
        item = ElementTree.SubElement(root, "object", tomo_idx=str(number), obj_id=str(i), class_label=str(int(label)))
        for axis, value in zip("xyz", xyz, strict=True):
            item.set(axis, f"{value:.5f}")
        if angles is not None:
            phi, theta, psi = angles[i]
            for key, value in (("phi", phi), ("psi", psi), ("the", theta)):
                item.set(key, f"{value:.5f}")
    ElementTree.indent(root)
    write_text(path, ElementTree.tostring(root, encoding="unicode") + "\n")
