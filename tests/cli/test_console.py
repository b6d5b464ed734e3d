"""The command line answers at once and explains itself."""

import subprocess
import sys

import pytest
from cli.commands import output_of

import keras_dyhead
from keras_dyhead.cli import app
from keras_dyhead.version import __version__

COMMANDS = sorted(c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands)


def test_the_command_line_itself_does_not_import_tensorflow():
    code = f"""
import sys, types
package = sys.modules["keras_dyhead"] = types.ModuleType("keras_dyhead")  # not its __init__
package.__path__ = {list(keras_dyhead.__path__)}
import keras_dyhead.cli
print({{"tensorflow", "keras", "matplotlib"}}.intersection(sys.modules))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout == "set()\n", output.stderr


def test_version_is_the_packages():
    assert output_of("--version") == f"keras-dyhead {__version__}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command):
    told = output_of(command, "--help")
    assert "Examples" in told and f"keras-dyhead {command}" in told.split("Examples")[1]
