import numpy as np
import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--device", choices=("cpu", "cuda", "stand-in"), default="cpu",
        help="where the scripts of tests/steps compute: the CPU, a GPU, or arrays as strict as CuPy's with CUDA sources under g++",
    )  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(7)
