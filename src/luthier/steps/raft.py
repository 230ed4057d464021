"""How passages stand in the prompts that a generator learns from (RAFT; Zhang et al. 2024)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from luthier.errors import DataError
from luthier.prompt.passages import right_ones, wrong_ones
from luthier.settings import Settings
from luthier.types import Example, Grounding, PromptedModel

if TYPE_CHECKING:
    from luthier.infer.engine import Engine

# So far down the ranking distractors are looked for.
_DEPTH = 20


class Raft(Settings):
    """The right passage among distractors, in a share of the prompts; distractors alone in the others."""

    right: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of the prompts that show the right passage (the paper's P; it found 60 to 100% best, by data set)."""
    distractors: Annotated[int, Field(ge=0)] = 2
    """Wrong passages beside it: those that the predictor's own search ranks highest. Where it is not shown there is one
    more of them."""
    otherwise: Literal["answer", "absent"] = "answer"
    """What is learned where the right passage is not shown: the answer all the same, as in the paper, or to say that it
    is not in the documents. Of examples whose right passage is not known the answer is always learned."""

    def grounded(
        self, predictor: PromptedModel, examples: Sequence[Example], engine: Engine, seed: int
    ) -> tuple[list[Example], list[Grounding]]:
        """The examples with the answers to be learned, and the passages to be shown with each.

        An example whose right passage is not known keeps its answer, and is shown what search ranks highest.

        Raises:
            DataError: Of no example a right passage is known.
        """
        retrieval = predictor.retrieval
        assert retrieval is not None, "whether there is retrieval is checked before"
        deep = replace(predictor, retrieval=replace(retrieval, k=max(_DEPTH, retrieval.k)))
        ranked = [own.passages for own in engine.ground(deep, [e.prompt for e in examples]) if own is not None]
        by_document = engine.documents_of(retrieval)
        taught, grounds, known = [], [], 0
        for example, found in zip(examples, ranked, strict=True):
            draw = random.Random(f"{seed}/{example.id}")
            rights = right_ones(example, found, by_document)
            known += bool(rights)
            wrong = wrong_ones(example, found, rights)
            with_right = draw.random() < self.right
            # One more where the right one is not shown, or the number of passages would tell whether it is.
            shown = [rights[0], *wrong[: self.distractors]] if rights and with_right else wrong[: self.distractors + 1]
            if retrieval.order != "document":
                draw.shuffle(shown)  # the right one stands anywhere
            absent = self.otherwise == "absent" and bool(rights) and not with_right
            taught.append(replace(example, completion=retrieval.absent) if absent else example)
            grounds.append(Grounding(retrieval, tuple(shown)))
        if examples and not known:
            raise DataError(
                f"passages: of none of the {len(examples)} training examples a right passage is known: none of their "
                "answers stands in a passage word for word, and no column names one. Name a column with `relevant` or "
                "`evidence`, or leave `passages` out."
            )
        return taught, grounds
