"""One view inside the small detector for all plots."""

import pytest
from small_detector import picture

from keras_dyhead.visualization.view import look_inside


@pytest.fixture(scope="session")
def view(small_model):
    return look_inside(small_model, picture(100, 130))
