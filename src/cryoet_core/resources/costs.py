"""The table of every step's memory, time and speed-up: the only place with such numbers.

A row counts in what sizes.py measures in MB (a view, a tomogram, ...): ``memory`` MB per MB, ``per_thread`` the same for every thread, ``seconds``
CPU seconds per MB on one core of about 3 GHz (2024), beside ``start_s`` for starting Python and compiling. ``two_threads`` is the measured ratio of
the wall times on one and on two cores; beyond two it is assumed that the rest of the time stays serial (Amdahl's law), up to ``most`` threads.

How the numbers were measured: memory by ``benchmarks/memory_plan.py RESULTS_DIR`` (the peak of every job, which it logs when it ends, beside what
was planned), speed-ups by ``benchmarks/thread_speedup.py`` (two cores; more where the machine has them). Both print what to write here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SAFETY = 1.12  # planned memory over what the table gives


@dataclass(frozen=True)
class Cost:
    """Cost of a step; see the module.

    base_mb : interpreter, libraries and compiled kernels. of : what the step is done for: each "series", each "round", or the whole "run".
    alone : a long step that nothing else can run beside: it uses all cores. uses_gpu : said by the step's config model.
    """

    base_mb: float
    memory: Mapping[str, float] = field(default_factory=dict)
    per_thread: Mapping[str, float] = field(default_factory=dict)
    start_s: float = 2.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    two_threads: float = 1.0
    most: int = 16
    of: str = "series"
    alone: bool = False

    def memory_mb(self, sizes: Mapping[str, float], threads: int = 1) -> float:
        """Expected peak in MB, without the safety margin."""
        once = sum(factor * sizes[name] for name, factor in self.memory.items())
        return self.base_mb + once + threads * sum(factor * sizes[name] for name, factor in self.per_thread.items())

    def cpu_seconds(self, sizes: Mapping[str, float]) -> float:
        """Seconds that the step takes on one core."""
        return self.start_s + sum(factor * sizes[name] for name, factor in self.seconds.items())

    def speed_up(self, threads: float) -> float:
        """Expected ratio of the wall times on one core and on ``threads``."""
        parallel = 2 * (1 - 1 / max(1.0, min(self.two_threads, 2.0)))
        threads = max(1.0, min(threads, self.most))
        return 1 / (1 - parallel + parallel / threads)


COSTS: dict[str, Cost] = {
    # once for a run
    "simulate_reference": Cost(280, of="run", start_s=5),
    "decide_handedness": Cost(120, of="run"),
    "import_reference": Cost(205, of="run"),
    "resize_reference": Cost(228, of="run"),
    "report": Cost(600, {"stack": 0.16}, of="run", start_s=5, seconds={"n_series": 9.0}),
    # for every tilt series
    "simulate": Cost(270, {"view": 17}, start_s=20, seconds={"movies": 0.026}),
    "import_tilt_series": Cost(122, start_s=1.2),
    "correct_motion": Cost(235, {"movie": 1.0, "frame": 13.0}, start_s=4, seconds={"movies": 6.5e-3}, two_threads=1.3),
    "estimate_ctf": Cost(300, {"view": 4.5}, start_s=5, seconds={"stack": 0.016}),
    "exclude_views": Cost(260, {"view": 3.8}, seconds={"stack": 5e-3}),
    "erase_xrays": Cost(330, {"view": 13.5}, start_s=8, seconds={"stack": 0.013}),
    "align_tilt_series": Cost(
        420, {"working_stack": 4.2}, start_s=17, seconds={"stack": 0.012, "working_stack": 0.45, "tilted_working_stack": 3.0}, two_threads=1.3
    ),
    "correct_ctf": Cost(250, {"view": 16.0}, seconds={"stack": 0.01}),
    "preprocess_tilt_series": Cost(185),
    "reconstruct_tomogram": Cost(
        260, {"tomogram_blocks": 2.7, "tilted_blocks": 3.0}, {"one": 50}, seconds={"back_projection": 6e-4, "tilted_back_projection": 2.5e-3}, two_threads=1.6,
    ),
    "relion_stack": Cost(250, {"view": 2.0}, seconds={"stack": 3e-3}),
    "match_template": Cost(
        250, {"match_features": 1.0, "scored": 3.0, "searched": 4.0}, {"one": 50}, start_s=5, seconds={"match_seconds": 1.0}, two_threads=1.8, most=128, alone=True
    ),
    # for every averaging round
    "extract_subtomos": Cost(400, {"view": 0.6, "particle_stack": 1.3}, of="round", seconds={"images": 3e-4, "all_stack": 4e-3}, two_threads=1.3, alone=True),
    "initial_model": Cost(230, {"particle_images": 3.0}, {"search_tiles": 0.85}, of="round", seconds={"images": 0.02}, two_threads=1.7, most=128, alone=True),
    "refine": Cost(250, {"coefficients": 1.0, "refined_maps": 1.0}, {"search_tiles": 0.7}, of="round", seconds={"particle_images": 0.5}, two_threads=1.7, most=128, alone=True),
    "reconstruct_particle": Cost(400, {"view": 0.6, "particle_stack": 1.0, "sums": 10}, of="round", seconds={"images": 5e-4, "all_stack": 3e-3}, two_threads=1.5, most=64, alone=True),
    "postprocess": Cost(210, {"map_box": 30}, of="round", seconds={"map_box": 0.5}),
    "relion_project": Cost(115, of="round"),
}

# MB on disk per MB of what sizes.py measures, at the least (half precision): the free space that a step begins with.
WRITES: dict[str, Mapping[str, float]] = {
    "simulate": {"movies": 0.25},
    "correct_motion": {"stack": 1.5},
    "correct_ctf": {"binned_stack": 1.5},
    "reconstruct_tomogram": {"tomogram": 1.5},
    "relion_stack": {"stack": 0.5},
    "match_template": {"tomogram": 2.0},
    "extract_subtomos": {"particle_images": 0.4},
}


def disk_mb(step: str, sizes: Mapping[str, float]) -> float:
    """MB that the step writes at the least; 0 where that is little."""
    return sum(factor * sizes[name] for name, factor in WRITES.get(step, {}).items())
