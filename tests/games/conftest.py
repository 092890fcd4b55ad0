"""Games are tested in double precision unless a test says otherwise."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def double_precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """fp64, except for tests marked by their parameter `fp32`."""
    with jax.enable_x64("fp32" not in request.fixturenames):
        yield
