"""Code on the pages runs: every block, or the page says why not."""

import ast
import json
import shutil

import pytest
from docs.commands import check_commands
from docs.pages import PAGES, blocks_of, name_of
from docs.reader import VALUES, small_defaults, smaller, value_of, write_files

pytestmark = pytest.mark.tensorflow

SHELL = ("", "bash", "console", "sh")
OUTPUT = ("text",)
# Pages whose code takes long run in `make test-slow`.
LONG = ("checkpoints", "detectors", "evaluation", "getting-started", "visualization")
LONG += tuple(f"how-to/{name}" for name in ("export", "keras-cv", "own-data", "published-weights"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder with all that pages name."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        small_defaults(patch)
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
        known = block.language in (*SHELL, *OUTPUT, "python", "json")
        assert known or block.reason, f"{block}: what is {block.language!r}, and why is it not run?"
        if block.language == "json" and block.reason is None:
            json.loads(block.code)


def python_blocks(page):
    return [b for b in blocks_of(page) if b.language == "python" and b.reason is None]


def marks(page):
    return pytest.mark.slow if name_of(page) in [f"docs/{name}.md" for name in LONG] else ()


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=marks(p), id=name_of(p)) for p in PAGES if python_blocks(p)],
)
def test_python_blocks_of_a_page_run_one_after_the_other(page, files, tmp_path, monkeypatch):
    shutil.copytree(files, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    small_defaults(monkeypatch)
    namespace = {"__name__": "__main__"}
    for block in python_blocks(page):
        # The lines before it, empty, so that errors tell the line of the page.
        code = compile("\n" * (block.line - 1) + smaller(block.code), str(page), "exec")
        assumed = set(code.co_names) & set(VALUES) - set(namespace) - assigned(block.code)
        given = {name: value_of(name, block.code) for name in assumed}
        exec(code, namespace := namespace | given)
        namespace = {k: v for k, v in namespace.items() if v is not given.get(k, namespace)}


def assigned(code):
    """The names that code assigns to."""
    nodes = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(node.ctx, ast.Store)}


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
        "pip install 'keras-dyhead[none]'",
        "pip install something-else",
        "python examples/onnx_inference.py --wrong",
        "curl http://localhost",
    ],
)
def test_a_wrong_command_is_found(command, monkeypatch):
    with pytest.raises(Exception, match=r"\w"):
        check_commands(command, monkeypatch)
