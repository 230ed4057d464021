"""What holds for the package as a whole: which way imports go, what is public, what a plain import loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import luthier

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_imports_go_one_way():
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


def test_public_names():
    assert luthier.__all__ == [
        "LuthierError",
        "RunResult",
        "Study",
        "build_study",
        "load_study",
        "open_run",
        "predict_rows",
        "run",
    ]
    assert all(getattr(luthier, name) is not None for name in luthier.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = luthier.no_such_name


@pytest.mark.parametrize("module", ["luthier", "luthier.cli", "luthier.study", "luthier.runner.main", "luthier.report"])
def test_importing_does_not_load_torch(module: str):
    heavy = "{'torch', 'transformers', 'peft', 'sentence_transformers', 'datasets', 'scipy', 'pandas'}"
    assert python(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"
