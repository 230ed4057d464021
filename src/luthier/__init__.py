"""Luthier adapts a language model to a task and measures which way of adapting it is worth having.

import luthier

study = luthier.load_study("studies/quickstart.yaml")
result = luthier.run(study, "runs/quickstart", root="studies")
print(result.verdict)
result.frame()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from luthier.errors import LuthierError
    from luthier.runner.main import RunResult, run
    from luthier.runner.open import open_run
    from luthier.runner.predict import predict_rows
    from luthier.study import Study, build_study, load_study

# Where the public names live; they are imported when first used, so that `import luthier` stays quick.
_HOMES = {
    "LuthierError": "luthier.errors",
    "RunResult": "luthier.runner.main",
    "Study": "luthier.study",
    "build_study": "luthier.study",
    "load_study": "luthier.study",
    "open_run": "luthier.runner.open",
    "predict_rows": "luthier.runner.predict",
    "run": "luthier.runner.main",
}

__all__ = [
    "LuthierError",
    "RunResult",
    "Study",
    "build_study",
    "load_study",
    "open_run",
    "predict_rows",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
