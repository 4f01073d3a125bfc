import pytest
import script_runner
from devices import on_device


@pytest.fixture(scope="session", autouse=True)
def device_of_the_scripts(request):
    """Every script of this folder computes on the device that ``--device`` names."""
    chosen = request.config.getoption("--device")
    with on_device({"stand-in": "cuda source"}.get(chosen, "cpu")):
        script_runner.DEVICE = "cpu" if chosen == "cpu" else "cuda"
        yield
