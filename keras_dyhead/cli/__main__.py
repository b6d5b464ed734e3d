"""`python -m keras_dyhead.cli`."""

from keras_dyhead.cli import app

app()
