"""Runs commands in this process."""

from typer.testing import CliRunner

from keras_dyhead.cli import app


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def output_of(*arguments):
    """Returns the output of a command that must succeed, on one line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def complaint(*arguments):
    """Returns the message of a command that must fail with exit code 2 and no traceback."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.output.replace("│", " ").split())
