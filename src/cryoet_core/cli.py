"""`tiltline doctor`: is this machine ready? Thin: everything it says is computed elsewhere."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil

import typer

from cryoet_core import backend

app = typer.Typer(help="tiltline: cryo-electron tomography from movies to averages.", no_args_is_help=True)

_PACKAGES = ("cryoet_core", "numpy", "scipy", "numba", "pandas", "pydantic", "snakemake")


@app.callback()
def main() -> None:
    """tiltline: cryo-electron tomography from movies to averages. The workflow itself is run with snakemake."""


@app.command()
def doctor() -> None:
    """Say what this machine has: versions, memory, disk, GPU."""
    typer.echo(f"python {platform.python_version()}")
    for package in _PACKAGES:
        typer.echo(f"{package} {importlib.metadata.version(package)}")
    typer.echo(f"free memory {backend.free_memory_mb() / 1024:.1f} GB")
    typer.echo(f"free disk here {shutil.disk_usage('.').free / 2**30:.1f} GB")
    typer.echo(f"GPU {_gpu()}")


def _gpu() -> str:
    if not backend.gpu_available():
        return "none (everything runs on the CPU; install the extra gpu12 or gpu13 to use one)"
    import cupy

    # a tiny kernel shows that NVRTC is there too, which is_available() does not
    cupy.ElementwiseKernel("float32 x", "float32 y", "y = 2 * x", "doctor_twice")(cupy.ones(4, dtype=cupy.float32))
    count = cupy.cuda.runtime.getDeviceCount()
    return ", ".join(cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(count))
