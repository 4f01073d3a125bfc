import shutil

import pytest
import script_runner
from devices import on_device

from cryoet_core import backend


@pytest.fixture(scope="session", autouse=True)
def device_of_the_scripts(request):
    """Every script of this folder computes on the device that ``--device`` names; skipped, visibly, where there is none."""
    chosen = request.config.getoption("--device")
    if chosen == "stand-in" and shutil.which("g++") is None:
        pytest.skip("no g++ to run CUDA sources on the CPU")
    with on_device("cuda source" if chosen == "stand-in" else "cpu"):
        if chosen != "cpu" and not backend.gpu_available():
            pytest.skip("no CUDA device (or no CuPy)")
        script_runner.DEVICE = "cpu" if chosen == "cpu" else "cuda"
        yield
