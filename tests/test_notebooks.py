"""The notebooks run from top to bottom, at small size, and keep their outputs."""

import json
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_kept(file):
    cells = json.loads(file.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1)), "run it from top to bottom"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    text = json.dumps(outputs)
    assert "pictures of 8 classes are right" in text
    assert "Warning" not in text and "/home" not in text and "/var" not in text


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file, tmp_path, monkeypatch):
    nbformat, nbclient = map(pytest.importorskip, ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("FREE_JAX_NOTEBOOK_SMALL", "1")
    monkeypatch.setenv("FREE_JAX_NOTEBOOK_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("MODELS", raising=False)
    monkeypatch.delenv("XLA_FLAGS")  # Of the tests: eight devices.
    book = nbformat.read(file, as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=600, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()
    assert (tmp_path / "student.npz").exists()
