"""`tiltline doctor`: is this machine ready? `tiltline convert picks`: from one program to another. Thin: everything is computed elsewhere."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from pathlib import Path
from typing import Annotated

import typer

from cryoet_core import backend
from cryoet_core.errors import CryoetError, UserInputError

app = typer.Typer(help="tiltline: cryo-electron tomography from movies to averages.", no_args_is_help=True)
convert = typer.Typer(help="Convert files of one program into those of another.", no_args_is_help=True)
app.add_typer(convert, name="convert")

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


@convert.callback()
def _convert() -> None:
    """Convert files of one program into those of another."""


@convert.command()
def picks(
    source: Annotated[Path, typer.Argument(metavar="IN", help="file of picks")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="file to write")],
    to: Annotated[str, typer.Option("--format", "--to", help="format of OUT: relion5, relion4, eman2, cbox, coords, table, tloc, deepfinder, dynamo, "
                                    "stopgap, av3, imod, imod_points, copick, portal")],
    of: Annotated[str, typer.Option("--from", help="format of IN")] = "auto",
    tomogram: Annotated[Path | None, typer.Option(help="the tomogram (MRC): its size and voxel")] = None,
    size: Annotated[tuple[int, int, int] | None, typer.Option(help="or its size x y z in voxels")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="its voxel in A; with --tomogram, instead of that in its header")] = None,
    unbinned_pixel_size: Annotated[float | None, typer.Option(help="pixel of the tilt images in A, in which RELION 4 counts; else the tomogram's")] = None,
    name: Annotated[str | None, typer.Option(help="name of the tomogram in IN and OUT; else OUT's")] = None,
    tomogram_number: Annotated[int | None, typer.Option(help="its number, where a format numbers tomograms")] = None,
    class_number: Annotated[int | None, typer.Option("--class", help="this class only")] = None,
    min_score: Annotated[float | None, typer.Option(help="picks with at least this score")] = None,
    axes: Annotated[str, typer.Option(help="axes of IN's volume that are the tomogram's x, y, z, - for a reversed one, e.g. xz-y")] = "xyz",
    in_pixel_size: Annotated[float | None, typer.Option(help="voxel of the volume IN counts in, in A, if not the tomogram's")] = None,
    out_axes: Annotated[str, typer.Option(help="as --axes, of the volume OUT is for")] = "xyz",
    out_pixel_size: Annotated[float | None, typer.Option(help="as --in-pixel-size, for OUT")] = None,
) -> None:
    """Convert particle picks: positions, orientations, scores and classes, as far as both formats hold them."""
    from cryoet_core.io.picks import Source, read_picks, write_picks

    try:
        frame = _tomogram(tomogram, size, pixel_size, unbinned_pixel_size, name or target.name.split(".")[0])
        wanted = Source(format=of, pixel_size_angst=in_pixel_size, axes=axes, tomogram_number=tomogram_number, class_number=class_number, min_score=min_score)
        reading = read_picks(source, frame, wanted)
        lost = write_picks(target, reading.picks, frame, to, axes=out_axes, pixel_size_angst=out_pixel_size, number=tomogram_number or 1)
    except CryoetError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    for warning in reading.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if lost:
        typer.echo(f"warning: {to} holds no {', '.join(lost)}", err=True)
    unit = f", counted in {reading.unit}" if reading.unit else ""
    count = f"{len(reading.picks)} of {reading.n_in_file} picks"
    typer.echo(f"{count}: {source} ({reading.format}{unit}) -> {target} ({to})")


def _tomogram(path, size, pixel_size, unbinned_pixel_size, name):
    """The frame of the picks from a tomogram's header or from what was said."""
    from cryoet_core.io.mrc import read_header
    from cryoet_core.io.picks import Grid, Tomogram

    if path is not None:
        header = read_header(path)
        size, pixel_size = size or header.shape[::-1], pixel_size or header.pixel_size_angst
    if size is None or not pixel_size:
        raise UserInputError("E-PICKS-10", "the tomogram's size and voxel are not known", field="--tomogram", expected="--tomogram, or --size and --pixel-size",
                             fix="most programs count from a corner of the tomogram: give its file")
    grid = Grid(tuple(int(n) for n in size), float(pixel_size))
    return Tomogram(name, grid, grid.scaled(unbinned_pixel_size) if unbinned_pixel_size else None)
