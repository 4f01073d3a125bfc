"""mdoc parsing: what sites write, in any order, in any encoding."""

from datetime import datetime
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoet_core.errors import CryoetError, UserInputError
from cryoet_core.io.mdoc import parse_datetime, parse_mdoc, read_mdoc

TEXT = """PixelSpacing = 3.5
Voltage = 300
ImageSize = 96 64
DataMode = 1

[T = SerialEM: a microscope              09-Mar-23  18:01:40    ]

[T =     Tilt axis angle = 85.3, binning = 1  spot = 6  camera = 1]

[ZValue = 0]
TiltAngle = 0.01
ExposureDose = 3.4
RotationAngle = 175.3
SubFramePath = X:\\some folder\\frames\\TS_01_001_0.0.mrc
NumSubFrames = 4
FrameDosesAndNumber = 0.85 4
DateTime = 09-Mar-23  18:05:12

[ZValue = 1]
TiltAngle = -3.99
ExposureDose = 3.4
SubFramePath = \\\\server\\share\\TS_01_002_-4.0.mrc
DateTime = 09-Mar-2023  18:06:12
Note = a = b
Empty =
"""


def test_values_of_a_usual_file():
    mdoc = parse_mdoc(TEXT)
    first, second = mdoc.images
    assert mdoc.header.number("Voltage") == 300
    assert mdoc.title_axis == (85.3, False)
    assert first.number("TiltAngle") == 0.01 and second.number("TiltAngle") == -3.99
    assert first.movie_name == "TS_01_001_0.0.mrc" and second.movie_name == "TS_01_002_-4.0.mrc"
    assert first.numbers("FrameDosesAndNumber") == [0.85, 4]
    assert first.time == datetime(2023, 3, 9, 18, 5, 12) and second.time == datetime(2023, 3, 9, 18, 6, 12)
    assert second.text("Note") == "a = b"
    assert second.text("Empty") is None and second.number("NumSubFrames") is None


@pytest.mark.parametrize("change", [
    lambda t: t.replace("\n", "\r\n").encode(),
    lambda t: b"\xef\xbb\xbf" + t.encode(),
    lambda t: t.replace("a microscope", "Mikroskop in Köln").encode("latin-1"),
    lambda t: t.replace("some folder", "donn\u00e9es").encode("utf-8"),
    lambda t: t.replace("0.01", "0,01").replace("-3.99", "-3,99").replace("3.4", "3,4").encode(),
    lambda t: t.replace("TiltAngle", "tilt_angle").replace("SubFramePath", "sub_frame_path").encode(),
    lambda t: t.rstrip().encode(),
    lambda t: t.replace("Tilt axis angle = 85.3, binning", "Tilt axis angle = 85.3\nbinning").encode(),
])
def test_forms_seen_in_the_wild(tmp_path, change):
    path = tmp_path / "TS.mdoc"
    path.write_bytes(change(TEXT))
    mdoc = read_mdoc(path)
    assert [s.number("TiltAngle") for s in mdoc.images] == [0.01, -3.99]
    assert mdoc.images[0].number("ExposureDose") == 3.4
    assert mdoc.title_axis == (85.3, False)
    assert mdoc.images[1].movie_name == "TS_01_002_-4.0.mrc"


def test_order_of_keys_does_not_matter():
    keys = ["TiltAngle = 12", "SubFramePath = a\\b.tif", "DateTime = 01-Jan-20  00:00:01"]
    for order in permutations(keys):
        section = parse_mdoc("[ZValue = 7]\n" + "\n".join(order)).images[0]
        assert (section.index, section.number("TiltAngle"), section.movie_name) == (7, 12.0, "b.tif")
        assert section.time == datetime(2020, 1, 1, 0, 0, 1)


def test_tomography_5_title():
    mdoc = parse_mdoc("[T = TiltAxisAngle = -91.81  Binning = 1  SpotSize = 7]\n[ZValue = 0]\nTiltAngle = 0\n")
    assert mdoc.title_axis == (-91.81, True)


def test_frame_sets_count_where_there_are_no_sections():
    assert [s.kind for s in parse_mdoc("[FrameSet = 0]\nTiltAngle = 3\n").images] == ["FrameSet"]
    both = parse_mdoc("[FrameSet = 0]\nTiltAngle = 3\n[ZValue = 0]\nTiltAngle = 1\n")
    assert [s.number("TiltAngle") for s in both.images] == [1.0]


@pytest.mark.parametrize("text, expected", [
    ("14-Apr-24  09:08:07", datetime(2024, 4, 14, 9, 8, 7)), ("01-Aug-2022  18:58:35", datetime(2022, 8, 1, 18, 58, 35)),
    ("2023-05-06 01:02:03", datetime(2023, 5, 6, 1, 2, 3)), ("", None), ("31-Feb-23  10:00:00", None),
    ("09-Mrz-23  18:05:12", None),
])
def test_dates(text, expected):
    assert parse_datetime(text) == expected


def test_errors(tmp_path):
    with pytest.raises(UserInputError, match=r"E-MDOC-01.*\[ZValue = 3\] TiltAngle"):
        parse_mdoc("[ZValue = 3]\nTiltAngle = nan\n", "x.mdoc").images[0].number("TiltAngle")
    with pytest.raises(UserInputError, match="E-MDOC-10"):
        parse_mdoc("[ZValue = ", "x.mdoc")
    (tmp_path / "m.mdoc").write_text("[MontSection = 0]\nTiltAngle = 1\n")
    with pytest.raises(UserInputError, match="E-MDOC-04.*MontSection"):
        read_mdoc(tmp_path / "m.mdoc")
    with pytest.raises(UserInputError, match="E-FILE-01"):
        read_mdoc(tmp_path / "absent.mdoc")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(TEXT)), what=st.binary(max_size=6), drop=st.integers(0, 40))
def test_damaged_mdoc_is_parsed_or_refused(tmp_path, at, what, drop):
    path = tmp_path / "d.mdoc"
    raw = TEXT.encode()
    path.write_bytes(raw[:at] + what + raw[at + drop :])
    try:
        mdoc = read_mdoc(path)
        for section in mdoc.images:
            section.number("TiltAngle"), section.movie_name, section.time, section.numbers("FrameDosesAndNumber")
        assert mdoc.title_axis is None or isinstance(mdoc.title_axis[0], float)
    except CryoetError as error:
        assert str(path) in str(error)
