"""A Python process that is asked in lines of JSON, as seen from outside."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO


class JsonProcess:
    """Starts with the first question, and anew with the first after it ended.

    Args:
        arguments: Those of Python. The program reads one JSON object per line and answers each
            with one.
        environment: Variables to set, beside those of this process.
        errors: Where its messages go, a file open for writing.

    Example:

    >>> program = "import sys; [print(line.strip(), flush=True) for line in sys.stdin]"
    >>> process = JsonProcess(["-c", program], {}, sys.stderr)
    >>> process.ask({"steps": 3})
    {'steps': 3}
    >>> process.close()
    """

    def __init__(self, arguments: Sequence, environment: Mapping[str, str], errors: IO):
        self._arguments = [sys.executable, *arguments]
        self._environment = os.environ | environment
        self._errors = errors
        self._process = None

    def ask(self, question: dict) -> dict:
        """Returns the answer to a question.

        Raises:
            ChildProcessError: If the process ends instead: with its exit status.
        """
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                env=self._environment,
            )
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise ChildProcessError(f"exit status {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
