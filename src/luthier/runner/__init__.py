"""From a study to a run folder, and what one does with it afterwards."""

from luthier.runner.main import RunResult, run
from luthier.runner.prepare import Prepared, prepare

__all__ = ["Prepared", "RunResult", "prepare", "run"]
