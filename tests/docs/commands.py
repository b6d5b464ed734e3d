"""Checks shell commands on pages against their parsers without running them."""

import argparse
import configparser
import re
import runpy
import shlex
import sys

import typer
from docs.pages import ROOT

from keras_dyhead.cli import app


class ParsedError(Exception):
    """Stops an example after it has parsed its arguments."""


def check_commands(code, monkeypatch):
    """Raises an `AssertionError` for the first line that is not a command of this project."""
    for words in _lines(code):
        if not words or words[0] == "export":  # sets a variable
            continue
        if words[0] == "python" and words[1].startswith("examples/"):
            _check_example(words[1:], monkeypatch)
        elif words[:2] == ["python", "-m"]:
            _check_program(words[2:])
        else:
            check = {"keras-dyhead": _check_cli, "make": _check_make, "pip": _check_pip}
            assert words[0] in check, f"no way to check {words}: mark the block as not run"
            check[words[0]](words[1:])


def _lines(code):
    """Yields the words of each command; quoted text may span several lines."""
    text = ""
    for line in code.replace("\\\n", " ").splitlines():
        text += line
        try:
            yield shlex.split(text, comments=True)
            text = ""
        except ValueError:
            text += "\n"
    assert not text, f"an open quotation: {text}"


def _check_cli(words):
    """The command knows all options and arguments, and none is missing."""
    group = typer.main.get_command(app)
    if words == ["--help"] or words == ["--version"]:
        return
    assert words[0] in group.commands, f"there is no `keras-dyhead {words[0]}`"
    if words[0] == "train":  # which checks this by itself
        assert {"--out", "--print-config", "--help"} & set(words), f"no --out in {words}"
    _check_arguments(group.commands[words[0]], f"keras-dyhead {words[0]}", words[1:])


def _check_program(words):
    """Checks the command line of a program of `benchmarks`."""
    command = typer.main.get_command(runpy.run_module(words[0])["app"])
    _check_arguments(command, f"python -m {words[0]}", words[1:])


def _check_arguments(command, name, words):
    if "--help" in words:
        return
    context = command.context_class(command, info_name=name)
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest, f"`{name}` knows nothing to do with {rest}"
    missing = [p.name for p in command.params if p.required and not values.get(p.name)]
    assert not missing, f"`{name} {' '.join(words)}` lacks {missing}"


def _check_make(words):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words and set(words) <= set(targets), f"there is no `make {' '.join(words)}`"


def _check_pip(words):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert words[0] == "install", words
    for word in words[1:]:
        package = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
        assert package, f"`pip install {word}` installs no clone of this package"
        extras = package[1].split(",") if package[1] else []
        assert set(extras) <= set(config["options.extras_require"]), f"no such extra: {extras}"


def _check_example(words, monkeypatch):
    """Runs the script until it has parsed its arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser):
        parse(parser)
        raise ParsedError

    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    try:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    except ParsedError:
        return
    except SystemExit:
        raise AssertionError(f"`python {' '.join(words)}` does not take these arguments") from None
    raise AssertionError(f"{words[0]} reads no arguments")
