"""Every notebook runs from top to bottom and does what it promises.

All notebooks follow these conventions, which `test_files.py` checks:

- The first cell is Markdown with the title and what the reader learns. A code cell with all imports
  follows, then a code cell tagged `parameters`.
- The import cell sets `os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"` before importing TensorFlow, and
  ends with `%matplotlib inline` and `%config InlineBackend.print_figure_kwargs = {"dpi": 72}`
  (less if there are many figures). Figures without pyplot are not shown otherwise.
- Outputs have no stderr, no progress bars (`verbose=2` for `fit`, `verbose=0` elsewhere) and no
  absolute paths. `fit` gets `shuffle=False`, because `load_coco` shuffles and Keras would warn. A
  notebook that exports or uses a strategy calls `tf.get_logger().setLevel("ERROR")`.
- The cell tagged `parameters` has all sizes (images, image size, epochs, blocks) as plain
  assignments `NAME = literal`, with comments on how to scale up. Committed outputs and
  `make notebooks` use its values: minutes on two cores. Other code uses only the names.
- Files are written below `Path("runs/<name of the notebook>")`, which is deleted first. Nothing
  else is read except installed packages. `keras.utils.set_random_seed(SEED)` sets the seed.
- A figure is the last expression of its cell, so that it becomes an output. A sentence before it
  says what to look at. Every claim is computed and printed.
- Cells are short, and formatted and linted by ruff. The kernel is `python3`. A file with outputs is
  smaller than 600 kB. Outputs come only from `make notebooks`; nobody edits them.

The tests here insert a cell with the parameters of `quick_runs.py` after the one tagged
`parameters`, and execute the notebook in a temporary folder. They run eagerly, because tracing
would take most of the time.
"""

import sys

import nbformat
import pytest
from nbclient import NotebookClient
from notebooks.outputs import check_promises, text_of
from notebooks.quick_runs import FOLDER, QUICK_RUNS

pytestmark = pytest.mark.tensorflow


_WITHOUT_TRACING = """
import tensorflow as tf

tf.config.run_functions_eagerly(True)
"""


def insert_parameters(notebook, parameters):
    """Adds a cell that assigns the parameters after the one tagged `parameters`."""
    tagged = [
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", ())
    ]
    code = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(code + _WITHOUT_TRACING))


def execute(notebook, folder):
    """Executes a notebook in a folder with this interpreter."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],  # the log of C++ code
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


@pytest.fixture
def clean_environment(monkeypatch, tmp_path):
    """A kernel of this interpreter, without the kernels and settings of the user."""
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK_RUNS)
def test_a_notebook_runs_and_keeps_its_promises(name, tmp_path, clean_environment):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    insert_parameters(notebook, QUICK_RUNS[name].parameters)
    execute(notebook, tmp_path)
    check_promises(notebook, QUICK_RUNS[name])


def test_the_kernel_is_the_interpreter_of_the_tests(tmp_path, clean_environment):
    code = "import sys; print(sys.executable)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    execute(notebook, tmp_path)
    assert text_of(notebook).strip() == sys.executable
