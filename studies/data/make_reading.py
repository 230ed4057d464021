"""Cut XQuAD's English part into paragraphs to learn reading on and others to be tested on, in SQuAD's form.

    python studies/data/make_reading.py path/to/xquad.en.json studies/data/reading

An article's paragraphs stand on one side of the split, by the same draw as make_xquad.py. Ids and places of answers are
left out.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

SEED, TEST_ARTICLES = 0, 18


def main(source: Path, folder: Path) -> None:
    articles = sorted(json.loads(source.read_text(encoding="utf-8"))["data"], key=lambda own: own["title"].lower())
    drawn = random.Random(SEED).sample(articles, len(articles))
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "test.json", drawn[:TEST_ARTICLES])
    write(folder / "train.json", drawn[TEST_ARTICLES:])


def write(file: Path, articles: Sequence[dict]) -> None:
    found = [
        {
            "title": article["title"],
            "paragraphs": [
                {
                    "context": paragraph["context"],
                    "qas": [
                        {"question": qa["question"].strip(), "answer": qa["answers"][0]["text"]}
                        for qa in paragraph["qas"]
                    ],
                }
                for paragraph in article["paragraphs"]
            ],
        }
        for article in articles
    ]
    file.write_text(json.dumps({"data": found}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
