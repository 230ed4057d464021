"""Each side runs in a process of its own, so that its memory is its own: started here, and answered here.

    python bench/sides.py ours:train result.json < what.json

is what `run_side("ours:train", what)` starts.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Nothing is fetched, tokenizers start no threads beside those that are measured, and libraries keep to themselves.
_SURROUNDINGS = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}


def run_side(function: str, what: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
    """Call `module:function` of this folder with `what` in a new process and give what it returns.

    What it prints goes to standard error.

    Raises:
        RuntimeError: It failed; its own message stands on standard error.
        subprocess.TimeoutExpired: It took longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as folder:
        answer = Path(folder) / "result.json"
        command = [sys.executable, str(Path(__file__)), function, str(answer)]
        side = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            text=True,
            env={**os.environ, **_SURROUNDINGS},
            start_new_session=True,
        )
        try:
            side.communicate(json.dumps(what), timeout=timeout_s)
        finally:
            if side.poll() is None:
                os.killpg(side.pid, signal.SIGKILL)  # with what it has started itself, such as compilers
                side.wait()
        if side.returncode != 0:
            raise RuntimeError(f"{function} ended with status {side.returncode}; its own message stands above.")
        return dict(json.loads(answer.read_text(encoding="utf-8")))


def progress(text: str) -> None:
    """A line for whoever waits; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(json.load(sys.stdin))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
