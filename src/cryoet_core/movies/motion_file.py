"""The motion of a series as a STAR file, and back.

``data_motion``: the movement of the content of every frame. ``data_local`` (only with local motion): the nodes of its field, their places in the
movie (pixels from 0; frames from 1) and the movement there about that of the frame. ``data_local_grid``: size of movie and grid of each view.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cryoet_core.io.star import read_star
from cryoet_core.movies.local_field import LocalField

MOTION_COLUMNS = ["tlTiltId", "tlFrame", "tlShiftXPx", "tlShiftYPx"]
LOCAL_COLUMNS = ["tlTiltId", "tlNodeX", "tlNodeY", "tlNodeT", "tlPositionXPx", "tlPositionYPx", "tlPositionFrame", "tlShiftXPx", "tlShiftYPx"]
GRID_COLUMNS = ["tlTiltId", "tlMovieSizeX", "tlMovieSizeY", "tlFrameCount", "tlGridX", "tlGridY", "tlGridT"]


def motion_blocks(tracks: dict) -> dict[str, pd.DataFrame]:
    """Blocks of the file from tilt_id -> MotionTrack; movie pixels."""
    blocks = {"motion": motion_table(tracks)}
    fields = {tilt_id: track.local for tilt_id, track in sorted(tracks.items()) if track.local is not None}
    if fields:
        blocks["local_grid"] = pd.DataFrame([_grid_row(i, f) for i, f in fields.items()], columns=GRID_COLUMNS)
        blocks["local"] = pd.DataFrame([row for i, f in fields.items() for row in _node_rows(i, f)], columns=LOCAL_COLUMNS)
    return blocks


def motion_table(tracks: dict) -> pd.DataFrame:
    """Movement of the content of every frame about the mean frame, movie pixels, with STAR labels."""
    rows = [
        (tilt_id, frame, float(x), float(y))
        for tilt_id, track in sorted(tracks.items())
        for frame, (x, y) in enumerate(track.movement_px, 1)
    ]
    return pd.DataFrame(rows, columns=MOTION_COLUMNS)


def _grid_row(tilt_id: int, field: LocalField):
    return (tilt_id, field.shape[1], field.shape[0], field.n_frames, *field.grid_xy, len(field.nodes_px))


def _node_rows(tilt_id: int, field: LocalField):
    sizes = (field.n_frames, *field.shape)
    places = [np.linspace(0, n - 1, k) if k > 1 else [(n - 1) / 2] for n, k in zip(sizes, field.nodes_px.shape[:3], strict=True)]
    for t, y, x in np.ndindex(field.nodes_px.shape[:3]):
        move = field.nodes_px[t, y, x]
        yield (tilt_id, x + 1, y + 1, t + 1, float(places[2][x]), float(places[1][y]), float(places[0][t] + 1), float(move[0]), float(move[1]))


def read_tracks(path) -> dict[int, np.ndarray]:
    """tilt_id -> (frames, 2) movement x, y of the content of whole frames, movie pixels."""
    table = read_star(path)["motion"]
    return {int(t): g[["tlShiftXPx", "tlShiftYPx"]].to_numpy(float) for t, g in table.groupby("tlTiltId")}


def read_fields(path) -> dict[int, LocalField]:
    """tilt_id -> local field of the views that have one."""
    blocks = read_star(path)
    if "local" not in blocks:
        return {}
    nodes = {int(t): g for t, g in blocks["local"].groupby("tlTiltId")}
    out = {}
    for row in blocks["local_grid"].itertuples():
        rows = nodes[int(row.tlTiltId)]
        values = np.zeros((int(row.tlGridT), int(row.tlGridY), int(row.tlGridX), 2))
        place = tuple(rows[f"tlNode{axis}"].to_numpy(int) - 1 for axis in "TYX")
        values[place] = rows[["tlShiftXPx", "tlShiftYPx"]].to_numpy(float)
        out[int(row.tlTiltId)] = LocalField(values, (int(row.tlMovieSizeY), int(row.tlMovieSizeX)), int(row.tlFrameCount))
    return out
