"""The notebook, run from the first to the last cell, and what the interrupt button does."""

import shutil
import time

import pytest

from engine import provenance

nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel of requirements-dev.txt")
nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel of requirements-dev.txt")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel of requirements-dev.txt")

NOTEBOOK = nbformat.read(provenance.ROOT / "notebook.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
KEPT = (
    "interrupted: finished runs are kept, and unfinished runs up to their last checkpoint, if there is one; the same "
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Copy the project, because the notebook writes its runs and its report beside itself."""
    folder = tmp_path_factory.mktemp("notebook") / "project"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "data", "runs*", "report", "*.zip")
    return shutil.copytree(provenance.ROOT, folder, ignore=left_out)


def text_of(cell):
    """Join what a cell has printed on stdout and stderr."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_the_notebook_is_short_and_stored_without_output():
    nbformat.validate(NOTEBOOK)
    assert len(CODE) == 4
    assert all(cell.outputs == [] and cell.source.count("\n") < 12 for cell in CODE)


def test_every_cell_runs_where_the_project_is(project):
    notebook = nbformat.from_dict(NOTEBOOK)
    nbclient.NotebookClient(notebook, timeout=300, resources=dict(metadata=dict(path=project))).execute()
    first, trained, reported, figures = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.outputs == []  # the project was not fetched again
    assert "15/15" in text_of(trained)  # the bar
    assert text_of(trained).count("test accuracy") == 15
    assert "written to report/report.md and report/report.html" in text_of(reported)
    (page,) = (output.data["text/html"] for output in reported.outputs if output.output_type == "execute_result")
    assert "What was found" in page
    assert len(figures.outputs) == len(list((project / "report" / "figures").glob("*.png"))) > 3
    assert all("image/png" in output.data for output in figures.outputs)


class Kernel:
    """A notebook's kernel, which answers one cell after the other."""

    def __init__(self, folder):
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(cwd=str(folder))

    def run(self, code, interrupt_at=None):
        """Run a cell, interrupt it when it prints a text, and return what it printed and its error, if any."""
        started, printed, error = self.client.execute(code), "", None
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            message = self.client.get_iopub_msg(timeout=30)
            if message["parent_header"].get("msg_id") != started:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
                if interrupt_at and interrupt_at in printed:
                    self.manager.interrupt_kernel()
                    interrupt_at = None
            elif kind == "error":
                error = content
            elif kind == "status" and content["execution_state"] == "idle":
                return printed, error
        raise TimeoutError(printed)


@pytest.fixture(scope="module")
def kernel(project):
    """Start a kernel in which the first cell was run."""
    kernel = Kernel(project)
    kernel.run(CODE[0].source)
    kernel.run("import train, report")
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_interrupt_button_ends_the_cell_with_one_line_and_the_next_cell_trains(processes, kernel):
    settings = f"--dataset mnist_sample --runs-dir runs-{processes} --epochs"
    seeds = f"--runs-at-once 2 --jobs {processes} --seeds 0-{2 * processes - 1}"
    printed, error = kernel.run(f"train.main('{settings} 100000 {seeds}'.split())", interrupt_at=", validation ")
    assert error["traceback"] == [f"{KEPT}command resumes them"]
    assert "Traceback" not in printed
    assert "Warning" not in printed
    printed, error = kernel.run(f"train.main('{settings} 1 {seeds}'.split())")
    assert (error, printed.count("test accuracy")) == (None, 2 * processes)


def test_a_mistake_is_a_line_in_a_notebook_too(kernel):
    for code, line in (
        ("train.main(['--epochs', '0'])", "train.py: error: --epochs 0: expected a whole number, at least 1"),
        ("train.main(['--colour'])", "train.py: error: unrecognized arguments: --colour"),
        ("report.main(['--runs-dir', 'none'])", "report.py: error: none: there is no such folder; train one: "),
    ):
        printed, error = kernel.run(code)
        assert printed == ""
        (said,) = error["traceback"]
        assert said.startswith(line)
