"""Every CUDA source compiles with NVRTC (from its pip wheel) for an old and a new architecture; needs no GPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

import pytest
from cuda_shim import declarations

from cryoet_core import kernels
from cryoet_core.kernels import cuda

SOURCES = sorted({k.module for k in kernels.KERNELS})


@functools.cache
def nvrtc_path():
    """libnvrtc.so.12 of the wheel nvidia-cuda-nvrtc-cu12, or None."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else []:
        library = Path(folder) / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"
        if library.exists():
            return library
    return None


def compile_source(name, text, arch):
    """(ok, log, ptx) of NVRTC."""
    nvrtc = ctypes.CDLL(str(nvrtc_path()))
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    assert created == 0
    options = [b"--gpu-architecture=" + arch.encode(), b"--std=c++14"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program) if status == 0 else ""
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0, log, ptx


def _text(get_size, get, program):
    size = ctypes.c_size_t()
    assert get_size(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert get(program, buffer) == 0
    return buffer.value.decode()


needs_nvrtc = pytest.mark.skipif(nvrtc_path() is None, reason="the wheel nvidia-cuda-nvrtc-cu12 is not installed")


@needs_nvrtc
@pytest.mark.parametrize("arch", ["compute_80", "compute_90"])
@pytest.mark.parametrize("name", SOURCES)
def test_source_compiles_without_warnings(name, arch):
    text = cuda.source(name)
    ok, log, ptx = compile_source(f"{name}.cu", text, arch)
    assert ok, log
    assert log.strip() == "", log
    entries = declarations(text)
    assert entries
    for entry in entries:
        assert f".entry {entry}(" in ptx


@needs_nvrtc
def test_a_broken_source_is_noticed():
    ok, log, _ = compile_source("broken.cu", 'extern "C" __global__ void f(float* a) { a[0] = b; }', "compute_80")
    assert not ok
    assert "identifier" in log


def test_no_source_is_forgotten():
    folder = Path(cuda.__file__).parent
    assert sorted(p.stem for p in folder.glob("*.cu")) == SOURCES


@pytest.mark.parametrize("name", SOURCES)
def test_sources_need_no_header_and_use_64_bit_indices(name):
    text = cuda.source(name)
    assert "#include" not in text
    assert "const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;" in text
