"""One detector for all tests of a process."""

import pytest
from visualization.small_model import small_detector


@pytest.fixture(scope="session")
def model():
    return small_detector()
