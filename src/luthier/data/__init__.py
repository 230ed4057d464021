"""From a user's files to tasks: read, check, deduplicate, split, and look for leaks."""

from luthier.data.recognise import Recognised, recognise
from luthier.data.settings import LimitSettings, SplitNames, SplitSettings, SplitSources, TaskSettings
from luthier.data.task import load_task

__all__ = [
    "LimitSettings",
    "Recognised",
    "SplitNames",
    "SplitSettings",
    "SplitSources",
    "TaskSettings",
    "load_task",
    "recognise",
]
