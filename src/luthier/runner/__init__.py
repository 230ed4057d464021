"""From a study to a run folder, and what one does with it afterwards."""

from luthier.runner.main import Prepared, RunResult, prepare, run

__all__ = ["Prepared", "RunResult", "prepare", "run"]
