"""Committed notebooks follow the conventions that `test_notebooks.py` lists."""

import ast
import re
import subprocess
import sys

import nbformat
import pytest
from docs.commands import check_commands
from docs.pages import blocks_of
from notebooks.outputs import check_promises, outputs_of, text_of
from notebooks.quick_runs import FOLDER, QUICK_RUNS

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
_PLACE = re.compile(r"(?<![\w.])/(work|tmp|root|home|usr|var|Users)/")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook):
    """Names and values of the cell tagged `parameters`, which must be the second code cell."""
    cells = code_cells(notebook)
    tagged = ["parameters" in cell.metadata.get("tags", ()) for cell in cells]
    assert [number for number, tag in enumerate(tagged) if tag] == [1]
    values = {}
    for statement in ast.parse(cells[1].source).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    return values


def test_every_notebook_has_a_quick_run():
    assert [path.stem for path in NOTEBOOKS] == sorted(QUICK_RUNS)


def test_it_is_a_valid_notebook_for_the_kernel_of_every_python(path, notebook):
    nbformat.validate(notebook)
    assert notebook.nbformat == 4 and notebook.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < 600_000


def test_it_begins_with_a_title_imports_and_parameters(path, notebook):
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    imports = code_cells(notebook)[0].source
    assert 'os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"' in imports
    assert imports.splitlines()[-2] == "%matplotlib inline"
    defined = parameters(notebook)
    assert defined and all(name.isupper() for name in defined)
    assert set(QUICK_RUNS[path.stem].parameters) <= set(defined)


def test_it_was_executed_from_top_to_bottom_without_noise(path, notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any("execution" in cell.metadata for cell in cells)  # times of day
    for output in outputs_of(notebook):
        assert output.output_type != "error" and output.get("name") != "stderr", output
        text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        assert not _PLACE.search(text) and not set("\r\b\x1b") & set(text), text


def test_its_committed_outputs_keep_its_promises(path, notebook):
    check_promises(notebook, QUICK_RUNS[path.stem])


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=lambda words: words[0])
def test_ruff_finds_nothing(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", *map(str, NOTEBOOKS)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_and_commands_in_its_text_exist(path, notebook, tmp_path, monkeypatch):
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\((?!https://)([^)#]*)", text):
        assert (FOLDER / link).exists(), link
    for name in re.findall(r"`(\d\d_\w+\.ipynb|examples/\w+\.py)`", text):
        assert (FOLDER / name).exists() or (FOLDER.parent / name).exists(), name
    page = tmp_path / "text.md"
    page.write_text(text, "utf-8")
    for block in blocks_of(page):
        assert block.language == "bash", block.code
        with monkeypatch.context() as patch:
            check_commands(block.code, patch)


def test_the_quickstart_shows_a_detector_that_has_learned():
    notebook = nbformat.read(FOLDER / "01_quickstart.ipynb", as_version=nbformat.NO_CONVERT)
    assert float(re.search(r"^AP50  (\d\.\d+)$", text_of(notebook), re.MULTILINE)[1]) > 0.8
