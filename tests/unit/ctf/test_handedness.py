"""One hand for a run: what the series say together, and what turning the axis means for the defocus."""

import numpy as np
import pandas as pd
import pytest

from cryoet_core.ctf.fit import HandEvidence
from cryoet_core.ctf.handedness import choose_table, decide_run, turned_axis
from cryoet_core.metadata import TiltSeries

TILTS = np.array([-40.0, 0.0, 40.0])


def _series(hand, axis_deg=95.0):
    tilts = pd.DataFrame({
        "tilt_id": [2, 1, 3], "nominal_tilt_deg": TILTS, "pre_exposure_e_per_a2": [3.0, 0.0, 6.0], "x_tilt_deg": 2.0,
        "y_tilt_deg": TILTS, "z_rot_deg": axis_deg, "x_shift_angst": 0.0, "y_shift_angst": 0.0, "excluded": 0,
        "exclude_reason": "none",
    })
    return TiltSeries("TS_01", 300.0, 2.7, 0.1, 3.0, 3.0, hand, (512, 480), (0, 0, 0), tilts)


def test_many_weak_series_decide_together_and_one_that_disagrees_is_named():
    weak = {f"TS_{i}": HandEvidence(-8.0, 1, 4) for i in range(5)}
    assert all(e.decided == 0 for e in weak.values())
    hand = decide_run({**weak, "odd": HandEvidence(25.0, 6, 1)})
    assert hand.decided == 0  # 15 in all: not enough
    hand = decide_run({**weak, **{f"more_{i}": HandEvidence(-30.0, 2, 12) for i in range(3)}, "odd": HandEvidence(25.0, 6, 1)})
    assert hand.decided == -1 and hand.against == ("odd",)


def test_nothing_is_decided_without_rings():
    assert decide_run({}).decided == 0


@pytest.mark.parametrize("axis, expected", [(95.0, -85.0), (-95.0, 85.0), (0.0, 180.0), (180.0, 0.0)])
def test_the_turned_axis_gives_the_same_defocus_everywhere(axis, expected):
    plus = _series(1, axis)
    turned = turned_axis(plus)
    assert turned.handedness == -1
    assert np.allclose(turned.tilts["z_rot_deg"], expected)
    # the plane z = 0 of the specimen: defocus gradient in the image = hand * depth gradient
    assert np.allclose(turned.handedness * turned.geometry.depth_plane(), plus.handedness * plus.geometry.depth_plane())


def test_a_given_hand_is_obeyed_and_nothing_is_turned():
    plus, minus = _series(1), _series(-1)
    assert choose_table(plus, minus, decided=-1, given=1) is plus
    assert choose_table(plus, minus, decided=1, given=-1) is minus
    assert choose_table(plus, minus, decided=0, given=None) is minus
    assert choose_table(plus, minus, decided=1, given=None).tilts["z_rot_deg"].iloc[0] == -85.0
