"""The notebook runs as it stands: each of its comparisons with a method's file is an assertion."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    cells = json.loads((ROOT / "notebooks" / "score_distillation.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum("assert_close" in cell for cell in code) == 3
    (tmp_path / "notebook.py").write_text("\n\n".join(code), encoding="utf-8")
    words = [sys.executable, str(tmp_path / "notebook.py")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "final.png" in done.stdout and done.stdout.count("largest difference") == 3
