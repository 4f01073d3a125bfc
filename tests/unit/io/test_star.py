"""STAR: what goes in comes out."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoet_core.errors import CryoetError, UserInputError
from cryoet_core.io.star import find_block, read_star, write_star

RELION_LIKE = """
# version 50001

data_general

_rlnTomoSubTomosAre2DStacks                       1


# version 50001

data_particles

loop_
_rlnTomoName #1
_rlnImageName #2
_rlnCenteredCoordinateXAngst #3
_rlnRandomSubset #4
_rlnTomoVisibleFrames #5
   TS_01  a/b#1.mrcs   -360.00000            1 [1,0,1]
     001  'with blank.mrc'  12   2 [1,1,1] # a comment
"""


def test_reads_what_relion_writes(tmp_path):
    path = tmp_path / "p.star"
    path.write_text(RELION_LIKE)
    blocks = read_star(path)
    assert blocks["general"] == {"rlnTomoSubTomosAre2DStacks": 1}
    table = blocks["particles"]
    assert table["rlnTomoName"].tolist() == ["TS_01", "001"]
    assert table["rlnImageName"].tolist() == ["a/b#1.mrcs", "with blank.mrc"]
    assert table["rlnCenteredCoordinateXAngst"].dtype == np.float64
    assert table["rlnRandomSubset"].dtype == np.int64
    assert table["rlnTomoVisibleFrames"].tolist() == ["[1,0,1]", "[1,1,1]"]


def test_line_ends_bom_and_no_final_newline(tmp_path):
    for i, text in enumerate([RELION_LIKE.replace("\n", "\r\n"), "\ufeff" + RELION_LIKE, RELION_LIKE.rstrip()]):
        (tmp_path / f"{i}").write_text(text, newline="")
        assert len(read_star(tmp_path / f"{i}")["particles"]) == 2


def test_names_that_look_like_numbers_stay_names(tmp_path):
    table = pd.DataFrame({"rlnTomoName": ["001", "002"], "tlNote": ["1e5", "1.0"], "other": ["007", "8"]})
    write_star(tmp_path / "a.star", {"x": table})
    back = read_star(tmp_path / "a.star")["x"]
    assert back.to_dict("list") == table.to_dict("list")


def test_numbers_keep_their_type(tmp_path):
    table = pd.DataFrame({"tlA": [1.0, 2.0], "tlB": [3, -4], "tlC": [1e-7, np.nan], "tlD": np.nan,
                          "rlnVoltage": [300, 200]})
    write_star(tmp_path / "a.star", {"x": table})
    back = read_star(tmp_path / "a.star")["x"]
    assert [back[c].dtype.kind for c in back] == ["f", "i", "f", "f", "f"]
    pd.testing.assert_frame_equal(back[["tlA", "tlB", "tlC", "tlD"]], table[["tlA", "tlB", "tlC", "tlD"]])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs"),
                                             include_characters=" \t"), max_size=12), min_size=1, max_size=4))
def test_any_name_survives(tmp_path, values):
    path = tmp_path / "n.star"
    table = pd.DataFrame({"rlnTomoName": values, "rlnRandomSubset": 1})
    one = {"rlnTomoName": values[0], "rlnImageName": values[-1]}
    try:
        write_star(path, {"t": table, "": one})
    except UserInputError as error:
        assert error.code == "E-STAR-07"
        assert any('"' in v and "'" in v for v in values)
        return
    back = read_star(path)
    assert back["t"]["rlnTomoName"].tolist() == values
    assert back[""] == one


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(width=64), min_size=1, max_size=5))
def test_floats_to_nine_digits(tmp_path, values):
    write_star(tmp_path / "f.star", {"t": pd.DataFrame({"rlnDefocusU": values})})
    back = read_star(tmp_path / "f.star")["t"]["rlnDefocusU"]
    np.testing.assert_allclose(back, values, rtol=1e-8)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(RELION_LIKE)), insert=st.sampled_from(["", "loop_\n", "_x\n", "data_\n", "\x00", "a b", '"']))
def test_damaged_text_is_an_error_or_a_table(tmp_path, cut, insert):
    path = tmp_path / "d.star"
    path.write_text(RELION_LIKE[:cut] + insert + RELION_LIKE[cut + 3 :])
    try:
        read_star(path)
    except CryoetError as error:
        assert str(path) in str(error)


def test_empty_loop_keeps_columns(tmp_path):
    write_star(tmp_path / "e.star", {"p": pd.DataFrame({"rlnTomoName": [], "rlnVoltage": [], "rlnRandomSubset": []})})
    back = read_star(tmp_path / "e.star")["p"]
    assert list(back.columns) == ["rlnTomoName", "rlnVoltage", "rlnRandomSubset"] and len(back) == 0


@pytest.mark.parametrize("text, code", [
    ("", "E-STAR-02"),
    ("hello world\n", "E-STAR-02"),
    ("data_a\nloop_\n_x #1\n_y #2\n1 2\n3\n", "E-STAR-01"),
    ("data_a\n_x 1 2\n", "E-STAR-01"),
    ("data_a\n_x 1\ndata_a\n_x 2\n", "E-STAR-03"),
    ("data_a\nloop_\n_x\n_x\n1 2\n", "E-STAR-04"),
    ("data_a\n_rlnVoltage high\n", "E-STAR-05"),
    ("data_a\nloop_\n_rlnRandomSubset\n1.5\n", "E-STAR-05"),
])
def test_errors_name_file_and_code(tmp_path, text, code):
    path = tmp_path / "bad.star"
    path.write_text(text)
    with pytest.raises(UserInputError, match=code) as caught:
        read_star(path)
    assert caught.value.file == str(path)


def test_missing_block_lists_what_is_there(tmp_path):
    (tmp_path / "a.star").write_text("data_optics\n_x 1\n")
    with pytest.raises(UserInputError, match="found data_optics, expected data_particles"):
        find_block(read_star(tmp_path / "a.star"), "particles", tmp_path / "a.star")
    with pytest.raises(UserInputError, match="E-FILE-01"):
        read_star(tmp_path / "absent.star")


def test_line_break_in_a_value_is_refused(tmp_path):
    with pytest.raises(UserInputError, match="E-STAR-07"):
        write_star(tmp_path / "a.star", {"x": {"y": "a\nb"}})
    assert list(tmp_path.iterdir()) == []
