"""Read a collection of mdocs of many instruments and compare with values read by eye.

    python benchmarks/mdoc_collection.py FOLDER

Every .mdoc below FOLDER must give the values listed here or the error listed here; an unknown file must parse or raise one of our errors.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cryoet_core.errors import CryoetError
from cryoet_core.io.acquisition import Given, read_acquisition
from cryoet_core.io.mdoc import read_mdoc

OLD = {"voltage_kv": 300.0, "dose_per_tilt_e_per_a2": 1.5}
BARE = {"voltage_kv": 300.0, "dose_per_tilt_e_per_a2": 3.0, "tilt_axis_deg": 85.0, "pixel_size_angst": 2.0}
# name: (config, views, tilts first and last in time, axis, pixel, first dose, what decided the order), or (config, error code)
EXPECTED = {
    "test_1.mdoc": ({}, 11, (-0.00949884, 17.9858), 83.8, 1.94, 2.16203, "DateTime"),
    "TS_001.mdoc": ({"voltage_kv": 300.0}, 3, (0.0, -2.0), 85.0, 2.15, 2.5, "PriorRecordDose"),
    "TS_complex.mdoc": ({}, 3, (0.0, -3.0), 85.7, 3.425, 7.6, "PriorRecordDose"),
    "TS_minimal.mdoc": (BARE, 2, (0.0, 2.0), 85.0, 2.0, 3.0, "section number"),
    "TS_snake_case.mdoc": ({}, "E-MDOC-04"),
    "TS_t_section_comma.mdoc": ({}, "E-MDOC-04"),
    "TS_t_section_space.mdoc": ({}, "E-MDOC-04"),
    "TS_t_section_text.mdoc": ({}, "E-MDOC-04"),
    "TS_value_types.mdoc": ({}, "E-MDOC-04"),
    "TS_01.mrc.mdoc": (OLD, 41, (0.000999877, 60.0006), 85.3, 5.4, 1.5, "DateTime"),
    "tilt_series.mdoc": (OLD, 41, (0.000999877, 60.0006), 85.3, 5.4, 1.5, "DateTime"),
    "29.08.14_syn_ctrl01_13.08_tomo01.st.mdoc": ({"voltage_kv": 300.0}, 46, (-30.0013, 59.9931), 173.1, 3.42, 1.15325, "DateTime"),
    "29.08.14_syn_ctrl01_13.08_tomo01_01.st.mdoc": ({"voltage_kv": 300.0}, 15, (-31.9971, -59.9977), 173.1, 3.42, 1.04832, "DateTime"),
    "gm.mrc.mdoc": ({}, "E-MDOC-04"),  # tiles of a grid map
    "frame_set_multiple.mdoc": ({}, "E-MDOC-04"),  # twenty records at 33 degrees
    "frame_set_single.mdoc": ({}, "E-MDOC-04"),  # one movie
    "montage_section.mdoc": ({}, "E-MDOC-04"),
    "montage_section_multiple.mdoc": ({}, "E-MDOC-04"),
    "test_000.mdoc": ({}, "E-MDOC-04"),  # two records at one angle
    "test_000.mrc.mdoc": ({}, "E-MDOC-04"),
    "test_001.mdoc": ({}, "E-MDOC-04"),
    "test_001.mrc.mdoc": ({}, "E-MDOC-04"),
    "test_002.mdoc": ({}, "E-MDOC-04"),
    "test_002.mrc.mdoc": ({}, "E-MDOC-04"),
}


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-4 * max(1.0, abs(b))


def check(path: Path) -> str:
    """What is wrong with our reading of one file, "" if nothing."""
    expected = EXPECTED.get(path.name.split("@")[-1])
    config = expected[0] if expected else BARE
    try:
        found = read_acquisition(read_mdoc(path), Given(**config))
    except CryoetError as error:
        wrong = expected is None or expected[1] != error.code
        return f"unexpected {error}" if wrong and expected else ""
    if expected is None:
        return ""
    if isinstance(expected[1], str):
        return f"parsed, expected {expected[1]}"
    _, views, tilts, axis, pixel, dose, order = expected
    pairs = {"views": (len(found.tilt_deg), views), "first tilt": (found.tilt_deg[0], tilts[0]), "last tilt": (found.tilt_deg[-1], tilts[1]),
             "axis": (found.tilt_axis.value, axis), "pixel": (found.pixel_size.value, pixel), "dose": (found.exposure[0], dose)}
    wrong = [f"{name} {a:g}, not {b:g}" for name, (a, b) in pairs.items() if not close(a, b)]
    if order not in found.sources["order"]:
        wrong.append(f"order by {found.sources['order']}")
    return "; ".join(wrong)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    failed = 0
    paths = sorted(Path(sys.argv[1]).rglob("*.mdoc"))
    for path in paths:
        problem = check(path)
        failed += bool(problem)
        expected = EXPECTED.get(path.name.split("@")[-1])
        told = "not in the list" if expected is None else expected[1] if isinstance(expected[1], str) else f"{expected[1]} views"
        print(f"{'WRONG' if problem else 'ok':6}{path.name.split('@')[-1]:48}{told:16}{problem}")
    print(f"{len(paths) - failed} of {len(paths)} as expected")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
