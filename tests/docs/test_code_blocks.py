"""All code on pages runs as printed, or the page says why not."""

import ast
import importlib
import json
import shutil
import subprocess
import sys

import pytest
from docs.commands import check_commands
from docs.pages import PAGES, ROOT, blocks_of, name_of
from docs.reader import write_files, write_published_files

pytestmark = pytest.mark.tensorflow

SHELL = ("", "bash", "sh")
OTHER = ("json", "python", "text")
QUICK = ("concepts", "how-to/own-detector", "index", "input", "training")
"""Pages whose code runs in seconds; `make test-slow` runs the others."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with all files that pages use."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_have_the_options_that_pages_give_them(page, monkeypatch):
    for block in blocks_of(page):
        if block.language in SHELL and block.reason is None:
            with monkeypatch.context() as patch:
                check_commands(block.code, patch)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_that_no_test_can_run_say_why(page):
    for block in blocks_of(page):
        known = block.language in (*SHELL, *OTHER)
        assert known or block.reason, f"{block}: what is {block.language!r}, and why is it not run?"
        if block.language == "json" and block.reason is None:
            json.loads(block.code)


def python_blocks(page):
    return [block for block in blocks_of(page) if block.language == "python"]


def test_code_uses_only_names_that_the_page_has_defined(tmp_path):
    """Includes blocks that are not run; each page is one program."""
    for page in PAGES:
        name = name_of(page).replace("/", "_").replace("-", "_")
        code = "\n".join(block.code for block in python_blocks(page))
        (tmp_path / name).with_suffix(".py").write_text(code)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    found = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert not found.returncode, found.stdout


def test_imported_names_exist():
    for page in PAGES:
        for block in python_blocks(page):
            for node in ast.walk(ast.parse(block.code)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_dyhead"):
                    module = importlib.import_module(node.module)
                    missing = [name.name for name in node.names if not hasattr(module, name.name)]
                    assert not missing, f"{block}: {node.module} has no {missing}"


def pages_with_python():
    pages = [page for page in PAGES if any(block.reason is None for block in python_blocks(page))]
    quick = [ROOT / "docs" / f"{name}.md" for name in QUICK]
    marks = [() if page in quick else pytest.mark.slow for page in pages]
    return [pytest.param(p, marks=m, id=name_of(p)) for p, m in zip(pages, marks, strict=True)]


@pytest.mark.parametrize("page", pages_with_python())
def test_python_blocks_of_a_page_run_one_after_the_other(page, files, tmp_path, monkeypatch):
    shutil.copytree(files, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    if any(".pth" in block.code for block in python_blocks(page)):
        write_published_files(tmp_path / "files")
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "files"))
    namespace = {"__name__": "__main__"}
    for block in python_blocks(page):
        if block.reason is None:
            # Empty lines before the code, so that errors have the line number of the page.
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)


def test_a_mark_needs_a_reason_and_must_stand_just_before_its_block(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs the network -->\n\n```python\na\n```\n"
        "<!-- not run: -->\n```python\nb\n```\n"
        "<!-- not run: far away -->\ntext\n```python\nc\n```\n"
        "- item\n\n  ```bash\n  d \\\n    e\n  ```\n"
    )
    found = [(block.line, block.language, block.code, block.reason) for block in blocks_of(page)]
    assert found == [
        (4, "python", "a", "needs the network"),
        (8, "python", "b", None),
        (13, "python", "c", None),
        (18, "bash", "d \\\n  e", None),
    ]


@pytest.mark.parametrize(
    "command",
    [
        "keras-dyhead train --images x --annotations y --out z --no-such-option 1",
        "keras-dyhead train --images x --out z",
        "keras-dyhead detect x",
        "make dinner",
        "pip install '.[none]'",
        "pip install 'keras-dyhead[kerascv]'",
        "pip install something-else",
        "python examples/onnx_inference.py --wrong",
        "curl http://localhost",
    ],
)
def test_a_wrong_command_is_found(command, monkeypatch):
    with pytest.raises(Exception, match=r"\w"):
        check_commands(command, monkeypatch)
