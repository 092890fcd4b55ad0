"""What the launches of a file share."""

import pathlib

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Compiled programs."""
    return tmp_path_factory.mktemp("compiled")
