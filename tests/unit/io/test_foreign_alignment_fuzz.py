"""Damaged alignments give a finite geometry or one of our errors; TILTLINE_FUZZ=5000 for a long run."""

import os
import random

import numpy as np
import pytest
from test_foreign_alignment import images_of, make_series, write_as

from cryoet_core.errors import CryoetError
from cryoet_core.io.foreign_alignment import read_foreign_alignment
from cryoet_core.tilt_series.foreign import import_alignment

COUNT = int(os.environ.get("TILTLINE_FUZZ", "150"))
WORDS = ["nan", "inf", "-1e400", "1e30", "0", "-0", "", "x", "1,5", "True", "9999999999999999999999", "-5", "²", "\x00", "<", "data_", "#"]


def damaged(text: str, rng: random.Random) -> str:
    kind = rng.randrange(6)
    if kind == 0:
        return text[: rng.randrange(len(text))]
    if kind == 1:
        at = rng.randrange(len(text))
        return text[:at] + chr(rng.randrange(1, 0x250)) + text[at + 1 :]
    if kind == 2:
        words = text.split(" ")
        words[rng.randrange(len(words))] = rng.choice(WORDS)
        return " ".join(words)
    lines = text.split("\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == 3:
        del lines[i]
    elif kind == 4:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines[i] = rng.choice(WORDS) if rng.random() < 0.5 else lines[j]
    return "\n".join(lines)


@pytest.mark.parametrize("program, file", [
    ("imod", "TS_01.xf"), ("imod", "TS_01.tlt"), ("imod", "tilt.com"), ("aretomo", "TS_01.aln"), ("warp", "TS_01.xml"),
    ("relion", "tomograms.star"), ("relion", "tilt_series/TS_01.star"),
])  # fmt: skip
def test_damaged_files(tmp_path, monkeypatch, program, file):
    monkeypatch.chdir(tmp_path)
    series, rng = make_series(), random.Random(file)
    path = write_as(program, series, tmp_path)
    (tmp_path / "tilt.com").write_text("$tilt\nTILTFILE TS_01.tlt\nFULLIMAGE 4096 4090\nOFFSET 0.5 0\nXAXISTILT 0.5\nEXCLUDELIST2 1-2,4\nSHIFT 0 0\n")
    whole = (tmp_path / file).read_text()
    refused = 0
    for _ in range(COUNT):
        (tmp_path / file).write_text(damaged(whole, rng), encoding="utf-8")
        try:
            taken = import_alignment(series, read_foreign_alignment(path, "TS_01", images_of(series)))
        except CryoetError as error:
            assert error.fix or error.code.startswith("E-STAR")
            refused += 1
            continue
        assert np.isfinite(taken.series.geometry.project(np.eye(3))[0]).all()
        taken.series.validate()
    assert refused > COUNT // 20
