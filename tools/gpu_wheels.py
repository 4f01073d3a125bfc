"""Collect wheels of what a GPU machine without a network lacks: for benchmarks/gpu_check.py --wheels.

    python tools/gpu_wheels.py DIR [--python 3.12] [--have FILE] [--demo] [--without NAME ...]

Takes the dependencies of cryoet_core (and of its tests; with --demo also Snakemake) as they are installed where this
runs and downloads wheels of the same versions for Linux on x86-64 and the given Python with pip. NumPy, SciPy, Numba
and CuPy must be there already. ``--have`` : a file of names that are there too, one per line (on that machine: python3
-m pip list --format=freeze); without it everything else is collected.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ALWAYS_THERE = ("numpy", "scipy", "numba", "llvmlite")
NEWER_NEEDED = ("typing-extensions",)  # taken along though they are there: what needs them needs a new one
ROOTS = ("pandas", "pydantic", "pyyaml", "tifffile", "imagecodecs", "matplotlib", "threadpoolctl", "typer", "pytest")
FOR_DEMO = ("snakemake",)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64",
             "manylinux2014_x86_64", "manylinux_2_12_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")  # fmt: skip


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str) -> list[str]:
    """Names that an installed package needs here, extras left out."""
    found = []
    for line in distribution(name).requires or []:
        if "extra ==" not in line and "sys_platform" not in line and "platform_system" not in line:
            found.append(normal(re.match(r"[A-Za-z0-9_.-]+", line).group()))
    return found


def closure(roots, there: set[str]) -> dict[str, str]:
    """{name: version} of all that ``roots`` need and that is not there."""
    wanted, queue = {}, [normal(r) for r in roots]
    while queue:
        name = queue.pop()
        if name in wanted or (name in there and name not in NEWER_NEEDED):
            continue
        try:
            wanted[name] = distribution(name).version
        except PackageNotFoundError:
            continue  # needed by other Pythons or systems only
        queue += requirements(name)
    return wanted


def download(name: str, version: str, folder: Path, python: str) -> str | None:
    """None, or why there is no wheel. Pure packages that come as source only are built here."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    tags = [flag for platform in PLATFORMS for flag in ("--platform", platform)]
    target = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:", *tags]
    fetch = [*pip, "download", "--no-deps", *target, "-d", str(folder), f"{name}=={version}"]
    if subprocess.run(fetch, capture_output=True, check=False).returncode == 0:
        return None
    before = set(folder.iterdir())
    build = [*pip, "wheel", "--no-deps", "-w", str(folder), f"{name}=={version}"]
    failed = subprocess.run(build, capture_output=True, check=False).returncode
    made = set(folder.iterdir()) - before
    for path in made:
        if not path.name.endswith("-none-any.whl"):
            path.unlink()
            failed = True
    return f"no wheel of {name} {version} for Python {python}" if failed or not made else None


def names_in(path: Path) -> set[str]:
    """Normal names of a list of packages, one or more per line, versions left out."""
    words = re.split(r"[\s,]+", path.read_text(encoding="utf-8"))
    return {normal(re.split(r"[=@<>!~;\[]", word)[0]) for word in words if re.match(r"[A-Za-z0-9]", word)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine")
    parser.add_argument("--have", type=Path, help="names of the packages that are there")
    parser.add_argument("--demo", action="store_true", help="Snakemake too, for the demo")
    parser.add_argument("--without", nargs="*", default=[], help="names to leave out")
    chosen = parser.parse_args()
    there = {*ALWAYS_THERE, *map(normal, chosen.without), *(names_in(chosen.have) if chosen.have else ())}
    wanted = closure(ROOTS + (FOR_DEMO if chosen.demo else ()), there)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    missing = [m for n, v in sorted(wanted.items()) if (m := download(n, v, chosen.folder, chosen.python))]
    wheels = sorted(chosen.folder.glob("*.whl"), key=lambda p: -p.stat().st_size)
    for path in wheels:
        sys.stdout.write(f"{path.stat().st_size / 1e6:7.2f} MB  {path.name}\n")
    sys.stdout.write(f"{len(wheels)} wheels, {sum(p.stat().st_size for p in wheels) / 1e6:.1f} MB\n")
    sys.stdout.write("".join(f"MISSING: {m}\n" for m in missing))
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
