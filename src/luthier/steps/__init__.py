"""The steps that an approach is made of. A new step is a module here and a member of `AnyStep`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from luthier.steps.classifier import ClassifierStep
from luthier.steps.few_shot import FewShotStep
from luthier.steps.interpolate import InterpolateStep
from luthier.steps.merge import MergeStep
from luthier.steps.nearest import NearestStep
from luthier.steps.pretrain import PretrainStep
from luthier.steps.prompt import PromptStep
from luthier.steps.rag import RagStep
from luthier.steps.reranker import RerankerStep
from luthier.steps.retriever import RetrieverStep
from luthier.steps.route import RouteStep
from luthier.steps.rule import RuleStep
from luthier.steps.sft import SftStep

AnyStep = Annotated[
    PromptStep
    | FewShotStep
    | NearestStep
    | ClassifierStep
    | RuleStep
    | RagStep
    | RetrieverStep
    | RerankerStep
    | SftStep
    | PretrainStep
    | InterpolateStep
    | MergeStep
    | RouteStep,
    Field(discriminator="step"),
]

__all__ = [
    "AnyStep",
    "ClassifierStep",
    "FewShotStep",
    "InterpolateStep",
    "MergeStep",
    "NearestStep",
    "PretrainStep",
    "PromptStep",
    "RagStep",
    "RerankerStep",
    "RetrieverStep",
    "RouteStep",
    "RuleStep",
    "SftStep",
]
