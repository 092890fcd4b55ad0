"""The desk of every test here."""

import pytest
from desk import Desk


@pytest.fixture
def desk(tmp_path):
    """Scripts without a cloud."""
    return Desk(tmp_path)
