"""Compare the figures of a demo run with what the demo must reach. Usage: check_demo.py results/summary.json"""

from __future__ import annotations

import json
import sys


def checks(summary: dict):
    """(figure, measured, limit, passed) for every series and every round."""
    for ts, n in summary["series"].items():
        for key, limit in (
            ("motion_error_px_rms", 0.5),
            ("defocus_error_nm_median", 100),
            ("dark_missed", 0),
            ("good_lost", 0),
            ("alignment_error_bin4_px_rms", 1.0),
        ):
            yield f"{ts} {key}", n[key], f"<= {limit}", n[key] <= limit
        for key in ("precision", "recall"):
            yield f"{ts} {key}", n[key], ">= 0.8", n[key] >= 0.8
    for name, n in summary["rounds"].items():
        yield f"{name} pose_error_deg_median", n["pose_error_deg_median"], "<= 10", n["pose_error_deg_median"] <= 10
        resolution, limit = n["resolution_truth_0.5_angst"], 1.3 * n["nyquist_angst"]
        yield f"{name} FSC 0.5 with the truth (A)", resolution, f"<= {limit:.1f}", resolution <= limit
        truth, mirrored = n["correlation_truth"], n["correlation_mirrored"]
        yield f"{name} correlation with the truth", truth, f"> {mirrored:.3f} (mirrored)", truth > mirrored


def main() -> int:
    """Print one line per figure; exit 1 when one misses its limit."""
    with open(sys.argv[1]) as stream:
        rows = list(checks(json.load(stream)))
    for figure, measured, limit, passed in rows:
        sys.stdout.write(f"{'ok  ' if passed else 'MISS'} {figure}: {measured:.4g} (limit {limit})\n")
    return int(not all(row[3] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
