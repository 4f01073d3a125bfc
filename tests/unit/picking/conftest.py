import pytest
from matching_scene import make_scene


@pytest.fixture(scope="session")
def scene():
    """See :func:`matching_scene.make_scene`."""
    return make_scene()
