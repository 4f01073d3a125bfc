"""Runs the CUDA sources on the CPU: g++ with a small header, the same arguments as on a device.

It checks results, argument order and argument types; it says nothing about speed or about races between threads.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HEADER = Path(__file__).with_name("cuda_shim.h")
C_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "long long": np.int64,
    "float2": np.complex64,
}
DECLARATION = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')


def declarations(source: str) -> dict[str, list[str]]:
    """Argument types of every kernel in a CUDA source, without const and names: "float*", "long long", ..."""
    found = {}
    for name, arguments in DECLARATION.findall(source):
        words = [" ".join(a.replace("const ", "").split()) for a in arguments.split(",")]
        found[name] = [w.rsplit(" ", 1)[0] for w in words]
    return found


@functools.cache
def library(source: str):
    """The compiled library of a CUDA source (kept in a temporary folder until the process ends) and its declarations."""
    wrappers = "".join(
        f'extern "C" void run_{k}(unsigned int b, unsigned int t, void** a) {{ run_all(&{k}, b, t, a); }}\n'
        for k in declarations(source)
    )
    code = Path(_folder().name) / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.cpp"
    code.write_text(f'#include "{HEADER}"\n{source}\n{wrappers}', encoding="utf-8")
    built = code.with_suffix(".so")
    command = ["g++", "-std=c++14", "-O2", "-Wall", "-Werror", "-Wno-unused-function", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(built), str(code)], check=True)
    return ctypes.CDLL(str(built)), declarations(source)


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="cuda_shim_")


def run(source, function, n_blocks, n_threads, arguments):
    """Launch ``function`` of a CUDA source on host arrays and NumPy scalars; checks every argument's type."""
    compiled, kernels = library(source)
    expected = kernels[function]
    if len(expected) != len(arguments):
        raise TypeError(f"{function} takes {len(expected)} arguments, found {len(arguments)}")
    values = [_value(function, a, e) for a, e in zip(arguments, expected, strict=True)]
    pointers = (ctypes.c_void_p * len(values))(*[v.ctypes.data for v in values])
    getattr(compiled, f"run_{function}")(ctypes.c_uint(n_blocks), ctypes.c_uint(n_threads), pointers)


def _value(function, argument, expected):
    """An array of one element holding what the kernel is passed: an address or a number."""
    dtype = np.dtype(C_TYPES[expected.rstrip("*")])
    if argument.dtype != dtype or isinstance(argument, np.ndarray) != expected.endswith("*"):
        raise TypeError(f"{function}: {argument.dtype} {type(argument)} passed for {expected}")
    if expected.endswith("*"):
        if not argument.flags.c_contiguous:
            raise TypeError(f"{function}: an array is not contiguous")
        return np.array([argument.ctypes.data], dtype=np.uint64)
    return np.array([argument])
