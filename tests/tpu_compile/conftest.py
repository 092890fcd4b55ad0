"""Asks libtpu, before it is loaded, to write down the schedule of every kernel it compiles."""

from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from schedule import ask_for_schedules

ask_for_schedules()


@pytest.fixture(autouse=True, scope="module")
def compiled_anew() -> Iterator[None]:
    """What is read from JAX's cache is not compiled and has no schedule; programs for devices that are not here are
    written there and cannot be read."""
    for enabled in (False, True):
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
        if not enabled:
            yield
