"""The study: what is to be compared, typed, from a file or from Python."""

from luthier.study.quick import QuickStudy, quick_study
from luthier.study.schema import (
    Approach,
    ForgettingSettings,
    RevisionSettings,
    Study,
    build_study,
    load_study,
    study_as_json,
)

__all__ = [
    "Approach",
    "ForgettingSettings",
    "QuickStudy",
    "RevisionSettings",
    "Study",
    "build_study",
    "load_study",
    "quick_study",
    "study_as_json",
]
