"""The script of postprocess with one mask written in four ways: one result."""

import numpy as np
import pytest
from script_runner import postprocess_inputs, run_script

from cryoet_core.config.postprocess import Postprocess
from cryoet_core.errors import UserInputError
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.io.mrc_header import IMOD_STAMP
from cryoet_core.io.summary import read_summary
from cryoet_core.masks import soft_sphere


def outputs(folder, name):
    files = {
        "map": "map.mrc",
        "mask": "mask.mrc",
        "fsc": "fsc.star",
        "summary": "summary.json",
        "local_resolution": "local.mrc",
        "local_map": "map_local.mrc",
    }
    return {key: folder / name / file for key, file in files.items()}


def test_bytes_of_imod_and_255_are_the_mask_that_they_mean(tmp_path, capsys):
    rng, n = np.random.default_rng(1), 24
    ball = soft_sphere((n,) * 3, 6, 1).astype(np.float32)
    halves = [ball * 4 + rng.normal(0, 1, ball.shape).astype(np.float32) for _ in range(2)]
    for name, half in zip(("half1", "half2"), halves, strict=True):
        write_mrc(tmp_path / f"{name}.mrc", half, 5.0)
    inside = soft_sphere((n,) * 3, 8, 1) > 0.5
    write_mrc(tmp_path / "float.mrc", inside.astype(np.float32), 5.0)
    write_mrc(tmp_path / "bytes.mrc", 255 * inside.astype(np.uint8), 5.0, dtype="uint8")
    write_mrc(tmp_path / "lost.mrc", inside.astype(np.int16) - 128, 5.0, dtype="int8")  # IMOD's bytes, their flag lost
    raw = bytearray((tmp_path / "lost.mrc").read_bytes())
    raw[152:160] = np.array([IMOD_STAMP, 1], "<i4").tobytes()
    (tmp_path / "imod.mrc").write_bytes(raw)
    inputs = postprocess_inputs(tmp_path / "half1.mrc", tmp_path / "half2.mrc")
    first = {"mask_diameter_angst": 200.0, "first_map": "template"}
    for name in "float", "bytes", "imod":
        config = Postprocess(mask=str(tmp_path / f"{name}.mrc"), local_resolution=False)
        run_script("postprocess", inputs, outputs(tmp_path, name), config.model_dump(), **first)
        assert np.array_equal(read_mrc(tmp_path / name / "mask.mrc")[0], inside.astype(np.float32))
        for file in "map.mrc", "fsc.star":
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "float" / file).read_bytes()
    warnings = {name: read_summary(tmp_path / name / "summary.json")["warnings"] for name in ("float", "bytes", "imod")}
    assert warnings["float"] == warnings["imod"] == warnings["bytes"][1:] and "0 and 255" in warnings["bytes"][0]
    with pytest.raises(SystemExit) as stopped:
        run_script(
            "postprocess", inputs, outputs(tmp_path, "lost"), Postprocess(mask=str(tmp_path / "lost.mrc")).model_dump(), **first
        )
    assert stopped.value.code == UserInputError.exit_code
    error = capsys.readouterr().err
    assert "E-MASK-01" in error and "values -128 to -127" in error and not (tmp_path / "lost" / "map.mrc").exists()
