"""`nearest`: the answer of the most similar known prompt, or what the most similar ones vote for (Cover and Hart 1967,
"Nearest neighbor pattern classification"). Nothing is trained, and no language model is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from luthier.prompt.similar import Neighbour, Reading, votes
from luthier.simple.known import known_in
from luthier.types import FOLDER, NAMED, Completion, Decoding, Predictor, Prompt, Tools

By = Literal["bm25", "embedding", "both"]


@dataclass(frozen=True, slots=True)
class Nearest(Predictor):
    """Copies the answer of the most similar known prompt.

    Attributes:
        known: Task → the folder of its known prompts.
        by: What similarity is: shared words, embeddings, or both.
        k: Known prompts that vote.
        embedder: As the study names it; not used by `bm25`.
        threshold: Below this confidence it gives no answer but `otherwise`; None where it always answers.
    """

    kind: ClassVar[str] = "nearest"

    known: Mapping[str, str] = field(metadata=FOLDER)
    by: By
    k: int
    embedder: str = field(metadata=NAMED)
    threshold: float | None = None
    otherwise: str = ""

    def declines(self, task: str) -> str:
        return "" if task in self.known else f"nearest copies answers to {', '.join(self.known)} alone"

    def answer(
        self, tools: Tools, prompts: Sequence[Prompt], labels: Sequence[str], advance: Callable[[int], None]
    ) -> list[Completion]:
        known = known_in(self.known[prompts[0].task])
        found = []
        for prompt, own in zip(prompts, known.neighbours(prompts, self.by, self.embedder, self.k, tools), strict=True):
            text, confidence = voted([known.answers[one.number] for one in own], own)
            kept_back = self.threshold is not None and confidence < self.threshold
            found.append(
                Completion(
                    prompt.id,
                    self.otherwise if kept_back else text,
                    prompt.messages,
                    0,
                    0,
                    "abstained" if kept_back else "copy",
                    confidence=confidence,
                )
            )
        advance(len(prompts))
        return found

    def serving(self, task: str, decoding: Decoding, target: str) -> Nearest:
        return replace(self, known={task: self.known[task]}) if task in self.known else self

    def export(self, folder: Path, tools: Tools) -> Nearest:
        """The known prompts, and the embedder."""
        ((task, known),) = self.known.items()
        shutil.copytree(known, folder / "known")
        moved = replace(self, known={task: str(folder / "known")})
        if self.by == "bm25":
            return moved
        shutil.copytree(tools.embedder(self.embedder).folder, folder / "embedder")
        return replace(moved, embedder=str(folder / "embedder"))

    def usage(self) -> str:
        ((_, known),) = self.known.items()
        return _usage(self, known_in(known).reading)


def _usage(nearest: Nearest, reading: Reading) -> str:
    """A program that gives the same answers, but for the ranking where words count."""
    lines, notes = ["import pandas"], []
    if nearest.by == "bm25":
        lines += [
            "import bm25s",
            "",
            'known = pandas.read_parquet("known/known.parquet")',
            "index = bm25s.BM25()",
            r'words = lambda texts: bm25s.tokenize(texts, token_pattern=r"\w+", return_ids=False, show_progress=False)',
            'index.index(words(list(known["text"])), show_progress=False)',
            'found = index.get_scores(words(["your question"])[0])',
            f"numbers = (-found).argsort(kind='stable')[:{nearest.k}]",
            "similarities = found[numbers]",
        ]
        notes.append("Luthier takes words as `luthier.words.terms` does, so that rankings may differ a little.")
    else:
        lines += [
            "from safetensors.numpy import load_file",
            "from sentence_transformers import SentenceTransformer",
            "",
            'known = pandas.read_parquet("known/known.parquet")',
            'vectors = load_file("known/vectors.safetensors")["vectors"]',
            'query = SentenceTransformer("embedder").encode("your question", normalize_embeddings=True)',
            f"numbers = (-(vectors @ query)).argsort(kind='stable')[:{nearest.k}]",
            "similarities = (vectors @ query)[numbers]",
        ]
        if nearest.by == "both":
            notes.append("Luthier puts the ranking by these vectors and one by words (BM25) together.")
    lines += [
        "votes = {}",
        "for number, similarity in zip(numbers, similarities):",
        '    answer = known["answer"][number]',
        "    count, total = votes.get(answer, (0, 0.0))",
        "    votes[answer] = count + 1, total + float(similarity)",
        "best = max(votes, key=votes.get)  # of equals the more similar",
        "print(best, votes[best][1] / len(numbers))",
    ]
    if reading.before or reading.behind:
        shared = json.dumps({"before": reading.before, "behind": reading.behind}, ensure_ascii=False)
        notes.append(f"What stands before and behind every question of the task is left out: `{shared}`.")
    if reading.earlier:
        notes.append("A question is all turns of its conversation, a line each.")
    if nearest.threshold is not None:
        notes.append(f"Below {nearest.threshold:g} the answer is `{nearest.otherwise}`.")
    return "\n\n".join(["```python\n" + "\n".join(lines) + "\n```", *notes])


def voted(answers: Sequence[str], neighbours: Sequence[Neighbour]) -> tuple[str, float]:
    """The answer that most neighbours give, of equals the more similar one; and how sure that is: the similarities of
    those that give it, as a share of all neighbours."""
    similarities = [one.similarity for one in neighbours]
    found = votes(answers, similarities)
    best = max(found, key=lambda answer: found[answer])  # of equals the first, which is the nearest
    return best, found[best][1] / len(neighbours)
