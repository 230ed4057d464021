"""How well passages are found: by words, by vectors and by both, before and after training, and ordered anew."""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import outcome

NAME = "retrieval_quality"
EMBEDDER = "minilm-l6"
SEED, K, DEPTH = 0, 5, 20
MOST_TRAINING = 150  # questions, so that it takes an hour and not four
SETS = ("xquad_en", "chunking_eval", "covid_question_similarity")


def parser() -> argparse.ArgumentParser:
    found = outcome.options(__doc__, NAME)
    found.add_argument(
        "--data", type=Path, default=os.environ.get("LUTHIER_DATA"), help="the folder of data sets (or LUTHIER_DATA)"
    )
    return found


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents and questions on them; training sees `train` and `validation`, and `test` is measured."""

    documents: list[Any]
    chunks: Any
    train: list[Any]
    validation: list[Any]
    test: list[Any]
    about: str


def measure(*, quick: bool, data: Path) -> dict[str, Any]:
    from luthier.quiet import quiet

    quiet()
    rows = [["set", "search", f"recall@{K}", "nDCG@10", "nDCG@10 beside the same untrained"]]
    untrained = [["set", "questions", "search", f"recall@{K}", "nDCG@10"]]
    found: dict[str, Any] = {}
    notes = []
    for name in SETS[:1] if quick else SETS:
        collection = _SETS[name](data / name)
        sides, every, facts = _searches(collection, quick=quick)
        found[name] = {side: {m: list(v.values()) for m, v in own.items()} for side, own in sides.items()}
        rows += [[name, side, *_cells(own, sides.get(_BEFORE.get(side, "")))] for side, own in sides.items()]
        untrained += [[name, f"{len(own['ndcg@10']):,}", side, *_cells(own, None)[:2]] for side, own in every.items()]
        notes.append(f"{name}: {collection.about}; {facts}.")
    return {
        "benchmark": NAME,
        "tables": {
            "right passages found on questions kept apart, with 95% intervals": rows,
            "the same before any training, on all questions": untrained,
        },
        "means": {
            name: {side: {m: float(np.mean(v)) for m, v in own.items()} for side, own in sides.items()}
            for name, sides in found.items()
        },
        "notes": [
            *notes,
            f"Embedder {EMBEDDER}; hybrid is reciprocal-rank fusion (k = 60). Trained: multiple-negatives ranking with "
            f"2 hard negatives, at most {MOST_TRAINING} questions and 3 epochs, the best on validation kept, the "
            "untrained one where none is better. The reranker is the embedder's body with a new head, trained on the "
            f"same questions, and orders the {DEPTH} best of the trained hybrid search. Differences are paired over "
            "the questions (bootstrap BCa).",
        ],
        **outcome.frame(quick),
    }


_BEFORE = {"dense, trained": "dense", "hybrid, trained": "hybrid", "hybrid, trained, reranked": "hybrid, trained"}


Sides = dict[str, dict[str, dict[str, float]]]


def _searches(collection: Collection, *, quick: bool) -> tuple[Sides, Sides, str]:
    """Search → measure → question → value, on the test questions, and without training on all; and what the trainings
    came to."""
    import torch

    from luthier.model.embed import SentenceEmbedder
    from luthier.model.find import find_embedder
    from luthier.model.rerank import CrossReranker
    from luthier.model.sentence_trainer import TuningSettings
    from luthier.retrieve.index import create
    from luthier.retrieve.library import reranked
    from luthier.retrieve.pairs import judged, mine
    from luthier.retrieve.tuning import tune_embedder, tune_reranker
    from luthier.steps.search_tuning import mean_ndcg, ordering_score, ranking_score

    torch.manual_seed(SEED)
    train = collection.train[: 60 if quick else MOST_TRAINING]
    epochs = 1 if quick else 3
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as name:
        work = Path(name)
        base = SentenceEmbedder(EMBEDDER, find_embedder(EMBEDDER, Path()), "cpu")
        index = create(work / "index", base, collection.chunks)
        index.add(collection.documents)
        kinds = {"BM25": "lexical", "dense": "dense", "hybrid": "hybrid"}
        sides = {side: _ranked(collection.test, index, kind) for side, kind in kinds.items()}
        everything = [*collection.train, *collection.validation, *collection.test]
        every = {side: _ranked(everything, index, kind) for side, kind in kinds.items()}

        mined = mine(train, index, query=None, negatives=2, margin=0.95, seed=SEED)
        right, _ = judged(collection.validation, index, None, "dense")
        asked = {example.id: example.prompt.messages[-1].content for example in collection.validation}
        settings = TuningSettings(epochs, 32, 5e-5, 0.1, SEED, "cpu")
        tuned = tune_embedder(
            find_embedder(EMBEDDER, Path()),
            mined.pairs,
            settings,
            work / "retriever",
            ranking_score(index, right, asked),
        )
        own, trained = index, base
        if tuned.kept:
            trained = SentenceEmbedder("trained", work / "retriever", "cpu")
            own = create(work / "trained", trained, collection.chunks)
            own.add(collection.documents)
        sides["dense, trained"] = _ranked(collection.test, own, "dense")
        sides["hybrid, trained"] = _ranked(collection.test, own, "hybrid")

        pairs = mine(train, own, query=None, negatives=2, margin=0.95, kind="hybrid", seed=SEED).pairs
        right, ranking = judged(collection.validation, own, None, "hybrid")
        found = {question: ids[:DEPTH] for question, ids in ranking.items()}
        before = mean_ndcg(right, found)
        ordered = tune_reranker(
            work / "retriever" if tuned.kept else find_embedder(EMBEDDER, Path()),
            pairs,
            settings,
            work / "reranker",
            ordering_score(own, right, asked, found),
            without=0.0,  # the best of its epochs is measured, also where a study would not use it
        )
        queries = [example.prompt.messages[-1].content for example in collection.test]
        hits = reranked(
            CrossReranker(work / "reranker", "cpu"), queries, own.search_all(queries, DEPTH, "hybrid"), DEPTH
        )
        sides["hybrid, trained, reranked"] = _values(collection.test, own, hits)
    facts = (
        f"{len(mined.pairs)} pairs, validation nDCG@10 (dense) by epoch {_written(tuned.scores)}, epoch {tuned.kept} "
        "kept; "
        f"reranker (hybrid) {before:.3f} without, {_written(ordered.scores[1:])} by epoch, so that a study would "
        + ("use it" if max(ordered.scores) > before else "use none")
    )
    return sides, every, facts


def _written(scores: Sequence[float]) -> str:
    return " → ".join(f"{score:.3f}" for score in scores)


def _ranked(examples: Sequence[Any], index: Any, kind: str) -> dict[str, dict[str, float]]:
    hits = index.search_all([example.prompt.messages[-1].content for example in examples], DEPTH, kind)
    return _values(examples, index, hits)


def _values(examples: Sequence[Any], index: Any, hits: Sequence[Sequence[Any]]) -> dict[str, dict[str, float]]:
    from luthier.evaluate.ranking import ranking_values
    from luthier.prompt.passages import right_ones

    right = {e.id: {passage.id for passage in right_ones(e, (), index.by_document)} for e in examples}
    ranking = {e.id: [hit.passage.id for hit in own] for e, own in zip(examples, hits, strict=True)}
    return ranking_values({own: ids for own, ids in right.items() if ids}, ranking, K)


def _cells(own: Mapping[str, Mapping[str, float]], before: Mapping[str, Mapping[str, float]] | None) -> list[str]:
    from luthier.evaluate.statistics import bootstrap_interval, paired_difference

    cells = []
    for measure in (f"recall@{K}", "ndcg@10"):
        found = bootstrap_interval(list(own[measure].values()), SEED, bounded=True)
        cells.append(f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]")
    if before is None:
        return [*cells, ""]
    a, b = (np.array([side["ndcg@10"][q] for q in own["ndcg@10"]]) for side in (own, before))
    if (a == b).all():
        return [*cells, "the same"]
    change = paired_difference(a, b, False, seed=SEED, bounded=True)
    return [*cells, f"{change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"]


def _xquad(folder: Path) -> Collection:
    """Every paragraph a passage; articles stand on one side."""
    from luthier.retrieve.documents import Document
    from luthier.retrieve.passages import ChunkSettings

    articles = json.loads((folder / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    documents, sides = [], ([], [])  # type: ignore[var-annotated]
    first = set(random.Random(SEED).sample(range(len(articles)), len(articles) // 2))
    for number, article in enumerate(articles):
        title = article["title"].replace("_", " ")
        for place, paragraph in enumerate(article["paragraphs"]):
            name = f"{number}-{place}"
            documents.append(Document(name, title, paragraph["context"]))
            sides[number not in first].extend(
                _example(qa["id"], qa["question"], qa["answers"][0]["text"], [name]) for qa in paragraph["qas"]
            )
    return _collection(
        documents,
        ChunkSettings(tokens=4000, overlap=0),
        *sides,
        f"{len(documents)} paragraphs, {len(sides[1])} test questions on 24 articles that nothing trained on",
    )


def _chunking(folder: Path) -> Collection:
    """Three corpora in passages of the default size; right is what holds at least half of a reference."""
    from luthier.retrieve.documents import Document
    from luthier.retrieve.passages import ChunkSettings

    files = {file.stem: file for file in sorted((folder / "corpora").glob("*.md"))}
    documents = [Document(file.name, stem, file.read_text(encoding="utf-8")) for stem, file in files.items()]
    examples, left_out = [], 0
    with open(folder / "questions_df.csv", newline="", encoding="utf-8") as handle:
        for number, row in enumerate(csv.DictReader(handle)):
            if row["corpus_id"] in files:
                evidence = [own["content"] for own in json.loads(row["references"])]
                name = files[row["corpus_id"]].name
                examples.append(_example(str(number), row["question"], evidence[0], [name], evidence))
            else:
                left_out += 1
    random.Random(SEED).shuffle(examples)
    half = len(examples) // 2
    return _collection(
        documents,
        ChunkSettings(),
        examples[:half],
        examples[half:],
        f"{len(examples) - half} test questions on {len(documents)} corpora, passages of 200 tokens; right is one "
        f"with at least half of a reference; {left_out} questions on corpora that the set lacks are left out",
    )


def _covid(folder: Path) -> Collection:
    """A question finds its paraphrase among the second questions of all pairs."""
    from luthier.retrieve.documents import Document
    from luthier.retrieve.passages import ChunkSettings

    with open(folder / "eval_question_similarity_en.csv", newline="", encoding="utf-8") as handle:
        pairs = [
            (row["question_1"].strip(), row["question_2"].strip(), row["similar"]) for row in csv.DictReader(handle)
        ]
    names = {text: f"q{number}" for number, text in enumerate(dict.fromkeys(second for _, second, _ in pairs))}
    right: dict[str, list[str]] = {}
    for one, other, similar in pairs:
        if similar == "1":
            right.setdefault(one, []).append(names[other])
    examples = [_example(str(number), one, one, own) for number, (one, own) in enumerate(right.items())]
    random.Random(SEED).shuffle(examples)
    half = len(examples) // 2
    return _collection(
        [Document(name, "", text) for text, name in names.items()],
        ChunkSettings(headings=False),
        examples[:half],
        examples[half:],
        f"{len(names)} questions to be found, {len(examples) - half} test questions",
    )


_SETS: Mapping[str, Callable[[Path], Collection]] = {
    "xquad_en": _xquad,
    "chunking_eval": _chunking,
    "covid_question_similarity": _covid,
}


def _collection(documents: list[Any], chunks: Any, learned: list[Any], test: list[Any], about: str) -> Collection:
    cut = max(10, len(learned) // 6)
    random.Random(SEED).shuffle(learned)
    return Collection(documents, chunks, learned[cut:], learned[:cut], test, about)


def _example(key: str, question: str, answer: str, documents: list[str], evidence: Sequence[str] = ()) -> Any:
    from luthier.types import Example, Message, Place, Prompt, Relevance

    prompt = Prompt(key, "search", (Message("user", re.sub(r"\s+", " ", question)),), {}, key)
    return Example(prompt, answer, (answer,), None, Place("data"), Relevance(tuple(documents), tuple(evidence)))


def main(given: argparse.Namespace) -> None:
    if given.data is None or not Path(given.data).is_dir():
        raise SystemExit("the data sets are not there; give their folder with --data, or in LUTHIER_DATA")
    outcome.finish(measure(quick=given.quick, data=Path(given.data)), given)


if __name__ == "__main__":
    main(parser().parse_args())
