"""The command line starts quickly and explains itself."""

import io
import os
import subprocess
import sys

import pytest
from cli.commands import output_of
from rich.table import Table

from keras_dyhead.cli import app
from keras_dyhead.cli.console import Terminal, print_error
from keras_dyhead.version import __version__

COMMANDS = sorted(c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands)


ODD = "nut [/s] [red]:smile: \x1b[31mred\u202e\udcff"
SHOWN = "nut [/s] [red]:smile: \\x1b[31mred\\u202e\\udcff"


def test_help_and_version_import_no_framework():
    code = f"""
import sys
from keras_dyhead.cli import app
for words in (["--version"], ["--help"], *([command, "--help"] for command in {COMMANDS})):
    try:
        app(words)
    except SystemExit as end:
        assert not end.code, words
heavy = {{"tensorflow", "keras", "matplotlib", "numpy", "PIL"}}
print("imported:", heavy.intersection(sys.modules))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.endswith("imported: set()\n"), output.stderr
    assert output.stderr == "" and "--backbone-weights" in output.stdout


def test_what_the_encoding_of_the_output_lacks_is_escaped(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", output)
    Terminal().print("32² px")
    output.flush()
    assert output.buffer.getvalue() == b"32\\xb2 px\n"


def test_the_terminal_prints_text_literally(capsys):
    terminal = Terminal()
    terminal.print(ODD)
    terminal.warn(ValueError(ODD))
    table = Table(ODD, title=ODD)
    table.add_row(ODD)
    terminal.print(table, width=200)
    with terminal.status(ODD):
        print_error(ValueError(f"{ODD}\n{ODD}"))
    output, errors = capsys.readouterr()
    assert output.count(SHOWN) == 5 and errors == f"Error: {SHOWN}\n{SHOWN}\n"


def test_version_is_that_of_the_package():
    assert output_of("--version") == f"keras-dyhead {__version__}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command):
    told = output_of(command, "--help")
    assert "Examples" in told and f"keras-dyhead {command}" in told.split("Examples")[1]


@pytest.mark.parametrize("name", [[], ["dyhead_r50_atss_fpn_1x"]])
def test_output_that_cannot_be_written_is_one_message(name):
    command = [sys.executable, "-m", "keras_dyhead.cli", "recipes", *name]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr == "Error: [Errno 28] No space left on device\n"


def test_no_framework_prints_its_log():
    environment = {name: v for name, v in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-m", "keras_dyhead.cli", "convert", "list"]
    output = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert output.returncode == 0 and "AP" in output.stdout
    assert output.stderr == ""
