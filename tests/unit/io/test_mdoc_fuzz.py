"""Whatever happens to an mdoc, the importer gives a table or one of our errors; TILTLINE_FUZZ sets the number of examples."""

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoet_core.errors import CryoetError
from cryoet_core.io.acquisition import Given, read_acquisition
from cryoet_core.io.mdoc import read_mdoc

EXAMPLES = int(os.environ.get("TILTLINE_FUZZ", "400"))

SERIALEM = """PixelSpacing = 1.35
Voltage = 300
ImageFile = TS_01.mrc
ImageSize = 5760 4092
DataMode = 1

[T = SerialEM: Digitized on Krios                      14-Apr-24  18:20:11    ]

[T =     Tilt axis angle = 84.8, binning = 1  spot = 8  camera = 1]

[ZValue = 0]
TiltAngle = 0.0112
StagePosition = -112.4 87.203
ExposureDose = 3.05
PriorRecordDose = 0
DoseRate = 12.5
PixelSpacing = 1.35
RotationAngle = 174.8
ExposureTime = 0.44
Binning = 0.5
SubFramePath = D:\\DATA\\k3\\frames\\TS_01_001_0.0.tif
NumSubFrames = 10
FrameDosesAndNumber = 0.305 10
DateTime = 14-Apr-24  18:21:02

[ZValue = 1]
TiltAngle = 3.0119
ExposureDose = 3.05
PriorRecordDose = 3.05
SubFramePath = \\\\nas\\k3\\frames\\TS_01_002_3.0.tif
NumSubFrames = 10
DateTime = 14-Apr-24  18:21:44

[ZValue = 2]
TiltAngle = -2.9907
ExposureDose = 3.05
PriorRecordDose = 6.1
SubFramePath = frames/TS_01_003_-3.0.tif
DateTime = 14-Apr-2024  18:22:31
"""
TOMO5 = """Version = 5.12
Voltage=300.0
PixelSpacing=1.96
ImageFile=Position_1.mrc
ImageSize=4096 4096

[T = TiltAxisAngle = -95.7  Binning = 1  SpotSize = 6]

[ZValue = 0]
TiltAngle = 9.998
RotationAngle = -5,7
DateTime = 2023-03-09 18:05:12
SubFramePath = X:\\OffloadData\\Position_1_001_10.0_EER.eer

[ZValue = 1]
DateTime = 2023-03-09 18:06:22
TiltAngle = 12,998
ExposureDose = 2,9
SubFramePath = Position_1_002_13.0_EER.eer
"""
FRAMESETS = "\r\n".join(
    f"[FrameSet = {i}]\r\nTiltAngle = {a}\r\nVoltage = 200\r\nPixelSpacing = 2.1\r\nRotationAngle = 178.4\r\n"
    f"DoseRate = 4.9\r\nExposureTime = 1.1\r\nSubFramePath = a_{i}.tif\r\nFrameDosesAndNumber = 0.3 4 0.2 3\r\n"
    for i, a in enumerate((-30, 0, 30))
)
MONTAGE = "PixelSpacing = 656.1\nMontage = 1\n[MontSection = 0]\nTiltAngle = 0\n" + "".join(
    f"[ZValue = {i}]\nPieceCoordinates = {i} 0 0\nTiltAngle = 0\n" for i in range(3)
)
FILES = (SERIALEM, TOMO5, FRAMESETS, MONTAGE)
WORDS = ("inf", "-inf", "nan", "1e400", "-1e308", "1e-320", "0", "", "=", "[", "]", "٣.٥", "9" * 5000, "-0", "0x10", "1,2,3", "\x00", "é",
         "TiltAngle", "[ZValue = 99999999999999999999]", "[ZValue = ]", "[ZValue = " + "9" * 5000 + "]", "[T = ", "32-Foo-99  99:99:99", "31-Feb-24  10:00:00",
         "..\\..\\x", "💥", "1 2 3 4")


def _keys(data: bytes) -> list[bytes]:
    return data.split(b"\n")


@st.composite
def damaged(draw) -> bytes:
    """A good mdoc after one to six accidents."""
    data = draw(st.sampled_from(FILES)).encode()
    for _ in range(draw(st.integers(1, 6))):
        lines = _keys(data)
        i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        what = draw(st.sampled_from(("cut", "flip", "swap", "delete", "double", "key", "value", "value", "value", "insert", "crlf", "bom")))
        if what == "cut":
            data = data[: draw(st.integers(0, len(data)))]
        elif what == "flip":
            at = draw(st.integers(0, max(0, len(data) - 1)))
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif what == "crlf":
            data = data.replace(b"\n", b"\r\n")
        elif what == "bom":
            data = b"\xef\xbb\xbf" + data
        else:
            word = draw(st.sampled_from(WORDS)).encode()
            key, _, value = lines[i].partition(b"=")
            if what == "swap":
                lines[i], lines[j] = lines[j], lines[i]
            elif what == "delete":
                del lines[i]
            elif what == "double":
                lines.insert(j, lines[i])
            elif what == "key":
                lines[i] = word + b"=" + value
            elif what == "value":
                lines[i] = key + b"= " + word
            else:
                lines.insert(i, word)
            data = b"\n".join(lines)
    return data


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(data=damaged(), tomo5=st.sampled_from((None, True, False)), dose=st.sampled_from((None, 3.0)))
def test_a_table_or_one_of_our_errors(tmp_path_factory, data, tomo5, dose):
    path = tmp_path_factory.getbasetemp() / "damaged.mdoc"
    path.write_bytes(data)
    try:
        found = read_acquisition(read_mdoc(path), Given(tomo5=tomo5, dose_per_tilt_e_per_a2=dose), (4092, 5760))
    except CryoetError as error:
        assert "damaged.mdoc" in str(error) and error.fix
        return
    n = len(found.sections)
    assert n >= 2 and len(found.exposure) == len(found.pre_exposure) == len(found.tilt_deg) == n
    assert np.all(np.abs(found.tilt_deg) <= 90) and np.ptp(found.tilt_deg) > 0.1
    values = [found.voltage.value, found.pixel_size.value, found.tilt_axis.value, *found.exposure, *found.pre_exposure]
    assert np.all(np.isfinite(values)) and found.pixel_size.value >= 0.025 and found.voltage.value >= 60
