"""Run workflow/scripts/<name>.py in this process as Snakemake would."""

import runpy
from pathlib import Path
from types import SimpleNamespace

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"


class Names(SimpleNamespace):
    """Named files, params or wildcards of a rule."""

    def get(self, name, default=None):
        return getattr(self, name, default)

    def __iter__(self):
        """All files one after another, lists item by item."""
        for value in vars(self).values():
            if value is not None:
                yield from value if isinstance(value, list) else [value]


def postprocess_inputs(half1, half2):
    """Inputs of postprocess for half maps of which nothing else is known: no picks, no template, no refinement."""
    return {"half1": half1, "half2": half2, "refined_halves": [half1, half2], "picks": [], "template": [], "files": []}


DEVICE = "cpu"  # or "cuda": conftest sets it


def run_script(name, inputs, outputs, config, ts="TS_01", seed=1, **params):
    """Outputs' folders are made first, as Snakemake does."""
    for path in outputs.values():
        if isinstance(path, list):
            continue
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    snakemake = SimpleNamespace(
        rule=name, input=Names(**inputs), output=Names(**outputs), wildcards=Names(ts=ts, round="first"),
        params=Names(config=config, seed=seed, **params), config={"seed": seed, "device": DEVICE}, threads=1,
        resources=Names(gpu=int(DEVICE == "cuda")), log=[],
    )
    runpy.run_path(str(SCRIPTS / f"{name}.py"), init_globals={"snakemake": snakemake})
