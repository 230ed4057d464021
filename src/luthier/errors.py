"""Every error that Luthier raises on purpose.

    LuthierError
    ├── StudyError        the study file: unknown key, contradiction, bad override
    ├── DataError         a data file, a row, a split, a duplicate
    │   ├── CodeRefused   the study names Python code and the user has not allowed it
    │   └── TooLong       a prompt, with its answer, is longer than the model's window
    ├── ModelError        a model that cannot be found, read, or used for what was asked
    ├── TrainingError     a non-finite loss, an example with nothing to train on
    ├── RetrievalError    an index that is missing, damaged, in use, or made for another embedder
    ├── EvaluationError   a metric that cannot be computed from what is there
    └── RunError          a run folder that is missing, incomplete, or in use

A message says what was found, where, what was expected and what to do.
"""

from __future__ import annotations


class LuthierError(Exception):
    """Base of all errors that a user can act on; the command line prints it without a traceback."""


class StudyError(LuthierError):
    """The study file is wrong."""


class DataError(LuthierError):
    """The data are wrong, or not as the study says."""


class CodeRefused(DataError):
    """The study names Python code to run, and the user has not allowed code."""


class TooLong(DataError):
    """A prompt, with room for its answer, does not fit in the model's window.

    Attributes:
        prompt_id: Of the prompt.
        why: What is too long, and what to do.
    """

    def __init__(self, prompt_id: str, why: str) -> None:
        super().__init__(f"{prompt_id}: {why}")
        self.prompt_id = prompt_id
        self.why = why


class ModelError(LuthierError):
    """A model cannot be found, read, or used for what was asked."""


class TrainingError(LuthierError):
    """Training cannot start or go on."""


class RetrievalError(LuthierError):
    """An index cannot be used for what was asked."""


class EvaluationError(LuthierError):
    """A score cannot be computed from what is there."""


class RunError(LuthierError):
    """A run folder is missing, incomplete, or in use."""
